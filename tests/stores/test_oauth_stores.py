"""What every store of OAuth tokens promises, and what each does when what it stands on fails."""

import asyncio
import json
import signal
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from redis.asyncio import Redis, RedisCluster

from mpauthx_async import (
    ConfigurationError,
    Connections,
    KeyValueOAuthTokenStore,
    KeyValueStore,
    NoOAuthTokenError,
    OAuthTokenStore,
    RedisKeyValueStore,
    SqliteKeyValueStore,
    StoreError,
)
from mpauthx_async.stores import (
    FunctionOAuthTokenStore,
    key_value,
    oauth_tokens,
    open_key_value_store,
)
from mpauthx_async.stores.conformance import OAuthTokenStoreConformance, new_oauth_token
from mpauthx_async.tokens.sealing import RecordSealer
from tests.helpers.memory_stores import DictOAuthTokenStore
from tests.helpers.redis_server import RedisServer
from tests.helpers.sqlite_files import locked, query, run

APP = "wx4f4bc4dec97d474b"
ALICE = new_oauth_token("alice")
TOKEN_KEY = f"oauth_token|{APP}|alice"
SECRET = "5e4c2e7d00c0ffee5e4c2e7d00c0ffee"
SEALER = RecordSealer(b"mpauthx oauth", app_id=APP, keys=[SECRET])
DAY = 86_400

Open = Callable[..., RedisKeyValueStore | SqliteKeyValueStore]
Asked = Callable[[OAuthTokenStore], Awaitable[Any]]
ASKED: dict[str, Asked] = {
    "get": lambda store: store.get("alice"),
    "save": lambda store: store.save("alice", ALICE),
    "delete": lambda store: store.delete("bob"),
    "lock": lambda store: locking(store),
    "spend_state": lambda store: store.spend_state("0123456789abcdef", 60),
}


async def locking(store: OAuthTokenStore | KeyValueStore, name: str = "alice") -> None:
    async with store.lock(name):
        pass


def tokens(
    records: KeyValueStore, app_id: str = APP, keys: Sequence[str] = (SECRET,)
) -> KeyValueOAuthTokenStore:
    return KeyValueOAuthTokenStore(records, app_id=app_id, keys=keys)


class TestDict(OAuthTokenStoreConformance):
    @pytest.fixture
    def store(self) -> DictOAuthTokenStore:
        return DictOAuthTokenStore()


class TestFunctions(OAuthTokenStoreConformance):
    @pytest.fixture
    def store(self) -> FunctionOAuthTokenStore:
        kept = DictOAuthTokenStore()
        return FunctionOAuthTokenStore((kept.get, kept.save, kept.delete))


class TestRedis(OAuthTokenStoreConformance):
    @pytest.fixture(params=[False, True], ids=["bytes", "texts"])
    async def store(
        self, redis: Redis, redis_server: RedisServer, request: pytest.FixtureRequest
    ) -> AsyncIterator[KeyValueOAuthTokenStore]:
        async with Redis.from_url(redis_server.url, decode_responses=request.param) as client:
            yield tokens(RedisKeyValueStore(client))


class TestRedisByUrl(OAuthTokenStoreConformance):
    @pytest.fixture
    async def store(
        self, redis: Redis, redis_server: RedisServer
    ) -> AsyncIterator[KeyValueOAuthTokenStore]:
        async with Connections() as connections:
            yield tokens(open_key_value_store(redis_server.url, connections))


class TestRedisCluster(OAuthTokenStoreConformance):
    @pytest.fixture
    def store(self, cluster: RedisCluster) -> KeyValueOAuthTokenStore:
        return tokens(RedisKeyValueStore(cluster))


class TestSqliteFile(OAuthTokenStoreConformance):
    @pytest.fixture
    async def store(self, path: Path) -> AsyncIterator[KeyValueOAuthTokenStore]:
        async with SqliteKeyValueStore(path) as records:
            yield tokens(records)


class TestSqliteConnection(OAuthTokenStoreConformance):
    @pytest.fixture
    async def store(self, path: Path) -> AsyncIterator[KeyValueOAuthTokenStore]:
        async with aiosqlite.connect(path) as connection:
            yield tokens(SqliteKeyValueStore(connection))


