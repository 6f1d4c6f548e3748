"""Private APIs of other packages that this one uses, and a workaround for a bug in CPython.

Each has a test in test_compat.py. pyproject.toml keeps these packages below their next major
version.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from weakref import WeakSet

import aiohttp
import aiosqlite
from aiohttp.tracing import Trace
from redis.asyncio import ConnectionPool, Redis

__all__ = [
    "MarkingPool",
    "aiosqlite_thread",
    "connections_of",
    "hide_url",
    "raw_connection",
    "repeats_lost_calls",
    "run_in_thread",
    "timeout",
    "traces_of",
    "transport_of",
]

Result = TypeVar("Result")

if sys.version_info >= (3, 12):
    from asyncio import timeout
else:
    _SECONDS_UNTIL_REPEATED = 0.05

    @asynccontextmanager
    async def timeout(seconds: float) -> AsyncIterator[asyncio.Timeout]:
        """Like asyncio.timeout, for blocks that may call `asyncio.wait_for`.

        In CPython 3.11 `wait_for`, which redis-py, PyMongo and asyncpg call, loses a cancellation
        if its awaitable finishes in the same loop iteration (issue 86296). So the block is
        cancelled a second time.
        """
        async with asyncio.timeout(seconds + _SECONDS_UNTIL_REPEATED):
            async with asyncio.timeout(seconds) as limit:
                yield limit


def connections_of(pool: Any) -> tuple[list[Any], list[Any]]:
    """The connections of a redis-py asyncio pool: those in use, and the available ones."""
    return list(pool._in_use_connections), list(pool._available_connections)


class MarkingPool(ConnectionPool):
    """A pool that closes connections in use when they return to it, if they were marked.

    From version 6.4 on redis-py's own connections can be marked.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.marked: WeakSet[Any] = WeakSet()

    async def release(self, connection: Any) -> None:
        """Take a connection back."""
        if connection in self.marked:
            self.marked.discard(connection)
            await connection.disconnect(nowait=True)
        await super().release(connection)


def repeats_lost_calls(client: Redis) -> bool:
    """Whether a redis-py client repeats a command when a connection is lost."""
    retry = client.connection_pool.connection_kwargs.get("retry")
    return retry is not None and retry._retries != 0


def transport_of(connection: Any) -> asyncio.Transport:
    """The transport of a redis-py connection that is connected."""
    transport: asyncio.Transport = connection._writer.transport
    return transport


def raw_connection(connection: aiosqlite.Connection) -> Any:
    """The sqlite3.Connection of an aiosqlite connection, for use in its thread."""
    return connection._conn


def run_in_thread(
    connection: aiosqlite.Connection, work: Callable[[], Result]
) -> Awaitable[Result]:
    """Run work in the thread of an aiosqlite connection: its public methods take one trip each."""
    execute: Callable[[Callable[[], Result]], Awaitable[Result]] = connection._execute
    return execute(work)


def aiosqlite_thread(connection: aiosqlite.Connection) -> Any:
    """The thread of an aiosqlite connection; before version 0.22 a connection is its thread."""
    return getattr(connection, "_thread", connection)


def traces_of(request: aiohttp.ClientRequest) -> list[Trace]:
    """The traces of a request of an aiohttp session."""
    return list(request._traces)


def hide_url(
    request: aiohttp.ClientRequest, traces: Sequence[Any]
) -> Callable[[aiohttp.ClientResponse], None]:
    """Replace the traces of a request.

    aiohttp has no public way to hide the URL that a middleware sets from traces and responses.

    Returns:
        A function that sets the URL of a response to the request's URL at the time of the call.
    """
    request._traces = list(traces)

    def hide_in(response: aiohttp.ClientResponse) -> None:
        response._request_info = request.request_info

    return hide_in
