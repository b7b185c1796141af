"""Make `.venv` ready: the interpreter's standard library only, safe to repeat, quick when nothing changed.

    runtime   what `make up` needs
    dev       the checks and tests too
    test      dev, and the programs tests drive: a Chromium and a Redis server
    bench     dev, and the rivals that benchmarks run beside ours

Everything it prints goes to stderr, so that `make up ARGS=--json` keeps stdout for the command.
"""

import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
TOOLS = VENV / ".tools"
WINDOWS = os.name == "nt"
PYTHON = VENV / ("Scripts/python.exe" if WINDOWS else "bin/python")
INSTALLER = ROOT / "requirements" / "installer.txt"


class CannotPrepare(Exception):
    """Says what is missing and what to install."""


def main(profile: str) -> None:
    requirements = ROOT / "requirements" / ("runtime.txt" if profile == "runtime" else "dev.txt")
    if not any(is_current(name) for name in ({"runtime.txt", "dev.txt"} if profile == "runtime" else {"dev.txt"})):
        say(f"preparing {VENV.name} ({requirements.name}); later starts skip this")
        prepare(requirements)
    if profile == "test":
        prepare_test_programs()
    if profile == "bench":
        prepare_rivals()


def prepare_rivals() -> None:
    """Install what benchmarks measure beside ours; those that miss one skip it by name."""
    requirements = ROOT / "requirements" / "bench.txt"
    if not is_current(requirements.name):
        say("installing the rivals that benchmarks run beside ours")
        try:
            prepare(requirements)
        except (CannotPrepare, OSError, subprocess.CalledProcessError) as error:
            say(f"rivals are skipped: {error}")


def prepare(requirements: Path) -> None:
    VENV.mkdir(exist_ok=True)
    stamp(requirements.name).unlink(missing_ok=True)
    environ = quiet_environment()
    uv = find_uv(environ)
    try:
        if uv is None:
            raise subprocess.CalledProcessError(1, "uv")
        install_with_uv(uv, requirements, environ)
    except (OSError, subprocess.CalledProcessError):
        # uv does not read every configuration that pip reads (a mirror in pip.conf); pip is slower and always right.
        install_with_pip(requirements, environ)
    stamp(requirements.name).write_text(fingerprint(requirements.name), encoding="ascii")


def install_with_uv(uv: Sequence[str], requirements: Path, environ: Mapping[str, str]) -> None:
    if not PYTHON.exists() or not works(PYTHON):
        run([*uv, "venv", "--quiet", "--allow-existing", "--no-python-downloads", "--python", sys.executable, str(VENV)], environ)
    pip = [*uv, "pip", "install", "--quiet", "--python", str(PYTHON)]
    run([*pip, "--require-hashes", "-r", str(requirements)], environ)
    run([*pip, "--no-deps", "--no-build-isolation", "-e", str(ROOT)], environ)


def install_with_pip(requirements: Path, environ: Mapping[str, str]) -> None:
    if not PYTHON.exists() or not works(PYTHON) or not works(PYTHON, "-m", "pip", "--version"):
        make_environment(environ)
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet"]
    run([*pip, "--require-hashes", "-r", str(requirements)], environ)
    run([*pip, "--no-deps", "--no-build-isolation", "-e", str(ROOT)], environ)


def make_environment(environ: Mapping[str, str]) -> None:
    """Create `.venv` with pip: by the `venv` module, else by `virtualenv` installed beside it."""
    if importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip"):
        run([sys.executable, "-m", "venv", str(VENV)], environ)
        return
    target = TOOLS / "virtualenv"
    if not pip_install_into(target, ["virtualenv"], environ):
        raise CannotPrepare("this Python has neither `venv` nor `pip`; install one of python3-venv, python3-pip or uv, and run make again")
    run([sys.executable, "-m", "virtualenv", "--quiet", str(VENV)], {**environ, "PYTHONPATH": str(target)})


def find_uv(environ: Mapping[str, str]) -> list[str] | None:
    """Return how to call uv: the one on PATH, else one installed into `.venv`, else None."""
    found = shutil.which("uv")
    if found and works(found, "--version"):
        return [found]
    binary = TOOLS / "uv" / "bin" / "uv"
    if not binary.exists() and not pip_install_into(TOOLS / "uv", ["--require-hashes", "-r", str(INSTALLER)], environ):
        return None
    return [str(binary)] if binary.exists() else None


