"""What every token store promises, and what each promises beyond that."""

import asyncio
import base64
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any
from zlib import crc32

import aiosqlite
import pytest
from redis.asyncio import Redis, RedisCluster

from mpauthx_async import (
    ClosedError,
    ConfigurationError,
    Connections,
    MPAuthX,
    RedisTokenStore,
    SqliteTokenStore,
    StoreError,
    Subject,
    WeChatSimulator,
)
from mpauthx_async.stores import open_token_store
from mpauthx_async.stores.conformance import (
    SessionKeyStoreConformance,
    TokenStoreConformance,
    new_session,
)
from mpauthx_async.stores.sqlite_database import SqliteDatabase

from .redis_server import RedisServer

ALICE = Subject("shop", "alice")
BUCKET = crc32(b"alice") & 255
INDEX = f"mpauthx:u:{{shop:{BUCKET}}}:alice"
HOUR = 3_600_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.db"


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


class TestRedisByUrl(TokenStoreConformance, SessionKeyStoreConformance):
    @pytest.fixture
    async def store(
        self, redis: Redis, redis_server: RedisServer
    ) -> AsyncIterator[RedisTokenStore]:
        async with RedisTokenStore(redis_server.url) as store:
            yield store


class TestRedisCluster(TokenStoreConformance, SessionKeyStoreConformance):
    @pytest.fixture
    async def store(self, cluster: RedisCluster) -> RedisTokenStore:
        return RedisTokenStore(cluster)


class TestRedisKeys:
    @pytest.fixture
    async def store(self, redis: Redis) -> RedisTokenStore:
        return RedisTokenStore(redis)

    async def test_a_session_is_a_key_and_a_field_of_its_users_index(
        self, store: RedisTokenStore, redis: Redis
    ) -> None:
        new = new_session("alice")
        await store.issue([new])
        assert await _dump(redis) == {
            session_key(new.ref.nonce): str(new.issued_at + new.ttl),
            INDEX: {new.ref.nonce: f"{new.issued_at} {new.issued_at + new.ttl}"},
        }

    async def test_the_end_is_kept_as_an_integer(
        self, store: RedisTokenStore, redis: Redis
    ) -> None:
        new = new_session("alice")
        await store.issue([new])
        assert await redis.object("ENCODING", session_key(new.ref.nonce)) == b"int"

    async def test_a_key_lives_as_long_as_its_session(
        self, store: RedisTokenStore, redis: Redis
    ) -> None:
        new = new_session("alice", ttl=HOUR)
        await store.issue([new])
        assert HOUR / 2 < await redis.pttl(session_key(new.ref.nonce)) <= HOUR

    async def test_an_index_lives_as_long_as_its_longest_session(
        self, store: RedisTokenStore, redis: Redis
    ) -> None:
        await store.issue([new_session("alice", ttl=HOUR)])
        assert HOUR / 2 < await redis.pttl(INDEX) <= HOUR
        await store.issue([new_session("alice", ttl=9 * HOUR)])
        await store.issue([new_session("alice", ttl=HOUR)])
        assert 8 * HOUR < await redis.pttl(INDEX) <= 9 * HOUR

    async def test_nothing_is_left_when_the_last_session_ended(
        self, store: RedisTokenStore, redis: Redis
    ) -> None:
        await store.issue([new_session("alice", ttl=1), new_session("bob", ttl=2)])
        deadline = time.monotonic() + 10
        while await redis.dbsize():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.001)

    async def test_revoking_leaves_nothing(self, store: RedisTokenStore, redis: Redis) -> None:
        batch = [new_session("alice") for _ in range(3)]
        await store.issue(batch)
        await store.revoke([batch[0].ref])
        assert set(await _dump(redis)) == {
            INDEX,
            session_key(batch[1].ref.nonce),
            session_key(batch[2].ref.nonce),
        }
        await store.revoke_subject(ALICE)
        assert await _dump(redis) == {}

    async def test_a_sole_session_leaves_nothing_of_the_earlier(
        self, store: RedisTokenStore, redis: Redis
    ) -> None:
        await store.issue([new_session("alice") for _ in range(20)])
        sole = new_session("alice", sole=True)
        await store.issue([sole])
        dump = await _dump(redis)
        assert set(dump) == {INDEX, session_key(sole.ref.nonce)}
        assert set(dump[INDEX]) == {sole.ref.nonce}

    async def test_a_users_keys_share_a_slot_of_a_cluster(self, cluster: RedisCluster) -> None:
        store = RedisTokenStore(cluster)
        new = new_session("alice")
        await store.issue([new])
        assert cluster.keyslot(INDEX) == cluster.keyslot(session_key(new.ref.nonce))
        assert await cluster.exists(INDEX) == 1
        assert await cluster.exists(session_key(new.ref.nonce)) == 1

    async def test_the_dead_do_not_pile_up_in_an_index(
        self, store: RedisTokenStore, redis: Redis
    ) -> None:
        await store.issue([new_session("alice", ttl=HOUR)])
        for _ in range(500):
            await store.issue([new_session("alice", ttl=1)])
        assert await redis.hlen(INDEX) < 50

    async def test_the_living_are_never_cleared_away(
        self, store: RedisTokenStore, redis: Redis
    ) -> None:
        start = new_session().issued_at
        for day in range(100):
            await store.issue([new_session("alice", issued_at=start + day * 24 * HOUR)])
        assert await redis.hlen(INDEX) == 100
        assert await store.revoke_subject(ALICE) == 100
        assert await _dump(redis) == {}

    async def test_a_dump_of_redis_holds_no_usable_token(
        self, redis: Redis, wx: WeChatSimulator, tmp_path: Path
    ) -> None:
        async with MPAuthX(
            app_id=wx.app_id,
            app_secret=wx.app_secret,
            sku="shop",
            users=f"sqlite:///{tmp_path}/users.db",
            tokens=RedisTokenStore(redis),
            api_base=wx.url,
        ) as auth:
            results = [await auth.authorize(wx.login(f"o-{i}")) for i in range(5)]
            results.append(await auth.refresh_token("o-0"))
            dump = repr(await _dump(redis))
        for result in results[1:]:
            token = result.response
            raw = base64.urlsafe_b64decode(token[-43:] + "=")
            assert result.session.ref.nonce in dump
            assert token[-43:-21] in dump or token[-43:-22] in dump
            for mac in (token[-21:], raw[16:].hex(), _b64(raw[16:]), repr(raw[16:])[2:-1]):
                assert mac not in dump
            assert wx.app_secret not in dump


