"""What the stores do when what they stand on fails, and what they leave behind."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any
from zlib import crc32

import aiosqlite
import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis, RedisCluster

from mpauthx_async import (
    ClosedError,
    NewSession,
    RedisTokenStore,
    SqliteTokenStore,
    SqliteUserStore,
    StoreError,
    User,
)
from mpauthx_async.stores.conformance import new_session
from mpauthx_async.stores.conformance.examples import SOLE, begin, is_alive
from mpauthx_async.tokens import new_nonce

from .redis_server import RedisServer

AnySqliteStore = SqliteTokenStore | SqliteUserStore
Question = Callable[[Any], Awaitable[Any]]

PATIENCE = 60  # seconds that stand for ever
KNOWN = new_session("alice")
ALICE = KNOWN.ref.subject

ASKED_OF_TOKENS: dict[str, Question] = {
    "issue": lambda store: store.issue([new_session("alice")]),
    "lookup": lambda store: store.lookup([KNOWN.ref]),
    "revoke": lambda store: store.revoke([KNOWN.ref]),
    "sessions": lambda store: store.sessions(ALICE),
    "revoke_subject": lambda store: store.revoke_subject(ALICE),
}
ASKED_OF_SQLITE_TOKENS = ASKED_OF_TOKENS | {
    "read": lambda store: store.read([KNOWN.ref]),
    "rotate": lambda store: store.rotate([KNOWN.ref], ttl=60_000, grace=0),
    "end_reused": lambda store: store.end_reused([KNOWN.ref]),
    "renew": lambda store: store.renew([KNOWN.ref], ttl=60_000),
    "ban": lambda store: store.ban(ALICE, reason="spam", ttl=None),
    "ban_of": lambda store: store.ban_of(ALICE),
    "unban": lambda store: store.unban(ALICE),
    "online": lambda store: store.online("shop", cursor=None, limit=1),
    "online_count": lambda store: store.online_count("shop"),
}
WRITING = ("issue", "revoke", "revoke_subject", "rotate", "end_reused", "ban", "unban")
ASKED_OF_USERS: dict[str, Question] = {
    "save": lambda store: store.save([User(new_nonce())]),
    "get": lambda store: store.get(["o-alice"]),
}
SQLITE_STORES = [
    pytest.param(SqliteTokenStore, ASKED_OF_SQLITE_TOKENS, id="tokens"),
    pytest.param(SqliteUserStore, ASKED_OF_USERS, id="users"),
]


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Redis of the test's own."""
    with RedisServer() as server:
        yield server


@pytest.fixture
async def admin(server: RedisServer) -> AsyncIterator[Redis]:
    async with Redis.from_url(server.url, decode_responses=True) as client:
        yield client


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[RedisTokenStore]:
    """A store on the test's own Redis, in which one session of Alice lives."""
    async with RedisTokenStore(server.url) as store:
        await store.issue([KNOWN])
        yield store


@pytest.fixture
def cluster_server() -> Iterator[RedisServer]:
    """A Redis Cluster of one node."""
    with RedisServer(cluster_enabled="yes") as server:
        with SyncRedis(port=server.port) as client:
            client.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
        _await_cluster(server)
        yield server


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


class TestRedisThatIsNotThere:
    @pytest.mark.parametrize("asked", ASKED_OF_TOKENS)
    async def test_every_question_is_a_store_error(self, asked: str, server: RedisServer) -> None:
        server.stop()
        async with RedisTokenStore(server.url) as store:
            await _fails(ASKED_OF_TOKENS[asked](store))
            server.start()
            await ASKED_OF_TOKENS[asked](store)

    async def test_a_host_that_does_not_exist_is_a_store_error(self) -> None:
        async with RedisTokenStore("redis://redis.invalid:6379/0") as store:
            await _fails(store.lookup([KNOWN.ref]))

    async def test_something_else_on_its_port_is_a_store_error(self) -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as web_server:
            port = web_server.sockets[0].getsockname()[1]
            async with RedisTokenStore(f"redis://127.0.0.1:{port}/0") as store:
                await _fails(store.lookup([KNOWN.ref]))


