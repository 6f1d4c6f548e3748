"""What every user store promises, over every table that SqliteUserStore may find."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import aiosqlite
import pytest

from mpauthx_async import ConfigurationError, SqliteUserStore, User
from mpauthx_async.stores import open_user_store
from mpauthx_async.stores.conformance import UserStoreConformance
from tests.helpers.memory_stores import MemoryUsers
from tests.helpers.sqlite_files import ConformanceOnATable, data_version, plan_of, query, run
from tests.helpers.user_stores import only_user

MPAUTHX = (
    "CREATE TABLE user(openId text primary key not null, city text, country text, gender integer,"
    " language text, nickName text, province text)"
)
OPEN_ID_ALONE = "CREATE TABLE user (openId TEXT)"
ODD_CASE = (
    "CREATE TABLE User (id INTEGER PRIMARY KEY AUTOINCREMENT, points INT NOT NULL DEFAULT 7,"
    " OPENID TEXT UNIQUE, nickname, UNIONID VARCHAR(128), Gender INT, email TEXT, CreatedAt INT)"
)
NOT_NULL = (
    "CREATE TABLE user (openId TEXT NOT NULL, unionId TEXT NOT NULL, nickName TEXT NOT NULL,"
    " gender INTEGER NOT NULL, city TEXT NOT NULL, province TEXT NOT NULL, country TEXT NOT NULL,"
    " language TEXT NOT NULL, avatarUrl TEXT NOT NULL, createdAt INTEGER NOT NULL,"
    " updatedAt INTEGER NOT NULL)"
)
UNIQUE = (
    "CREATE TABLE user (openId TEXT PRIMARY KEY, unionId TEXT UNIQUE, nickName TEXT, city TEXT)"
)
ALICE = User("o-alice", None, "Alice", 1, "Guangzhou", "Guangdong", "China", "zh_CN")


class TestNewFile(UserStoreConformance):
    @pytest.fixture
    async def store(self, path: Path) -> AsyncIterator[SqliteUserStore]:
        async with SqliteUserStore(str(path)) as store:
            yield store


class TestConnection(UserStoreConformance):
    @pytest.fixture
    async def store(self, path: Path) -> AsyncIterator[SqliteUserStore]:
        async with aiosqlite.connect(path) as connection:
            connection.row_factory = sqlite3.Row
            yield SqliteUserStore(connection)


class TestTableOfMpauthx(ConformanceOnATable):
    script = MPAUTHX
    keeps = frozenset(("nick_name", "gender", "city", "province", "country", "language"))


class TestTableOfOpenIdAlone(ConformanceOnATable):
    script = OPEN_ID_ALONE
    keeps = frozenset()


class TestTableInOddCaseWithColumnsOfItsOwn(ConformanceOnATable):
    script = ODD_CASE
    keeps = frozenset(("union_id", "nick_name", "gender", "created_at"))


class TestTableThatTakesNoNull(ConformanceOnATable):
    script = NOT_NULL


class TestMemory(UserStoreConformance):
    @pytest.fixture
    def store(self) -> MemoryUsers:
        return MemoryUsers()


class TestExistingTable:
    async def test_the_users_of_mpauthx_are_known(self, path: Path) -> None:
        run(path, MPAUTHX)
        run(
            path,
            "INSERT INTO user VALUES ('o-alice', 'Guangzhou', 'China', 1, 'zh_CN', 'Alice',"
            " 'Guangdong'), ('u-bob', '', '', 0, '', '', '')",
        )
        async with SqliteUserStore(path) as store:
            assert list(await store.get(["o-alice"])) == [ALICE]
            users = [User("o-alice"), User("o-bob", "u-bob"), User("o-carol")]
            assert list(await store.save(users)) == [False, False, True]

    async def test_without_a_union_id_column_open_id_holds_the_user_id(self, path: Path) -> None:
        run(path, MPAUTHX)
        async with SqliteUserStore(path) as store:
            await store.save([User("o-alice", "u-alice"), User("o-bob")])
        assert query(path, "SELECT openId FROM user ORDER BY 1") == [("o-bob",), ("u-alice",)]

    async def test_without_a_union_id_column_a_union_id_gets_a_row(self, path: Path) -> None:
        run(path, MPAUTHX)
        async with SqliteUserStore(path) as store:
            await store.save([ALICE])
            assert list(await store.save([User("o-alice", "u-alice", city="Wuhan")])) == [False]
            expected = replace(ALICE, union_id="u-alice", city="Wuhan")
            assert list(await store.get(["u-alice", "o-alice"])) == [expected] * 2
            assert list(await store.save([User("o-alice", "u-new")])) == [False]
            expected = replace(expected, union_id="u-new", linked_ids=("u-alice",))
            assert list(await store.get(["u-alice", "o-alice", "u-new"])) == [expected] * 3
        assert query(path, "SELECT openId, nickName, city FROM user ORDER BY 1") == [
            ("o-alice", "Alice", "Guangzhou"),
            ("u-alice", "Alice", "Wuhan"),
            ("u-new", "Alice", "Wuhan"),
        ]

    async def test_columns_of_its_own_stay_and_no_other_is_added(self, path: Path) -> None:
        run(path, ODD_CASE)
        run(path, "INSERT INTO user (OPENID, points, email) VALUES ('o-alice', 99, 'a@b.cn')")
        before = query(path, "SELECT sql FROM sqlite_master WHERE name = 'User'")
        async with SqliteUserStore(path) as store:
            assert list(await store.save([ALICE, User("o-bob")])) == [False, True]
        assert query(path, "SELECT OPENID, nickname, points, email FROM user ORDER BY 1") == [
            ("o-alice", "Alice", 99, "a@b.cn"),
            ("o-bob", None, 7, None),
        ]
        assert query(path, "SELECT sql FROM sqlite_master WHERE name = 'User'") == before

    async def test_columns_that_take_no_null_get_what_is_empty(self, path: Path) -> None:
        run(path, NOT_NULL)
        async with SqliteUserStore(path, clock=lambda: 1_700_000_000.5) as store:
            await store.save([User("o-alice")])
        now = 1_700_000_000_500
        assert query(path, "SELECT * FROM user") == [
            ("o-alice", "", "", 0, "", "", "", "", "", now, now)
        ]

    @pytest.mark.parametrize("table", [None, MPAUTHX, OPEN_ID_ALONE, ODD_CASE, NOT_NULL, UNIQUE])
    async def test_no_query_scans_a_table(self, path: Path, table: str | None) -> None:
        if table is not None:
            run(path, table)
        async with aiosqlite.connect(path) as connection:
            store = SqliteUserStore(connection)
            await store.get([])
            statements: list[str] = []
            await connection.set_trace_callback(statements.append)
            await store.save([ALICE, User("o-bob", "u-bob"), User("o-game", "u-bob")])
            await store.save([replace(ALICE, nick_name="Ali"), User("o-bob", "u-bob-2")])
            await store.get(["u-bob-2", "o-game"])
            await store.clear("u-bob-2", ["nick_name"])
            await store.forget("u-bob", app_ids={"shop"})
            await connection.set_trace_callback(None)
        steps = plan_of(path, statements)
        assert len([step for step in steps if step.startswith("SEARCH user USING")]) >= 3
        assert [step for step in steps if step.startswith("SEARCH mpauthx_link USING")]
        assert [step for step in steps if step.startswith(("SCAN user", "SCAN mpauthx_link"))] == []


class TestNewTable:
    async def test_it_has_every_known_column(self, path: Path) -> None:
        async with SqliteUserStore(path) as store:
            await store.get([])
        names = [name for _, name, *_ in query(path, "PRAGMA table_info(user)")]
        profile = ["nickName", "gender", "city", "province", "country", "language", "avatarUrl"]
        assert names == ["openId", "unionId", *profile, "createdAt", "updatedAt"]

    async def test_the_times_come_from_the_clock(self, path: Path) -> None:
        now = 1_700_000_000.0
        async with SqliteUserStore(path, clock=lambda: now) as store:
            await store.save([ALICE])
            now += 60
            await store.save([ALICE])
            assert await _times(store) == (1_700_000_000_000, 1_700_000_000_000)
            now += 60
            await store.save([replace(ALICE, city="Wuhan")])
            assert await _times(store) == (1_700_000_000_000, 1_700_000_120_000)
            now += 60
            await store.save([User("o-alice", "u-alice")])
            assert await _times(store) == (1_700_000_000_000, 1_700_000_180_000)


class TestWriting:
    @pytest.mark.parametrize("table", [None, MPAUTHX, OPEN_ID_ALONE, ODD_CASE, NOT_NULL])
    async def test_writes_nothing_when_nothing_changed(self, path: Path, table: str | None) -> None:
        if table is not None:
            run(path, table)
        with closing(sqlite3.connect(path)) as observer:
            async with SqliteUserStore(path) as store:
                users = [replace(ALICE, union_id="u-alice"), User("o-bob")]
                await store.save(users)
                before = data_version(observer)
                await store.save(users)
                await store.save([User("o-alice", "u-alice", "", 0, "")] * 2)
                await store.save([User("o-alice", "u-alice", "微信用户", 0, "Nowhere")])
                await store.save([])
                await store.get(["u-alice", "o-bob", "stranger"])
                assert data_version(observer) == before
                await store.save([User("o-carol")])
                assert data_version(observer) != before

    async def test_an_import_may_bind_more_values_than_a_statement_takes(self, path: Path) -> None:
        users = [User(f"o-{i}") for i in range(25_000)]  # 275,000 values
        async with SqliteUserStore(path) as store:
            assert list(await store.save(users)) == [True] * 25_000
        assert query(path, "SELECT count(*) FROM user") == [(25_000,)]


class TestOpeningByUrl:
    async def test_opens_an_absolute_path_with_a_clock(self, path: Path) -> None:
        async with open_user_store(f"sqlite:///{path}", clock=lambda: 1.5) as store:
            await store.save([ALICE])
        assert query(path, "SELECT openId, createdAt FROM user") == [("o-alice", 1500)]

    @pytest.mark.parametrize(
        ("url", "said"),
        [
            ("", "sqlite:///"),
            ("sqlite:///", "sqlite:///"),
            ("users.db", "is sqlite:///users.db."),
            ("redis://localhost", "or mongodb://, not with redis://."),
            ("sqlite:///users.db?busy_timeout=5", "the option 'busy_timeout'"),
            ("root:pa://ss@host", "and this one has no scheme."),  # a password has the rest
        ],
    )
    async def test_an_invalid_url_is_explained(self, url: str, said: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            open_user_store(url)
        assert said in str(caught.value)


async def _times(store: SqliteUserStore) -> tuple[int | None, int | None]:
    alice = await only_user(store, "o-alice")
    return alice.created_at, alice.updated_at
