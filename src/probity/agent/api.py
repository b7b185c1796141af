"""The agent's requests. Every failure is one of three: the credential is refused, the request is refused, or it may pass later."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from probity import __version__
from probity.agent.settings import Credential
from probity.agent.wire import ClaimedJob, Enrolled, HeartbeatReply, RenewReply
from probity.kernel.errors import Denied, Unavailable

T = TypeVar("T")
USER_AGENT: Final = f"probity-agent/{__version__}"
TIMEOUT: Final = httpx.Timeout(20.0, connect=10.0)
UPLOAD_TIMEOUT: Final = httpx.Timeout(120.0, connect=10.0)
UPLOAD_CHUNK_BYTES: Final = 262_144
_JSON: Final = {"Content-Type": "application/json"}


class CredentialRefused(Denied):
    """The server does not know this agent any more, or has revoked it. No repeat can help."""

    code = "agent.credential_refused"


class RequestRefused(Denied):
    """The server understood and said no; the same request would get the same answer."""

    code = "agent.request_refused"

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"the server answered {status}: {text}", status=status)
        self.status = status


class ServerAway(Unavailable):
    """No answer, or one that asks to come back later."""

    code = "agent.server_away"

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


async def enroll(server: str, request: dict[str, Any]) -> Enrolled:
    """Trade an enrolment token for a credential of this agent's own.

    Raises:
        CredentialRefused, RequestRefused, ServerAway.
    """
    async with httpx.AsyncClient(base_url=server, timeout=TIMEOUT, headers={"User-Agent": USER_AGENT}) as client:
        reply = await _request(client, "POST", "/api/v1/agents/enroll", json=request)
        return _decode(reply, Enrolled)


class AgentApi:
    def __init__(self, credential: Credential) -> None:
        self._agent = f"/api/v1/agents/{credential.agent_id}"
        # Proxies and private certificate authorities are taken from the environment of the service, which is httpx's default.
        self._client = httpx.AsyncClient(
            base_url=credential.server,
            timeout=TIMEOUT,
            headers={"User-Agent": USER_AGENT, "X-Agent-ID": credential.agent_id, "X-Agent-Secret": credential.secret},
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def heartbeat(self, capabilities: tuple[str, ...]) -> HeartbeatReply:
        body = {"status": "ok", "agent_version": __version__, "capabilities": list(capabilities)}
        reply = await _request(self._client, "POST", f"{self._agent}/heartbeat", json=body)
        return _decode(reply, HeartbeatReply) if reply.content else HeartbeatReply()

    async def claim(self, wait_s: float) -> ClaimedJob | None:
        """Ask for a job; the server may hold the request open for `wait_s` seconds until there is one."""
        timeout = httpx.Timeout(wait_s + 15.0, connect=10.0)
        reply = await _request(self._client, "POST", f"{self._agent}/jobs/claim", params={"wait": f"{wait_s:g}"}, timeout=timeout)
        return None if reply.status_code == httpx.codes.NO_CONTENT else _decode(reply, ClaimedJob)

    async def renew(self, job_id: str) -> RenewReply:
        reply = await _request(self._client, "POST", f"{self._agent}/jobs/{quote(job_id, safe='')}/renew")
        return _decode(reply, RenewReply)

    async def complete(self, job_id: str, body: bytes) -> None:
        await _request(self._client, "POST", f"{self._agent}/jobs/{quote(job_id, safe='')}/complete", content=body, headers=_JSON)

    async def send_events(self, run_id: str, events: list[bytes]) -> None:
        """Send events that are encoded already; the server ignores those it has."""
        content = b'{"events":[' + b",".join(events) + b"]}"
        await _request(self._client, "POST", f"/api/v1/runs/{quote(run_id, safe='')}/events", content=content, headers=_JSON)

    async def upload(self, run_id: str, *, name: str, content_type: str, path: Path, key: str) -> None:
        """Send one artifact; `key` lets the server recognise a repeat."""
        headers = {"Content-Type": content_type, "Content-Length": str(path.stat().st_size), "Idempotency-Key": key}
        url = f"/api/v1/runs/{quote(run_id, safe='')}/artifacts"
        await _request(self._client, "POST", url, params={"name": name}, content=_chunks(path), headers=headers, timeout=UPLOAD_TIMEOUT)


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(UPLOAD_CHUNK_BYTES):
            yield chunk


async def _request(client: httpx.AsyncClient, method: str, url: str, **arguments: Any) -> httpx.Response:
    try:
        reply = await client.request(method, url, **arguments)
    except httpx.HTTPError as error:
        raise ServerAway(f"{type(error).__name__}: {error}") from error
    if reply.is_success:
        return reply
    if reply.status_code == httpx.codes.UNAUTHORIZED:
        raise CredentialRefused(_text(reply))
    if reply.status_code in (408, 425, 429) or reply.is_server_error or reply.is_redirect:
        raise ServerAway(f"the server answered {reply.status_code}", _retry_after_s(reply))
    raise RequestRefused(reply.status_code, _text(reply))


def _retry_after_s(reply: httpx.Response) -> float:
    text = reply.headers.get("Retry-After", "")
    return min(float(text), 300.0) if text.isdigit() else 0.0


def _text(reply: httpx.Response) -> str:
    """Return what the server says is wrong, whatever shape of error it uses."""
    try:
        body = reply.json()
    except ValueError:
        body = None
    if isinstance(body, dict):
        for field in ("detail", "message", "error", "title"):
            if isinstance(body.get(field), str):
                return str(body[field])[:300]
    return reply.text[:300] or reply.reason_phrase


def _decode(reply: httpx.Response, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(reply.content, type=kind)
    except msgspec.DecodeError as error:
        # A proxy's page or a half-sent body; the next try may reach the server itself.
        raise ServerAway(f"the answer cannot be read: {error}") from error