class TestRedisThatDies:
    async def test_lookups_in_flight_say_neither_valid_nor_invalid(
        self, server: RedisServer, store: RedisTokenStore
    ) -> None:
        lookups = [asyncio.ensure_future(store.lookup([KNOWN.ref])) for _ in range(60)]
        await asyncio.wait(lookups, return_when=asyncio.FIRST_COMPLETED)
        server.stop(signal.SIGKILL)
        answers = await _settled(lookups)
        failed = [answer for answer in answers if isinstance(answer, StoreError)]
        answered = [answer for answer in answers if not isinstance(answer, StoreError)]
        assert failed
        assert answered == [[KNOWN.begun().expires_at]] * len(answered)
        server.start()
        await store.issue([KNOWN])
        assert list(await store.lookup([KNOWN.ref])) == [KNOWN.begun().expires_at]

    async def test_lookups_that_hang_when_it_dies_say_neither(
        self, server: RedisServer, store: RedisTokenStore
    ) -> None:
        server.pause()
        lookups = [asyncio.ensure_future(store.lookup([KNOWN.ref])) for _ in range(16)]
        await asyncio.sleep(0)
        server.stop(signal.SIGKILL)
        assert {type(answer) for answer in await _settled(lookups)} == {StoreError}
        server.start()
        assert list(await store.lookup([KNOWN.ref])) == [None]

    async def test_logins_in_flight_are_kept_whole_or_not_at_all(self) -> None:
        with RedisServer(appendonly="yes", appendfsync="always") as server:
            async with RedisTokenStore(server.url) as store:
                batches = [
                    [new_session("alice"), new_session(f"user-{i}", sole=True)] for i in range(60)
                ]
                issues = [asyncio.ensure_future(store.issue(batch)) for batch in batches]
                await asyncio.wait(issues, return_when=asyncio.FIRST_COMPLETED)
                server.stop(signal.SIGKILL)
                answers = await _settled(issues)
                assert {type(answer) for answer in answers} == {list, StoreError}
                server.start()
                async with Redis.from_url(server.url) as admin:
                    for batch, answer in zip(batches, answers, strict=True):
                        kept = [await _is_kept(admin, new) for new in batch]
                        assert kept[0] == kept[1]
                        assert kept[0] or isinstance(answer, StoreError)
                for batch in batches:
                    assert list(await store.issue(batch)) == [new.begun() for new in batch]
                assert await store.revoke_subject(ALICE) == 60

    async def test_a_cluster_that_is_gone_is_a_store_error(
        self, cluster_server: RedisServer
    ) -> None:
        async with RedisCluster(host="127.0.0.1", port=cluster_server.port) as client:
            store = RedisTokenStore(client)
            await store.issue([KNOWN])
            cluster_server.stop(signal.SIGKILL)
            for ask in ASKED_OF_TOKENS.values():
                await _fails(ask(store))
            cluster_server.start()
            _await_cluster(cluster_server)
            await store.issue([KNOWN])
            assert list(await store.lookup([KNOWN.ref])) == [KNOWN.begun().expires_at]


class TestRedisThatHangs:
    async def test_nobody_waits_for_ever(self, server: RedisServer) -> None:
        async with RedisTokenStore(f"{server.url}?socket_timeout=0.2") as store:
            await store.issue([KNOWN])
            server.pause()
            await _fail([ask(store) for ask in ASKED_OF_TOKENS.values()])
            server.resume()
            await store.issue([KNOWN])
            assert list(await store.lookup([KNOWN.ref])) == [KNOWN.begun().expires_at]

    async def test_nobody_waits_for_ever_to_connect(self, server: RedisServer) -> None:
        async with RedisTokenStore(f"{server.url}?socket_timeout=0.2") as store:
            server.pause()
            await _fail([ask(store) for ask in ASKED_OF_TOKENS.values()])
            server.resume()
            await store.issue([KNOWN])
            assert list(await store.lookup([KNOWN.ref])) == [KNOWN.begun().expires_at]

    async def test_logins_that_nobody_waited_for_are_whole_or_not_there(
        self, server: RedisServer, admin: Redis
    ) -> None:
        async with RedisTokenStore(f"{server.url}?socket_timeout=0.2") as store:
            await store.issue([KNOWN])
            server.pause()
            batch = [new_session("alice") for _ in range(10)]
            await _fail([store.issue([new]) for new in batch])
            server.resume()
            for new in batch:
                await _is_kept(admin, new)  # which says whether its parts agree
            await store.issue(batch)
            assert await store.revoke_subject(ALICE) == 11


