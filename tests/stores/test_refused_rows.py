"""A row that SQLite refuses, or cannot read, fails its own caller alone."""

import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import aiosqlite
import pytest

from mpauthx_async import (
    AuthResult,
    MPAuthX,
    PartialStoreError,
    Session,
    SqliteTokenStore,
    SqliteUserStore,
    StoreError,
    Subject,
    TokenStatus,
    User,
    WeChatSimulator,
)
from mpauthx_async.models import SessionRef
from mpauthx_async.stores import SqliteKeyValueStore
from mpauthx_async.stores.conformance import new_session
from mpauthx_async.stores.conformance.examples import ALICE, HOUR, begin
from tests.helpers.outages import partial_answers, settled
from tests.helpers.sqlite_files import query, run

TABLE = "CREATE TABLE user (openId TEXT PRIMARY KEY, nickName TEXT, gender INTEGER, city TEXT"
AFTER_INSERT = "CREATE TRIGGER refuse AFTER INSERT ON user WHEN NEW.city = 'Oz' BEGIN"
# What makes a table refuse whoever lives in Oz, and what SQLite says of it.
REFUSING = [
    (f"{TABLE}, CHECK (city <> 'Oz'))", "CHECK constraint failed: city <> 'Oz'"),
    (f"{TABLE}, CONSTRAINT short CHECK (length(city) < 8 AND city <> 'Oz'))", "failed: short"),
    (f"{TABLE}, CHECK (city <> 'Oz' OR json_extract('[', '$')))", "malformed JSON"),
    (f"{TABLE}); {AFTER_INSERT} SELECT RAISE(ABORT, 'not from Oz'); END", "not from Oz"),
    (f"{TABLE}); {AFTER_INSERT} SELECT RAISE(FAIL, 'not from Oz'); END", "not from Oz"),
    (f"{TABLE}); {AFTER_INSERT} SELECT RAISE(ROLLBACK, 'not from Oz'); END", "not from Oz"),
    (
        f"{TABLE}); CREATE TABLE note (text NOT NULL); {AFTER_INSERT}"
        " INSERT INTO note VALUES (NULL); END",
        "NOT NULL constraint failed: note.text",
    ),
    (
        f"{TABLE}); CREATE TABLE town (name PRIMARY KEY); CREATE TABLE home (town REFERENCES"
        f" town DEFERRABLE INITIALLY DEFERRED); {AFTER_INSERT}"
        " INSERT INTO home VALUES (NEW.city); END",
        "FOREIGN KEY constraint failed",
    ),
]
REFUSAL = (
    "CREATE TRIGGER refuse BEFORE INSERT ON {} WHEN {} BEGIN"
    " SELECT RAISE(ABORT, 'not this one'); END"
)
# Users whom no SQLite table takes, and why.
IMPOSSIBLE = [
    (User("o-bad", gender=2**70), "too large"),
    (User("o-bad", nick_name="\ud83d"), "surrogates not allowed"),
    (User("", nick_name="Bad"), "without an openId"),
]
DAMAGE = "UPDATE mpauthx_session SET device = CAST(x'ff' AS TEXT)"
# What is written to a row instead of a nickname.
UNREADABLE = ["x'ff00'", "CAST(x'ff41' AS TEXT)"]


