"""Results that a test process writes to a file while it runs. The file is written by the tested code's process, so nothing in it is trusted."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Final

import msgspec

from probity.agent.output import Masker
from probity.agent.spool import Item, ItemKind
from probity.agent.wire import ResultEvent
from probity.kernel.privatefile import write_private

READ_BYTES: Final = 1_048_576
LONGEST_LINE_BYTES: Final = 2_097_152
PLUGIN_MODULE: Final = "probity_live_results"

_TEXTS: Final = ("message", "details", "stdout", "stderr")


def install_plugin(directory: Path) -> None:
    """Put a copy of the pytest plugin alone into `directory`, for Python environments that do not have Probity.

    Only this module lies there, so adding the directory to PYTHONPATH cannot shadow anything of the tested project. It is announced
    as an installed entry point rather than by PYTEST_PLUGINS: where PYTHONPATH is dropped on the way (tox, `python -I`), pytest
    would refuse to start for a plugin that it is told to load and cannot find.
    """
    source = resources.files("probity").joinpath("client", "pytest_plugin.py").read_bytes()
    info = directory / f"{PLUGIN_MODULE}-1.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    _write_if_changed(directory / f"{PLUGIN_MODULE}.py", source)
    _write_if_changed(info / "METADATA", f"Metadata-Version: 2.1\nName: {PLUGIN_MODULE.replace('_', '-')}\nVersion: 1\n".encode())
    _write_if_changed(info / "entry_points.txt", f"[pytest11]\n{PLUGIN_MODULE} = {PLUGIN_MODULE}\n".encode())


def _write_if_changed(path: Path, content: bytes) -> None:
    """Replace a file in one step, because another job's pytest may read it at this moment."""
    if not path.exists() or path.read_bytes() != content:
        write_private(path, content)


@dataclass(slots=True)
class LiveResults:
    """Reads complete lines from where it stopped last.

    Args:
        offset: bytes of the file that are in the spool already.
        outlines_only: leave out what tests printed or said, because the secrets to mask in it are not known any more.
        cases: keys of the cases seen.
        refused: lines that were no result.
    """

    path: Path
    masker: Masker
    offset: int = 0
    outlines_only: bool = False
    cases: set[str] = field(default_factory=set)
    refused: int = 0

    def read(self) -> list[Item]:
        """Return the results of the next complete lines, at most `READ_BYTES` of them; empty when there is nothing new."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                data = file.read(READ_BYTES)
                while data and b"\n" not in data and len(data) < LONGEST_LINE_BYTES and (more := file.read(READ_BYTES)):
                    data += more
        except OSError:
            return []
        complete = data.rpartition(b"\n")[0]
        if not complete and len(data) < LONGEST_LINE_BYTES:
            return []
        self.offset += len(complete) + 1 if complete else len(data)
        return list(self._decode(complete))

    def _decode(self, lines: bytes) -> Iterator[Item]:
        for line in lines.split(b"\n"):
            if not line:
                continue
            try:
                event = msgspec.json.decode(line, type=ResultEvent)
            except (msgspec.DecodeError, UnicodeDecodeError):
                self.refused += 1
                continue
            self.cases.add(event.case)
            if self.outlines_only:
                event = msgspec.structs.replace(event, **dict.fromkeys(_TEXTS))
            yield result_item(event, self.masker)


def result_item(event: ResultEvent, masker: Masker) -> Item:
    """Return the outbox record of a result, without secrets in its texts."""
    texts = {name: masker.once(text).replace("\0", "\ufffd") for name in _TEXTS if (text := getattr(event, name)) is not None}
    return Item(ItemKind.EVENT, event.id, msgspec.json.encode(msgspec.structs.replace(event, **texts)))