class TestRedisCommands:
    @pytest.fixture
    async def store(self, redis: Redis) -> RedisTokenStore:
        """A store whose scripts Redis has."""
        store = RedisTokenStore(redis)
        await _use_everything(store)
        await redis.flushdb()
        return store

    async def test_a_batch_lookup_is_one_mget(self, store: RedisTokenStore, redis: Redis) -> None:
        batch = [new_session(f"user-{i}") for i in range(300)]
        await store.issue(batch)
        await redis.config_resetstat()
        await store.lookup([new.ref for new in batch])
        assert await _commands(redis) == {"mget": 1}

    async def test_a_batch_of_logins_is_one_script(
        self, store: RedisTokenStore, redis: Redis
    ) -> None:
        await redis.config_resetstat()
        await store.issue([new_session(f"user-{i}") for i in range(100)])
        commands = await _commands(redis)
        assert commands["evalsha"] == 1
        assert commands["set"] == commands["hset"] == commands["pexpire"] == 100

    async def test_revoking_a_batch_is_one_script(
        self, store: RedisTokenStore, redis: Redis
    ) -> None:
        batch = [new_session(f"user-{i}") for i in range(100)]
        await store.issue(batch)
        await redis.config_resetstat()
        await store.revoke([new.ref for new in batch])
        assert await _commands(redis) == {"evalsha": 1, "hdel": 100, "del": 100}

    async def test_a_login_costs_the_same_with_a_thousand_sessions(
        self, store: RedisTokenStore, redis: Redis
    ) -> None:
        await store.issue([new_session("alice") for _ in range(20)])
        costs = []
        for _ in range(2):
            await redis.config_resetstat()
            await store.issue([new_session("alice")])
            commands = await _commands(redis)
            commands.pop("pexpire", None)  # sent when a millisecond has passed
            costs.append(commands)
            await store.issue([new_session("alice") for _ in range(1000)])
        assert costs[0] == costs[1]

    async def test_neither_keys_nor_scan_is_ever_sent(
        self, store: RedisTokenStore, redis: Redis
    ) -> None:
        await redis.config_resetstat()
        await _use_everything(store)
        sent = await _commands(redis)
        assert {"evalsha", "mget", "set"} <= set(sent)
        assert not {"keys", "scan", "hscan", "sscan", "zscan", "randomkey"} & set(sent)

    async def test_scripts_that_redis_forgot_are_sent_again(
        self, store: RedisTokenStore, redis: Redis
    ) -> None:
        new = new_session("alice")
        await redis.script_flush()
        await store.issue([new])
        await redis.script_flush()
        assert [session.ref for session in await store.sessions(ALICE)] == [new.ref]
        await redis.script_flush()
        assert list(await store.revoke([new.ref])) == [True]
        await redis.script_flush()
        assert await store.revoke_subject(ALICE) == 0

    async def test_a_cluster_that_forgot_the_scripts_gets_them_again(
        self, cluster: RedisCluster
    ) -> None:
        store = RedisTokenStore(cluster)
        batch = [new_session(f"user-{i}") for i in range(20)]
        await store.issue(batch[:10])
        await cluster.script_flush()
        await store.issue(batch[10:])
        await cluster.script_flush()
        assert list(await store.revoke([new.ref for new in batch])) == [True] * 20


