"""UserTable: the user table as a database has it, and the statements for it."""

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

from ...errors import ConfigurationError, StoreError
from ...models import User
from .columns import ATTRIBUTES, Column, is_numeric, read_columns

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
# A column may have a collation under which two ids are equal: the index finds both, and the second
# comparison leaves the one that is meant.
_HAS_OPEN_ID = "openId = ? AND openId = ? COLLATE BINARY"
_HAS_UNION_ID = "unionId = ? AND unionId = ? COLLATE BINARY AND coalesce(openId, '') = ''"
_LISTED = "(SELECT value FROM json_each(?))"
_WITH_OPEN_IDS = f"openId IN {_LISTED} AND openId COLLATE BINARY IN {_LISTED}"
_WITH_UNION_IDS = (
    f"unionId IN {_LISTED} AND unionId COLLATE BINARY IN {_LISTED} AND coalesce(openId, '') = ''"
)
# Where an ORM keeps dates as text, a number among them would be read by nobody.
_UPDATED_AT = (
    "updatedAt = CASE WHEN updatedAt LIKE '____-__-__%'"
    " THEN strftime('%Y-%m-%d %H:%M:%f', ? / 1000.0, 'unixepoch') ELSE ? END"
)


class UserTable:
    """The columns of a user table, its statements, and its rows as users and back.

    Whatever the number of users, a query is one step and gives one value: with each step Python
    releases the GIL, and waits for it again while the event loop is busy.

    A row without an openId is its unionId's.

    Attributes:
        has_union_id: whether it has a column unionId. If not, openId holds the user id.
        select: an expression in SQL: the rows with one of the :open_ids or :union_ids, as JSON.

    Args:
        columns: those that are known here.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns
        self._names = [column.name for column in columns]
        self._attributes = [ATTRIBUTES[name] for name in self._names]
        self._values_of = attrgetter(*self._attributes, "open_id")  # a tuple, of one column too
        self._numeric_ids = [
            ATTRIBUTES[column.name]
            for column in columns
            if column.numeric and column.name in ("openId", "unionId")
        ]
        self.has_union_id: bool = "unionId" in self._names
        union_ids = "(SELECT value FROM json_each(:union_ids))"
        self._rows = (
            "FROM user WHERE openId IN (SELECT value FROM json_each(:open_ids))"  # noqa: S608
            f" OR {'unionId' if self.has_union_id else 'openId'} IN {union_ids}"
        )
        self.select: str = (
            f"(SELECT json_group_array(json_array({', '.join(self._names)})) {self._rows})"
        )
        self._insert = f"INSERT INTO user ({', '.join(self._names)}) VALUES "  # noqa: S608

    @classmethod
    def open(cls, cursor: sqlite3.Cursor) -> "UserTable":
        """Read which columns there are; create the table, and indexes, if they are missing.

        Raises:
            ConfigurationError: logins cannot work on the table or view.
        """
        columns = read_columns(cursor)
        if not columns:
            cursor.execute(_CREATE)
            columns = read_columns(cursor)
        table = cls(columns)
        try:
            table._check_writable(cursor)
            if not _is_view(cursor):
                table._create_indexes(cursor)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
                raise
            raise ConfigurationError(
                f"Logins cannot be saved in user ({error}). A view needs INSTEAD OF triggers for "
                "INSERT, UPDATE and DELETE; a trigger may name only what exists."
            ) from error
        return table

    def user(self, row: Sequence[Any]) -> User:
        """The user that a row holds; their open_id is empty if the row has no openId."""
        values = [
            value if type(value) is column.type else column.value(value)
            for column, value in zip(self._columns, row, strict=True)
        ]
        fields: dict[str, Any] = dict(zip(self._attributes, values, strict=True))
        fields["open_id"] = fields["open_id"] or ""
        if self.has_union_id:
            fields["union_id"] = fields["union_id"] or None
        return User(**fields)

    def check(self, user: User) -> None:
        """Raise StoreError if the table cannot hold the ids of a user."""
        if not user.open_id:
            raise StoreError("A user without an openId cannot be saved.")
        for attribute in self._numeric_ids:
            id_ = getattr(user, attribute)
            if id_ and is_numeric(id_):
                raise StoreError(
                    f"The column for {attribute} in the table user turns ids that look like "
                    "numbers into numbers. Declare it TEXT."
                )

    def unreadable(self, cursor: sqlite3.Cursor, values: Mapping[str, str]) -> StoreError | None:
        """Find out why the rows that `select` names cannot be read; None if they can."""
        for name in self._names:
            try:
                cells = cursor.execute(
                    f"SELECT CAST(json_array({name}) AS BLOB) {self._rows}", values
                )
                for (cell,) in cells.fetchall():
                    json.loads(cell.decode())
            except (sqlite3.OperationalError, ValueError):
                return StoreError(
                    f"Column {name} of a row in the table user is neither text in UTF-8 nor a "
                    "number, so the row cannot be read. Correct the row; others are not affected."
                )
        return None

    def as_stored(self, user: User) -> User:
        """A user as the row holds them that is inserted for them."""
        return user if self.has_union_id else replace(user, open_id=user.id, union_id=None)

    def is_changed(self, stored: User, user: User) -> bool:
        """Whether a row has to be written for a user."""
        return bool(self._changes(stored, user))

    def insert(self, users: Sequence[User]) -> Iterable[Statement]:
        """Add rows."""
        return insert_rows(self._insert, [self._row(user) for user in users])

    def update(self, stored: User, user: User) -> Statement:
        """Write what has changed in the row that holds `stored`."""
        key, has_key = (
            (stored.open_id, _HAS_OPEN_ID) if stored.open_id else (stored.union_id, _HAS_UNION_ID)
        )
        sql, values = _update(self._changes(stored, user), has_key)
        return sql, [*values, key, key]

    def clear(self, users: Sequence[User], fields: Collection[str], now: int) -> list[Statement]:
        """Erase fields, attributes of User, of the rows that hold users."""
        changes = {
            column.name: column.blank
            for column in self._columns
            if ATTRIBUTES[column.name] in fields
        }
        if not changes:
            return []
        if "updatedAt" in self._names:
            changes["updatedAt"] = now
        return [
            (sql, [*values, *ids])
            for which, ids in self._which(users)
            for sql, values in [_update(changes, which)]
        ]

    def delete(self, users: Sequence[User]) -> list[Statement]:
        """Delete the rows that hold users."""
        return [(f"DELETE FROM user WHERE {which}", ids) for which, ids in self._which(users)]  # noqa: S608

    def _row(self, user: User) -> list[Any]:
        return [
            column.blank if value is None else value
            for column, value in zip(self._columns, self._values_of(user), strict=False)
        ]

    def _changes(self, stored: User, user: User) -> dict[str, Any]:
        """What to write, by column, where a row holds another value."""
        return {
            column.name: new
            for column, old, new in zip(
                self._columns, self._row(stored), self._row(user), strict=True
            )
            if new != old and column.kept(new) != column.kept(old)
        }

    def _which(self, users: Sequence[User]) -> Iterator[tuple[str, list[str]]]:
        """Conditions for the rows that hold users, with what to bind to each."""
        open_ids = json.dumps([user.open_id for user in users if user.open_id])
        yield _WITH_OPEN_IDS, [open_ids, open_ids]
        union_ids = [user.union_id for user in users if not user.open_id]
        if union_ids:
            yield _WITH_UNION_IDS, [json.dumps(union_ids)] * 2

    def _check_writable(self, cursor: sqlite3.Cursor) -> None:
        """Compile the statements without running them."""
        user = User("openId", "unionId", "nick", 1, "a", "b", "c", "d", "e", 1, 1)
        statements = [*self.insert([user]), *self.delete([user])]
        stored = User("openId")
        if self.is_changed(stored, user):
            statements.append(self.update(stored, user))
        for sql, values in statements:
            cursor.execute(f"EXPLAIN {sql}", values).fetchall()

    def _create_indexes(self, cursor: sqlite3.Cursor) -> None:
        for column in self._columns:
            if column.name == "unionId" or (column.name == "openId" and column.key != 1):
                cursor.execute(
                    f"CREATE INDEX IF NOT EXISTS mpauthx_user_{column.name} ON user ({column.name})"
                )


def insert_rows(head: str, rows: Sequence[Sequence[Any]]) -> Iterable[Statement]:
    """Add rows; `head` is the SQL up to VALUES."""
    for start in range(0, len(rows), _INSERT_ROWS):
        some = rows[start : start + _INSERT_ROWS]
        marks = f"({', '.join('?' * len(some[0]))})"
        yield head + ", ".join([marks] * len(some)), [value for row in some for value in row]


def _update(changes: Mapping[str, Any], which: str) -> tuple[str, list[Any]]:
    """An UPDATE of the rows for which a condition holds, and the values of its changes."""
    parts, values = [], []
    for name, value in changes.items():
        is_time = name == "updatedAt"
        parts.append(_UPDATED_AT if is_time else f"{name} = ?")
        values += [value] * (2 if is_time else 1)
    return f"UPDATE user SET {', '.join(parts)} WHERE {which}", values  # noqa: S608


def _is_view(cursor: sqlite3.Cursor) -> bool:
    query = "SELECT 1 FROM sqlite_master WHERE type = 'view' AND lower(name) = 'user'"
    return cursor.execute(query).fetchone() is not None
