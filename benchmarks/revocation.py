"""How long a revoked token is still good in another process, whose near cache knows it.

Two services on one Redis, each in a process of its own and with a near cache that knows all tokens.
One after another, the other process makes sure that it finds a token good and says so; this process
notes the time and calls `revoke`; the other asks `is_token_valid` again and again, with an
`await asyncio.sleep(0)` between, notes the time of the first False and sends that through a pipe.

Both times are those of `time.monotonic`, Linux's CLOCK_MONOTONIC, which is one clock for all
processes of a machine. So what is measured is from the call of `revoke` to the other's False, the
trip of that to Redis included; beside it, from the answer of `revoke`, which is below zero where
the other process knew first.
"""

import asyncio
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from redis.asyncio import Redis

from tests.helpers.redis_server import RedisServer

from .child_process import ChildProcess, Pipe
from .measurement import (
    Benchmark,
    Figure,
    Outcome,
    Settings,
    Spread,
    WrongAnswer,
    histogram,
    percentile,
)
from .progress import Progress
from .sessions import living_tokens, near, service, warm_up

__all__ = ["REVOCATION"]

_DECADES = range(-2, 3)  # from ten microseconds to a second, in milliseconds
_GIVE_UP = 10  # seconds

_FROM_CALL = "from the call of revoke to False elsewhere"
_FROM_ANSWER = "from the answer of revoke"
_STATISTICS = (("p50", 0.5), ("p99", 0.99), ("worst", 1.0))


@dataclass(frozen=True, slots=True)
class _Size:
    rounds: int
    tokens: int  # of all rounds


_FULL = _Size(rounds=5, tokens=10_000)
_QUICK = _Size(rounds=1, tokens=100)


async def _run(settings: Settings, progress: Progress) -> Outcome:
    size = _QUICK if settings.quick else _FULL
    from_call: list[list[float]] = []
    from_answer: list[list[float]] = []
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mpauthx-benchmark-"))
        server = stack.enter_context(RedisServer())
        tokens = await living_tokens(server.url, size.tokens, progress)
        progress.say("warming both near caches")
        checker = stack.enter_context(
            ChildProcess(_check, folder, server.url, tokens, uvloop=settings.uvloop)
        )
        redis = await stack.enter_async_context(Redis.from_url(server.url))
        auth = await stack.enter_async_context(service(folder, near(server.url)))
        await warm_up(auth, tokens, redis)
        a_round = size.tokens // size.rounds
        for number in range(size.rounds):
            progress.say(f"round {number + 1} of {size.rounds}: revoking {a_round:,} tokens")
            calls, answers = [], []
            for place in range(number * a_round, (number + 1) * a_round):
                checker.send(place)
                await checker.receive()  # it finds the token good
                called_at = time.monotonic()
                revoked = await auth.revoke(tokens[place])
                answered_at = time.monotonic()
                if not revoked:
                    raise WrongAnswer("A living token was not revoked.")
                refused_at = await checker.receive()
                calls.append(1000 * (refused_at - called_at))
                answers.append(1000 * (refused_at - answered_at))
            from_call.append(sorted(calls))
            from_answer.append(sorted(answers))
    return _outcome(from_call, from_answer, size)


def _outcome(
    from_call: Sequence[list[float]], from_answer: Sequence[list[float]], size: _Size
) -> Outcome:
    measured = {
        f"{name}, {statistic}": Spread(tuple(percentile(values, share) for values in rounds))
        for name, rounds in ((_FROM_CALL, from_call), (_FROM_ANSWER, from_answer))
        for statistic, share in _STATISTICS
    }
    every = [value for values in from_call for value in values]
    worst = Spread((max(every),))
    return Outcome(
        "revocation",
        f"{size.tokens:,} tokens one after another, two processes with warm near caches, "
        f"{size.rounds} rounds",
        measured,
        [
            Figure("p99 from the call", measured[f"{_FROM_CALL}, p99"], at_most=10),
            Figure("worst of all from the call", worst, at_most=50),
        ],
        ["From the answer: below zero where the other process knew before the caller did."],
        unit="ms",
        chart=histogram("ms from revoke to False elsewhere", {_FROM_CALL: every}, _DECADES),
    )


async def _check(pipe: Pipe, folder: str, redis_url: str, tokens: Sequence[str]) -> None:
    """The other process: tell when a token is good no more."""
    async with service(folder, near(redis_url)) as auth, Redis.from_url(redis_url) as redis:
        await warm_up(auth, tokens, redis)
        pipe.send("ready")
        while True:
            token = tokens[await asyncio.to_thread(pipe.recv)]
            if not await auth.is_token_valid(token):
                raise WrongAnswer("A living token was refused.")
            pipe.send("good")
            give_up = time.monotonic() + _GIVE_UP
            while await auth.is_token_valid(token):
                if time.monotonic() > give_up:
                    raise WrongAnswer("A revoked token stays good.")
                await asyncio.sleep(0)
            pipe.send(time.monotonic())


REVOCATION = Benchmark("revocation", "from revoke to False in another process", _run)
