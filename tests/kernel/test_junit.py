"""JUnit XML of many reporters, and input that means harm."""

import contextlib
import io
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probity.kernel.junit import MAX_TEXT_CHARS, JUnitCase, JUnitError, JUnitOutcome, iter_cases


def read(text: str | bytes) -> list[JUnitCase]:
    return list(iter_cases(text.encode() if isinstance(text, str) else text))


def outcomes(text: str) -> dict[str, str]:
    return {case.case_key: str(case.outcome) for case in read(text)}


PYTEST = """<?xml version="1.0" encoding="utf-8"?><testsuites name="pytest tests"><testsuite name="pytest" errors="1" failures="1" skipped="2" tests="5">
<testcase classname="tests.test_a.TestX" name="test_one[a-b]" time="0.010" />
<testcase classname="tests.test_a" name="test_two" time="1.5"><failure message="assert 1 == 2">def test_two():
&gt;  assert 1 == 2</failure></testcase>
<testcase classname="tests.test_a" name="test_three" time="0.000"><skipped type="pytest.skip" message="no net">tests/test_a.py:9: no net</skipped></testcase>
<testcase classname="tests.test_a" name="test_four" time="0.000"><skipped type="pytest.xfail" message="known" /></testcase>
<testcase classname="" name="tests.test_broken" time="0.000"><error message="collection failure">ImportError</error></testcase>
</testsuite></testsuites>"""


def test_pytest_outcomes_are_read() -> None:
    assert outcomes(PYTEST) == {
        "tests.test_a.TestX::test_one[a-b]": "passed",
        "tests.test_a::test_two": "failed",
        "tests.test_a::test_three": "skipped",
        "tests.test_a::test_four": "xfailed",
        "::tests.test_broken": "error",
    }


def test_details_of_a_failure_are_kept() -> None:
    failed = read(PYTEST)[1]

    assert (failed.message, failed.time_s, failed.suite) == ("assert 1 == 2", 1.5, "pytest")
    assert failed.details is not None
    assert failed.details.endswith(">  assert 1 == 2")


def test_surefire_reruns_are_earlier_attempts() -> None:
    cases = read(
        """<testsuite name="S"><testcase classname="C" name="flaky"><flakyFailure message="first" type="X">trace</flakyFailure></testcase>
        <testcase classname="C" name="broken"><failure message="last"/><rerunFailure message="again"/><rerunError message="odd"/></testcase></testsuite>"""
    )

    assert [(case.name, case.attempt, str(case.outcome), case.message) for case in cases] == [
        ("flaky", 1, "failed", "first"),
        ("flaky", 2, "passed", None),
        ("broken", 1, "failed", "again"),
        ("broken", 2, "error", "odd"),
        ("broken", 3, "failed", "last"),
    ]


def test_the_suite_stands_in_for_an_absent_class_name() -> None:
    assert outcomes('<testsuite name="GTest"><testcase name="Adds" status="run"/><testcase name="Off" status="notrun"/></testsuite>') == {
        "GTest::Adds": "passed",
        "GTest::Off": "skipped",
    }


def test_nested_suites_of_phpunit() -> None:
    (case,) = read(
        '<testsuites><testsuite name="all"><testsuite name="App\\T"><testcase name="testX" class="App\\T" file="/t.php" line="12" time="0,5">'
        "<system-out>hello</system-out></testcase></testsuite></testsuite></testsuites>"
    )

    assert (case.case_key, case.file, case.line, case.time_s, case.stdout) == ("App\\T::testX", "/t.php", 12, 0.5, "hello")


def test_a_failing_suite_without_cases_is_an_error() -> None:
    (case,) = read('<testsuite name="Db"><error message="cannot connect">trace</error></testsuite>')

    assert (case.case_key, case.outcome, case.details) == ("Db::(suite)", JUnitOutcome.ERROR, "trace")