class TestRedisThatRefuses:
    async def test_a_full_redis_begins_no_session_and_ends_none(
        self, store: RedisTokenStore, admin: Redis
    ) -> None:
        await admin.config_set("maxmemory-policy", "noeviction")
        await admin.config_set("maxmemory", "1")
        before = await _dump(admin)
        for sole in (False, True):
            error = await _fails(store.issue([new_session(sole=sole), new_session("bob")]))
            assert "maxmemory" in str(error)
        assert await _dump(admin) == before
        assert list(await store.lookup([KNOWN.ref])) == [KNOWN.begun().expires_at]
        assert list(await store.revoke([KNOWN.ref])) == [True]
        await admin.config_set("maxmemory", "0")
        await store.issue([KNOWN])
        assert list(await store.sessions(ALICE)) == [KNOWN.begun()]

    async def test_a_replica_begins_no_session_and_ends_none(
        self, store: RedisTokenStore, admin: Redis
    ) -> None:
        await admin.replicaof("127.0.0.1", "1")
        before = await _dump(admin)
        for asked in ("issue", "revoke", "revoke_subject"):
            await _fails(ASKED_OF_TOKENS[asked](store))
        await _fails(store.issue([new_session(sole=True)]))
        assert await _dump(admin) == before
        assert list(await store.lookup([KNOWN.ref])) == [KNOWN.begun().expires_at]
        assert list(await store.sessions(ALICE)) == [KNOWN.begun()]
        await admin.replicaof("NO", "ONE")
        assert await store.revoke_subject(ALICE) == 1

    @pytest.mark.parametrize(
        "rights",
        [
            ["-@all", "~*"],
            ["+@all", "-@scripting", "~*"],
            ["+@all", "-@write", "~*"],
            ["+@all", "-set", "~*"],
            ["+@all", "~mpauthx:t:*"],
            ["+@all", "~mpauthx:u:*"],
            ["+@all"],
        ],
        ids=" ".join,
    )
    async def test_a_user_without_rights_begins_no_session(
        self, rights: list[str], server: RedisServer, store: RedisTokenStore, admin: Redis
    ) -> None:
        await admin.execute_command("ACL", "SETUSER", "app", "on", ">Xy-s3cret-yX", *rights)
        before = await _dump(admin)
        url = server.url.replace("//", "//app:Xy-s3cret-yX@")
        async with RedisTokenStore(url) as limited:
            for sole in (False, True):
                error = await _fails(limited.issue([new_session("alice", sole=sole)]))
                assert "s3cret" not in _all_that_it_says(error)
            assert await _dump(admin) == before
            await admin.execute_command("ACL", "SETUSER", "app", "+@all", "~*")
            await limited.issue([new_session("alice")])
        assert await store.revoke_subject(ALICE) == 2

    @pytest.mark.parametrize("asked", ASKED_OF_TOKENS)
    async def test_a_wrong_password_is_a_store_error_that_does_not_tell_it(
        self, asked: str, server: RedisServer, admin: Redis
    ) -> None:
        await admin.config_set("requirepass", "Ab-r1ght-bA")
        for user_info in (":Xy-wr0ng-yX@", "nobody:Xy-wr0ng-yX@", ""):
            async with RedisTokenStore(server.url.replace("//", f"//{user_info}")) as store:
                said = _all_that_it_says(await _fails(ASKED_OF_TOKENS[asked](store)))
                assert "wr0ng" not in said
                assert "r1ght" not in said
        async with RedisTokenStore(server.url.replace("//", "//:Ab-r1ght-bA@")) as store:
            await ASKED_OF_TOKENS[asked](store)

    async def test_a_password_is_not_told_when_redis_is_gone(self, server: RedisServer) -> None:
        server.stop()
        async with RedisTokenStore(server.url.replace("//", "//app:Xy-s3cret-yX@")) as store:
            error = await _fails(store.lookup([KNOWN.ref]))
            assert "s3cret" not in _all_that_it_says(error)

    async def test_a_redis_with_too_many_clients_is_a_store_error(
        self, server: RedisServer, admin: Redis
    ) -> None:
        await admin.config_set("maxclients", "1")
        async with RedisTokenStore(server.url) as store:
            await _fails(store.lookup([KNOWN.ref]))
            await admin.config_set("maxclients", "100")
            assert list(await store.lookup([KNOWN.ref])) == [None]


