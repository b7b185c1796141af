"""A server of its own process for benchmarks over HTTP, and somebody who may call it."""

import asyncio
import contextlib
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from bench.place import Place
from probity.identity.keys.models import KeyScope
from probity.identity.keys.service import KeyService
from probity.identity.passwords import Passwords
from probity.identity.roles import BUILT_IN, BuiltInRole
from probity.identity.service import IdentityService
from probity.kernel.clock import SystemClock
from probity.kernel.principal import CredentialKind, OrgId, Principal, PrincipalKind, system_principal
from probity.kernel.secret import Secret

KEY_OF_BENCHMARKS = "MTIzNDU2Nzg5MGFiY2RlZjEyMzQ1Njc4OTBhYmNkZWY="


@dataclass(frozen=True)
class Served:
    """A running server; `headers` hold the key of somebody of `org_id` who may do everything."""

    address: str
    headers: dict[str, str]
    org_id: OrgId
    pid: int

    def session(self, connections: int) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=connections)
        return aiohttp.ClientSession(self.address, headers=self.headers, connector=connector, timeout=aiohttp.ClientTimeout(total=120))


@contextlib.asynccontextmanager
async def served(place: Place) -> AsyncIterator[Served]:
    """Start a server with the defaults of an installation, one process, on the place's database."""
    org_id, key = await _somebody(place)
    port = free_port()
    with tempfile.TemporaryDirectory() as data:
        async with process(
            [sys.executable, "-m", "bench.served.server", str(port)],
            port,
            {
                "DATABASE_URL": place.dsns.app.reveal(),
                "DATABASE_SYSTEM_URL": place.dsns.system.reveal(),
                "PROBITY_DATA_DIR": data,
                "PROBITY_MASTER_KEYS": KEY_OF_BENCHMARKS,
                "SB_JWT_SECRET": KEY_OF_BENCHMARKS,
                "PROBITY_ENV": "development",
                "LOG_LEVEL": "warning",
            },
        ) as pid:
            yield Served(f"http://127.0.0.1:{port}", {"Authorization": f"Bearer {key}"}, org_id, pid)


@contextlib.asynccontextmanager
async def process(command: list[str], port: int, environ: dict[str, str]) -> AsyncIterator[int]:
    """Run a server as a child and yield its process id once it takes connections."""
    root = Path(__file__).parents[2]
    env = os.environ | {"PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"} | environ
    child = await asyncio.create_subprocess_exec(*command, env=env, cwd=root)
    try:
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                await asyncio.sleep(0.05)
        yield child.pid
    finally:
        child.terminate()
        try:
            await asyncio.wait_for(child.wait(), 5)
        except TimeoutError:
            # It waits for streams that nobody reads any more.
            child.kill()
            await child.wait()


async def _somebody(place: Place) -> tuple[OrgId, str]:
    passwords = Passwords(threads=1)
    try:
        async with place.database() as db:
            identity = IdentityService(db, SystemClock(), passwords)
            organization = await identity.create_organization("Bench")
            user = await identity.create_user(
                system_principal(organization.id), "bench@example.test", Secret("Correct-horse7"), display_name="B", role=BuiltInRole.ADMIN
            )
            maker = Principal(
                kind=PrincipalKind.USER,
                actor=f"user:{user.id}",
                org_ids=(organization.id,),
                active_org=organization.id,
                permissions=frozenset(BUILT_IN[BuiltInRole.ADMIN]),
                credential=CredentialKind.SESSION_COOKIE,
                user_id=user.id,
            )
            _, key = await KeyService(db, SystemClock()).create(maker, "bench", KeyScope.READ_WRITE)
            return organization.id, key.reveal()
    finally:
        passwords.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
