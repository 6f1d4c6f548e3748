"""What every token store promises, and what each promises beyond that."""

import asyncio
import base64
import sqlite3
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
    Subject,
    WeChatSimulator,
)
from mpauthx_async.stores import open_token_store
from mpauthx_async.stores.conformance import (
    SessionKeyStoreConformance,
    TokenStoreConformance,
    new_session,
)

from .memory_stores import MemoryTokens
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
        url, new = f"sqlite:///{path}", new_session(ttl=1000)
        async with open_token_store(url, Connections(), clock=lambda: 4e9) as store:
            await store.issue([new])
            assert list(await store.lookup([new.ref])) == [4_000_000_001_000]

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