class TestLockedDatabase:
    async def test_a_login_fails_while_another_process_writes(self, path: Path) -> None:
        async with SqliteTokenStore(path, busy_timeout=0.05) as store:
            (known,) = await begin(store, KNOWN)
            with _locked(path):
                error = await _fails(store.issue([new_session("alice", policy=SOLE)]))
                assert "Another process" in str(error)
                for asked in WRITING:
                    await _fails(ASKED_OF_SQLITE_TOKENS[asked](store))
                assert list(await store.lookup([KNOWN.ref])) == [known.expires_at]
                assert list(await store.sessions(ALICE)) == [known]
            await store.issue([new_session("alice")])
            assert await store.revoke_subject(ALICE) == 2

    async def test_a_user_is_not_saved_while_another_process_writes(self, path: Path) -> None:
        async with SqliteUserStore(path, busy_timeout=0.05) as store:
            await store.save([User("o-alice")])
            with _locked(path):
                error = await _fails(store.save([User("o-alice", city="Wuhan"), User("o-bob")]))
                assert "Another process" in str(error)
                assert list(await store.save([User("o-alice")])) == [False]
            alice, bob = await store.get(["o-alice", "o-bob"])
            assert alice is not None
            assert (alice.city, bob) == (None, None)
            assert list(await store.save([User("o-alice", city="Wuhan"), User("o-bob")])) == [
                False,
                True,
            ]

    @pytest.mark.parametrize(("kind", "questions"), SQLITE_STORES)
    async def test_a_file_that_was_locked_at_first_works_later(
        self, path: Path, kind: type[AnySqliteStore], questions: dict[str, Question]
    ) -> None:
        async with kind(path, busy_timeout=0.05) as store:
            with _locked(path):
                for ask in questions.values():
                    await _fails(ask(store))
            for ask in questions.values():
                await ask(store)

    @pytest.mark.parametrize(("kind", "questions"), SQLITE_STORES)
    async def test_a_lock_that_goes_in_time_is_waited_for(
        self, path: Path, kind: type[AnySqliteStore], questions: dict[str, Question]
    ) -> None:
        async with kind(path, busy_timeout=PATIENCE) as store:
            with _locked(path):
                opening = asyncio.ensure_future(next(iter(questions.values()))(store))
                await _turns(100)
                assert not opening.done()
            await opening
            with _locked(path):
                writing = asyncio.ensure_future(next(iter(questions.values()))(store))
                await _turns(100)
                assert not writing.done()
            await writing

    @pytest.mark.parametrize(("kind", "questions"), SQLITE_STORES)
    async def test_a_writer_to_a_file_without_wal_is_waited_for(
        self, path: Path, kind: type[AnySqliteStore], questions: dict[str, Question]
    ) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            async with kind(path, busy_timeout=PATIENCE) as store:
                opening = asyncio.ensure_future(next(iter(questions.values()))(store))
                await asyncio.wait([opening], timeout=0.2)  # SQLite refuses WAL at once
                assert not opening.done()
                writer.execute("COMMIT")
                await opening

    @pytest.mark.parametrize(("kind", "questions"), SQLITE_STORES)
    async def test_a_writer_to_a_file_without_wal_is_not_waited_for_for_ever(
        self, path: Path, kind: type[AnySqliteStore], questions: dict[str, Question]
    ) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            async with kind(path, busy_timeout=0.05) as store:
                for ask in questions.values():
                    await _fails(ask(store))


