"""Servers that go away, replies that get lost, agents that are killed, disks that are full: every event arrives, once."""

import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.agent.programs import AgentProcess, is_gone, wait_until
from tests.protocol_server import ProtocolServer

PYTHON = sys.executable
COUNT = "import time\nfor n in range(40): print(f'line {n}', flush=True); time.sleep(0.03)\n"
LINES = "".join(f"line {n}\n" for n in range(40))


def test_what_happens_while_the_server_is_away_is_delivered_later(server: ProtocolServer, agent: AgentProcess) -> None:
    job = server.add_job([PYTHON, "-c", COUNT])
    server.wait_for(lambda: "line 3" in server.log_text(job))
    server.stop()
    time.sleep(2)
    server.start()

    assert server.finish(job)["status"] == "succeeded"
    assert server.log_text(job) == LINES


def test_an_answer_of_503_is_no_answer(server: ProtocolServer, agent: AgentProcess) -> None:
    job = server.add_job([PYTHON, "-c", COUNT])
    server.wait_for(lambda: server.run_events(job))
    server.state.away = True
    time.sleep(1.5)
    server.state.away = False

    server.finish(job)

    assert server.log_text(job) == LINES


def test_lost_replies_lead_to_repeats_not_to_doubles(server: ProtocolServer, agent: AgentProcess, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("artifact")
    server.state.drop_replies = 4
    job = server.add_job([PYTHON, "-c", COUNT], cwd=str(tmp_path), artifacts=["a.txt"])

    server.finish(job)

    assert server.log_text(job) == LINES
    assert server.state.duplicates > 0
    assert len(job.completions) == 1
    assert len(set(server.state.artifact_keys)) == 1


def test_a_refused_event_does_not_hold_back_the_others(server: ProtocolServer, agent: AgentProcess) -> None:
    job = server.add_job([PYTHON, "-c", COUNT])
    server.state.refuse_events = {"-log-2"}

    server.finish(job)

    numbers = [int(event["id"].rsplit("-", 1)[1]) for event in server.run_events(job, "log")]
    assert numbers[:3] == [1, 3, 4]


def test_a_job_that_comes_back_while_it_runs_goes_on(server: ProtocolServer, idle_agent: AgentProcess) -> None:
    idle_agent.start("--concurrency", "2")
    job = server.add_job([PYTHON, "-c", COUNT])
    server.wait_for(lambda: server.run_events(job, "log"))
    with server.changed:
        job.claimed = False
        server.changed.notify_all()

    assert server.finish(job)["status"] == "succeeded"
    assert server.log_text(job) == LINES
    assert "given to us again" in idle_agent.log


def test_a_second_claim_of_a_job_has_events_of_its_own(server: ProtocolServer, agent: AgentProcess) -> None:
    job = server.add_job(["echo", "hello"])
    server.finish(job)
    wait_until(lambda: list((agent.data / "jobs").iterdir()) == [])
    time.sleep(0.5)  # the spool forgets the job right after its directory is gone
    with server.changed:
        job.completions.clear()
        job.claimed = False
        server.changed.notify_all()

    server.finish(job)

    assert server.log_text(job) == "hello\nhello\n"
    assert len(server.run_events(job, "finished")) == 2


SUITE = """
import os, subprocess, sys, time, pytest
def test_first(): pass
def test_second():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(99)"], start_new_session=True)
    open(os.environ["PIDS"], "w").write(f"{os.getpid()} {child.pid}")
    time.sleep(99)
"""


def test_a_killed_agent_delivers_its_spool_ends_orphans_and_fails_the_job(
    server: ProtocolServer, agent: AgentProcess, tmp_path: Path
) -> None:
    (tmp_path / "test_it.py").write_text(SUITE)
    pids = tmp_path / "pids"
    command = [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"]
    server.state.slow_s = 0.05
    job = server.add_job(command, cwd=str(tmp_path), env={"PIDS": str(pids)})
    wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    agent.kill()

    wait_until(lambda: all(is_gone(int(pid)) for pid in pids.read_text().split()))
    agent.start()

    completion = server.finish(job)
    assert (completion["status"], completion["reason_code"]) == ("failed", "agent_restarted")
    assert [event["case"] for event in server.run_events(job, "result")] == ["test_it::test_first"]
    assert [event["reason_code"] for event in server.run_events(job, "finished")] == ["agent_restarted"]
    wait_until(lambda: list((agent.data / "jobs").iterdir()) == [])


def test_orphans_are_ended_even_if_the_supervisor_was_killed_too(server: ProtocolServer, agent: AgentProcess, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    job = server.add_job(["sh", "-c", f"echo $$ $PPID > {pid_file}; sleep 60"])
    wait_until(lambda: pid_file.exists() and len(pid_file.read_text().split()) == 2)
    command, supervisor = map(int, pid_file.read_text().split())
    os.kill(supervisor, signal.SIGSTOP)  # or it would end the command when the agent dies
    agent.kill()
    os.kill(supervisor, signal.SIGKILL)
    assert not is_gone(command)

    agent.start()

    assert server.finish(job)["reason_code"] == "agent_restarted"
    assert is_gone(command)


def test_a_killed_supervisor_ends_the_command(server: ProtocolServer, agent: AgentProcess, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    job = server.add_job(["sh", "-c", f"echo $$ $PPID > {pid_file}; sleep 60"])
    wait_until(lambda: pid_file.exists() and len(pid_file.read_text().split()) == 2)
    command, supervisor = map(int, pid_file.read_text().split())
    os.kill(supervisor, signal.SIGKILL)

    assert server.finish(job)["reason_code"] == "killed"
    assert is_gone(command)


def test_a_job_that_ended_while_the_server_was_away_is_delivered_by_the_next_agent(server: ProtocolServer, agent: AgentProcess) -> None:
    job = server.add_job([PYTHON, "-c", COUNT])
    server.wait_for(lambda: server.run_events(job))
    server.stop()
    wait_until(lambda: f"job {job.id} ended" in agent.log)
    agent.kill()
    server.start()
    agent.start()

    assert server.finish(job)["status"] == "succeeded"
    assert server.log_text(job) == LINES


@pytest.mark.faults
@pytest.mark.timeout(400)
def test_kills_at_random_moments_lose_and_double_nothing(server: ProtocolServer, idle_agent: AgentProcess, tmp_path: Path) -> None:
    seed = int(os.environ.get("PROBITY_FAULT_SEED", "0")) or random.randrange(2**31)
    moments = int(os.environ.get("PROBITY_AGENT_FAULT_MOMENTS", "6"))
    print(f"seed {seed}: repeat with PROBITY_FAULT_SEED={seed}")
    chance = random.Random(seed)
    (tmp_path / "test_it.py").write_text("import pytest, time\n@pytest.mark.parametrize('n', range(60))\ndef test_n(n): time.sleep(0.01)\n")
    command = [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"]
    jobs = []
    for _ in range(moments):
        idle_agent.start()
        server.state.drop_replies = chance.randrange(3)
        jobs.append(server.add_job(command, cwd=str(tmp_path)))
        time.sleep(chance.random() * 2.5)
        idle_agent.kill()
    idle_agent.start()

    for job in jobs:
        # An agent that is killed between the claim and its first note leaves the job to its lease, which runs out.
        completion = server.finish(job, 90)
        numbers = [int(event["case"].split("[")[1].rstrip("]")) for event in server.run_events(job, "result")]
        assert numbers == list(range(len(numbers))), "a result is missing, doubled or out of order"
        assert len(job.completions) == 1
        assert len(server.run_events(job, "finished")) == 1
        if completion["status"] == "succeeded":
            assert len(numbers) == 60


def test_a_full_spool_ends_the_job_with_a_reason_and_the_agent_goes_on(server: ProtocolServer, idle_agent: AgentProcess) -> None:
    idle_agent.start("--spool-limit", "4")
    job = server.add_job(
        [PYTHON, "-c", "import os,time\nprint('up', flush=True); time.sleep(1)\nwhile True: print('x' * 100_000); time.sleep(0.001)"],
        output_limit_bytes=1_000_000_000,
    )
    server.wait_for(lambda: "up" in server.log_text(job))
    server.state.away = True
    wait_until(lambda: f"job {job.id} ended" in idle_agent.log, 40)
    server.state.away = False

    assert server.finish(job)["reason_code"] == "disk_full"
    again = server.add_job(["echo", "fine"])
    assert server.finish(again)["status"] == "succeeded"


def test_a_damaged_spool_is_named_and_not_thrown_away(server: ProtocolServer, idle_agent: AgentProcess) -> None:
    spool = idle_agent.data / "spool.db"
    spool.write_bytes(b"this is no database, whatever it was " * 200)
    idle_agent.start()

    assert idle_agent.process is not None
    assert idle_agent.process.wait(20) == 1
    assert f"{spool} is damaged" in idle_agent.log
    assert "Traceback" not in idle_agent.log
    assert spool.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
def test_a_full_disk_ends_the_job_with_a_reason(server: ProtocolServer, idle_agent: AgentProcess, tmp_path: Path) -> None:
    import subprocess

    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(small)], capture_output=True).returncode != 0:
        pytest.skip("cannot mount here")
    try:
        agent = AgentProcess(server, small / "agent", log=tmp_path / "log")
        agent.start()
        job = server.add_job(
            [PYTHON, "-c", "import time\nprint('up', flush=True); time.sleep(1)\nwhile True: print('x' * 100_000); time.sleep(0.001)"],
            output_limit_bytes=1_000_000_000,
        )
        server.wait_for(lambda: "up" in server.log_text(job))
        server.state.away = True
        wait_until(lambda: f"job {job.id} ended" in agent.log, 40)
        server.state.away = False

        assert server.finish(job)["reason_code"] == "disk_full"
        assert server.finish(server.add_job(["echo", "fine"]))["status"] == "succeeded"
        agent.end()
    finally:
        subprocess.run(["umount", "-l", str(small)], check=False)
