"""What SqliteTokenStore promises beyond the suite: its file, its tables, and its clock."""

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiosqlite
import pytest

from mpauthx_async import ClosedError, Session, SessionRef, SqliteTokenStore, StoreError, Subject
from mpauthx_async.constants import TokenStatus
from mpauthx_async.models import LoginPolicy
from mpauthx_async.stores.conformance import UNUSUAL_IDS, new_session
from mpauthx_async.stores.conformance.examples import (
    ALICE,
    HOUR,
    SOLE,
    ban_of,
    begin,
    listed,
    rotated,
    statuses,
)
from mpauthx_async.stores.online_cursor import OnlineCursor
from mpauthx_async.stores.sqlite.database import SqliteDatabase
from mpauthx_async.tokens.format import new_nonce
from tests.helpers.clock import Clock
from tests.helpers.outages import ASKED_OF_TOKENS, KNOWN, WRITING
from tests.helpers.sqlite_files import locked, plan_of, query, run

BOB = Subject("shop", "bob")
START = 1_700_000_000_000  # Unix milliseconds
DAY = 24 * HOUR


@pytest.fixture
async def store(path: Path, clock: Clock) -> AsyncIterator[SqliteTokenStore]:
    """A store that goes by `clock`."""
    async with SqliteTokenStore(path, clock=clock) as store:
        yield store


