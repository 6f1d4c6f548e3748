from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from mpauthx_async import WeChatSimulator

from .redis_server import RedisServer

pytest.register_assert_rewrite("mpauthx_async.stores.conformance")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The Redis of this test process. A test that stops or reconfigures one starts its own."""
    with RedisServer() as server:
        yield server


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    """A client of an empty Redis."""
    async with Redis.from_url(redis_server.url) as client:
        await client.flushall()
        yield client


@pytest.fixture
async def wx() -> AsyncIterator[WeChatSimulator]:
    async with WeChatSimulator() as simulator:
        yield simulator
