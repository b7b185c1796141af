"""Enrolling, the credential file, unit files, one agent per directory."""

import json
import plistlib
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from probity.agent.backoff import Backoff
from probity.agent.service_units import launchd_unit, systemd_unit
from probity.agent.settings import Credential, NotEnrolled, UnsafeCredential, default_data, load_credential, save_credential
from tests.agent.programs import AgentProcess, environment, probity, wait_until
from tests.protocol_server import SECRET, ProtocolServer


def enroll(server: ProtocolServer, data: Path, *more: str, token: str = "good-token"):
    return probity("agent", "enroll", "--server", server.url, "--data", str(data), *more, PROBITY_ENROLLMENT_TOKEN=token)


def test_the_agent_loads_no_part_of_the_server() -> None:
    code = (
        "import sys; import probity.cli.agent, probity.agent.runner;"
        "heavy = {'litestar', 'asyncpg', 'uvicorn', 'cryptography', 'structlog', 'pytest', 'jinja2'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_enrolling_keeps_the_credential_private(server: ProtocolServer, tmp_path: Path) -> None:
    done = enroll(server, tmp_path / "data", "--name", "builder", "--tag", "linux", "--tag", "big", "--json")

    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout + done.stderr
    path = tmp_path / "data" / "agent.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert load_credential(tmp_path / "data").secret == SECRET
    (sent,) = server.state.enrolments
    assert (sent["agent_name"], sent["tags"], sent["capabilities"]) == ("builder", ["linux", "big"], ["command"])
    assert sent["hostname"] and sent["os"] and sent["arch"]


def test_a_token_can_come_by_standard_input(server: ProtocolServer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("good-token\n")

    assert enroll(server, tmp_path / "data", "--token-file", str(token), token="").returncode == 0


def test_a_refused_token_leaves_nothing(server: ProtocolServer, tmp_path: Path) -> None:
    done = enroll(server, tmp_path / "data", token="used")

    assert done.returncode == 1
    assert "enrollment_token_invalid" in done.stderr
    assert not (tmp_path / "data" / "agent.json").exists()


def test_an_enrolled_agent_is_replaced_only_on_demand(server: ProtocolServer, tmp_path: Path) -> None:
    enroll(server, tmp_path)

    assert "--force" in enroll(server, tmp_path).stderr
    assert enroll(server, tmp_path, "--force").returncode == 0


def test_plain_http_to_another_machine_is_refused(tmp_path: Path) -> None:
    done = probity("agent", "enroll", "--server", "http://probity.example", "--token", "t", "--data", str(tmp_path))

    assert done.returncode == 1
    assert "https" in done.stderr


@pytest.mark.parametrize(("mode", "content", "error"), [(0o644, None, "chmod 600"), (0o600, b"{", "damaged"), (0o600, b"{}", "damaged")])
def test_a_credential_that_is_unsafe_is_refused(tmp_path: Path, mode: int, content: bytes | None, error: str) -> None:
    path = save_credential(tmp_path, Credential("https://x", "id", "secret", "name"))
    if content is not None:
        path.write_bytes(content)
    path.chmod(mode)

    with pytest.raises(UnsafeCredential, match=error):
        load_credential(tmp_path)


def test_without_a_credential_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotEnrolled, match="agent enroll"):
        load_credential(tmp_path)


def test_the_data_directory_follows_the_environment() -> None:
    assert default_data({"PROBITY_AGENT_DATA": "/x"}, 0) == Path("/x")
    assert default_data({}, 0) == Path("/var/lib/probity-agent")
    assert default_data({"XDG_STATE_HOME": "/s"}, 1000) == Path("/s/probity-agent")


def test_one_agent_per_directory(server: ProtocolServer, agent: AgentProcess) -> None:
    server.wait_for(lambda: server.state.heartbeats)
    second = probity("agent", "run", "--data", str(agent.data))

    assert second.returncode == 1
    assert "runs in" in second.stderr


def test_status_says_whether_it_runs_and_reaches_the_server(server: ProtocolServer, agent: AgentProcess) -> None:
    def status() -> tuple[int, dict]:
        done = probity("agent", "status", "--data", str(agent.data), "--json")
        return done.returncode, json.loads(done.stdout)

    wait_until(lambda: status()[0] == 0)
    code, seen = status()
    assert (seen["running"], seen["server_answers"], seen["jobs"], seen["waiting_records"]) == (True, True, [], 0)
    assert SECRET not in json.dumps(seen)
    server.state.away = True
    wait_until(lambda: status()[1]["server_answers"] is False)
    assert status()[0] == 1
    agent.kill()
    code, seen = status()
    assert (code, seen["running"]) == (1, False)


def test_the_systemd_unit_quotes_what_systemd_would_read(tmp_path: Path) -> None:
    unit = systemd_unit(("/usr/bin/python3", "-m", "probity", "--data", "/a b/100%/$x"), user=False, home=tmp_path)

    assert unit.path == Path("/etc/systemd/system/probity-agent.service")
    assert 'ExecStart=/usr/bin/python3 -m probity --data "/a b/100%%/$$x"' in unit.text
    assert "WantedBy=multi-user.target" in unit.text
    assert "RestartPreventExitStatus=2 3" in unit.text
    assert systemd_unit(("x",), user=True, home=tmp_path).path.is_relative_to(tmp_path)


def test_the_launchd_list_is_one(tmp_path: Path) -> None:
    unit = launchd_unit(("/usr/bin/python3", "--data", "/a & <b>"), user=True, home=tmp_path, data=tmp_path)
    read = plistlib.loads(unit.text.encode())

    assert read["ProgramArguments"] == ["/usr/bin/python3", "--data", "/a & <b>"]
    assert read["KeepAlive"] == {"SuccessfulExit": False}
    assert unit.path == tmp_path / "Library/LaunchAgents/org.probity.agent.plist"


def test_install_prints_without_touching_anything(tmp_path: Path) -> None:
    done = probity("agent", "install", "--print", "--user", "--data", str(tmp_path / "none"), HOME=str(tmp_path))

    assert done.returncode == 0
    assert "[Service]" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_delays_double_with_jitter_up_to_a_limit() -> None:
    backoff = Backoff(first_s=1.0, longest_s=10.0)
    delays = [backoff.next_s() for _ in range(50)]

    assert all(0.5 * step <= delay <= step for delay, step in zip(delays, [1, 2, 4, 8, *[10] * 46], strict=True))
    assert len(set(delays)) == 50
    assert backoff.next_s(at_least_s=60) == 60
    backoff.reset()
    assert backoff.next_s() <= 1
