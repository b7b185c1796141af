"""Files that a command leaves: JUnit XML to read, artifacts to keep. Patterns never reach outside the working directory."""

import glob
import hashlib
import mimetypes
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final

import msgspec

from probity.agent.live import result_item
from probity.agent.output import Masker
from probity.agent.spool import Item, ItemKind
from probity.agent.wire import ResultEvent, timestamp
from probity.kernel.junit import JUnitCase, JUnitError, iter_cases

MOST_FILES: Final = 500
JUNIT_LIMIT_BYTES: Final = 268_435_456
# A file system may store times in steps of up to two seconds (FAT), so a report may look slightly older than the run.
CLOCK_SLACK_S: Final = 2.0


class Upload(msgspec.Struct, frozen=True):
    """What the outbox remembers of an artifact: a private copy, because the command's directory may change or vanish."""

    name: str
    content_type: str
    path: str


@dataclass(frozen=True, slots=True)
class Found:
    """A file below the working directory; `name` is its relative path with slashes."""

    name: str
    path: Path


def find(cwd: Path, patterns: Sequence[str], *, since: float | None = None) -> Iterator[Found | str]:
    """Yield the files that the patterns name, each once, and a sentence for whatever is left out.

    Args:
        since: leave out files last written before this time (seconds since 1970): another run's report is not this run's result.
    """
    root = cwd.resolve()
    seen: set[Path] = set()
    for pattern in patterns:
        if PurePath(pattern).is_absolute() or ".." in PurePath(pattern).parts:
            yield f"pattern {pattern!r} reaches outside the working directory and is ignored"
            continue
        for relative in sorted(_matches(root, pattern)):
            path = (root / relative).resolve()
            if path in seen or not path.is_file():
                continue
            seen.add(path)
            if not path.is_relative_to(root):
                yield f"{relative} points outside the working directory and is ignored"
            elif since is not None and path.stat().st_mtime < since - CLOCK_SLACK_S:
                yield f"{relative} was not written by this run and is ignored"
            elif len(seen) > MOST_FILES:
                yield f"more than {MOST_FILES} files match; the rest is ignored"
                return
            else:
                yield Found(PurePath(relative).as_posix(), path)


def _matches(root: Path, pattern: str) -> list[str]:
    # pathlib's glob follows no rule for hidden files and cannot start below a root without resolving the pattern itself.
    return glob.glob(pattern, root_dir=root, recursive=True, include_hidden=True)  # noqa: PTH207


def junit_results(file: Found, *, claim: str, known: Collection[str], masker: Masker) -> Iterator[Item | str]:
    """Yield the results of a JUnit file whose cases are not `known` yet, and a sentence when it cannot be read to its end."""
    if file.path.stat().st_size > JUNIT_LIMIT_BYTES:
        yield f"{file.name} is larger than {JUNIT_LIMIT_BYTES} bytes and is not read"
        return
    try:
        with file.path.open("rb") as stream:
            for case in iter_cases(stream):
                # With reruns, pytest writes a case once per attempt, the failed ones as passed; the live results know better.
                if case.base_key not in known:
                    yield result_item(_event(claim, file.name, case), masker)
    except JUnitError as error:
        yield f"{file.name}: {error}"
    except OSError as error:
        yield f"{file.name} cannot be read: {error.strerror}"


def keep(file: Found, directory: Path, limit_bytes: int) -> Item | str:
    """Copy an artifact into the job's own directory and return its outbox record, or a sentence when it cannot be kept."""
    try:
        size = file.path.stat().st_size
        if size > limit_bytes:
            return f"artifact {file.name} has {size} bytes, more than the {limit_bytes} this agent sends; it is left out"
        directory.mkdir(exist_ok=True)
        copy = directory / hashlib.sha256(file.name.encode()).hexdigest()[:32]
        shutil.copyfile(file.path, copy)
    except OSError as error:
        return f"artifact {file.name} cannot be kept: {error.strerror}"
    content_type = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    upload = Upload(file.name, content_type, str(copy))
    return Item(ItemKind.UPLOAD, f"upload:{copy.name}", msgspec.json.encode(upload))


def _event(claim: str, file_name: str, case: JUnitCase) -> ResultEvent:
    # The same file read again, by a restarted agent say, gives the same ids.
    identity = hashlib.sha256(f"{claim}\0{file_name}\0{case.case_key}\0{case.attempt}".encode()).hexdigest()[:32]
    return ResultEvent(
        id=f"junit-{identity}",
        at=timestamp(),
        case=case.case_key,
        name=case.name,
        outcome=case.outcome.value,
        duration_ms=round(case.time_s * 1000, 3),
        attempt=case.attempt,
        suite=case.suite,
        file=case.file,
        line=case.line,
        message=case.message,
        details=case.details,
        stdout=case.stdout,
        stderr=case.stderr,
    )
