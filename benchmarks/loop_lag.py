"""How late the event loop is while 10,000 authorize and 10,000 is_token_valid calls are in flight.

A heartbeat is due each millisecond (`loop.call_later`); its lag is by how much later it comes. A
loop that is held up for 20 ms misses twenty heartbeats, and each of them counts with its own lag:
so the percentiles are of time, not of heartbeats that came through.

The zero line, in turn with it, is the same heartbeat while as many tasks only sleep, over the time
that the calls before it took, each until its own moment of that: what timers and the machine, and
waking that many tasks, cost by themselves.

The longest garbage collection stands beside: Python's own, which holds the loop up as well, and the
longer the more waits. It is set as `docs/operating.md` recommends, for the zero line as well.

Both ways in which calls come are measured, each with a zero line whose tasks come likewise: all
20,000 in a single tick of the loop, and 100 in each tick, as from sockets. The simulator has a
process of its own, and every login is of a new user.
"""

import asyncio
import gc
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from mpauthx_async import MPAuthX
from tests.helpers.redis_server import RedisServer

from .garbage import rare_collections
from .measurement import (
    Benchmark,
    Figure,
    Outcome,
    Party,
    Settings,
    Spread,
    WrongAnswer,
    above,
    histogram,
    percentile,
    turns,
)
from .progress import Progress
from .sessions import living_tokens, service
from .wechat_process import WeChatProcess

__all__ = ["LOOP_LAG", "heartbeat"]

_INTERVAL = 0.001  # seconds
_A_TICK = 100  # calls
_DECADES = range(-3, 3)  # from a microsecond to a second, in milliseconds

_AT_ONCE = "all in one tick"
_IN_TICKS = f"{_A_TICK} a tick"
_STATISTICS = (("p50", 0.5), ("p99", 0.99), ("worst", 1.0))
_AT_MOST = {  # milliseconds above the zero line
    _AT_ONCE: {"p99": 5.0, "worst": 20.0},
    _IN_TICKS: {"p99": 10.0, "worst": 25.0},
}

_Call = Callable[[], Awaitable[None]]
_Lags = list[float]


class _Round(NamedTuple):
    """What a round gave: in seconds."""

    lags: _Lags
    longest_collection: float


@dataclass(frozen=True, slots=True)
class _Size:
    rounds: int
    calls: int  # of each kind


_FULL = _Size(rounds=5, calls=10_000)
_QUICK = _Size(rounds=1, calls=1_000)


async def _run(settings: Settings, progress: Progress) -> Outcome:
    size = _QUICK if settings.quick else _FULL
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mpauthx-benchmark-"))
        server = stack.enter_context(RedisServer())
        wechat = stack.enter_context(WeChatProcess(uvloop=settings.uvloop))
        tokens = await living_tokens(server.url, size.calls, progress)
        auth = await stack.enter_async_context(service(folder, server.url, api_base=wechat.url))
        took = dict.fromkeys((_AT_ONCE, _IN_TICKS), 0.0)

        async def loaded(way: str) -> _Round:
            calls = await _calls(auth, wechat, tokens)
            started = time.perf_counter()
            outcome = await _lags_while(calls, len(calls) if way == _AT_ONCE else _A_TICK)
            took[way] = time.perf_counter() - started
            return outcome

        async def asleep(way: str) -> _Round:
            count = 2 * size.calls
            sleeps = [_sleep(took[way] * (number + 1) / count) for number in range(count)]
            return await _lags_while(sleeps, count if way == _AT_ONCE else _A_TICK)

        given = await turns(
            [
                Party(f"{_AT_ONCE}: calls", lambda: loaded(_AT_ONCE)),
                Party(f"{_AT_ONCE}: sleeping", lambda: asleep(_AT_ONCE)),
                Party(f"{_IN_TICKS}: calls", lambda: loaded(_IN_TICKS)),
                Party(f"{_IN_TICKS}: sleeping", lambda: asleep(_IN_TICKS)),
            ],
            size.rounds,
            progress,
        )
    return _outcome(given, size)


