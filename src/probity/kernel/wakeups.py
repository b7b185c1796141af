"""Wake-ups: "something changed under this key", within the server at once and between servers a moment later.

A wake-up carries no data and may be lost or doubled; who is woken reads the database. It is sent after the commit (`Tx.touch`) or by
`notify`, coalesced into at most one message per tick, over a dedicated PostgreSQL connection or Redis. NOTIFY inside a business
transaction would make all commits of the cluster wait for each other; only a cache drop that must not be missed does so
(`notify_in`). Source: design §5, §7.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Final, Protocol
from uuid import uuid4

import asyncpg
import msgspec
import structlog

from probity.kernel.db import Database, Tx, fetch_value
from probity.kernel.errors import Unavailable
from probity.kernel.secret import Secret

log = structlog.get_logger(__name__)

# Stands for every key: messages may have been missed, or were too many to name.
ANY: Final = "*"

_CHANNEL: Final = "probity_wakeups"
_TICK_S: Final = 0.025
# PostgreSQL takes 8,000 bytes; past this the keys of a channel become ANY.
_MAX_PAYLOAD: Final = 7000
_RECONNECT_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0)

Callback = Callable[[str], None]


class Message(msgspec.Struct, frozen=True):
    """What servers tell each other: who speaks (a server ignores itself), and keys by channel."""

    server: str
    changed: dict[str, list[str]]


class Transport(Protocol):
    """Carries messages between servers."""

    async def publish(self, payload: str) -> None: ...

    def listen(self, on_message: Callable[[str], None]) -> contextlib.AbstractAsyncContextManager[Awaitable[None]]:
        """Subscribe, and yield an awaitable that ends when the subscription is lost."""
        ...


class Wakeups:
    """Cross-process wake-ups.

    `is_live` is False while messages of other servers cannot arrive; caches that rely on them must not answer then. After each
    reconnection every callback is called with ANY.
    """

    def __init__(self, db: Database, transport: Transport | None = None, *, tick_s: float = _TICK_S) -> None:
        self._transport = transport or PostgresTransport(db)
        self._tick_s = tick_s
        self._server = uuid4().hex
        self._callbacks: dict[str, set[Callback]] = {}
        self._pending: dict[str, set[str]] = {}
        self._wanted = asyncio.Event()
        self._live = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        db.on_commit(self.notify)

    @property
    def is_live(self) -> bool:
        return self._live.is_set()

    async def start(self) -> None:
        """Start listening and sending; return when the first connection stands or could not be made."""
        self._tasks = [asyncio.create_task(self._listen(), name="wakeups.listen"), asyncio.create_task(self._send(), name="wakeups.send")]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._live.wait(), 5)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    def subscribe(self, channel: str, callback: Callback) -> Callable[[], None]:
        """Call `callback(key)` in the event loop for each wake-up of `channel`; the key may be ANY. Returns how to end it."""
        callbacks = self._callbacks.setdefault(channel, set())
        callbacks.add(callback)

        def unsubscribe() -> None:
            callbacks.discard(callback)

        return unsubscribe

    def notify(self, channel: str, key: str = "") -> None:
        """Wake this server's subscribers now and the other servers' at the next tick. Never blocks."""
        self._deliver(channel, key)
        self._pending.setdefault(channel, set()).add(key)
        self._wanted.set()

    async def notify_in(self, tx: Tx, channel: str, key: str) -> None:
        """Send with the commit of `tx`: other servers cannot miss it when the change is there. For rare changes only."""
        tx.touch(channel, key)
        message = Message(server="", changed={channel: [key]})
        await fetch_value(tx, "select pg_notify(:channel, :payload)", channel=_CHANNEL, payload=msgspec.json.encode(message).decode())

    def _deliver(self, channel: str, key: str) -> None:
        for callback in tuple(self._callbacks.get(channel, ())):
            callback(key)

    def _receive(self, payload: str) -> None:
        message = msgspec.json.decode(payload, type=Message)
        if message.server != self._server:
            for channel, keys in message.changed.items():
                for key in keys:
                    self._deliver(channel, key)

    async def _listen(self) -> None:
        failures = 0
        while True:
            try:
                async with self._transport.listen(self._receive) as lost:
                    failures = 0
                    self._live.set()
                    for channel in tuple(self._callbacks):
                        self._deliver(channel, ANY)
                    await lost
            except Exception as error:  # noqa: BLE001
                # The supervisor of this connection: whatever ended it, connect again.
                log.warning("wakeups.listener_lost", error=repr(error))
            finally:
                self._live.clear()
            await asyncio.sleep(_RECONNECT_S[min(failures, len(_RECONNECT_S) - 1)])
            failures += 1

    async def _send(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            pending, self._pending = self._pending, {}
            for payload in _payloads(self._server, pending):
                try:
                    await self._transport.publish(payload)
                except Exception as error:  # noqa: BLE001
                    # A lost wake-up costs a poll interval, no more; everyone who is woken also polls.
                    log.warning("wakeups.not_sent", error=repr(error))
            await asyncio.sleep(self._tick_s)


class PostgresTransport:
    """LISTEN and NOTIFY on connections of their own."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._sender: asyncpg.Connection | None = None

    async def publish(self, payload: str) -> None:
        if self._sender is None or self._sender.is_closed():
            self._sender = await self._db.dedicated()
        await self._sender.execute("select pg_notify($1, $2)", _CHANNEL, payload)

    @contextlib.asynccontextmanager
    async def listen(self, on_message: Callable[[str], None]) -> AsyncIterator[Awaitable[None]]:
        conn = await self._db.dedicated()
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def end(*_: object) -> None:
            if not lost.done():
                lost.set_exception(Unavailable("the listening connection was closed"))

        try:
            conn.add_termination_listener(end)
            await conn.add_listener(_CHANNEL, lambda _conn, _pid, _channel, payload: on_message(str(payload)))
            yield lost
        finally:
            conn.remove_termination_listener(end)
            lost.cancel()
            await _close_quietly(conn)
            if self._sender is not None:
                await _close_quietly(self._sender)
                self._sender = None


