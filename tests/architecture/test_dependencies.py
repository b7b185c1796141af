"""The list of dependencies is complete, the pins name no registry, and the agent brings little."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MOST_PACKAGES_OF_AN_AGENT = 12


def _name(requirement: str) -> str:
    return re.split(r"[\[<>=;~! ]", requirement, maxsplit=1)[0]


def _declared() -> set[str]:
    extras = PROJECT["optional-dependencies"].values()
    return {_name(line) for line in [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]} - {"probity"}


def test_every_dependency_has_its_line_in_the_decision_record() -> None:
    record = (ROOT / "docs/decisions/0002-dependencies.md").read_text(encoding="utf-8")
    listed = {name.strip() for row in re.findall(r"^\| ([^|]+) \|", record, re.MULTILINE) for name in row.split(",")}

    missing = {name for name in _declared() if name not in listed and not name.endswith("-stubs") and not name.startswith("types-")}

    assert not missing


@pytest.mark.parametrize("name", ["runtime.txt", "dev.txt", "bench.txt", "agent.txt", "installer.txt"])
def test_pins_carry_hashes_and_no_registry_address(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")

    pins = re.findall(r"^\S+==.*$", text, re.MULTILINE)

    assert pins
    assert len(re.findall(r"^\S+==.*\\\n    --hash=sha256:", text, re.MULTILINE)) == len(pins)
    assert "://" not in text
    assert "--index" not in text


def test_every_dependency_is_pinned() -> None:
    pinned = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements/dev.txt").read_text(encoding="utf-8"), re.MULTILINE))

    assert _declared() <= pinned


def test_the_agent_installs_few_packages() -> None:
    text = (ROOT / "requirements/agent.txt").read_text(encoding="utf-8")

    assert len(re.findall(r"^\S+==", text, re.MULTILINE)) <= MOST_PACKAGES_OF_AN_AGENT
