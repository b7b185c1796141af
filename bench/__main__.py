"""`make bench`, or `make bench ARGS="claims heartbeats"` for some of them."""

import asyncio
import importlib
import sys
from pathlib import Path

from bench.place import place
from bench.report import keep

# Modules that are not benchmarks themselves.
_PARTS = {"__init__", "__main__", "place", "report", "load"}


async def measure(name: str) -> None:
    module = importlib.import_module(f"bench.{name}")
    print(f"== {module.ABOUT}", flush=True)
    async with place(name) as where:
        sections = await module.run(where)
        keep(name, module.ABOUT, where.version, sections)


def main(names: list[str]) -> int:
    known = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in _PARTS)
    unknown = sorted(set(names) - set(known))
    if unknown:
        print(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    for name in names or known:
        asyncio.run(measure(name))
    print(f"written to {Path(__file__).parent / 'RESULTS.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
