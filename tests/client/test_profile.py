"""Where the credential of the command line lives."""

import stat
from pathlib import Path

import pytest

from probity.client.errors import NotSignedIn, UnsafeProfile
from probity.client.profile import Profile, load_profile, save_profile
from probity.kernel.errors import Invalid
from probity.kernel.serverurl import server_url


def test_a_profile_is_read_back_and_private(tmp_path: Path) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    profile = Profile("https://probity.example", "token", "a@b.example", "2027-01-01T00:00:00Z")
    path = save_profile(environ, profile)
    save_profile(environ, profile)

    assert load_profile(environ) == profile
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["login.json"]


def test_the_environment_comes_first(tmp_path: Path) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path), "PROBITY_URL": "https://other.example/", "PROBITY_API_KEY": "pa_x"}

    assert load_profile(environ) == Profile("https://other.example", "pa_x")


def test_without_either_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotSignedIn, match="probity login"):
        load_profile({"XDG_CONFIG_HOME": str(tmp_path)})


def test_a_profile_that_others_can_read_is_refused(tmp_path: Path) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    save_profile(environ, Profile("https://probity.example", "token")).chmod(0o644)

    with pytest.raises(UnsafeProfile, match="chmod 600"):
        load_profile(environ)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://probity.example/", "https://probity.example"),
        ("https://probity.example:8443/base/", "https://probity.example:8443/base"),
        ("http://127.0.0.1:8484", "http://127.0.0.1:8484"),
        ("http://[::1]:8484", "http://[::1]:8484"),
        ("http://localhost:1", "http://localhost:1"),
        ("http://agnox.localhost:1", "http://agnox.localhost:1"),
    ],
)
def test_addresses_that_are_accepted(text: str, expected: str) -> None:
    assert server_url(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "probity.example",
        "ftp://x",
        "https://",
        "http://probity.example",
        "http://10.0.0.1",
        "https://u:p@x",
        "https://x?q=1",
        "http://localhost.example",
    ],
)
def test_addresses_that_are_refused(text: str) -> None:
    with pytest.raises(Invalid):
        server_url(text)


def test_plain_http_can_be_asked_for() -> None:
    assert server_url("http://probity.example", insecure=True) == "http://probity.example"
