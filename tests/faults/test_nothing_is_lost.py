"""Kill -9 at random moments during ingest and dispatch; afterwards everything acknowledged is there, once.

`PROBITY_FAULT_MOMENTS` sets how many moments in all (50 by default, shared by the cases), `PROBITY_FAULT_SEED` repeats a series.
"""

import asyncio
import os
import random
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.deployment import Deployment, deployment
from tests.faults.workload import Workload

MOMENTS = int(os.environ.get("PROBITY_FAULT_MOMENTS", "50"))
SEED = int(os.environ.get("PROBITY_FAULT_SEED", "0")) or secrets.randbelow(2**31)
LEASE_S = 30

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120 + MOMENTS * 20)]


# What a dispatched run prints: numbered lines, slowly enough that blows fall in the middle.
LINES = 12
COMMAND = [sys.executable, "-c", f"import time\nfor n in range({LINES}):\n print('line', n, flush=True); time.sleep(0.05)"]


@pytest.mark.parametrize(("victims", "share"), [(("server",), 0.3), (("postgres",), 0.2), (("server", "postgres"), 0.1)])
def test_what_was_acknowledged_survives_being_killed(tmp_path: Path, victims: tuple[str, ...], share: float) -> None:
    seed = SEED + len(victims) * 7 + len(victims[0])
    moments = max(1, round(MOMENTS * share))
    print(f"seed {SEED}: killing {'/'.join(victims)} at {moments} moments; repeat with PROBITY_FAULT_SEED={SEED}")
    with deployment(tmp_path) as installation:
        workload = Workload(installation.base_url, installation.api_key, seed=seed)
        asyncio.run(_series(installation, workload, victims, moments, random.Random(seed)))
        asyncio.run(_check(installation, workload))


def test_every_dispatched_run_comes_to_an_end_when_the_agent_is_killed_too(tmp_path: Path) -> None:
    moments = max(1, round(MOMENTS * 0.4))
    print(f"seed {SEED}: killing agent, server and PostgreSQL at {moments} moments; repeat with PROBITY_FAULT_SEED={SEED}")
    with deployment(tmp_path) as installation:
        installation.enrol_agent()
        workload = Workload(installation.base_url, installation.api_key, seed=SEED)
        asyncio.run(_dispatch_series(installation, workload, moments, random.Random(SEED)))
        asyncio.run(_check_runs(installation, workload))


async def _dispatch_series(installation: Deployment, workload: Workload, moments: int, chance: random.Random) -> None:
    work = asyncio.create_task(workload.dispatch([COMMAND] * 10_000, pause_s=0.4))
    kills = {"agent": installation.kill_agent, "server": installation.kill_server, "postgres": installation.kill_postgres}
    for _ in range(moments):
        await asyncio.sleep(chance.random() * 1.2)
        await asyncio.to_thread(kills[chance.choice(["agent", "agent", "agent", "server", "postgres"])])
        await asyncio.to_thread(installation.wait_until_ready)
        assert not work.done() or work.exception() is None
    workload.stop.set()
    await asyncio.wait_for(work, 60)


async def _check_runs(installation: Deployment, workload: Workload) -> None:
    assert not workload.ledger.surprises, workload.ledger.surprises[:5]
    conn = await installation.database()
    try:
        runs = list(workload.ledger.runs)
        still_open = "select count(*) from runs where id = any($1::uuid[]) and state in ('queued', 'running')"
        deadline = asyncio.get_running_loop().time() + 3 * LEASE_S + 60
        while await conn.fetchval(still_open, runs) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.5)
        states = await conn.fetch("select id, state, reason_code, last_seq, job_id from runs where id = any($1::uuid[])", runs)
        assert len(states) == len(runs), "an acknowledged run is missing"
        unfinished = [(str(row["id"]), row["state"]) for row in states if row["state"] not in ("passed", "failed", "error", "aborted")]
        assert not unfinished, f"runs that never end: {unfinished}"
        passed = [row for row in states if row["state"] == "passed"]
        assert passed, "no run passed at all"
        for row in states:
            assert row["state"] == "passed" or row["reason_code"], f"run {row['id']} ended as {row['state']} without a reason"
            seqs = await conn.fetch("select seq from run_events where run_id = $1 order by seq", row["id"])
            assert [item["seq"] for item in seqs] == list(range(1, row["last_seq"] + 1)), f"run {row['id']}: the sequence has a gap"
        for row in passed:
            text = await conn.fetchval(
                "select string_agg(body ->> 'text', '' order by seq) from run_events where run_id = $1 and type = 'log' and body ->> 'stream' = 'stdout'",
                row["id"],
            )
            assert [line for line in text.split("\n") if line.startswith("line")] == [f"line {n}" for n in range(LINES)], text
        leftover = "select count(*) from jobs where id = any($1::uuid[]) and state in ('queued', 'claimed')"
        assert await conn.fetchval(leftover, [row["job_id"] for row in states]) == 0, "a job is stuck"
    finally:
        await conn.close()
    await asyncio.to_thread(_verify_audit, installation)


