"""pytest plugin: sends every test result while the suite still runs.

Two ways of use, chosen by the environment:

- `PROBITY_EVENTS_FILE`: append one JSON event per line to that file; the agent that started pytest reads it. In this way the module
  needs nothing but pytest and the standard library, because the agent copies it into environments without Probity.
- `PROBITY_URL` and `PROBITY_API_KEY`: upload from a background thread (`probity.client.reporter`).

Without either it does nothing. It never fails a suite: an error of its own switches it off with a warning.
Cases have the names that pytest's own JUnit file gives them, so both describe the same case.
"""

from __future__ import annotations  # the copy also runs on older Pythons than Probity itself

import itertools
import json
import os
import re
import sys
import time
import uuid
from collections.abc import Callable
from typing import Any, Protocol

import pytest

try:
    from _pytest.junitxml import bin_xml_escape, mangle_test_address
except ImportError:  # pragma: no cover - a pytest without the private names still gets the same spelling

    def bin_xml_escape(arg: object) -> str:
        illegal = "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
        return re.sub(illegal, lambda found: f"#x{ord(found.group()):02X}", str(arg))

    def mangle_test_address(address: str) -> list[str]:
        path, bracket, params = address.partition("[")
        names = path.split("::")
        names[0] = re.sub(r"\.py$", "", names[0].replace("/", "."))
        names[-1] += bracket + params
        return names


PLUGIN_NAME = "probity-live-results"
MAX_NAME_CHARS = 2_000
MAX_MESSAGE_CHARS = 8_000
MAX_TEXT_CHARS = 60_000
# Set while a session reports, so that pytest sessions started by its tests (pytester, tox) stay silent.
REPORTING = "PROBITY_REPORTING"

_RANK = {"passed": 1, "xpassed": 2, "skipped": 3, "xfailed": 3, "failed": 4, "error": 5}


class Sink(Protocol):
    def write(self, event: dict[str, Any]) -> None: ...
    def finish(self, exit_code: int) -> str | None: ...


