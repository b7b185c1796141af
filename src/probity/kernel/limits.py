"""Rate limits: three algorithms, one interface, in this process or in Redis.

| algorithm | a refused call | used by |
|---|---|---|
| fixed window | counts | achilles, agnox, sentri, suparbase (outer layer) |
| sliding window | does not count | bridge, own |
| refilling bucket | does not count | suparbase (inner layer) |
"""

import re
from collections import OrderedDict, deque
from collections.abc import Mapping
from enum import StrEnum
from typing import Final, Protocol, TypeVar

import msgspec

from probity.kernel.clock import Clock

T = TypeVar("T")

# A table of callers that only grows is a way to fill our memory; the least recently seen caller is forgotten first.
_MAX_KEYS: Final = 100_000


class Algorithm(StrEnum):
    FIXED_WINDOW = "fixed_window"
    SLIDING_WINDOW = "sliding_window"
    BUCKET = "bucket"


class Per(StrEnum):
    """What a budget belongs to."""

    IP = "ip"
    USER = "user"  # the signed-in caller, else the address
    MEMBER = "member"  # the signed-in caller; others are not counted
    ORGANIZATION = "organization"  # the caller's organization, else the address
    AGENT = "agent"  # the agent, else the address


class Policy(msgspec.Struct, frozen=True):
    """A budget: `limit` calls per `window_s` seconds for each `per`.

    `name` is stable: it is the key of the counter and of the setting that overrides the numbers. Routes that share a name share the
    budget. `message` is what the caller reads when it is spent; `{minutes}` in it becomes the waiting time in whole minutes.
    """

    name: str
    limit: int
    window_s: float
    algorithm: Algorithm = Algorithm.SLIDING_WINDOW
    per: Per = Per.IP
    message: str | None = None
    methods: tuple[str, ...] = ()  # only these are counted; all when empty
    bearer: str = ""  # only calls whose Bearer credential begins like this are counted, valid or not; all when empty
    quiet: bool = False  # the contract sends no limit headers for this budget, only Retry-After with the refusal


class Verdict(msgspec.Struct, frozen=True):
    """The answer for one call. `reset_s` is when the budget is full again (or its window ends), `retry_after_s` 0 when allowed."""

    allowed: bool
    limit: int
    remaining: int
    reset_s: float
    retry_after_s: float


class Limiter(Protocol):
    async def hit(self, policy: Policy, key: str) -> Verdict:
        """Count one call of `key` against `policy` and say whether it may pass."""
        ...


class Overrides:
    """Numbers set by the operator, by policy name in capitals (`AUTH_LOGIN`); the documented ones hold otherwise."""

    def __init__(self, numbers: Mapping[str, tuple[int, float]]) -> None:
        self._numbers = dict(numbers)

    def apply(self, policy: Policy) -> Policy:
        if not self._numbers:
            return policy
        name = policy.name.upper().replace(":", "_").replace("-", "_")
        if name not in self._numbers:
            return policy
        limit, window_s = self._numbers[name]
        return msgspec.structs.replace(policy, limit=limit, window_s=window_s)


class LocalLimiter:
    """Counts in this process: for one server, and for servers that share no Redis (each then grants the budget on its own)."""

    def __init__(self, clock: Clock, overrides: Overrides | None = None, *, max_keys: int = _MAX_KEYS) -> None:
        self._clock = clock
        self._overrides = overrides or Overrides({})
        self._max_keys = max_keys
        self._windows: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._hits: OrderedDict[str, deque[float]] = OrderedDict()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    async def hit(self, policy: Policy, key: str) -> Verdict:
        policy = self._overrides.apply(policy)
        name = f"{policy.name}:{key}"
        now = self._clock.monotonic()
        if policy.algorithm is Algorithm.FIXED_WINDOW:
            return self._fixed_window(policy, name, now)
        if policy.algorithm is Algorithm.SLIDING_WINDOW:
            return self._sliding_window(policy, name, now)
        return self._bucket(policy, name, now)

    def _fixed_window(self, policy: Policy, name: str, now: float) -> Verdict:
        ends, count = self._windows.get(name, (0.0, 0))
        if now >= ends:
            ends, count = now + policy.window_s, 0
        count += 1
        self._windows[name] = (ends, count)
        _keep_recent(self._windows, name, self._max_keys)
        return window_verdict(policy, allowed=count <= policy.limit, count=count, left_s=ends - now)

    def _sliding_window(self, policy: Policy, name: str, now: float) -> Verdict:
        hits = self._hits.setdefault(name, deque())
        while hits and hits[0] <= now - policy.window_s:
            hits.popleft()
        allowed = len(hits) < policy.limit
        if allowed:
            hits.append(now)
        _keep_recent(self._hits, name, self._max_keys)
        oldest = hits[0] if hits else now
        return window_verdict(policy, allowed=allowed, count=len(hits), left_s=policy.window_s - (now - oldest))

    def _bucket(self, policy: Policy, name: str, now: float) -> Verdict:
        tokens, at = self._buckets.get(name, (float(policy.limit), now))
        tokens = min(policy.limit, tokens + (now - at) * policy.limit / policy.window_s)
        allowed = tokens >= 1
        tokens -= allowed
        self._buckets[name] = (tokens, now)
        _keep_recent(self._buckets, name, self._max_keys)
        return bucket_verdict(policy, allowed=allowed, tokens=tokens)


def _keep_recent(table: "OrderedDict[str, T]", name: str, max_keys: int) -> None:
    table.move_to_end(name)
    if len(table) > max_keys:
        table.popitem(last=False)


def window_verdict(policy: Policy, *, allowed: bool, count: int, left_s: float) -> Verdict:
    return Verdict(allowed, policy.limit, max(0, policy.limit - count), left_s, 0.0 if allowed else left_s)


def bucket_verdict(policy: Policy, *, allowed: bool, tokens: float) -> Verdict:
    per_token_s = policy.window_s / policy.limit
    wait_s = 0.0 if allowed else (1 - tokens) * per_token_s
    return Verdict(allowed, policy.limit, int(tokens), (policy.limit - tokens) * per_token_s, wait_s)


def overrides_from(environ: Mapping[str, str]) -> Overrides:
    """Read `PROBITY_LIMIT_<NAME>=<calls>/<seconds>` (name in capitals, `_` for `:` and `-`).

    Raises:
        ValueError: naming the variable that is not of this form.
    """
    numbers: dict[str, tuple[int, float]] = {}
    for variable, text in environ.items():
        match = re.fullmatch(r"([1-9]\d{0,8})/(\d{1,8}(?:\.\d+)?)", text.strip())
        if match is None or float(match[2]) <= 0:
            raise ValueError(f"{variable} is {text!r}; it must be calls/seconds, such as 30/60")
        numbers[variable.removeprefix("PROBITY_LIMIT_")] = (int(match[1]), float(match[2]))
    return Overrides(numbers)
