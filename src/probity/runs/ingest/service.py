"""Taking events in: once each, in order, durable before the reply."""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from probity.audit import service as audit
from probity.audit.models import Action
from probity.kernel.clock import Clock
from probity.kernel.db import Database, Tx
from probity.kernel.errors import ProbityError
from probity.kernel.groupcommit import GroupCommit
from probity.kernel.principal import OrgId, Principal, PrincipalKind, system_principal
from probity.runs import rules
from probity.runs.errors import NotThisAgentsRun, RunNotFound, WrongField
from probity.runs.ingest import store
from probity.runs.ingest.journal import Journal
from probity.runs.ingest.schemas import EventIn, ResultEvent
from probity.runs.ingest.store import LockedRun
from probity.runs.models import Ingested, Run, RunId

# Small batches of many writers share a transaction; a batch above this size is worth its own.
_SHARED_MAX: Final = 50
# One shared transaction takes at most this many batches (so at most 64 * 50 events).
_SHARED_BATCHES: Final = 64
# A machine whose clock was never set says 1970.
_FIRST_YEAR: Final = 1970
_LAST_YEAR: Final = 9998


class Delivery(msgspec.Struct, frozen=True):
    """One batch as it arrived."""

    principal: Principal
    run_id: RunId
    events: Sequence[EventIn]


class IngestService:
    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._shared = GroupCommit[Delivery, Ingested | ProbityError](self._write, max_batch=_SHARED_BATCHES)

    async def ingest(self, principal: Principal, run_id: RunId, events: Sequence[EventIn]) -> Ingested:
        """Append events whose id the run does not have yet; they are durable when this returns.

        An agent may write to the run of a job that it holds or held; anybody else needs `runs:write`.

        Raises:
            RunNotFound: no such run in the caller's organization.
            NotThisAgentsRun: the agent never held the run's job.
        """
        if principal.kind is not PrincipalKind.AGENT:
            principal.require("runs:write")
        _check_events(events)
        delivery = Delivery(principal, run_id, events)
        if len(events) <= _SHARED_MAX:
            outcome = await self._shared.submit(delivery)
        else:
            [outcome] = await self._write([delivery])
        if isinstance(outcome, ProbityError):
            raise outcome
        return outcome

    async def _write(self, deliveries: Sequence[Delivery]) -> list[Ingested | ProbityError]:
        """Write several batches in one transaction. What is wrong with one batch is its own outcome, not the others'."""
        org_ids = tuple(dict.fromkeys(delivery.principal.org_id for delivery in deliveries))
        known: dict[RunId, set[str]] = {}
        while True:
            try:
                async with self._db.transaction(system_principal(*org_ids)) as tx:
                    return await append(tx, deliveries, known)
            except store.EventsKnown as error:
                # Each round knows more of them, and there are no more than were sent.
                for run_id, ids in error.known.items():
                    known.setdefault(run_id, set()).update(ids)


async def append(tx: Tx, deliveries: Sequence[Delivery], known: Mapping[RunId, set[str]]) -> list[Ingested | ProbityError]:
    """Append batches to their runs in the caller's transaction, except the events that are `known` to be there.

    Raises:
        EventsKnown: more of them are there; the transaction must be given up.
    """
    locked = await store.lock_runs(tx, _distinct(deliveries))
    refused = [_refusal(delivery, locked.get(_key(delivery))) for delivery in deliveries]
    wanted = [(locked[_key(delivery)], delivery) for delivery, error in zip(deliveries, refused, strict=True) if error is None]
    journals = await _open_journals(tx, wanted, known)
    outcomes: list[Ingested | ProbityError] = []
    for delivery, error in zip(deliveries, refused, strict=True):
        if error is not None:
            outcomes.append(error)
            continue
        journal = journals[delivery.run_id]
        finished_before = journal.has_finished
        accepted = sum([journal.take(event) for event in delivery.events])
        outcomes.append(Ingested(accepted, len(delivery.events) - accepted, journal.close().last_seq))
        if journal.has_finished and not finished_before:
            await _record_finish(tx, delivery.principal, journal)
    await store.save(tx, list(journals.values()))
    return outcomes


async def _open_journals(tx: Tx, wanted: Sequence[tuple[LockedRun, Delivery]], known: Mapping[RunId, set[str]]) -> dict[RunId, Journal]:
    """Return a journal per run that knows what earlier attempts of the delivered cases came to."""
    runs = {run.id: _with_agent(run, delivery.principal) for run, delivery in wanted}
    asked: dict[RunId, tuple[Run, set[str]]] = {}
    for run, delivery in wanted:
        keys = {rules.case_key(event.case) for event in delivery.events if isinstance(event, ResultEvent)}
        # A run without results has no earlier attempts.
        if keys and run.total:
            asked.setdefault(run.id, (run, set()))[1].update(keys)
    cases = await store.case_states(tx, asked) if asked else {}
    return {run_id: Journal(run, known=set(known.get(run_id, ())), cases=cases.get(run_id)) for run_id, run in runs.items()}


async def _record_finish(tx: Tx, principal: Principal, journal: Journal) -> None:
    run = journal.run
    metadata = {"state": run.state.value, "reason_code": run.reason_code, "exit_code": run.exit_code}
    await audit.record(tx, principal, Action.RUN_FINISH, f"run:{run.id}", org_id=run.org_id, metadata=metadata)


def check_may_write(principal: Principal, run: LockedRun) -> None:
    """
    Raises:
        NotThisAgentsRun: the caller is an agent that never held the run's job.
    """
    agent_id = principal.agent_id
    if agent_id is not None and agent_id != run.agent_id and agent_id not in run.holders:
        raise NotThisAgentsRun


def _refusal(delivery: Delivery, run: LockedRun | None) -> ProbityError | None:
    if run is None:
        return RunNotFound()
    try:
        check_may_write(delivery.principal, run)
    except NotThisAgentsRun as error:
        return error
    return None


def _with_agent(run: LockedRun, principal: Principal) -> LockedRun:
    """The first agent to write becomes the run's, so that it may deliver the rest even when its lease is gone."""
    if principal.agent_id is None or run.agent_id is not None:
        return run
    return msgspec.structs.replace(run, agent_id=principal.agent_id)


def _check_events(events: Sequence[EventIn]) -> None:
    for index, event in enumerate(events):
        if "\x00" in event.id:
            raise WrongField(f"events.{index}.id", "must not contain the character NUL")
        # The first and the last moments of the calendar mean eternity to the database, and leave it in no time zone.
        if not _FIRST_YEAR <= event.at.year <= _LAST_YEAR:
            raise WrongField(f"events.{index}.at", f"must be in the years {_FIRST_YEAR} to {_LAST_YEAR}")


def _key(delivery: Delivery) -> tuple[OrgId, RunId]:
    return delivery.principal.org_id, delivery.run_id


def _distinct(deliveries: Sequence[Delivery]) -> list[tuple[OrgId, RunId]]:
    return list(dict.fromkeys(_key(delivery) for delivery in deliveries))