class TestDatabase:
    async def test_it_writes_through_to_the_disk_and_waits_for_locks(self, path: Path) -> None:
        def settings(cursor: sqlite3.Cursor) -> list[tuple[int]]:
            pragmas = ("PRAGMA synchronous", "PRAGMA busy_timeout")
            return [cursor.execute(pragma).fetchone() for pragma in pragmas]

        database = SqliteDatabase(path, 1.25, lambda cursor: None)
        assert await database.run(settings) == [(2,), (1250,)]  # FULL, milliseconds
        await database.close()

    async def test_sessions_outlive_the_store(self, path: Path) -> None:
        async with SqliteTokenStore(path) as store:
            begun = await begin(store, new_session(device="phone", sealed_key="sealed"))
            await store.ban(BOB, reason="spam", ttl=None)
            ban = await ban_of(store, BOB)
        async with SqliteTokenStore(path) as store:
            assert list(await store.sessions(ALICE)) == begun
            assert list(await store.sealed_keys([begun[0].ref])) == ["sealed"]
            assert await ban_of(store, BOB) == ban

    async def test_no_query_scans_a_table(self, path: Path) -> None:
        async with aiosqlite.connect(path) as connection:
            store = SqliteTokenStore(connection)
            await store.lookup([])
            statements: list[str] = []
            await connection.set_trace_callback(statements.append)
            await _use_everything(store)
            await connection.set_trace_callback(None)
        steps = {
            step for step in plan_of(path, statements) if "mpauthx_" in step or "B-TREE" in step
        }
        session, ban = "SEARCH mpauthx_session USING", "SEARCH mpauthx_ban USING"
        assert steps == {
            f"{session} PRIMARY KEY (nonce=?)",
            f"{session} INDEX mpauthx_session_living (sku=? AND user_id=?)",
            f"{session} COVERING INDEX mpauthx_session_online (sku=?)",
            f"{session} COVERING INDEX mpauthx_session_online"
            " (sku=? AND (online_since,user_id)<(?,?))",
            f"{session} COVERING INDEX mpauthx_session_expires_at (expires_at<?)",
            f"{ban} PRIMARY KEY (sku=? AND user_id=?)",
            f"{ban} COVERING INDEX mpauthx_ban_until (until<?)",
        }

    @pytest.mark.parametrize("row_factory", [sqlite3.Row, lambda cursor, row: {"row": row}])
    async def test_a_connection_may_have_a_row_factory(self, path: Path, row_factory: Any) -> None:
        async with aiosqlite.connect(path) as connection:
            connection.row_factory = row_factory
            store = SqliteTokenStore(connection)
            await _use_everything(store)
            (begun,) = await begin(store, new_session())
            assert list(await store.sessions(ALICE)) == [begun]
            assert list(await store.lookup([begun.ref])) == [begun.expires_at]
            assert list(await store.revoke([begun.ref])) == [True]
            assert connection.row_factory is row_factory

    @pytest.mark.parametrize("isolation_level", [None, "DEFERRED", "EXCLUSIVE"])
    async def test_any_isolation_level_is_accepted(self, path: Path, isolation_level: Any) -> None:
        async with aiosqlite.connect(path, isolation_level=isolation_level) as connection:
            store = SqliteTokenStore(connection)
            await _use_everything(store)
            await store.issue([new_session("dave")])
            assert not connection.in_transaction
        assert query(path, "SELECT user_id FROM mpauthx_session WHERE ended IS NULL") == [("dave",)]

    if sys.version_info >= (3, 12):

        async def test_a_connection_may_commit_by_itself(self, path: Path) -> None:
            async with aiosqlite.connect(path, autocommit=True) as connection:
                await SqliteTokenStore(connection).issue([new_session()])
                assert not connection.in_transaction
            assert query(path, "SELECT user_id FROM mpauthx_session") == [("alice",)]

        async def test_a_connection_always_in_a_transaction_is_refused(self, path: Path) -> None:
            async with aiosqlite.connect(path, autocommit=False) as connection:
                with pytest.raises(StoreError, match="autocommit=False"):
                    await SqliteTokenStore(connection).issue([new_session()])

    async def test_a_connection_that_was_given_stays_open(self, path: Path) -> None:
        async with aiosqlite.connect(path) as connection:
            async with SqliteTokenStore(connection) as store:
                await store.issue([new_session()])
            with pytest.raises(ClosedError):
                await store.issue([new_session()])
            async with connection.execute("SELECT count(*) FROM mpauthx_session") as cursor:
                assert await cursor.fetchone() == (1,)

    async def test_a_callers_transaction_is_refused_and_left_alone(self, path: Path) -> None:
        writes = [ASKED_OF_TOKENS[asked] for asked in WRITING]
        async with aiosqlite.connect(path) as connection:
            store = SqliteTokenStore(connection)
            (known,) = await begin(store, KNOWN)
            await connection.execute("CREATE TABLE note (text)")
            await connection.execute("INSERT INTO note VALUES ('mine')")
            for write in (*writes, lambda store: store.renew([KNOWN.ref], ttl=9 * HOUR)):
                with pytest.raises(StoreError, match="transaction"):
                    await write(store)
            assert connection.in_transaction
            await connection.commit()
            assert list(await store.sessions(ALICE)) == [known]
            await store.issue([new_session()])
            assert await store.revoke_subject(ALICE) == 2
        assert query(path, "SELECT text FROM note") == [("mine",)]

    async def test_nothing_is_created_inside_a_callers_transaction(self, path: Path) -> None:
        new = new_session()
        async with aiosqlite.connect(path) as connection:
            store = SqliteTokenStore(connection)
            await connection.execute("BEGIN")
            with pytest.raises(StoreError, match="transaction"):
                await store.lookup([new.ref])
            with pytest.raises(StoreError, match="transaction"):
                await store.issue([new])
            await connection.rollback()
            begun = await begin(store, new)
            assert list(await store.sessions(ALICE)) == begun


