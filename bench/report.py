"""What the benchmarks found, as JSON per benchmark and as one readable page.

A benchmark is a module with `ABOUT` and `async def run(place: Place) -> list[Section]`. Its sections are kept in `results/<name>.json`, so
one benchmark can be repeated alone; `RESULTS.md` is written from all of them.
"""

import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Final

import msgspec

HERE: Final = Path(__file__).parent
RESULTS: Final = HERE / "results"
_PACKAGES: Final = ("asyncpg", "fastapi", "litestar", "msgspec", "pgqueuer", "procrastinate", "psycopg", "uvicorn", "uvloop")


class Section(msgspec.Struct):
    """One table. `aim` is what was promised and whether it was met; `notes` say what was measured and how."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str] = []
    aims: list[str] = []


class Kept(msgspec.Struct):
    """The sections of one benchmark with the circumstances they were measured in."""

    name: str
    about: str
    at: str
    machine: str
    versions: str
    sections: list[Section]


def keep(name: str, about: str, postgres: str, sections: Sequence[Section]) -> None:
    """Store the sections of a benchmark and write RESULTS.md anew."""
    RESULTS.mkdir(exist_ok=True)
    kept = Kept(name, about, f"{datetime.now(UTC):%Y-%m-%d}", machine(), versions(postgres), list(sections))
    path = RESULTS / f"{name}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(kept), indent=1) + b"\n")
    (HERE / "RESULTS.md").write_text(page(), encoding="utf-8")


def page() -> str:
    """Return the text of RESULTS.md from what is stored."""
    kept = [msgspec.json.decode(path.read_bytes(), type=Kept) for path in sorted(RESULTS.glob("*.json"))]
    lines = [
        "# Benchmark results",
        "",
        "Written by `make bench`; every figure is a median, every rival ran on the same machine and the same PostgreSQL.",
        "Row-level security and the audit trail are on in all of ours. Absolute figures move with the machine, ratios hold.",
    ]
    for each in kept:
        lines += ["", f"## {each.about}", "", f"{each.at}, {each.machine}; {each.versions}."]
        for section in each.sections:
            lines += ["", f"### {section.title}", "", *_table(section)]
            lines += ["", *(f"- {line}" for line in [*section.aims, *section.notes])]
    return "\n".join(lines) + "\n"


def rate(value: float) -> str:
    return f"{value:,.0f}/s"


def ratio(ours: float, theirs: float) -> str:
    return f"{ours / theirs:.1f}×" if theirs else "–"


def aim(text: str, ours: float, wanted: float) -> str:
    """Return a line that says whether `ours` reaches `wanted`."""
    return f"Aim {'met' if ours >= wanted else '**missed**'}: {text} ({ours / wanted:.2f} of the aim)."


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def machine() -> str:
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    busy = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} cores ({_processor()}), {memory_gb:.0f} GB, {platform.system()} {platform.release().partition('-')[0]}, "
        f"load average {busy:.1f} at the end"
    )


def versions(postgres: str) -> str:
    found = [f"Python {platform.python_version()}", f"PostgreSQL {postgres}"]
    for package in _PACKAGES:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def _processor() -> str:
    try:
        text = subprocess.run(["lscpu"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("Model name")]
    return names[0] if names and names[0] != "unknown" else platform.machine()


def _table(section: Section) -> list[str]:
    head = "| " + " | ".join(section.columns) + " |"
    rule = "|---" + "|---:" * (len(section.columns) - 1) + "|"
    return [head, rule, *("| " + " | ".join(row) + " |" for row in section.rows)]
