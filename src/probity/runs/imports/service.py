"""Turning JUnit XML into a run."""

import asyncio
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import Final

from probity.audit import service as audit
from probity.audit.models import Action
from probity.identity.service import next_number
from probity.kernel.clock import Clock
from probity.kernel.db import Database, Tx
from probity.kernel.junit import JUnitCase, iter_cases
from probity.kernel.principal import Principal
from probity.runs import rules
from probity.runs.errors import ClientIdTaken, RunMismatch
from probity.runs.imports.bodies import Reports
from probity.runs.ingest import store as ingest_store
from probity.runs.ingest.journal import Journal
from probity.runs.ingest.schemas import ResultEvent
from probity.runs.models import Outcome, Run, RunKind
from probity.runs.schemas import NewRunIn
from probity.runs.service import RunService

# Cases per statement; at most this many are in memory at once.
_BATCH: Final = 500


class ImportService:
    def __init__(self, db: Database, clock: Clock, runs: RunService) -> None:
        self._db = db
        self._clock = clock
        self._runs = runs

    async def import_junit(self, principal: Principal, new: NewRunIn, reports: Reports) -> tuple[Run, bool]:
        """Make one finished run of all `reports`, or nothing if one of them is unreadable; say whether it is new.

        A repeat with the same `client_run_id` (the idempotency key) returns the run that the first request made.

        Raises:
            JUnitError: not JUnit XML.
            RunMismatch: the key was used for other reports.
        """
        principal.require("runs:write")
        if (earlier := await self._find_repeat(principal, new, reports)) is not None:
            return earlier, False
        # Everything that may take long comes first: a large report must not hold up all other runs of its organization.
        await asyncio.to_thread(_check_readable, reports)
        async with self._db.transaction(principal) as tx:
            number = await next_number(tx, principal.org_id, "RUN")
        meta = {"sha256": reports.digest, "files": len(reports.files)}
        try:
            async with self._db.transaction(principal) as tx:
                run = await self._runs.insert_in(tx, principal, new, RunKind.IMPORT, number=number, meta=meta)
                return await self._fill(tx, principal, run, reports), True
        except ClientIdTaken:
            # The same request came twice at once; the other one won and is committed by now.
            if (earlier := await self._find_repeat(principal, new, reports)) is None:
                raise
            return earlier, False

    async def _fill(self, tx: Tx, principal: Principal, run: Run, reports: Reports) -> Run:
        now = self._clock.now()
        journal = Journal(run)
        journal.created()
        for number, file in enumerate(reports.files):
            cases = iter_cases(file)
            position = 0
            # Parsing is work for a thread: a large file would hold up everybody else's requests.
            while batch := await asyncio.to_thread(_take, cases):
                journal = await self._appended(tx, journal)
                for case in batch:
                    position += 1
                    journal.take(_event(case, f"{number}:{position}", now))
        # A report without a single case proves nothing, so it must not count as a pass.
        reason_code = None if journal.totals.total else "no_results"
        journal.finish(rules.verdict(journal.totals, exit_code=None, reason_code=reason_code), now, reason_code=reason_code)
        finished = journal.close()
        await ingest_store.save(tx, [journal])
        metadata = {
            "name": run.name,
            "number": run.number,
            "sha256": reports.digest,
            "state": finished.state.value,
            "total": finished.total,
        }
        await audit.record(tx, principal, Action.RUN_IMPORT, f"run:{run.id}", metadata=metadata)
        return finished

    async def _appended(self, tx: Tx, journal: Journal) -> Journal:
        """Write what a journal holds and go on with an empty one that knows the cases so far."""
        run = journal.close()
        await ingest_store.save(tx, [journal])
        return journal.next(run)

    async def _find_repeat(self, principal: Principal, new: NewRunIn, reports: Reports) -> Run | None:
        if new.client_run_id is None:
            return None
        run = await self._runs.find_by_client_id(principal, new.client_run_id)
        if run is not None and (run.kind is not RunKind.IMPORT or run.meta.get("sha256") != reports.digest):
            raise RunMismatch(new.client_run_id)
        return run


def _check_readable(reports: Reports) -> None:
    """
    Raises:
        JUnitError: one of the files is not JUnit XML.
    """
    for file in reports.files:
        for _ in iter_cases(file):
            pass
        file.seek(0)


def _take(cases: Iterator[JUnitCase]) -> list[JUnitCase]:
    return list(islice(cases, _BATCH))


def _event(case: JUnitCase, event_id: str, now: datetime) -> ResultEvent:
    return ResultEvent(
        id=event_id,
        at=now,
        case=case.case_key,
        name=case.name,
        suite=case.suite or case.classname or None,
        file=case.file,
        line=case.line,
        outcome=Outcome(case.outcome.value),
        duration_ms=case.time_s * 1000,
        attempt=case.attempt,
        message=case.message,
        details=case.details,
        stdout=case.stdout,
        stderr=case.stderr,
    )
