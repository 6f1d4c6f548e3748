"""Many mini-programs in one process, by Apps: what one costs, and is_token_valid over all of them.

1,000 apps, or 250 in a quick run, share one user store, one Redis and one thread pool. The services
of all are created anew, one after another: the time of each, closing the one before included, and
tracemalloc's bytes of each. Then 1,000 callers check living tokens, each call through `apps.use`:
those of one app, and those of all. Through Redis, calls that come at once for one app are one MGET,
and for a thousand apps a thousand.

That no app has a thread or a connection of its own is shown by counts before and after.
"""

import asyncio
import gc
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from mpauthx_async import Apps, SessionRef
from mpauthx_async.tokens.format import TokenSigner, new_nonce
from tests.helpers.redis_server import RedisServer

from .measurement import (
    Benchmark,
    Figure,
    Outcome,
    Party,
    Settings,
    Spread,
    WrongAnswer,
    in_turn,
    rate,
    ratio,
    shares,
)
from .progress import Progress
from .sessions import begin_sessions, mget_calls, near

__all__ = ["APPS"]

_CALLERS = 1_000
_WARM_UP = 30  # seconds

_NEAR_ONE = "one app, from the near cache"
_NEAR_ALL = "all apps, from the near cache"
_REDIS_ONE = "one app, through Redis"
_REDIS_ALL = "all apps, through Redis"


@dataclass(frozen=True, slots=True)
class _Size:
    rounds: int
    apps: int
    tokens: int
    repeats: int  # how often a round checks each token
    redis_repeats: int


_FULL = _Size(rounds=5, apps=1_000, tokens=4_000, repeats=10, redis_repeats=1)
_QUICK = _Size(rounds=1, apps=250, tokens=1_000, repeats=5, redis_repeats=1)

_Call = tuple[str, str]  # an app_id and a token


async def _run(settings: Settings, progress: Progress) -> Outcome:
    size = _QUICK if settings.quick else _FULL
    one = [("wx0", _ref("wx0", number)) for number in range(size.tokens)]
    names = [f"wx{number % size.apps}" for number in range(size.tokens)]
    each = [(name, _ref(name, number)) for number, name in enumerate(names)]
    calls_of_one, calls_of_all = _calls(one), _calls(each)
    with (
        tempfile.TemporaryDirectory(prefix="mpauthx-benchmark-") as folder,
        RedisServer() as server,
    ):
        refs = [ref for _, ref in one + each]
        await begin_sessions(server.url, refs, len(refs), progress)
        users = f"sqlite:///{folder}/users.db"
        async with (
            Redis.from_url(server.url) as redis,
            Apps(_load, users=users, tokens=server.url) as plain,
            Apps(_load, users=users, tokens=near(server.url)) as cached,
        ):
            progress.say(f"creating {size.apps:,} apps")
            microseconds = [
                await _microseconds_of_each(plain, calls_of_all) for _ in range(size.rounds)
            ]
            taken = await _bytes_of_each(server.url, users, calls_of_all)
            threads, connections = await _more_for_all(plain, redis, calls_of_all[: size.apps])
            progress.say("warming the near cache")
            await _warm_up(cached, calls_of_one + calls_of_all, redis)
            rates = await in_turn(
                [
                    _party(_NEAR_ONE, cached, calls_of_one, size.repeats),
                    _party(_NEAR_ALL, cached, calls_of_all, size.repeats),
                    _party(_REDIS_ONE, plain, calls_of_one, size.redis_repeats),
                    _party(_REDIS_ALL, plain, calls_of_all, size.redis_repeats),
                ],
                size.rounds,
                progress,
            )
    return Outcome(
        "apps",
        f"{size.apps:,} apps, {size.tokens:,} living tokens, {_CALLERS:,} callers, "
        f"{size.rounds} rounds",
        rates,
        [
            Figure("µs to create an app's service", Spread(tuple(microseconds)), at_most=2_000),
            Figure("bytes of an app's service", Spread((taken,)), at_most=100_000),
            Figure("more threads for all apps", Spread((threads,)), at_most=0),
            Figure("more connections to Redis for all apps", Spread((connections,)), at_most=0),
            Figure(
                "all apps to one, from the near cache", ratio(rates[_NEAR_ALL], rates[_NEAR_ONE])
            ),
            Figure("all apps to one, through Redis", ratio(rates[_REDIS_ALL], rates[_REDIS_ONE])),
        ],
    )


