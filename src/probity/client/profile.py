"""Which server, as whom: from the environment, else from the file that `probity login` writes."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

import msgspec

from probity.client.errors import NotSignedIn, UnsafeProfile
from probity.kernel.privatefile import write_private
from probity.kernel.serverurl import server_url


class Profile(msgspec.Struct, frozen=True, omit_defaults=True):
    """A server and a credential for it: an API key, or the token of a sign-in (which ends)."""

    server: str
    credential: str
    email: str | None = None
    expires_at: str | None = None


def profile_path(environ: Mapping[str, str]) -> Path:
    config = environ.get("XDG_CONFIG_HOME")
    return (Path(config) if config else Path.home() / ".config") / "probity" / "login.json"


def load_profile(environ: Mapping[str, str]) -> Profile:
    """Return the profile in force.

    Raises:
        NotSignedIn: there is none.
        UnsafeProfile: others can read it, or it is damaged.
    """
    url, key = environ.get("PROBITY_URL"), environ.get("PROBITY_API_KEY")
    if url and key:
        return Profile(server_url(url, insecure=environ.get("PROBITY_INSECURE") == "1"), key)
    path = profile_path(environ)
    try:
        mode = path.stat().st_mode
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise NotSignedIn from error
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise UnsafeProfile(f"{path} can be read by others; run `chmod 600 {path}`, and replace the credential if others have had access")
    try:
        return msgspec.json.decode(content, type=Profile)
    except msgspec.DecodeError as error:
        raise UnsafeProfile(f"{path} is damaged ({error}); run `probity login` again") from error


def save_profile(environ: Mapping[str, str], profile: Profile) -> Path:
    """Write the profile, at no moment readable by others."""
    path = profile_path(environ)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_private(path, msgspec.json.format(msgspec.json.encode(profile)) + b"\n")
    return path
