"""Rate limits counted in Redis or Valkey, so that all servers grant one budget together.

Each algorithm is one script: it runs whole or not at all, and takes its time from Redis, so servers with different clocks agree.
When Redis does not answer, calls pass (all contracts that mention it document this) and the failure is counted.
"""

import time
from typing import Final

import structlog
from prometheus_client import Counter
from redis.asyncio import Redis
from redis.exceptions import RedisError

from probity.kernel.limits import Algorithm, Overrides, Policy, Verdict, bucket_verdict, window_verdict
from probity.kernel.secret import Secret

log = structlog.get_logger("probity.limits")

# After a failure calls pass without asking for this long, so that a lost Redis does not slow every request down.
_PAUSE_S: Final = 1.0
_TIMEOUT_S: Final = 0.25

# KEYS[1] the counter; ARGV[1] limit, ARGV[2] window in ms. Reply: allowed, calls counted, ms until the window ends.
_FIXED_WINDOW: Final = """
local count = redis.call('INCR', KEYS[1])
if count == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
local left = redis.call('PTTL', KEYS[1])
if left < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[2]); left = tonumber(ARGV[2]) end
return {count <= tonumber(ARGV[1]) and 1 or 0, count, left}
"""

# A sorted set of call times. A refused call is not added. Members are unique by a counter beside the time.
_SLIDING_WINDOW: Final = """
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ms - ARGV[2])
local count = redis.call('ZCARD', KEYS[1])
local allowed = count < tonumber(ARGV[1])
if allowed then
  redis.call('ZADD', KEYS[1], ms, now[1] .. ':' .. now[2] .. ':' .. count)
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  count = count + 1
end
local oldest = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
local left = oldest[2] and (oldest[2] + ARGV[2] - ms) or tonumber(ARGV[2])
return {allowed and 1 or 0, count, left}
"""

# A hash of tokens (in millionths, Redis replies are whole numbers) and when they were counted.
_BUCKET: Final = """
local now = redis.call('TIME')
local ms = now[1] * 1000 + now[2] / 1000
local limit, window = tonumber(ARGV[1]), tonumber(ARGV[2])
local held = redis.call('HMGET', KEYS[1], 't', 'at')
local tokens = tonumber(held[1]) or limit
local at = tonumber(held[2]) or ms
tokens = math.min(limit, tokens + math.max(0, ms - at) * limit / window)
local allowed = tokens >= 1
if allowed then tokens = tokens - 1 end
redis.call('HSET', KEYS[1], 't', tostring(tokens), 'at', string.format('%.3f', ms))
redis.call('PEXPIRE', KEYS[1], math.ceil(window))
return {allowed and 1 or 0, math.floor(tokens * 1000000), 0}
"""


class RedisLimiter:
    def __init__(self, url: Secret, namespace: str, failures: Counter, overrides: Overrides | None = None) -> None:
        self._redis = Redis.from_url(url.reveal(), socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S)
        self._prefix = f"{namespace}:limit:"
        self._failures = failures
        self._overrides = overrides or Overrides({})
        self._scripts = {
            Algorithm.FIXED_WINDOW: self._redis.register_script(_FIXED_WINDOW),
            Algorithm.SLIDING_WINDOW: self._redis.register_script(_SLIDING_WINDOW),
            Algorithm.BUCKET: self._redis.register_script(_BUCKET),
        }
        self._paused_until = 0.0

    async def hit(self, policy: Policy, key: str) -> Verdict:
        policy = self._overrides.apply(policy)
        if time.monotonic() >= self._paused_until:
            try:
                return await self._ask(policy, key)
            except (RedisError, OSError, TimeoutError) as error:
                self._paused_until = time.monotonic() + _PAUSE_S
                log.warning("limits.redis_away", error=str(error))
        self._failures.inc()
        return Verdict(allowed=True, limit=policy.limit, remaining=policy.limit, reset_s=policy.window_s, retry_after_s=0.0)

    async def _ask(self, policy: Policy, key: str) -> Verdict:
        # One name per algorithm: an operator who changes it must not meet a key of another type.
        name = f"{self._prefix}{policy.algorithm}:{policy.name}:{key}"
        script = self._scripts[policy.algorithm]
        allowed, count, left_ms = await script(keys=[name], args=[policy.limit, round(policy.window_s * 1000)])
        if policy.algorithm is Algorithm.BUCKET:
            return bucket_verdict(policy, allowed=bool(allowed), tokens=int(count) / 1_000_000)
        return window_verdict(policy, allowed=bool(allowed), count=int(count), left_s=int(left_ms) / 1000)

    async def ping(self) -> None:
        """Raise unless Redis answers."""
        await self._redis.ping()

    async def close(self) -> None:
        await self._redis.aclose()