class TestRedisOwnership:
    async def test_a_client_that_was_given_stays_open(self, redis: Redis) -> None:
        store = RedisTokenStore(redis)
        await store.issue([new_session()])
        await store.close()
        with pytest.raises(ClosedError):
            await store.issue([new_session()])
        assert await redis.dbsize() == 2

    async def test_connections_that_were_given_stay_open(
        self, redis: Redis, redis_server: RedisServer
    ) -> None:
        async with Connections(redis_server.url) as connections:
            await RedisTokenStore(connections).close()
            other = RedisTokenStore(connections)
            await other.issue([new_session()])
            assert await redis.dbsize() == 2
        with pytest.raises(ClosedError):
            await other.issue([new_session()])

    async def test_stores_on_one_redis_see_each_other(
        self, redis: Redis, redis_server: RedisServer
    ) -> None:
        new = new_session("alice")
        async with RedisTokenStore(redis_server.url) as first:
            await first.issue([new])
        second = RedisTokenStore(redis)
        assert [session.ref for session in await second.sessions(ALICE)] == [new.ref]
        assert await second.revoke_subject(ALICE) == 1


class TestSqliteOnly:
    async def test_the_file_is_in_wal_mode(self, path: Path) -> None:
        async with SqliteTokenStore(path) as store:
            await store.issue([new_session()])
        assert _query(path, "PRAGMA journal_mode") == [("wal",)]

    async def test_it_writes_through_to_the_disk_and_waits_for_locks(self, path: Path) -> None:
        def settings(cursor: sqlite3.Cursor) -> list[tuple[int]]:
            pragmas = ("PRAGMA synchronous", "PRAGMA busy_timeout")
            return [cursor.execute(pragma).fetchone() for pragma in pragmas]

        database = SqliteDatabase(path, 1.25, lambda cursor: None)
        assert await database.run(settings) == [(2,), (1250,)]  # FULL, milliseconds
        await database.close()

    async def test_sessions_outlive_the_store(self, path: Path) -> None:
        new = new_session("alice")
        async with SqliteTokenStore(path) as store:
            await store.issue([new])
        async with SqliteTokenStore(path) as store:
            assert list(await store.sessions(ALICE)) == [new.begun()]

    async def test_stores_on_one_file_see_each_other(self, path: Path) -> None:
        new, sole = new_session("alice"), new_session("alice", sole=True)
        async with SqliteTokenStore(path) as first, SqliteTokenStore(path) as second:
            await first.issue([new])
            assert list(await second.sessions(ALICE)) == [new.begun()]
            await second.issue([sole])
            assert list(await first.lookup([new.ref, sole.ref])) == [None, sole.begun().expires_at]
            assert list(await first.revoke([sole.ref])) == [True]
            assert list(await second.revoke([sole.ref])) == [False]

    @pytest.mark.parametrize("attempt", range(5))
    async def test_many_may_open_a_new_file_at_once(self, path: Path, attempt: int) -> None:
        stores = [SqliteTokenStore(path) for _ in range(8)]
        batch = [new_session("alice") for _ in stores]
        await asyncio.gather(
            *(store.issue([new]) for store, new in zip(stores, batch, strict=True))
        )
        assert await stores[0].revoke_subject(ALICE) == 8
        for store in stores:
            await store.close()

    async def test_sessions_end_by_the_given_clock(self, path: Path) -> None:
        now = 1_700_000_000.0
        async with SqliteTokenStore(path, clock=lambda: now) as store:
            new = new_session("alice", issued_at=1_700_000_000_000, ttl=60_000)
            await store.issue([new])
            now += 59.999
            assert list(await store.lookup([new.ref])) == [1_700_000_060_000]
            assert list(await store.sessions(ALICE)) == [new.begun()]
            now += 0.001
            assert list(await store.lookup([new.ref])) == [None]
            assert list(await store.sessions(ALICE)) == []
            assert list(await store.revoke([new.ref])) == [False]

    async def test_later_logins_clear_the_dead_away(self, path: Path) -> None:
        now = 1_700_000_000.0
        async with SqliteTokenStore(path, clock=lambda: now) as store:
            for i in range(300):
                issued_at = int(now * 1000)
                await store.issue([new_session(f"user-{i}", issued_at=issued_at, ttl=10_000)])
                now += 1
            assert _query(path, "SELECT count(*) FROM mpauthx_session") == [(10,)]
            now += 3600
            for i in range(5):
                await store.issue([new_session(f"late-{i}", issued_at=int(now * 1000))])
            assert _query(path, "SELECT count(*) FROM mpauthx_session") == [(5,)]

    async def test_no_question_reads_the_whole_table(self, path: Path) -> None:
        async with aiosqlite.connect(path) as connection:
            store = SqliteTokenStore(connection)
            await store.lookup([])
            statements: list[str] = []
            await connection.set_trace_callback(statements.append)
            await _use_everything(store)
            await connection.set_trace_callback(None)
        searched = [
            step
            for statement in statements
            if statement.startswith(("SELECT", "DELETE"))
            for *_, step in _query(path, f"EXPLAIN QUERY PLAN {statement}")
            if "mpauthx_session" in step
        ]
        narrow = ("(nonce=?)", "(sku=? AND user_id=?)", "(expires_at<?)")
        assert len(searched) >= 5
        assert [step for step in searched if not step.endswith(narrow)] == []

    @pytest.mark.parametrize("row_factory", [sqlite3.Row, lambda cursor, row: {"row": row}])
    async def test_a_connection_may_have_a_row_factory(self, path: Path, row_factory: Any) -> None:
        async with aiosqlite.connect(path) as connection:
            connection.row_factory = row_factory
            store = SqliteTokenStore(connection)
            await _use_everything(store)
            new = new_session("alice")
            await store.issue([new])
            assert list(await store.sessions(ALICE)) == [new.begun()]
            assert list(await store.lookup([new.ref])) == [new.begun().expires_at]
            assert list(await store.revoke([new.ref])) == [True]
            assert connection.row_factory is row_factory

    @pytest.mark.parametrize("isolation_level", [None, "DEFERRED", "EXCLUSIVE"])
    async def test_a_connection_may_have_any_isolation_level(
        self, path: Path, isolation_level: Any
    ) -> None:
        async with aiosqlite.connect(path, isolation_level=isolation_level) as connection:
            store = SqliteTokenStore(connection)
            await _use_everything(store)
            await store.issue([new_session("alice")])
            assert not connection.in_transaction
        assert _query(path, "SELECT user_id FROM mpauthx_session") == [("alice",)]

    if sys.version_info >= (3, 12):

        async def test_a_connection_may_commit_by_itself(self, path: Path) -> None:
            async with aiosqlite.connect(path, autocommit=True) as connection:
                store = SqliteTokenStore(connection)
                await store.issue([new_session("alice")])
                assert not connection.in_transaction
            assert _query(path, "SELECT user_id FROM mpauthx_session") == [("alice",)]

        async def test_a_connection_that_is_always_in_a_transaction_is_refused(
            self, path: Path
        ) -> None:
            async with aiosqlite.connect(path, autocommit=False) as connection:
                with pytest.raises(StoreError, match="autocommit=False"):
                    await SqliteTokenStore(connection).issue([new_session("alice")])

    async def test_a_connection_that_was_given_stays_open(self, path: Path) -> None:
        async with aiosqlite.connect(path) as connection:
            async with SqliteTokenStore(connection) as store:
                await store.issue([new_session()])
            with pytest.raises(ClosedError):
                await store.issue([new_session()])
            async with connection.execute("SELECT count(*) FROM mpauthx_session") as cursor:
                assert await cursor.fetchone() == (1,)

    async def test_a_foreign_transaction_is_refused_and_left_alone(self, path: Path) -> None:
        first, second = new_session("alice"), new_session("alice")
        async with aiosqlite.connect(path) as connection:
            store = SqliteTokenStore(connection)
            await store.issue([first])
            await connection.execute("CREATE TABLE note (text)")
            await connection.execute("INSERT INTO note VALUES ('mine')")
            for write in (
                lambda: store.issue([second]),
                lambda: store.revoke([first.ref]),
                lambda: store.revoke_subject(ALICE),
            ):
                with pytest.raises(StoreError, match="transaction"):
                    await write()
            assert connection.in_transaction
            await connection.commit()
            assert list(await store.sessions(ALICE)) == [first.begun()]
            await store.issue([second])
            assert await store.revoke_subject(ALICE) == 2
        assert _query(path, "SELECT text FROM note") == [("mine",)]

    async def test_nothing_is_created_inside_a_foreign_transaction(self, path: Path) -> None:
        new = new_session("alice")
        async with aiosqlite.connect(path) as connection:
            store = SqliteTokenStore(connection)
            await connection.execute("BEGIN")
            with pytest.raises(StoreError, match="transaction"):
                await store.lookup([new.ref])
            with pytest.raises(StoreError, match="transaction"):
                await store.issue([new])
            await connection.rollback()
            await store.issue([new])
            assert list(await store.sessions(ALICE)) == [new.begun()]