@pytest.fixture(params=["redis", "sqlite"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def open_records(kind: str, redis: Redis, path: Path) -> Open:
    """Opens stores of records on the same database."""
    if kind == "redis":
        return partial(RedisKeyValueStore, redis)
    return partial(SqliteKeyValueStore, path)


@pytest.fixture
async def records(open_records: Open) -> AsyncIterator[RedisKeyValueStore | SqliteKeyValueStore]:
    async with open_records() as opened:
        yield opened


async def test_apps_that_share_a_database_do_not_share_tokens_or_states(
    records: KeyValueStore,
) -> None:
    ours, theirs = tokens(records), tokens(records, "wx0")
    await ours.save("alice", ALICE)
    assert await theirs.get("alice") is None
    assert await ours.spend_state("0123456789abcdef", 60)
    assert await theirs.spend_state("0123456789abcdef", 60)
    async with ours.lock("alice"):
        await locking(theirs)


async def test_a_token_is_kept_sealed_for_its_app_and_user(records: KeyValueStore) -> None:
    store = tokens(records)
    await store.save("alice", ALICE)
    sealed = await records.get(TOKEN_KEY) or ""
    assert json.loads(SEALER.open(TOKEN_KEY, sealed) or "")["access_token"] == ALICE.access_token
    for secret in (ALICE.access_token, ALICE.refresh_token, "access_token"):
        assert secret not in sealed
    await records.save(f"oauth_token|{APP}|bob", sealed, 60)
    await records.save("oauth_token|wx0|alice", sealed, 60)
    for moved_to, open_id in ((store, "bob"), (tokens(records, "wx0"), "alice")):
        with pytest.raises(NoOAuthTokenError, match="does not decrypt"):
            await moved_to.get(open_id)


@pytest.mark.parametrize("keys", [[], ["short"], "a text instead of a list"])
def test_rejects_invalid_keys(redis: Redis, keys: Any) -> None:
    with pytest.raises(ConfigurationError):
        tokens(RedisKeyValueStore(redis), keys=keys)


@pytest.mark.parametrize("is_sealed", [True, False])
@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", '"geheim"', "[" * 100_000, "{}", '{"access_token": "geheim"}']
)
async def test_a_damaged_record_is_an_error_that_tells_what_to_do(
    records: KeyValueStore, text: str, is_sealed: bool
) -> None:
    store, advice = tokens(records), r"or is damaged\. Let the user authorize"
    await records.save(TOKEN_KEY, SEALER.seal(TOKEN_KEY, text) if is_sealed else text, 60)
    with pytest.raises(NoOAuthTokenError, match=advice) as caught:
        await store.get("alice")
    assert TOKEN_KEY in str(caught.value)
    assert "geheim" not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__cause__ is caught.value.__context__ is None
    await store.save("alice", ALICE)
    assert await store.get("alice") == ALICE


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("open_id", "bob"),
        ("open_id", None),
        ("access_token", 5),
        ("refresh_token", None),
        ("expires_in", "7200"),
        ("expires_in", 7200.5),
        ("expires_in", True),
        ("scope", []),
        ("created_at", None),
        ("union_id", 5),
        ("is_snapshot_user", 1),
        ("more", 1),
    ],
)
async def test_a_wrong_field_is_damage(records: KeyValueStore, name: str, value: object) -> None:
    text = json.dumps(asdict(ALICE) | {name: value})
    await records.save(TOKEN_KEY, SEALER.seal(TOKEN_KEY, text), 60)
    with pytest.raises(NoOAuthTokenError, match="is damaged"):
        await tokens(records).get("alice")


async def test_a_function_that_gives_something_else_is_a_store_error() -> None:
    async def get_token(open_id: str) -> Any:
        return {"access_token": "geheim"}

    store = FunctionOAuthTokenStore((get_token, DictOAuthTokenStore().save))
    with pytest.raises(StoreError, match="get_token must return an OAuthToken, or None") as caught:
        await store.get("alice")
    assert "geheim" not in str(caught.value)


async def test_a_function_that_hangs_is_a_store_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oauth_tokens, "_MAX_FUNCTION_SECONDS", 0.01)

    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    store = FunctionOAuthTokenStore((hang, hang, hang))
    for call in (store.get("alice"), store.save("alice", ALICE), store.delete("alice")):
        with pytest.raises(StoreError, match="took more than"):
            await call


