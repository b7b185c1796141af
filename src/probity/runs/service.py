"""Operations on runs."""

import re
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from probity.audit import service as audit
from probity.audit.models import Action
from probity.kernel.clock import Clock
from probity.kernel.db import Database, Tx
from probity.kernel.errors import FieldError, Invalid
from probity.kernel.ids import new_id, parse_id
from probity.kernel.principal import OrgId, Principal
from probity.runs import rules, store
from probity.runs.errors import RunMismatch, RunNotFound, RunNotInProgress
from probity.runs.ingest import store as ingest_store
from probity.runs.ingest.journal import Journal
from probity.runs.models import Run, RunId, RunKind, RunState, month_of
from probity.runs.schemas import NewRunIn
from probity.runs.store import NewRow, ResultFilter, RunFilter

_LABEL: Final = re.compile(r"RUN-([1-9][0-9]{0,17})", re.IGNORECASE)
_LOG_PAGE: Final = 200

RunRef = RunId | int


class _ClientIdTaken(RunMismatch):
    """Somebody else took the `client_run_id` after we had looked."""


class Page(msgspec.Struct, frozen=True):
    """Rows as the JSON text of a list, and where the next page starts."""

    data: msgspec.Raw
    next_cursor: str | None


class RunService:
    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    async def create(self, principal: Principal, new: NewRunIn) -> Run:
        """Start a run that somebody else carries out and reports. A repeat with the same `client_run_id` returns the first run.

        Raises:
            RunMismatch: the `client_run_id` belongs to a run of another name or kind.
        """
        principal.require("runs:write")
        _refuse_nul(new)
        if new.client_run_id is not None and (earlier := await self._find_repeat(principal, new)) is not None:
            return earlier
        try:
            async with self._db.transaction(principal) as tx:
                run = await self._insert(tx, principal, new, RunKind.EXTERNAL, RunState.RUNNING, self._clock.now())
                return await _announce(tx, principal, run)
        except _ClientIdTaken:
            # The same request came twice at once; the other one won and is committed by now.
            if (earlier := await self._find_repeat(principal, new)) is None:
                raise
            return earlier

    async def get(self, principal: Principal, ref: RunRef) -> Run:
        principal.require("runs:read")
        async with self._db.transaction(principal) as tx:
            return await store.get_run(tx, principal.org_id, ref)

    async def list_runs(self, principal: Principal, narrowed: RunFilter) -> Page:
        """Return a page of runs, newest first."""
        principal.require("runs:read")
        async with self._db.transaction(principal) as tx:
            text = await store.list_runs(tx, principal.org_id, narrowed)
        return _page(text, narrowed.limit, "uuid")

    async def list_results(self, principal: Principal, ref: RunRef, narrowed: ResultFilter) -> Page:
        """Return a page of attempts in the order in which they arrived."""
        principal.require("runs:read")
        async with self._db.transaction(principal) as tx:
            run = await store.get_run(tx, principal.org_id, ref)
            text = await store.list_results(tx, run, narrowed)
        return _page(text, narrowed.limit, "seq")

    async def read_log(self, principal: Principal, ref: RunRef) -> AsyncIterator[str]:
        """Yield the run's output so far, in pieces of bounded size."""
        run = await self.get(principal, ref)
        return self._log_pieces(principal, run)

    async def finish(self, principal: Principal, ref: RunRef, *, exit_code: int | None = None, reason_code: str | None = None) -> Run:
        """End a run that somebody else carried out; its state follows from the results, the exit code and the reason.

        Raises:
            RunNotInProgress: it has ended already.
        """
        principal.require("runs:write")
        reason_code = rules.storable_or_none(reason_code)
        async with self._db.transaction(principal) as tx:
            run = await self._locked(tx, principal, ref)
            if not rules.may_finish(run.state, run.reason_code):
                raise RunNotInProgress(run.state)
            state = rules.verdict(run.totals, exit_code=exit_code, reason_code=reason_code)
            return await self._end(tx, principal, run, state, Action.RUN_FINISH, reason_code=reason_code, exit_code=exit_code)

    async def abort(self, principal: Principal, ref: RunRef) -> Run:
        """Abort a run that is waiting or running.

        Raises:
            RunNotInProgress: it has ended already.
        """
        principal.require("runs:abort")
        async with self._db.transaction(principal) as tx:
            run = await self._locked(tx, principal, ref)
            if run.state.is_final:
                raise RunNotInProgress(run.state)
            return await self._end(tx, principal, run, RunState.ABORTED, Action.RUN_ABORT, reason_code="aborted")

    async def _find_repeat(self, principal: Principal, new: NewRunIn) -> Run | None:
        assert new.client_run_id is not None
        async with self._db.transaction(principal) as tx:
            run = await store.find_run_by_client_id(tx, principal.org_id, new.client_run_id)
        if run is not None and ((new.name is not None and new.name != run.name) or new.command != run.command):
            raise RunMismatch(new.client_run_id)
        return run

    async def _insert(self, tx: Tx, principal: Principal, new: NewRunIn, kind: RunKind, state: RunState, now: datetime) -> Run:
        run_id = RunId(new_id())
        month = month_of(run_id)
        await ingest_store.add_month(tx, month)
        run = await store.insert_run(
            tx,
            NewRow(
                id=run_id,
                org_id=principal.org_id,
                run_month=month,
                project_id=None,
                kind=kind,
                name=new.name,
                state=state,
                trigger=new.trigger or "manual",
                command=new.command,
                created_by=principal.actor,
                created_at=now,
                started_at=now if state is RunState.RUNNING else None,
                client_run_id=new.client_run_id,
                meta={},
            ),
        )
        if run is None:
            raise _ClientIdTaken(new.client_run_id or "")
        return run

    async def _locked(self, tx: Tx, principal: Principal, ref: RunRef) -> Run:
        run = await store.get_run(tx, principal.org_id, ref)
        return await lock_run(tx, run.org_id, run.id)

    async def _end(
        self,
        tx: Tx,
        principal: Principal,
        run: Run,
        state: RunState,
        action: Action,
        *,
        reason_code: str | None = None,
        exit_code: int | None = None,
    ) -> Run:
        journal = Journal(run)
        journal.finish(state, self._clock.now(), reason_code=reason_code, exit_code=exit_code)
        ended = journal.close()
        await ingest_store.save(tx, [journal])
        await audit.record(
            tx,
            principal,
            action,
            f"run:{run.id}",
            org_id=run.org_id,
            metadata={"state": state.value, "reason_code": reason_code, "exit_code": exit_code},
        )
        return ended

    async def _log_pieces(self, principal: Principal, run: Run) -> AsyncIterator[str]:
        after = 0
        while True:
            async with self._db.transaction(principal) as tx:
                lines = await store.read_log(tx, run, after=after, limit=_LOG_PAGE)
            for line in lines:
                yield line.text
            if len(lines) < _LOG_PAGE:
                return
            after = lines[-1].seq


