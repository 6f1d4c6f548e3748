import asyncio
import gc
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import settings
from playwright.async_api import Page, expect
from pymongo import AsyncMongoClient, MongoClient
from pymongo.asynchronous.database import AsyncDatabase
from redis.asyncio import Redis, RedisCluster

from mpauthx_async import MPAuthX, WeChatSimulator
from tests.helpers.chromium import PATIENCE, open_page
from tests.helpers.clock import Clock
from tests.helpers.mongo_server import MongoServer
from tests.helpers.redis_cluster import RedisClusterServers, cluster_of_one_node
from tests.helpers.redis_server import RedisServer
from tests.helpers.simulator_client import Client
from tests.helpers.sql_servers import MariaDBServer, PostgreSQLServer

pytest.register_assert_rewrite("mpauthx_async.stores.conformance")

# No test depends on how fast the machine is.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
expect.set_options(timeout=PATIENCE)


@pytest.fixture(autouse=True)
def root_logger_unchanged() -> Iterator[None]:
    """Fails a test that leaves the root logger changed, as a web framework may."""
    root = logging.getLogger()
    before = root.level, *root.handlers
    yield
    assert (root.level, *root.handlers) == before


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The Redis of this test process. A test that stops or reconfigures one starts its own."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQLServer]:
    """The PostgreSQL of this test process."""
    with PostgreSQLServer() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDBServer]:
    """The MariaDB of this test process."""
    with MariaDBServer() as server:
        yield server


@pytest.fixture(params=["postgresql+asyncpg", "mysql+asyncmy"])
def sql_driver(request: pytest.FixtureRequest) -> str:
    """A driver of SQLAlchemy for each server; a test may be parametrized with others."""
    return str(request.param)


@pytest.fixture
async def sql_url(sql_driver: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if sql_driver.startswith("sqlite"):
        return f"{sql_driver}:///{tmp_path}/sql.db"
    server = request.getfixturevalue("postgresql" if "postgresql" in sql_driver else "mariadb")
    return str(await server.empty_database(sql_driver))


@pytest.fixture(scope="session")
def mongo_server_url() -> Iterator[str]:
    """The URL of the MongoDB of this test process, or of the one that MPAUTHX_TEST_MONGO names."""
    if url := os.environ.get("MPAUTHX_TEST_MONGO"):
        yield url
    else:
        with MongoServer() as server:
            yield server.url


@pytest.fixture
def mongo_url(mongo_server_url: str) -> str:
    """The URL of an empty database."""
    base, mark, query = mongo_server_url.partition("?")
    name = f"mpauthx_test_{os.getpid()}"
    with MongoClient[dict[str, Any]](mongo_server_url) as client:
        client.drop_database(name)
    return f"{base.rpartition('/')[0]}/{name}{mark}{query}"


@pytest.fixture
async def mongo(mongo_url: str) -> AsyncIterator[AsyncDatabase[dict[str, Any]]]:
    """The empty database, as another client of it."""
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(mongo_url)
    async with client:
        yield client.get_default_database()


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
    """A Redis Cluster of one node."""
    with cluster_of_one_node() as server:
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
def path(tmp_path: Path) -> Path:
    """Where a test may make a SQLite database: that of the users of `make`."""
    return tmp_path / "users.db"


@pytest.fixture
async def clock() -> Clock:
    """A clock that stands still until a test moves it."""
    return Clock()


@pytest.fixture
async def wx() -> AsyncIterator[WeChatSimulator]:
    async with WeChatSimulator() as simulator:
        yield simulator


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        yield session


@pytest.fixture
def client(wx: WeChatSimulator, http: aiohttp.ClientSession) -> Client:
    return Client(wx, http)


@pytest.fixture
async def browser_page() -> AsyncIterator[Page]:
    """A page in Chromium that fails the test on uncaught errors and on requests to other hosts."""
    async with open_page() as page:
        yield page


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

    def make(kind: type[MPAuthX] = MPAuthX, **changes: Any) -> MPAuthX:
        settings: dict[str, Any] = {
            "app_id": wx.app_id,
            "app_secret": wx.app_secret,
            "sku": "shop",
            "users": f"sqlite:///{tmp_path}/users.db",
            "tokens": redis_server.url,
            "api_base": wx.url,
        }
        return kind(**(settings | changes))

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
def collected() -> Iterator[None]:
    """What a test leaves unclosed warns in that test, which ignores it, and not in a later one."""
    yield
    gc.collect()


@pytest.fixture
async def auth(make: Callable[..., MPAuthX], tokens: str) -> AsyncIterator[MPAuthX]:
    async with make(tokens=tokens) as service:
        yield service
