"""Of another domain only its service, models, errors and events may be imported."""

import ast
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "probity"
DOMAINS = ("audit", "identity", "projects", "fleet", "dispatch", "runs")
PUBLIC = {"service", "models", "errors", "events"}
# `main` wires everything.
EXEMPT = ("main.py",)


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield "relative"


def test_private_files_of_a_domain_are_imported_only_inside_it() -> None:
    broken = []
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).parts
        if parts[-1] in EXEMPT:
            continue
        for name in _imports(path):
            words = name.split(".")
            if words[0] != "probity" or len(words) < 3 or words[1] not in DOMAINS or words[1] == parts[0]:
                continue
            # A large domain is a folder of small ones, each with its own public files.
            if not PUBLIC & set(words[2:4]):
                broken.append(f"{path.relative_to(SOURCE)}: {name}")

    assert not broken


def test_imports_are_absolute() -> None:
    assert not [str(path) for path in SOURCE.rglob("*.py") if "relative" in set(_imports(path))]
