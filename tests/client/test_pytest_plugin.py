"""The pytest plugin describes every suite as pytest's own JUnit file does, while it runs, and never harms it."""

import json
import os
import subprocess
import sys
from collections import Counter
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from probity.agent.live import PLUGIN_MODULE, install_plugin
from probity.kernel.junit import iter_cases

EVERYTHING = """
import os, unittest, pytest
def test_ok(): pass
@pytest.mark.parametrize("x", ["a", "b::c", "d[e]", "x/y.py", "ünï", "new\\nline", "\\x00z", "\\ud800"])
def test_param(x): pass
def test_fail(): print("out"); assert 1 == 2
@pytest.fixture
def bad_teardown():
    yield
    raise RuntimeError("td")
@pytest.fixture
def bad_setup(): raise RuntimeError("su")
def test_teardown_error(bad_teardown): pass
def test_fail_and_teardown_error(bad_teardown): assert 0
def test_setup_error(bad_setup): pass
@pytest.mark.skip(reason="no")
def test_skip(): pass
def test_skip_inside(): pytest.skip("inside")
@pytest.mark.xfail(reason="known")
def test_xfail(): assert 0
@pytest.mark.xfail
def test_xpass(): pass
@pytest.mark.xfail(strict=True)
def test_xpass_strict(): pass
def test_subtests(subtests):
    for i in range(3):
        with subtests.test(i=i): assert i != 1
def test_subtests_pass(subtests):
    for i in range(3):
        with subtests.test(i=i): pass
class TestClass:
    class TestInner:
        def test_method(self): pass
class Unit(unittest.TestCase):
    def test_unit(self): pass
    def test_sub(self):
        with self.subTest("x"): self.fail("sub")
    @unittest.skip("u")
    def test_skipped(self): pass
    @unittest.expectedFailure
    def test_expected(self): self.fail()
"""


class Suite:
    """A directory of tests, run by a pytest process that has the plugin as the agent provides it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tests = directory / "suite"
        self.tests.mkdir()
        self.events_file = directory / "events.ndjson"
        install_plugin(directory / "plugin")

    def write(self, name: str, text: str) -> None:
        path = self.tests / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def run(self, *arguments: str, autoload: bool = False, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run pytest here. The plugins of our own environment stay out unless `autoload` is set: they take seconds and have their own say."""
        base = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
        environment = {**base, "PYTHONPATH": str(self.directory / "plugin"), "PROBITY_EVENTS_FILE": str(self.events_file), **environ}
        names = ["no:cacheprovider"]
        if autoload:
            names += ["no:randomly", "no:asyncio"]
        else:
            environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
            wanted = " ".join(arguments)
            names += [PLUGIN_MODULE, *(["xdist"] if "-n" in wanted else []), *(["rerunfailures"] if "--reruns" in wanted else [])]
        plugins = [argument for name in names for argument in ("-p", name)]
        junit = [] if "no:junitxml" in arguments else [f"--junitxml={self.junit}"]
        command = [sys.executable, "-m", "pytest", "-q", *plugins, *junit, *arguments]
        return subprocess.run(command, cwd=self.tests, env=environment, capture_output=True, text=True, timeout=100)

    @property
    def junit(self) -> Path:
        return self.directory / "junit.xml"

    def events(self) -> list[dict]:
        return [json.loads(line) for line in self.events_file.read_text(encoding="utf-8").splitlines()] if self.events_file.exists() else []

    def live(self) -> dict[str, str]:
        """Outcomes by case; a later attempt replaces an earlier one. JUnit knows no unexpected pass."""
        return {event["case"]: event["outcome"].replace("xpassed", "passed") for event in self.events()}

    def reported(self) -> dict[str, str]:
        with self.junit.open("rb") as file:
            return {case.case_key: str(case.outcome) for case in iter_cases(file)}


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path)


@pytest.mark.parametrize("arguments", [["-n2"], ["--junit-prefix=pre", "-o", "junit_family=xunit1"], ["-p", "no:junitxml"]], ids=str)
def test_live_results_are_those_of_the_junit_file(suite: Suite, arguments: list[str]) -> None:
    suite.write("test_everything.py", EVERYTHING)
    suite.write("sub/test_more.py", "def test_more(): pass\n")
    suite.write("test_broken.py", "import no_such_module\n")
    suite.write("test_skipped_module.py", "import pytest\npytest.skip('all', allow_module_level=True)\n")
    suite.run("--continue-on-collection-errors", *arguments)
    live = suite.live()
    if "no:junitxml" in arguments:
        suite.run("--continue-on-collection-errors", PROBITY_EVENTS_FILE="")

    assert live == suite.reported()
    assert Counter(live.values()) == {"passed": 14, "failed": 5, "error": 4, "skipped": 4, "xfailed": 2}


def test_ids_are_unique_and_attempts_are_one(suite: Suite) -> None:
    suite.write("test_everything.py", EVERYTHING)
    suite.run("-n2")

    events = suite.events()
    assert len({event["id"] for event in events}) == len(events)
    assert {event["attempt"] for event in events} == {1}
    assert {event["worker"] for event in events} == {"gw0", "gw1"}