class TestReadOnlyDatabase:
    async def test_tokens_are_looked_up_and_not_issued(self, path: Path) -> None:
        async with SqliteTokenStore(path) as writer:
            (known,) = await begin(writer, KNOWN)
        async with _open_read_only(path) as connection:
            store = SqliteTokenStore(connection)
            assert list(await store.lookup([KNOWN.ref])) == [known.expires_at]
            for asked in WRITING:
                error = await _fails(ASKED_OF_SQLITE_TOKENS[asked](store))
                assert "writable" in str(error)
            assert list(await store.sessions(ALICE)) == [known]
            assert await store.online("shop", cursor=None, limit=1) == (["alice"], None)

    async def test_users_are_found_and_not_saved(self, path: Path) -> None:
        async with SqliteUserStore(path) as writer:
            await writer.save([User("o-alice")])
        async with _open_read_only(path) as connection:
            store = SqliteUserStore(connection)
            for changed in (User("o-alice", city="Wuhan"), User("o-bob")):
                error = await _fails(store.save([changed]))
                assert "writable" in str(error)
            assert list(await store.save([User("o-alice")])) == [False]
            alice, bob = await store.get(["o-alice", "o-bob"])
            assert alice is not None
            assert (alice.city, bob) == (None, None)

    @pytest.mark.parametrize(("kind", "questions"), SQLITE_STORES)
    async def test_what_is_missing_cannot_be_created(
        self, path: Path, kind: type[AnySqliteStore], questions: dict[str, Question]
    ) -> None:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE other (x)")
        async with _open_read_only(path) as read_only:
            for ask in questions.values():
                await _fails(ask(kind(read_only)))


@pytest.mark.parametrize(("kind", "questions"), SQLITE_STORES)
class TestNoDatabase:
    async def test_a_file_of_text_is_refused_and_left_alone(
        self, path: Path, kind: type[AnySqliteStore], questions: dict[str, Question]
    ) -> None:
        text = b"Dear diary, " * 1000
        _write(path, text)
        threads = set(threading.enumerate())
        async with kind(path) as store:
            for ask in questions.values():
                assert "something else" in str(await _fails(ask(store)))
        assert _read(path) == text
        for thread in set(threading.enumerate()) - threads:
            if not thread.name.startswith("asyncio"):  # those are the event loop's
                thread.join(timeout=PATIENCE)
                assert not thread.is_alive()

    async def test_a_folder_that_is_missing_may_come_later(
        self, tmp_path: Path, kind: type[AnySqliteStore], questions: dict[str, Question]
    ) -> None:
        folder = tmp_path / "missing"
        async with kind(folder / "store.db") as store:
            for ask in questions.values():
                error = await _fails(ask(store))
                assert "folder" in str(error)
            folder.mkdir()
            for ask in questions.values():
                await ask(store)

    async def test_a_folder_is_refused(
        self, tmp_path: Path, kind: type[AnySqliteStore], questions: dict[str, Question]
    ) -> None:
        async with kind(tmp_path) as store:
            for ask in questions.values():
                await _fails(ask(store))

    async def test_a_connection_that_is_closed_is_a_store_error(
        self, path: Path, kind: type[AnySqliteStore], questions: dict[str, Question]
    ) -> None:
        async with aiosqlite.connect(path) as connection:
            used, unused = kind(connection), kind(connection)
            for ask in questions.values():
                await ask(used)
        for store in (used, unused):
            for ask in questions.values():
                await _fails(ask(store))