class TestSaving:
    @pytest.mark.parametrize(("script", "said"), REFUSING)
    async def test_a_refused_user_is_not_saved_and_all_others_are(
        self, path: Path, script: str, said: str
    ) -> None:
        run(path, script)
        users = [User(f"o-{i}", city="Oz" if i == 7 else "Wuhan") for i in range(20)]
        async with aiosqlite.connect(path) as connection:
            await connection.execute("PRAGMA foreign_keys = ON")
            store = SqliteUserStore(connection)
            answers = await partial_answers(store.save(users))
            assert said in str(answers[7])
            assert "Check the file" not in str(answers[7])
            assert [answer for i, answer in enumerate(answers) if i != 7] == [True] * 19
            with pytest.raises(StoreError, match="row") as alone:
                await store.save([users[7]])
            assert type(alone.value) is StoreError
            assert said in str(alone.value)
            assert not connection.in_transaction
        saved = query(path, "SELECT openId FROM user ORDER BY rowid")
        assert saved == [(f"o-{i}",) for i in range(20) if i != 7]

    @pytest.mark.parametrize(("bad", "said"), IMPOSSIBLE)
    async def test_an_impossible_user_fails_alone(self, path: Path, bad: User, said: str) -> None:
        async with SqliteUserStore(path) as store:
            failure, *others = await partial_answers(store.save([bad, User("o-1"), User("o-2")]))
            assert said in str(failure)
            assert others == [True, True]
            assert query(path, "SELECT openId FROM user ORDER BY 1") == [("o-1",), ("o-2",)]

    async def test_each_refused_user_gets_its_own_reason(self, path: Path) -> None:
        run(path, f"{TABLE}, CHECK (city <> 'Oz'), CHECK (gender < 3))")
        users = [User("o-1", city="Oz"), User("o-2"), User("o-3", gender=3)]
        async with SqliteUserStore(path) as store:
            town, is_new, gender = await partial_answers(store.save(users))
        assert "city <> 'Oz'" in str(town)
        assert "gender < 3" in str(gender)
        assert is_new is True

    async def test_a_refused_change_leaves_the_row_as_it_was(self, path: Path) -> None:
        run(path, f"{TABLE}, CHECK (city <> 'Oz'))")
        async with SqliteUserStore(path) as store:
            await store.save([User("o-alice", city="Wuhan")])
            failure, is_new = await partial_answers(
                store.save([User("o-alice", nick_name="Ali", city="Oz"), User("o-bob")])
            )
            assert isinstance(failure, StoreError)
            assert is_new is True
            assert list(await store.get(["o-alice"])) == [User("o-alice", city="Wuhan")]

    async def test_a_user_twice_beside_a_refused_one_is_new_once(self, path: Path) -> None:
        run(path, f"{TABLE}, CHECK (city <> 'Oz'))")
        users = [User("o-bob"), User("o-eve", city="Oz"), User("o-bob", city="Wuhan")]
        async with SqliteUserStore(path) as store:
            first, failure, second = await partial_answers(store.save(users))
            assert (first, second) == (True, False)
            assert isinstance(failure, StoreError)
            assert list(await store.get(["o-bob"])) == [User("o-bob", city="Wuhan")]

    async def test_one_refused_user_costs_one_transaction_more(self, path: Path) -> None:
        run(path, f"{TABLE}, CHECK (city <> 'Oz'))")
        users = [User(f"o-{i}", city="Oz" if i == 200 else None) for i in range(256)]
        async with aiosqlite.connect(path) as connection:
            store = SqliteUserStore(connection)
            await store.get([])
            statements: list[str] = []
            await connection.set_trace_callback(statements.append)
            answers = await partial_answers(store.save(users))
            await connection.set_trace_callback(None)
        assert answers.count(True) == 255
        ends = [one for one in statements if one in ("BEGIN IMMEDIATE", "COMMIT", "ROLLBACK")]
        assert ends == ["BEGIN IMMEDIATE", "ROLLBACK", "BEGIN IMMEDIATE", "COMMIT"]


class TestReading:
    @pytest.mark.parametrize("damage", UNREADABLE)
    async def test_an_unreadable_user_fails_its_reader_alone(self, path: Path, damage: str) -> None:
        insert = "INSERT INTO user (openId, nickName) VALUES"
        run(path, f"{TABLE}); {insert} ('o-eve', 'Eve'), ('o-bad', {damage})")
        async with SqliteUserStore(path) as store:
            asked = ["o-eve", "o-bad", "stranger"]
            eve, failure, stranger = await partial_answers(store.get(asked))
            assert (eve, stranger) == (User("o-eve", nick_name="Eve"), None)
            assert "Column nickName of a row" in str(failure)
            with pytest.raises(StoreError, match="Column nickName"):
                await store.get(["o-bad"])
        while failure is not None:
            assert "Eve" not in str(failure)
            failure = failure.__cause__

    @pytest.mark.parametrize("damage", UNREADABLE)
    async def test_an_unreadable_user_fails_its_login_alone(self, path: Path, damage: str) -> None:
        run(path, f"{TABLE}); INSERT INTO user (openId, nickName) VALUES ('o-7', {damage})")
        async with SqliteUserStore(path) as store:
            answers = await partial_answers(store.save([User(f"o-{i}") for i in range(20)]))
            assert "Column nickName" in str(answers[7])
            assert [answer for i, answer in enumerate(answers) if i != 7] == [True] * 19
        assert query(path, "SELECT count(*) FROM user") == [(20,)]