def parse_ref(text: str) -> RunRef:
    """Read how a client names a run: `RUN-42`, a UUID, or its 24-digit spelling.

    Raises:
        RunNotFound: none of these, so there is no such run.
    """
    if (label := _LABEL.fullmatch(text)) is not None:
        return int(label[1])
    try:
        return parse_id(RunId, text)
    except Invalid as error:
        raise RunNotFound from error


async def lock_run(tx: Tx, org_id: OrgId, run_id: RunId) -> ingest_store.LockedRun:
    """Read a run and hold its row until the transaction ends."""
    run = (await ingest_store.lock_runs(tx, [(org_id, run_id)])).get((org_id, run_id))
    if run is None:
        raise RunNotFound
    return run


async def _announce(tx: Tx, principal: Principal, run: Run) -> Run:
    """Write the run's first event and the trail's."""
    journal = Journal(run)
    journal.created()
    announced = journal.close()
    await ingest_store.save(tx, [journal])
    metadata = {"kind": run.kind.value, "name": run.name, "number": run.number}
    await audit.record(tx, principal, Action.RUN_CREATE, f"run:{run.id}", org_id=run.org_id, correlation_id=run.job_id, metadata=metadata)
    return announced


def _refuse_nul(new: NewRunIn) -> None:
    """Refuse the character NUL, which neither a command line nor a column can hold.

    Raises:
        Invalid: some fields have it; all of them are named.
    """
    fields = tuple(FieldError(name, "must not contain the character NUL") for name in new.__struct_fields__ if _has_nul(getattr(new, name)))
    if fields:
        raise Invalid("the character NUL is not allowed", fields=fields)


def _has_nul(value: object) -> bool:
    if isinstance(value, str):
        return "\x00" in value
    if isinstance(value, dict):
        return any(map(_has_nul, value.values()))
    return isinstance(value, list) and any(map(_has_nul, value))


def _page(text: str, limit: int, key: str) -> Page:
    """Split a list of at most `limit + 1` rows into a page and the key of its last row, if more follow."""
    rows = msgspec.json.decode(text, type=list[msgspec.Raw])
    if len(rows) <= limit:
        return Page(msgspec.Raw(text.encode()), None)
    page = rows[:limit]
    last = msgspec.json.decode(page[-1], type=dict[str, msgspec.Raw])[key]
    cursor = bytes(last).decode().strip('"')
    return Page(msgspec.Raw(b"[" + b",".join(bytes(row) for row in page) + b"]"), cursor)


def parse_cursor(text: str) -> UUID:
    """Read the cursor of a page of runs.

    Raises:
        Invalid: it is not one that was given out.
    """
    try:
        return UUID(text)
    except ValueError as error:
        raise Invalid("invalid cursor") from error
