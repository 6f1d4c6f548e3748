"""Logins on made-up user tables, beside a model: one row a person, and the values of `User`."""

import asyncio
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mpauthx_async import SqliteUserStore, User
from mpauthx_async.stores import merge_profile
from tests.helpers.sqlite_files import data_version, query

ATTRIBUTES = {
    "nickName": "nick_name",
    "gender": "gender",
    "city": "city",
    "language": "language",
    "createdAt": "created_at",
    "updatedAt": "updated_at",
}
NUMBERS = ("gender", "createdAt", "updatedAt")
TEXT_TYPES = ["TEXT", "VARCHAR(128)", "CLOB", "", "BLOB", "STRING", "JSON"]
NUMBER_TYPES = ["INTEGER", "TEXT", "BIGINT", "REAL", "DATETIME", "", "BLOB", "VARCHAR(20)"]
NUMERIC_TYPES = ["STRING", "JSON"]  # in which SQLite keeps '007' as 7
STRICT_TEXT_TYPES = ["TEXT", "ANY"]
STRICT_NUMBER_TYPES = ["INT", "INTEGER", "TEXT", "REAL", "ANY"]
TEXTS = ["", "Bob", "007", "1.50", "O'Brien", "微信用户", "😀", "NULL", "2023-11-14"]
FOREIGN = {
    "points INTEGER NOT NULL DEFAULT 7": ("points", 7),
    "note TEXT": ("note", None),
    "'odd name' DEFAULT 'x'": ('"odd name"', "x"),
    "a NUMERIC": ("a", None),
}  # an application's own columns, each with its name and default
START = 1_700_000_000_000  # Unix milliseconds
# Raw values of existing rows, each with what User has of it.
RAW = {
    "text": [("Bob", "Bob"), ("", ""), (None, None), ("O'Brien", "O'Brien")],
    "gender": [(1, 1), ("1", 1), ("2", 2), (0, 0), (None, None), ("", None)],
    "time": [(START, START), (str(START), START), ("2023-11-14 22:13:20", START), (None, None)],
}


@dataclass(frozen=True)
class Column:
    name: str
    spelling: str
    type: str
    collation: str
    is_required: bool

    @property
    def sql(self) -> str:
        return (
            f"{self.spelling} {self.type} {'NOT NULL' if self.is_required else ''}"
            f" {self.collation and 'COLLATE ' + self.collation}"
        )

    def read(self, value: Any) -> Any:
        """What comes back of a value."""
        if self.type in NUMERIC_TYPES and value in ("007", "1.50"):
            return "7" if value == "007" else "1.5"
        return value


@dataclass(frozen=True)
class Table:
    columns: dict[str, Column]
    foreign: list[str]
    sql: str
    has_unique_ids: bool

    @property
    def has_union_id(self) -> bool:
        return "unionId" in self.columns


@dataclass(frozen=True)
class Row:
    raw: dict[str, Any]
    user: User


@st.composite
def tables(draw: st.DrawFn) -> Table:
    is_strict = draw(st.booleans())
    names = ["openId", *draw(st.sets(st.sampled_from(["unionId", *ATTRIBUTES])))]
    columns = {name: draw(known_columns(name, is_strict)) for name in names}
    foreign = [] if is_strict else draw(st.lists(st.sampled_from([*FOREIGN]), unique=True))
    parts = draw(st.permutations([*(column.sql for column in columns.values()), *foreign]))
    key = draw(st.sampled_from(["", "UNIQUE (openId)", "PRIMARY KEY (openId)"]))
    options = ["STRICT"] if is_strict else []
    if key.startswith("PRIMARY") and draw(st.booleans()):
        options.append("WITHOUT ROWID")
    if "unionId" in columns and not columns["unionId"].is_required and draw(st.booleans()):
        parts = [*parts, "UNIQUE (unionId)"]
    body = ", ".join([*parts, key] if key else parts)
    has_unique_ids = bool(key) or "UNIQUE (unionId)" in parts
    sql = f"CREATE TABLE {draw(spellings('user'))} ({body}) {', '.join(options)}"
    return Table(columns, foreign, sql, has_unique_ids)


