"""JUnit XML, read as a stream: the dialects of pytest, Surefire, Gradle, PHPUnit, Jest, GoogleTest, Bazel, CTest and Go reporters.

The files come from test suites and are never trusted: entity declarations are refused (so neither expansion bombs nor external
entities exist), nesting, text and attribute sizes are bounded, and memory does not grow with the number of cases.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Protocol
from xml.parsers import expat

from probity.kernel.errors import Invalid

CHUNK_BYTES: Final = 262_144
MAX_DEPTH: Final = 64
MAX_NAME_CHARS: Final = 2_000
MAX_MESSAGE_CHARS: Final = 8_000
MAX_TEXT_CHARS: Final = 200_000
CUT_NOTE: Final = "\n[… cut]"

# Children of <testcase> that record an attempt before the final one (Surefire with rerunFailingTestsCount).
_RERUNS: Final = {"rerunFailure": "failed", "flakyFailure": "failed", "rerunError": "error", "flakyError": "error"}
_VERDICTS: Final = {"failure", "error", "skipped", *_RERUNS}
_NOT_RUN: Final = {"notrun", "disabled", "suppressed", "skipped", "ignored", "inactive"}


class JUnitError(Invalid):
    """The file is not JUnit XML that can be read; the message names the line."""

    code = "junit.unreadable"


class JUnitOutcome(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    SKIPPED = "skipped"
    XFAILED = "xfailed"


@dataclass(frozen=True, slots=True, kw_only=True)
class JUnitCase:
    """One attempt of one case.

    `case_key` is `classname::name`; a case that appears again in the same file gets `#2`, `#3` behind it, because the reporters that
    write a name twice mean two cases (and pytest writes a failed test with a failing teardown so). `line` starts at 1.
    """

    case_key: str
    classname: str
    name: str
    file: str | None
    line: int | None
    time_s: float
    outcome: JUnitOutcome
    message: str | None
    details: str | None
    stdout: str | None
    stderr: str | None
    suite: str | None
    attempt: int = 1

    @property
    def base_key(self) -> str:
        """The key without the number of a repetition."""
        return f"{self.classname}::{self.name}"


class ByteStream(Protocol):
    def read(self, size: int, /) -> bytes: ...


def iter_cases(stream: ByteStream | bytes) -> Iterator[JUnitCase]:
    """Yield the cases of a JUnit XML file in file order, earlier attempts of a case before its last.

    Raises:
        JUnitError: not XML, entity declarations, nested too deeply, or no test suite inside. Cases before the fault have been yielded.
    """
    source: ByteStream = io.BytesIO(stream) if isinstance(stream, bytes) else stream
    reader = _Reader()
    while chunk := source.read(CHUNK_BYTES):
        reader.feed(chunk)
        yield from reader.take()
    reader.close()
    yield from reader.take()


@dataclass(slots=True)
class _Verdict:
    tag: str
    message: str | None
    kind: str | None
    text: str = ""


@dataclass(slots=True)
class _OpenCase:
    attrs: dict[str, str]
    verdicts: list[_Verdict] = field(default_factory=list)
    stdout: str = ""
    stderr: str = ""


@dataclass(slots=True)
class _Text:
    """Character data of one element, up to the limit."""

    parts: list[str] = field(default_factory=list)
    size: int = 0

    def add(self, data: str) -> None:
        room = MAX_TEXT_CHARS - self.size
        if room <= 0:
            return
        self.size += len(data)
        self.parts.append(data if len(data) <= room else data[:room] + CUT_NOTE)

    def value(self) -> str:
        return "".join(self.parts)


class _Reader:
    """Turns expat's events into cases. Holds one open case at a time."""

    def __init__(self) -> None:
        self._cases: list[JUnitCase] = []
        self._path: list[str] = []
        self._suites: list[str] = []
        self._case: _OpenCase | None = None
        self._text: _Text | None = None
        self._seen: dict[str, int] = {}
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._parser.EntityDeclHandler = self._refuse_entity
        self._parser.ExternalEntityRefHandler = self._refuse_entity

    def feed(self, chunk: bytes) -> None:
        self._parse(chunk, final=False)

    def close(self) -> None:
        self._parse(b"", final=True)

    def take(self) -> list[JUnitCase]:
        cases, self._cases = self._cases, []
        return cases

    def _parse(self, chunk: bytes, *, final: bool) -> None:
        try:
            self._parser.Parse(chunk, final)
        except expat.ExpatError as error:
            raise JUnitError(f"not readable XML: {expat.ErrorString(error.code)} in line {error.lineno}") from error
        except (ValueError, LookupError) as error:  # an encoding that Python does not know, or that is not a byte encoding
            raise JUnitError("not readable XML: unknown encoding") from error

    def _refuse_entity(self, *_: object) -> int:
        raise JUnitError("entity declarations are not accepted in JUnit XML")

    def _start(self, raw_tag: str, attrs: dict[str, str]) -> None:
        tag = raw_tag.rpartition(":")[2]
        if len(self._path) >= MAX_DEPTH:
            raise JUnitError(f"elements nested deeper than {MAX_DEPTH}")
        if not self._path and tag not in ("testsuites", "testsuite"):
            raise JUnitError(f"not JUnit XML: the document element is <{_cut(tag, 60)}>")
        self._path.append(tag)
        if tag == "testsuite":
            self._suites.append(_cut(attrs.get("name", ""), MAX_NAME_CHARS))
        elif tag == "testcase":
            self._case = _OpenCase(attrs)
        elif tag in _VERDICTS and self._in("testcase") and self._case is not None:
            self._case.verdicts.append(_Verdict(tag, attrs.get("message"), attrs.get("type")))
            self._text = _Text()
        elif tag in ("failure", "error") and self._in("testsuite"):
            # A suite that could not be set up has no case of its own.
            self._case = _OpenCase(
                {"classname": self._suite() or "", "name": "(suite)"}, [_Verdict(tag, attrs.get("message"), attrs.get("type"))]
            )
            self._text = _Text()
        elif tag in ("system-out", "system-err") and self._in("testcase"):
            self._text = _Text()

    def _characters(self, data: str) -> None:
        if self._text is not None:
            self._text.add(data)

    def _end(self, raw_tag: str) -> None:
        tag = self._path.pop()
        case = self._case
        if tag == "testsuite":
            self._suites.pop()
        elif case is None:
            return
        elif tag == "testcase":
            self._finish(case)
        elif tag in _VERDICTS and self._parent() == "testcase":
            case.verdicts[-1].text = self._take_text()
        elif tag in ("failure", "error") and self._parent() == "testsuite":
            case.verdicts[-1].text = self._take_text()
            self._finish(case)
        elif tag == "system-out" and self._parent() == "testcase":
            case.stdout = _join(case.stdout, self._take_text())
        elif tag == "system-err" and self._parent() == "testcase":
            case.stderr = _join(case.stderr, self._take_text())

    def _in(self, parent: str) -> bool:
        return len(self._path) > 1 and self._path[-2] == parent

    def _parent(self) -> str:
        return self._path[-1] if self._path else ""

    def _take_text(self) -> str:
        text = self._text.value() if self._text else ""
        self._text = None
        return text

    def _suite(self) -> str | None:
        return next((name for name in reversed(self._suites) if name), None)

    def _finish(self, case: _OpenCase) -> None:
        self._case = None
        self._cases.extend(_attempts(case, self._suite(), self._key(case)))

    def _key(self, case: _OpenCase) -> str:
        """Return the key of a case: the suite stands in for a class name that is absent (an empty one is a name, as pytest writes it)."""
        key = f"{_classname(case.attrs, self._suite())}::{_cut(case.attrs.get('name', ''), MAX_NAME_CHARS)}"
        count = self._seen[key] = self._seen.get(key, 0) + 1
        return key if count == 1 else f"{key}#{count}"