class TestClock:
    async def test_a_session_goes_by_the_clock(self, store: SqliteTokenStore, clock: Clock) -> None:
        new = new_session(ttl=60_000)
        (begun,) = await begin(store, new)
        assert begun == Session(new.ref, START, START + 60_000)
        clock.milliseconds += 59_999
        assert list(await store.lookup([new.ref])) == [START + 60_000]
        assert list(await store.sessions(ALICE)) == [begun]
        assert await store.online_count("shop") == 1
        clock.milliseconds += 1
        assert list(await store.lookup([new.ref])) == [None]
        assert list(await store.read([new.ref])) == [None]
        assert list(await store.sessions(ALICE)) == []
        assert await store.online("shop", cursor=None, limit=1) == ([], None)
        assert await store.online_count("shop") == 0
        assert list(await store.revoke([new.ref])) == [False]

    async def test_sessions_of_one_millisecond_have_an_order(self, store: SqliteTokenStore) -> None:
        begun = [session for _ in range(5) for session in await begin(store, new_session())]
        begun += await begin(store, *(new_session() for _ in range(5)))
        assert list(await store.sessions(ALICE)) == begun[::-1]
        assert [session.expires_at for session in begun] == [START + HOUR] * 10
        (sole,) = await begin(store, new_session(policy=LoginPolicy(max_sessions=2)))
        assert list(sole.replaced) == [session.ref for session in begun[:9]]

    async def test_a_clock_that_goes_back_changes_no_order(
        self, store: SqliteTokenStore, clock: Clock
    ) -> None:
        (ahead,) = await begin(store, new_session())
        clock.milliseconds -= 2 * HOUR
        (behind,) = await begin(store, new_session())
        assert await listed(store) == [behind.ref, ahead.ref]
        assert behind.expires_at == clock.milliseconds + HOUR
        (sole,) = await begin(store, new_session(policy=SOLE))
        assert sole.replaced == (ahead.ref, behind.ref)

    @pytest.mark.parametrize(("ttl", "remembered"), [(10 * DAY, 9 * DAY), (365 * DAY, 30 * DAY)])
    async def test_a_dead_session_is_remembered_until_its_end_but_at_most_thirty_days(
        self, store: SqliteTokenStore, clock: Clock, ttl: int, remembered: int
    ) -> None:
        (begun,) = await begin(store, new_session(ttl=ttl))
        clock.milliseconds += DAY
        await store.revoke([begun.ref])
        clock.milliseconds += remembered - 1
        assert await statuses(store, begun) == [TokenStatus.revoked]
        clock.milliseconds += 1
        assert await statuses(store, begun) == [None]

    async def test_later_logins_delete_ended_sessions(
        self, path: Path, store: SqliteTokenStore, clock: Clock
    ) -> None:
        for i in range(300):
            (begun,) = await begin(store, new_session(f"user-{i}", ttl=10_000))
            if i % 3:
                await store.revoke([begun.ref])
            clock.milliseconds += 1000
        assert query(path, "SELECT count(*) FROM mpauthx_session") == [(10,)]
        clock.milliseconds += HOUR
        for i in range(5):
            await begin(store, new_session(f"late-{i}"))
        assert query(path, "SELECT count(*) FROM mpauthx_session") == [(5,)]

    async def test_later_logins_delete_bans_that_are_over(
        self, path: Path, store: SqliteTokenStore, clock: Clock
    ) -> None:
        for i in range(6):
            await store.ban(Subject("shop", f"user-{i}"), reason="", ttl=1000)
        await store.ban(BOB, reason="", ttl=None)
        await store.ban(ALICE, reason="", ttl=HOUR)
        clock.milliseconds += 1000
        for left in (6, 4, 2, 2):
            await begin(store, new_session("carol"))
            assert query(path, "SELECT count(*) FROM mpauthx_ban") == [(left,)]
        assert await ban_of(store, BOB) is not None
        assert await ban_of(store, ALICE) is not None

    async def test_a_dead_session_keeps_no_key(self, path: Path, store: SqliteTokenStore) -> None:
        batch = [new_session(user_id, sealed_key="sealed") for user_id in ("alice", "bob", "eve")]
        await begin(store, *batch)
        await store.revoke([batch[0].ref])
        await store.ban(BOB, reason="", ttl=None)
        await begin(store, new_session("eve", policy=SOLE))
        assert query(path, "SELECT DISTINCT sealed_key FROM mpauthx_session") == [(None,)]

    async def test_a_grace_lasts_exactly(self, store: SqliteTokenStore, clock: Clock) -> None:
        (begun,) = await begin(store, new_session())
        ref = await rotated(store, begun.ref, grace=5000)
        clock.milliseconds += 4999
        assert list(await store.end_reused([begun.ref])) == [False]
        assert await rotated(store, begun.ref) == ref
        clock.milliseconds += 1
        assert list(await store.rotate([begun.ref], ttl=HOUR, grace=5000)) == [TokenStatus.rotated]
        assert list(await store.end_reused([begun.ref])) == [True]

    async def test_a_life_is_renewed_once_a_tenth_of_it_has_passed(
        self, store: SqliteTokenStore, clock: Clock
    ) -> None:
        (begun,) = await begin(store, new_session(ttl=100_000))
        clock.milliseconds += 10_000
        assert list(await store.renew([begun.ref], ttl=100_000)) == [begun.expires_at]
        assert list(await store.sessions(ALICE)) == [begun]
        clock.milliseconds += 1
        seen = clock.milliseconds
        assert list(await store.renew([begun.ref], ttl=100_000)) == [seen + 100_000]
        clock.milliseconds += 9_999
        assert list(await store.renew([begun.ref], ttl=100_000)) == [seen + 100_000]
        (session,) = await store.sessions(ALICE)
        assert (session.expires_at, session.last_seen) == (seen + 100_000, seen)

    async def test_a_renewal_that_is_not_due_takes_no_lock(self, path: Path, clock: Clock) -> None:
        async with SqliteTokenStore(path, clock=clock, busy_timeout=0.01) as store:
            (begun,) = await begin(store, new_session())
            with locked(path):
                assert list(await store.renew([begun.ref], ttl=HOUR)) == [begun.expires_at]
                clock.milliseconds += HOUR // 2
                with pytest.raises(StoreError):
                    await store.renew([begun.ref], ttl=HOUR)
            assert list(await store.renew([begun.ref], ttl=HOUR)) == [clock.milliseconds + HOUR]

    async def test_users_online_are_in_the_order_of_time_and_then_of_their_ids(
        self, store: SqliteTokenStore, clock: Clock
    ) -> None:
        ids = sorted(UNUSUAL_IDS, key=str.encode, reverse=True)
        await begin(store, new_session("early"), *(new_session(name) for name in ids[::2]))
        clock.milliseconds += 1
        await begin(store, *(new_session(name) for name in ids))
        expected = [*ids[1::2], *sorted(["early", *ids[::2]], key=str.encode, reverse=True)]
        for limit in (1, 2, 7, 1000):
            page = await store.online("shop", cursor=None, limit=limit)
            shown = list(page.user_ids)
            while page.cursor is not None:
                assert len(page.user_ids) == limit
                assert OnlineCursor.parse(page.cursor).user_id == page.user_ids[-1]
                page = await store.online("shop", cursor=page.cursor, limit=limit)
                assert page.user_ids  # also of the last one
                shown += page.user_ids
            assert shown == expected