@st.composite
def known_columns(draw: st.DrawFn, name: str, is_strict: bool) -> Column:
    if name in NUMBERS:
        types = STRICT_NUMBER_TYPES if is_strict else NUMBER_TYPES
    else:
        types = STRICT_TEXT_TYPES if is_strict else TEXT_TYPES
    return Column(
        name,
        draw(spellings(name)),
        draw(st.sampled_from(types)),
        draw(st.sampled_from(["NOCASE", "", "RTRIM"])),
        draw(st.booleans()),
    )


def spellings(name: str) -> st.SearchStrategy[str]:
    return st.sampled_from([name, name.lower(), name.upper(), f'"{name}"'])


@st.composite
def rows(draw: st.DrawFn, table: Table, name: str) -> Row:
    """What an application has stored of a person."""
    union_id = f"u-{name}" if table.has_union_id and draw(st.booleans()) else None
    empties = [] if table.has_unique_ids else [""]
    empties += [] if is_without_null(table, "openId") else [None]
    has_open_id = union_id is None or not empties or draw(st.booleans())
    empty = None if has_open_id else draw(st.sampled_from(empties))
    raw: dict[str, Any] = {"openId": f"o-{name}" if has_open_id else empty}
    values: dict[str, Any] = {"open_id": f"o-{name}" if has_open_id else "", "union_id": union_id}
    if table.has_union_id:
        raw["unionId"] = "" if union_id is None and is_without_null(table, "unionId") else union_id
    for column in table.columns.values():
        if column.name in ATTRIBUTES:
            kind = "text" if column.name not in NUMBERS else "time"
            kind = "gender" if column.name == "gender" else kind
            pairs = [pair for pair in RAW[kind] if fits(column, table, pair[0])]
            value, read = draw(st.sampled_from(pairs))
            raw[column.name], values[ATTRIBUTES[column.name]] = value, read
    return Row(raw, User(**values))


def is_without_null(table: Table, name: str) -> bool:
    has_options = "WITHOUT ROWID" in table.sql or "STRICT" in table.sql
    has_key = name == "openId" and "PRIMARY KEY" in table.sql and has_options
    return table.columns[name].is_required or has_key


def fits(column: Column, table: Table, value: Any) -> bool:
    if value is None:
        return not column.is_required
    is_number = "STRICT" in table.sql and column.type in ("INT", "INTEGER", "REAL")
    return not is_number or not isinstance(value, str) or value.isdigit()


def logins(names: Sequence[str], has_union_id: bool) -> st.SearchStrategy[User]:
    def login(name: str, has_union: bool, nick: Any, gender: Any, city: Any) -> User:
        union_id = f"u-{name}" if has_union and has_union_id else None
        return User(f"o-{name}", union_id, nick, gender, city)

    texts = st.sampled_from([None, *TEXTS])
    genders = st.sampled_from([None, 0, 1, 2])
    return st.builds(login, st.sampled_from(names), st.booleans(), texts, genders, texts)


