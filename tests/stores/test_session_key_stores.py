"""What stores of session keys do with a record that is not their own."""

from pathlib import Path

import pytest
from redis.asyncio import Redis

from mpauthx_async import RedisTokenStore, SqliteTokenStore
from mpauthx_async.stores.conformance import new_session
from mpauthx_async.stores.conformance.examples import ALICE, is_alive
from tests.helpers.redis_contents import dump, user_key
from tests.helpers.sqlite_files import run

SEALED = "A" * 43


class TestRedisRecords:
    @pytest.fixture
    async def store(self, redis: Redis) -> RedisTokenStore:
        return RedisTokenStore(redis)

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

    @pytest.mark.parametrize("is_over", [False, True])
    async def test_a_session_without_details_has_no_key_and_takes_none(
        self, store: RedisTokenStore, redis: Redis, is_over: bool
    ) -> None:
        new = new_session(sealed_key=SEALED)
        await store.issue([new])
        await (store.revoke([new.ref]) if is_over else redis.delete(user_key("u", ALICE)))
        before = await dump(redis)
        assert list(await store.sealed_keys([new.ref])) == [None]
        assert await store.replace_sealed_key(new.ref, "B" * 59) is False
        assert await dump(redis) == before


class TestSqliteRecords:
    @pytest.mark.parametrize("damage", ["x'ff00'", "CAST(x'ff00' AS TEXT)", "5", "''", "0.5"])
    async def test_a_damaged_key_harms_no_other_session(self, path: Path, damage: str) -> None:
        damaged, whole = new_session(sealed_key=SEALED), new_session("bob", sealed_key=SEALED)
        async with SqliteTokenStore(path) as store:
            await store.issue([damaged, whole])
            run(path, f"UPDATE mpauthx_session SET sealed_key = {damage} WHERE user_id = 'alice'")
            key, other = await store.sealed_keys([damaged.ref, whole.ref])
            assert isinstance(key, str)
            assert key != SEALED
            assert other == SEALED


def test_no_sealed_key_is_in_the_repr_of_a_session() -> None:
    assert SEALED not in repr(new_session(sealed_key=SEALED))
