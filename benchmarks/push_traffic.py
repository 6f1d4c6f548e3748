"""What near caches cost Redis as processes grow: it pushes every login to every listening process.

0 to 64 connections, each number on a Redis of its own, listen as near caches do: RESP3,
`CLIENT TRACKING ON BCAST`, the prefix of all sessions. Other processes read what Redis pushes.
Sessions of new users begin through the store's own `issue`, as logins do:

- one after another, so that Redis has pushed one before the next comes;
- 32 at once, each in a trip of its own, as from many processes that log users in;
- 50 a trip, as from few processes with many logins each;
- 50 a trip of sessions that live for a moment, until all have expired: that is pushed, too.

Redis's CPU time is its own count. That of a login is `a + b * listeners`, by least squares in each
round, so `b` is what a login costs for each process that listens. On loopback the kernel charges
the receiver's side to the sender, so `b` is rather too high. Beside it stands what Redis spends on
the lookup of a token that no near cache knows. What a listening process spends is the CPU time of
one that only keeps a near cache current, which holds none of these sessions.

There is no run at a distance: Redis waits for no listener, so distance changes none of these costs.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from statistics import linear_regression
from typing import TypeVar

from redis.asyncio import Redis

from mpauthx_async import Connections, RedisTokenStore, SessionRef
from mpauthx_async.stores.near_cache import SharedNearCache
from mpauthx_async.stores.redis.keys import SESSION_PREFIX
from mpauthx_async.stores.redis.tracking import RedisTracking
from mpauthx_async.tokens.format import new_nonce
from tests.helpers.redis_server import RedisServer

from .child_process import ChildProcess, Pipe
from .measurement import (
    Benchmark,
    Figure,
    Lines,
    Outcome,
    Party,
    Settings,
    Spread,
    WrongAnswer,
    shares,
    turns,
)
from .progress import Progress
from .sessions import SKU, new_session

__all__ = ["PUSH_TRAFFIC", "Pushed", "on_paper"]

Item = TypeVar("Item")

_CALLERS = 32
_BATCH = 50  # sessions a trip
_MOMENT = 300  # milliseconds that a session lives which is to expire
_MESSAGE = b"invalidate"
_FLUSHED = b">2\r\n$10\r\ninvalidate\r\n_\r\n"  # after a FLUSHDB, which ends a round
_LOGINS = 10_000  # a second, on paper
_PROCESSES = (10, 100, 1_000)

_ONE = "one after another"
_AT_ONCE = f"{_CALLERS} at once"
_MANY = f"{_BATCH} a trip"
_EXPIRED = f"{_BATCH} a trip, until expired"
_TRIPS = (_ONE, _AT_ONCE, _MANY)
_WAYS = (*_TRIPS, _EXPIRED)
_LISTENER = "a listening process"


@dataclass(frozen=True, slots=True)
class _Size:
    rounds: int
    logins: int  # of a round, in each way
    listeners: tuple[int, ...]


_FULL = _Size(rounds=7, logins=2_000, listeners=(0, 1, 4, 16, 64))
_QUICK = _Size(rounds=1, logins=200, listeners=(0, 4, 64))


@dataclass(frozen=True, slots=True)
class _Round:
    """What a round came to, for each login.

    Attributes:
        redis: microseconds of Redis's CPU time.
        listener: microseconds of CPU time of a process that keeps a near cache current.
        messages, bytes: pushed to each listener.
    """

    redis: float
    listener: float = 0
    messages: float = 0
    bytes: float = 0


async def _run(settings: Settings, progress: Progress) -> Outcome:
    size = _QUICK if settings.quick else _FULL
    async with AsyncExitStack() as stack:
        parties: list[Party[_Round]] = []
        for listeners in size.listeners:
            server = stack.enter_context(RedisServer())
            child = stack.enter_context(ChildProcess(_read_all, server.port, listeners))
            one = await stack.enter_async_context(
                _Logins(server.url, child, listeners, size.logins)
            )
            parties += [Party(f"{listeners} {way}", partial(one.run, way)) for way in _WAYS]
            if not listeners:
                parties += [Party(f"lookup, {way}", partial(one.look_up, way)) for way in _TRIPS]
        server = stack.enter_context(RedisServer())
        child = stack.enter_context(ChildProcess(_keep_current, server.url, uvloop=settings.uvloop))
        one = await stack.enter_async_context(_Logins(server.url, child, 1, size.logins))
        parties += [Party(f"{_LISTENER}, {way}", partial(one.run, way)) for way in _TRIPS]
        given = await turns(parties, size.rounds, progress)
    return _outcome(size, given)


class _Logins:
    """Begins sessions in a Redis, which a child process listens to.

    Args:
        redis_url: the Redis, which nobody else uses.
        child: has read everything of a round when it says so.
        listeners: how many it has.
        logins: of a round.
    """

    def __init__(self, redis_url: str, child: ChildProcess, listeners: int, logins: int) -> None:
        self._store = RedisTokenStore(redis_url)
        self._redis = Redis.from_url(redis_url)
        self._child = child
        self._listeners = listeners
        self._logins = logins
        self._number = count()

    async def __aenter__(self) -> "_Logins":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._redis.aclose()
        await self._store.close()

    async def run(self, way: str) -> _Round:
        """One round of logins."""
        sessions = [new_session(ref) for ref in self._refs()]
        if way == _EXPIRED:
            sessions = [replace(session, ttl=_MOMENT) for session in sessions]
        self._child.send("begin")
        before = await self._cpu_time()
        await _in_trips(self._store.issue, sessions, way)
        if way == _EXPIRED:
            while await self._redis.dbsize():  # noqa: ASYNC110 (Redis alone knows)
                await asyncio.sleep(0.05)
        taken = await self._cpu_time() - before
        await self._redis.flushdb()  # all listeners read until they are told of it
        keys, *heard = await self._child.receive()
        if keys != self._listeners * self._logins * (2 if way == _EXPIRED else 1):
            raise WrongAnswer("A listener was not told of each session once.")
        return _Round(*(whole / self._logins for whole in (1e6 * taken, *heard)))

    async def look_up(self, way: str) -> _Round:
        """One round of lookups of living sessions."""
        refs = self._refs()
        await self._store.issue([new_session(ref) for ref in refs])
        before = await self._cpu_time()
        await _in_trips(self._store.lookup, refs, way)
        taken = await self._cpu_time() - before
        await self._redis.flushdb()
        return _Round(1e6 * taken / self._logins)

    def _refs(self) -> list[SessionRef]:
        return [
            SessionRef(SKU, f"t{next(self._number):027}", new_nonce()) for _ in range(self._logins)
        ]

    async def _cpu_time(self) -> float:
        taken = await self._redis.info("cpu")
        return float(taken["used_cpu_user"]) + float(taken["used_cpu_sys"])


async def _in_trips(
    make: Callable[[Sequence[Item]], Awaitable[object]], items: Sequence[Item], way: str
) -> None:
    length = _BATCH if way in (_MANY, _EXPIRED) else 1
    trips = [items[first : first + length] for first in range(0, len(items), length)]

    async def caller(mine: Sequence[Sequence[Item]]) -> None:
        for trip in mine:
            await make(trip)

    await asyncio.gather(*map(caller, shares(trips, _CALLERS if way == _AT_ONCE else 1)))


class _Reader(asyncio.Protocol):
    """A connection that listens, and keeps what Redis pushes to it."""

    def __init__(self) -> None:
        self.read = bytearray()
        self.is_ready = asyncio.Event()
        self.is_flushed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        command = f"CLIENT TRACKING ON BCAST PREFIX {SESSION_PREFIX}"
        transport.write(f"HELLO 3\r\n{command}\r\n".encode())

    def data_received(self, data: bytes) -> None:
        self.read += data
        if self.read.endswith(_FLUSHED):
            self.is_flushed.set()
        elif self.read.endswith(b"+OK\r\n"):
            self.is_ready.set()


async def _read_all(pipe: Pipe, port: int, listeners: int) -> None:
    """Listen on so many connections; say what each was sent in a round."""
    loop = asyncio.get_running_loop()
    readers = [
        (await loop.create_connection(_Reader, "127.0.0.1", port))[1] for _ in range(listeners)
    ]
    for reader in readers:
        await reader.is_ready.wait()
        reader.read.clear()
    pipe.send("ready")
    while True:
        await asyncio.to_thread(pipe.recv)
        keys, messages, sent = 0, 0, 0
        for reader in readers:
            await reader.is_flushed.wait()
            keys += reader.read.count(SESSION_PREFIX.encode())
            messages += reader.read.count(_MESSAGE) - 1
            sent += len(reader.read) - len(_FLUSHED)
            reader.is_flushed.clear()
            reader.read.clear()
        each = max(1, listeners)
        pipe.send((keys, 0, messages / each, sent / each))


class _UntilFlushed:
    """Passes changes to a near cache, counts them, and knows when all keys have gone."""

    def __init__(self) -> None:
        self._cache = SharedNearCache(1_000)
        self.changes = 0
        self.is_open = asyncio.Event()
        self.is_flushed = asyncio.Event()

    def open(self, store_time: float, at: float) -> None:
        self._cache.open(store_time, at)
        self.is_open.set()

    def synchronize(self, store_time: float, at: float) -> None:
        self._cache.synchronize(store_time, at)

    def forget(self, nonce: str) -> None:
        self.changes += 1
        self._cache.forget(nonce)

    def forget_all(self) -> None:
        self._cache.forget_all()
        self.is_flushed.set()

    def shut(self) -> None:
        self._cache.shut()


async def _keep_current(pipe: Pipe, redis_url: str) -> None:
    """Keep a near cache current; say what CPU time that took in a round."""
    cache = _UntilFlushed()
    async with Connections(redis_url) as connections:
        tracking = RedisTracking(connections, SESSION_PREFIX)
        tracking.feed.subscribe_to_all(cache)
        tracking.start()
        await cache.is_open.wait()
        pipe.send("ready")
        while True:
            await asyncio.to_thread(pipe.recv)
            before = time.process_time()
            await cache.is_flushed.wait()
            pipe.send((cache.changes, 1e6 * (time.process_time() - before), 0, 0))
            cache.is_flushed.clear()
            cache.changes = 0


def _outcome(size: _Size, given: Mapping[str, Sequence[_Round]]) -> Outcome:
    lines = {
        way: [_redis(given[f"{listeners} {way}"]) for listeners in size.listeners] for way in _WAYS
    }
    measured = {
        f"Redis, {way}, {listeners} listeners": spread
        for way, spreads in lines.items()
        for listeners, spread in zip(size.listeners, spreads, strict=True)
    }
    figures: list[Figure] = []
    pushed: dict[str, Pushed] = {}
    for way, spreads in lines.items():
        costs = zip(*(spread.rounds for spread in spreads), strict=True)
        fits = [linear_regression(size.listeners, each) for each in costs]
        most = given[f"{size.listeners[-1]} {way}"]
        own = Spread(tuple(fit.intercept for fit in fits))
        slope = Spread(tuple(fit.slope for fit in fits))
        sent = Spread(tuple(one.bytes for one in most))
        messages = Spread(tuple(one.messages for one in most))
        figures += [
            Figure(f"{way}: a, µs of Redis a login", own),
            Figure(f"{way}: b, µs more a listener", slope),
            Figure(f"{way}: messages to a listener", messages),
            Figure(f"{way}: bytes to a listener", sent),
        ]
        pushed[way] = Pushed(own.median, slope.median, sent.median)
    for way in _TRIPS:
        measured[f"Redis, a lookup, {way}"] = _redis(given[f"lookup, {way}"])
        listening = given[f"{_LISTENER}, {way}"]
        measured[f"{_LISTENER}, {way}"] = Spread(tuple(one.listener for one in listening))
    end = pushed[_EXPIRED] - pushed[_MANY]
    return Outcome(
        "push_traffic",
        f"{size.listeners[0]} to {size.listeners[-1]} listeners, {size.logins:,} logins a round, "
        f"{size.rounds} rounds",
        measured,
        figures,
        [
            f"On paper, at {_LOGINS:,} logins a second, with as many sessions that expire:",
            *on_paper(_AT_ONCE, pushed[_AT_ONCE] + end),
            *on_paper(_MANY, pushed[_MANY] + end),
        ],
        unit="µs of CPU time a login",
        chart=Lines("listeners", size.listeners, lines),
    )


def _redis(rounds: Sequence[_Round]) -> Spread:
    return Spread(tuple(one.redis for one in rounds))


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a login costs.

    Attributes:
        own: microseconds of Redis's CPU time without listeners.
        slope: microseconds more for each.
        bytes: to each.
    """

    own: float
    slope: float
    bytes: float

    def __add__(self, other: "Pushed") -> "Pushed":
        return Pushed(self.own + other.own, self.slope + other.slope, self.bytes + other.bytes)

    def __sub__(self, other: "Pushed") -> "Pushed":
        return Pushed(self.own - other.own, self.slope - other.slope, self.bytes - other.bytes)


def on_paper(way: str, pushed: Pushed) -> Iterator[str]:
    """Reckon what Redis sends and spends at 10,000 logins a second, as processes grow."""
    for processes in _PROCESSES:
        sent = _LOGINS * pushed.bytes * processes / 1e6
        share = _LOGINS * (pushed.own + pushed.slope * processes) / 1e6
        yield f"{way}, {processes:,} listeners: {sent:,.0f} MB a second, {share:.0%} of a CPU."
    left = 1e6 / _LOGINS - pushed.own
    full = f"at {left / pushed.slope:,.0f} listeners" if left > 0 else "without any listener"
    yield f"{way}: Redis's one thread is full {full}, if it does nothing else."


PUSH_TRAFFIC = Benchmark(
    "push_traffic", "what a login costs for each near cache that listens", _run
)
