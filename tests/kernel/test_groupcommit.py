import asyncio

import pytest

from probity.kernel.errors import Conflict, Unavailable
from probity.kernel.groupcommit import GroupCommit


class Recorder:
    """A flush that remembers its batches and answers each item with its double."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.bad: set[int] = set()
        self.away = False

    async def flush(self, items: list[int]) -> list[int]:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0.001)
        self.in_flight -= 1
        self.batches.append(items)
        if self.away:
            raise Unavailable("away")
        if self.bad & set(items):
            raise Conflict("bad item")
        return [item * 2 for item in items]


async def test_writers_that_come_during_a_flush_share_the_next_one() -> None:
    recorder = Recorder()
    commits = GroupCommit(recorder.flush)
    first = asyncio.create_task(commits.submit(1))
    await asyncio.sleep(0.0005)

    results = await asyncio.gather(*(commits.submit(n) for n in range(2, 40)))

    assert await first == 2
    assert results == [n * 2 for n in range(2, 40)]
    assert recorder.batches == [[1], list(range(2, 40))]
    assert recorder.most_in_flight == 1


async def test_items_with_one_key_are_written_once_and_sorted() -> None:
    recorder = Recorder()
    commits = GroupCommit(recorder.flush, key=lambda item: item % 10)

    results = await asyncio.gather(*(commits.submit(n) for n in (7, 3, 17, 13)))

    assert recorder.batches == [[13, 17]]
    assert results == [34, 26, 34, 26]


async def test_one_bad_item_fails_alone() -> None:
    recorder = Recorder()
    recorder.bad = {2}
    commits = GroupCommit(recorder.flush)

    results = await asyncio.gather(*(commits.submit(n) for n in (1, 2, 3)), return_exceptions=True)

    assert results[0] == 2
    assert isinstance(results[1], Conflict)
    assert results[2] == 6


async def test_an_absent_database_fails_everyone_at_once() -> None:
    recorder = Recorder()
    recorder.away = True
    commits = GroupCommit(recorder.flush)

    results = await asyncio.gather(*(commits.submit(n) for n in (1, 2, 3)), return_exceptions=True)

    assert all(isinstance(result, Unavailable) for result in results)
    assert len(recorder.batches) == 1


async def test_a_caller_that_left_before_its_turn_is_not_written() -> None:
    recorder = Recorder()
    commits = GroupCommit(recorder.flush)
    first = asyncio.create_task(commits.submit(1))
    await asyncio.sleep(0.0005)
    gone = asyncio.create_task(commits.submit(2))
    await asyncio.sleep(0)
    gone.cancel()

    await first
    await commits.drain()

    with pytest.raises(asyncio.CancelledError):
        await gone
    assert recorder.batches == [[1]]


async def test_a_batch_has_a_limit() -> None:
    recorder = Recorder()
    commits = GroupCommit(recorder.flush, max_batch=3)

    await asyncio.gather(*(commits.submit(n) for n in range(7)))

    assert [len(batch) for batch in recorder.batches] == [3, 3, 1]
