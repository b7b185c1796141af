"""Runs over HTTP. Paths that the Sentri contract has speak its dialect; the others are our own."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import msgspec
from litestar import Request, Response, Router, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, JSONBody, QueryParameter
from litestar.response import Stream

from probity.kernel.http.auth import Authenticators
from probity.kernel.http.dialect import Dialect
from probity.kernel.http.groups import route_group
from probity.kernel.http.tiers import TIERS
from probity.kernel.principal import Principal
from probity.runs.artifacts import routes as artifact_routes
from probity.runs.errors import WrongField
from probity.runs.imports import routes as import_routes
from probity.runs.ingest.schemas import EVENTS_BODY_LIMIT, EventBatch
from probity.runs.ingest.service import IngestService
from probity.runs.live import sse
from probity.runs.live.service import LiveService
from probity.runs.models import Ingested, Outcome, RunState
from probity.runs.schemas import FinishIn, NewRunIn, RunOut
from probity.runs.service import Page, RunService, parse_ref
from probity.runs.store import ResultFilter, RunFilter

# One path, several methods: a path lies in one group, so the contract's handlers name their dialect themselves.
# Its general budget counts under its pin only: at the root these are also our own pages' and reporters' routes.
_SENTRI: Final[dict[str, Any]] = {"dialects": (Dialect.SENTRI,), "tiered": False, "pinned_limits": {Dialect.SENTRI: TIERS[Dialect.SENTRI]}}

Limit = Annotated[int, QueryParameter(ge=1, le=200, description="rows of the page")]
Text = Annotated[str | None, QueryParameter(min_length=1, max_length=200)]


@post("/", permission="runs:write", summary="Start a run: dispatch a command, or report one that runs elsewhere")
async def create_run(data: JSONBody[NewRunIn], principal: NamedDependency[Principal], runs: NamedDependency[RunService]) -> RunOut:
    return RunOut.of(await runs.create(principal, data))


@get("/", permission="runs:read", summary="Runs, newest first")
async def list_runs(
    principal: NamedDependency[Principal],
    runs: NamedDependency[RunService],
    limit: Limit = 50,
    cursor: Annotated[int | None, QueryParameter(ge=1, le=2**62)] = None,
    run_state: Annotated[RunState | None, QueryParameter(name="state")] = None,
    project: Text = None,
    q: Text = None,
    since: FromQuery[datetime | None] = None,
) -> Page:
    narrowed = RunFilter(
        state=run_state,
        project_id=await runs.find_project(principal, project) if project else None,
        text=_searchable(q),
        since=_aware(since),
        before=cursor,
        limit=limit,
    )
    return await runs.list_runs(principal, narrowed)


@get("/{run:str}/results", permission="runs:read", summary="Every attempt of a run, in the order of arrival")
async def list_results(
    run: FromPath[str],
    principal: NamedDependency[Principal],
    runs: NamedDependency[RunService],
    limit: Limit = 50,
    cursor: Annotated[int, QueryParameter(ge=0, le=2**62)] = 0,
    outcome: FromQuery[Outcome | None] = None,
    q: Text = None,
    case: Annotated[str | None, QueryParameter(min_length=1, max_length=4100)] = None,
) -> Page:
    narrowed = ResultFilter(outcome=outcome, text=_searchable(q), case_key=_searchable(case), after=cursor, limit=limit)
    return await runs.list_results(principal, parse_ref(run), narrowed)


@get("/{run:str}/log", permission="runs:read", media_type="text/plain", summary="The output of a run so far, as plain text")
async def read_log(run: FromPath[str], principal: NamedDependency[Principal], runs: NamedDependency[RunService]) -> Stream:
    pieces: AsyncIterator[str] = await runs.read_log(principal, parse_ref(run))
    return Stream(pieces, media_type="text/plain; charset=utf-8", headers={"X-Content-Type-Options": "nosniff"})


@post(
    "/{run:str}/events",
    status_code=200,
    permission="runs:write",
    or_agent=True,
    body_limit=EVENTS_BODY_LIMIT,
    summary="Append events to a run; a repeat changes nothing",
)
async def ingest_events(
    run: FromPath[str],
    data: JSONBody[EventBatch],
    principal: NamedDependency[Principal],
    runs: NamedDependency[RunService],
    ingest: NamedDependency[IngestService],
) -> Ingested:
    return await ingest.ingest(principal, await runs.id_of(principal, parse_ref(run)), data.events)


@post("/{run:str}/finish", status_code=200, permission="runs:write", summary="End a run that somebody else carried out")
async def finish_run(
    run: FromPath[str], data: JSONBody[FinishIn], principal: NamedDependency[Principal], runs: NamedDependency[RunService]
) -> RunOut:
    return RunOut.of(await runs.finish(principal, parse_ref(run), exit_code=data.exit_code, reason_code=data.reason_code))


@get("/{run:str}", **_SENTRI, permission="runs:read", summary="One run; with its last results and log lines unless `brief` is set")
async def get_run(
    run: FromPath[str],
    principal: NamedDependency[Principal],
    runs: NamedDependency[RunService],
    live: NamedDependency[LiveService],
    brief: FromQuery[bool] = False,
) -> dict[str, Any]:
    ref = parse_ref(run)
    if brief:
        return msgspec.structs.asdict(RunOut.of(await runs.get(principal, ref)))
    return await live.full_run(principal, ref)


@post("/{run:str}/abort", status_code=200, **_SENTRI, permission="runs:abort", summary="Abort a run that waits or runs")
async def abort_run(run: FromPath[str], principal: NamedDependency[Principal], runs: NamedDependency[RunService]) -> dict[str, bool]:
    await runs.abort(principal, parse_ref(run))
    return {"ok": True}


@get(
    "/{run:str}/events",
    **_SENTRI,
    permission="runs:read",
    media_type="text/event-stream",
    summary="The live stream of a run (server-sent events)",
)
async def watch_run(
    run: FromPath[str],
    request: Request[Any, Any, Any],
    principal: NamedDependency[Principal],
    live: NamedDependency[LiveService],
    authenticator: NamedDependency[Authenticators],
    named: FromQuery[bool] = False,
) -> Response[Any]:
    found = await live.find(principal, parse_ref(run))
    after = sse.last_event_id(request)
    if sse.has_everything(found, after):
        # The one reply that stops an EventSource from coming back.
        return Response(None, status_code=204)
    allowed = sse.still_allowed(request, authenticator, principal)
    stream = live.stream(found, after=after, named=named, still_allowed=allowed)
    return Stream(await sse.begun(stream, after), media_type="text/event-stream", headers=sse.HEADERS)


def routes() -> list[Router]:
    handlers = [
        create_run,
        list_runs,
        list_results,
        read_log,
        ingest_events,
        finish_run,
        get_run,
        abort_run,
        watch_run,
        *import_routes.HANDLERS,
        *artifact_routes.HANDLERS,
    ]
    return [route_group(Dialect.OWN, "/api/v1/runs", handlers, tags=["runs"])]


def _aware(moment: datetime | None) -> datetime | None:
    """A moment without a zone is meant as UTC."""
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment


def _searchable(text: str | None) -> str | None:
    if text is not None and "\x00" in text:
        raise WrongField("q", "must not contain the character NUL")
    return text
