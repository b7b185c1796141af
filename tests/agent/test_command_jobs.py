"""The agent program runs real commands for a real HTTP server."""

import os
import sys
import time
from pathlib import Path

import pytest

from tests.agent.programs import AgentProcess, is_gone, wait_until
from tests.protocol_server import ProtocolServer

PYTHON = sys.executable


def python(code: str) -> list[str]:
    return [PYTHON, "-c", code]


def test_a_command_that_succeeds_is_reported_in_order(server: ProtocolServer, agent: AgentProcess) -> None:
    job = server.add_job(["sh", "-c", "echo one; echo two >&2; sleep 0.3; echo three"])

    completion = server.finish(job)

    assert completion["status"] == "succeeded"
    events = server.run_events(job)
    assert [event["type"] for event in events] == ["status", "log", "log", "log", "finished"]
    assert (server.log_text(job), server.log_text(job, "stderr")) == ("one\nthree\n", "two\n")
    assert (events[-1]["exit_code"], events[-1]["reason_code"]) == (0, None)


def test_a_nonzero_exit_fails_the_job_but_is_no_reason_for_the_run(server: ProtocolServer, agent: AgentProcess) -> None:
    job = server.add_job(["sh", "-c", "exit 3"])

    completion = server.finish(job)

    assert (completion["status"], completion["reason_code"], completion["result"]["exit_code"]) == ("failed", "nonzero_exit", 3)
    (finished,) = server.run_events(job, "finished")
    assert (finished["exit_code"], finished["reason_code"]) == (3, None)


def test_a_command_killed_by_a_signal_says_so(server: ProtocolServer, agent: AgentProcess) -> None:
    job = server.add_job(["sh", "-c", "kill -SEGV $$"])

    completion = server.finish(job)

    assert completion["reason_code"] == "killed"
    assert "SIGSEGV" in completion["error"]
    assert completion["result"]["exit_code"] == 139


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ({"command": ["no-such-program-here"]}, "spawn_failed"),
        ({"command": ["/etc/passwd"]}, "spawn_failed"),
        ({"command": ["true"], "cwd": "/no/such/directory"}, "invalid_cwd"),
        ({"command": ["true"], "cwd": "relative/path"}, "invalid_cwd"),
        ({"command": ["true"], "cwd": "/etc/passwd"}, "invalid_cwd"),
        ({"command": []}, "invalid_payload"),
        ({"command": "not a list"}, "invalid_payload"),
        ({"command": ["a\0b"]}, "spawn_failed"),
        ({"command": ["true"], "cwd": "/a\0b"}, "invalid_payload"),
        ({"command": ["true"], "env": {"A=B": "x"}}, "spawn_failed"),
        ({"command": ["true"], "junit": ["\0"]}, "invalid_payload"),
    ],
)
def test_a_command_that_cannot_be_started_has_a_reason(server: ProtocolServer, agent: AgentProcess, payload: dict, reason: str) -> None:
    job = server.add_job(**payload)

    assert server.finish(job)["reason_code"] == reason


def test_a_job_of_another_kind_is_refused(server: ProtocolServer, agent: AgentProcess) -> None:
    job = server.add_job(["true"])
    job.job_type = "sync"

    assert server.finish(job)["reason_code"] in ("unsupported_job", None)


def test_an_agent_that_cannot_prepare_a_job_says_so_and_goes_on(server: ProtocolServer, agent: AgentProcess) -> None:
    (agent.data / "pytest").write_text("in the way of the directory for the plugin")

    assert server.finish(server.add_job(["true"]))["reason_code"] == "spawn_failed"
    assert server.finish(server.add_job(["true"], pytest_live=False))["status"] == "succeeded"


def test_the_time_limit_ends_a_command_that_ignores_sigterm(server: ProtocolServer, agent: AgentProcess) -> None:
    job = server.add_job(["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done"], timeout_s=0.5)

    started = time.monotonic()
    completion = server.finish(job)

    assert completion["reason_code"] == "timeout"
    assert time.monotonic() - started < 15
    assert server.log_text(job) == "up\n"