class RedisTransport:
    """PUBLISH and SUBSCRIBE on a Redis or Valkey server. Cache drops of `notify_in` still come through PostgreSQL."""

    def __init__(self, url: Secret, *, namespace: str = "probity") -> None:
        from redis.asyncio import Redis  # an extra: only installations with Redis have it

        self._redis = Redis.from_url(url.reveal(), socket_connect_timeout=5)
        self._channel = f"{namespace}:{_CHANNEL}"

    async def publish(self, payload: str) -> None:
        await self._redis.publish(self._channel, payload)

    @contextlib.asynccontextmanager
    async def listen(self, on_message: Callable[[str], None]) -> AsyncIterator[Awaitable[None]]:
        pubsub = self._redis.pubsub(ignore_subscribe_messages=True)

        async def read() -> None:
            async for message in pubsub.listen():
                on_message(message["data"].decode())

        await pubsub.subscribe(self._channel)
        reader = asyncio.create_task(read())
        try:
            yield reader
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            await pubsub.aclose()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
            # Listening ends with the server or with the connection; either way those that publish are of no use any more.
            await self._redis.aclose()


class BothTransports:
    """Redis for the many ordinary wake-ups, PostgreSQL beside it for those sent inside a transaction."""

    def __init__(self, postgres: PostgresTransport, redis: RedisTransport) -> None:
        self._postgres = postgres
        self._redis = redis

    async def publish(self, payload: str) -> None:
        await self._redis.publish(payload)

    @contextlib.asynccontextmanager
    async def listen(self, on_message: Callable[[str], None]) -> AsyncIterator[Awaitable[None]]:
        async with self._postgres.listen(on_message) as first, self._redis.listen(on_message) as second:
            yield _first_of(first, second)


async def _first_of(*lost: Awaitable[None]) -> None:
    done, _ = await asyncio.wait([asyncio.ensure_future(one) for one in lost], return_when=asyncio.FIRST_COMPLETED)
    for one in done:
        one.result()


def _payloads(server: str, pending: dict[str, set[str]]) -> Iterable[str]:
    """Yield messages of at most `_MAX_PAYLOAD` bytes; a channel with too many keys says ANY."""
    room = dict[str, list[str]]()
    for channel, keys in pending.items():
        changed = sorted(keys)
        if sum(len(key.encode()) + 3 for key in changed) > _MAX_PAYLOAD // 2:
            changed = [ANY]
        if room and len(msgspec.json.encode(room)) + sum(len(key.encode()) + 3 for key in changed) > _MAX_PAYLOAD:
            yield msgspec.json.encode(Message(server, room)).decode()
            room = {}
        room[channel] = changed
    if room:
        yield msgspec.json.encode(Message(server, room)).decode()


async def _close_quietly(conn: asyncpg.Connection) -> None:
    with contextlib.suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
        await conn.close(timeout=2)
