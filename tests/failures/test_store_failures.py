"""What the SQLite stores do when what they stand on fails, and what they leave behind."""

import asyncio
import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from itertools import count
from pathlib import Path

import aiosqlite
import pytest

from mpauthx_async import (
    SqliteKeyValueStore,
    SqliteTokenStore,
    SqliteUserStore,
    StoreError,
    Subject,
    User,
)
from mpauthx_async.stores.conformance import new_session
from mpauthx_async.stores.conformance.examples import LARGEST, SOLE, begin, is_alive
from mpauthx_async.stores.sqlite import database as sqlite_database
from tests.helpers.outages import (
    ALICE,
    ASKED_OF_RECORDS,
    ASKED_OF_TOKENS,
    ASKED_OF_USERS,
    KNOWN,
    PATIENCE,
    WRITING,
    Question,
    all_fail,
    cancel_at,
    fails,
    settled,
    turns,
)
from tests.helpers.sqlite_files import locked, run

Kind = type[SqliteTokenStore | SqliteUserStore | SqliteKeyValueStore]
QUESTIONS: dict[Kind, dict[str, Question]] = {
    SqliteTokenStore: ASKED_OF_TOKENS,
    SqliteUserStore: ASKED_OF_USERS,
    SqliteKeyValueStore: ASKED_OF_RECORDS,
}


class TestLockedDatabase:
    async def test_a_login_fails_while_another_process_writes(self, path: Path) -> None:
        async with SqliteTokenStore(path, busy_timeout=0.05) as store:
            (known,) = await begin(store, KNOWN)
            with locked(path):
                login = store.issue([new_session("alice", policy=SOLE)])
                assert (await fails(login, "Another process")).retryable
                for asked in WRITING:
                    await fails(ASKED_OF_TOKENS[asked](store))
                assert list(await store.lookup([KNOWN.ref])) == [known.expires_at]
                assert list(await store.sessions(ALICE)) == [known]
            await store.issue([new_session("alice")])
            assert await store.revoke_subject(ALICE) == 2

    async def test_a_user_is_not_saved_while_another_process_writes(self, path: Path) -> None:
        async with SqliteUserStore(path, busy_timeout=0.05) as store:
            await store.save([User("o-alice")])
            users = [User("o-alice", city="Wuhan"), User("o-bob")]
            with locked(path):
                error = await fails(store.save(users), "Another process")
                assert type(error) is StoreError
                assert list(await store.save([User("o-alice")])) == [False]
            assert await cities(store, "o-alice", "o-bob") == [None, "not saved"]
            assert list(await store.save(users)) == [False, True]

    async def test_reads_do_not_wait_behind_writes_that_wait(self, path: Path) -> None:
        async with SqliteTokenStore(path, busy_timeout=PATIENCE) as store:
            (known,) = await begin(store, KNOWN)
            with locked(path):
                writes = [
                    asyncio.ensure_future(store.revoke_subject(Subject("shop", f"user-{number}")))
                    for number in range(8)
                ]
                assert list(await store.lookup([KNOWN.ref])) == [known.expires_at]
                assert list(await store.read([KNOWN.ref])) == [known]
                assert list(await store.bans([ALICE])) == [None]
                assert await store.online_count("shop") == 1
                assert not any(write.done() for write in writes)
            await asyncio.gather(*writes)

    async def test_writes_behind_others_that_wait_are_given_up_and_not_begun(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sqlite_database, "_GRACE", 0.5)
        banned = [Subject("shop", f"user-{number}") for number in range(8)]
        async with SqliteTokenStore(path, busy_timeout=1) as store:
            await begin(store, KNOWN)
            with locked(path):
                await all_fail(store.ban(subject, reason="spam", ttl=None) for subject in banned)
            assert await store.revoke_subject(ALICE) == 1  # after whatever was in the queue
            assert list(await store.bans(banned)) == [None] * 8

    async def test_a_read_sees_what_was_written_before(self, path: Path) -> None:
        async with SqliteTokenStore(path) as store:
            for number in range(100):
                subject = Subject("shop", f"user-{number}")
                await store.ban(subject, reason="spam", ttl=None)
                (ban,) = await store.bans([subject])
                assert ban is not None
                assert await store.unban(subject)
                assert list(await store.bans([subject])) == [None]

    @pytest.mark.parametrize("kind", QUESTIONS)
    async def test_a_file_that_is_locked_at_first_works_later(self, path: Path, kind: Kind) -> None:
        async with kind(path, busy_timeout=0.05) as store:
            with locked(path):
                await all_fail(ask(store) for ask in QUESTIONS[kind].values())
            for ask in QUESTIONS[kind].values():
                await ask(store)

    @pytest.mark.parametrize("kind", QUESTIONS)
    async def test_a_lock_that_goes_in_time_is_waited_for(self, path: Path, kind: Kind) -> None:
        async with kind(path, busy_timeout=PATIENCE) as store:
            for _ in ("opening", "writing"):
                with locked(path):
                    waiting = asyncio.ensure_future(write(kind)(store))
                    await turns(100)
                    assert not waiting.done()
                await waiting

    @pytest.mark.parametrize("kind", QUESTIONS)
    async def test_a_writer_to_a_file_without_wal_is_awaited(self, path: Path, kind: Kind) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            async with kind(path, busy_timeout=PATIENCE) as store:
                opening = asyncio.ensure_future(write(kind)(store))
                await asyncio.wait([opening], timeout=0.2)  # SQLite refuses WAL at once
                assert not opening.done()
                writer.execute("COMMIT")
                await opening

    @pytest.mark.parametrize("kind", QUESTIONS)
    async def test_a_writer_without_wal_is_given_up_in_time(self, path: Path, kind: Kind) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            async with kind(path, busy_timeout=0.05) as store:
                await all_fail(ask(store) for ask in QUESTIONS[kind].values())


