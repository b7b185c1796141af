"""What the server answers. Unknown fields are ignored, so that an older client understands a newer server."""

from typing import Any

import msgspec


class Totals(msgspec.Struct, frozen=True):
    """Cases by the outcome of their last attempt; `flaky` are those of `passed` that failed before."""

    total: int = 0
    passed: int = 0
    failed: int = 0
    errors: int = 0
    skipped: int = 0
    flaky: int = 0


class Run(msgspec.Struct, frozen=True):
    id: str
    uuid: str
    name: str
    state: str
    kind: str = "command"
    reason_code: str | None = None
    exit_code: int | None = None
    totals: Totals = Totals()
    created_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    duration_ms: float | None = None
    project: str | None = None
    agent_id: str | None = None

    @property
    def is_final(self) -> bool:
        return self.state not in ("queued", "running")


class Result(msgspec.Struct, frozen=True):
    """One attempt of one case."""

    case: str
    name: str
    outcome: str
    duration_ms: float = 0.0
    attempt: int = 1
    message: str | None = None


class Agent(msgspec.Struct, frozen=True):
    id: str
    name: str
    status: str
    tags: list[str] = []
    capabilities: list[str] = []
    hostname: str | None = None
    os: str | None = None
    arch: str | None = None
    agent_version: str | None = None
    last_seen_at: str | None = None


class EnrollmentToken(msgspec.Struct, frozen=True):
    id: str
    enrollment_token: str
    expires_at: str


class ApiKey(msgspec.Struct, frozen=True):
    """`key` is there only in the reply that made it."""

    id: str
    name: str
    key_prefix: str
    scope: str
    created_at: str
    expires_at: str | None = None
    last_used_at: str | None = None
    revoked_at: str | None = None
    key: str | None = None


class Message(msgspec.Struct, frozen=True):
    """One message of a run's live stream. Which of the fields are there follows from `type`: snapshot, status, log, result, artifact, done."""

    type: str
    seq: int = 0
    run: dict[str, Any] | None = None
    result: Result | None = None
    totals: Totals | None = None
    text: str | None = None
    stream: str | None = None
    state: str | None = None
