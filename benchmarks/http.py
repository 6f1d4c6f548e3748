"""Requests a second of endpoints of FastAPI, Starlette and aiohttp, bare and protected.

Every endpoint gives the same few bytes of JSON. Beside the bare one of each framework there are
those protected by our adapter with a near cache that knows every token, and through Redis; by one
redis-py command a call; those with a Security dependency (FastAPI) or a middleware (aiohttp) that
does nothing, which show what the framework itself takes; and, for FastAPI, one behind fastapi-users
with its RedisStrategy and a user manager that asks no database.

The servers (uvicorn, but for aiohttp) share a process of their own, in which only the one that is
asked has anything to do. This process asks: 64 keep-alive connections, each of which sends its next
request when the last one is answered. That is a bare protocol on asyncio's sockets, for it must
cost less than the servers do. Whether each protected endpoint refuses a forged token is checked
first.

Rounds are short and many, so that a ratio compares what ran within the same second. What the near
cache costs is given twice: by requests a second, and by the CPU time that the servers' process
takes for a request, which other work on the machine changes less. Redis's own is not in that.
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from typing import NamedTuple, cast

from redis.asyncio import Redis

from tests.helpers.redis_server import RedisServer

from . import fastapi_users_party, http_server
from .child_process import ChildProcess
from .measurement import (
    Benchmark,
    Figure,
    Outcome,
    Party,
    Settings,
    Spread,
    WrongAnswer,
    ratio,
    turns,
)
from .progress import Progress
from .sessions import living_tokens, mget_calls

__all__ = ["HTTP", "Connection"]

_CONNECTIONS = 64
_TOKENS = 10 * _CONNECTIONS
_FORGED = "x" * 80
_OK, _UNAUTHORIZED = 200, 401

_WAYS = {
    http_server.BARE: "bare",
    http_server.NO_OP: "no-op dependency or middleware",
    http_server.NEAR: "ours, near cache",
    http_server.REDIS: "ours, through Redis",
    http_server.BY_HAND: "one redis-py GET a call",
    http_server.FASTAPI_USERS: "fastapi-users, RedisStrategy",
}
_SHORT = {
    http_server.BARE: "bare",
    http_server.NO_OP: "no-op",
    http_server.NEAR: "near cache",
    http_server.REDIS: "through Redis",
    http_server.BY_HAND: "one GET a call",
    http_server.FASTAPI_USERS: "fastapi-users",
}
# What the near cache is to reach, of what else: in requests a second, and by CPU time.
_BOUNDS = {
    (http_server.FASTAPI, http_server.NO_OP): 0.95,
    (http_server.STARLETTE, http_server.BARE): 0.9,
    (http_server.AIOHTTP, http_server.BARE): 0.9,
}
_NO_UVICORN = (
    "Left out: FastAPI and Starlette, as uvicorn is not installed (pip install '.[benchmark]')."
)


@dataclass(frozen=True, slots=True)
class _Size:
    rounds: int
    requests: int


_FULL = _Size(rounds=51, requests=640)
_QUICK = _Size(rounds=3, requests=192)


class _Round(NamedTuple):
    """What a party gave in a round."""

    requests_a_second: float
    cpu: float  # microseconds of the servers' process, for a request


class Connection(asyncio.Protocol):
    """A keep-alive connection that sends requests one after another.

    Args:
        status: what each answer must have.
    """

    def __init__(self, status: int = _OK) -> None:
        self._begins = b"HTTP/1.1 %d " % status
        self._requests: Iterator[bytes] = iter(())
        self._received = b""
        self._transport: asyncio.WriteTransport | None = None
        self._done: asyncio.Future[None] | None = None
        self.answers = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is no subclass

    def ask(self, requests: Sequence[bytes]) -> "asyncio.Future[None]":
        """Send the first request, and each of the others when the one before is answered.

        Args:
            requests: what to send, whole.

        Returns:
            What is done when all are answered; WrongAnswer if one is not as expected.
        """
        self._requests = iter(requests)
        self._done = asyncio.get_running_loop().create_future()
        self._send_next()
        return self._done

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator or len(body) < _content_length(head):
            return
        self._received = b""
        if head.startswith(self._begins):
            self.answers += 1
            self._send_next()
        else:
            self._fail(f"An answer was not as expected: {head[:60]!r}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail("A server closed a connection.")

    def close(self) -> None:
        if self._done is not None:
            self._done.cancel()
        if self._transport is not None:
            self._transport.close()

    def _send_next(self) -> None:
        request = next(self._requests, None)
        if self._transport is None:
            self._fail("There is no connection.")
        elif request is not None:
            self._transport.write(request)
        elif self._done is not None and not self._done.done():
            self._done.set_result(None)

    def _fail(self, reason: str) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(WrongAnswer(reason))


async def _run(settings: Settings, progress: Progress) -> Outcome:
    size = _QUICK if settings.quick else _FULL
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mpauthx-benchmark-"))
        redis_server = stack.enter_context(RedisServer())
        tokens = await living_tokens(redis_server.url, _TOKENS, progress)
        redis = await stack.enter_async_context(Redis.from_url(redis_server.url))
        await redis.mset({http_server.key_of(token): 1 for token in tokens})
        has_fastapi_users = fastapi_users_party.is_installed()
        theirs = await fastapi_users_party.write_tokens(redis, _TOKENS) if has_fastapi_users else []
        servers = stack.enter_context(
            ChildProcess(
                http_server.serve, folder, redis_server.url, tokens, uvloop=settings.uvloop
            )
        )
        ports: dict[tuple[str, str], int] = servers.said
        asked = 0

        async def measure(framework: str, way: str) -> _Round:
            nonlocal asked
            before = await mget_calls(redis)
            sent = theirs if way == http_server.FASTAPI_USERS else tokens
            one = await _round(servers, ports[framework, way], sent, size.requests)
            if way == http_server.NEAR:
                asked += await mget_calls(redis) - before
            return one

        parties = []
        for (framework, way), port in ports.items():
            await _check_refusal(port, way)
            parties.append(Party(_name(framework, way), partial(measure, framework, way)))
        given = await turns(parties, size.rounds, progress)

    rates = {
        name: Spread(tuple(one.requests_a_second for one in rounds))
        for name, rounds in given.items()
    }
    cpu = {name: Spread(tuple(one.cpu for one in rounds)) for name, rounds in given.items()}
    return Outcome(
        "http",
        f"{_CONNECTIONS} connections, {size.requests:,} requests a round, {size.rounds} rounds",
        rates,
        [
            *_figures(rates, cpu),
            Figure("MGETs for the near cache's requests", Spread((asked,)), at_most=0),
            *(Figure(f"CPU µs: {name}", spread) for name, spread in cpu.items()),
        ],
        _notes(ports, has_fastapi_users),
        unit="requests a second",
    )


def _name(framework: str, way: str) -> str:
    return f"{framework}, {_WAYS[way]}"


def _figures(rates: dict[str, Spread], cpu: dict[str, Spread]) -> list[Figure]:
    near, redis = http_server.NEAR, http_server.REDIS
    pairs = [(near, http_server.NO_OP), (near, http_server.BARE)]
    pairs += [
        (ours, to)
        for to in (http_server.BY_HAND, http_server.FASTAPI_USERS)
        for ours in (near, redis)
    ]
    figures = []
    for framework in (http_server.FASTAPI, http_server.STARLETTE, http_server.AIOHTTP):
        for ours, to in pairs:
            one, other = _name(framework, ours), _name(framework, to)
            if one in rates and other in rates:
                name = f"{framework}, {_SHORT[ours]} to {_SHORT[to]}"
                bound = _BOUNDS.get((framework, to)) if ours == near else None
                figures.append(Figure(name, ratio(rates[one], rates[other]), at_least=bound))
                if to in (http_server.NO_OP, http_server.BARE):
                    by_cpu = ratio(cpu[other], cpu[one])  # what takes less is faster
                    figures.append(Figure(f"{name}, by CPU", by_cpu, at_least=bound))
    return figures


def _notes(ports: dict[tuple[str, str], int], has_fastapi_users: bool) -> list[str]:
    has_uvicorn = (http_server.FASTAPI, http_server.BARE) in ports
    notes = [] if has_uvicorn else [_NO_UVICORN]
    return notes if has_fastapi_users else [*notes, fastapi_users_party.LEFT_OUT]


async def _round(servers: ChildProcess, port: int, tokens: Sequence[str], requests: int) -> _Round:
    each = requests // _CONNECTIONS
    work = [
        [_request(token) for token in islice(cycle(tokens[number::_CONNECTIONS]), each)]
        for number in range(_CONNECTIONS)
    ]
    async with _connections(port, _CONNECTIONS) as connections:
        # A first request of each, so that the server is not still accepting.
        await _ask(connections, [requests[:1] for requests in work])
        await _cpu_seconds(servers)
        started = time.perf_counter()
        await _ask(connections, work)
        took = time.perf_counter() - started
        cpu = await _cpu_seconds(servers)
    requests = each * _CONNECTIONS
    return _Round(requests / took, 1e6 * cpu / requests)


async def _cpu_seconds(servers: ChildProcess) -> float:
    """The CPU time that the servers' process took since this was last asked."""
    servers.send(None)
    return float(await servers.receive())