def test_a_failure_carries_message_details_output_and_place(suite: Suite) -> None:
    suite.write("test_it.py", "def helper(): pass\ndef test_fail():\n    print('said')\n    assert 1 == 2, 'why'\n")
    suite.run()

    (event,) = suite.events()
    assert event["message"].startswith("AssertionError: why")
    assert "assert 1 == 2" in event["details"]
    assert (event["stdout"], event["file"], event["line"], event["suite"]) == ("said\n", "test_it.py", 2, "test_it")


@pytest.mark.parametrize("arguments", [[], ["-n2"]], ids=str)
def test_every_attempt_of_a_rerun_test_is_kept(suite: Suite, arguments: list[str]) -> None:
    pytest.importorskip("pytest_rerunfailures")
    suite.write(
        "test_flaky.py",
        "from pathlib import Path\n"
        "def test_flaky():\n"
        "    count = Path('count'); n = int(count.read_text()) if count.exists() else 0\n"
        "    count.write_text(str(n + 1))\n"
        "    assert n == 2\n"
        "def test_hopeless(): assert 0\n"
        "def test_fine(): pass\n",
    )
    suite.run("--reruns", "2", *arguments)

    attempts: dict[str, list[tuple[int, str]]] = {}
    for event in suite.events():
        attempts.setdefault(event["name"], []).append((event["attempt"], event["outcome"]))
    assert attempts == {
        "test_flaky": [(1, "failed"), (2, "failed"), (3, "passed")],
        "test_hopeless": [(1, "failed"), (2, "failed"), (3, "failed")],
        "test_fine": [(1, "passed")],
    }
    assert suite.live() == {"test_flaky::test_flaky": "passed", "test_flaky::test_hopeless": "failed", "test_flaky::test_fine": "passed"}


def test_a_worker_that_dies_is_an_error_of_its_test(suite: Suite) -> None:
    suite.write("test_it.py", "import os\ndef test_a(): pass\ndef test_dies(): os._exit(3)\ndef test_b(): pass\n")
    suite.run("-n1")

    assert suite.live() == suite.reported() == {"test_it::test_a": "passed", "test_it::test_dies": "error", "test_it::test_b": "passed"}


def test_a_session_that_stops_early_reports_what_ran(suite: Suite) -> None:
    suite.write("test_it.py", "def test_a(): pass\ndef test_b(): assert 0\ndef test_c(): pass\n")
    suite.run("-x")

    assert suite.live() == {"test_it::test_a": "passed", "test_it::test_b": "failed"}


def test_results_are_written_while_the_suite_runs(suite: Suite) -> None:
    suite.write(
        "test_it.py",
        f"from pathlib import Path\ndef test_a(): pass\ndef test_b(): assert 'test_a' in Path({str(suite.events_file)!r}).read_text()\n",
    )

    # As the agent does it: found as an installed plugin, named by nobody.
    assert suite.run(autoload=True).returncode == 0


def test_the_plugin_registers_once_when_it_is_installed_too(suite: Suite) -> None:
    suite.write("test_it.py", "def test_a(): pass\n")
    root = Path(__file__).parents[2] / "src"
    suite.run("-p", "probity.client.pytest_plugin", PYTHONPATH=f"{suite.directory / 'plugin'}{os.pathsep}{root}")

    assert len(suite.events()) == 1


def test_sessions_within_the_session_stay_silent(suite: Suite) -> None:
    suite.write("conftest.py", "pytest_plugins = ['pytester']\n")
    suite.write(
        "test_it.py",
        "def test_inner(pytester):\n"
        "    pytester.makepyfile('def test_x(): pass')\n"
        "    pytester.runpytest_inprocess().assert_outcomes(passed=1)\n"
        "    pytester.runpytest_subprocess().assert_outcomes(passed=1)\n"
        "def test_after(): pass\n",
    )
    done = suite.run()

    assert done.returncode == 0, done.stdout
    assert suite.live() == {"test_it::test_inner": "passed", "test_it::test_after": "passed"}


def test_an_environment_that_drops_the_path_is_left_in_peace(suite: Suite) -> None:
    suite.write("test_it.py", "def test_a(): pass\n")

    assert suite.run(autoload=True, PYTHONPATH="").returncode == 0
    # Where Probity itself is installed the plugin is that environment's own, and reports.
    assert len(suite.events()) == len(entry_points(group="pytest11", name="probity"))


def test_a_file_that_cannot_be_written_harms_nobody(suite: Suite) -> None:
    suite.write("test_it.py", "def test_a(): pass\n")
    done = suite.run("-W", "error", PROBITY_EVENTS_FILE="/no/such/directory/events")

    assert done.returncode == 0
    assert "live results are off" in done.stderr


def test_a_disk_that_fills_up_harms_nobody(suite: Suite) -> None:
    suite.write("test_it.py", "def test_a(): pass\ndef test_b(): pass\n")
    done = suite.run("-W", "error", PROBITY_EVENTS_FILE="/dev/full")

    assert done.returncode == 0
    assert "live results are off" in done.stdout


def test_a_result_costs_less_than_a_millisecond(suite: Suite) -> None:
    suite.write("test_it.py", "import pytest\n@pytest.mark.parametrize('n', range(1000))\ndef test_n(n): pass\n")

    def took(events_file: str) -> float:
        before = os.times()
        suite.run(PROBITY_EVENTS_FILE=events_file)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    without = took("")
    beside = took(str(suite.events_file))

    assert len(suite.events()) == 1000
    assert (beside - without) / 1000 < 0.001
