"""What is used of other packages without being public there is still what it was."""

import re
import threading
from pathlib import Path

import aiohttp
import aiosqlite
import pytest
from redis.asyncio import BlockingConnectionPool, Connection, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

import mpauthx_async
from mpauthx_async import WeChatSimulator
from mpauthx_async._compat import (
    aiosqlite_thread,
    connections_of,
    hide_url,
    pushes_as_read,
    raw_connection,
    repeats_lost_calls,
    run_in_thread,
    traces_of,
)
from tests.helpers.redis_server import RedisServer

PACKAGE = Path(mpauthx_async.__file__).parent


async def test_a_pool_tells_its_connections(redis_server: RedisServer) -> None:
    pool = BlockingConnectionPool.from_url(redis_server.url, max_connections=2)
    async with Redis.from_pool(pool) as client:
        async with client.client() as holder:
            await holder.ping()
            (connection,), _ = connections_of(pool)
        in_use, available = connections_of(pool)
    assert (in_use, [one for one in available if one is not None]) == ([], [connection])


@pytest.mark.parametrize("retries", [0, 3])
async def test_a_client_tells_whether_it_repeats(redis_server: RedisServer, retries: int) -> None:
    client = Redis.from_url(redis_server.url, retry=Retry(NoBackoff(), retries))
    assert repeats_lost_calls(client) is (retries != 0)
    await client.aclose()


async def test_a_connection_returns_pushes(redis_server: RedisServer, redis: Redis) -> None:
    connection = Connection(port=redis_server.port, protocol=3)
    await connection.connect()
    pushes_as_read(connection)
    await connection.send_command("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "compat:")
    assert await connection.read_response() in (b"OK", "OK")
    await redis.set("compat:key", "value")
    assert await connection.read_response(push_request=True) == [b"invalidate", [b"compat:key"]]
    await connection.disconnect()


async def test_an_aiosqlite_connection_works_in_its_thread() -> None:
    async with aiosqlite.connect(":memory:") as connection:
        threads = []

        def work() -> tuple[int]:
            threads.append(threading.current_thread())
            row: tuple[int] = raw_connection(connection).execute("SELECT 1").fetchone()
            return row

        assert await run_in_thread(connection, work) == (1,)
        assert threads == [aiosqlite_thread(connection)]


async def test_a_middleware_hides_its_url(wx: WeChatSimulator) -> None:
    told: list[str] = []
    config = aiohttp.TraceConfig()

    async def note(_: object, __: object, params: aiohttp.TraceRequestHeadersSentParams) -> None:
        told.append(str(params.url))

    config.on_request_headers_sent.append(note)

    async def send(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        public = request.url
        assert len(traces_of(request)) == 1
        hide_in = hide_url(request, [])
        request.url = public.with_query(secret="secret")
        response = await handler(request)
        request.url = public
        hide_in(response)
        return response

    async with (
        aiohttp.ClientSession(trace_configs=[config]) as session,
        session.get(wx.url, middlewares=(send,)) as response,
    ):
        assert "secret" not in str(response.request_info.url)
    assert told == []


def test_private_parts_are_used_in_one_file() -> None:
    """Of objects of other packages: an underscore behind a dot, but for `self` and our own."""
    private = re.compile(
        r"\._(traces|request_info|in_use_connections|available_connections|retries|parser|conn"
        r"|execute|thread)\b"
    )
    for path in PACKAGE.rglob("*.py"):
        if path.name != "_compat.py":
            lines = path.read_text("utf-8").splitlines()
            assert [line for line in lines if private.search(line) and "self._" not in line] == []
