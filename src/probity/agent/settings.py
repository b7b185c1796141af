"""How this agent is set up: where it keeps its state, whom it serves, what it may do."""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from probity.kernel.errors import Invalid, NotFound
from probity.kernel.privatefile import write_private

CAPABILITIES: Final = ("command",)
# What a child sees of the agent's environment. Proxy variables are not here because they can carry passwords; --pass-env adds names.
CHILD_ENVIRONMENT: Final = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "LC_MESSAGES", "LC_NUMERIC", "LC_TIME", "LC_COLLATE",
    "TZ", "TMPDIR", "TERM", "XDG_RUNTIME_DIR", "SSL_CERT_FILE", "SSL_CERT_DIR",
)  # fmt: skip


class NotEnrolled(NotFound):
    code = "agent.not_enrolled"


class UnsafeCredential(Invalid):
    code = "agent.unsafe_credential"


class Credential(msgspec.Struct, frozen=True):
    """Who this agent is; lives in `agent.json`, readable by its owner only."""

    server: str
    agent_id: str
    secret: str
    name: str
    heartbeat_s: float = 30
    poll_s: float = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """
    Args:
        data: directory of credential, spool and job directories; 0700.
        concurrency: jobs at a time.
        pass_env: names of further variables a child may see.
        allowed_roots: working directories must lie below one of them; empty allows any.
        spool_limit_bytes: most disk that undelivered records may take.
        artifact_limit_bytes: largest single artifact.
        claim_wait_s: how long the server may hold a claim open.
        renew_s: pause between renewals of a lease, which the server grants for 30 s.
        drain_s: how long a stopping agent lets running jobs end.
        kill_grace_s: time between SIGTERM and SIGKILL.
    """

    data: Path
    concurrency: int = 1
    pass_env: tuple[str, ...] = ()
    allowed_roots: tuple[Path, ...] = ()
    spool_limit_bytes: int = 2_147_483_648
    artifact_limit_bytes: int = 104_857_600
    claim_wait_s: float = 30.0
    renew_s: float = 5.0
    drain_s: float = 10.0
    kill_grace_s: float = 5.0


def default_data(environ: Mapping[str, str], uid: int) -> Path:
    """Return where an agent keeps its state unless told otherwise: /var/lib for root, the user's state directory for others."""
    if chosen := environ.get("PROBITY_AGENT_DATA"):
        return Path(chosen)
    if uid == 0:
        return Path("/var/lib/probity-agent")
    state = environ.get("XDG_STATE_HOME")
    return Path(state) / "probity-agent" if state else Path.home() / ".local" / "state" / "probity-agent"


def prepare_data(data: Path) -> None:
    data.mkdir(parents=True, exist_ok=True, mode=0o700)


def save_credential(data: Path, credential: Credential) -> Path:
    """Write the credential so that at no moment another user can read it, and a crash leaves the old one or the new one."""
    prepare_data(data)
    path = data / "agent.json"
    write_private(path, msgspec.json.format(msgspec.json.encode(credential)) + b"\n")
    return path


def load_credential(data: Path) -> Credential:
    """Read the credential.

    Raises:
        NotEnrolled: there is none.
        UnsafeCredential: others can read it, or it is damaged.
    """
    path = data / "agent.json"
    try:
        mode = path.stat().st_mode
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise NotEnrolled(f"no agent is enrolled in {data}; run `probity agent enroll --server URL`") from error
    if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
        raise UnsafeCredential(f"{path} can be read by others; run `chmod 600 {path}`, and revoke the agent if others have had access")
    try:
        return msgspec.json.decode(content, type=Credential)
    except msgspec.DecodeError as error:
        raise UnsafeCredential(f"{path} is damaged ({error}); enrol again") from error
