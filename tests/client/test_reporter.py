"""Outside an agent: uploads beside the suite, which neither a slow nor an absent server can hold up."""

import json
import time
from pathlib import Path

import pytest

from probity.client.http import Client
from probity.client.profile import Profile
from probity.client.reporter import BackgroundReporter, RunApi, start_reporter
from probity.client.spoolfile import NotASpool, import_spool
from probity.kernel.errors import Invalid
from tests.protocol_server import KEY, ProtocolServer, protocol_server


@pytest.fixture
def server():
    with protocol_server() as running:
        yield running


def event(number: int) -> dict:
    return {
        "id": f"e{number}",
        "type": "result",
        "at": "2026-01-01T00:00:00Z",
        "case": f"c::{number}",
        "name": str(number),
        "outcome": "passed",
        "duration_ms": 1,
    }


def reporter(
    server: ProtocolServer, directory: Path, *, key: str = KEY, run: str | None = None, flush_s: float = 5.0
) -> BackgroundReporter:
    new_run = {"kind": "external", "client_run_id": "client-run", "name": "suite"}
    return BackgroundReporter(RunApi(server.url, key), directory / "spool.ndjson", run=run, new_run=new_run, flush_s=flush_s, pause_s=0.05)


def delivered(server: ProtocolServer, run: str = "uuid-1") -> list[str]:
    return list(server.state.events.get(run, {}))


def test_events_arrive_while_the_suite_runs_and_the_run_is_finished(server: ProtocolServer, tmp_path: Path) -> None:
    reporting = reporter(server, tmp_path)
    reporting.write(event(1))
    server.wait_for(lambda: delivered(server) == ["e1"])
    reporting.write(event(2))
    note = reporting.finish(1)

    assert delivered(server) == ["e1", "e2", "client-run-end"]
    assert server.state.events["uuid-1"]["client-run-end"]["exit_code"] == 1
    assert server.state.runs["uuid-1"]["client_run_id"] == "client-run"
    assert "3 events delivered" in (note or "")
    assert not (tmp_path / "spool.ndjson").exists()


def test_an_existing_run_is_not_finished_by_one_of_its_suites(server: ProtocolServer, tmp_path: Path) -> None:
    reporting = reporter(server, tmp_path, run="their-run")
    reporting.write(event(1))
    reporting.finish(0)

    assert delivered(server, "their-run") == ["e1"]
    assert not server.state.runs


def test_an_absent_server_costs_a_second_and_loses_nothing(server: ProtocolServer, tmp_path: Path) -> None:
    server.state.away = True
    reporting = reporter(server, tmp_path)
    for number in range(3):
        reporting.write(event(number))
    time.sleep(0.3)
    started = time.monotonic()
    note = reporting.finish(0)
    assert time.monotonic() - started < 2
    assert "4 events not delivered" in (note or "")
    assert f"probity runs import {tmp_path / 'spool.ndjson'}" in (note or "")

    server.state.away = False
    with Client(Profile(server.url, KEY)) as client:
        client.get_run = lambda ref: None  # type: ignore[method-assign,assignment,return-value]  # the protocol server has no run to read
        import_spool(client, tmp_path / "spool.ndjson")
        import_spool(client, tmp_path / "spool.ndjson")

    run = next(iter(server.state.runs))
    assert delivered(server, run) == ["e0", "e1", "e2", "client-run-end"]


def test_a_slow_server_never_holds_up_a_write(server: ProtocolServer, tmp_path: Path) -> None:
    server.state.slow_s = 1.0
    reporting = reporter(server, tmp_path, flush_s=0.5)
    started = time.monotonic()
    for number in range(500):
        reporting.write(event(number))
    wrote_s = time.monotonic() - started
    reporting.finish(0)

    assert wrote_s < 0.5
    assert time.monotonic() - started < 3


def test_a_refused_key_is_said_and_not_repeated(server: ProtocolServer, tmp_path: Path) -> None:
    reporting = reporter(server, tmp_path, key="pa_wrong")
    reporting.write(event(1))
    note = reporting.finish(0)

    assert "401" in (note or "")
    assert (tmp_path / "spool.ndjson").exists()


def test_lost_replies_lead_to_repeats_not_to_doubles(server: ProtocolServer, tmp_path: Path) -> None:
    server.state.drop_replies = 1
    reporting = reporter(server, tmp_path)
    reporting.write(event(1))
    server.wait_for(lambda: server.state.duplicates > 0)
    reporting.finish(0)

    assert delivered(server) == ["e1", "client-run-end"]


def test_plain_http_to_another_machine_is_refused(tmp_path: Path) -> None:
    environ = {"PROBITY_URL": "http://probity.example", "PROBITY_API_KEY": KEY, "PROBITY_SPOOL_DIR": str(tmp_path)}

    with pytest.raises(Invalid, match="https"):
        start_reporter(environ, name="x")


def test_a_spool_cut_off_in_its_last_line_is_imported(server: ProtocolServer, tmp_path: Path) -> None:
    path = tmp_path / "cut.ndjson"
    path.write_text(json.dumps({"type": "run", "run": "r", "new_run": {}}) + "\n" + json.dumps(event(1)) + "\n" + '{"id":"e2","ty')
    with Client(Profile(server.url, KEY)) as client:
        client.get_run = lambda ref: None  # type: ignore[method-assign,assignment,return-value]
        import_spool(client, path)

    assert delivered(server, "r") == ["e1"]


@pytest.mark.parametrize("content", ["", "nonsense\n", "[]\n", '{"type":"result"}\n'])
def test_another_file_is_no_spool(server: ProtocolServer, tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.ndjson"
    path.write_text(content)
    with Client(Profile(server.url, KEY)) as client, pytest.raises(NotASpool):
        import_spool(client, path)