class Model:
    """What the store has to say, and how many rows there are."""

    def __init__(self, table: Table, existing: dict[str, Row]) -> None:
        self.table = table
        self.users = {name: row.user for name, row in existing.items()}
        self.seen = {name for name, row in existing.items() if row.user.open_id}
        kept = table.columns.keys() & {"nickName", "gender", "city", "language"}
        self._profile = [table.columns[name] for name in kept]

    def save(self, login: User) -> bool:
        """Add a login; returns whether it makes a row."""
        name = login.open_id[2:]
        known = self.users.get(name)
        if known is None or (login.union_id is None and name not in self.seen):
            # A row of the unionId alone is not known to be of an openId that comes without it.
            assert known is None
            self.users[name] = login
        else:
            self.users[name] = merge_profile(known, login)
        self.seen.add(name)
        return known is None

    def expected(self, name: str) -> dict[str, Any]:
        user = self.users[name]
        read = {
            ATTRIBUTES[column.name]: column.read(getattr(user, ATTRIBUTES[column.name]))
            for column in self._profile
        }
        return self.told(replace(user, open_id=user.open_id or f"o-{name}", **read))

    def told(self, user: User) -> dict[str, Any]:
        """What is compared with what the store told."""
        names = [ATTRIBUTES[column.name] for column in self._profile]
        ids = {"open_id": user.open_id, "union_id": user.union_id}
        return ids | {name: getattr(user, name) or None for name in names}


@settings(max_examples=80)
@given(data=st.data(), table=tables())
def test_logins_keep_one_row_a_person(data: st.DataObject, table: Table) -> None:
    names = ["a", "b", "c" if table.has_unique_ids else "A"]
    stored = data.draw(st.sets(st.sampled_from(names)))
    existing = {name: data.draw(rows(table, name)) for name in sorted(stored)}
    batches = data.draw(
        st.lists(st.lists(logins(names, table.has_union_id), max_size=4), max_size=4)
    )
    # A row of a unionId alone is found once a login names it.
    for name, row in existing.items():
        if not row.user.open_id:
            batches.insert(0, [User(f"o-{name}", f"u-{name}")])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "users.db")
        fill(path, table, existing)
        model = Model(table, existing)
        asyncio.run(check(path, model, batches))
        new = len(model.users) - len(existing)
        assert foreign_values(path, table) == [
            ["mine"] * len(existing) + [FOREIGN[foreign][1]] * new for foreign in table.foreign
        ]


async def check(path: Path, model: Model, batches: list[list[User]]) -> None:
    now = START / 1000 + 60
    async with SqliteUserStore(path, clock=lambda: now) as store:
        await store.get([])
        for batch in batches:
            now += 1
            assert list(await store.save(batch)) == [model.save(login) for login in batch]
            await check_users(store, model)
        assert query(path, "SELECT count(*) FROM user") == [(len(model.users),)]
        now += 1
        last = [
            replace(model.users[name], open_id=f"o-{name}", created_at=None, updated_at=None)
            for name in sorted(model.seen)
        ]
        with closing(sqlite3.connect(path)) as observer:
            before = data_version(observer)
            assert list(await store.save(last)) == [False] * len(last)
            assert data_version(observer) == before  # there was nothing new to write


async def check_users(store: SqliteUserStore, model: Model) -> None:
    names = sorted(model.seen)
    for name, user in zip(names, await store.get([f"o-{name}" for name in names]), strict=True):
        assert user is not None
        assert model.told(user) == model.expected(name)
        for value in (user.gender, user.created_at, user.updated_at):
            assert value is None or type(value) is int
        for time in (user.created_at, user.updated_at):
            assert time is None or time >= START


def fill(path: Path, table: Table, existing: dict[str, Row]) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(table.sql)
        for row in existing.values():
            marks = ", ".join("?" * len(row.raw))
            columns = ", ".join(table.columns[name].spelling for name in row.raw)
            sql = f"INSERT INTO user ({columns}) VALUES ({marks})"
            connection.execute(sql, list(row.raw.values()))
        for foreign in table.foreign:
            connection.execute(f"UPDATE user SET {FOREIGN[foreign][0]} = 'mine'")


def foreign_values(path: Path, table: Table) -> list[list[Any]]:
    """The values of each of the application's own columns, those of its own rows first."""
    names = [FOREIGN[foreign][0] for foreign in table.foreign]
    sql = "SELECT {0} FROM user ORDER BY {0} IS NOT 'mine'"
    return [[value for (value,) in query(path, sql.format(name))] for name in names]
