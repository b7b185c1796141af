"""Group commit: concurrent writers of one kind share one statement.

Whoever comes while a flush runs waits for the next one, which takes everyone who waits by then. There is no timer: an idle writer pays
nothing. There is never more than one flush in flight, because two `update … from unnest` whose rows overlap deadlock. Source: design §10.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Generic, TypeVar

from probity.kernel.errors import Unavailable

In = TypeVar("In")
Out = TypeVar("Out")

_MAX_BATCH: Final = 1000


class GroupCommit(Generic[In, Out]):
    """Collects items and hands them to `flush` in batches.

    Args:
        flush: writes a batch durably and returns one result per item, in order.
        key: items with the same key become one (the latest wins, everyone gets its result), and a batch is sorted by key so that
            servers lock rows in one order. Without it every item stays, in order of arrival.
        max_batch: the most items that one flush takes.
    """

    def __init__(
        self, flush: Callable[[list[In]], Awaitable[Sequence[Out]]], *, key: Callable[[In], Any] | None = None, max_batch: int = _MAX_BATCH
    ) -> None:
        self._flush = flush
        self._key = key
        self._max_batch = max_batch
        self._waiting: list[tuple[In, asyncio.Future[Out]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def submit(self, item: In) -> Out:
        """Return the result of `item` once it is written.

        Raises:
            Exception: what `flush` raised for this item. A batch that fails for another reason than an absent database is repeated item
                by item, so one bad item fails alone.
        """
        future: asyncio.Future[Out] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._worker is None:
            self._worker = asyncio.create_task(self._run())
        return await future

    async def drain(self) -> None:
        """Wait until everything submitted so far is written or has failed."""
        if self._worker is not None:
            await asyncio.wait([self._worker])

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[: self._max_batch], self._waiting[self._max_batch :]
                # A caller that went away before its turn asks for nothing any more.
                await self._write([(item, future) for item, future in batch if not future.done()])
        finally:
            self._worker = None
            for _, future in self._waiting:
                future.cancel()
            self._waiting = []

    async def _write(self, batch: list[tuple[In, asyncio.Future[Out]]]) -> None:
        groups = self._grouped(batch)
        if not groups:
            return
        try:
            results = await self._flush([item for item, _ in groups])
        except asyncio.CancelledError:
            for _, futures in groups:
                for future in futures:
                    future.cancel()
            raise
        except Unavailable as error:
            _reject(groups, error)
        except Exception as error:  # noqa: BLE001
            if len(groups) == 1:
                _reject(groups, error)
                return
            for item, futures in groups:
                await self._write([(item, future) for future in futures])
        else:
            for (_, futures), result in zip(groups, results, strict=True):
                for future in futures:
                    if not future.done():
                        future.set_result(result)

    def _grouped(self, batch: list[tuple[In, asyncio.Future[Out]]]) -> list[tuple[In, list[asyncio.Future[Out]]]]:
        if self._key is None:
            return [(item, [future]) for item, future in batch]
        groups: dict[Any, tuple[In, list[asyncio.Future[Out]]]] = {}
        for item, future in batch:
            key = self._key(item)
            futures = groups[key][1] if key in groups else []
            futures.append(future)
            groups[key] = (item, futures)
        return [groups[key] for key in sorted(groups)]


def _reject(groups: list[tuple[In, list[asyncio.Future[Out]]]], error: Exception) -> None:
    for _, futures in groups:
        for future in futures:
            if not future.done():
                future.set_exception(error)
