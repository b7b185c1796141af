"""Reading the sequence of a run."""

from collections.abc import Sequence
from datetime import date, datetime
from typing import Final, LiteralString

import msgspec

from probity.kernel.db import Tx, fetch_all, fetch_rows
from probity.kernel.principal import OrgId
from probity.runs.models import EventType, Run, RunId


class StoredEvent(msgspec.Struct, frozen=True):
    """One row of the sequence; `body` is JSON text."""

    seq: int
    type: EventType
    at: datetime
    body: str


class Place(msgspec.Struct, frozen=True):
    """Where the events of a run are."""

    org_id: OrgId
    run_id: RunId
    run_month: date

    @classmethod
    def of(cls, run: Run) -> "Place":
        return cls(run.org_id, run.id, run.run_month)


_EVENTS: Final[LiteralString] = """
    select e.seq, e.type, e.at, e.body::text as body
      from run_events e
     where e.org_id = :org_id
       and e.run_month = :run_month
       and e.run_id = :run_id
"""


async def read_events(tx: Tx, place: Place, *, after: int, limit: int) -> list[StoredEvent]:
    """Return the next events after sequence number `after`."""
    return await fetch_all(
        tx,
        StoredEvent,
        _EVENTS + " and e.seq > :after order by e.seq limit :limit",
        org_id=place.org_id,
        run_month=place.run_month,
        run_id=place.run_id,
        after=after,
        limit=limit,
    )


async def read_last(tx: Tx, place: Place, kind: EventType, *, up_to: int, limit: int) -> list[StoredEvent]:
    """Return the last events of one type up to sequence number `up_to`, in the order of the sequence."""
    newest_first = await fetch_all(
        tx,
        StoredEvent,
        _EVENTS + " and e.type = :type and e.seq <= :up_to order by e.seq desc limit :limit",
        org_id=place.org_id,
        run_month=place.run_month,
        run_id=place.run_id,
        type=kind.value,
        up_to=up_to,
        limit=limit,
    )
    return newest_first[::-1]


async def last_seqs(tx: Tx, places: Sequence[Place]) -> dict[RunId, int]:
    """Return how far each run has come."""
    rows = await fetch_rows(
        tx,
        """
        select r.id, r.last_seq
          from runs r
          join unnest(:org_ids::uuid[], :ids::uuid[]) as w (org_id, id)
            on r.org_id = w.org_id
           and r.id = w.id
        """,
        org_ids=[place.org_id for place in places],
        ids=[place.run_id for place in places],
    )
    return {RunId(row["id"]): row["last_seq"] for row in rows}


async def unfinished_runs(tx: Tx, org_id: OrgId) -> dict[RunId, int]:
    """Return the runs of an organization that wait or run, with how far they have come."""
    rows = await fetch_rows(
        tx, "select id, last_seq from runs where org_id = :org_id and state = any('{queued,running}'::text[])", org_id=org_id
    )
    return {RunId(row["id"]): row["last_seq"] for row in rows}