class TestOpeningByUrl:
    async def test_redis_is_reached_through_the_connections(
        self, redis: Redis, redis_server: RedisServer
    ) -> None:
        async with Connections() as connections:
            store = open_token_store(redis_server.url, connections)
            await store.issue([new_session()])
            assert isinstance(connections.redis, Redis)
        assert await redis.dbsize() == 2

    async def test_an_absolute_path(self, path: Path) -> None:
        async with open_token_store(f"sqlite:///{path}", Connections()) as store:
            await store.issue([new_session()])
        assert _query(path, "SELECT count(*) FROM mpauthx_session") == [(1,)]

    async def test_a_path_from_here(self, path: Path) -> None:
        here = Path.cwd()
        relative = "/".join([".."] * (len(here.parts) - 1)) + str(path)
        async with open_token_store(f"SQLite:///{relative}", Connections()) as store:
            await store.issue([new_session()])
        assert _query(path, "SELECT count(*) FROM mpauthx_session") == [(1,)]

    async def test_the_clock_is_handed_on(self, path: Path) -> None:
        url, new = f"sqlite:///{path}", new_session()
        async with open_token_store(url, Connections(), clock=lambda: 4e9) as store:
            await store.issue([new])
            assert list(await store.lookup([new.ref])) == [None]

    @pytest.mark.parametrize(
        "url", ["mysql://localhost/db", "tokens.db", "", "sqlite://tokens.db", "sqlite:///"]
    )
    async def test_what_names_no_store_is_refused(self, url: str) -> None:
        with pytest.raises(ConfigurationError):
            open_token_store(url, Connections())


