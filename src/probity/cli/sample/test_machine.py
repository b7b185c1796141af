"""Is the agent's machine fit to run checks, and does the agent keep its own secrets from them?"""

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import pytest

HALF_A_GIGABYTE = 512 * 1024 * 1024


def test_there_is_room_for_evidence() -> None:
    assert shutil.disk_usage(Path.cwd()).free > HALF_A_GIGABYTE


def test_the_clock_moves_forward() -> None:
    before = time.time()
    time.sleep(0.01)

    assert 0.005 < time.time() - before < 5


def test_the_clock_is_not_at_its_factory_setting() -> None:
    assert time.gmtime().tm_year >= 2025


def test_temporary_files_can_be_written() -> None:
    with tempfile.TemporaryFile() as file:
        assert file.write(b"evidence") == 8


def test_the_suite_runs_in_its_own_folder() -> None:
    assert (Path.cwd() / "test_machine.py").exists()


def test_the_agent_keeps_its_credential_to_itself() -> None:
    exposed = [name for name in os.environ if "SECRET" in name or name.startswith("DATABASE_") or name == "PROBITY_API_KEY"]

    assert not exposed


@pytest.mark.parametrize("text", ["plain", "Ünïcödé", "日本語", "emoji ✓"], ids=["plain", "accents", "kanji", "emoji"])
def test_output_arrives_as_it_was_written(text: str) -> None:
    sys.stdout.write(text + "\n")

    assert text.encode().decode() == text
