"""User tables as people have them: what works, and what is refused when the store opens."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from mpauthx_async import (
    ConfigurationError,
    MPAuthX,
    SqliteUserStore,
    StoreError,
    User,
    WeChatSimulator,
)
from tests.helpers.sqlite_files import ConformanceOnATable, data_version, query, run
from tests.helpers.user_stores import only_user

NOW = 1_700_000_000_000  # Unix milliseconds: 2023-11-14 22:13:20 UTC
DJANGO = (
    'CREATE TABLE "user" ("id" integer NOT NULL PRIMARY KEY AUTOINCREMENT,'
    ' "password" varchar(128) NOT NULL DEFAULT \'!\', "openId" varchar(128) NOT NULL UNIQUE,'
    ' "unionId" varchar(128) NULL UNIQUE, "nickName" varchar(64) NOT NULL,'
    ' "gender" smallint unsigned NOT NULL CHECK ("gender" >= 0), "createdAt" datetime NOT NULL)'
)
SEQUELIZE = (
    "CREATE TABLE `user` (`id` INTEGER PRIMARY KEY AUTOINCREMENT, `openId` VARCHAR(255),"
    " `unionId` VARCHAR(255), `nickName` VARCHAR(255), `gender` TINYINT, `city` VARCHAR(255),"
    " `createdAt` DATETIME NOT NULL, `updatedAt` DATETIME NOT NULL)"
)
ALL_TEXT = (
    "CREATE TABLE user (openId TEXT, unionId TEXT, nickName TEXT, gender TEXT, city TEXT,"
    " province TEXT, country TEXT, language TEXT, avatarUrl TEXT, createdAt TEXT, updatedAt TEXT)"
)
STRICT = (
    "CREATE TABLE user (openId TEXT PRIMARY KEY, unionId ANY, nickName TEXT, gender INT,"
    " createdAt TEXT, updatedAt REAL) STRICT, WITHOUT ROWID"
)
COMPOSITE = (
    "CREATE TABLE user (tenant INTEGER DEFAULT 1, openId TEXT, unionId TEXT, gender REAL,"
    " PRIMARY KEY (tenant, openId)) WITHOUT ROWID"
)
VIEW = """
CREATE TABLE person (id INTEGER PRIMARY KEY, open TEXT UNIQUE, union_ TEXT, nick TEXT, note TEXT);
CREATE VIEW user AS SELECT open AS openId, union_ AS unionId, nick AS nickName, note FROM person;
CREATE TRIGGER user_insert INSTEAD OF INSERT ON user BEGIN
    INSERT OR IGNORE INTO person (open, union_, nick)
    VALUES (NEW.openId, NEW.unionId, NEW.nickName); END;
CREATE TRIGGER user_update INSTEAD OF UPDATE ON user BEGIN
    UPDATE person SET union_ = NEW.unionId, nick = NEW.nickName WHERE open = OLD.openId; END;
CREATE TRIGGER user_delete INSTEAD OF DELETE ON user BEGIN
    DELETE FROM person WHERE open = OLD.openId; END
