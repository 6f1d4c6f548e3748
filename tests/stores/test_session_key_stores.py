"""What stores of session keys do with a record that is not their own."""

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from redis.asyncio import Redis

from mpauthx_async import RedisTokenStore, SqliteTokenStore
from mpauthx_async.stores.conformance import new_session
from mpauthx_async.stores.conformance.examples import ALICE, begin, is_alive
from tests.helpers.redis_contents import details, dump, user_key

SEALED = "A" * 43


class TestRedisRecords:
    @pytest.fixture
    async def store(self, redis: Redis) -> RedisTokenStore:
        return RedisTokenStore(redis)

    async def test_a_key_is_the_second_of_its_sessions_details(
        self, store: RedisTokenStore, redis: Redis
    ) -> None:
        (session,) = await begin(store, new_session(sealed_key=SEALED))
        assert await details(redis, ALICE) == {session.id: [session.issued_at, SEALED]}

    async def test_a_session_without_a_key_is_given_one(
        self, store: RedisTokenStore, redis: Redis
    ) -> None:
        (session,) = await begin(store, new_session())
        assert list(await store.sealed_keys([session.ref])) == [None]
        assert await store.replace_sealed_key(session.ref, SEALED)
        assert list(await store.sealed_keys([session.ref])) == [SEALED]
        assert list(await store.sessions(ALICE)) == [session]
        assert await store.revoke_subject(ALICE) == 1

    @pytest.mark.parametrize(
        "damage", [b"", b"x", b"[1]", b'["1"]', b"{}", b'[1,"\xff"]', b'[1,"\0"]', b"[1,2]", b"["]
    )
    async def test_damaged_details_harm_no_other_session_of_the_batch(
        self, store: RedisTokenStore, redis: Redis, damage: bytes
    ) -> None:
        damaged, whole = new_session(sealed_key=SEALED), new_session("bob", sealed_key=SEALED)
        await store.issue([damaged, whole])
        await redis.hset(user_key("u", ALICE), damaged.ref.nonce, damage)
        key, other = await store.sealed_keys([damaged.ref, whole.ref])
        assert key != SEALED
        assert other == SEALED
        assert (await is_alive(store, damaged, whole)) == [True, True]

    async def test_a_session_whose_details_are_lost_has_no_key_and_takes_none(
        self, store: RedisTokenStore, redis: Redis
    ) -> None:
        new = new_session(sealed_key=SEALED)
        await store.issue([new])
        await redis.delete(user_key("u", ALICE))
        assert list(await store.sealed_keys([new.ref])) == [None]
        assert await store.replace_sealed_key(new.ref, "B" * 59) is False
        assert not await redis.exists(user_key("u", ALICE))

    async def test_a_key_is_not_replaced_in_a_session_that_died(
        self, store: RedisTokenStore, redis: Redis
    ) -> None:
        new = new_session(sealed_key=SEALED)
        await store.issue([new])
        await store.revoke([new.ref])
        before = await dump(redis)
        assert await store.replace_sealed_key(new.ref, "B" * 59) is False
        assert await dump(redis) == before


class TestSqliteRecords:
    @pytest.mark.parametrize("stores", [1, 8])
    async def test_a_table_from_before_there_were_keys_gets_its_column(
        self, path: Path, stores: int
    ) -> None:
        old, now = new_session(), time.time_ns() // 1_000_000
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(
                "CREATE TABLE mpauthx_session (nonce TEXT PRIMARY KEY, sku TEXT NOT NULL,"
                " user_id TEXT NOT NULL, issued_at INTEGER NOT NULL, expires_at INTEGER NOT NULL)"
                " WITHOUT ROWID"
            )
            connection.execute(
                "INSERT INTO mpauthx_session (sku, user_id, nonce, issued_at, expires_at)"
                " VALUES (?, ?, ?, ?, ?)",
                (*old.ref[:3], now, now + old.ttl),
            )
        opened = [SqliteTokenStore(path) for _ in range(stores)]
        answers = await asyncio.gather(*(store.sealed_keys([old.ref]) for store in opened))
        assert [list(answer) for answer in answers] == [[None]] * stores
        assert list(await opened[0].lookup([old.ref])) == [now + old.ttl]
        new = new_session(sealed_key=SEALED)
        await opened[0].issue([new])
        assert list(await opened[-1].sealed_keys([old.ref, new.ref])) == [None, SEALED]
        assert await opened[-1].replace_sealed_key(old.ref, SEALED)
        for store in opened:
            await store.close()

    @pytest.mark.parametrize("damage", ["x'ff00'", "CAST(x'ff00' AS TEXT)", "5", "''", "0.5"])
    async def test_a_damaged_key_harms_no_other_session_of_the_batch(
        self, path: Path, damage: str
    ) -> None:
        damaged, whole = new_session(sealed_key=SEALED), new_session("bob", sealed_key=SEALED)
        async with SqliteTokenStore(path) as store:
            await store.issue([damaged, whole])
            with closing(sqlite3.connect(path)) as connection, connection:
                connection.execute(
                    f"UPDATE mpauthx_session SET sealed_key = {damage} WHERE nonce = ?",
                    (damaged.ref.nonce,),
                )
            key, other = await store.sealed_keys([damaged.ref, whole.ref])
            assert isinstance(key, str)
            assert key != SEALED
            assert other == SEALED

    async def test_keys_outlive_the_store(self, path: Path) -> None:
        new = new_session(sealed_key=SEALED)
        async with SqliteTokenStore(path) as store:
            await store.issue([new])
        async with SqliteTokenStore(path) as store:
            assert list(await store.sealed_keys([new.ref])) == [SEALED]


def test_no_sealed_key_is_in_the_repr_of_a_session() -> None:
    assert SEALED not in repr(new_session(sealed_key=SEALED))
