import asyncio
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from probity.kernel.db import Database
from probity.kernel.principal import system_principal
from probity.kernel.secret import Secret
from probity.kernel.wakeups import ANY, BothTransports, PostgresTransport, RedisTransport, Wakeups, _payloads
from tests.cluster import TestDatabase


@pytest_asyncio.fixture
async def servers(pg: TestDatabase) -> AsyncIterator[list[tuple[Database, Wakeups]]]:
    """Two servers on one database."""
    servers = []
    for _ in range(2):
        database = await Database.open(dsn=pg.app, system_dsn=pg.system)
        wakeups = Wakeups(database, tick_s=0.01)
        await wakeups.start()
        servers.append((database, wakeups))
    yield servers
    for database, wakeups in servers:
        await wakeups.close()
        await database.close()


async def until(condition: object) -> None:
    async with asyncio.timeout(5):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.005)


async def test_a_commit_wakes_both_servers_and_a_rollback_none(servers: list[tuple[Database, Wakeups]]) -> None:
    (db, here), (_, there) = servers
    heard: list[tuple[str, str]] = []
    here.subscribe("runs", lambda key: heard.append(("here", key)))
    there.subscribe("runs", lambda key: heard.append(("there", key)))

    try:
        async with db.transaction(system_principal()) as tx:
            tx.touch("runs", "lost")
            raise KeyError
    except KeyError:
        pass
    async with db.transaction(system_principal()) as tx:
        tx.touch("runs", "1")
        assert heard == []
    await until(lambda: len(heard) == 2)

    assert heard == [("here", "1"), ("there", "1")]


async def test_wake_ups_of_one_tick_travel_together(servers: list[tuple[Database, Wakeups]]) -> None:
    (_, here), (_, there) = servers
    heard: list[str] = []
    unsubscribe = there.subscribe("runs", heard.append)

    for _ in range(100):
        here.notify("runs", "1")
        here.notify("runs", "2")
    await until(lambda: set(heard) >= {"1", "2"})
    await asyncio.sleep(0.05)
    assert len(heard) <= 4

    unsubscribe()
    here.notify("runs", "3")
    await asyncio.sleep(0.05)
    assert "3" not in heard


async def test_a_wake_up_inside_the_transaction_travels_with_its_commit(servers: list[tuple[Database, Wakeups]]) -> None:
    (db, here), (_, there) = servers
    heard: list[str] = []
    there.subscribe("agents", heard.append)

    async with db.system() as tx:
        await here.notify_in(tx, "agents", "a")
        await asyncio.sleep(0.03)
        assert heard == []
    await until(lambda: heard)

    assert heard[0] == "a"


async def test_a_lost_listener_is_not_live_and_says_so_when_it_is_back(servers: list[tuple[Database, Wakeups]], pg: TestDatabase) -> None:
    (_, here), _ = servers
    heard: list[str] = []
    here.subscribe("runs", heard.append)
    assert here.is_live

    superuser = await asyncpg.connect(pg.owner.reveal().replace("probity_owner@", "postgres@"))
    await superuser.execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'probity-listen'")
    await superuser.close()
    await until(lambda: not here.is_live)
    await until(lambda: here.is_live)

    assert heard == [ANY]


def test_too_many_keys_become_any_and_messages_stay_small() -> None:
    few = {f"channel{n}": {f"{n}-{m:036}" for m in range(50)} for n in range(10)}
    payloads = list(_payloads("server", few | {"many": {f"{n:036}" for n in range(500)}}))

    assert all(len(payload.encode()) < 8000 for payload in payloads)
    assert f'"many":["{ANY}"]' in "".join(payloads)


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[Secret]:
    """A Redis of its own on a socket in a temporary directory."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        pytest.skip("no Redis or Valkey server on this machine")
    path = tmp_path / "redis.sock"
    server = subprocess.Popen([program, "--port", "0", "--unixsocket", str(path), "--save", ""], stdout=subprocess.DEVNULL)
    try:
        while not path.exists():
            assert server.poll() is None
            time.sleep(0.01)
        yield Secret(f"unix://{path}")
    finally:
        server.terminate()
        server.wait()


async def test_servers_wake_each_other_through_redis_and_still_hear_of_cache_drops(pg: TestDatabase, redis_url: Secret) -> None:
    heard: list[str] = []
    databases = [await Database.open(dsn=pg.app, system_dsn=pg.system) for _ in range(2)]
    here, there = (Wakeups(db, BothTransports(PostgresTransport(db), RedisTransport(redis_url)), tick_s=0.01) for db in databases)
    for wakeups in (here, there):
        await wakeups.start()
    assert there.is_live
    there.subscribe("runs", heard.append)

    here.notify("runs", "1")
    await until(lambda: "1" in heard)
    async with databases[0].system() as tx:
        await here.notify_in(tx, "runs", "2")
    await until(lambda: "2" in heard)

    for wakeups in (here, there):
        await wakeups.close()
    for db in databases:
        await db.close()
