"""The command's frame: quick to start, honest exit codes, one JSON document for programs."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from probity.cli import COMMANDS, cli
from probity.cli.errors import CheckFailed, exit_code_of
from probity.cli.lazy import load_command
from probity.cli.output import json_option, print_json, print_table
from probity.kernel.errors import FieldError, Invalid

ROOT = Path(__file__).parents[2]
BUILT = sorted(name for name, (target, _) in COMMANDS.items() if importlib.util.find_spec(target.partition(":")[0]))


def test_help_imports_no_command_and_no_server() -> None:
    code = (
        "import sys; from probity.cli import cli; cli.main(['--help'], standalone_mode=False);"
        "heavy = {'litestar', 'asyncpg', 'uvicorn', 'rich', 'httpx', 'cryptography'} & set(sys.modules); sys.exit(str(heavy) if heavy else 0)"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "Dispatch checks" in done.stdout


@pytest.mark.parametrize("name", BUILT)
def test_the_table_and_the_command_give_the_same_help(name: str) -> None:
    target, short_help = COMMANDS[name]

    assert load_command(name, target).get_short_help_str(limit=200).rstrip(".") == short_help.rstrip(".")


def test_an_unknown_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code_of(cli, ["nonsense"]) == 2
    assert "No such command" in capsys.readouterr().err


def test_a_refusal_names_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    @click.command()
    def refused() -> None:
        raise Invalid("two fields are wrong", fields=(FieldError("a", "too long"), FieldError("b", "missing")))

    assert exit_code_of(refused, []) == 1
    assert capsys.readouterr().err == "Error: two fields are wrong\n  a: too long\n  b: missing\n"


def test_a_failed_check_is_one() -> None:
    @click.command()
    def failing() -> None:
        raise CheckFailed("3 of 5 failed")

    assert exit_code_of(failing, []) == 1


def test_a_place_that_cannot_be_used_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = tmp_path / "nowhere" / "openapi.json"

    assert exit_code_of(cli, ["openapi", "--output", str(nowhere)]) == 1
    assert capsys.readouterr().err == f"Error: {nowhere}: No such file or directory\n"


def test_an_interrupt_is_130() -> None:
    @click.command()
    def interrupted() -> None:
        raise KeyboardInterrupt

    assert exit_code_of(interrupted, []) == 130


def test_a_part_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needs_more.py").write_text("import a_package_that_is_not_here\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))

    with pytest.raises(click.UsageError, match="a_package_that_is_not_here"):
        load_command("more", "needs_more:more")


def test_json_is_one_line_and_tables_align(capsys: pytest.CaptureFixture[str]) -> None:
    @click.command()
    @json_option
    def both(as_json: bool) -> None:
        if as_json:
            print_json({"name": "Ä"})
        else:
            print_table(("name", "state"), [("first", "ok"), ("x", None)])

    assert exit_code_of(both, ["--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"name": "Ä"}
    assert exit_code_of(both, []) == 0
    assert capsys.readouterr().out.splitlines() == ["name   state", "first  ok", "x      -"]
