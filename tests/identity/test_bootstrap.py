"""The first administrator, named by the environment."""

from dataclasses import replace

import pytest

from probity import main
from probity.config import Config, ConfigError, IdentityConfig
from probity.kernel.db import Database, fetch_value
from probity.kernel.secret import Secret
from tests import http_app


def naming(config: Config, email: str, password: str) -> Config:
    identity = IdentityConfig(jwt_ttl_s=config.identity.jwt_ttl_s, bootstrap_email=email, bootstrap_password=Secret(password))
    return replace(config, identity=identity)


async def test_the_named_administrator_can_sign_in_after_the_first_start(db: Database, config: Config) -> None:
    app = main.build(naming(config, "Root@Example.test", "correct horse battery"))

    async with http_app.client_of(app) as http:
        reply = await http.post("/api/v1/auth/login", json={"email": "root@example.test", "password": "correct horse battery"})

    assert reply.status_code == 200
    assert reply.json()["user"]["workspaceRole"] == "admin"


async def test_a_second_start_changes_nothing(db: Database, config: Config) -> None:
    for password in ("correct horse battery", "another horse battery"):
        async with http_app.client_of(main.build(naming(config, "root@example.test", password))) as http:
            reply = await http.post("/api/v1/auth/login", json={"email": "root@example.test", "password": "correct horse battery"})
            assert reply.status_code == 200

    async with db.system() as tx:
        assert await fetch_value(tx, "select count(*) from users") == 1


@pytest.mark.parametrize(("email", "password"), [("root@example.test", "short"), ("nobody", "correct horse battery")])
async def test_an_administrator_who_cannot_be_stops_the_start_by_name(db: Database, config: Config, email: str, password: str) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with http_app.client_of(main.build(naming(config, email, password))):
            pass

    wrong = caught.value.subgroup(ConfigError)
    assert wrong is not None