async def test_a_nonce_of_another_user_is_refused(path: Path) -> None:
    async with SqliteTokenStore(path) as store:
        (begun,) = await begin(store, new_session())
        for policy in (LoginPolicy(), LoginPolicy(shared_token=True)):
            other = new_session("bob", policy=policy)
            with pytest.raises(StoreError, match="another user"):
                await store.issue([replace(other, ref=begun.ref._replace(user_id="bob"))])
        assert list(await store.sessions(BOB)) == []
        assert list(await store.sessions(ALICE)) == [begun]


class TestSeveralConnections:
    """Stores on one file, as those of several processes are."""

    @pytest.fixture
    async def stores(self, path: Path) -> AsyncIterator[list[SqliteTokenStore]]:
        async with AsyncExitStack() as stack:
            # They wait for each other, on a slow disk for longer than usual.
            yield [
                await stack.enter_async_context(SqliteTokenStore(path, busy_timeout=60))
                for _ in range(4)
            ]

    async def test_logins_at_once_leave_max_sessions(self, stores: list[SqliteTokenStore]) -> None:
        batch = [new_session(policy=LoginPolicy(max_sessions=3)) for _ in range(40)]
        answers = await asyncio.gather(*(begin(stores[i % 4], new) for i, new in enumerate(batch)))
        alive = await listed(stores[0])
        replaced = [ref for (session,) in answers for ref in session.replaced]
        assert len(alive) == 3
        assert sorted([*alive, *replaced]) == sorted(new.ref for new in batch)

    async def test_one_of_many_rotations_succeeds(self, stores: list[SqliteTokenStore]) -> None:
        (begun,) = await begin(stores[0], new_session())
        answers = await asyncio.gather(
            *(stores[i % 4].rotate([begun.ref], ttl=HOUR, grace=0) for i in range(20))
        )
        refused = [answer for (answer,) in answers if isinstance(answer, TokenStatus)]
        assert refused == [TokenStatus.rotated] * 19
        assert await listed(stores[3]) == [begun.ref._replace(generation=1)]

    async def test_a_life_is_renewed_once(self, stores: list[SqliteTokenStore]) -> None:
        (begun,) = await begin(stores[0], new_session(ttl=HOUR))
        answers = await asyncio.gather(
            *(stores[i % 4].renew([begun.ref], ttl=2 * HOUR) for i in range(20))
        )
        assert {end for (end,) in answers} == set(await stores[0].lookup([begun.ref]))

    async def test_no_login_during_a_ban_stays_alive(self, stores: list[SqliteTokenStore]) -> None:
        batch = [new_session() for _ in range(20)]
        logins = [stores[i % 4].issue([new]) for i, new in enumerate(batch)]
        await asyncio.gather(*logins[:10], stores[3].ban(ALICE, reason="", ttl=None), *logins[10:])
        assert await listed(stores[0]) == []
        assert await stores[1].online_count("shop") == 0