class TestReadOnlyDatabase:
    async def test_tokens_are_looked_up_and_not_issued(self, path: Path) -> None:
        async with SqliteTokenStore(path) as writer:
            (known,) = await begin(writer, KNOWN)
        async with _open_read_only(path) as connection:
            store = SqliteTokenStore(connection)
            assert list(await store.lookup([KNOWN.ref])) == [known.expires_at]
            for asked in WRITING:
                await fails(ASKED_OF_TOKENS[asked](store), "writable")
            assert list(await store.sessions(ALICE)) == [known]
            assert await store.online("shop", cursor=None, limit=1) == (["alice"], None)

    async def test_users_are_found_and_not_saved(self, path: Path) -> None:
        async with SqliteUserStore(path) as writer:
            await writer.save([User("o-alice")])
        async with _open_read_only(path) as connection:
            store = SqliteUserStore(connection)
            changed, new = User("o-alice", city="Wuhan"), User("o-bob")
            for batch in ([changed], [new], [changed, new]):
                error = await fails(store.save(batch), "writable")
                assert type(error) is StoreError
            assert list(await store.save([User("o-alice")])) == [False]
            assert await cities(store, "o-alice", "o-bob") == [None, "not saved"]

    @pytest.mark.parametrize("kind", QUESTIONS)
    async def test_what_is_missing_cannot_be_created(self, path: Path, kind: Kind) -> None:
        run(path, "CREATE TABLE other (x)")
        async with _open_read_only(path) as read_only:
            await all_fail(ask(kind(read_only)) for ask in QUESTIONS[kind].values())


@pytest.mark.parametrize("kind", QUESTIONS)
class TestNoDatabase:
    async def test_a_file_of_text_is_refused_and_left_alone(self, path: Path, kind: Kind) -> None:
        text = b"Dear diary, " * 1000
        path.write_bytes(text)
        threads = set(threading.enumerate())
        async with kind(path) as store:
            for ask in QUESTIONS[kind].values():
                error = await fails(ask(store), f"'{path}'")
                assert "is not a database" in str(error)
                assert not error.retryable
        assert path.read_bytes() == text
        for thread in set(threading.enumerate()) - threads:
            if not thread.name.startswith("asyncio"):  # those are the event loop's
                thread.join(timeout=PATIENCE)
                assert not thread.is_alive()

    async def test_a_folder_that_is_missing_may_come_later(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind
    ) -> None:
        monkeypatch.chdir(tmp_path)
        async with kind("missing/app.db") as store:
            for ask in QUESTIONS[kind].values():
                error = await fails(ask(store), f"'{tmp_path}/missing/app.db'")
                assert "Check that its folder exists" in str(error)
                assert not error.retryable
            (tmp_path / "missing").mkdir()
            for ask in QUESTIONS[kind].values():
                await ask(store)

    async def test_the_error_names_a_path_to_a_folder(self, tmp_path: Path, kind: Kind) -> None:
        async with kind(tmp_path) as store:
            for ask in QUESTIONS[kind].values():
                error = await fails(ask(store), f"'{tmp_path}'")
                assert "unable to open" in str(error)
                assert not error.retryable

    async def test_a_closed_connection_is_a_store_error(self, path: Path, kind: Kind) -> None:
        async with aiosqlite.connect(path) as connection:
            used, unused = kind(connection), kind(connection)
            for ask in QUESTIONS[kind].values():
                await ask(used)
        for store in (used, unused):
            await all_fail(ask(store) for ask in QUESTIONS[kind].values())