class TestTokens:
    async def test_a_refused_session_does_not_begin_and_all_others_do(self, path: Path) -> None:
        batch = [new_session(f"user-{i}") for i in range(20)]
        async with SqliteTokenStore(path) as store:
            await store.lookup([])
            run(path, REFUSAL.format("mpauthx_session", "NEW.user_id = 'user-7'"))
            answers = await partial_answers(store.issue(batch))
            assert "not this one" in str(answers[7])
            begun = [isinstance(answer, Session) for answer in answers]
            assert begun == [True] * 7 + [False] + [True] * 12
            alive = [end is not None for end in await store.lookup([new.ref for new in batch])]
            assert alive == begun

    async def test_an_unreadable_session_fails_its_own_caller_alone(self, path: Path) -> None:
        async with SqliteTokenStore(path) as store:
            bad, good = await begin(store, new_session(device="phone"), new_session("bob"))
            run(path, f"{DAMAGE} WHERE device = 'phone'")
            unknown = SessionRef("shop", "alice", "0" * 16)
            for ask in (
                store.read,
                lambda refs: store.renew(refs, ttl=24 * HOUR),
                lambda refs: store.rotate(refs, ttl=24 * HOUR, grace=0),
            ):
                failure, answer, absent = await partial_answers(ask([bad.ref, good.ref, unknown]))
                assert isinstance(failure, StoreError)
                assert "UTF-8" in str(failure)
                assert not isinstance(answer, StoreError)
                assert absent in (None, TokenStatus.unknown)
            renewed = good.ref._replace(generation=1)
            assert list(await store.revoke([bad.ref, renewed])) == [True, True]

    async def test_it_fails_alone_while_another_process_writes(self, path: Path) -> None:
        async with aiosqlite.connect(path, timeout=0) as connection:
            store = SqliteTokenStore(connection)
            bad, good = await begin(store, new_session(device="phone"), new_session("bob"))
            run(path, f"{DAMAGE} WHERE device <> ''")
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                failure, answer = await partial_answers(store.read([bad.ref, good.ref]))
        assert "UTF-8" in str(failure)
        assert answer == good

    async def test_a_device_that_is_unreadable_fails_no_check(self, path: Path) -> None:
        async with SqliteTokenStore(path) as store:
            bad, good = await begin(store, new_session(device="phone"), new_session("bob"))
            run(path, f"{DAMAGE}, last_seen = 'x'")
            unknown = SessionRef("shop", "alice", "0" * 16)
            ends = await store.lookup([bad.ref, good.ref, unknown])
            assert list(ends) == [bad.expires_at, good.expires_at, None]

    async def test_the_error_does_not_quote_what_is_unreadable(self, path: Path) -> None:
        async with SqliteTokenStore(path) as store:
            (bad,) = await begin(store, new_session())
            run(path, "UPDATE mpauthx_session SET device = 'my phone' || CAST(x'ff' AS TEXT)")
            with pytest.raises(StoreError, match="UTF-8") as caught:
                await store.read([bad.ref])
        assert "my phone" not in str(caught.value)

    async def test_a_damaged_ban_fails_its_own_caller_alone(self, path: Path) -> None:
        bob = Subject("shop", "bob")
        async with SqliteTokenStore(path) as store:
            await store.ban(ALICE, reason="spam", ttl=None)
            await store.ban(bob, reason="fraud", ttl=None)
            run(path, "UPDATE mpauthx_ban SET reason = CAST(x'ff' AS TEXT) WHERE user_id = 'bob'")
            ban, failure = await partial_answers(store.bans([ALICE, bob]))
            assert ban.reason == "spam"
            assert isinstance(failure, StoreError)


class TestRecords:
    async def test_a_refused_record_says_what_refused_it(self, path: Path) -> None:
        async with SqliteKeyValueStore(path) as records:
            await records.save("good", "text", 60)
            run(path, REFUSAL.format("mpauthx_record", "NEW.text = 'bad'"))
            with pytest.raises(StoreError, match="not this one") as caught:
                await records.save("other", "bad", 60)
            assert "constraint or trigger" in str(caught.value)
            assert await records.get("good") == "text"


class TestService:
    async def test_of_concurrent_logins_that_of_the_refused_user_fails(
        self, path: Path, make: Callable[..., MPAuthX], wx: WeChatSimulator
    ) -> None:
        run(path, "CREATE TABLE user (openId TEXT PRIMARY KEY, CHECK (openId <> 'o-7'))")
        async with make() as auth:
            results = await settled(auth.authorize(wx.login(f"o-{i}")) for i in range(20))
            assert isinstance(results[7], StoreError)
            assert not isinstance(results[7], PartialStoreError)
            for i, result in enumerate(results):
                if i != 7:
                    assert isinstance(result, AuthResult)
                    assert await auth.is_token_valid(result.response)

    async def test_an_unreadable_user_fails_their_own_calls_alone(
        self, path: Path, make: Callable[..., MPAuthX], wx: WeChatSimulator
    ) -> None:
        async with make() as auth:
            given = {name: await auth.authorize(wx.login(name)) for name in ("o-bad", "o-eve")}
            run(path, "UPDATE user SET nickName = x'ff' WHERE openId = 'o-bad'")
            calls: list[Callable[[str], Awaitable[AuthResult]]] = [
                lambda open_id: auth.authorize(wx.login(open_id)),
                auth.refresh_token,
                lambda open_id: auth.rotate(given[open_id].response),
            ]
            for call in calls:
                failure, result = await settled([call("o-bad"), call("o-eve")])
                assert isinstance(failure, StoreError)
                assert not isinstance(failure, PartialStoreError)
                assert "nickName" in str(failure)
                assert isinstance(result, AuthResult)
                given["o-eve"] = result
