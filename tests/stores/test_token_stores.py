"""What every token store promises, whichever it is, and opening one by its URL."""

from collections.abc import AsyncIterator
from pathlib import Path

import aiosqlite
import pytest
from redis.asyncio import Redis, RedisCluster

from mpauthx_async import ConfigurationError, Connections, RedisTokenStore, SqliteTokenStore
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
    @pytest.fixture(params=[False, True], ids=["bytes", "texts"])
    async def store(
        self, redis: Redis, redis_server: RedisServer, request: pytest.FixtureRequest
    ) -> AsyncIterator[RedisTokenStore]:
        async with Redis.from_url(redis_server.url, decode_responses=request.param) as client:
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
    async def test_opens_an_absolute_path_with_a_clock(self, path: Path) -> None:
        async with open_token_store(f"sqlite:///{path}", Connections(), clock=lambda: 4e9) as store:
            await store.issue([new_session()])
        assert query(path, "SELECT issued_at FROM mpauthx_session") == [(4_000_000_000_000,)]

    async def test_opens_a_relative_path(self, path: Path) -> None:
        relative = "/".join([".."] * (len(Path.cwd().parts) - 1)) + str(path)
        async with open_token_store(f"SQLite:///{relative}", Connections()) as store:
            await store.issue([new_session()])
        assert query(path, "SELECT count(*) FROM mpauthx_session") == [(1,)]

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
    async def test_an_invalid_url_is_explained_without_secrets(self, url: str, said: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            open_token_store(url, Connections())
        assert said in str(caught.value)
        assert "geheim" not in str(caught.value)
