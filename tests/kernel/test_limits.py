"""One suite over the limiter in this process and the one in Redis: the same budgets, the same answers."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Protocol
from uuid import uuid4

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from probity.kernel.limits import Algorithm, Limiter, LocalLimiter, Overrides, Policy, Verdict, overrides_from
from probity.kernel.redis_limits import RedisLimiter
from probity.kernel.secret import Secret
from probity.kernel.telemetry import Metrics
from tests.fakes import FakeClock
from tests.kernel.redis_server import RedisServer, redis_server


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


class Passing(Protocol):
    async def __call__(self, seconds: float) -> None: ...


@pytest_asyncio.fixture(params=["local", "redis"])
async def limiter_and_time(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Limiter, Passing]]:
    if request.param == "local":
        clock = FakeClock()

        async def advance(seconds: float) -> None:
            clock.advance(seconds)

        yield LocalLimiter(clock), advance
        return
    server: RedisServer = request.getfixturevalue("redis")
    limiter = RedisLimiter(Secret(server.url), f"test-{uuid4()}", Metrics().limiter_failures)
    try:
        yield limiter, _sleep
    finally:
        await limiter.close()


async def _sleep(seconds: float) -> None:
    await asyncio.sleep(seconds)


async def spend(limiter: Limiter, policy: Policy, calls: int, key: str = "a") -> list[Verdict]:
    return [await limiter.hit(policy, key) for _ in range(calls)]


@pytest.mark.parametrize("algorithm", list(Algorithm))
async def test_a_budget_is_granted_once_and_per_key(limiter_and_time: tuple[Limiter, Passing], algorithm: Algorithm) -> None:
    limiter, _ = limiter_and_time
    policy = Policy("p", limit=3, window_s=30, algorithm=algorithm)

    verdicts = await spend(limiter, policy, 4)
    other = await limiter.hit(policy, "b")

    assert [verdict.allowed for verdict in verdicts] == [True, True, True, False]
    assert [verdict.remaining for verdict in verdicts] == [2, 1, 0, 0]
    assert verdicts[0].retry_after_s == 0 and 0 < verdicts[3].retry_after_s <= 30
    assert other.allowed


async def test_a_window_ends_and_grants_the_whole_budget_again(limiter_and_time: tuple[Limiter, Passing]) -> None:
    limiter, pass_time = limiter_and_time
    policy = Policy("fixed", limit=2, window_s=0.3, algorithm=Algorithm.FIXED_WINDOW)

    await spend(limiter, policy, 3)
    await pass_time(0.35)

    assert [verdict.allowed for verdict in await spend(limiter, policy, 3)] == [True, True, False]


async def test_a_refused_call_does_not_count_in_a_sliding_window(limiter_and_time: tuple[Limiter, Passing]) -> None:
    limiter, pass_time = limiter_and_time
    policy = Policy("sliding", limit=2, window_s=0.4)
    await limiter.hit(policy, "a")
    await pass_time(0.25)

    second, refused = await spend(limiter, policy, 2)
    await pass_time(0.2)  # the first call has left the window, the second has not
    again, refused_again = await spend(limiter, policy, 2)

    assert (second.allowed, refused.allowed, again.allowed, refused_again.allowed) == (True, False, True, False)


async def test_a_bucket_refills_continuously(limiter_and_time: tuple[Limiter, Passing]) -> None:
    limiter, pass_time = limiter_and_time
    policy = Policy("bucket", limit=4, window_s=0.8, algorithm=Algorithm.BUCKET)

    assert [verdict.allowed for verdict in await spend(limiter, policy, 5)] == [True] * 4 + [False]
    await pass_time(0.25)

    assert [verdict.allowed for verdict in await spend(limiter, policy, 2)] == [True, False]


@given(
    limit=st.integers(1, 5),
    gaps=st.lists(st.floats(0, 20, allow_nan=False), min_size=1, max_size=40),
)
def test_no_sliding_window_ever_holds_more_than_its_limit(limit: int, gaps: list[float]) -> None:
    clock = FakeClock()
    limiter = LocalLimiter(clock)
    policy = Policy("p", limit=limit, window_s=10)
    allowed: list[float] = []

    for gap in gaps:
        clock.advance(gap)
        if asyncio.run(limiter.hit(policy, "a")).allowed:
            allowed.append(clock.monotonic())

    assert all(len([t for t in allowed if start <= t < start + 10]) <= limit for start in allowed)


async def test_two_servers_share_one_budget_in_redis(redis: RedisServer) -> None:
    namespace = f"test-{uuid4()}"
    servers = [RedisLimiter(Secret(redis.url), namespace, Metrics().limiter_failures) for _ in range(2)]
    policy = Policy("shared", limit=10, window_s=60)
    try:
        verdicts = await asyncio.gather(*(servers[n % 2].hit(policy, "a") for n in range(40)))
    finally:
        for server in servers:
            await server.close()

    assert sum(verdict.allowed for verdict in verdicts) == 10


async def test_calls_pass_while_redis_is_away_and_are_limited_again_when_it_is_back() -> None:
    metrics = Metrics()
    with redis_server() as server:
        limiter = RedisLimiter(Secret(server.url), "test", metrics.limiter_failures)
        policy = Policy("away", limit=1, window_s=60)
        await limiter.hit(policy, "a")
        server.stop()
        away = await spend(limiter, policy, 3)
        server.start()
        await asyncio.sleep(1.1)
        back = await spend(limiter, policy, 2)
        await limiter.close()

    assert all(verdict.allowed for verdict in away)
    assert metrics.registry.get_sample_value("probity_limiter_failures_total") == 3
    assert [verdict.allowed for verdict in back] == [True, False]


async def test_every_budget_is_a_setting() -> None:
    limiter = LocalLimiter(FakeClock(), overrides_from({"PROBITY_LIMIT_AUTH_LOGIN": "2/60"}))

    verdicts = await spend(limiter, Policy("auth:login", limit=30, window_s=60), 3)

    assert [verdict.allowed for verdict in verdicts] == [True, True, False]


@pytest.mark.parametrize("text", ["", "30", "30/", "0/60", "x/60", "30/0", "-1/60"])
def test_a_wrong_setting_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"PROBITY_LIMIT_X is .* must be calls/seconds"):
        overrides_from({"PROBITY_LIMIT_X": text})


async def test_the_table_of_callers_does_not_grow_without_end() -> None:
    limiter = LocalLimiter(FakeClock(), Overrides({}), max_keys=10)
    policy = Policy("p", limit=1, window_s=60, algorithm=Algorithm.FIXED_WINDOW)

    for n in range(100):
        await limiter.hit(policy, str(n))

    assert (await limiter.hit(policy, "99")).allowed is False
    assert (await limiter.hit(policy, "0")).allowed is True
