"""UserTable: the user table as a database has it, and the statements for it."""

import json
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from ..errors import StoreError
from ..models import User

__all__ = ["Statement", "UserTable", "insert_rows"]

Statement = tuple[str, Sequence[Any]]
"""SQL, and what to bind to it."""

_INSERT_ROWS = 500  # in one statement, which SQLite lets bind 32,766 values

_CREATE = """
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


class UserTable:
    """The columns of a user table, its statements, and its rows as users and back.

    Whatever the number of users, a query is one step and gives one value: with each step Python
    releases the GIL, and waits for it again while the event loop is busy.

    Attributes:
        has_union_id: whether it has a column unionId. If not, openId holds the user id.
        select: an expression in SQL: the rows with one of the :open_ids or :union_ids, as JSON.

    Args:
        columns: those that are known here.
    """

    def __init__(self, columns: "Sequence[_Column]") -> None:
        self._names = [column.name for column in columns]
        self._attributes = [_ATTRIBUTES[name] for name in self._names]
        self._values_of = attrgetter(*self._attributes, "open_id")  # a tuple, of one column too
        self._blanks = {i: _blank(column) for i, column in enumerate(columns) if column.required}
        self.has_union_id = "unionId" in self._names
        union_ids = "(SELECT value FROM json_each(:union_ids))"
        self.select = (
            f"(SELECT json_group_array(json_array({', '.join(self._names)})) FROM user"  # noqa: S608
            " WHERE openId IN (SELECT value FROM json_each(:open_ids))"
            f" OR {'unionId' if self.has_union_id else 'openId'} IN {union_ids})"
        )
        self._insert = f"INSERT INTO user ({', '.join(self._names)}) VALUES "  # noqa: S608
        # An openId never changes: it is set to what it is, so that a table of it alone works too.
        changes = ", ".join(f"{name} = ?" for name in self._names)
        self._update = f"UPDATE user SET {changes} WHERE openId = ?"  # noqa: S608

    @classmethod
    def open(cls, cursor: sqlite3.Cursor) -> "UserTable":
        """Read which columns there are; create the table, and indexes, if they are missing.

        Raises:
            StoreError: the table has no column openId.
        """
        columns = _columns(cursor)
        if not columns:
            cursor.execute(_CREATE)
            columns = _columns(cursor)
        for column in columns:
            if column.name == "unionId" or (column.name == "openId" and not column.key):
                cursor.execute(
                    f"CREATE INDEX IF NOT EXISTS mpauthx_user_{column.name} ON user ({column.name})"
                )
        return cls(columns)

    def user(self, row: Sequence[Any]) -> User:
        """The user that a row holds."""
        return User(**dict(zip(self._attributes, row, strict=True)))

    def as_stored(self, user: User) -> User:
        """A user as the row holds them that is inserted for them."""
        return user if self.has_union_id else replace(user, open_id=user.id, union_id=None)

    def row(self, user: User) -> list[Any]:
        """The row that holds a user."""
        row: list[Any] = list(self._values_of(user)[:-1])
        for i, blank in self._blanks.items():
            if row[i] is None:
                row[i] = blank
        return row

    def insert(self, users: Sequence[User]) -> Iterable[Statement]:
        """Add rows."""
        return insert_rows(self._insert, [self.row(user) for user in users])

    def update(self, user: User) -> Statement:
        """Write a row anew; its openId stays."""
        return self._update, [*self.row(user), user.open_id]

    def clear(self, open_ids: Sequence[str], fields: Collection[str], now: int) -> list[Statement]:
        """Erase fields, attributes of User, of rows."""
        changes: dict[str, object] = {}
        for i, (name, attribute) in enumerate(zip(self._names, self._attributes, strict=True)):
            if attribute in fields:
                changes[name] = self._blanks.get(i)
        if changes and "updatedAt" in self._names:
            changes["updatedAt"] = now
        if not changes:
            return []
        marks = ", ".join(f"{name} = ?" for name in changes)
        sql = f"UPDATE user SET {marks} {_AMONG}"  # noqa: S608
        return [(sql, [*changes.values(), json.dumps(open_ids)])]

    def delete(self, open_ids: Sequence[str]) -> Statement:
        """Delete rows."""
        return f"DELETE FROM user {_AMONG}", [json.dumps(open_ids)]  # noqa: S608


def insert_rows(head: str, rows: Sequence[Sequence[Any]]) -> Iterable[Statement]:
    """Add rows; `head` is the SQL up to VALUES."""
    for start in range(0, len(rows), _INSERT_ROWS):
        some = rows[start : start + _INSERT_ROWS]
        marks = f"({', '.join('?' * len(some[0]))})"
        yield head + ", ".join([marks] * len(some)), [value for row in some for value in row]


_AMONG = "WHERE openId IN (SELECT value FROM json_each(?))"


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    required: bool
    key: bool


def _columns(cursor: sqlite3.Cursor) -> list[_Column]:
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


def _blank(column: _Column) -> object:
    """What stands for None in a column that takes none."""
    return 0 if column.name in _NUMBERS else ""
