"""Pages of runs."""

from typing import Annotated, Final
from urllib.parse import urlencode
from uuid import UUID

import msgspec
from litestar import Response, Router, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery, QueryParameter
from litestar.response import Redirect

from probity.kernel.errors import Conflict, Invalid, NotFound
from probity.kernel.http.dialect import Dialect
from probity.kernel.http.groups import route_group
from probity.kernel.ids import parse_id
from probity.kernel.principal import Principal
from probity.runs.artifacts.service import ArtifactService
from probity.runs.browse.models import ProjectChoice, RunQuery
from probity.runs.browse.models import RunPage as FoundRuns
from probity.runs.browse.service import RunBrowser
from probity.runs.models import RunId, RunState
from probity.runs.service import RunService, parse_ref
from probity.web.pages import PageRequest, Pages
from probity.web.query import ListQuery, state_choices
from probity.web.runs import present
from probity.web.runs.views import RunPage, RunsPage

_STATES: Final = (
    ("", "All"),
    ("running", "Running"),
    ("failed", "Failed"),
    ("passed", "Passed"),
    ("queued", "Queued"),
    ("error", "Error"),
    ("aborted", "Aborted"),
)
_TABS: Final = frozenset({"results", "log", "artifacts"})

# `state` as an argument is Litestar's own.
StateName = Annotated[str, QueryParameter(name="state", max_length=20)]
Text = Annotated[str, QueryParameter(max_length=200)]
CaseKey = Annotated[str, QueryParameter(max_length=4100)]
SuiteName = Annotated[str | None, QueryParameter(max_length=4100)]


def routes() -> list[Router]:
    return [route_group(Dialect.PAGES, "/runs", [runs, run, run_cases, run_case, run_log, abort_run])]


@get("/", permission="runs:read", include_in_schema=False)
async def runs(
    request: PageRequest,
    principal: NamedDependency[Principal],
    pages: NamedDependency[Pages],
    run_browser: NamedDependency[RunBrowser],
    wanted: StateName = "",
    project: FromQuery[str] = "",
    q: Text = "",
    cursor: FromQuery[str] = "",
) -> Response[str]:
    """Show the runs of the organization, newest first."""
    projects = await run_browser.list_projects(principal)
    query = ListQuery(
        "/runs", state=wanted if wanted in set(RunState) else "", project=_known(project, projects), text=q.strip(), cursor=cursor
    )
    found = await run_browser.list_runs(principal, _run_query(query))
    return pages.page(request, principal, "runs/list.html", title="Runs", active="runs", page=_runs_page(query, found, projects))


@get("/{ref:str}", permission="runs:read", include_in_schema=False)
async def run(
    ref: FromPath[str],
    request: PageRequest,
    principal: NamedDependency[Principal],
    pages: NamedDependency[Pages],
    run_browser: NamedDependency[RunBrowser],
    artifacts: NamedDependency[ArtifactService],
    tab: FromQuery[str] = "results",
) -> Response[str]:
    """Show one run; it fills live while the run lasts."""
    found = await run_browser.overview(principal, parse_ref(ref))
    head = present.head_of(found.detail)
    page = RunPage(
        run=head,
        tab=tab if tab in _TABS else "results",
        last_seq=found.detail.run.last_seq,
        failures=[present.case_of(case) for case in found.failures],
        failure_count=found.detail.run.failed + found.detail.run.errors,
        groups=present.groups_of(found.suites, found.cases, is_live=head.is_live),
        has_more_suites=found.has_more_suites,
        artifacts=[present.artifact_of(head.id, artifact) for artifact in await artifacts.list_artifacts(principal, found.detail.run.id)],
        may_abort=principal.has("runs:abort"),
        events_href=f"/api/v1/runs/{head.id}/events",
        log_href=f"/api/v1/runs/{head.id}/log",
        waiting_for=present.waiting_for(found.detail.run),
    )
    return pages.page(request, principal, "runs/run.html", title=f"{head.ref} {head.name}", active="runs", page=page)


