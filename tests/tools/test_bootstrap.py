"""From a bare copy of the repository to a working command, in the places where that is hard."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEFT_OUT = (".git", ".venv", ".probity", "tests", "*cache*", "test-results", "node_modules")


@pytest.mark.registry
@pytest.mark.timeout(600)
@pytest.mark.parametrize("home", ["empty", "missing"])
def test_a_bare_copy_in_a_long_path_works_without_a_home(tmp_path: Path, home: str) -> None:
    copy = tmp_path / ("d" * 80) / ("e" * 60) / "probity"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_OUT))
    environ = {"PATH": "/usr/bin:/bin:/usr/local/bin", **{name: value for name, value in os.environ.items() if name.startswith("PIP_")}}
    if home == "empty":
        (tmp_path / "home").mkdir()
        environ["HOME"] = str(tmp_path / "home")

    first = subprocess.run([copy / "tools/bootstrap", "runtime"], env=environ, capture_output=True, text=True, check=False)
    started = time.monotonic()
    second = subprocess.run([copy / "tools/bootstrap", "runtime"], env=environ, capture_output=True, text=True, check=False)
    took_s = time.monotonic() - started
    version = subprocess.run(
        [copy / ".venv/bin/python", "-m", "probity", "--version"], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )

    assert first.returncode == 0, first.stderr
    assert first.stdout == ""
    assert (second.returncode, second.stderr) == (0, "")
    assert took_s < 3
    assert "probity, version" in version.stdout, version.stderr


def test_an_old_python_is_refused_with_advice(tmp_path: Path) -> None:
    for name in ("python3", "python3.11", "python3.12", "python3.13", "python3.14"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    for name in ("sh", "dirname"):
        found = shutil.which(name)
        assert found
        (tmp_path / name).symlink_to(found)
    script = (ROOT / "tools/bootstrap").read_text(encoding="utf-8").replace("/usr/bin/python3", str(tmp_path / "python3"))
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/bootstrap").write_text(script, encoding="utf-8")

    refused = subprocess.run(
        ["/bin/sh", tmp_path / "tools/bootstrap", "dev"], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )

    assert refused.returncode == 1
    assert "Python 3.11 or newer" in refused.stderr