async def _check_refusal(port: int, way: str) -> None:
    if way not in (http_server.BARE, http_server.NO_OP):
        async with _connections(port, 1, _UNAUTHORIZED) as connections:
            await _ask(connections, [[_request(_FORGED)]])


@asynccontextmanager
async def _connections(port: int, count: int, status: int = _OK) -> AsyncIterator[list[Connection]]:
    loop = asyncio.get_running_loop()
    connections: list[Connection] = []
    try:
        for _ in range(count):
            _, connection = await loop.create_connection(
                partial(Connection, status), "127.0.0.1", port
            )
            connections.append(connection)
        yield connections
    finally:
        for connection in connections:
            connection.close()


async def _ask(connections: Sequence[Connection], work: Sequence[Sequence[bytes]]) -> None:
    """Send each connection's requests, until all are answered."""
    before = sum(connection.answers for connection in connections)
    await asyncio.gather(
        *(connection.ask(requests) for connection, requests in zip(connections, work, strict=True))
    )
    answers = sum(connection.answers for connection in connections) - before
    if answers != sum(map(len, work)):
        raise WrongAnswer("Not every request was answered.")


def _request(token: str) -> bytes:
    lines = ("GET / HTTP/1.1", "Host: localhost", f"Authorization: Bearer {token}", "", "")
    return "\r\n".join(lines).encode()


def _content_length(head: bytes) -> int:
    _, found, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0]) if found else 0


HTTP = Benchmark("http", "requests a second of protected endpoints, against bare ones", _run)
