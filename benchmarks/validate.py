"""is_token_valid through a real Redis: ours, one command a call, and Redis's own limit.

1,000 coroutines check tokens in a loop, each its own ones, and each of these many times, as clients
send theirs with every request; and once more with each token seen for the first time, when its MAC
has to be computed. Ours asks for the callers of a loop tick at once; the other party is what one
writes by hand: `await client.get(key)` with redis-py, for the same keys. Where fastapi-users is
installed, its RedisStrategy reads tokens of its own over such a client, with a user manager that
asks no database. redis-benchmark, a client in C, tells what Redis gives to 50 connections that send
one command at a time.
"""

import asyncio
import csv
import shutil
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass

from redis.asyncio import BlockingConnectionPool, Redis

from mpauthx_async import Connections, MPAuthX
from tests.helpers.redis_server import RedisServer

from . import fastapi_users_party
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
from .sessions import APP_ID, APP_SECRET, SKU, living_tokens

__all__ = ["VALIDATE"]

_CALLERS = 1000
_POOL = 64  # connections
_LIMIT_CONNECTIONS = 50

_OURS = "mpauthx_async, is_token_valid"
_AUTHENTICATE = "mpauthx_async, authenticate"
_FIRST = "the same, each token for the first time"
_BY_HAND = f"redis-py asyncio, one GET a call, pool of {_POOL}"
_FASTAPI_USERS = f"fastapi-users, RedisStrategy, pool of {_POOL}"
_LIMIT = f"limit: redis-benchmark GET, {_LIMIT_CONNECTIONS} connections"


@dataclass(frozen=True, slots=True)
class _Size:
    rounds: int
    tokens: int
    repeats: int  # how often a round of ours checks each token
    gets: int  # calls in a round by hand
    limit_gets: int


_FULL = _Size(rounds=9, tokens=20_000, repeats=25, gets=30_000, limit_gets=150_000)
_QUICK = _Size(rounds=1, tokens=4_000, repeats=5, gets=2_000, limit_gets=10_000)


async def _run(settings: Settings, progress: Progress) -> Outcome:
    size = _QUICK if settings.quick else _FULL
    has_fastapi_users = fastapi_users_party.is_installed()
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mpauthx-benchmark-"))
        server = stack.enter_context(RedisServer())
        tokens = await living_tokens(server.url, size.tokens, progress)
        connections = await stack.enter_async_context(Connections(server.url))

        def service() -> MPAuthX:
            return MPAuthX(
                app_id=APP_ID,
                app_secret=APP_SECRET,
                sku=SKU,
                users=f"sqlite:///{folder}/users.db",
                tokens=server.url,
                connections=connections,
            )

        auth = await stack.enter_async_context(service())
        pool = BlockingConnectionPool.from_url(server.url, max_connections=_POOL, timeout=None)
        client = await stack.enter_async_context(Redis.from_pool(pool))
        keys = [key async for key in client.scan_iter("mpauthx:t:*", count=1000)]
        once = shares(tokens, _CALLERS)
        checks = [list(share) * size.repeats for share in once]
        gets = shares(keys[: size.gets], _CALLERS)
        gets = [list(share) * -(-size.gets // len(keys)) for share in gets]

        async def identify(token: str) -> bool:
            return (await auth.authenticate(token)).token is token

        async def first_sight() -> float:
            async with service() as unknowing:
                return await rate(unknowing.is_token_valid, once)

        parties = [
            Party(_OURS, lambda: rate(auth.is_token_valid, checks)),
            Party(_AUTHENTICATE, lambda: rate(identify, checks)),
            Party(_FIRST, first_sight),
            Party(_BY_HAND, lambda: rate(client.get, gets)),
        ]
        if has_fastapi_users:
            parties.append(await _fastapi_users(stack, server.url, size.gets))
        benchmark = shutil.which("redis-benchmark")
        if benchmark is not None:
            command = [benchmark, "-p", str(server.port), "-c", str(_LIMIT_CONNECTIONS)]
            command += ["-n", str(size.limit_gets), "--csv", "GET", keys[0].decode()]
            parties.append(Party(_LIMIT, lambda: _redis_benchmark(command)))
        rates = await in_turn(parties, size.rounds, progress)

    return Outcome(
        "validate",
        f"{_CALLERS:,} concurrent callers, {size.tokens:,} living tokens, {size.rounds} rounds",
        rates,
        _figures(rates),
        ([] if has_fastapi_users else [fastapi_users_party.LEFT_OUT])
        + ([] if benchmark else ["Left out: redis-benchmark is not on PATH (redis-tools)."]),
    )


def _figures(rates: dict[str, Spread]) -> list[Figure]:
    figures = [
        Figure("ours to one GET a call", ratio(rates[_OURS], rates[_BY_HAND]), at_least=20),
        Figure("authenticate to is_token_valid", ratio(rates[_AUTHENTICATE], rates[_OURS])),
        Figure("for the first time, to one GET a call", ratio(rates[_FIRST], rates[_BY_HAND])),
    ]
    for name, party in (("fastapi-users", _FASTAPI_USERS), ("redis-benchmark", _LIMIT)):
        if party in rates:
            figures.append(Figure(f"ours to {name}", ratio(rates[_OURS], rates[party])))
    return figures


async def _fastapi_users(stack: AsyncExitStack, redis_url: str, calls: int) -> Party[float]:
    pool = BlockingConnectionPool.from_url(
        redis_url, max_connections=_POOL, timeout=None, decode_responses=True
    )
    client = await stack.enter_async_context(Redis.from_pool(pool))
    tokens = await fastapi_users_party.write_tokens(client, _CALLERS)
    read_token = fastapi_users_party.strategy(client).read_token
    manager = fastapi_users_party.TrivialUserManager()

    async def is_good(token: str) -> bool:
        return await read_token(token, manager) is not None

    work = [[token] * (calls // len(tokens)) for token in tokens]
    return Party(_FASTAPI_USERS, lambda: rate(is_good, work))


async def _redis_benchmark(command: list[str]) -> float:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"redis-benchmark ended with exit code {process.returncode}.")
    *_, row = csv.reader(output.decode().splitlines())
    return float(row[1])


VALIDATE = Benchmark("validate", "is_token_valid, against one Redis command a call", _run)
