"""What agent and server say to each other. Replies ignore unknown fields, so that an older agent understands a newer server."""

from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Moment = Annotated[datetime, Meta(tz=True)]
ShortText = Annotated[str, Meta(max_length=4_000, pattern=r"^[^\0]*$")]


class Enrolled(msgspec.Struct, frozen=True):
    agent_id: str
    agent_token: str
    heartbeat_interval_seconds: float = 30
    job_poll_interval_seconds: float = 10


class HeartbeatReply(msgspec.Struct, frozen=True):
    next_heartbeat_seconds: float = 30


class ClaimedJob(msgspec.Struct, frozen=True):
    id: str
    job_type: str
    payload: msgspec.Raw = msgspec.Raw(b"{}")


class RenewReply(msgspec.Struct, frozen=True):
    claim_expires_at: str | None = None
    cancel: bool = False


class CommandPayload(msgspec.Struct, frozen=True):
    """A job of kind `command`. `secret_env` names the variables whose values must not appear in what is reported."""

    run_id: Annotated[str, Meta(min_length=1, max_length=100)]
    command: Annotated[list[Annotated[str, Meta(max_length=131_072)]], Meta(min_length=1, max_length=4_096)]
    cwd: ShortText | None = None
    env: dict[str, str] = {}
    secret_env: list[str] = []
    timeout_s: Annotated[float, Meta(gt=0, le=7 * 86_400)] = 3_600
    output_limit_bytes: Annotated[int, Meta(ge=0)] = 10_485_760
    junit: list[ShortText] = []
    artifacts: list[ShortText] = []
    pytest_live: bool = True


class Completion(msgspec.Struct, frozen=True, omit_defaults=True):
    status: Literal["succeeded", "failed"]
    error: str | None = None
    reason_code: str | None = None
    result: dict[str, int | float | str | None] | None = None


class ResultEvent(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="type", tag="result"):
    """One attempt of one case. Lines that the pytest plugin writes are decoded as this, so a test cannot send anything else."""

    id: Annotated[str, Meta(min_length=1, max_length=100)]
    at: Moment
    case: Annotated[str, Meta(min_length=1, max_length=4_100)]
    name: Annotated[str, Meta(max_length=2_001)]
    outcome: Literal["passed", "failed", "error", "skipped", "xfailed", "xpassed"]
    duration_ms: Annotated[float, Meta(ge=0, le=1e12)]
    attempt: Annotated[int, Meta(ge=1, le=1_000)]
    suite: Annotated[str, Meta(max_length=2_001)] | None = None
    file: ShortText | None = None
    line: Annotated[int, Meta(ge=0, le=2_147_483_647)] | None = None
    message: Annotated[str, Meta(max_length=10_000)] | None = None
    details: Annotated[str, Meta(max_length=250_000)] | None = None
    stdout: Annotated[str, Meta(max_length=250_000)] | None = None
    stderr: Annotated[str, Meta(max_length=250_000)] | None = None
    worker: Annotated[str, Meta(max_length=200)] | None = None


class LogEvent(msgspec.Struct, frozen=True, tag_field="type", tag="log"):
    id: str
    at: Moment
    stream: Literal["stdout", "stderr", "system"]
    text: str


class StatusEvent(msgspec.Struct, frozen=True, tag_field="type", tag="status"):
    id: str
    at: Moment
    state: Literal["running"]


class FinishedEvent(msgspec.Struct, frozen=True, tag_field="type", tag="finished"):
    id: str
    at: Moment
    exit_code: int | None
    reason_code: str | None


Event = ResultEvent | LogEvent | StatusEvent | FinishedEvent


def timestamp() -> datetime:
    return datetime.now(UTC)
