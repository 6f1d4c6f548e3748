"""is_token_valid answered from the near cache, beside Redis and beside a bare dict lookup.

1,000 coroutines check tokens in a loop, each its own ones, and each of these many times; all of the
tokens are in the near cache before what counts begins. The same calls go through Redis, by a
service that has no near cache. The limit is what an async function costs at least that does nothing
but look the token up in a dict.

That the near cache did answer is shown by Redis's own count of MGETs, which must not move.
"""

import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass

from redis.asyncio import Redis

from tests.helpers.redis_server import RedisServer

from .measurement import (
    Benchmark,
    Figure,
    Outcome,
    Party,
    Settings,
    Spread,
    in_turn,
    rate,
    ratio,
    shares,
)
from .progress import Progress
from .sessions import living_tokens, mget_calls, near, service, warm_up

__all__ = ["NEAR_CACHE"]

_CALLERS = 1000

_NEAR = "is_token_valid from the near cache"
_REDIS = "is_token_valid through Redis"
_LIMIT = "limit: a bare dict lookup, awaited"


@dataclass(frozen=True, slots=True)
class _Size:
    rounds: int
    tokens: int
    repeats: int  # how often a round checks each token
    redis_repeats: int


_FULL = _Size(rounds=9, tokens=20_000, repeats=100, redis_repeats=10)
_QUICK = _Size(rounds=1, tokens=4_000, repeats=25, redis_repeats=2)


async def _run(settings: Settings, progress: Progress) -> Outcome:
    size = _QUICK if settings.quick else _FULL
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mpauthx-benchmark-"))
        server = stack.enter_context(RedisServer())
        tokens = await living_tokens(server.url, size.tokens, progress)
        redis = await stack.enter_async_context(Redis.from_url(server.url))
        cached = await stack.enter_async_context(service(folder, near(server.url)))
        through_redis = await stack.enter_async_context(service(folder, server.url))
        progress.say("warming the near cache")
        await warm_up(cached, tokens, redis)

        once = shares(tokens, _CALLERS)
        checks = [list(share) * size.repeats for share in once]
        redis_checks = [list(share) * size.redis_repeats for share in once]
        known = dict.fromkeys(tokens, True)
        asked = 0

        async def look_up(token: str) -> bool:
            return known[token]

        async def from_near_cache() -> float:
            nonlocal asked
            before = await mget_calls(redis)
            calls = await rate(cached.is_token_valid, checks)
            asked += await mget_calls(redis) - before
            return calls

        rates = await in_turn(
            [
                Party(_NEAR, from_near_cache),
                Party(_REDIS, lambda: rate(through_redis.is_token_valid, redis_checks)),
                Party(_LIMIT, lambda: rate(look_up, checks)),
            ],
            size.rounds,
            progress,
        )

    return Outcome(
        "near_cache",
        f"{_CALLERS:,} callers, {size.tokens:,} living tokens, {size.rounds} rounds, one process",
        rates,
        [
            Figure("from the near cache, a second", rates[_NEAR], at_least=2_000_000),
            Figure("MGETs for all of them", Spread((asked,)), at_most=0),
            Figure("near cache to Redis", ratio(rates[_NEAR], rates[_REDIS])),
            Figure("near cache to the bare lookup", ratio(rates[_NEAR], rates[_LIMIT])),
        ],
    )


NEAR_CACHE = Benchmark("near_cache", "is_token_valid from the near cache, against Redis", _run)
