"""SQLAlchemyOAuthTokenStore on each driver, and on the table that wechat-oauth documents."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy import BigInteger, Column, DateTime, Integer, MetaData, String, Table
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.asyncio import create_async_engine

from mpauthx_async import ConfigurationError, NoOAuthTokenError, RedisKeyValueStore, StoreError
from mpauthx_async.stores import SQLAlchemyOAuthTokenStore
from mpauthx_async.stores.conformance import OAuthTokenStoreConformance, new_oauth_token
from tests.helpers.outages import all_that_it_says
from tests.helpers.secret_search import local_variables
from tests.helpers.sql_servers import MariaDBServer, PostgreSQLServer, execute

DRIVERS = ["sqlite+aiosqlite", *PostgreSQLServer.drivers, *MariaDBServer.drivers]
_ID = String(128).with_variant(mysql.VARCHAR(128, collation="utf8mb4_bin"), "mysql")
TOKEN = Table(
    "token",
    MetaData(),
    Column("openid", _ID, primary_key=True),
    Column("access_token", String(600)),
    Column("refresh_token", String(600)),
    Column("expires_in", Integer),
    Column("scope", String(200)),
    Column("create_at", BigInteger),
    Column("unionid", _ID),
)
# As its documentation has it, for MySQL.
DOCUMENTED = Table(
    "token",
    MetaData(),
    *(
        Column(name, String(255))
        for name in ("access_token", "expires_in", "refresh_token", "scope", "create_at")
    ),
    Column("openid", String(255), unique=True),
)
ALICE = replace(new_oauth_token("o-alice"), access_token="geheim-1", refresh_token="geheim-2")


async def create(url: str, table: Table) -> None:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(table.create)
    await engine.dispose()


@pytest.mark.parametrize("sql_driver", DRIVERS)
class TestEachDriver(OAuthTokenStoreConformance):
    @pytest.fixture
    async def store(self, sql_url: str, redis: Redis) -> AsyncIterator[SQLAlchemyOAuthTokenStore]:
        await create(sql_url, TOKEN)
        async with SQLAlchemyOAuthTokenStore(sql_url, TOKEN, RedisKeyValueStore(redis)) as store:
            yield store


class TestDocumentedTable:
    @pytest.fixture
    async def store(self, sql_url: str, redis: Redis) -> AsyncIterator[SQLAlchemyOAuthTokenStore]:
        await create(sql_url, DOCUMENTED)
        async with SQLAlchemyOAuthTokenStore(
            sql_url, DOCUMENTED, RedisKeyValueStore(redis), timeout=60
        ) as store:
            yield store

    async def test_its_numbers_may_be_texts(
        self, store: SQLAlchemyOAuthTokenStore, sql_url: str
    ) -> None:
        await execute(
            sql_url,
            "INSERT INTO token VALUES ('old', '7200', 'refresh', 'snsapi_base',"
            " '1700000000000', 'o-alice')",
        )
        old = await store.get("o-alice")
        assert old is not None
        told = (old.access_token, old.expires_in, old.created_at)
        assert told == ("old", 7200, 1_700_000_000_000)
        await store.save("o-alice", ALICE)
        assert await store.get("o-alice") == replace(ALICE, union_id=None)
        assert await execute(sql_url, "SELECT expires_in, create_at FROM token") == [
            ("7200", str(ALICE.created_at))
        ]

    @pytest.mark.parametrize(
        "damage",
        ["access_token = NULL", "refresh_token = ''", "expires_in = NULL", "create_at = ''"],
    )
    async def test_a_row_without_a_token_makes_the_user_authorize_again(
        self, store: SQLAlchemyOAuthTokenStore, sql_url: str, damage: str
    ) -> None:
        await store.save("o-alice", ALICE)
        await execute(sql_url, f"UPDATE token SET {damage}")
        with pytest.raises(NoOAuthTokenError, match=r"o-alice.*authorize again"):
            await store.get("o-alice")
        await store.save("o-alice", ALICE)
        await execute(sql_url, "UPDATE token SET scope = NULL")
        assert await store.get("o-alice") == replace(ALICE, union_id=None, scope="")

    async def test_of_stores_that_save_a_new_token_at_once_one_makes_the_row(
        self, store: SQLAlchemyOAuthTokenStore, sql_url: str
    ) -> None:
        await asyncio.gather(*(store.save("o-alice", ALICE) for _ in range(8)))
        assert await execute(sql_url, "SELECT count(*) FROM token") == [(1,)]

    @pytest.mark.parametrize(
        "constraint",
        [
            "ALTER TABLE token ADD CHECK (scope = 'snsapi_base')",
            "ALTER TABLE token DROP COLUMN access_token, ADD COLUMN access_token INTEGER",
            "ALTER TABLE token DROP COLUMN access_token, ADD COLUMN access_token VARCHAR(4)",
        ],
    )
    async def test_a_row_that_the_table_refuses_is_told_without_its_secrets(
        self, sql_url: str, redis: Redis, constraint: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        await create(sql_url, DOCUMENTED)
        await execute(sql_url, constraint)
        engine = create_async_engine(sql_url)
        records = RedisKeyValueStore(redis)
        async with SQLAlchemyOAuthTokenStore(engine, DOCUMENTED, records, timeout=60) as store:
            with pytest.raises(StoreError, match=r"refused a row|is of type integer") as caught:
                await store.save("o-alice", ALICE)
        await engine.dispose()
        for secret in (ALICE.access_token, ALICE.refresh_token):
            assert secret not in all_that_it_says(caught.value)
            assert secret not in local_variables(caught.value)
            assert secret not in caplog.text

    async def test_a_missing_table_is_named(
        self, store: SQLAlchemyOAuthTokenStore, sql_url: str
    ) -> None:
        await execute(sql_url, "DROP TABLE token")
        for ask in asked_of(store):
            with pytest.raises(ConfigurationError, match="has no table token") as caught:
                await ask
            assert ALICE.access_token not in str(caught.value)

    async def test_a_table_that_is_dropped_later_is_named(
        self, store: SQLAlchemyOAuthTokenStore, sql_url: str
    ) -> None:
        await store.save("o-alice", ALICE)
        await execute(sql_url, "DROP TABLE token")
        for ask in asked_of(store):
            with pytest.raises(StoreError, match="table or column is missing") as caught:
                await ask
            assert not caught.value.retryable
            assert ALICE.access_token not in str(caught.value)


@pytest.mark.parametrize("sql_driver", DRIVERS)
class TestTableThatTakesNoTokens:
    @pytest.mark.parametrize(
        ("columns", "said"),
        [
            ("create_at INTEGER", "token.create_at is too small for Unix milliseconds"),
            ("create_at TIMESTAMP NULL", "token.create_at is a date and time, and this store"),
            ("create_at DATE", "token.create_at is a date and time, and this store"),
            ("created BIGINT", "token.create_at for create_at is missing"),
            ("create_at BIGINT, phone VARCHAR(9) NOT NULL", "token.phone is NOT NULL without"),
        ],
    )
    async def test_is_refused_at_the_first_call(
        self, sql_driver: str, sql_url: str, redis: Redis, columns: str, said: str
    ) -> None:
        texts = "access_token VARCHAR(600), refresh_token VARCHAR(600), scope VARCHAR(99)"
        await execute(
            sql_url,
            f"CREATE TABLE token (openid VARCHAR(99) PRIMARY KEY, {texts}, expires_in INTEGER,"
            f" unionid VARCHAR(99), {columns})",
        )
        async with SQLAlchemyOAuthTokenStore(sql_url, TOKEN, RedisKeyValueStore(redis)) as store:
            if "sqlite" in sql_driver and "create_at" in columns and "phone" not in columns:
                await store.save("o-alice", ALICE)  # SQLite keeps any number in any column
                assert await store.get("o-alice") == ALICE
                return
            for ask in asked_of(store):
                with pytest.raises(ConfigurationError, match="OAuth tokens cannot be saved: ") as e:
                    await ask
                assert said in str(e.value)

    async def test_is_refused_if_the_model_has_a_date(self, sql_url: str, redis: Redis) -> None:
        model = Table(
            "token",
            MetaData(),
            *(
                Column(column.name, DateTime() if column.name == "create_at" else column.type)
                for column in TOKEN.columns
            ),
        )
        await create(sql_url, model)
        async with SQLAlchemyOAuthTokenStore(sql_url, model, RedisKeyValueStore(redis)) as store:
            with pytest.raises(ConfigurationError, match=r"token\.create_at is a date and time"):
                await store.save("o-alice", ALICE)


def asked_of(store: SQLAlchemyOAuthTokenStore) -> Iterator[Coroutine[Any, Any, object]]:
    yield store.get("o-alice")
    yield store.save("o-alice", ALICE)
    yield store.delete("o-alice")


def test_a_table_that_lacks_a_column_is_refused(redis: Redis) -> None:
    columns: list[Column[Any]] = [
        Column(column.name, column.type) for column in DOCUMENTED.columns if column.name != "scope"
    ]
    table = Table("token", MetaData(), *columns)
    with pytest.raises(ConfigurationError, match="token of OAuth tokens lacks scope"):
        SQLAlchemyOAuthTokenStore("sqlite+aiosqlite://", table, RedisKeyValueStore(redis))