@pytest.mark.parametrize("has_keys", [False, True], ids=["without keys", "with keys"])
class TestUpgrade:
    """A table of sessions as it was before sessions had devices and generations."""

    @pytest.fixture
    def refs(self, path: Path, has_keys: bool) -> list[SessionRef]:
        """Sessions of Alice, Bob and Alice in the table, which began in this order."""
        refs = [SessionRef("shop", name, new_nonce()) for name in ("alice", "bob", "alice")]
        rows = [
            f"('{ref.sku}', '{ref.user_id}', '{ref.nonce}', {START + i}, {START + HOUR})"
            for i, ref in enumerate(refs)
        ]
        run(
            path,
            "CREATE TABLE mpauthx_session (nonce TEXT PRIMARY KEY, sku TEXT NOT NULL,"
            " user_id TEXT NOT NULL, issued_at INTEGER NOT NULL, expires_at INTEGER NOT NULL"
            f"{', sealed_key TEXT' * has_keys}) WITHOUT ROWID;"
            "CREATE INDEX mpauthx_session_subject ON mpauthx_session (sku, user_id, issued_at);"
            "CREATE INDEX mpauthx_session_expires_at ON mpauthx_session (expires_at);"
            "INSERT INTO mpauthx_session (sku, user_id, nonce, issued_at, expires_at)"
            f" VALUES {', '.join(rows)};"
            + "UPDATE mpauthx_session SET sealed_key = 'sealed'"
            * has_keys,
        )
        return refs

    async def test_sessions_survive_an_upgrade(
        self, store: SqliteTokenStore, refs: list[SessionRef], has_keys: bool
    ) -> None:
        assert list(await store.lookup(refs)) == [START + HOUR] * 3
        assert list(await store.sessions(ALICE)) == [
            Session(refs[2], START + 2, START + HOUR),
            Session(refs[0], START, START + HOUR),
        ]
        assert list(await store.sealed_keys(refs)) == ["sealed" if has_keys else None] * 3
        assert await store.online("shop", cursor=None, limit=9) == (["bob", "alice"], None)
        assert await store.online_count("shop") == 2

    async def test_upgraded_sessions_work_like_new_ones(
        self, store: SqliteTokenStore, refs: list[SessionRef]
    ) -> None:
        rotated_ref = await rotated(store, refs[0])
        assert list(await store.renew([refs[1]], ttl=9 * HOUR)) == [START + 9 * HOUR]
        assert await store.replace_sealed_key(refs[2], "other")
        assert list(await store.sealed_keys(refs[2:])) == ["other"]
        new = new_session(policy=SOLE, device="phone", sealed_key="new")
        (sole,) = await begin(store, new)
        assert set(sole.replaced) == {rotated_ref, refs[2]}
        assert sole.device == "phone"
        assert list(await store.sealed_keys([sole.ref])) == ["new"]
        assert await store.ban(BOB, reason="", ttl=None) == 1
        statuses = [TokenStatus.replaced, TokenStatus.banned, TokenStatus.replaced]
        assert list(await store.lookup(refs)) == statuses
        assert list((await store.online("shop", cursor=None, limit=9)).user_ids) == ["alice"]

    async def test_concurrent_stores_upgrade_the_table_once(
        self, path: Path, clock: Clock, refs: list[SessionRef]
    ) -> None:
        stores = [SqliteTokenStore(path, clock=clock) for _ in range(8)]
        answers = await asyncio.gather(*(store.lookup(refs) for store in stores))
        assert [list(answer) for answer in answers] == [[START + HOUR] * 3] * 8
        for store in stores:
            await store.close()

    async def test_an_upgraded_table_equals_a_new_one(
        self, path: Path, tmp_path: Path, refs: list[SessionRef]
    ) -> None:
        new = tmp_path / "new.db"
        for file in (path, new):
            async with SqliteTokenStore(file) as store:
                await store.lookup(refs)
        table = "pragma_table_info('mpauthx_session')"
        columns = f"SELECT name, type, [notnull], dflt_value, pk FROM {table} ORDER BY name"
        indexes = "SELECT name, sql FROM sqlite_master WHERE type = 'index' ORDER BY name"
        for shape in (columns, indexes):
            assert query(path, shape) == query(new, shape)


