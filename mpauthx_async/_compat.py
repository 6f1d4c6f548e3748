"""The private parts of other packages that are used; each has a test in test_compat.py.

pyproject.toml keeps these packages below their next major version.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import aiohttp
import aiosqlite
from aiohttp.tracing import Trace
from redis.asyncio import Redis

__all__ = [
    "aiosqlite_thread",
    "connections_of",
    "hide_url",
    "pushes_as_read",
    "raw_connection",
    "repeats_lost_calls",
    "run_in_thread",
    "traces_of",
]

Result = TypeVar("Result")


def connections_of(pool: Any) -> tuple[list[Any], list[Any]]:
    """The connections of a redis-py asyncio pool: those in use, and the available ones."""
    return list(pool._in_use_connections), list(pool._available_connections)


def repeats_lost_calls(client: Redis) -> bool:
    """Whether a redis-py client repeats a command when a connection is lost."""
    retry = client.connection_pool.connection_kwargs.get("retry")
    return retry is not None and retry._retries != 0


def pushes_as_read(connection: Any) -> None:
    """Let `read_response` of a redis-py connection return pushes, not only its handlers.

    redis-py's asyncio client has no public way to do so (its issue 3916). Before version 6.4 it
    returns them by default.
    """
    parser = connection._parser
    if hasattr(parser, "set_invalidation_push_handler"):
        parser.set_invalidation_push_handler(_returned)
        parser.set_pubsub_push_handler(_returned)


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


async def _returned(push: Sequence[Any]) -> Sequence[Any]:
    """Return a push: redis-py only logs what a handler raises."""
    return push