class TestFullDisk:
    async def test_a_batch_that_does_not_fit_leaves_nothing(self, path: Path) -> None:
        async with aiosqlite.connect(path) as connection:
            store = SqliteTokenStore(connection)
            (known,) = await begin(store, KNOWN)
            await _limit_growth(connection)
            batch = [new_session("alice", policy=SOLE), *(new_session("alice") for _ in range(499))]
            error = await _fails(store.issue(batch))
            assert "full" in str(error)
            assert list(await store.lookup([new.ref for new in batch])) == [None] * 500
            assert list(await store.sessions(ALICE)) == [known]
            await connection.execute("PRAGMA max_page_count = 1000000")
            await store.issue(batch)
            assert await store.revoke_subject(ALICE) == 500

    async def test_users_that_do_not_fit_leave_nothing(self, path: Path) -> None:
        async with aiosqlite.connect(path) as connection:
            store = SqliteUserStore(connection)
            await store.save([User("o-alice")])
            await _limit_growth(connection)
            users = [User(f"o-{i}", city="x" * 1000) for i in range(100)]
            error = await _fails(store.save([User("o-alice", city="Wuhan"), *users]))
            assert "full" in str(error)
            assert list(await store.get([user.id for user in users])) == [None] * 100
            (alice,) = await store.get(["o-alice"])
            assert alice is not None
            assert alice.city is None
            await connection.execute("PRAGMA max_page_count = 1000000")
            assert list(await store.save(users)) == [True] * 100


class TestClosing:
    @pytest.mark.parametrize(("kind", "questions"), SQLITE_STORES)
    async def test_a_closed_sqlite_store_says_so(
        self, path: Path, kind: type[AnySqliteStore], questions: dict[str, Question]
    ) -> None:
        used, unused = kind(path), kind(path)
        for ask in questions.values():
            await ask(used)
        for store in (used, unused):
            await store.close()
            await store.close()
            for ask in questions.values():
                with pytest.raises(ClosedError):
                    await ask(store)

    async def test_a_closed_redis_store_says_so(self, redis_server: RedisServer) -> None:
        used, unused = RedisTokenStore(redis_server.url), RedisTokenStore(redis_server.url)
        for ask in ASKED_OF_TOKENS.values():
            await ask(used)
        for store in (used, unused):
            await store.close()
            await store.close()
            for ask in ASKED_OF_TOKENS.values():
                with pytest.raises(ClosedError):
                    await ask(store)

    async def test_closing_a_sqlite_store_lets_what_is_in_progress_finish(self, path: Path) -> None:
        store = SqliteTokenStore(path)
        batches = [[new_session("alice")] for _ in range(10)]
        issues = [asyncio.ensure_future(store.issue(batch)) for batch in batches]
        await asyncio.sleep(0)
        await store.close()
        answers = await _settled(issues)
        assert [type(answer) for answer in answers] == [list] * 10
        async with SqliteTokenStore(path) as reopened:
            assert await reopened.revoke_subject(ALICE) == 10

    @pytest.mark.parametrize("turns", range(6))
    async def test_closing_a_redis_store_lets_what_is_in_progress_finish(
        self, server: RedisServer, admin: Redis, turns: int
    ) -> None:
        store = RedisTokenStore(server.url)
        await store.issue([KNOWN])
        lookups = [asyncio.ensure_future(store.lookup([KNOWN.ref])) for _ in range(20)]
        await _turns(turns)
        await store.close()
        for answer in await _settled(lookups):
            assert isinstance(answer, ClosedError) or answer == [KNOWN.begun().expires_at]
        assert (await admin.info("clients"))["connected_clients"] == 1


