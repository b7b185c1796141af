"""The trail over HTTP: filters, formats and errors as documented; export and verification."""

import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx
import msgspec
import pytest

from probity.audit.models import Action
from probity.audit.schemas import read_filter, rfc3339
from probity.audit.service import record
from probity.kernel.db import Database
from probity.kernel.ids import new_id
from probity.kernel.principal import Principal
from tests.http_app import TestAuthenticator

LIST = "/api/v1/audit-events"


async def write(db: Database, principal: Principal, resource: str = "agent:1", **metadata: object) -> UUID:
    async with db.transaction(principal) as tx:
        return await record(tx, principal, Action.AGENT_MINT, resource, metadata=metadata)


async def test_events_come_newest_first_in_the_documented_shape(
    http: httpx.AsyncClient, callers: TestAuthenticator, db: Database, admin: Principal, outsider: Principal
) -> None:
    await write(db, outsider)
    first = await write(db, admin)
    second = await write(db, admin, name="builder")

    reply = await http.get(LIST, headers=callers.headers(admin))

    assert reply.status_code == 200
    events = reply.json()
    assert [event["id"] for event in events] == [str(second), str(first)]
    assert list(events[0]) == ["id", "actor", "actor_display", "action", "resource", "status", "correlation_id", "occurred_at", "metadata"]
    assert events[0]["metadata"] == {"name": "builder"}
    assert "metadata" not in events[1]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{0,8}[1-9])?Z", events[0]["occurred_at"])


async def test_paging_backwards_visits_every_event_once(
    http: httpx.AsyncClient, callers: TestAuthenticator, db: Database, admin: Principal
) -> None:
    written = [str(await write(db, admin)) for _ in range(7)]
    headers = callers.headers(admin)
    seen: list[str] = []
    params = {"limit": "3"}

    while page := (await http.get(LIST, params=params, headers=headers)).json():
        seen += [event["id"] for event in page]
        params["until"] = page[-1]["occurred_at"]

    assert seen == written[::-1]


async def test_a_correlation_id_may_lack_its_dashes(
    http: httpx.AsyncClient, callers: TestAuthenticator, db: Database, admin: Principal
) -> None:
    correlation = new_id()
    async with db.transaction(admin) as tx:
        await record(tx, admin, Action.AGENT_MINT, "agent:1", correlation_id=correlation)
    await write(db, admin)

    for spelling in (str(correlation), correlation.hex):
        assert len((await http.get(LIST, params={"correlation_id": spelling}, headers=callers.headers(admin))).json()) == 1


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("correlation_id=x", "correlation_id: invalid uuid"),
        ("since=bad", "since: expected RFC3339 timestamp"),
        ("until=2025-01-01", "until: expected RFC3339 timestamp"),
        ("until=2025-02-30T00:00:00Z", "until: expected RFC3339 timestamp"),
        ("limit=-1", "limit must be a non-negative integer"),
        ("limit=ten", "limit must be a non-negative integer"),
        ("limit=%D9%A3", "limit must be a non-negative integer"),
        ("limit=99999999999999999999", "limit must be a non-negative integer"),
        ("since=9999-12-31T23:59:59.999999999Z", "since: expected RFC3339 timestamp"),
        ("since=2025-01-01T24:00:00Z", "since: expected RFC3339 timestamp"),
        ("limit=1.5", "limit must be a non-negative integer"),
    ],
)
async def test_a_wrong_filter_is_refused_in_the_documented_words(
    http: httpx.AsyncClient, callers: TestAuthenticator, admin: Principal, query: str, message: str
) -> None:
    reply = await http.get(f"{LIST}?{query}", headers=callers.headers(admin))

    assert (reply.status_code, reply.json()) == (400, {"error": message})


@pytest.mark.parametrize("path", [LIST, f"{LIST}/export", f"{LIST}/verification"])
async def test_only_holders_of_the_permission_read_the_trail(
    http: httpx.AsyncClient, callers: TestAuthenticator, admin: Principal, path: str
) -> None:
    reader = msgspec.structs.replace(admin, permissions=frozenset({"agent.list"}))

    assert (await http.get(path)).status_code == 401
    assert (await http.get(path, headers=callers.headers(reader))).status_code == 403


async def test_verification_and_export_agree(
    http: httpx.AsyncClient, callers: TestAuthenticator, db: Database, admin: Principal, outsider: Principal
) -> None:
    await write(db, outsider)
    await write(db, admin)
    await write(db, admin)
    headers = callers.headers(admin)

    export = await http.get(f"{LIST}/export", headers=headers)
    verification = (await http.get(f"{LIST}/verification", headers=headers)).json()

    assert export.headers["content-type"].startswith("application/x-ndjson")
    lines = [msgspec.json.decode(line) for line in export.content.splitlines()]
    assert [line["type"] for line in lines] == ["header", "checkpoint", "event", "event", "event", "end"]
    assert {line["org_id"] for line in lines if "org_id" in line} == {str(admin.org_id)}
    assert (verification["verified"], verification["events"], verification["broken"]) == (True, 3, None)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2025-01-01T00:00:00Z", datetime(2025, 1, 1, tzinfo=UTC)),
        ("2025-01-01T02:00:00.5+02:00", datetime(2025, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC)),
        ("2025-01-01T00:00:00.000001Z", datetime(2025, 1, 1, 0, 0, 0, 1, tzinfo=UTC)),
        ("2025-01-01T00:00:00.000000001Z", datetime(2025, 1, 1, 0, 0, 0, 1, tzinfo=UTC)),
        ("2025-01-01T00:00:00.999999999Z", datetime(2025, 1, 1, 0, 0, 1, tzinfo=UTC)),
    ],
)
def test_moments_are_read_up_to_nanoseconds(text: str, moment: datetime) -> None:
    assert read_filter({"since": text}).since == moment


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [(0, "2025-01-01T00:00:00Z"), (120_000, "2025-01-01T00:00:00.12Z"), (1, "2025-01-01T00:00:00.000001Z")],
)
def test_moments_are_written_without_trailing_zeros(microseconds: int, text: str) -> None:
    assert rfc3339(datetime(2025, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)) == text


@pytest.mark.parametrize(("text", "limit"), [(None, 100), ("", 100), ("0", 100), ("7", 7), ("+7", 7), ("1000", 1000), ("99999", 1000)])
def test_a_limit_has_a_default_and_a_cap(text: str | None, limit: int) -> None:
    assert read_filter({"limit": text}).limit == limit