def test_a_cancelled_job_is_ended_and_its_command_may_clean_up(server: ProtocolServer, agent: AgentProcess) -> None:
    job = server.add_job(["sh", "-c", "trap 'echo cleaned; exit 0' TERM; echo up; while :; do sleep 0.05; done"])
    server.wait_for(lambda: "up" in server.log_text(job))
    job.cancel = True

    assert server.finish(job)["reason_code"] == "cancelled"
    assert "cleaned" in server.log_text(job)


def test_a_lost_lease_ends_the_command(server: ProtocolServer, agent: AgentProcess, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    job = server.add_job(["sh", "-c", f"echo $$ > {pid_file}; sleep 60"])
    wait_until(lambda: pid_file.exists() and pid_file.read_text().strip())
    job.lost = True

    wait_until(lambda: is_gone(int(pid_file.read_text())))
    server.wait_for(lambda: server.run_events(job, "finished"))
    assert server.run_events(job, "finished")[0]["reason_code"] == "lease_lost"
    assert job.completions == []


ESCAPE = """
import os, sys, time
def escape(mark, clean):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            if clean:
                os.execve(sys.executable, [sys.executable, "-c", f"import os,time; open({mark!r},'w').write(str(os.getpid())); time.sleep(99)"], {})
            open(mark, "w").write(str(os.getpid()))
            import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(99)
        os._exit(0)
escape(sys.argv[1], False); escape(sys.argv[2], True)
while not (os.path.exists(sys.argv[1]) and os.path.exists(sys.argv[2])): time.sleep(0.01)
time.sleep(float(sys.argv[3]))
"""


@pytest.mark.parametrize("seconds", ["0.2", "99"], ids=["command ends", "command is ended"])
def test_grandchildren_that_change_session_and_environment_do_not_survive(
    server: ProtocolServer, agent: AgentProcess, tmp_path: Path, seconds: str
) -> None:
    marks = [tmp_path / "kept-environment", tmp_path / "own-environment"]
    job = server.add_job([PYTHON, "-c", ESCAPE, *map(str, marks), seconds], timeout_s=3)

    server.finish(job)

    pids = [int(mark.read_text()) for mark in marks]
    assert all(map(is_gone, pids))


def test_the_child_sees_the_allow_list_and_its_own_variables_only(server: ProtocolServer, agent: AgentProcess) -> None:
    job = server.add_job(python("import os; print(sorted(os.environ))"), env={"MINE": "x"}, pytest_live=False)

    server.finish(job)

    seen = set(eval(server.log_text(job)))
    assert {"PATH", "MINE", "PROBITY_JOB_ID"} <= seen
    assert not {name for name in seen if "AGENT" in name or "SECRET" in name}
    assert "PYTHONPATH" not in seen


def test_secret_values_never_reach_the_log_or_the_results(server: ProtocolServer, agent: AgentProcess, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import os\ndef test_leak():\n    print(os.environ['TOKEN'])\n    assert os.environ['TOKEN'] == ''\n"
    )
    code = "import sys,time\nfor part in ('tok', 'en-va', 'lue-42\\n'): sys.stdout.write(part); sys.stdout.flush(); time.sleep(0.15)\n"
    shell = f'{PYTHON} -c "{code}"; {PYTHON} -m pytest -q -p no:cacheprovider'
    job = server.add_job(["sh", "-c", shell], cwd=str(tmp_path), env={"TOKEN": "token-value-42"}, secret_env=["TOKEN"])

    server.finish(job)

    assert server.run_events(job, "result")
    assert "token-value-42" not in repr(server.run_events(job))
    assert server.log_text(job).startswith("***\n")


def test_what_was_being_written_when_the_command_ended_is_kept(server: ProtocolServer, agent: AgentProcess) -> None:
    # Ends spread over the moments of the periodic flush.
    jobs = [server.add_job(["/bin/sh", "-c", f"echo one; sleep 0.0{number % 10}; echo two"], pytest_live=False) for number in range(20)]

    for job in jobs:
        server.finish(job, timeout_s=60)

    assert [server.log_text(job) for job in jobs] == ["one\ntwo\n"] * len(jobs)


def test_output_past_the_limit_is_dropped_except_its_end(server: ProtocolServer, agent: AgentProcess) -> None:
    job = server.add_job(python("print('first'); print('x' * 3_000_000); print('last words')"), output_limit_bytes=10_000)

    completion = server.finish(job)

    text = server.log_text(job)
    assert completion["status"] == "succeeded"
    assert text.startswith("first\n")
    assert text.endswith("last words\n")
    assert len(text) < 100_000
    assert "output limit of 10000 bytes" in server.log_text(job, "system")


def test_a_command_that_never_stops_writing_is_ended(server: ProtocolServer, agent: AgentProcess) -> None:
    job = server.add_job(["sh", "-c", "yes"], output_limit_bytes=1_000)

    assert server.finish(job)["reason_code"] == "output_limit"


def test_characters_are_not_split_between_events(server: ProtocolServer, agent: AgentProcess) -> None:
    code = "import sys,time\nfor byte in 'aé€😀'.encode(): sys.stdout.buffer.write(bytes([byte])); sys.stdout.flush(); time.sleep(0.12)\nsys.stdout.buffer.write(b'\\xff\\x00end')"
    job = server.add_job(python(code))

    server.finish(job)

    assert server.log_text(job) == "aé€😀\ufffd\ufffdend"


def test_output_arrives_while_the_command_runs(server: ProtocolServer, agent: AgentProcess) -> None:
    job = server.add_job(["sh", "-c", "echo early; sleep 2; echo late"])

    server.wait_for(lambda: "early" in server.log_text(job))

    assert not job.completions


def test_junit_and_artifacts_are_read_and_kept(server: ProtocolServer, agent: AgentProcess, tmp_path: Path) -> None:
    work = tmp_path / "work"
    (work / "reports").mkdir(parents=True)
    stale = work / "reports" / "stale.xml"
    stale.write_text('<testsuite><testcase classname="old" name="old"/></testsuite>')
    os.utime(stale, (1_000_000_000, 1_000_000_000))
    (work / "outside").symlink_to("/etc/passwd")
    fresh = '<testsuite name="s"><testcase classname="c" name="n" time="0.5"><failure message="m"/></testcase></testsuite>'
    shell = f"echo '{fresh}' > reports/fresh.xml; echo '<broken' > reports/broken.xml; mkdir out; echo data > out/shot.png"
    job = server.add_job(
        ["sh", "-c", shell], cwd=str(work), junit=["reports/*.xml"], artifacts=["out/**", "outside", "../*", "/etc/hosts", "reports/*"]
    )

    completion = server.finish(job)

    assert completion["status"] == "succeeded"
    (result,) = server.run_events(job, "result")
    assert (result["case"], result["outcome"], result["duration_ms"], result["message"]) == ("c::n", "failed", 500.0, "m")
    names = {name for _, name in server.state.artifacts}
    assert names == {"reports/fresh.xml", "reports/broken.xml", "reports/stale.xml", "out/shot.png"}
    said = server.log_text(job, "system")
    for part in (
        "stale.xml was not written by this run",
        "broken.xml: not readable XML",
        "outside points outside",
        "'../*' reaches outside",
        "'/etc/hosts' reaches",
    ):
        assert part in said


def test_an_artifact_that_the_server_refuses_is_said_in_the_log(server: ProtocolServer, agent: AgentProcess, tmp_path: Path) -> None:
    server.state.largest_artifact = 10
    job = server.add_job(["sh", "-c", "echo small > a.txt; echo much too large > b.txt"], cwd=str(tmp_path), artifacts=["*.txt"])

    assert server.finish(job)["status"] == "succeeded"
    assert {name for _, name in server.state.artifacts} == {"a.txt"}
    assert "artifact b.txt is not kept: the server answered 413: too large for this server" in server.log_text(job, "system")


def test_live_results_come_before_the_suite_ends_and_junit_fills_in(server: ProtocolServer, agent: AgentProcess, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("import time\ndef test_a(): pass\ndef test_b(): time.sleep(2)\n")
    (tmp_path / "other.xml").write_text("")
    more = '<testsuite name="other"><testcase classname="other" name="more"/><testcase classname="test_it" name="test_a"/></testsuite>'
    shell = f"{PYTHON} -m pytest -q -p no:cacheprovider -p no:randomly --junitxml=own.xml; echo '{more}' > other.xml"
    job = server.add_job(["sh", "-c", shell], cwd=str(tmp_path), junit=["*.xml"])

    server.wait_for(lambda: server.run_events(job, "result"))
    assert not job.completions
    server.finish(job)

    assert sorted(event["case"] for event in server.run_events(job, "result")) == ["other::more", "test_it::test_a", "test_it::test_b"]
    assert {name for _, name in server.state.artifacts} == {"own.xml", "other.xml"}


def test_a_test_process_cannot_write_other_events(server: ProtocolServer, agent: AgentProcess) -> None:
    forged = '{"type":"finished","id":"x","at":"2026-01-01T00:00:00Z","exit_code":0,"reason_code":null}\n{"type":"result"}\nnonsense\n'
    job = server.add_job(python(f"import os; open(os.environ['PROBITY_EVENTS_FILE'], 'w').write({forged!r}); raise SystemExit(1)"))

    server.finish(job)

    assert [event["exit_code"] for event in server.run_events(job, "finished")] == [1]
    assert "3 lines of live results could not be read" in server.log_text(job, "system")


def test_working_directories_can_be_restricted(server: ProtocolServer, idle_agent: AgentProcess, tmp_path: Path) -> None:
    allowed, other = tmp_path / "allowed", tmp_path / "other"
    allowed.mkdir()
    other.mkdir()
    (allowed / "link").symlink_to(other)
    idle_agent.start("--allow-cwd", str(allowed))

    jobs = [server.add_job(["pwd"], cwd=str(cwd)) for cwd in (allowed, other, allowed / "link", allowed / ".." / "other")]

    assert [server.finish(job).get("reason_code") for job in jobs] == [None, "invalid_cwd", "invalid_cwd", "invalid_cwd"]


def test_jobs_run_beside_each_other_up_to_the_limit(server: ProtocolServer, idle_agent: AgentProcess) -> None:
    idle_agent.start("--concurrency", "3")
    jobs = [server.add_job(["sleep", "1.5"]) for _ in range(3)]

    server.wait_for(lambda: all(server.run_events(job, "status") for job in jobs))

    assert not any(job.completions for job in jobs)
    for job in jobs:
        server.finish(job)


def test_a_stopped_agent_lets_the_command_end_and_leaves_nothing(server: ProtocolServer, agent: AgentProcess) -> None:
    job = server.add_job(["sh", "-c", "echo up; sleep 1; echo done"])
    server.wait_for(lambda: "up" in server.log_text(job))

    assert agent.stop() == 0

    assert server.finish(job)["status"] == "succeeded"
    assert list((agent.data / "jobs").iterdir()) == []


def test_a_stopped_agent_ends_a_command_that_takes_too_long(server: ProtocolServer, idle_agent: AgentProcess) -> None:
    idle_agent.start("--drain", "0.5")
    job = server.add_job(["sh", "-c", "echo up; sleep 60"])
    server.wait_for(lambda: "up" in server.log_text(job))

    assert idle_agent.stop() == 0

    assert server.finish(job)["reason_code"] == "agent_stopped"


def test_a_revoked_agent_stops_for_good_and_says_why(server: ProtocolServer, agent: AgentProcess, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    server.add_job(["sh", "-c", f"echo $$ > {pid_file}; sleep 60"])
    wait_until(lambda: pid_file.exists() and pid_file.read_text().strip())
    server.state.revoked = True

    assert agent.process is not None
    assert agent.process.wait(20) == 3
    assert "refuses this agent" in agent.log
    assert "enrol again" in agent.log
    assert "Traceback" not in agent.log
    assert is_gone(int(pid_file.read_text()))