async def test_a_function_that_raises_a_timeout_keeps_its_reason() -> None:
    async def fail(*_: object) -> None:
        raise TimeoutError("connecting took too long")

    with pytest.raises(StoreError) as caught:
        await FunctionOAuthTokenStore((fail, fail)).get("alice")
    assert "connecting took too long" in str(caught.value.__cause__)


async def test_a_pair_of_functions_deletes_nothing_and_says_what_it_needs() -> None:
    kept = DictOAuthTokenStore()
    store = FunctionOAuthTokenStore((kept.get, kept.save))
    await store.save("alice", ALICE)
    with pytest.raises(ConfigurationError, match="delete_token"):
        await store.delete("alice")
    assert await store.get("alice") == ALICE


async def test_states_used_up_with_functions_are_forgotten_in_time() -> None:
    kept, now = DictOAuthTokenStore(), [1000.0]
    store = FunctionOAuthTokenStore((kept.get, kept.save), clock=lambda: now[0])
    assert await store.spend_state("long", 600)
    assert await store.spend_state("short", 10)
    now[0] += 10
    assert await store.spend_state("other", 10)
    assert (store._spent, len(store._ends)) == ({"long", "other"}, 2)
    assert not await store.spend_state("long", 600)


class TestRedisKeys:
    async def test_a_token_lives_thirty_days_under_a_key_of_its_app(self, redis: Redis) -> None:
        await tokens(RedisKeyValueStore(redis)).save("alice", ALICE)
        assert await redis.keys() == [f"mpauthx:r:{{{TOKEN_KEY}}}".encode()]
        assert 30 * DAY - 60 <= await redis.ttl(f"mpauthx:r:{{{TOKEN_KEY}}}") <= 30 * DAY

    async def test_a_lock_is_a_key_that_ends_by_itself(self, redis: Redis) -> None:
        async with tokens(RedisKeyValueStore(redis)).lock("alice"):
            assert await redis.keys() == [f"mpauthx:r:lock:{{{TOKEN_KEY}}}".encode()]
            assert 0 < await redis.pttl(f"mpauthx:r:lock:{{{TOKEN_KEY}}}") <= 15_000
        assert await redis.keys() == []

    async def test_a_used_state_is_remembered_as_long_as_asked(self, redis: Redis) -> None:
        await tokens(RedisKeyValueStore(redis)).spend_state("0123456789abcdef", 600)
        assert 0 < await redis.ttl(f"mpauthx:r:{{oauth_state|{APP}|0123456789abcdef}}") <= 600

    async def test_bytes_that_are_not_utf_8_are_a_damaged_record(self, redis: Redis) -> None:
        await redis.set(f"mpauthx:r:{{{TOKEN_KEY}}}", b"geheim\xff")
        await _is_damaged(tokens(RedisKeyValueStore(redis)))

    async def test_something_else_under_the_key_is_a_store_error(self, redis: Redis) -> None:
        await redis.hset(f"mpauthx:r:{{{TOKEN_KEY}}}", "field", "value")
        with pytest.raises(StoreError, match="WRONGTYPE"):
            await tokens(RedisKeyValueStore(redis)).get("alice")

    async def test_releasing_an_expired_lock_keeps_the_next_lock(self, redis: Redis) -> None:
        records = RedisKeyValueStore(redis)
        async with records.lock("name"):
            await redis.delete("mpauthx:r:lock:{name}")
            other = records.lock("name")
            await other.__aenter__()
        assert await redis.exists("mpauthx:r:lock:{name}")
        await other.__aexit__(None, None, None)
        assert not await redis.exists("mpauthx:r:lock:{name}")


