"""What is used of other packages without being public there is still what it was."""

import asyncio
import re
import threading
from pathlib import Path
from typing import Any

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
    raw_connection,
    repeats_lost_calls,
    run_in_thread,
    timeout,
    traces_of,
    transport_of,
)
from tests.helpers.redis_server import RedisServer

PACKAGE = Path(mpauthx_async.__file__).parent


async def test_lists_the_connections_of_a_pool(redis_server: RedisServer) -> None:
    pool = BlockingConnectionPool.from_url(redis_server.url, max_connections=2)
    async with Redis.from_pool(pool) as client:
        async with client.client() as holder:
            await holder.ping()
            (connection,), _ = connections_of(pool)
        in_use, available = connections_of(pool)
    assert (in_use, [one for one in available if one is not None]) == ([], [connection])


@pytest.mark.parametrize("retries", [0, 3])
async def test_tells_whether_a_client_retries(redis_server: RedisServer, retries: int) -> None:
    client = Redis.from_url(redis_server.url, retry=Retry(NoBackoff(), retries))
    assert repeats_lost_calls(client) is (retries != 0)
    await client.aclose()


async def test_a_connection_has_a_transport_that_another_protocol_can_read(
    redis_server: RedisServer,
) -> None:
    read: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    class Reader(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            read.set_result(data)

    connection = Connection(port=redis_server.port, protocol=3)
    await connection.connect()
    transport_of(connection).set_protocol(Reader())
    transport_of(connection).write(b"ECHO told\r\n")
    assert await read == b"$4\r\ntold\r\n"
    await connection.disconnect(nowait=True)


async def test_an_aiosqlite_connection_works_in_its_thread() -> None:
    async with aiosqlite.connect(":memory:") as connection:

        def work() -> tuple[threading.Thread, Any]:
            row = raw_connection(connection).execute("SELECT 1").fetchone()
            return threading.current_thread(), row

        thread = aiosqlite_thread(connection)
        assert await run_in_thread(connection, work) == (thread, (1,))


async def test_a_middleware_hides_the_url_of_its_request(wx: WeChatSimulator) -> None:
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


async def test_a_timeout_ends_a_block_whose_wait_for_loses_the_cancellation() -> None:
    loop = asyncio.get_running_loop()

    async def work(end: float | None) -> None:
        assert end is not None
        ended = loop.create_future()
        loop.call_at(end, ended.set_result, None)  # in the step in which the block is cancelled
        await asyncio.wait_for(ended, 60)
        await loop.create_future()

    with pytest.raises(TimeoutError):
        async with timeout(0.01) as limit:
            await work(limit.when())
    assert limit.expired()
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_a_timeout_passes_on_what_else_ends_its_block() -> None:
    async with timeout(60):
        pass
    for other in (LookupError, TimeoutError, asyncio.CancelledError):
        with pytest.raises(other):
            async with timeout(60) as limit:
                raise other
        assert not limit.expired()


def test_private_parts_are_used_in_one_file() -> None:
    """Of objects of other packages: an underscore behind a dot, but for `self` and our own."""
    names = "traces|request_info|in_use_connections|available_connections|retries|parser|conn"
    private = re.compile(rf"\._({names}|execute|thread)\b")
    for path in PACKAGE.rglob("*.py"):
        if path.name != "_compat.py":
            lines = path.read_text("utf-8").splitlines()
            assert [line for line in lines if private.search(line) and "self._" not in line] == []