def _attempts(case: _OpenCase, suite: str | None, key: str) -> Iterator[JUnitCase]:
    """Yield the earlier attempts that Surefire writes inside a case, then the case itself.

    A flaky failure comes before a pass. A rerun failure comes after the first failure, which the case itself carries; as all of
    them failed, the order among them carries no meaning.
    """
    reruns = [verdict for verdict in case.verdicts if verdict.tag in _RERUNS]
    verdicts = [verdict for verdict in case.verdicts if verdict.tag not in _RERUNS]
    for number, rerun in enumerate(reruns, start=1):
        yield _case(case, suite, key, JUnitOutcome(_RERUNS[rerun.tag]), [rerun], number)
    yield _case(case, suite, key, _outcome(case, verdicts), verdicts, len(reruns) + 1)


def _case(case: _OpenCase, suite: str | None, key: str, outcome: JUnitOutcome, verdicts: list[_Verdict], attempt: int) -> JUnitCase:
    attrs = case.attrs
    message = next((verdict.message for verdict in verdicts if verdict.message), None)
    details = "\n\n".join(verdict.text.strip("\n") for verdict in verdicts if verdict.text.strip())
    return JUnitCase(
        case_key=key,
        classname=_classname(attrs, suite),
        name=_cut(attrs.get("name", ""), MAX_NAME_CHARS),
        file=_cut(attrs["file"], MAX_NAME_CHARS) if attrs.get("file") else None,
        line=_line(attrs.get("line") or attrs.get("lineno")),
        time_s=_seconds(attrs.get("time") or attrs.get("duration")),
        outcome=outcome,
        message=_cut(message, MAX_MESSAGE_CHARS) if message else None,
        details=_cut(details, MAX_TEXT_CHARS) or None,
        stdout=case.stdout or None,
        stderr=case.stderr or None,
        suite=suite,
        attempt=attempt,
    )


def _outcome(case: _OpenCase, verdicts: list[_Verdict]) -> JUnitOutcome:
    tags = {verdict.tag for verdict in verdicts}
    if "error" in tags:
        return JUnitOutcome.ERROR
    if "failure" in tags:
        return JUnitOutcome.FAILED
    if "skipped" in tags:
        expected = any(verdict.kind == "pytest.xfail" for verdict in verdicts)
        return JUnitOutcome.XFAILED if expected else JUnitOutcome.SKIPPED
    if _NOT_RUN & {case.attrs.get("status", "").lower(), case.attrs.get("result", "").lower()}:
        return JUnitOutcome.SKIPPED
    return JUnitOutcome.PASSED


def _classname(attrs: dict[str, str], suite: str | None) -> str:
    name = attrs.get("classname")
    if name is None:
        name = attrs.get("class") or suite or ""
    return _cut(name, MAX_NAME_CHARS)


def _seconds(text: str | None) -> float:
    """Read a duration; some reporters group thousands with commas, some write a decimal comma, some add the unit."""
    if not text:
        return 0.0
    plain = text.strip().removesuffix("s")
    plain = plain.replace(",", "") if "." in plain else plain.replace(",", ".")
    try:
        seconds = float(plain)
    except ValueError:
        return 0.0
    return seconds if 0 <= seconds < 1e9 else 0.0


def _line(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 10 else None


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + "…"


def _join(first: str, second: str) -> str:
    return f"{first}\n{second}" if first and second else first or second