def pip_install_into(target: Path, what: Sequence[str], environ: Mapping[str, str]) -> bool:
    if not works(sys.executable, "-m", "pip", "--version"):
        return False
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target), *what]
    return subprocess.run(command, env=dict(environ), stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False).returncode == 0


def quiet_environment() -> dict[str, str]:
    """The environment for installers: usable without a home directory, and uv told what pip was told."""
    environ = dict(os.environ)
    for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PIP_REQUIRE_VIRTUALENV", "PIP_TARGET", "PIP_USER"):
        environ.pop(name, None)
    environ.setdefault("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    environ.setdefault("PIP_ROOT_USER_ACTION", "ignore")
    # Trust what this machine trusts, as pip does: a proxy or mirror may have an issuer of its own.
    environ.setdefault("UV_SYSTEM_CERTS", "1")
    environ.setdefault("UV_NATIVE_TLS", "1")
    if "PIP_INDEX_URL" in environ:
        environ.setdefault("UV_DEFAULT_INDEX", environ["PIP_INDEX_URL"])
    if "PIP_CERT" in environ:
        environ.setdefault("SSL_CERT_FILE", environ["PIP_CERT"])
    home = environ.get("HOME", "")
    if not home or not os.access(home, os.W_OK | os.X_OK):
        environ["HOME"] = str(TOOLS / "home")
        (TOOLS / "home").mkdir(parents=True, exist_ok=True)
    return environ


def prepare_test_programs() -> None:
    """Provide a Chromium and a Redis server where that is possible; tests that miss one are skipped by name."""
    missing = [package for package, found in (("chromium", has_chromium()), ("redis-server", has_redis())) if not found]
    if missing and shutil.which("apt-get") and hasattr(os, "geteuid") and os.geteuid() == 0:
        say(f"installing {' and '.join(missing)} for the tests")
        environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-qq"], env=environ, stdout=sys.stderr, check=False)
        for package in missing:
            subprocess.run(
                ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package], env=environ, stdout=sys.stderr, check=False
            )
    if not has_chromium():
        say("installing Playwright's own Chromium for the browser tests")
        command = [str(PYTHON), "-m", "playwright", "install", "chromium"]
        if subprocess.run(command, stdout=sys.stderr, check=False).returncode == 0:
            (TOOLS / "chromium").parent.mkdir(parents=True, exist_ok=True)
            (TOOLS / "chromium").touch()
    for program, found in (("Chromium", has_chromium()), ("a Redis server", has_redis())):
        if not found:
            say(f"{program} is not here; tests that need it are skipped by name")


def has_chromium() -> bool:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return any(shutil.which(name) for name in names) or (TOOLS / "chromium").exists()


def has_redis() -> bool:
    return any(shutil.which(name) for name in ("redis-server", "valkey-server"))


def is_current(name: str) -> bool:
    path = stamp(name)
    return path.exists() and path.read_text(encoding="ascii") == fingerprint(name) and PYTHON.exists()


def stamp(name: str) -> Path:
    return VENV / f".prepared-{name}"


def fingerprint(name: str) -> str:
    """What `.venv` was made from. The path is part of it: a moved checkout has scripts that point to the old place."""
    digest = hashlib.sha256()
    for path in (ROOT / "requirements" / name, ROOT / "pyproject.toml", Path(__file__)):
        digest.update(path.read_bytes())
    digest.update(f"{ROOT}\0{sys.executable}\0{platform.python_version()}\0{platform.machine()}".encode())
    return digest.hexdigest()


def works(*command: str | Path) -> bool:
    arguments = [str(part) for part in command]
    if len(arguments) == 1:
        arguments += ["-c", ""]
    try:
        return subprocess.run(arguments, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def run(command: Sequence[str], environ: Mapping[str, str]) -> None:
    # stdout is the command's own (`make up ARGS=--json`), so installers talk on stderr.
    subprocess.run(list(command), env=dict(environ), stdin=subprocess.DEVNULL, stdout=sys.stderr, check=True)


def say(message: str) -> None:
    print(f"probity: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in {"runtime", "dev", "test", "bench"}:
        sys.exit("usage: bootstrap runtime|dev|test|bench")
    try:
        main(sys.argv[1])
    except CannotPrepare as error:
        sys.exit(f"probity: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"probity: `{' '.join(map(str, error.cmd))}` failed; see above")
