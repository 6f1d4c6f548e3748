"""What every store of session keys promises, and what each does with a record that is not its own.

Outages of each store are in test_store_failures.py as well: here are those of the new questions.
"""

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from zlib import crc32

import pytest
from redis.asyncio import Redis

from mpauthx_async import ClosedError, RedisTokenStore, SqliteTokenStore, StoreError
from mpauthx_async.stores.conformance import new_session

from .redis_server import RedisServer

SEALED = "A" * 59
BUCKET = crc32(b"alice") & 255
INDEX = f"mpauthx:u:{{shop:{BUCKET}}}:alice"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.db"


class TestRedisRecords:
    @pytest.fixture
    async def store(self, redis: Redis) -> RedisTokenStore:
        return RedisTokenStore(redis)

    async def test_a_key_is_the_third_word_of_the_details(
        self, store: RedisTokenStore, redis: Redis
    ) -> None:
        new = new_session(sealed_key=SEALED)
        await store.issue([new])
        details = f"{new.issued_at} {new.issued_at + new.ttl} {SEALED}"
        assert await redis.hgetall(INDEX) == {new.ref.nonce.encode(): details.encode()}

    async def test_a_session_from_before_there_were_keys_goes_on(
        self, store: RedisTokenStore, redis: Redis
    ) -> None:
        old = new_session()
        end = old.issued_at + old.ttl
        await redis.set(f"mpauthx:t:{{shop:{BUCKET}}}:{old.ref.nonce}", end, px=old.ttl)
        await redis.hset(INDEX, old.ref.nonce, f"{old.issued_at} {end}")
        assert list(await store.sealed_keys([old.ref])) == [None]
        assert list(await store.sessions(old.ref.subject)) == [old.begun()]
        assert await store.replace_sealed_key(old.ref, SEALED)
        assert list(await store.sealed_keys([old.ref])) == [SEALED]
        assert list(await store.sessions(old.ref.subject)) == [old.begun()]
        assert await store.revoke_subject(old.ref.subject) == 1

    @pytest.mark.parametrize("details", [b"", b"1 2", b"1 2 3 4", b"one", b"1 2 \xff", b"1 2 \0"])
    async def test_damaged_details_harm_no_other_session_of_the_batch(
        self, store: RedisTokenStore, redis: Redis, details: bytes
    ) -> None:
        damaged, whole = new_session(sealed_key=SEALED), new_session("bob", sealed_key=SEALED)
        await store.issue([damaged, whole])
        await redis.hset(INDEX, damaged.ref.nonce, details)
        key, other = await store.sealed_keys([damaged.ref, whole.ref])
        assert key != SEALED
        assert other == SEALED

    async def test_a_key_without_its_index_is_none(
        self, store: RedisTokenStore, redis: Redis
    ) -> None:
        new = new_session(sealed_key=SEALED)
        await store.issue([new])
        await redis.delete(INDEX)
        assert list(await store.sealed_keys([new.ref])) == [None]
        assert await store.replace_sealed_key(new.ref, SEALED) is False


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


async def test_a_redis_that_is_down_raises() -> None:
    new = new_session(sealed_key=SEALED)
    with RedisServer() as server:
        async with RedisTokenStore(server.url) as store:
            await store.issue([new])
            server.stop()
            with pytest.raises(StoreError):
                await store.sealed_keys([new.ref])
            with pytest.raises(StoreError):
                await store.replace_sealed_key(new.ref, SEALED)


async def test_a_sqlite_file_that_is_none_raises(path: Path) -> None:
    path.write_bytes(b"no database" * 100)
    async with SqliteTokenStore(path) as store:
        with pytest.raises(StoreError):
            await store.sealed_keys([new_session().ref])
        with pytest.raises(StoreError):
            await store.replace_sealed_key(new_session().ref, SEALED)


async def test_a_sqlite_file_that_is_locked_raises(path: Path) -> None:
    new = new_session(sealed_key=SEALED)
    async with SqliteTokenStore(path, busy_timeout=0.01) as store:
        await store.issue([new])
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(StoreError):
                await store.replace_sealed_key(new.ref, "B" * 59)
            other.execute("ROLLBACK")
        assert list(await store.sealed_keys([new.ref])) == [SEALED]


@pytest.mark.parametrize("kind", ["redis", "sqlite"])
async def test_a_closed_store_raises(kind: str, path: Path, redis_server: RedisServer) -> None:
    store = RedisTokenStore(redis_server.url) if kind == "redis" else SqliteTokenStore(path)
    await store.close()
    with pytest.raises(ClosedError):
        await store.sealed_keys([new_session().ref])
    with pytest.raises(ClosedError):
        await store.replace_sealed_key(new_session().ref, SEALED)


def test_no_sealed_key_is_in_the_repr_of_a_session() -> None:
    assert SEALED not in repr(new_session(sealed_key=SEALED))