async def _use_everything(store: SqliteTokenStore) -> None:
    """Ask all that can be asked, under each policy; leaves nobody alive or banned."""
    policies = (LoginPolicy(), SOLE, LoginPolicy(one_per_kind=True), LoginPolicy(shared_token=True))
    batch = [new_session(user_id) for user_id in ("alice", "bob", "alice", "carol")]
    await store.issue([*batch, *(new_session("carol", policy=policy) for policy in policies)])
    refs = [new.ref for new in batch]
    await store.issue(batch)
    await store.lookup(refs)
    await store.read(refs)
    await store.sessions(ALICE)
    await store.renew(refs, ttl=9 * HOUR)
    await store.rotate(refs, ttl=HOUR, grace=0)
    await store.sealed_keys(refs)
    await store.replace_sealed_key(refs[0], "sealed")
    first = await store.online("shop", cursor=None, limit=1)
    await store.online("shop", cursor=first.cursor, limit=1)
    await store.online_count("shop")
    assert list(await store.end_reused(refs[:1])) == [True]
    await store.revoke([batch[0].ref, batch[1].ref])
    await store.revoke_subject(ALICE, spared=batch[0].ref.nonce)
    await store.ban(Subject("shop", "carol"), reason="", ttl=None)
    await ban_of(store, Subject("shop", "carol"))
    await store.issue([new_session("carol")])
    await store.unban(Subject("shop", "carol"))
