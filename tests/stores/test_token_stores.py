"""What every token store promises, whichever it is, and opening one by its URL."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiosqlite
import pytest
from redis.asyncio import Redis, RedisCluster

from mpauthx_async import (
    ConfigurationError,
    Connections,
    RedisTokenStore,
    SqliteTokenStore,
)
from mpauthx_async.stores import open_token_store
from mpauthx_async.stores.conformance import (
    SessionKeyStoreConformance,
    TokenStoreConformance,
    new_session,
)
from tests.helpers.memory_stores import MemoryTokens
from tests.helpers.redis_server import RedisServer
from tests.helpers.sqlite_files import query


class TestSqliteFile(TokenStoreConformance, SessionKeyStoreConformance):
    @pytest.fixture
    async def store(self, path: Path) -> AsyncIterator[SqliteTokenStore]:
        async with SqliteTokenStore(str(path)) as store:
            yield store


class TestSqliteConnection(TokenStoreConformance, SessionKeyStoreConformance):
    @pytest.fixture
    async def store(self, path: Path) -> AsyncIterator[SqliteTokenStore]:
        async with aiosqlite.connect(path) as connection:
            yield SqliteTokenStore(connection)


class TestMemory(TokenStoreConformance):
    @pytest.fixture
    async def store(self) -> MemoryTokens:
        return MemoryTokens()


class TestRedis(TokenStoreConformance, SessionKeyStoreConformance):
    @pytest.fixture
    async def store(self, redis: Redis) -> RedisTokenStore:
        return RedisTokenStore(redis)


class TestRedisDecodingResponses(TokenStoreConformance, SessionKeyStoreConformance):
    @pytest.fixture
    async def store(
        self, redis: Redis, redis_server: RedisServer
    ) -> AsyncIterator[RedisTokenStore]:
        async with Redis.from_url(redis_server.url, decode_responses=True) as client:
            yield RedisTokenStore(client)


class TestRedisWithANearCache(TokenStoreConformance, SessionKeyStoreConformance):
    @pytest.fixture
    async def store(
        self, redis: Redis, redis_server: RedisServer
    ) -> AsyncIterator[RedisTokenStore]:
        async with RedisTokenStore(redis_server.url, near_cache=1000) as store:
            yield store


class TestRedisCluster(TokenStoreConformance, SessionKeyStoreConformance):
    @pytest.fixture
    async def store(self, cluster: RedisCluster) -> RedisTokenStore:
        return RedisTokenStore(cluster)


class TestOpeningByUrl:
    async def test_redis_is_reached_through_the_connections(
        self, redis: Redis, redis_server: RedisServer
    ) -> None:
        async with Connections() as connections:
            store = open_token_store(redis_server.url, connections)
            new = new_session()
            await store.issue([new])
            assert isinstance(connections.redis, Redis)
        assert list(await RedisTokenStore(redis).revoke([new.ref])) == [True]

    async def test_opens_an_absolute_path(self, path: Path) -> None:
        async with open_token_store(f"sqlite:///{path}", Connections()) as store:
            await store.issue([new_session()])
        assert query(path, "SELECT count(*) FROM mpauthx_session") == [(1,)]

    async def test_opens_a_relative_path(self, path: Path) -> None:
        here = Path.cwd()
        relative = "/".join([".."] * (len(here.parts) - 1)) + str(path)
        async with open_token_store(f"SQLite:///{relative}", Connections()) as store:
            await store.issue([new_session()])
        assert query(path, "SELECT count(*) FROM mpauthx_session") == [(1,)]

    async def test_passes_the_clock_to_the_store(self, path: Path) -> None:
        url, new = f"sqlite:///{path}", new_session(ttl=1000)
        async with open_token_store(url, Connections(), clock=lambda: 4e9) as store:
            await store.issue([new])
            assert list(await store.lookup([new.ref])) == [4_000_000_001_000]

    @pytest.mark.parametrize(
        ("url", "said"),
        [
            ("", "sqlite:///"),
            ("sqlite:///", "sqlite:///"),
            ("sqlite://tokens.db", "sqlite:///"),
            ("tokens.db", "is sqlite:///tokens.db."),
            ("/var/lib/shop/tokens.sqlite3", "is sqlite:////var/lib/shop/tokens.sqlite3."),
            ("mysql://bob:geheim@host/db", "redis+cluster://, unix:// or sqlite://"),
            ("geheim@host", "and this one has no scheme"),
            ("sqlite:///tokens.db?near_cache=geheim", "the option 'near_cache'"),
            ("sqlite:///tokens.db?timeout", "the option 'timeout'"),
            ("sqlite:///tokens.db?a geheim=1", "has options"),
        ],
    )
    async def test_an_invalid_url_is_explained_without_its_secrets(
        self, url: str, said: str
    ) -> None:
        with pytest.raises(ConfigurationError) as caught:
            open_token_store(url, Connections())
        assert said in str(caught.value)
        assert "geheim" not in str(caught.value)
