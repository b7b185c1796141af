"""`probity openapi` needs neither settings nor a database."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_document_is_printed_and_written(tmp_path: Path) -> None:
    target = tmp_path / "openapi.json"
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-m", "probity", "openapi"]

    printed = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    subprocess.run([*command, "--output", str(target)], env=environ, check=True)

    document = json.loads(printed.stdout)
    assert document["openapi"].startswith("3.1")
    assert document["paths"]["/healthz"]["get"]["x-access"] == "public"
    assert json.loads(target.read_text(encoding="utf-8")) == document
