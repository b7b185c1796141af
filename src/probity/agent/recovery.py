"""What a starting agent does about the jobs of the one before it that was killed."""

import asyncio
import logging
from pathlib import Path

from probity.agent.command import EventLog, Outcome, Reason, last_items, reason_text
from probity.agent.live import LiveResults
from probity.agent.output import Masker
from probity.agent.process import end_leftovers
from probity.agent.spool import Spool, SpooledJob

log = logging.getLogger("probity.agent")


async def recover(spool: Spool) -> list[SpooledJob]:
    """End what still runs, save the live results that were not spooled yet, fail the interrupted jobs; return all jobs to deliver."""
    jobs = await spool.jobs()
    for job in jobs:
        if job.state == "running":
            await _fail_interrupted(spool, job)
    return jobs


async def _fail_interrupted(spool: Spool, job: SpooledJob) -> None:
    left = await asyncio.to_thread(end_leftovers, job.job_id, job.pid, job.pid_started)
    log.warning(
        "job %s was running when the agent was killed; it is reported as failed%s", job.job_id, f"; {left} processes remain" if left else ""
    )
    # Secrets are never written to disk, so they died with the agent and texts that may hold them cannot be masked.
    live = LiveResults(Path(job.directory) / "results.ndjson", Masker(()), job.live_offset, outlines_only=job.has_secrets)
    while items := await asyncio.to_thread(live.read):
        await spool.append(job.job_id, items, live.offset)
    note = EventLog(job.claim, "recovery").system(reason_text(Reason.AGENT_RESTARTED))
    outcome = Outcome(None, Reason.AGENT_RESTARTED, reason_text(Reason.AGENT_RESTARTED))
    await spool.end_job(job.job_id, [note, *last_items(job.claim, outcome)])