async def _series(installation: Deployment, workload: Workload, victims: tuple[str, ...], moments: int, chance: random.Random) -> None:
    work = asyncio.create_task(workload.run(reporters=4, claimers=4))
    for _ in range(moments):
        await asyncio.sleep(chance.random() * 0.6)
        victim = chance.choice(victims)
        await asyncio.to_thread(installation.kill_server if victim == "server" else installation.kill_postgres)
        # Sometimes the next blow falls while the last one is still being recovered from.
        if chance.random() < 0.7:
            await asyncio.to_thread(installation.wait_until_ready)
        assert not work.done() or work.exception() is None
    await asyncio.to_thread(installation.wait_until_ready)
    await asyncio.sleep(1)
    workload.stop.set()
    await asyncio.wait_for(work, 60)


async def _check(installation: Deployment, workload: Workload) -> None:
    ledger = workload.ledger
    assert sum(map(len, ledger.events.values())) > 0 and ledger.completed, "the workload did nothing"
    assert not ledger.surprises, ledger.surprises[:5]
    conn = await installation.database()
    try:
        for run, events in ledger.events.items():
            rows = await conn.fetch("select client_event_id, seq from run_events where run_id = $1::uuid order by seq", run)
            written = [row["client_event_id"] for row in rows if row["client_event_id"] in set(events)]
            assert sorted(written) == sorted(events), f"run {run}: an acknowledged event is missing or doubled"
            assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1)), f"run {run}: the sequence has a gap"
            assert await conn.fetchval("select last_seq from runs where id = $1::uuid", run) == len(rows)
            doubled = "select count(*) - count(distinct client_event_id) from results where run_id = $1::uuid"
            assert await conn.fetchval(doubled, run) == 0, f"run {run}: a result is doubled"

        for job in ledger.completed:
            assert await conn.fetchval("select state from jobs where id = $1::uuid", job) == "succeeded", (
                f"job {job} was acknowledged as done"
            )
        stuck = """
            select count(*) from jobs
             where lane = 'agent' and state = 'claimed' and claim_expires_at < now() - interval '1 second' * $1
        """
        await workload.drain(1.0)
        deadline = asyncio.get_running_loop().time() + LEASE_S + 40
        open_jobs = "select count(*) from jobs where lane = 'agent' and kind = 'sync' and state in ('queued', 'claimed')"
        while await conn.fetchval(open_jobs) and asyncio.get_running_loop().time() < deadline:
            await workload.drain(1.0)
        assert await conn.fetchval(open_jobs) == 0, "a job is stuck past its lease"
        assert await conn.fetchval(stuck, LEASE_S) == 0
        missing = "select count(*) from unnest($1::uuid[]) as wanted where not exists (select from jobs where id = wanted)"
        assert await conn.fetchval(missing, list(ledger.jobs)) == 0, "an acknowledged job is missing"
    finally:
        await conn.close()
    await asyncio.to_thread(_verify_audit, installation)


def _verify_audit(installation: Deployment) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "probity", "audit", "verify"],
        env=installation.environment(),
        capture_output=True,
        text=True,
        cwd=installation.directory,
    )
    assert done.returncode == 0, done.stdout + done.stderr
