"""Operations on jobs: queue, claim, renew, complete, cancel."""

import asyncio
from typing import Final
from uuid import UUID

import asyncpg
import structlog

from probity.audit import service as audit
from probity.audit.models import Action
from probity.dispatch import lease_store, rules, store
from probity.dispatch.errors import JobNotFound, JobNotOwned, QueueFull
from probity.dispatch.events import JOBS_WAITING, JobFinished
from probity.dispatch.lease_store import ClaimResult, EndResult
from probity.dispatch.models import LEASE_S, ClaimedJob, Completion, Job, JobId, NewJob, Reason, Renewal
from probity.fleet.models import AgentCredential
from probity.fleet.service import FleetService
from probity.kernel.clock import Clock
from probity.kernel.db import Database, Tx
from probity.kernel.errors import Unavailable
from probity.kernel.events import publish
from probity.kernel.groupcommit import GroupCommit
from probity.kernel.ids import new_id
from probity.kernel.principal import OrgId, Principal
from probity.kernel.queue import JobState
from probity.kernel.wakeups import ANY, Wakeups

log = structlog.get_logger(__name__)

MAX_WAIT_S: Final = 60.0
# A waiting claim looks again this often without a wake-up: leases run out silently, and a wake-up may be lost.
_LOOK_AGAIN_S: Final = 10.0
# How long after a job's time limit its agent is told to stop, should it not have stopped by itself.
_TIMEOUT_GRACE_S: Final = 30.0
_REQUEUE_BATCH: Final = 100


