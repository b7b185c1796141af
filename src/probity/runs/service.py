"""Operations on runs."""

import re
import shlex
from collections.abc import AsyncIterator, Mapping
from typing import Final
from uuid import UUID

import msgspec

from probity.audit import service as audit
from probity.audit.models import Action
from probity.dispatch.events import JobFinished
from probity.dispatch.models import JobId, NewJob, Reason
from probity.dispatch.service import DispatchService
from probity.fleet.service import FleetService
from probity.identity.service import next_number
from probity.kernel.clock import Clock
from probity.kernel.db import Database, Tx
from probity.kernel.errors import FieldError, Invalid
from probity.kernel.ids import new_id, parse_id
from probity.kernel.principal import OrgId, Principal, system_principal
from probity.kernel.queue import JobState
from probity.projects.service import ProjectService
from probity.runs import rules, store
from probity.runs.errors import ClientIdTaken, RunMismatch, RunNotFound, RunNotInProgress
from probity.runs.ingest import store as ingest_store
from probity.runs.ingest.journal import Journal
from probity.runs.models import Run, RunId, RunKind, RunRef, RunState, month_of
from probity.runs.schemas import NewRunIn
from probity.runs.store import NewRow, ResultFilter, RunFilter

_LABEL: Final = re.compile(r"RUN-([1-9][0-9]{0,17})", re.IGNORECASE)
_LOG_PAGE: Final = 200
# A suite is started once more when its agent is lost; an agent that comes back first takes its own job up again.
_MAX_ATTEMPTS: Final = 2
_DISPATCH_FIELDS: Final = ("cwd", "env", "agent", "tags", "junit", "artifacts")
_SERVER_REASONS: Final = frozenset(reason.value for reason in Reason)


class Page(msgspec.Struct, frozen=True):
    """Rows as the JSON text of a list, and where the next page starts."""

    data: msgspec.Raw
    next_cursor: str | None