class TestSqliteRows:
    async def test_a_record_ends_with_its_ttl(self, path: Path) -> None:
        now = [1000.0]
        async with SqliteKeyValueStore(path, clock=lambda: now[0]) as records:
            await records.save("name", "text", 30)
            assert not await records.add("name", "other", 30)
            now[0] += 29.9
            assert await records.get("name") == "text"
            now[0] += 0.1
            assert await records.get("name") is None
            assert await records.add("name", "other", 30)
            assert await records.get("name") == "other"

    async def test_expired_records_are_deleted(self, path: Path) -> None:
        now = [1000.0]
        async with SqliteKeyValueStore(path, clock=lambda: now[0]) as records:
            for i in range(20):
                await records.add(str(i), "", 1)
            now[0] += 1
            for _ in range(10):
                await records.save("name", "text", 60)
            await locking(records, "name")
        assert query(path, "SELECT key FROM mpauthx_record") == [("record|name",)]

    async def test_bytes_that_are_not_utf_8_are_a_damaged_record(self, path: Path) -> None:
        async with SqliteKeyValueStore(path) as records:
            await tokens(records).save("alice", ALICE)
            run(path, "UPDATE mpauthx_record SET text = 'geheim' || CAST(x'ff' AS TEXT)")
            await _is_damaged(tokens(records))

    async def test_a_lock_ends_by_the_clock(self, path: Path) -> None:
        async with (
            SqliteKeyValueStore(path, clock=lambda: 1000) as holder,
            SqliteKeyValueStore(path, clock=lambda: 1015) as later,
            holder.lock("name"),
        ):
            await locking(later, "name")
            # Released by the later holder, and not once more by the earlier one.
            await locking(later, "name")


async def test_waiting_too_long_for_a_lock_is_a_store_error(open_records: Open) -> None:
    async with open_records() as holder, open_records(lock_ttl=0.05) as waiter:
        async with holder.lock("name"):
            with pytest.raises(StoreError, match=r"has held a lock in the store too long"):
                await locking(waiter, "name")
        await locking(waiter, "name")


async def test_the_longest_wait_for_a_lock_is_bounded(
    open_records: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_value, "MAX_LOCK_WAIT_SECONDS", 0.2)
    async with open_records() as records, records.lock("key"):
        with pytest.raises(StoreError, match="has held a lock"):
            await locking(records, "key")


_HOLDER = """
import asyncio, sys
from mpauthx_async import RedisKeyValueStore, SqliteKeyValueStore

async def main(kind, where):
    kinds = {"redis": RedisKeyValueStore, "sqlite": SqliteKeyValueStore}
    records = kinds[kind](where, lock_ttl=0.5)
    async with records.lock("name"):
        print("locked", flush=True)
        await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_the_lock_of_a_killed_process_expires(
    kind: str, open_records: Open, redis_server: RedisServer, path: Path
) -> None:
    where = redis_server.url if kind == "redis" else str(path)
    holder = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _HOLDER, kind, where, stdout=asyncio.subprocess.PIPE
    )
    assert holder.stdout is not None
    assert await holder.stdout.readline() == b"locked\n"
    holder.kill()
    await holder.communicate()
    async with open_records() as records, asyncio.timeout(10):
        await locking(records, "name")


class TestOutages:
    async def test_a_redis_that_is_not_there_is_a_store_error(self, server: RedisServer) -> None:
        server.stop()
        async with RedisKeyValueStore(server.url) as records:
            for ask in ASKED.values():
                with pytest.raises(StoreError, match="Check that it is up"):
                    await ask(tokens(records))
            server.start()
            for ask in ASKED.values():
                await ask(tokens(records))

    async def test_a_redis_that_dies_under_a_lock_does_not_undo_what_was_done(
        self, server: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with RedisKeyValueStore(server.url) as records, records.lock("name"):
            server.stop(signal.SIGKILL)
        assert "was not released, and expires by itself" in caplog.text

    async def test_a_locked_sqlite_file_is_a_store_error(self, path: Path) -> None:
        async with SqliteKeyValueStore(path, busy_timeout=0.05) as records:
            store = tokens(records)
            await store.save("alice", ALICE)
            with locked(path):
                for asked in ASKED.keys() - {"get"}:
                    with pytest.raises(StoreError, match="Another process has held its lock"):
                        await ASKED[asked](store)
                assert await store.get("alice") == ALICE
            for ask in ASKED.values():
                await ask(store)


@pytest.mark.parametrize("url", ["", "mysql://host/db", "sqlite://", "sqlite:///", "oauth.db"])
def test_rejects_an_invalid_store_url(url: str) -> None:
    with pytest.raises(ConfigurationError):
        open_key_value_store(url, Connections())


async def _is_damaged(store: KeyValueOAuthTokenStore) -> None:
    with pytest.raises(NoOAuthTokenError, match="is damaged") as caught:
        await store.get("alice")
    assert "geheim" not in "".join(traceback.format_exception(caught.value))