class TestFullDisk:
    async def test_a_batch_that_does_not_fit_leaves_nothing(self, path: Path) -> None:
        async with aiosqlite.connect(path) as connection:
            store = SqliteTokenStore(connection)
            (known,) = await begin(store, KNOWN)
            await _limit_growth(connection)
            rest = (new_session("alice", policy=LARGEST) for _ in range(499))
            batch = [new_session("alice", policy=SOLE), *rest]
            await fails(store.issue(batch), "full")
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
            error = await fails(store.save([User("o-alice", city="Wuhan"), *users]), "full")
            assert type(error) is StoreError
            assert list(await store.get([user.id for user in users])) == [None] * 100
            assert await cities(store, "o-alice") == [None]
            await connection.execute("PRAGMA max_page_count = 1000000")
            assert list(await store.save(users)) == [True] * 100


class TestClosing:
    async def test_closing_a_sqlite_store_lets_what_is_in_progress_finish(self, path: Path) -> None:
        store = SqliteTokenStore(path)
        batches = [[new_session("alice")] for _ in range(10)]
        issues = [asyncio.ensure_future(store.issue(batch)) for batch in batches]
        await asyncio.sleep(0)
        await store.close()
        assert [type(answer) for answer in await settled(issues)] == [list] * 10
        async with SqliteTokenStore(path) as reopened:
            assert await reopened.revoke_subject(ALICE) == 10


class TestCancelledCallers:
    """A caller is cancelled where it waits for the first time, another at the second, and so on."""

    @pytest.mark.parametrize("opened", [False, True])
    async def test_a_cancelled_login_is_stored_in_sqlite_completely_or_not_at_all(
        self, path: Path, opened: bool
    ) -> None:
        async with SqliteTokenStore(path) as observer:
            for wait in count(1):
                name = f"user-{wait}"
                earlier, last = new_session(name), new_session(name)
                batch = [new_session(name, policy=SOLE), last]
                await observer.issue([earlier])
                async with SqliteTokenStore(path) as store:
                    if opened:
                        await store.lookup([])
                    finished = await cancel_at(wait, store.issue(batch))
                    await store.issue([])  # the thread goes on to the end of what it has begun
                    alive = await is_alive(observer, earlier, *batch)
                    assert alive in ([True, False, False], [False, True, True])
                    await store.issue(batch)
                    assert await store.revoke_subject(earlier.ref.subject) == 2
                if finished:
                    break
        assert wait > 1

    @pytest.mark.parametrize("opened", [False, True])
    async def test_a_cancelled_save_stores_all_or_no_users(self, path: Path, opened: bool) -> None:
        async with SqliteUserStore(path) as observer:
            for wait in count(1):
                known = User(f"o-known-{wait}")
                await observer.save([known])
                batch = [User(f"o-{wait}"), replace(known, city="Wuhan")]
                async with SqliteUserStore(path) as store:
                    if opened:
                        await store.get([])
                    finished = await cancel_at(wait, store.save(batch))
                    await store.save([])  # the thread goes on to the end of what it has begun
                    new, old = await observer.get([user.id for user in batch])
                    assert (new is None) == (old is not None and old.city is None)
                    assert list(await store.save(batch)) == [new is None, False]
                if finished:
                    break
        assert wait > 1

    @pytest.mark.parametrize("opened", [False, True])
    async def test_a_given_connection_keeps_no_transaction(self, path: Path, opened: bool) -> None:
        async with aiosqlite.connect(path) as connection:
            for wait in count(1):
                store = SqliteTokenStore(connection)
                if opened:
                    await store.lookup([])
                finished = await cancel_at(wait, store.issue([new_session()]))
                await store.lookup([])  # the thread goes on to the end of what it has begun
                assert not connection.in_transaction
                await store.issue([new_session()])
                if finished:
                    break
        assert wait > 1


def _open_read_only(path: Path) -> aiosqlite.Connection:
    return aiosqlite.connect(f"file:{path}?mode=ro", uri=True)


def write(kind: Kind) -> Question:
    return QUESTIONS[kind]["issue" if kind is SqliteTokenStore else "save"]


async def cities(store: SqliteUserStore, *user_ids: str) -> list[str | None]:
    """Where users live; "not saved" of those who are not."""
    return [user.city if user is not None else "not saved" for user in await store.get(user_ids)]


async def _limit_growth(connection: aiosqlite.Connection) -> None:
    """Let the database grow by a page and no more, as on a disk that is nearly full."""
    async with connection.execute("PRAGMA page_count") as cursor:
        row = await cursor.fetchone()
    assert row is not None
    await connection.execute(f"PRAGMA max_page_count = {row[0] + 1}")
