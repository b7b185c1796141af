"""The commands against a real server, with a real agent: what a user types, and what comes of it."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from probity.kernel.junit import iter_cases
from tests.faults.deployment import EMAIL, PASSWORD, Deployment, deployment

SUITE = """
import time, pytest
@pytest.mark.parametrize("n", range(5))
def test_n(n): time.sleep(0.2)
@pytest.mark.skip
def test_skipped(): pass
@pytest.mark.xfail
def test_expected(): assert 0
def test_failing(): assert 1 == 2
"""


class Shell:
    """Runs commands of the program as one user; JSON comes back decoded."""

    def __init__(self, installation: Deployment, home: Path) -> None:
        self.installation = installation
        self.home = home
        self.agent: subprocess.Popen[bytes] | None = None

    def environment(self, **more: str) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {
            **self.installation.environment(),
            "XDG_CONFIG_HOME": str(self.home / "config"),
            "HOME": str(self.home),
            "PATH": path,
            **more,
        }

    def run(self, *arguments: str, cwd: Path | None = None, stdin: str | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "probity", *arguments]
        return subprocess.run(
            command,
            env=self.environment(**environ),
            cwd=cwd or self.home,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    def json(self, *arguments: str, code: int = 0, **environ: Any) -> Any:
        done = self.run(*arguments[:1], *arguments[1:], **environ)
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def sign_in(self) -> None:
        done = self.run("login", "--server", self.installation.base_url, "--email", EMAIL, PROBITY_PASSWORD=PASSWORD)
        assert done.returncode == 0, done.stderr

    def start_agent(self) -> None:
        token = self.json("agents", "token", "--tag", "here", "--json")["enrollment_token"]
        data = str(self.home / "agent")
        self.json("agent", "enroll", "--server", self.installation.base_url, "--data", data, "--json", PROBITY_ENROLLMENT_TOKEN=token)
        with (self.home / "agent.log").open("ab") as log:
            command = [sys.executable, "-m", "probity", "agent", "run", "--data", data]
            self.agent = subprocess.Popen(command, env=self.environment(), stderr=log)


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    # Not pytest's own directory: PostgreSQL runs as another user, who must be able to get there.
    base = Path(tempfile.mkdtemp(prefix="probity-cli-"))
    base.chmod(0o755)
    try:
        with deployment(base) as installation:
            home = base / "home"
            home.mkdir()
            shell = Shell(installation, home)
            shell.sign_in()
            shell.start_agent()
            try:
                yield shell
            finally:
                assert shell.agent is not None
                shell.agent.terminate()
                shell.agent.wait(30)
    finally:
        shutil.rmtree(base, ignore_errors=True)


def test_a_command_is_followed_to_its_end(shell: Shell) -> None:
    done = shell.run("run", "--wait", "--tag", "here", "--", "sh", "-c", "echo out; sleep 0.3; echo err >&2; echo more")

    assert (done.returncode, done.stdout) == (0, "out\nmore\n")
    assert "err\n" in done.stderr
    assert " passed: no results in " in done.stderr.splitlines()[-1]


def test_a_command_that_fails_is_exit_code_one(shell: Shell) -> None:
    ended = shell.json("run", "--wait", "--json", "--", "sh", "-c", "exit 4", code=1)

    assert (ended["state"], ended["exit_code"], ended["reason_code"], ended["name"]) == ("failed", 4, None, "sh -c 'exit 4'")


@pytest.mark.parametrize(("command", "reason"), [(["no-such-program-here"], "spawn_failed"), (["sleep", "30"], "timeout")])
def test_a_run_without_an_answer_is_an_error_with_a_reason(shell: Shell, command: list[str], reason: str) -> None:
    ended = shell.json("run", "--wait", "--json", "--timeout", "1", "--", *command, code=1)

    assert (ended["state"], ended["reason_code"]) == ("error", reason)


def test_totals_are_those_of_pytests_own_file(shell: Shell, tmp_path: Path) -> None:
    work = _readable(tmp_path)
    (work / "test_it.py").write_text(SUITE)
    pytest_command = ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "--junitxml=own.xml"]
    done = shell.run("run", "--wait", "--show", "results", "--junit", "own.xml", "--", *pytest_command, cwd=work)

    assert done.returncode == 1
    assert "failed: test_it::test_failing - assert 1 == 2" in done.stderr
    with (work / "own.xml").open("rb") as file:
        own = [str(case.outcome) for case in iter_cases(file)]
    listed = shell.json("runs", "list", "--json")[0]
    assert listed["totals"] == {
        "total": len(own),
        "passed": own.count("passed"),
        "failed": own.count("failed"),
        "errors": own.count("error"),
        "skipped": own.count("skipped") + own.count("xfailed"),
        "flaky": 0,
    }
    shown = shell.json("runs", "show", listed["id"], "--results", "--json", code=1)
    assert [result["name"] for result in shown["results"]][:2] == ["test_n[0]", "test_n[1]"]
    assert "1 failed, 5 passed" in shell.run("runs", "show", listed["uuid"], "--log").stdout


def test_what_was_said_before_somebody_watches_is_shown_once(shell: Shell) -> None:
    script = "for n in 1 2 3 4 5 6 7 8 9; do echo line $n; sleep 0.3; done"
    started = shell.json("run", "--json", "--", "sh", "-c", script)
    time.sleep(1.5)
    watched = shell.run("runs", "watch", started["id"])

    assert watched.stdout == "".join(f"line {n}\n" for n in range(1, 10))
    assert shell.run("runs", "watch", started["id"]).stdout == watched.stdout


def test_a_run_that_nobody_can_take_is_said_to_wait(shell: Shell) -> None:
    started = shell.json("run", "--json", "--tag", "no-such-tag", "--", "true")
    command = [sys.executable, "-m", "probity", "runs", "watch", started["id"]]
    with subprocess.Popen(command, env=shell.environment(), stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stderr is not None
        assert "waits for an agent" in watching.stderr.readline()
        shell.json("runs", "abort", started["id"], "--json")
        assert watching.wait(30) == 1


def test_a_run_can_be_aborted(shell: Shell) -> None:
    started = shell.json("run", "--json", "--", "sleep", "60")
    time.sleep(1)
    assert shell.json("runs", "abort", started["id"], "--json")["state"] == "aborted"
    watched = shell.run("runs", "watch", started["id"])

    assert watched.returncode == 1
    assert "aborted" in watched.stderr
    # The agent is free again, so its command has ended.
    assert shell.run("run", "--wait", "--", "true").returncode == 0


def test_files_are_imported_once(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "report.xml"
    path.write_text(
        '<testsuite name="s"><testcase classname="c" name="n"/><testcase classname="c" name="m"><failure message="x"/></testcase></testsuite>'
    )

    (first,) = shell.json("runs", "import", str(path), "--json")
    (second,) = shell.json("runs", "import", str(path), "--json")
    (renamed,) = shell.json("runs", "import", str(path), "--name", "other", "--json")

    assert first["uuid"] == second["uuid"] != renamed["uuid"]
    assert (first["state"], first["totals"]["passed"], first["totals"]["failed"]) == ("failed", 1, 1)


def test_a_suite_outside_an_agent_reports_with_a_key_and_its_spool_can_follow(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_a(): pass\ndef test_b(): assert 0\n")
    key = shell.json("keys", "create", f"ci {tmp_path.name}", "--scope", "read-write", "--json")["key"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio"]
    if not entry_points(group="pytest11", name="probity"):  # in a checkout that is not installed, the plugin is named
        command += ["-p", "probity.client.pytest_plugin"]

    def suite(url: str) -> str:
        environment = shell.environment(PROBITY_URL=url, PROBITY_API_KEY=key, PROBITY_SPOOL_DIR=str(tmp_path / "spool"))
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False).stdout

    assert "3 events delivered to run" in suite(shell.installation.base_url)
    assert "3 events not delivered" in suite("http://127.0.0.1:9")
    (spool,) = (tmp_path / "spool").iterdir()
    (imported,) = shell.json("runs", "import", str(spool), "--json")

    assert (imported["state"], imported["totals"]["total"], imported["totals"]["failed"]) == ("failed", 2, 1)
    shell.json("runs", "import", str(spool), "--json")


def test_keys_are_made_listed_and_revoked(shell: Shell) -> None:
    made = shell.json("keys", "create", "for reading", "--json")
    assert made["key"].startswith("pa_")
    assert "for reading" in shell.run("keys", "list").stdout
    assert made["key"] not in shell.run("keys", "list", "--all").stdout
    as_key = {"PROBITY_URL": shell.installation.base_url, "PROBITY_API_KEY": made["key"]}
    assert shell.run("runs", "list", **as_key).returncode == 0
    assert shell.run("run", "--", "true", **as_key).returncode == 1

    assert shell.json("keys", "revoke", "for reading", "--json")["revoked"] is True
    refused = shell.run("runs", "list", **as_key)
    assert refused.returncode == 1
    assert "does not accept the credential" in refused.stderr


def test_an_agent_that_is_revoked_stops(shell: Shell) -> None:
    server = shell.installation.base_url
    token = shell.json("agents", "token", "--json")["enrollment_token"]
    data = str(shell.home / "second")
    enrolled = shell.json(
        "agent", "enroll", "--server", server, "--name", "second", "--data", data, "--json", PROBITY_ENROLLMENT_TOKEN=token
    )
    command = [sys.executable, "-m", "probity", "agent", "run", "--data", data]
    with subprocess.Popen(command, env=shell.environment(), stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        try:
            deadline = time.monotonic() + 30
            while shell.run("agent", "status", "--data", data).returncode != 0:
                assert time.monotonic() < deadline
            assert shell.json("agents", "revoke", "second", "--json")["id"] == enrolled["agent_id"]
            assert running.wait(60) == 3
            assert "refuses this agent" in running.stderr.read()
        finally:
            running.kill()
    assert "second" not in shell.run("agents", "list").stdout
    assert shell.run("agent", "enroll", "--server", server, "--data", data, "--token", token).returncode == 1


def test_the_trail_is_proved_and_taken_along(shell: Shell, tmp_path: Path) -> None:
    verified = shell.json("audit", "verify", "--json")
    assert verified["verified"] is True
    assert verified["trails"][0]["events"] > 5

    export = tmp_path / "trail.ndjson"
    assert shell.run("audit", "export", "--output", str(export)).returncode == 0
    checked = shell.json("audit", "verify", "--file", str(export), "--json")
    assert checked["verified"] is True
    assert checked["trails"][0]["key_trusted"] is True

    lines = export.read_bytes().splitlines(keepends=True)
    export.write_bytes(b"".join(lines[:2] + lines[3:]))
    broken = shell.json("audit", "verify", "--file", str(export), "--json", code=1)
    assert broken["trails"][0]["broken"] is not None
    assert "BROKEN" in shell.run("audit", "verify", "--file", str(export)).stdout


def test_a_password_is_reset_at_the_server_and_sessions_end(shell: Shell) -> None:
    password = shell.json("users", "reset-password", EMAIL, "--generate", "--json")["password"]
    try:
        assert shell.run("runs", "list").returncode == 1
        again = shell.run("login", "--server", shell.installation.base_url, "--email", EMAIL, PROBITY_PASSWORD=password)
        assert again.returncode == 0
        wrong = shell.run("login", "--server", shell.installation.base_url, "--email", EMAIL, PROBITY_PASSWORD="wrong")
        assert wrong.returncode == 1
        assert "Invalid email or password" in wrong.stderr
    finally:
        assert shell.run("users", "reset-password", EMAIL, "--stdin", stdin=PASSWORD + "\n").returncode == 0
        shell.sign_in()
    unknown = shell.run("users", "reset-password", "nobody@example.test", "--generate")
    assert unknown.returncode == 1
    assert "Traceback" not in unknown.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run"], 2, "Missing argument"),
        (["run", "--env", "NO_SUCH_VARIABLE", "--", "true"], 2, "there is no such variable"),
        (["run", "--scratch", "--cwd", "/", "--", "true"], 2, "exclude each other"),
        (["run", "--agent", "nobody", "--", "true"], 1, ""),
        (["runs", "show", "RUN-999999"], 1, ""),
        (["runs", "watch", "nonsense"], 1, ""),
        (["runs", "import", "/no/such/file"], 2, "does not exist"),
        (["agents", "revoke", "nobody"], 1, "no agent"),
        (["keys", "revoke", "nobody"], 1, "no key"),
        (["keys", "create", "x", "--expires", "tomorrow"], 2, "UTC"),
        (["login", "--server", "http://10.0.0.1", "--api-key", "x"], 1, "https"),
        (["agent", "status", "--data", "/nonexistent"], 1, "no agent is enrolled"),
        (["agent", "run", "--data", "/nonexistent"], 1, "no agent is enrolled"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_are_one_sentence(shell: Shell, arguments: list[str], code: int, said: str) -> None:
    done = shell.run(*arguments)

    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert done.stderr.strip()
    assert "Traceback" not in done.stderr


def _readable(directory: Path) -> Path:
    """Return a directory that an agent of another user could enter too."""
    work = directory / "work"
    work.mkdir()
    return work
