"""authorize while WeChat answers late: all callers at once, with one login each.

Beside it, at each latency, as many GETs of the simulator's /sns/jscode2session through an aiohttp
session without a limit of connections; and authorize with 1 ms in front of Redis, which a proxy in
a process of its own adds. Connections are cold, and every login is of a new user. authorize has
8,192 file descriptors, the bare session as many as it needs. For all of them garbage is collected
as `docs/operating.md` recommends for servers.

A heartbeat (see loop_lag) tells how late the event loop is meanwhile.
"""

import resource
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias

import aiohttp

from tests.helpers.redis_server import RedisServer

from .garbage import rare_collections
from .login_by_hand import code_url
from .loop_lag import heartbeat
from .measurement import (
    Benchmark,
    Figure,
    Lines,
    Outcome,
    Party,
    Settings,
    Spread,
    percentile,
    rate,
    ratio,
    turns,
)
from .progress import Progress
from .redis_process import FarRedis
from .sessions import service
from .wechat_process import Login, WeChatProcess

__all__ = ["LATENCY"]

_OURS = "authorize"
_FAR = "the same, Redis 1 ms away"
_BARE = "bare aiohttp session"
_REDIS_DELAY = 0.001  # seconds
_DESCRIPTORS = 8192
_OTHER_DESCRIPTORS = 500  # the listening simulator's, pipes, files
_STATISTICS = (("p99", 0.99), ("worst", 1.0))

_Call: TypeAlias = Callable[[Login], Awaitable[bool]]
_Caller: TypeAlias = Callable[[], AbstractAsyncContextManager[_Call]]


class _Round(NamedTuple):
    rate: float  # calls a second
    lags: Sequence[float]  # seconds, ascending


@dataclass(frozen=True, slots=True)
class _Size:
    rounds: int
    callers: Mapping[int, int]  # for each latency in milliseconds
    to_no_latency: float
    to_bare: float
    lag_to_bare: float


_FULL = _Size(
    rounds=5,
    callers={0: 10_000, 50: 10_000, 100: 10_000, 300: 10_000, 1000: 3_000},
    to_no_latency=0.7,
    to_bare=0.6,
    lag_to_bare=1.2,
)
# A few callers are at WeChat most of the time, and a few heartbeats make no percentile.
_QUICK = _Size(
    rounds=1,
    callers={0: 500, 300: 500, 1000: 300},
    to_no_latency=0.3,
    to_bare=0.4,
    lag_to_bare=3,
)


async def _run(settings: Settings, progress: Progress) -> Outcome:
    size = _QUICK if settings.quick else _FULL
    enough = max(size.callers.values()) + _OTHER_DESCRIPTORS
    async with AsyncExitStack() as stack:
        stack.enter_context(_descriptors(enough))  # the simulator inherits them
        wechat = stack.enter_context(WeChatProcess(uvloop=settings.uvloop))
        redis = stack.enter_context(RedisServer())
        far_redis = stack.enter_context(FarRedis(redis, _REDIS_DELAY))

        async def measure(caller: _Caller, latency: int) -> _Round:
            logins = await wechat.logins(size.callers[latency], latency / 1000)
            async with caller() as call:
                with heartbeat() as lags, rare_collections():
                    calls_a_second = await rate(call, [[login] for login in logins])
            return _Round(calls_a_second, sorted(lags))

        callers: Mapping[str, _Caller] = {
            _OURS: partial(_authorize, redis.url, wechat.url),
            _FAR: partial(_authorize, far_redis.url, wechat.url),
            _BARE: partial(_get, wechat.url),
        }
        given = await turns(
            [
                Party(_name(party, latency), partial(measure, caller, latency))
                for latency in size.callers
                for party, caller in callers.items()
            ],
            size.rounds,
            progress,
        )
    return _outcome(given, size)


@asynccontextmanager
async def _authorize(redis_url: str, api_base: str) -> AsyncIterator[_Call]:
    with (
        tempfile.TemporaryDirectory(prefix="mpauthx-benchmark-") as folder,
        _descriptors(_DESCRIPTORS),
    ):
        async with service(folder, redis_url, api_base=api_base) as auth:

            async def call(login: Login) -> bool:
                return (await auth.authorize(*login)).is_new_user

            yield call


@asynccontextmanager
async def _get(api_base: str) -> AsyncIterator[_Call]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:

        async def call(login: Login) -> bool:
            async with http.get(code_url(api_base, login.code)) as response:
                return b"openid" in await response.read()

        yield call


@contextmanager
def _descriptors(wanted: int) -> Iterator[None]:
    """Let this process open so many file descriptors, if the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _outcome(given: Mapping[str, Sequence[_Round]], size: _Size) -> Outcome:
    rates = {name: Spread(tuple(one.rate for one in rounds)) for name, rounds in given.items()}
    setting = ", ".join(f"{callers:,} at {ms} ms" for ms, callers in size.callers.items())
    ours = partial(_name, _OURS)
    return Outcome(
        "latency",
        f"callers at once: {setting}; {size.rounds} rounds",
        rates,
        [
            Figure("300 ms to 0 ms", ratio(rates[ours(300)], rates[ours(0)]), size.to_no_latency),
            *(
                Figure(
                    f"{ms} ms to the bare session",
                    ratio(rates[ours(ms)], rates[_name(_BARE, ms)]),
                    at_least=size.to_bare if ms == 1000 else None,
                )
                for ms in size.callers
            ),
            *(
                Figure(
                    f"{ms} ms, Redis away to near", ratio(rates[_name(_FAR, ms)], rates[ours(ms)])
                )
                for ms in size.callers
            ),
            *_lags(given[ours(300)], given[_name(_BARE, 300)], size),
        ],
        chart=Lines(
            "latency of WeChat in ms",
            list(size.callers),
            {
                party: [rates[_name(party, ms)] for ms in size.callers]
                for party in (_OURS, _FAR, _BARE)
            },
        ),
    )


def _lags(ours: Sequence[_Round], bare: Sequence[_Round], size: _Size) -> Iterator[Figure]:
    """How late the loop was at 300 ms."""
    for statistic, share in _STATISTICS:
        spreads = [
            Spread(tuple(1000 * percentile(one.lags, share) for one in rounds))
            for rounds in (ours, bare)
        ]
        yield Figure(f"300 ms: {statistic} of the lag in ms", spreads[0])
        yield Figure(f"300 ms: {statistic} of the lag, bare session, in ms", spreads[1])
        yield Figure(
            f"300 ms: {statistic} of the lag to the bare session's",
            ratio(*spreads),
            at_most=size.lag_to_bare,
        )


def _name(party: str, latency: int) -> str:
    return f"{latency} ms: {party}"


LATENCY = Benchmark("latency", "authorize while WeChat answers late, beside a bare session", _run)
