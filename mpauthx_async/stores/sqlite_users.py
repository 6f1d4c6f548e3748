"""SqliteUserStore: keeps users in a SQLite file, for one machine and for bots."""

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Self

from ..errors import StoreError
from ..models import User
from ..store_boundary import raises_store_errors
from .sqlite_database import Database, SqliteDatabase, transaction

__all__ = ["SqliteUserStore"]

_BUSY_TIMEOUT = 5.0  # seconds
_INSERT_ROWS = 500  # in one statement, which SQLite lets bind 32,766 values


@raises_store_errors
class SqliteUserStore:
    """Keeps users in a SQLite table named user: an existing one as it is, else a new one.

    An existing table needs a column openId and may have any of unionId, nickName, gender, city,
    province, country, language, avatarUrl, createdAt and updatedAt beside others of its own.
    Without a unionId column, openId holds the user id, as mpauthx has it: the unionId where
    WeChat gives one.

    Args:
        database: the file's path, or an open aiosqlite connection that nothing else writes
            through; the connection stays open.
        busy_timeout: how long to wait for a file that another process has locked, in seconds.
        clock: tells the time in Unix seconds.
    """

    def __init__(
        self,
        database: Database,
        *,
        busy_timeout: float = _BUSY_TIMEOUT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = SqliteDatabase(database, busy_timeout, self._prepare)
        self._clock = clock
        self._table = _UserTable(())

    async def save(self, users: Sequence[User]) -> Sequence[bool]:
        """Add users that are new and keep the others current; writes only what differs."""
        now = int(self._clock() * 1000)

        def save(cursor: sqlite3.Cursor) -> list[bool]:
            version = _data_version(cursor)
            plan = self._plan(cursor, users, now)
            if plan.changed:
                with transaction(cursor):
                    if _data_version(cursor) != version:
                        # Another process was faster. Now that the write lock is ours, none can be.
                        plan = self._plan(cursor, users, now)
                    for statement in plan.statements():
                        cursor.execute(*statement)
            return plan.is_new

        return await self._database.run(save)

    async def get(self, user_ids: Sequence[str]) -> Sequence[User | None]:
        """Find users by their ids, with one query."""
        stored = await self._database.run(lambda cursor: self._find(cursor, user_ids))
        by_id = {user.open_id: user for user in stored}
        by_id |= {user.union_id: user for user in stored if user.union_id}
        return [by_id.get(user_id) for user_id in user_ids]

    async def close(self) -> None:
        """Close the database if it was opened here; may be called again."""
        await self._database.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _plan(self, cursor: sqlite3.Cursor, users: Sequence[User], now: int) -> "_Plan":
        ids = [user_id for user in users for user_id in (user.open_id, user.union_id) if user_id]
        return _Plan(self._table, self._find(cursor, ids), users, now)

    def _find(self, cursor: sqlite3.Cursor, user_ids: Sequence[str]) -> list[User]:
        ((rows,),) = cursor.execute(self._table.select, {"ids": json.dumps(user_ids)})
        return [self._table.user(row) for row in json.loads(rows)]

    def _prepare(self, cursor: sqlite3.Cursor) -> None:
        columns = _user_columns(cursor)
        if not columns:
            cursor.execute(_CREATE_USER_TABLE)
            columns = _user_columns(cursor)
        self._table = _UserTable(columns)
        for index in self._table.indexes:
            cursor.execute(index)


def _data_version(cursor: sqlite3.Cursor) -> int:
    """A number that changes when another connection has written to the database."""
    ((version,),) = cursor.execute("PRAGMA data_version")
    return int(version)


_CREATE_USER_TABLE = """
CREATE TABLE IF NOT EXISTS user (
    openId TEXT PRIMARY KEY NOT NULL,
    unionId TEXT,
    nickName TEXT,
    gender INTEGER,
    city TEXT,
    province TEXT,
    country TEXT,
    language TEXT,
    avatarUrl TEXT,
    createdAt INTEGER,
    updatedAt INTEGER
)
"""

_ATTRIBUTES = {
    "openId": "open_id",
    "unionId": "union_id",
    "nickName": "nick_name",
    "gender": "gender",
    "city": "city",
    "province": "province",
    "country": "country",
    "language": "language",
    "avatarUrl": "avatar_url",
    "createdAt": "created_at",
    "updatedAt": "updated_at",
}  # column: attribute of User
_NUMBERS = ("gender", "createdAt", "updatedAt")


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    required: bool
    key: bool


def _user_columns(cursor: sqlite3.Cursor) -> list[_Column]:
    """The columns of the user table that are known here."""
    known = {name.lower(): name for name in _ATTRIBUTES}  # SQLite's names have no case
    rows = cursor.execute("PRAGMA table_info(user)").fetchall()
    columns = [
        _Column(known[name.lower()], bool(required), bool(key))
        for _, name, _, required, _, key in rows
        if name.lower() in known
    ]
    if rows and not any(column.name == "openId" for column in columns):
        raise StoreError("The database has a table named user without a column openId.")
    return columns


class _UserTable:
    """The statements for a user table, and its rows as users and back.

    Whatever the number of users, a statement is one step and gives one row: with each step Python
    lets go of the interpreter's lock, and waits for it again while the event loop is busy.
    """

    def __init__(self, columns: Sequence[_Column]) -> None:
        names = [column.name for column in columns]
        self._attributes = [_ATTRIBUTES[name] for name in names]
        self._values_of = attrgetter(*self._attributes, "open_id")  # a tuple, of one column too
        self._blanks = {i: _blank(column) for i, column in enumerate(columns) if column.required}
        self._has_union_id = "unionId" in names
        union = " OR unionId IN (SELECT value FROM json_each(:ids))" if self._has_union_id else ""
        self.select = (
            f"SELECT json_group_array(json_array({', '.join(names)})) FROM user"  # noqa: S608
            f" WHERE openId IN (SELECT value FROM json_each(:ids)){union}"
        )
        self._insert = f"INSERT INTO user ({', '.join(names)}) VALUES "  # noqa: S608
        self._marks = f"({', '.join('?' * len(names))})"
        changes = ", ".join(f"{name} = ?" for name in names)
        self.update = f"UPDATE user SET {changes} WHERE openId = ?"  # noqa: S608
        self.indexes = [
            f"CREATE INDEX IF NOT EXISTS mpauthx_user_{column.name} ON user ({column.name})"
            for column in columns
            if column.name == "unionId" or (column.name == "openId" and not column.key)
        ]

    def insert(self, rows: Sequence[Sequence[Any]]) -> tuple[str, list[Any]]:
        """One statement for all rows, and what to bind to it."""
        sql = self._insert + ", ".join([self._marks] * len(rows))
        return sql, [value for row in rows for value in row]

    def user(self, row: Sequence[Any]) -> User:
        return User(**dict(zip(self._attributes, row, strict=True)))

    def row(self, user: User) -> list[Any]:
        if user.union_id and not self._has_union_id:
            user = replace(user, open_id=user.union_id)
        row: list[Any] = list(self._values_of(user)[:-1])
        for i, blank in self._blanks.items():
            if row[i] is None:
                row[i] = blank
        return row


def _blank(column: _Column) -> object:
    """What stands for None in a column that takes none."""
    return 0 if column.name in _NUMBERS else ""


class _Plan:
    """What saving users comes to: who is new, and whose row is to be written."""

    def __init__(
        self, table: _UserTable, stored: Sequence[User], users: Iterable[User], now: int
    ) -> None:
        self._table = table
        self.is_new: list[bool] = []
        people = [_Person(user, stored_id=user.open_id) for user in stored]
        known = {person.user.open_id: person for person in people}
        known |= {person.user.union_id: person for person in people if person.user.union_id}
        for user in users:
            person = known.get(user.union_id or "") or known.get(user.open_id)
            self.is_new.append(person is None)
            if person is None:
                if user.created_at is None:
                    user = replace(user, created_at=now, updated_at=now)
                person = _Person(user, changed=True)
                people.append(person)
            else:
                current = person.user.updated_by(user)
                if current != person.user and table.row(current) != table.row(person.user):
                    person.user = replace(current, updated_at=now)
                    person.changed = True
            known[user.open_id] = known[user.id] = person
        self.changed = [person for person in people if person.changed]

    def statements(self) -> Iterator[tuple[str, list[Any]]]:
        """The statements to execute, each with what to bind to it."""
        new = [self._table.row(person.user) for person in self.changed if not person.stored_id]
        for start in range(0, len(new), _INSERT_ROWS):
            yield self._table.insert(new[start : start + _INSERT_ROWS])
        for person in self.changed:
            if person.stored_id:
                yield self._table.update, [*self._table.row(person.user), person.stored_id]


@dataclass(slots=True)
class _Person:
    user: User
    stored_id: str | None = None  # the openId of the row; None while there is none
    changed: bool = False