@get("/{ref:str}/results", permission="runs:read", include_in_schema=False)
async def run_cases(
    ref: FromPath[str],
    request: PageRequest,
    principal: NamedDependency[Principal],
    pages: NamedDependency[Pages],
    run_browser: NamedDependency[RunBrowser],
    suite: SuiteName = None,
    outcome: FromQuery[str] = "",
    after: Annotated[int, QueryParameter(ge=0)] = 0,
) -> Response[str]:
    """Show the cases of one suite, or those that failed."""
    found = await run_browser.list_cases(principal, parse_ref(ref), suite=suite, only_bad=outcome == "failed", after=after)
    kept = {"outcome": outcome} if outcome else {}
    if suite is not None:
        kept["suite"] = suite
    head = f"/runs/{found.run.label}"
    return pages.page(
        request,
        principal,
        "runs/cases_page.html",
        title=f"{found.run.label} results",
        active="runs",
        run={"ref": found.run.label, "name": found.run.name, "href": head},
        heading="Failures" if outcome == "failed" else suite or "Results",
        cases=[present.case_of(case) for case in found.cases],
        next_href=f"{head}/results?{urlencode(kept | {'after': str(found.next_after)})}" if found.next_after else "",
    )


@get("/{ref:str}/case", permission="runs:read", include_in_schema=False)
async def run_case(
    ref: FromPath[str],
    key: CaseKey,
    request: PageRequest,
    principal: NamedDependency[Principal],
    pages: NamedDependency[Pages],
    run_browser: NamedDependency[RunBrowser],
) -> Response[str]:
    """Show one case of a run: every attempt with its traceback and output."""
    found, attempts = await run_browser.list_attempts(principal, parse_ref(ref), key)
    if not attempts:
        raise NotFound("this run has no such case")
    return pages.page(
        request,
        principal,
        "runs/case_page.html",
        title=f"{attempts[0].name} in {found.label}",
        active="runs",
        run={"ref": found.label, "name": found.name, "href": f"/runs/{found.label}"},
        case={"key": key, "name": attempts[0].name, "outcome": attempts[0].outcome.value},
        attempts=[present.attempt_of(attempt) for attempt in attempts],
    )


class LogJson(msgspec.Struct, frozen=True):
    """A page of a log for the viewer: `(stream, text)` pieces, and the address of the next page."""

    lines: list[tuple[str, str]]
    next: str | None


@get("/{ref:str}/log.json", permission="runs:read", include_in_schema=False)
async def run_log(
    ref: FromPath[str],
    principal: NamedDependency[Principal],
    run_browser: NamedDependency[RunBrowser],
    until: Annotated[int, QueryParameter(ge=0)],
    after: Annotated[int, QueryParameter(ge=0)] = 0,
) -> LogJson:
    """Return the log up to the event that the page knows of; the stream brings the rest."""
    found = await run_browser.read_log(principal, parse_ref(ref), after=after, until=until)
    more = f"/runs/{ref}/log.json?{urlencode({'after': found.next_after, 'until': until})}" if found.next_after else None
    return LogJson([(piece.stream, piece.text) for piece in found.pieces], more)


@post("/{ref:str}/abort", permission="runs:abort", include_in_schema=False)
async def abort_run(ref: FromPath[str], principal: NamedDependency[Principal], runs: NamedDependency[RunService]) -> Redirect:
    """Abort a run and go back to it. One that ended meanwhile stays as it is."""
    try:
        aborted = await runs.abort(principal, parse_ref(ref))
    except Conflict:
        return Redirect(f"/runs/{ref}", status_code=303)
    return Redirect(f"/runs/{aborted.label}", status_code=303)


def _run_query(query: ListQuery) -> RunQuery:
    return RunQuery(
        state=RunState(query.state) if query.state else None,
        project_id=UUID(query.project) if query.project else None,
        text=query.text or None,
        before=_cursor(query.cursor),
    )


def _cursor(text: str) -> RunId | None:
    """Read where a page starts; a broken address shows the first page rather than an error."""
    try:
        return parse_id(RunId, text) if text else None
    except Invalid:
        return None


def _known(project: str, projects: list[ProjectChoice]) -> str:
    return project if any(str(choice.id) == project for choice in projects) else ""


def _runs_page(query: ListQuery, found: FoundRuns, projects: list[ProjectChoice]) -> RunsPage:
    return RunsPage(
        query=query,
        rows=[present.row_of(run) for run in found.runs],
        count=found.count,
        states=state_choices(query, _STATES),
        projects=[(str(choice.id), choice.name) for choice in projects],
        next_href=query.href(cursor=str(found.next_before)) if found.next_before else "",
    )
