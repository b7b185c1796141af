"""Reading runs for the pages: everything that one page shows comes from one transaction."""

from collections.abc import Sequence
from typing import Final

import msgspec

from probity.kernel.db import Database
from probity.kernel.principal import AgentId, Principal
from probity.runs import store as runs_store
from probity.runs.browse import store
from probity.runs.browse.models import CaseAttempt, CaseSummary, LogPiece, ProjectChoice, RunDetail, RunningRun, RunPage, RunQuery, Suite
from probity.runs.models import Run, RunRef

_SUITES: Final = 50
# Runs up to this size show every row at once; in larger ones a suite is opened first.
SMALL_RUN: Final = 100
_FAILURES: Final = 25
_CASES: Final = 200
# Pieces of output are up to 1 MB each, so a page of them is bounded by text too.
_LOG_PIECES: Final = 500
_LOG_CHARS: Final = 2_000_000


class RunOverview(msgspec.Struct, frozen=True):
    """One run with its first suites and failures, and its cases while they are few (`cases` is None in large runs)."""

    detail: RunDetail
    suites: list[Suite]
    has_more_suites: bool
    failures: list[CaseSummary]
    cases: list[CaseSummary] | None


class CasePage(msgspec.Struct, frozen=True):
    run: Run
    cases: list[CaseSummary]
    next_after: int | None


class LogPage(msgspec.Struct, frozen=True):
    pieces: list[LogPiece]
    next_after: int | None


class RunBrowser:
    def __init__(self, db: Database) -> None:
        self._db = db

    async def list_runs(self, principal: Principal, query: RunQuery) -> RunPage:
        """Return a page of runs, newest first, and how many there are in all."""
        principal.require("runs:read")
        async with self._db.transaction(principal) as tx:
            found = await store.list_runs(tx, principal.org_id, query)
            is_all = query.before is None and len(found) <= query.limit
            count = len(found) if is_all else await store.count_runs(tx, principal.org_id, query)
        runs = found[: query.limit]
        return RunPage(runs, count, runs[-1].id if len(found) > query.limit else None)

    async def list_projects(self, principal: Principal) -> list[ProjectChoice]:
        principal.require("runs:read")
        async with self._db.transaction(principal) as tx:
            return await store.list_projects(tx, principal.org_id)

    async def running_on(self, principal: Principal, agent_ids: Sequence[AgentId]) -> list[RunningRun]:
        """Return what these agents run now."""
        principal.require("runs:read")
        async with self._db.transaction(principal) as tx:
            return await store.running_on(tx, principal.org_id, agent_ids)

    async def overview(self, principal: Principal, ref: RunRef) -> RunOverview:
        """
        Raises:
            RunNotFound: the organization has no such run.
        """
        principal.require("runs:read")
        async with self._db.transaction(principal) as tx:
            run = await runs_store.get_run(tx, principal.org_id, ref)
            project, agent = await store.names_of(tx, run)
            suites = await store.list_suites(tx, run, limit=_SUITES)
            failures = await store.list_cases(tx, run, only_bad=True, limit=_FAILURES) if run.failed or run.errors else []
            cases = await store.list_cases(tx, run, limit=SMALL_RUN) if run.total <= SMALL_RUN else None
        return RunOverview(RunDetail(run, project, agent), suites[:_SUITES], len(suites) > _SUITES, failures[:_FAILURES], cases)

    async def list_cases(
        self, principal: Principal, ref: RunRef, *, suite: str | None = None, only_bad: bool = False, after: int = 0
    ) -> CasePage:
        """Return a page of the cases of one suite, or of all; `only_bad` keeps those that failed."""
        principal.require("runs:read")
        async with self._db.transaction(principal) as tx:
            run = await runs_store.get_run(tx, principal.org_id, ref)
            found = await store.list_cases(tx, run, suite=suite, only_bad=only_bad, after=after, limit=_CASES)
        cases = found[:_CASES]
        return CasePage(run, cases, cases[-1].first_seq if len(found) > _CASES else None)

    async def list_attempts(self, principal: Principal, ref: RunRef, case_key: str) -> tuple[Run, list[CaseAttempt]]:
        """Return the attempts of one case, the last one first; none when the run has no such case."""
        principal.require("runs:read")
        async with self._db.transaction(principal) as tx:
            run = await runs_store.get_run(tx, principal.org_id, ref)
            return run, await store.list_attempts(tx, run, case_key)

    async def read_log(self, principal: Principal, ref: RunRef, *, after: int, until: int) -> LogPage:
        """Return the next pieces of output up to sequence number `until`."""
        principal.require("runs:read")
        async with self._db.transaction(principal) as tx:
            run = await runs_store.get_run(tx, principal.org_id, ref)
            found = await store.read_log(tx, run, after=after, until=until, limit=_LOG_PIECES)
        size, taken = 0, 0
        for piece in found:
            size += len(piece.text)
            taken += 1
            if size > _LOG_CHARS:
                break
        more = taken < len(found) or len(found) == _LOG_PIECES
        return LogPage(found[:taken], found[taken - 1].seq if more and taken else None)