def test_a_name_written_twice_is_two_cases() -> None:
    twice = (
        '<testsuite><testcase classname="C" name="n"><failure/></testcase><testcase classname="C" name="n"><error/></testcase></testsuite>'
    )

    assert outcomes(twice) == {"C::n": "failed", "C::n#2": "error"}


def test_several_failures_of_one_case_are_joined() -> None:
    (case,) = read('<testsuite><testcase name="n"><failure message="a">1</failure><failure message="b">2</failure></testcase></testsuite>')

    assert (case.message, case.details) == ("a", "1\n\n2")


def test_prefixed_names_and_other_encodings_are_read() -> None:
    assert outcomes('<j:testsuite xmlns:j="urn:x" name="s"><j:testcase name="n"/></j:testsuite>') == {"s::n": "passed"}
    latin = '<?xml version="1.0" encoding="windows-1252"?><testsuite name="s"><testcase name="größe"/></testsuite>'.encode("cp1252")
    assert read(latin)[0].name == "größe"
    assert read('<testsuite name="s"><testcase name="wide"/></testsuite>'.encode("utf-16"))[0].name == "wide"


@pytest.mark.parametrize("text", ["1,234.5", "1234.5", "1234,5", "1234.5s"])
def test_durations_in_every_spelling(text: str) -> None:
    assert read(f'<testsuite><testcase name="n" time="{text}"/></testsuite>')[0].time_s == 1234.5


@pytest.mark.parametrize("text", ["", "nan", "inf", "-1", "soon", "1e99"])
def test_durations_that_are_none_are_zero(text: str) -> None:
    assert read(f'<testsuite><testcase name="n" time="{text}"/></testsuite>')[0].time_s == 0.0


BOMB = """<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><testsuite><testcase name="&b;"/></testsuite>"""
EXTERNAL = (
    """<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><testsuite><testcase name="n"><failure>&a;</failure></testcase></testsuite>"""
)
PARAMETER = """<!DOCTYPE x [<!ENTITY % a SYSTEM "http://127.0.0.1/x"> %a;]><testsuite/>"""


@pytest.mark.parametrize("text", [BOMB, EXTERNAL, PARAMETER])
def test_entities_are_refused(text: str) -> None:
    with pytest.raises(JUnitError, match="entity"):
        read(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not xml",
        "<html></html>",
        "<testsuite>",
        "<testsuite></x>",
        '<?xml version="1.0" encoding="nope"?><testsuite/>',
        "<testsuite>\x00</testsuite>",
    ],
)
def test_other_files_are_refused(text: str) -> None:
    with pytest.raises(JUnitError):
        read(text)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(JUnitError, match="nested"):
        read("<testsuite>" * 200)


def test_long_output_is_cut() -> None:
    (case,) = read(f'<testsuite><testcase name="n"><system-out>{"x" * 500_000}</system-out></testcase></testsuite>')

    assert case.stdout is not None
    assert MAX_TEXT_CHARS < len(case.stdout) < MAX_TEXT_CHARS + 50


def test_memory_does_not_grow_with_the_file() -> None:
    body = b"<testsuite name='s'>" + b"".join(
        b"<testcase classname='c' name='n%d'><failure>%s</failure></testcase>" % (n, b"x" * 2000) for n in range(5_000)
    )
    stream = io.BytesIO(body + b"</testsuite>")
    tracemalloc.start()
    count = sum(1 for _ in iter_cases(stream))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert count == 5_000
    assert peak < 6_000_000


def test_a_huge_attribute_takes_no_quadratic_time() -> None:
    started = time.monotonic()
    read(b"<testsuite><testcase name='" + b"x" * 8_000_000 + b"'/></testsuite>")

    assert time.monotonic() - started < 5


@given(st.binary(max_size=400))
def test_any_bytes_give_cases_or_a_junit_error(data: bytes) -> None:
    for body in (data, b"<testsuite><testcase name='" + data + b"'/></testsuite>"):
        with contextlib.suppress(JUnitError):
            list(iter_cases(io.BytesIO(body)))
