import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import settings
from redis import Redis as SyncRedis
from redis.asyncio import Redis, RedisCluster

from mpauthx_async import MPAuthX, WeChatSimulator
from tests.helpers.clock import Clock
from tests.helpers.redis_cluster import RedisClusterServers
from tests.helpers.redis_server import RedisServer
from tests.helpers.simulator_client import Client

pytest.register_assert_rewrite("mpauthx_async.stores.conformance")

# No test depends on how fast the machine is.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The Redis of this test process. A test that stops or reconfigures one starts its own."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Redis of the test's own."""
    with RedisServer() as server:
        yield server


@pytest.fixture
async def admin(server: RedisServer) -> AsyncIterator[Redis]:
    """A client of the test's own Redis."""
    async with Redis.from_url(server.url) as client:
        yield client


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    """A client of an empty Redis."""
    async with Redis.from_url(redis_server.url) as client:
        await client.flushall()
        yield client


@pytest.fixture(scope="session")
def cluster_server() -> Iterator[RedisServer]:
    """A Redis Cluster of one node, which refuses what would cross slots as a large one does."""
    with RedisServer(cluster_enabled="yes") as server, SyncRedis(port=server.port) as client:
        client.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
        deadline = time.monotonic() + 60
        while client.cluster("INFO")["cluster_state"] != "ok":
            assert time.monotonic() < deadline
            time.sleep(0.05)  # a master waits two seconds before it takes writes
        yield server


@pytest.fixture
async def cluster(cluster_server: RedisServer) -> AsyncIterator[RedisCluster]:
    async with RedisCluster(host="127.0.0.1", port=cluster_server.port) as client:
        await client.flushall()
        yield client


@pytest.fixture
def cluster_servers() -> Iterator[RedisClusterServers]:
    """A Redis Cluster of the test's own, of three primaries and three replicas."""
    with RedisClusterServers() as servers:
        yield servers


@pytest.fixture
async def clock() -> Clock:
    """A clock that stands still until a test moves it."""
    return Clock()


@pytest.fixture
async def wx() -> AsyncIterator[WeChatSimulator]:
    async with WeChatSimulator() as simulator:
        yield simulator


@pytest.fixture
async def client(wx: WeChatSimulator) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as http:
        yield Client(wx, http)


@pytest.fixture(params=["sqlite", "redis"])
def tokens(request: pytest.FixtureRequest, tmp_path: Path, redis_server: RedisServer) -> str:
    """The URL of a token store, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/tokens.db"
    return redis_server.url


@pytest.fixture
def make(
    tmp_path: Path, wx: WeChatSimulator, redis: Redis, redis_server: RedisServer
) -> Callable[..., MPAuthX]:
    """Makes services on one Redis and one user database."""

    def make(**changes: Any) -> MPAuthX:
        settings: dict[str, Any] = {
            "app_id": wx.app_id,
            "app_secret": wx.app_secret,
            "sku": "shop",
            "users": f"sqlite:///{tmp_path}/users.db",
            "tokens": redis_server.url,
            "api_base": wx.url,
        }
        return MPAuthX(**(settings | changes))

    return make


@pytest.fixture
async def debugging(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """asyncio's debug mode, in which every step of the loop is a slow one and so is logged."""
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0
    caplog.set_level(logging.DEBUG)
    return caplog


@pytest.fixture
async def auth(make: Callable[..., MPAuthX], tokens: str) -> AsyncIterator[MPAuthX]:
    async with make(tokens=tokens) as service:
        yield service