class RunService:
    def __init__(self, db: Database, clock: Clock, dispatch: DispatchService, fleet: FleetService, projects: ProjectService) -> None:
        self._db = db
        self._clock = clock
        self._dispatch = dispatch
        self._fleet = fleet
        self._projects = projects

    async def create(self, principal: Principal, new: NewRunIn) -> Run:
        """Start a run: with a command it is queued for an agent, without one somebody else carries it out and reports.

        A repeat with the same `client_run_id` returns the first run.

        Raises:
            WrongField: the fields do not fit together.
            RunMismatch: the `client_run_id` belongs to a run of another name or command.
        """
        principal.require("runs:write" if new.command is None else "runs:execute")
        _check_new(new)
        if new.client_run_id is not None and (earlier := await self._find_repeat(principal, new)) is not None:
            return earlier
        try:
            async with self._db.transaction(principal) as tx:
                run = await self.insert_in(tx, principal, new, RunKind.EXTERNAL if new.command is None else RunKind.COMMAND)
                if new.command is not None:
                    run = await self._dispatch_in(tx, principal, run, new)
                return await announce_in(tx, principal, run, Action.RUN_CREATE)
        except ClientIdTaken:
            # The same request came twice at once; the other one won and is committed by now.
            if (earlier := await self._find_repeat(principal, new)) is None:
                raise
            return earlier

    async def get(self, principal: Principal, ref: RunRef) -> Run:
        principal.require("runs:read")
        async with self._db.transaction(principal) as tx:
            return await store.get_run(tx, principal.org_id, ref)

    async def id_of(self, principal: Principal, ref: RunRef) -> RunId:
        """Return the id of a run that is named by its number; an id stands for itself, whether there is such a run or not."""
        if not isinstance(ref, int):
            return ref
        async with self._db.transaction(principal) as tx:
            return (await store.get_run(tx, principal.org_id, ref)).id

    async def find_project(self, principal: Principal, text: str) -> UUID:
        """Return the id of the project that a filter names."""
        principal.require("runs:read")
        async with self._db.transaction(principal) as tx:
            return (await self._projects.get_in(tx, principal.org_id, text)).id

    async def list_runs(self, principal: Principal, narrowed: RunFilter) -> Page:
        """Return a page of runs, newest first."""
        principal.require("runs:read")
        async with self._db.transaction(principal) as tx:
            text = await store.list_runs(tx, principal.org_id, narrowed)
        return _page(text, narrowed.limit, "number")

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
            aborted = await self._end(tx, principal, run, RunState.ABORTED, Action.RUN_ABORT, reason_code="aborted")
            if run.job_id is not None:
                await self._dispatch.cancel_in(tx, principal, JobId(run.job_id))
            return aborted

    async def find_by_client_id(self, principal: Principal, client_run_id: str) -> Run | None:
        async with self._db.transaction(principal) as tx:
            return await store.find_run_by_client_id(tx, principal.org_id, client_run_id)

    async def _find_repeat(self, principal: Principal, new: NewRunIn) -> Run | None:
        assert new.client_run_id is not None
        run = await self.find_by_client_id(principal, new.client_run_id)
        if run is not None and ((new.name is not None and new.name != run.name) or new.command != run.command):
            raise RunMismatch(new.client_run_id)
        return run

    async def insert_in(
        self,
        tx: Tx,
        principal: Principal,
        new: NewRunIn,
        kind: RunKind,
        *,
        number: int | None = None,
        meta: Mapping[str, object] | None = None,
    ) -> Run:
        """Insert a run in the caller's transaction; whoever fills it in that transaction announces it too.

        Args:
            number: one taken before. Without it the next one is taken here, and nobody else of the organization gets one until the
                transaction ends.

        Raises:
            ClientIdTaken: there is a run with that `client_run_id` already.
        """
        now = self._clock.now()
        project = await self._projects.get_or_create_in(tx, principal, new.project) if new.project is not None else None
        run_id = RunId(new_id())
        month = month_of(run_id)
        await ingest_store.add_month(tx, month)
        run = await store.insert_run(
            tx,
            NewRow(
                id=run_id,
                org_id=principal.org_id,
                run_month=month,
                project_id=project.id if project is not None else None,
                kind=kind,
                name=new.name or (shlex.join(new.command)[:200] if new.command else None),
                state=RunState.QUEUED if kind is RunKind.COMMAND else RunState.RUNNING,
                trigger=new.trigger or "manual",
                command=new.command,
                created_by=principal.actor,
                created_at=now,
                started_at=None if kind is RunKind.COMMAND else now,
                client_run_id=new.client_run_id,
                meta=meta or {},
            ),
            await next_number(tx, principal.org_id, "RUN") if number is None else number,
        )
        if run is None:
            raise ClientIdTaken(new.client_run_id or "")
        return run

    async def close_after_job(self, event: JobFinished, *, may_wait: bool) -> bool:
        """End the run of a job that has ended, if nobody else did. False: its agent's last events may still be on their way.

        An agent reports the end of its command before it completes the job, but a spooled report may arrive a little later.
        """
        if event.run_id is None:
            return True
        principal = system_principal(OrgId(event.org_id))
        async with self._db.transaction(principal) as tx:
            try:
                run = await lock_run(tx, principal.org_id, RunId(event.run_id))
            except RunNotFound:
                return True
            if run.state.is_final or run.job_id != event.job_id:
                return True
            was_server = event.state is JobState.CANCELLED or event.reason_code in _SERVER_REASONS
            if may_wait and not was_server:
                return False
            reason_code = event.reason_code or ("no_finish" if event.state is JobState.SUCCEEDED else event.state.value)
            state = rules.verdict(run.totals, exit_code=None, reason_code=reason_code)
            await self._end(tx, principal, run, state, Action.RUN_FINISH, reason_code=reason_code)
        return True

    async def _dispatch_in(self, tx: Tx, principal: Principal, run: Run, new: NewRunIn) -> Run:
        """Queue the run's command for an agent, in the transaction that makes the run."""
        agent = await self._fleet.resolve_agent_in(tx, principal, new.agent) if new.agent is not None else None
        payload = {
            "run_id": str(run.id),
            "command": new.command,
            "cwd": new.cwd,
            "env": new.env,
            "timeout_s": new.timeout_s,
            "output_limit_bytes": new.output_limit_bytes,
            "junit": new.junit,
            "artifacts": new.artifacts,
            "pytest_live": new.pytest_live,
        }
        job = await self._dispatch.enqueue_job_in(
            tx,
            principal,
            NewJob(
                kind="command",
                payload=payload,
                agent_id=agent.id if agent is not None else None,
                tags=tuple(new.tags),
                timeout_s=new.timeout_s,
                max_attempts=_MAX_ATTEMPTS,
                run_id=run.id,
            ),
        )
        await store.link_job(tx, run.org_id, run.id, job.id)
        return msgspec.structs.replace(run, job_id=job.id)

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


async def announce_in(tx: Tx, principal: Principal, run: Run, action: Action) -> Run:
    """Write the first event of a new run, and the trail's."""
    journal = Journal(run)
    journal.created()
    announced = journal.close()
    await ingest_store.save(tx, [journal])
    metadata = {"kind": run.kind.value, "name": run.name, "number": run.number}
    await audit.record(tx, principal, action, f"run:{run.id}", org_id=run.org_id, correlation_id=run.job_id, metadata=metadata)
    return announced


def _check_new(new: NewRunIn) -> None:
    """
    Raises:
        Invalid: fields do not fit together, or hold the character NUL; all of them are named.
    """
    wrong = [FieldError(name, "must not contain the character NUL") for name in new.__struct_fields__ if _has_nul(getattr(new, name))]
    if new.kind is RunKind.IMPORT:
        wrong.append(FieldError("kind", "reports are imported by POST /api/v1/runs/import"))
    elif new.kind is RunKind.COMMAND and new.command is None:
        wrong.append(FieldError("command", "a run of kind command needs one"))
    elif new.kind is RunKind.EXTERNAL and new.command is not None:
        wrong.append(FieldError("command", "an external run is carried out by somebody else and has none"))
    if new.command is None:
        wrong += [FieldError(name, "only a run with a command is dispatched") for name in _DISPATCH_FIELDS if getattr(new, name)]
    if wrong:
        raise Invalid("the run cannot be started like this", fields=tuple(wrong))


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
