"""What SqliteUserStore does to the tables of a database when ids turn out to be one person."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import aiosqlite
import pytest

from mpauthx_async import PartialStoreError, SqliteUserStore, StoreError, User
from tests.helpers.sqlite_files import data_version, query, run

UNIQUE = (
    "CREATE TABLE user (openId TEXT PRIMARY KEY, unionId TEXT UNIQUE, nickName TEXT, city TEXT);"
    "CREATE TABLE orders (user TEXT REFERENCES user (openId))"
)
WITHOUT_UNION_ID = "CREATE TABLE user (openId TEXT PRIMARY KEY, nickName TEXT, city TEXT)"


def links(path: Path) -> list[Any]:
    return query(path, "SELECT * FROM mpauthx_link ORDER BY id")


async def ids(store: SqliteUserStore, user_id: str) -> tuple[str, ...] | None:
    (user,) = await store.get([user_id])
    return user and user.ids


async def test_a_row_with_its_own_ids_needs_no_link(path: Path) -> None:
    async with SqliteUserStore(path) as store:
        await store.save([User("o-shop", "u-bob"), User("o-eve")])
    assert links(path) == []


async def test_the_app_of_an_open_id_is_kept(path: Path) -> None:
    async with SqliteUserStore(path) as store:
        await store.save([User("o-shop", "u-bob", app_id="shop"), User("o-eve", app_id="shop")])
        await store.save([User("o-game", "u-bob", app_id="game")])
    assert links(path) == [
        ("o-eve", 0, "shop", None),
        ("o-game", 0, "game", "u-bob"),
        ("o-shop", 0, "shop", None),
    ]


async def test_rows_stay_as_they_are_when_they_are_linked(path: Path) -> None:
    run(path, UNIQUE)
    async with SqliteUserStore(path) as store:
        await store.save([User("o-shop", "u-bob", "Bob"), User("o-game", city="Wuhan")])
        run(path, "INSERT INTO orders VALUES ('o-shop'), ('o-game')")
        assert list(await store.save([User("o-game", "u-bob", app_id="game")])) == [False]
        assert await ids(store, "o-game") == ("u-bob", "o-shop", "o-game")
    assert query(path, "SELECT * FROM user ORDER BY openId") == [
        ("o-game", None, None, "Wuhan"),
        ("o-shop", "u-bob", "Bob", "Wuhan"),
    ]
    assert links(path) == [("o-game", 0, "game", "u-bob")]
    assert query(path, "PRAGMA foreign_key_check") == []


async def test_a_union_id_known_later_goes_into_the_row(path: Path) -> None:
    run(path, UNIQUE)
    async with SqliteUserStore(path) as store:
        await store.save([User("o-shop")])
        assert list(await store.save([User("o-shop", "u-bob")])) == [False]
    assert query(path, "SELECT openId, unionId FROM user") == [("o-shop", "u-bob")]
    assert links(path) == []


async def test_a_replaced_union_id_keeps_the_row_and_all_ids(path: Path) -> None:
    run(path, UNIQUE)
    async with SqliteUserStore(path) as store:
        await store.save([User("o-shop", "u-old"), User("o-game", "u-old")])
        await store.save([User("o-game", "u-new")])
        assert await ids(store, "u-old") == ("u-new", "o-shop", "o-game", "u-old")
    assert query(path, "SELECT openId, unionId FROM user") == [("o-shop", "u-new")]
    assert links(path) == [("o-game", 0, None, "u-new"), ("u-old", 1, None, "u-new")]


async def test_a_union_id_of_another_row_is_never_written_twice(path: Path) -> None:
    run(path, UNIQUE)
    async with SqliteUserStore(path) as store:
        await store.save([User("o-shop", "u-old"), User("o-game", "u-new")])
        assert list(await store.save([User("o-shop", "u-new")])) == [False]
        assert list(await store.save([User("o-game", "u-old")])) == [False]
        assert set(await ids(store, "u-new") or ()) == {"o-shop", "o-game", "u-old", "u-new"}
    rows = query(path, "SELECT openId, unionId FROM user ORDER BY openId")
    assert rows == [("o-game", "u-new"), ("o-shop", "u-old")]


async def test_two_existing_rows_with_one_union_id_are_one_user(path: Path) -> None:
    async with SqliteUserStore(path) as store:
        await store.get([])
        run(
            path,
            "INSERT INTO user (openId, unionId, nickName, createdAt) VALUES"
            " ('o-a', 'u-bob', 'Younger', 2), ('o-b', 'u-bob', 'Older', 1)",
        )
        found = await store.get(["o-a", "o-b", "u-bob"])
        expected = ("Older", {"u-bob", "o-a", "o-b"})
        assert [user and (user.nick_name, set(user.ids)) for user in found] == [expected] * 3
        await store.save([User("o-a", "u-new")])
        for user_id in ("o-a", "o-b", "u-bob", "u-new"):
            assert set(await ids(store, user_id) or ()) == {"u-bob", "u-new", "o-a", "o-b"}
        assert await store.clear("u-bob", ["nick_name"])
        assert query(path, "SELECT nickName FROM user") == [(None,), (None,)]


async def test_without_a_union_id_column_a_row_may_be_of_either_id(path: Path) -> None:
    run(path, WITHOUT_UNION_ID)
    run(path, "INSERT INTO user VALUES ('an-id', 'Bob', NULL)")
    async with SqliteUserStore(path) as store:
        batch = [User("an-id"), User("o-shop", "an-id"), User("an-id", city="Wuhan")]
        assert list(await store.save(batch)) == [False] * 3
        assert set(await ids(store, "o-shop") or ()) == {"an-id", "o-shop"}
        assert list(await store.save([User("an-id"), User("o-shop")])) == [False] * 2
    assert query(path, "SELECT * FROM user") == [("an-id", "Bob", "Wuhan")]


async def test_a_login_that_is_refused_links_nobody(path: Path) -> None:
    run(path, "CREATE TABLE user (openId TEXT PRIMARY KEY, city TEXT CHECK (city <> 'Oz'))")
    async with SqliteUserStore(path) as store:
        with pytest.raises(PartialStoreError, match="CHECK"):
            await store.save([User("o-bob", "u-bob", city="Oz"), User("o-eve", "u-eve")])
        assert await ids(store, "u-bob") is None
        assert await ids(store, "o-bob") is None
        assert await ids(store, "o-eve") == ("u-eve", "o-eve")
    assert links(path) == [("o-eve", 0, None, "u-eve")]


async def test_an_open_id_may_be_linked_to_a_union_id_of_the_same_text(path: Path) -> None:
    async with SqliteUserStore(path) as store:
        await store.save([User("o-shop", "same-text"), User("same-text", "same-text")])
        assert list(await store.save([User("same-text")])) == [False]
    assert links(path) == [("same-text", 0, None, "same-text")]


async def test_a_login_that_tells_nothing_new_writes_no_links(path: Path) -> None:
    users = [User("o-shop", "u-old", app_id="shop"), User("o-game", "u-old", app_id="game")]
    with closing(sqlite3.connect(path)) as observer:
        async with SqliteUserStore(path) as store:
            await store.save([*users, User("o-shop", "u-new"), User("o-game", "u-new")])
            before = data_version(observer)
            await store.save([User("o-shop", app_id="shop"), User("o-game", "u-new", app_id="web")])
            assert data_version(observer) == before


async def test_a_row_deleted_by_hand_makes_a_new_user_with_the_same_links(path: Path) -> None:
    async with SqliteUserStore(path) as store:
        await store.save([User("o-shop", "u-bob", app_id="shop"), User("o-game", "u-bob")])
        run(path, "DELETE FROM user")
        assert await ids(store, "o-game") is None
        assert list(await store.save([User("o-game")])) == [True]
        assert set(await ids(store, "o-game") or ()) == {"o-game", "u-bob"}


async def test_two_processes_that_link_at_once_make_one_person(path: Path) -> None:
    stores = [SqliteUserStore(path) for _ in range(4)]
    for i in range(10):
        logins = [User(f"o-{i}-{app}", f"u-{i}", app_id=str(app)) for app in range(4)]
        answers = await asyncio.gather(
            *(store.save([login]) for store, login in zip(stores, logins, strict=True))
        )
        assert sorted(answer for (answer,) in answers) == [False] * 3 + [True]
        expected = {f"u-{i}", *(login.open_id for login in logins)}
        assert set(await ids(stores[0], f"o-{i}-3") or ()) == expected
    for store in stores:
        await store.close()
    assert query(path, "SELECT count(*) FROM user") == [(10,)]


async def test_a_row_that_others_point_at_is_not_deleted_where_that_is_enforced(path: Path) -> None:
    run(path, UNIQUE)
    async with aiosqlite.connect(path, isolation_level=None) as connection:
        await connection.execute("PRAGMA foreign_keys = ON")
        store = SqliteUserStore(connection)
        await store.save([User("o-shop", "u-bob", app_id="shop")])
        await connection.execute("INSERT INTO orders VALUES ('o-shop')")
        with pytest.raises(StoreError, match="FOREIGN KEY"):
            await store.forget("u-bob", app_ids={"shop"})
        assert await ids(store, "o-shop") == ("u-bob", "o-shop")
    assert links(path) == [("o-shop", 0, "shop", None)]


async def test_a_row_of_the_forgetting_app_alone_is_deleted(path: Path) -> None:
    async with SqliteUserStore(path) as store:
        await store.save([User("o-shop", "u-bob", app_id="shop"), User("o-game", app_id="game")])
        await store.save([User("o-game", "u-bob")])
        assert await store.forget("o-game", app_ids={"game"})
        assert await ids(store, "o-game") is None
    assert query(path, "SELECT openId FROM user") == [("o-shop",)]
    assert links(path) == [("o-shop", 0, "shop", None)]
