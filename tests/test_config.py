import base64
import os
from pathlib import Path

import pytest

from probity import config
from probity.config import ConfigError, load

KEY = base64.b64encode(os.urandom(32)).decode()


def an_environment(**changes: str) -> dict[str, str]:
    return {
        "DATABASE_URL": "postgresql://probity_app@/p",
        "DATABASE_SYSTEM_URL": "postgresql://probity_system@/p",
        "PROBITY_MASTER_KEYS": KEY,
        "SB_JWT_SECRET": KEY,
    } | changes


def test_defaults_are_enough_once_the_database_and_keys_are_named() -> None:
    loaded = load(an_environment())

    assert (loaded.http.port, loaded.http.trusted_proxies, loaded.is_production) == (8484, (), True)


def test_all_wrong_settings_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load({"PROBITY_PORT": "70000", "PROBITY_PUBLIC_URL": "ftp://x", "SB_JWT_TOKEN_TTL": "soon", "SB_ENV": "prod"})

    named = "\n".join(caught.value.problems)
    for name in (
        "PROBITY_PORT",
        "PROBITY_PUBLIC_URL",
        "SB_JWT_TOKEN_TTL",
        "SB_ENV",
        "DATABASE_URL",
        "PROBITY_MASTER_KEYS",
        "SB_JWT_SECRET",
    ):
        assert name in named


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "url"
    path.write_text("postgresql://file@/p\n")
    environment = an_environment(DATABASE_URL_FILE=str(path))
    del environment["DATABASE_URL"]

    assert load(environment).database.url.reveal() == "postgresql://file@/p"


def test_an_unreadable_secret_file_is_named() -> None:
    environment = an_environment(SMTP_URL_FILE="/nowhere")

    with pytest.raises(ConfigError, match="SMTP_URL_FILE"):
        load(environment)


@pytest.mark.parametrize("key", ["k" * 32, base64.b64encode(bytes(32)).decode()])
def test_production_refuses_development_keys(key: str) -> None:
    with pytest.raises(ConfigError, match="SB_JWT_SECRET is a development key"):
        load(an_environment(SB_JWT_SECRET=key))

    assert load(an_environment(SB_JWT_SECRET=key, SB_ENV="dev")).keys.jwt.reveal() == key


def test_a_wrong_secret_is_not_repeated_in_the_message() -> None:
    with pytest.raises(ConfigError) as caught:
        load(an_environment(PROBITY_MASTER_KEYS="hunter2hunter2"))

    assert "hunter2" not in str(caught.value)


def test_a_configuration_prints_no_secret() -> None:
    assert KEY not in repr(load(an_environment(REDIS_URL="redis://:hunter2@h"))) and "hunter2" not in repr(load(an_environment()))


@pytest.mark.parametrize(("text", "seconds"), [("30", 30), ("15m", 900), ("8h", 28800), ("2d", 172800)])
def test_durations(text: str, seconds: float) -> None:
    assert config.duration_s(text) == seconds


@pytest.mark.parametrize(
    ("name", "value"), [("SMTP_URL", "http://user:hunter2@mail"), ("PROBITY_BLOB_URL", "s3://"), ("PROBITY_BLOB_URL", "/blobs")]
)
def test_an_address_of_another_service_is_checked_at_start(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=name) as caught:
        load(an_environment(**{name: value}))

    assert "hunter2" not in str(caught.value)