def session_key(nonce: str) -> str:
    """The key of one of Alice's sessions."""
    return f"mpauthx:t:{{shop:{BUCKET}}}:{nonce}"


async def _use_everything(store: RedisTokenStore | SqliteTokenStore) -> None:
    batch = [new_session(user_id) for user_id in ("alice", "bob", "alice", "carol")]
    await store.issue(batch)
    await store.issue([new_session("carol", sole=True)])
    await store.lookup([new.ref for new in batch])
    await store.sessions(ALICE)
    await store.revoke([batch[0].ref, batch[1].ref])
    await store.revoke_subject(ALICE)
    await store.revoke_subject(Subject("shop", "carol"))


async def _dump(redis: Redis) -> dict[str, Any]:
    """All that Redis holds."""
    dump: dict[str, Any] = {}
    for key in await redis.keys("*"):
        if await redis.type(key) == b"hash":
            fields = await redis.hgetall(key)
            dump[key.decode()] = {name.decode(): text.decode() for name, text in fields.items()}
        else:
            value = await redis.get(key)
            if value is not None:  # it has not ended meanwhile
                dump[key.decode()] = value.decode()
    return dump


async def _commands(redis: Redis) -> dict[str, int]:
    """How often each command was run since CONFIG RESETSTAT, within scripts too."""
    stats = await redis.info("commandstats")
    calls = {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()}
    return {name: count for name, count in calls.items() if not name.startswith("config")}


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode().rstrip("=")


def _query(path: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()