def _outcome(given: dict[str, list[_Round]], size: _Size) -> Outcome:
    measured = {}
    for name, rounds in given.items():
        for statistic, share in _STATISTICS:
            measured[f"{name}, {statistic}"] = Spread(
                tuple(1000 * percentile(sorted(one.lags), share) for one in rounds)
            )
        measured[f"{name}, longest GC"] = Spread(
            tuple(1000 * one.longest_collection for one in rounds)
        )
    figures = [
        Figure(
            f"{way}, {statistic} above the zero line",
            above(
                measured[f"{way}: calls, {statistic}"], measured[f"{way}: sleeping, {statistic}"]
            ),
            at_most=_AT_MOST[way].get(statistic),
        )
        for way in (_AT_ONCE, _IN_TICKS)
        for statistic, _ in _STATISTICS
    ]
    values = {
        name: [1000 * lag for one in rounds for lag in one.lags] for name, rounds in given.items()
    }
    return Outcome(
        "loop_lag",
        f"{size.calls:,} authorize and {size.calls:,} is_token_valid calls in flight, "
        f"{size.rounds} rounds",
        measured,
        figures,
        [
            "Sleeping is the zero line: as many tasks that only sleep, over the same time. "
            "Heartbeats that were due while the loop was held up count, each with its own lag."
        ],
        unit="lag of the event loop in ms",
        chart=histogram("lag of the event loop in ms", values, _DECADES),
    )


async def _calls(auth: MPAuthX, wechat: WeChatProcess, tokens: Sequence[str]) -> list[_Call]:
    """Logins of new users and checks of tokens, one after the other."""

    def login(code: str, encrypted_data: str, iv: str) -> _Call:
        async def call() -> None:
            await auth.authorize(code, encrypted_data, iv)

        return call

    def check(token: str) -> _Call:
        async def call() -> None:
            if not await auth.is_token_valid(token):
                raise WrongAnswer("A living token was refused.")

        return call

    logins = await wechat.logins(len(tokens))
    pairs = ((login(*one), check(token)) for one, token in zip(logins, tokens, strict=True))
    return list(chain.from_iterable(pairs))


def _sleep(seconds: float) -> _Call:
    async def call() -> None:
        await asyncio.sleep(seconds)

    return call


async def _lags_while(calls: Sequence[_Call], a_tick: int) -> _Round:
    """The lags while calls are made, so many of them in each tick of the loop.

    Their tasks are there before, and wait: what making tasks takes is not measured.
    """
    gates = [asyncio.Event() for _ in range(0, len(calls), a_tick)]

    async def caller(gate: asyncio.Event, call: _Call) -> None:
        await gate.wait()
        await call()

    tasks = [
        asyncio.create_task(caller(gates[number // a_tick], call))
        for number, call in enumerate(calls)
    ]
    all_done = asyncio.gather(*tasks)
    try:
        await asyncio.sleep(0)  # now all of them wait
        with rare_collections(), heartbeat() as lags, _collections() as collections:
            for gate in gates:
                gate.set()
                await asyncio.sleep(0)
            await all_done
    finally:
        all_done.cancel()
    return _Round(lags, max(collections, default=0.0))


@contextmanager
def _collections() -> Iterator[list[float]]:
    """Note how long each garbage collection takes, in seconds, until left."""
    took: list[float] = []
    started = 0.0

    def note(phase: str, _: dict[str, int]) -> None:
        nonlocal started
        if phase == "start":
            started = time.perf_counter()
        else:
            took.append(time.perf_counter() - started)

    gc.callbacks.append(note)
    try:
        yield took
    finally:
        gc.callbacks.remove(note)


@contextmanager
def heartbeat(
    interval: float = _INTERVAL,
    clock: Callable[[], float] = time.monotonic,
    call_later: Callable[[float, Callable[[], None]], asyncio.Handle] | None = None,
) -> Iterator[_Lags]:
    """Note by how much later each heartbeat comes than it was due, in seconds, until left.

    Args:
        interval: in seconds.
        clock: tells the time. A loop's own will not do: uvloop's stands still during a tick.
        call_later: calls a function after so many seconds; by default as the running loop does.
    """
    call_later = call_later or asyncio.get_running_loop().call_later
    lags: _Lags = []
    due = clock() + interval
    timer: asyncio.Handle

    def beat() -> None:
        nonlocal due, timer
        now = clock()
        while due <= now:
            lags.append(now - due)
            due += interval
        timer = call_later(due - now, beat)

    timer = call_later(interval, beat)
    try:
        yield lags
    finally:
        timer.cancel()


LOOP_LAG = Benchmark("loop_lag", "how late the event loop is under 20,000 calls in flight", _run)