class TestCancelledCallers:
    """A caller is cancelled where it waits for the first time, another at the second, and so on."""

    @pytest.mark.parametrize("opened", [False, True])
    async def test_a_login_in_sqlite_is_kept_whole_or_not_at_all(
        self, path: Path, opened: bool
    ) -> None:
        async with SqliteTokenStore(path) as observer:
            for wait in count(1):
                name = f"user-{wait}"
                earlier, *batch = (
                    new_session(name),
                    new_session(name, policy=SOLE),
                    new_session(name),
                )
                await observer.issue([earlier])
                async with SqliteTokenStore(path) as store:
                    if opened:
                        await store.lookup([])
                    finished = await _cancel_at(wait, store.issue(batch))
                    await store.lookup([])  # the thread goes on to the end of what it has begun
                    alive = await is_alive(observer, earlier, *batch)
                    assert alive in ([True, False, False], [False, True, True])
                    await store.issue(batch)
                    assert await store.revoke_subject(earlier.ref.subject) == 2
                if finished:
                    break
        assert wait > 1

    @pytest.mark.parametrize("opened", [False, True])
    async def test_users_in_sqlite_are_kept_all_or_none(self, path: Path, opened: bool) -> None:
        async with SqliteUserStore(path) as observer:
            for wait in count(1):
                known = User(f"o-known-{wait}")
                await observer.save([known])
                batch = [User(f"o-{wait}"), replace(known, city="Wuhan")]
                async with SqliteUserStore(path) as store:
                    if opened:
                        await store.get([])
                    finished = await _cancel_at(wait, store.save(batch))
                    await store.get([])  # the thread goes on to the end of what it has begun
                    new, old = await observer.get([user.id for user in batch])
                    assert (new is None) == (old is not None and old.city is None)
                    assert list(await store.save(batch)) == [new is None, False]
                if finished:
                    break
        assert wait > 1

    @pytest.mark.parametrize("opened", [False, True])
    async def test_a_connection_that_was_given_is_not_left_in_a_transaction(
        self, path: Path, opened: bool
    ) -> None:
        async with aiosqlite.connect(path) as connection:
            for wait in count(1):
                store = SqliteTokenStore(connection)
                if opened:
                    await store.lookup([])
                finished = await _cancel_at(wait, store.issue([new_session()]))
                await store.lookup([])  # the thread goes on to the end of what it has begun
                assert not connection.in_transaction
                await store.issue([new_session()])
                if finished:
                    break
        assert wait > 1

    @pytest.mark.parametrize("opened", [False, True])
    async def test_a_login_in_redis_is_kept_whole_or_not_at_all(
        self, redis: Redis, redis_server: RedisServer, opened: bool
    ) -> None:
        for wait in count(1):
            batch = [new_session("alice"), new_session("bob", sole=True)]
            async with RedisTokenStore(_one_connection(redis_server)) as store:
                if opened:
                    await store.issue([new_session("alice")])
                finished = await _cancel_at(wait, store.issue(batch))
                for new in batch:
                    await _is_kept(redis, new)  # which says whether its parts agree
                await store.issue(batch)
                assert await _is_kept(redis, batch[0])
                assert [session.ref for session in await store.sessions(batch[1].ref.subject)] == [
                    batch[1].ref
                ]
            if finished:
                break
        assert wait > 1

    @pytest.mark.parametrize("opened", [False, True])
    async def test_a_lookup_leaves_its_answer_to_nobody_else(
        self, redis: Redis, redis_server: RedisServer, opened: bool
    ) -> None:
        mine, yours = new_session("alice", ttl=60_000), new_session("bob", ttl=90_000)
        await RedisTokenStore(redis).issue([mine, yours])
        for wait in count(1):
            async with RedisTokenStore(_one_connection(redis_server)) as store:
                if opened:
                    await store.lookup([mine.ref])
                finished = await _cancel_at(wait, store.lookup([mine.ref]))
                assert list(await store.lookup([yours.ref])) == [yours.begun().expires_at]
            if finished:
                break
        assert wait > 1

    @pytest.mark.parametrize("opened", [False, True])
    async def test_a_cluster_goes_on_as_if_nothing_had_been(
        self, cluster_server: RedisServer, opened: bool
    ) -> None:
        mine, yours = new_session("alice", ttl=60_000), new_session("bob", ttl=90_000)
        async with Redis.from_url(cluster_server.url) as admin:
            for wait in count(1):
                async with RedisCluster(host="127.0.0.1", port=cluster_server.port) as client:
                    store = RedisTokenStore(client)
                    if opened:
                        await store.issue([mine, yours])
                    finished = await _cancel_at(wait, store.issue([mine, yours]))
                    finished &= await _cancel_at(wait, store.lookup([mine.ref]))
                    for new in (mine, yours):
                        await _is_kept(admin, new)
                    await store.issue([mine, yours])
                    assert list(await store.lookup([yours.ref])) == [yours.begun().expires_at]
                if finished:
                    break
        assert wait > 1