async def _load(app_id: str) -> Mapping[str, Any]:
    return {"app_id": app_id, "app_secret": f"{app_id:0>32}", "sku": app_id}


def _ref(app_id: str, number: int) -> SessionRef:
    return SessionRef(app_id, f"t{number:027}", new_nonce())


def _calls(sessions: Sequence[tuple[str, SessionRef]]) -> list[_Call]:
    signers = {
        app_id: TokenSigner(app_id=app_id, sku=app_id, keys=[f"{app_id:0>32}"])
        for app_id, _ in sessions
    }
    return [(app_id, signers[app_id].mint(ref.user_id, ref.nonce)) for app_id, ref in sessions]


def _party(name: str, apps: Apps, calls: Sequence[_Call], repeats: int) -> Party[float]:
    async def is_valid(call: _Call) -> bool:
        app_id, token = call
        async with apps.use(app_id) as auth:
            return await auth.is_token_valid(token)

    work = [list(share) * repeats for share in shares(calls, _CALLERS)]
    return Party(name, lambda: rate(is_valid, work))


async def _microseconds_of_each(apps: Apps, calls: Sequence[_Call]) -> float:
    """The microseconds that it takes to create the service of an app."""
    app_ids = sorted({app_id for app_id, _ in calls})
    started = time.perf_counter()
    for app_id in app_ids:
        await apps.reload(app_id)
    return (time.perf_counter() - started) / len(app_ids) * 1e6


async def _bytes_of_each(redis_url: str, users: str, calls: Sequence[_Call]) -> float:
    """The bytes of a service that was used."""
    first_of_each = list(dict(reversed(calls)).items())
    async with Apps(_load, users=users, tokens=redis_url) as apps:
        await _check(apps, [("wx0", dict(calls)["wx0"])])
        gc.collect()
        tracemalloc.start()
        try:
            for call in first_of_each:
                await _check(apps, [call])
            gc.collect()
            return tracemalloc.get_traced_memory()[0] / len(first_of_each)
        finally:
            tracemalloc.stop()


async def _more_for_all(apps: Apps, redis: Redis, calls: Sequence[_Call]) -> tuple[int, int]:
    """How many more threads and connections there are after all apps were used than after one."""
    await _check(apps, calls[:1])
    threads, connections = threading.active_count(), len(await redis.client_list())
    for call in calls:
        await _check(apps, [call])
    return threading.active_count() - threads, len(await redis.client_list()) - connections


async def _warm_up(apps: Apps, calls: Sequence[_Call], redis: Redis) -> None:
    """Check all tokens until the near cache knows them."""
    give_up = time.monotonic() + _WARM_UP
    while time.monotonic() < give_up:
        before = await mget_calls(redis)
        await _check(apps, calls)
        if await mget_calls(redis) == before:
            return
        await asyncio.sleep(0.05)  # until the connection is up on which Redis pushes changes
    raise WrongAnswer("The near cache does not keep the tokens that were checked.")


async def _check(apps: Apps, calls: Sequence[_Call]) -> None:
    async def is_valid(call: _Call) -> bool:
        async with apps.use(call[0]) as auth:
            return await auth.is_token_valid(call[1])

    if not all(await asyncio.gather(*map(is_valid, calls))):
        raise WrongAnswer("A living token was refused.")


APPS = Benchmark("apps", "1,000 mini-programs in one process, against one", _run)