class DispatchService:
    """
    Args:
        wakeups: wakes waiting claims, in every server.
        queue_cap: jobs that may wait in one organization.
        agent_queue_cap: jobs that may wait for one agent by name.
    """

    def __init__(
        self,
        db: Database,
        clock: Clock,
        fleet: FleetService,
        wakeups: Wakeups,
        *,
        queue_cap: int = 100_000,
        agent_queue_cap: int = 1_000,
        lease_s: float = LEASE_S,
    ) -> None:
        self._db = db
        self._clock = clock
        self._fleet = fleet
        self._queue_cap = queue_cap
        self._agent_queue_cap = agent_queue_cap
        self._lease_s = lease_s
        self._claims = GroupCommit[AgentCredential, ClaimResult](self._claim_batch)
        self._ends = GroupCommit[tuple[AgentCredential, JobId, Completion], EndResult](self._end_batch)
        self._waiting: dict[OrgId, set[asyncio.Event]] = {}
        self._giving_back: set[asyncio.Task[None]] = set()
        self._stopping = False
        wakeups.subscribe(JOBS_WAITING, self._wake)

    # People

    async def enqueue_job(self, principal: Principal, new: NewJob) -> Job:
        """Queue a job for an agent of the caller's organization."""
        principal.require("jobs:create")
        async with self._db.transaction(principal) as tx:
            return await self.enqueue_job_in(tx, principal, new)

    async def enqueue_job_in(self, tx: Tx, principal: Principal, new: NewJob) -> Job:
        """Queue a job in the caller's transaction. Checks no permission: the calling service did, in its own terms.

        Raises:
            InvalidJob: unknown kind, or a bound is not kept.
            QueueFull: the organization, or the agent the job names, has as many waiting jobs as it may.
        """
        new, org_id, job_id = rules.checked(new), principal.org_id, JobId(new_id())
        if await store.is_queue_full(tx, org_id, self._queue_cap):
            raise QueueFull("organization", self._queue_cap)
        if new.agent_id is not None:
            if await store.is_agent_queue_full(tx, org_id, new.agent_id, self._agent_queue_cap):
                raise QueueFull("agent", self._agent_queue_cap)
            await self._fleet.resolve_agent_in(tx, principal, str(new.agent_id))
        correlation_id = new.correlation_id or new_id()
        await store.insert_job(tx, org_id, job_id, new, correlation_id=correlation_id, created_by=principal.actor, now=self._clock.now())
        await audit.record(
            tx, principal, Action.JOB_ENQUEUE, f"job:{job_id}", correlation_id=correlation_id, metadata={"job_type": new.kind}
        )
        tx.touch(JOBS_WAITING, str(org_id))
        return await self._get(tx, org_id, job_id)

    async def get_job(self, principal: Principal, job_id: JobId) -> Job:
        """
        Raises:
            JobNotFound: the organization has no such job.
        """
        principal.require("jobs:create")
        async with self._db.transaction(principal) as tx:
            return await self._get(tx, principal.org_id, job_id)

    async def cancel(self, principal: Principal, job_id: JobId) -> Job:
        """Cancel a job; safe to repeat, and without effect on one that has ended."""
        principal.require("jobs:create")
        async with self._db.transaction(principal) as tx:
            return await self.cancel_in(tx, principal, job_id)

    async def cancel_in(self, tx: Tx, principal: Principal, job_id: JobId) -> Job:
        """Cancel in the caller's transaction: a waiting job ends at once, a held one when its agent renews or its lease runs out.

        Raises:
            JobNotFound: the organization has no such job.
        """
        org_id, now = principal.org_id, self._clock.now()
        job = await store.lock_job(tx, org_id, job_id)
        if job is None:
            raise JobNotFound
        if job.state.is_final or job.cancel_requested_at is not None:
            return job
        if job.state is JobState.QUEUED:
            await store.cancel_job(tx, org_id, job_id, now)
            if job.run_id is not None:
                event = JobFinished(job_id, org_id, job.run_id, None, JobState.CANCELLED, Reason.CANCELLED.value)
                await publish(tx, event, org_id=org_id, correlation_id=job.correlation_id)
        else:
            await store.request_cancel(tx, org_id, job_id, now)
        await audit.record(tx, principal, Action.JOB_CANCEL, f"job:{job_id}", correlation_id=job.correlation_id)
        return await self._get(tx, org_id, job_id)

    # Agents

    async def claim(self, credential: AgentCredential, *, address: str, wait_s: float = 0.0) -> ClaimedJob | None:
        """Lease the best waiting job to the agent: jobs that name it first, then by priority and age.

        Shares its statement with claims that arrive meanwhile. Without a job it waits up to `wait_s` seconds (at most 60) for one.

        Raises:
            AgentRejected: the credential is not live.
        """
        result = await self._claim_once(credential, address)
        if result.job is not None or wait_s <= 0 or result.org_id is None:
            return result.job
        return await self._claim_when_woken(credential, address, result.org_id, min(wait_s, MAX_WAIT_S))

    async def renew(self, credential: AgentCredential, job_id: JobId, *, address: str) -> Renewal:
        """Extend the lease of a job that the agent holds, or held last while nobody else has claimed it.

        Raises:
            AgentRejected, JobNotFound, JobNotOwned.
        """
        result = await lease_store.renew_all_tenants(
            self._db, credential, job_id, now=self._clock.now(), lease_s=self._lease_s, grace_s=_TIMEOUT_GRACE_S
        )
        if not result.is_live:
            raise await self._fleet.rejected(credential.agent_id, address=address)
        if not result.exists:
            raise JobNotFound
        if result.renewal is None:
            raise JobNotOwned
        return result.renewal

    async def complete(self, credential: AgentCredential, job_id: JobId, completion: Completion, *, address: str) -> None:
        """End a job that the agent holds. A repeat has no effect and succeeds; so does anybody's word about a job that has ended.

        Raises:
            AgentRejected: the credential is not live.
            JobNotFound: the agent's organization has no such job.
            JobNotOwned: another agent holds it, nobody does, or its lease expired and it was given up.
        """
        result = await self._ends.submit((credential, job_id, completion))
        if result.is_live and result.is_holder and not result.ended and result.state in (JobState.CLAIMED, JobState.QUEUED):
            # Another word about this job came first, in this statement or in another server's: look at what it left.
            result = await self._ends.submit((credential, job_id, completion))
        if not result.is_live:
            raise await self._fleet.rejected(credential.agent_id, address=address)
        if result.state is None:
            raise JobNotFound
        if not result.ended and result.state not in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED):
            raise JobNotOwned

    def stop(self) -> None:
        """End all waiting claims; the server is shutting down."""
        self._stopping = True
        self._wake(ANY)

    async def _get(self, tx: Tx, org_id: OrgId, job_id: JobId) -> Job:
        job = await store.find_job(tx, org_id, job_id)
        if job is None:
            raise JobNotFound
        return job

    async def _claim_once(self, credential: AgentCredential, address: str) -> ClaimResult:
        claim = asyncio.ensure_future(self._claims.submit(credential))
        try:
            result = await asyncio.shield(claim)
        except asyncio.CancelledError:
            # The agent hung up while its claim was being written: nobody will ever work on the job, so it waits again at once.
            task = asyncio.create_task(self._give_back(credential, claim))
            self._giving_back.add(task)
            task.add_done_callback(self._giving_back.discard)
            raise
        if result.org_id is None:
            raise await self._fleet.rejected(credential.agent_id, address=address)
        return result

    async def _claim_when_woken(self, credential: AgentCredential, address: str, org_id: OrgId, wait_s: float) -> ClaimedJob | None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait_s
        woken = asyncio.Event()
        waiting = self._waiting.setdefault(org_id, set())
        waiting.add(woken)
        try:
            while not self._stopping:
                # Cleared before looking: what is queued while we look wakes us again.
                woken.clear()
                result = await self._claim_once(credential, address)
                left_s = deadline - loop.time()
                if result.job is not None or left_s <= 0:
                    return result.job
                try:
                    await asyncio.wait_for(woken.wait(), min(left_s, _LOOK_AGAIN_S))
                except TimeoutError:
                    if left_s <= _LOOK_AGAIN_S:
                        return None
            return None
        finally:
            waiting.discard(woken)
            if not waiting and self._waiting.get(org_id) is waiting:
                del self._waiting[org_id]

    def _wake(self, key: str) -> None:
        if key == ANY:
            for waiting in self._waiting.values():
                for woken in waiting:
                    woken.set()
            return
        for woken in self._waiting.get(OrgId(UUID(key)), ()):
            woken.set()

    async def _give_back(self, credential: AgentCredential, claim: "asyncio.Future[ClaimResult]") -> None:
        try:
            result = await claim
            if result.job is not None and result.org_id is not None:
                async with self._db.system() as tx:
                    await lease_store.give_back_all_tenants(tx, result.org_id, result.job.id, credential.agent_id, now=self._clock.now())
                    tx.touch(JOBS_WAITING, str(result.org_id))
        except (Unavailable, asyncio.CancelledError) as error:
            log.warning("dispatch.claim.not_given_back", agent_id=str(credential.agent_id), error=repr(error))

    async def _claim_batch(self, claimers: list[AgentCredential]) -> list[ClaimResult]:
        """Claim for all; who is left without asks again while jobs may have become free: from another class, or from a dead agent."""
        results = await self._claim(claimers)
        empty = [n for n, result in enumerate(results) if result.org_id is not None and result.job is None]
        if not empty:
            return results
        try:
            again = await self._worth_asking_again(results, empty)
            for n, result in zip(again, await self._claim([claimers[n] for n in again]), strict=True):
                results[n] = result
        except (Unavailable, asyncpg.PostgresError) as error:
            # What the first statement claimed is claimed: its agents must hear of it, whatever became of the second.
            log.warning("dispatch.claim.not_repeated", error=repr(error))
        return results

    async def _worth_asking_again(self, results: list[ClaimResult], empty: list[int]) -> list[int]:
        """Return the places of claimers without a job in whose organization there may be one after all."""
        served = {result.org_id for result in results if result.job is not None}
        org_ids = sorted({org_id for n in empty if (org_id := results[n].org_id) is not None})
        freed = await store.requeue_abandoned_all_tenants(self._db, org_ids, now=self._clock.now(), limit=_REQUEUE_BATCH)
        return [n for n in empty if results[n].org_id in served | freed]

    async def _claim(self, claimers: list[AgentCredential]) -> list[ClaimResult]:
        if not claimers:
            return []
        return await lease_store.claim_all_tenants(self._db, claimers, now=self._clock.now(), lease_s=self._lease_s)

    async def _end_batch(self, ends: list[tuple[AgentCredential, JobId, Completion]]) -> list[EndResult]:
        order = sorted(range(len(ends)), key=lambda n: ends[n][1])
        results = await lease_store.end_jobs_all_tenants(self._db, [ends[n] for n in order], now=self._clock.now())
        by_place = dict(zip(order, results, strict=True))
        return [by_place[n] for n in range(len(ends))]