class _CancelledAt(Coroutine[Any, Any, Any]):
    """A coroutine whose task is cancelled when it waits for the nth time."""

    def __init__(self, work: Coroutine[Any, Any, Any], wait: int) -> None:
        self._work = work
        self._left = wait

    @property
    def reached(self) -> bool:
        return self._left <= 0

    def send(self, value: Any) -> Any:
        waits_for = self._work.send(value)
        self._left -= 1
        task = asyncio.current_task()
        if self._left == 0 and task is not None:
            task.cancel()
        return waits_for

    def throw(self, *error: Any) -> Any:
        return self._work.throw(*error)

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Any:
        return self._work.__await__()


async def _cancel_at(wait: int, work: Coroutine[Any, Any, Any]) -> bool:
    """Run and cancel a coroutine; returns whether it was done before it waited that often."""
    coroutine = _CancelledAt(work, wait)
    task = asyncio.ensure_future(coroutine)
    await asyncio.wait([task])
    if not task.cancelled():  # asyncio.wait_for of Python 3.11 may overlook that it was
        task.result()
    return not coroutine.reached


async def _fails(question: Awaitable[Any]) -> StoreError:
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(StoreError) as caught:
            await question
    return caught.value


async def _fail(questions: Sequence[Awaitable[Any]]) -> None:
    """All of them at once."""
    answers = await _settled([asyncio.ensure_future(question) for question in questions])
    assert [type(answer) for answer in answers] == [StoreError] * len(answers)


async def _settled(tasks: "Sequence[asyncio.Future[Any]]") -> list[Any]:
    async with asyncio.timeout(PATIENCE):
        return await asyncio.gather(*tasks, return_exceptions=True)


async def _turns(number: int) -> None:
    """Let the event loop turn a few times."""
    for _ in range(number):
        await asyncio.sleep(0)


async def _is_kept(admin: Redis, new: NewSession) -> bool:
    """Whether Redis holds a session; its key and its entry in the index have to agree."""
    tag = f"{{{new.ref.sku}:{crc32(new.ref.user_id.encode()) & 255}}}"
    async with admin.pipeline(transaction=True) as snapshot:
        snapshot.exists(f"mpauthx:t:{tag}:{new.ref.nonce}")
        snapshot.hexists(f"mpauthx:u:{tag}:{new.ref.user_id}", new.ref.nonce)
        key, entry = await snapshot.execute()
    assert bool(key) == bool(entry)
    return bool(key)


async def _dump(admin: Redis) -> dict[str, Any]:
    """All that Redis holds."""
    return {
        key: await (admin.hgetall if await admin.type(key) == "hash" else admin.get)(key)
        for key in await admin.keys("*")
    }


def _await_cluster(server: RedisServer) -> None:
    deadline = time.monotonic() + PATIENCE
    with SyncRedis(port=server.port) as client:
        while client.cluster("INFO")["cluster_state"] != "ok":
            assert time.monotonic() < deadline
            time.sleep(0.05)  # a master waits two seconds before it takes writes


def _one_connection(server: RedisServer) -> str:
    """The URL of a pool that misses at once a connection that is not given back."""
    return f"{server.url}?max_connections=1&timeout=1"


def _all_that_it_says(error: BaseException) -> str:
    return "".join((str(error), repr(error), *traceback.format_exception(error)))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Another process is writing to the database."""
    program = (
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "connection.execute('BEGIN EXCLUSIVE')\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        yield


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _read(path: Path) -> bytes:
    return path.read_bytes()


def _open_read_only(path: Path) -> aiosqlite.Connection:
    return aiosqlite.connect(f"file:{path}?mode=ro", uri=True)


async def _limit_growth(connection: aiosqlite.Connection) -> None:
    """Let the database grow by a page and no more, as on a disk that is nearly full."""
    async with connection.execute("PRAGMA page_count") as cursor:
        row = await cursor.fetchone()
    assert row is not None
    await connection.execute(f"PRAGMA max_page_count = {row[0] + 1}")