class FileSink:
    """Appends events to a file; one write per event, so several pytest processes may share the file."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, event: dict[str, Any]) -> None:
        line = json.dumps(event, ensure_ascii=False, separators=(",", ":")) + "\n"
        os.write(self._fd, line.encode("utf-8", "replace"))

    def finish(self, exit_code: int) -> str | None:
        os.close(self._fd)
        return None


def pytest_configure(config: pytest.Config) -> None:
    # The plugin can be loaded twice, as entry point and by PYTEST_PLUGINS. In xdist only the controller sees every report.
    if hasattr(config, "workerinput") or config.pluginmanager.hasplugin(PLUGIN_NAME) or os.environ.get(REPORTING):
        return
    try:
        sink = _sink(config)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong here must not fail the tests
        sys.stderr.write(_off(error) + "\n")
        return
    if sink is not None:
        os.environ[REPORTING] = "1"
        config.pluginmanager.register(LiveResults(sink, config.getoption("junitprefix", None)), PLUGIN_NAME)


def _sink(config: pytest.Config) -> Sink | None:
    if path := os.environ.get("PROBITY_EVENTS_FILE"):
        return FileSink(path)
    if os.environ.get("PROBITY_URL") and os.environ.get("PROBITY_API_KEY"):
        from probity.client.reporter import start_reporter  # absent where only this file was copied

        return start_reporter(os.environ, name=config.rootpath.name)
    return None


def _off(error: Exception) -> str:
    return f"probity: live results are off: {error!r}"


class Pending:
    """What is known of one attempt of a test whose phases still run."""

    __slots__ = ("details", "duration_s", "message", "outcome", "stderr", "stdout", "when")

    def __init__(self) -> None:
        self.outcome: str | None = None
        self.when = ""
        self.message = ""
        self.details = ""
        self.stdout = ""
        self.stderr = ""
        self.duration_s = 0.0

    def add(self, report: Any, outcome: str | None) -> None:
        """Take in one phase; of several verdicts (subtests, a failing teardown) the worst counts, as in the JUnit file."""
        self.duration_s += getattr(report, "duration", 0.0)
        if outcome is None:
            return
        if outcome not in ("passed", "xpassed"):
            message, details = _describe(report)
            self.message = self.message or message
            self.details = f"{self.details}\n\n{details}" if self.details else details
            self.stdout = report.capstdout
            self.stderr = report.capstderr
        if self.outcome is None or _RANK[outcome] > _RANK[self.outcome]:
            self.outcome = outcome
            self.when = report.when


class LiveResults:
    """Follows pytest's reports and writes one event per finished attempt."""

    def __init__(self, sink: Sink, junit_prefix: str | None) -> None:
        self._sink = sink
        self._prefix = junit_prefix
        self._session = uuid.uuid4().hex
        self._numbers = itertools.count(1)
        self._pending: dict[tuple[str, Any, Any], Pending] = {}
        self._attempts: dict[str, int] = {}
        self._rerunning: dict[tuple[str, Any, Any], bool] = {}
        self._broken = False
        self._note: str | None = None

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: Any) -> None:
        self._safely(self._report, report)

    @pytest.hookimpl(trylast=True)
    def pytest_collectreport(self, report: Any) -> None:
        if report.outcome != "passed":
            self._safely(self._report_collection, report)

    @pytest.hookimpl(trylast=True)
    def pytest_internalerror(self, excrepr: object) -> None:
        self._safely(self._report_internal_error, str(excrepr))

    def pytest_sessionfinish(self, exitstatus: int) -> None:
        self._safely(self._finish, int(exitstatus))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self._note:
            terminalreporter.write_line(self._note)

    def pytest_unconfigure(self) -> None:
        os.environ.pop(REPORTING, None)

    def _safely(self, step: Callable[..., None], *args: object) -> None:
        """Run one step; an error in it ends the reporting, never the suite."""
        if self._broken:
            return
        try:
            step(*args)
        except Exception as error:  # noqa: BLE001 - see above
            self._broken = True
            self._note = _off(error)

    def _finish(self, exit_code: int) -> None:
        for (nodeid, _, _), pending in self._pending.items():
            if pending.outcome is not None:  # the session was stopped between a verdict and its teardown
                self._emit_named(nodeid, None, pending)
        self._note = self._sink.finish(exit_code)

    def _report_collection(self, report: Any) -> None:
        pending = Pending()
        pending.add(report, "error" if report.outcome == "failed" else "skipped")
        self._emit(report, pending)

    def _report_internal_error(self, text: str) -> None:
        self._write(
            key="pytest::internal",
            name="internal",
            outcome="error",
            duration_ms=0.0,
            attempt=1,
            message="internal error",
            details=_tail(text),
        )

    def _report(self, report: Any) -> None:
        key = (report.nodeid, getattr(report, "worker_id", None), getattr(report, "item_index", None))
        if self._rerunning.pop(key, False) and report.when == "teardown":
            return  # clearing up after an attempt that is reported already
        if report.outcome == "rerun":
            pending = self._pending.pop(key, None) or Pending()
            pending.add(report, "failed" if report.when == "call" else "error")
            self._emit(report, pending)
            self._attempts[report.nodeid] = self._attempts.get(report.nodeid, 1) + 1
            self._rerunning[key] = True
            return
        outcome = _outcome(report)
        pending = self._pending.setdefault(key, Pending())
        if outcome == "error" and report.when == "teardown" and pending.outcome == "failed":
            # pytest's JUnit file writes such a test as two cases of one name; the reader of JUnit files calls the second `#2`.
            self._emit(report, pending)
            second = Pending()
            second.add(report, outcome)
            self._emit(report, second, suffix="#2")
            del self._pending[key]
            return
        pending.add(report, outcome)
        if report.when == "teardown":
            pending.outcome = pending.outcome or "passed"
            self._emit(report, pending)
            del self._pending[key]
        elif report.when not in ("setup", "call"):  # the worker process that ran this test died
            self._emit(report, pending)
            for other in [other for other in self._pending if other[0] == report.nodeid]:
                del self._pending[other]

    def _emit(self, report: Any, pending: Pending, suffix: str = "") -> None:
        self._emit_named(report.nodeid, report, pending, suffix)

    def _emit_named(self, nodeid: str, report: Any, pending: Pending, suffix: str = "") -> None:
        names = mangle_test_address(nodeid)
        classes = [self._prefix, *names[:-1]] if self._prefix else names[:-1]
        classname = _cut(".".join(classes), MAX_NAME_CHARS)
        name = _cut(bin_xml_escape(names[-1]), MAX_NAME_CHARS)
        event: dict[str, Any] = {
            "key": f"{classname}::{name}{suffix}",
            "name": name,
            "outcome": pending.outcome,
            "duration_ms": round(pending.duration_s * 1000, 3),
            "attempt": self._attempts.get(nodeid, 1),
        }
        location = getattr(report, "location", None)
        optional = {
            "suite": classname,
            "file": location[0] if location else None,
            "line": location[1] + 1 if location and location[1] is not None else None,
            "message": _cut(pending.message, MAX_MESSAGE_CHARS),
            "details": _tail(pending.details),
            "stdout": _tail(pending.stdout) if pending.outcome in ("failed", "error") else "",
            "stderr": _tail(pending.stderr) if pending.outcome in ("failed", "error") else "",
            "worker": getattr(report, "worker_id", None),
        }
        event.update({field: value for field, value in optional.items() if value not in (None, "")})
        self._write(**event)

    def _write(self, *, key: str, **fields: Any) -> None:
        now = time.time()
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1_000_000):06d}Z"
        self._sink.write({"id": f"{self._session}-{next(self._numbers)}", "type": "result", "at": at, "case": key, **fields})


def _outcome(report: Any) -> str | None:
    """Return the verdict that a phase carries, or None for a phase that only passed on the way."""
    expected = hasattr(report, "wasxfail")
    if report.outcome == "failed":
        return "failed" if report.when == "call" else "error"
    if report.outcome == "skipped":
        return "xfailed" if expected else "skipped"
    if report.outcome == "passed" and report.when == "call":
        return "xpassed" if expected else "passed"
    return None


def _describe(report: Any) -> tuple[str, str]:
    longrepr = report.longrepr
    if hasattr(report, "wasxfail"):
        return str(report.wasxfail).removeprefix("reason: "), "" if longrepr is None else str(longrepr)
    if isinstance(longrepr, tuple):  # a skip: file, line, reason
        return str(longrepr[2]).removeprefix("Skipped: "), f"{longrepr[0]}:{longrepr[1]}"
    text = "" if longrepr is None else str(longrepr)
    crash = getattr(longrepr, "reprcrash", None)
    message = str(crash.message) if crash is not None else _last_line(text)
    return (f"failed on teardown: {message}" if report.when == "teardown" else message), text


def _last_line(text: str) -> str:
    lines = text.rstrip().splitlines()
    return lines[-1].removeprefix("E ").strip() if lines else ""


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + "…"


def _tail(text: str) -> str:
    """Keep the end, where the reason of a failure stands."""
    return text if len(text) <= MAX_TEXT_CHARS else "[cut …]\n" + text[-MAX_TEXT_CHARS:]
