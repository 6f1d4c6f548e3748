"""Requests a second of endpoints of FastAPI, Starlette and aiohttp, bare and protected.

Every endpoint gives the same few bytes of JSON. Beside the bare one of each framework there are
those protected by our adapter with a near cache that knows every token, and through Redis; by one
redis-py command a call; and, for FastAPI, one with a Security dependency that does nothing, and one
behind fastapi-users with its RedisStrategy and a user manager that asks no database.

The servers (uvicorn, but for aiohttp) share a process of their own, in which only the one that is
asked has anything to do. This process asks: 64 keep-alive connections, each of which sends its next
request when the last one is answered. That is a bare protocol on asyncio's sockets, for it must
cost less than the servers do. Whether each protected endpoint refuses a forged token is checked
first.
"""

import asyncio
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from typing import cast

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
    in_turn,
    ratio,
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
    http_server.NO_OP: "no-op Security dependency",
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
# What the near cache is to reach, of what else.
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


_FULL = _Size(rounds=9, requests=6_400)
_QUICK = _Size(rounds=1, requests=640)


class Connection(asyncio.Protocol):
    """A keep-alive connection that sends its requests one after another.

    Args:
        requests: what to send, whole.
        status: what each answer must have.
    """

    def __init__(self, requests: Sequence[bytes], status: int = _OK) -> None:
        self._requests = iter(requests)
        self._begins = b"HTTP/1.1 %d " % status
        self._received = b""
        self._transport: asyncio.WriteTransport | None = None
        self.answers = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is no subclass

    def begin(self) -> None:
        """Send the first request, and each of the others when the one before is answered."""
        request = next(self._requests, None)
        if self._transport is None:
            self._fail("There is no connection.")
        elif request is not None:
            self._transport.write(request)
        elif not self.done.done():
            self.done.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator or len(body) < _content_length(head):
            return
        self._received = b""
        if head.startswith(self._begins):
            self.answers += 1
            self.begin()
        else:
            self._fail(f"An answer was not as expected: {head[:60]!r}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("A server closed a connection.")

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
        self.done.cancel()

    def _fail(self, reason: str) -> None:
        if not self.done.done():
            self.done.set_exception(WrongAnswer(reason))


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

        async def measure(framework: str, way: str) -> float:
            nonlocal asked
            before = await mget_calls(redis)
            sent = theirs if way == http_server.FASTAPI_USERS else tokens
            a_second = await _requests_a_second(ports[framework, way], sent, size.requests)
            if way == http_server.NEAR:
                asked += await mget_calls(redis) - before
            return a_second

        parties = []
        for (framework, way), port in ports.items():
            await _check_refusal(port, way)
            parties.append(Party(_name(framework, way), partial(measure, framework, way)))
        rates = await in_turn(parties, size.rounds, progress)

    return Outcome(
        "http",
        f"{_CONNECTIONS} connections, {size.requests:,} requests a round, {size.rounds} rounds",
        rates,
        [
            *_figures(rates),
            Figure("MGETs for the near cache's requests", Spread((asked,)), at_most=0),
        ],
        _notes(ports, has_fastapi_users),
        unit="requests a second",
    )


def _name(framework: str, way: str) -> str:
    return f"{framework}, {_WAYS[way]}"


def _figures(rates: dict[str, Spread]) -> list[Figure]:
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
                figures.append(
                    Figure(
                        f"{framework}, {_SHORT[ours]} to {_SHORT[to]}",
                        ratio(rates[one], rates[other]),
                        at_least=_BOUNDS.get((framework, to)) if ours == near else None,
                    )
                )
    return figures


def _notes(ports: dict[tuple[str, str], int], has_fastapi_users: bool) -> list[str]:
    has_uvicorn = (http_server.FASTAPI, http_server.BARE) in ports
    notes = [] if has_uvicorn else [_NO_UVICORN]
    return notes if has_fastapi_users else [*notes, fastapi_users_party.LEFT_OUT]


async def _requests_a_second(port: int, tokens: Sequence[str], requests: int) -> float:
    each = requests // _CONNECTIONS
    work = [
        [_request(token) for token in islice(cycle(tokens[number::_CONNECTIONS]), each)]
        for number in range(_CONNECTIONS)
    ]
    took = await _ask(port, work, _OK)
    return each * _CONNECTIONS / took


async def _check_refusal(port: int, way: str) -> None:
    if way not in (http_server.BARE, http_server.NO_OP):
        await _ask(port, [[_request(_FORGED)]], _UNAUTHORIZED)


async def _ask(port: int, work: Sequence[Sequence[bytes]], status: int) -> float:
    """Send each connection's requests; returns the seconds from the first to the last answer."""
    loop = asyncio.get_running_loop()
    connections: list[Connection] = []
    try:
        for requests in work:
            _, connection = await loop.create_connection(
                partial(Connection, requests, status), "127.0.0.1", port
            )
            connections.append(connection)
        started = time.perf_counter()
        for connection in connections:
            connection.begin()
        await asyncio.gather(*(connection.done for connection in connections))
        took = time.perf_counter() - started
    finally:
        for connection in connections:
            connection.close()
    if sum(connection.answers for connection in connections) != sum(map(len, work)):
        raise WrongAnswer("Not every request was answered.")
    return took


def _request(token: str) -> bytes:
    lines = ("GET / HTTP/1.1", "Host: localhost", f"Authorization: Bearer {token}", "", "")
    return "\r\n".join(lines).encode()


def _content_length(head: bytes) -> int:
    _, found, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0]) if found else 0


HTTP = Benchmark("http", "requests a second of protected endpoints, against bare ones", _run)