"""
# Each table on which logins cannot work, and what the store says of it.
HOPELESS = {
    "CREATE TABLE user (id INTEGER PRIMARY KEY, name TEXT)": ["without a column openId"],
    "CREATE TABLE user (openId TEXT, Email TEXT NOT NULL)": ["user.Email", "Give it a default"],
    "CREATE TABLE user (openId TEXT, email TEXT NOT NULL DEFAULT NULL)": ["user.email"],
    "CREATE TABLE user (id TEXT PRIMARY KEY NOT NULL, openId TEXT)": ["user.id is NOT NULL"],
    "CREATE TABLE user (id INT PRIMARY KEY, openId TEXT) WITHOUT ROWID": ["user.id is NOT NULL"],
    "CREATE TABLE user (openId TEXT, unionid TEXT UNIQUE NOT NULL)": [
        "user.unionid is NOT NULL and UNIQUE",
        "Drop one",
    ],
    "CREATE TABLE user (openId TEXT, unionId TEXT PRIMARY KEY) WITHOUT ROWID": ["user.unionId"],
    "CREATE TABLE user (openId TEXT, nickName TEXT NOT NULL);"
    " CREATE UNIQUE INDEX names ON user (nickName)": ["user.nickName is NOT NULL and UNIQUE"],
    "CREATE TABLE user (data TEXT, openId TEXT AS (json_extract(data, '$.id')))": [
        "user.openId is generated",
        "ordinary column",
    ],
    "CREATE TABLE user (openId TEXT, city TEXT AS (upper(openId)) STORED)": ["user.city is gener"],
    "CREATE TABLE user (openId INTEGER PRIMARY KEY)": ["user.openId is an INTEGER PRIMARY KEY"],
    "CREATE TABLE user (openId TEXT, nickName BLOB) STRICT": ["user.nickName", "BLOB", "TEXT"],
    "CREATE TABLE user (openId TEXT, gender BLOB) STRICT": ["user.gender", "Declare it INTEGER"],
    "CREATE TABLE person (openId TEXT); CREATE VIEW user AS SELECT openId FROM person": [
        "it is a view",
        "INSTEAD OF triggers",
    ],
    VIEW.partition("CREATE TRIGGER user_delete")[0]: ["it is a view", "INSTEAD OF triggers"],
    "CREATE TABLE user (openId TEXT); CREATE TRIGGER audit AFTER INSERT ON user BEGIN"
    " INSERT INTO gone VALUES (1); END": ["no such table: main.gone", "a trigger may name only"],
}
# What a column may hold, and what `User` has of it.
GENDERS = {"'1'": 1, "1.0": 1, "' 2 '": 2, "''": None, "NULL": None, "'male'": None, "0": 0}
TIMES = {
    "1700000000000": NOW,
    "'1700000000000'": NOW,
    "1.7e12": NOW,
    "'2023-11-14 22:13:20'": NOW,
    "'2023-11-14 22:13:20.000 +00:00'": NOW,
    "'2023-11-14T22:13:20Z'": NOW,
    "'2023-11-15 06:13:20+08:00'": NOW,
    "'2023-11-14'": 1_699_920_000_000,
    "'yesterday'": None,
    "'0001-01-01 00:00:00+14:00'": -62_135_647_200_000,
    "''": None,
    "NULL": None,
}


class TestTableOfDjango(ConformanceOnATable):
    script = DJANGO
    keeps = frozenset(("union_id", "nick_name", "gender", "created_at"))


class TestTableOfSequelize(ConformanceOnATable):
    script = SEQUELIZE
    keeps = frozenset(("union_id", "nick_name", "gender", "city", "created_at", "updated_at"))


class TestTableOfTexts(ConformanceOnATable):
    script = ALL_TEXT


class TestStrictTable(ConformanceOnATable):
    script = STRICT
    keeps = frozenset(("union_id", "nick_name", "gender", "created_at", "updated_at"))


class TestTableWithACompositeKey(ConformanceOnATable):
    script = COMPOSITE
    keeps = frozenset(("union_id", "gender"))


class TestView(ConformanceOnATable):
    script = VIEW
    keeps = frozenset(("union_id", "nick_name"))


class TestHopelessTable:
    @pytest.mark.parametrize(("script", "said"), HOPELESS.items())
    async def test_opening_the_store_raises_and_changes_nothing(
        self, path: Path, script: str, said: list[str]
    ) -> None:
        run(path, script)
        before = query(path, "SELECT name, sql FROM sqlite_master")
        async with SqliteUserStore(path) as store:
            for ask in (lambda: store.get(["o-bob"]), lambda: store.save([User("o-bob")])):
                with pytest.raises(ConfigurationError) as caught:
                    await ask()
                for part in said:
                    assert part in str(caught.value)
                assert "file and its folder" not in str(caught.value)
        assert query(path, "SELECT name, sql FROM sqlite_master") == before

    async def test_the_store_works_once_the_table_is_repaired(self, path: Path) -> None:
        run(path, "CREATE TABLE user (openId TEXT)")
        run(path, "ALTER TABLE user ADD COLUMN city TEXT AS (upper(openId))")
        async with SqliteUserStore(path) as store:
            with pytest.raises(ConfigurationError, match=r"user\.city"):
                await store.save([User("o-bob")])
            run(path, "ALTER TABLE user DROP COLUMN city")
            assert list(await store.save([User("o-bob")])) == [True]

    async def test_a_login_raises_the_configuration_error(
        self, path: Path, make: Callable[..., MPAuthX], wx: WeChatSimulator
    ) -> None:
        run(path, "CREATE TABLE user (openId TEXT, email TEXT NOT NULL)")
        async with make() as auth:
            with pytest.raises(ConfigurationError, match=r"user\.email"):
                await auth.authorize(wx.login("o-bob"))


class TestRowWithoutAnOpenId:
    @pytest.mark.parametrize("empty", ["NULL", "''"])
    async def test_a_row_without_an_open_id_belongs_to_its_union_id(
        self, path: Path, empty: str
    ) -> None:
        run(path, "CREATE TABLE user (openId TEXT, unionId TEXT, city TEXT, points INTEGER)")
        run(path, f"INSERT INTO user VALUES ({empty}, 'u-bob', 'Wuhan', 7)")
        login = User("o-bob", "u-bob", nick_name="Bob", app_id="shop")
        async with SqliteUserStore(path) as store:
            expected = User("o-bob", "u-bob", city="Wuhan", app_id="shop")
            assert list(await store.get(["u-bob"])) == [User("u-bob", "u-bob", city="Wuhan")]
            assert list(await store.save([login, User("o-eve")])) == [False, True]
            for _ in range(2):
                assert list(await store.save([login, User("o-eve")])) == [False, False]
                assert list(await store.get(["u-bob", "o-bob"])) == [expected] * 2
            await store.save([User("o-bob", city="Xi'an")])
            await store.save([User("o-game", "u-bob", app_id="game")])
            bob = await only_user(store, "o-game")
            assert set(bob.ids) == {"u-bob", "o-bob", "o-game"}
            assert bob.city == "Xi'an"
        rows = query(path, "SELECT coalesce(openId, ''), unionId, city, points FROM user")
        assert rows == [("", "u-bob", "Xi'an", 7), ("o-eve", None, None, None)]

    async def test_several_of_one_union_id_are_one_person(self, path: Path) -> None:
        run(path, "CREATE TABLE user (openId TEXT UNIQUE, unionId TEXT, city TEXT, note TEXT)")
        run(
            path,
            "INSERT INTO user VALUES (NULL, 'u-bob', 'Wuhan', 'a'), (NULL, 'u-bob', 'Oz', 'b'),"
            " (NULL, NULL, 'Oz', 'c'), ('', NULL, 'Oz', 'd'), (NULL, 'u-eve', 'Oz', 'e')",
        )
        async with SqliteUserStore(path) as store:
            for _ in range(2):
                assert list(await store.save([User("o-bob", "u-bob", city="Xi'an")])) == [False]
            assert list(await store.save([User("o-new")])) == [True]
            assert await store.forget("o-bob", app_ids=["shop"])
            assert list(await store.get(["o-bob", "u-bob", ""])) == [None] * 3
        notes = query(path, "SELECT note FROM user ORDER BY rowid")
        assert notes == [("c",), ("d",), ("e",), (None,)]

    async def test_its_profile_can_be_cleared(self, path: Path) -> None:
        run(path, "CREATE TABLE user (openId TEXT, unionId TEXT, city TEXT)")
        run(path, "INSERT INTO user VALUES ('', 'u-bob', 'Wuhan'), ('', 'u-eve', 'Oz')")
        async with SqliteUserStore(path) as store:
            assert await store.clear("u-bob", ["city"])
        assert query(path, "SELECT city FROM user ORDER BY rowid") == [(None,), ("Oz",)]

    async def test_a_replaced_union_id_goes_into_it(self, path: Path) -> None:
        run(path, "CREATE TABLE user (openId TEXT, unionId TEXT UNIQUE)")
        run(path, "INSERT INTO user VALUES ('', 'u-old'), ('', 'u-eve')")
        async with SqliteUserStore(path) as store:
            await store.save([User("o-bob", "u-old")])
            assert list(await store.save([User("o-bob", "u-new")])) == [False]
            bob = await only_user(store, "u-old")
            assert bob.ids == ("u-new", "o-bob", "u-old")
        assert query(path, "SELECT unionId FROM user ORDER BY rowid") == [("u-new",), ("u-eve",)]


class TestValues:
    @pytest.mark.parametrize("column", ["gender TEXT", "gender INTEGER", "gender", "gender REAL"])
    @pytest.mark.parametrize(("stored", "expected"), GENDERS.items())
    async def test_a_gender_is_a_number(
        self, path: Path, column: str, stored: str, expected: int | None
    ) -> None:
        run(path, f"CREATE TABLE user (openId TEXT, {column})")
        run(path, f"INSERT INTO user VALUES ('o-bob', {stored})")
        async with SqliteUserStore(path) as store:
            bob = await only_user(store, "o-bob")
            assert bob == User("o-bob", gender=expected)
            assert type(bob.gender) is type(expected)

    @pytest.mark.parametrize("column", ["createdAt TEXT", "createdAt DATETIME", "createdAt"])
    @pytest.mark.parametrize(("stored", "expected"), TIMES.items())
    async def test_a_time_is_in_unix_milliseconds(
        self, path: Path, column: str, stored: str, expected: int | None
    ) -> None:
        run(path, f"CREATE TABLE user (openId TEXT, {column})")
        run(path, f"INSERT INTO user VALUES ('o-bob', {stored})")
        async with SqliteUserStore(path) as store:
            assert list(await store.get(["o-bob"])) == [User("o-bob", created_at=expected)]

    async def test_a_login_that_tells_nothing_new_writes_nothing(self, path: Path) -> None:
        run(path, "CREATE TABLE user (openId TEXT, nickName STRING, gender TEXT, createdAt TEXT)")
        run(path, "INSERT INTO user VALUES ('o-bob', '007', '1', '2023-11-14 22:13:20')")
        with closing(sqlite3.connect(path)) as observer:
            async with SqliteUserStore(path) as store:
                await store.get([])
                before = data_version(observer)
                login = User("o-bob", nick_name="007", gender=1)
                assert list(await store.save([login] * 3)) == [False] * 3
                assert data_version(observer) == before
        assert query(path, "SELECT * FROM user") == [("o-bob", 7, "1", "2023-11-14 22:13:20")]

    async def test_a_change_leaves_the_other_columns_as_they_are(self, path: Path) -> None:
        run(path, SEQUELIZE)
        date = "2023-11-14 22:13:20.000 +00:00"
        run(path, f"INSERT INTO user VALUES (1, 'o-bob', NULL, 'Bob', 'x', '', '{date}', '{date}')")
        async with SqliteUserStore(path, clock=lambda: NOW / 1000 + 1.5) as store:
            await store.save([User("o-bob", nick_name="Bobby")])
            assert await only_user(store, "o-bob") == User(
                "o-bob", nick_name="Bobby", city="", created_at=NOW, updated_at=NOW + 1500
            )
        row = (1, "o-bob", None, "Bobby", "x", "", date, "2023-11-14 22:13:21.500")
        assert query(path, "SELECT * FROM user") == [row]

    async def test_ids_that_a_collation_takes_for_one_are_two(self, path: Path) -> None:
        ids = "openId TEXT COLLATE NOCASE, unionId TEXT COLLATE NOCASE"
        run(path, f"CREATE TABLE user ({ids}, city)")
        async with SqliteUserStore(path) as store:
            users = [User("oB", "uB", city="Wuhan"), User("ob", "ub", city="Xi'an")]
            assert list(await store.save(users)) == [True, True]
            users = [replace(user, city=f"New {user.city}") for user in users]
            assert list(await store.save(users)) == [False, False]
            assert list(await store.get(["oB", "ub", "OB"])) == [*users, None]
            assert await store.clear("ob", ["city"])
            assert await store.forget("uB", app_ids=["shop"])
        assert query(path, "SELECT * FROM user") == [("ob", "ub", None)]

    async def test_ids_that_a_column_turns_into_numbers_are_refused(self, path: Path) -> None:
        run(path, "CREATE TABLE user (openId STRING PRIMARY KEY)")
        async with SqliteUserStore(path) as store:
            assert list(await store.save([User("o-bob")])) == [True]
            for _ in range(2):
                with pytest.raises(StoreError, match="Declare it TEXT"):
                    await store.save([User("00123")])
            assert list(await store.get(["00123", "o-bob"])) == [None, User("o-bob")]
        assert query(path, "SELECT openId FROM user") == [("o-bob",)]

    async def test_triggers_keep_their_own_conflict_clauses(self, path: Path) -> None:
        run(
            path,
            "CREATE TABLE user (openId TEXT, city TEXT); CREATE TABLE town (name PRIMARY KEY);"
            " CREATE TRIGGER known AFTER INSERT ON user BEGIN"
            " INSERT OR IGNORE INTO town VALUES (NEW.city); END",
        )
        async with SqliteUserStore(path) as store:
            await store.save([User("o-1", city="Wuhan"), User("o-2", city="Wuhan")])
        assert query(path, "SELECT name FROM town") == [("Wuhan",)]
