"""What blocks of `until_revoked` cost while they wait, and how soon they end.

10,000 websockets, each a task in a block of its own, wait for the end of 10,000 sessions on one
Redis that pushes what changes. The CPU time that this process takes while nothing happens is
compared with the same service's when nobody waits. Then another service revokes sessions one after
another; what is measured is from the call of `revoke` to the block's exception. Before that, Redis
drops the connection that pushes, once a round: all sessions are looked up at once, in which the
event loop must not stall. A stall is by how much a heartbeat, due each millisecond, comes late.
"""

import asyncio
import tempfile
import time
import tracemalloc
from contextlib import AsyncExitStack
from dataclasses import dataclass

from redis.asyncio import Redis

from mpauthx_async import InvalidTokenError, MPAuthX
from tests.helpers.redis_server import RedisServer

from .garbage import rare_collections
from .loop_lag import heartbeat
from .measurement import Benchmark, Figure, Outcome, Settings, Spread, WrongAnswer, percentile
from .progress import Progress
from .sessions import living_tokens, mget_calls, service

__all__ = ["WAITING"]

_SETTLE = 1.2  # seconds: more than the interval at which sessions are looked up without pushes
_MAX_CPU = 10  # milliseconds a second that 10,000 waiting blocks may take
_MAX_DELAY = 2000  # milliseconds
_MAX_STALL = 50  # milliseconds


@dataclass(frozen=True, slots=True)
class _Size:
    rounds: int
    blocks: int
    revocations: int  # of all rounds
    idle: float  # seconds of a round


_FULL = _Size(rounds=5, blocks=10_000, revocations=1_000, idle=5)
_QUICK = _Size(rounds=1, blocks=500, revocations=20, idle=0.5)


async def _run(settings: Settings, progress: Progress) -> Outcome:
    size = _QUICK if settings.quick else _FULL
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mpauthx-benchmark-"))
        server = stack.enter_context(RedisServer())
        tokens = await living_tokens(server.url, size.blocks, progress)
        redis = await stack.enter_async_context(Redis.from_url(server.url))
        auth = await stack.enter_async_context(service(folder, server.url))
        other = await stack.enter_async_context(service(folder, server.url))
        kept, *tokens = tokens
        first = await _begin(auth, kept)  # so that both rounds have the connection that pushes
        idle = Spread(tuple([await _cpu(size.idle) for _ in range(size.rounds)]))
        progress.say(f"letting {size.blocks:,} blocks wait")
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        blocks = [await _begin(auth, token) for token in tokens]
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        await _settle(redis)
        lookups = await mget_calls(redis)
        busy = Spread(tuple([await _cpu(size.idle) for _ in range(size.rounds)]))
        asked = await mget_calls(redis) - lookups
        progress.say(f"dropping the connection that pushes {size.rounds} times")
        stalls = Spread(tuple([await _stall(redis) for _ in range(size.rounds)]))
        progress.say(f"revoking {size.revocations:,} sessions")
        delays: list[float] = []
        for token, block in list(zip(tokens, blocks, strict=True))[: size.revocations]:
            called_at = time.monotonic()
            await other.revoke(token)
            await asyncio.wait([block], timeout=10)
            if not isinstance(block.exception() if block.done() else None, InvalidTokenError):
                raise WrongAnswer("A block did not end with its session.")
            delays.append(1000 * (time.monotonic() - called_at))
    await asyncio.gather(first, *blocks, return_exceptions=True)
    delays.sort()
    more = Spread(tuple(b - i for b, i in zip(busy.rounds, idle.rounds, strict=True)))
    return Outcome(
        "waiting",
        f"{size.blocks:,} blocks of until_revoked, {size.revocations:,} revocations, "
        f"{size.rounds} rounds",
        {
            "CPU in ms a second, nobody waits": idle,
            "CPU in ms a second, all wait": busy,
            "ms from revoke to the block's end, p50": Spread((percentile(delays, 0.5),)),
            "ms from revoke to the block's end, p99": Spread((percentile(delays, 0.99),)),
        },
        [
            Figure("CPU of all that wait, in ms a second", more, at_most=_MAX_CPU),
            Figure("lookups while they wait", Spread((asked,)), at_most=0),
            Figure("worst stall when all are looked up, in ms", stalls, at_most=_MAX_STALL),
            Figure("bytes a block, with its task", Spread(((after - before) / len(tokens),))),
            Figure(
                "worst from revoke to the end, in ms", Spread((delays[-1],)), at_most=_MAX_DELAY
            ),
        ],
        unit="as named",
    )


async def _begin(auth: MPAuthX, token: str) -> "asyncio.Task[None]":
    entered = asyncio.Event()
    block = asyncio.create_task(_wait(auth, token, entered))
    await entered.wait()
    return block


async def _wait(auth: MPAuthX, token: str, entered: asyncio.Event) -> None:
    async with auth.until_revoked(token):
        entered.set()
        await asyncio.Event().wait()


async def _cpu(seconds: float) -> float:
    """The CPU time of this process while nothing happens, in milliseconds a second."""
    before = time.process_time()
    await asyncio.sleep(seconds)
    return 1000 * (time.process_time() - before) / seconds


async def _stall(redis: Redis) -> float:
    """The worst stall after the connection that pushes was dropped, in milliseconds."""
    with rare_collections(), heartbeat() as lags:
        await redis.client_kill_filter(_type="normal", skipme=True)
        await _settle(redis)
    return 1000 * max(lags)


async def _settle(redis: Redis) -> None:
    """Wait until nothing is looked up any more."""
    before = -1
    while (now := await mget_calls(redis)) != before:
        before = now
        await asyncio.sleep(_SETTLE)


WAITING = Benchmark("waiting", "blocks that wait for their session's end", _run)
