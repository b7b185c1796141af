"""Typed client of the server's HTTP interface."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote, urlsplit

import httpx
import msgspec

from probity import __version__
from probity.client import sse
from probity.client.errors import CredentialRejected, Refused, ServerUnreachable
from probity.client.models import Agent, ApiKey, EnrollmentToken, Message, Result, Run
from probity.client.profile import Profile
from probity.kernel.serverurl import is_loopback

T = TypeVar("T")
TIMEOUT: Final = httpx.Timeout(30.0, connect=10.0)
# The stream sends a comment every 5 s; silence this long means that the connection is dead.
STREAM_TIMEOUT: Final = httpx.Timeout(20.0, connect=10.0)
RECONNECT_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0)
PAGE: Final = 200


class SignedIn(msgspec.Struct, frozen=True):
    token: str
    expires_at: str | None = None


class Client:
    """Requests as one user or key. Use as a context manager."""

    def __init__(self, profile: Profile) -> None:
        self.server = profile.server
        self._http = _http(profile.server, {"Authorization": f"Bearer {profile.credential}"})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def create_run(self, new_run: Mapping[str, Any]) -> Run:
        return self._json(Run, "POST", "/api/v1/runs", json=new_run)

    def get_run(self, ref: str) -> Run:
        """`ref` is RUN-n, or the UUID."""
        return self._json(Run, "GET", _run_path(ref), params={"brief": "true"})

    def list_runs(self, *, limit: int = 20, **narrowed: str | None) -> list[Run]:
        params = {name: value for name, value in narrowed.items() if value is not None}
        return self._json(_RunPage, "GET", "/api/v1/runs", params={"limit": str(limit), **params}).data

    def results(self, ref: str, **narrowed: str) -> Iterator[Result]:
        """Yield every attempt in the order of arrival."""
        cursor: str | int | None = None
        while True:
            params = {"limit": str(PAGE), **narrowed} | ({"cursor": str(cursor)} if cursor is not None else {})
            page = self._json(_ResultPage, "GET", f"{_run_path(ref)}/results", params=params)
            yield from page.data
            cursor = page.next_cursor
            if cursor is None:
                return

    def log(self, ref: str) -> Iterator[str]:
        with _translated(), self._http.stream("GET", f"{_run_path(ref)}/log") as reply:
            _refuse_failure(reply)
            yield from reply.iter_text()

    def abort_run(self, ref: str) -> None:
        self._send("POST", f"{_run_path(ref)}/abort")

    def send_events(self, ref: str, events: list[dict[str, Any]]) -> None:
        self._send("POST", f"{_run_path(ref)}/events", json={"events": events})

    def import_junit(self, path: Path, *, project: str | None, name: str | None, key: str) -> Run:
        """Upload a JUnit file as a run of its own; the same `key` again gives the same run."""
        params = {field: value for field, value in (("project", project), ("name", name)) if value}
        headers = {"Content-Type": "application/xml", "Idempotency-Key": key}
        return self._json(Run, "POST", "/api/v1/runs/import", params=params, content=path.read_bytes(), headers=headers)

    def watch(self, ref: str, *, from_start: bool = False) -> Iterator[Message]:
        """Yield what happens in a run until it ends, each message once, across lost connections.

        Args:
            from_start: begin with the first event; otherwise with a snapshot of what has happened so far.

        Raises:
            ServerUnreachable: it did not come back.
        """
        last_id = "0" if from_start else ""
        tries = 0
        while True:
            try:
                for event in self._events(ref, last_id):
                    tries = 0
                    last_id = event.last_id
                    message = msgspec.json.decode(event.data, type=Message)
                    yield message
                    if message.type == "done":
                        return
            except (ServerUnreachable, msgspec.DecodeError) as error:
                if tries >= len(RECONNECT_S) * 4:
                    raise ServerUnreachable(f"the stream broke off and the server did not come back: {error}") from error
            except _NothingMore:
                return
            time.sleep(RECONNECT_S[min(tries, len(RECONNECT_S) - 1)])
            tries += 1

    def list_agents(self) -> list[Agent]:
        return self._json(list[Agent], "GET", "/api/v1/agents")

    def revoke_agent(self, agent_id: str, reason: str | None) -> None:
        self._send("POST", f"/api/v1/agents/{quote(agent_id, safe='')}/revoke", json={"reason": reason} if reason else {})

    def create_enrollment_token(self, *, name: str | None, expires_in_seconds: int, max_uses: int, tags: list[str]) -> EnrollmentToken:
        body = {"expires_in_seconds": expires_in_seconds, "max_uses": max_uses, "tags": tags} | ({"name": name} if name else {})
        return self._json(EnrollmentToken, "POST", "/api/v1/enrollment-tokens", json=body)

    def list_keys(self) -> list[ApiKey]:
        return self._json(_Keys, "GET", "/api/api-keys").data

    def create_key(self, *, name: str, scope: str, expires_at: str | None) -> ApiKey:
        body = {"name": name, "scope": scope} | ({"expires_at": expires_at} if expires_at else {})
        return self._json(_Key, "POST", "/api/api-keys", json=body).data

    def revoke_key(self, key_id: str) -> None:
        self._send("DELETE", f"/api/api-keys/{quote(key_id, safe='')}")

    def _events(self, ref: str, last_id: str) -> Iterator[sse.ServerSentEvent]:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_id} if last_id else {})
        with _translated(), self._http.stream("GET", f"{_run_path(ref)}/events", headers=headers, timeout=STREAM_TIMEOUT) as reply:
            if reply.status_code == httpx.codes.NO_CONTENT:
                raise _NothingMore
            _refuse_failure(reply)
            for event in sse.parse(_lines(reply)):
                yield sse.ServerSentEvent(event.data, event.name, event.last_id or last_id)

    def _json(self, kind: type[T], method: str, path: str, **arguments: Any) -> T:
        return _decode(kind, self._send(method, path, **arguments))

    def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        with _translated():
            reply = self._http.request(method, path, **arguments)
        _refuse_failure(reply)
        return reply


def sign_in(server: str, email: str, password: str) -> SignedIn:
    """Trade e-mail and password for a token.

    Raises:
        CredentialRejected, Refused, ServerUnreachable.
    """
    with _translated(), _http(server, {}) as http:
        reply = http.post("/api/v1/auth/login", json={"email": email, "password": password})
    _refuse_failure(reply)
    return _decode(SignedIn, reply)


class _NothingMore(Exception):
    """The server says that a watcher has seen everything."""


class _RunPage(msgspec.Struct, frozen=True):
    data: list[Run]


class _ResultPage(msgspec.Struct, frozen=True):
    data: list[Result]
    next_cursor: str | int | None = None


class _Keys(msgspec.Struct, frozen=True):
    data: list[ApiKey]


class _Key(msgspec.Struct, frozen=True):
    data: ApiKey


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as error:
        raise ServerUnreachable(f"no answer from the server: {error}") from error


def _http(server: str, headers: Mapping[str, str]) -> httpx.Client:
    # Proxies of the environment are for the world outside; a loopback address is this machine.
    trust_env = not is_loopback(urlsplit(server).hostname or "")
    return httpx.Client(
        base_url=server, timeout=TIMEOUT, trust_env=trust_env, headers={"User-Agent": f"probity-cli/{__version__}", **headers}
    )


def _lines(reply: httpx.Response) -> Iterator[str]:
    """Yield lines as the event stream format has them; `iter_lines` would also split at characters that JSON may contain (U+2028)."""
    rest = ""
    for text in reply.iter_text():
        *lines, rest = (rest + text).split("\n")
        yield from (line.removesuffix("\r") for line in lines)


def _refuse_failure(reply: httpx.Response) -> None:
    if reply.is_success:
        return
    reply.read()
    message = _message(reply)
    if reply.status_code == httpx.codes.UNAUTHORIZED:
        raise CredentialRejected(f"the server does not accept the credential: {message}")
    if reply.is_server_error:
        raise ServerUnreachable(f"the server answered {reply.status_code}: {message}")
    raise Refused(reply.status_code, message)


def _message(reply: httpx.Response) -> str:
    """Return what the server says is wrong, in whatever dialect, with the fields it names."""
    try:
        body = reply.json()
    except ValueError:
        return reply.text[:300] or reply.reason_phrase
    if not isinstance(body, dict):
        return str(body)[:300]
    text = next((body[name] for name in ("detail", "message", "error", "title") if isinstance(body.get(name), str)), reply.reason_phrase)
    named = [
        f"{each.get('path') or each.get('field')}: {each.get('message')}" for each in body.get("errors") or [] if isinstance(each, dict)
    ]
    return "; ".join([text, *named])


def _run_path(ref: str) -> str:
    return f"/api/v1/runs/{quote(ref, safe='')}"


def _decode(kind: type[T], reply: httpx.Response) -> T:
    try:
        return msgspec.json.decode(reply.content, type=kind)
    except msgspec.DecodeError as error:
        raise ServerUnreachable(f"the answer is not one of a Probity server: {error}") from error
