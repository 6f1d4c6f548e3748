"""UserTable: matches users to the rows of the user table, whatever columns that has."""

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ...errors import ConfigurationError, StoreError
from ...models import User
from ..user_fields import ATTRIBUTES
from .user_columns import Column, is_numeric, read_columns

__all__ = ["Statement", "UserTable", "insert_rows"]

Statement = tuple[str, Sequence[Any]]
"""SQL and its parameters."""

_MAX_ROWS = 500  # in one INSERT, whose parameters SQLite limits to 32,766

_CREATE = (
    "CREATE TABLE IF NOT EXISTS user (openId TEXT PRIMARY KEY NOT NULL, unionId TEXT,"
    " nickName TEXT, gender INTEGER, city TEXT, province TEXT, country TEXT, language TEXT,"
    " avatarUrl TEXT, createdAt INTEGER, updatedAt INTEGER)"
)
# Ids may be equal under a column's collation: the first comparison uses its index, the second is
# exact.
_HAS_OPEN_ID = "openId = ? AND openId = ? COLLATE BINARY"
_HAS_UNION_ID = "unionId = ? AND unionId = ? COLLATE BINARY AND coalesce(openId, '') = ''"
# An ORM that keeps dates as text could not read a number among them.
_UPDATED_AT = (
    "updatedAt = CASE WHEN updatedAt LIKE '____-__-__%'"
    " THEN strftime('%Y-%m-%d %H:%M:%f', ? / 1000.0, 'unixepoch') ELSE ? END"
)


class UserTable:
    """Converts users to rows and back, and makes the statements for them.

    A query gives one value, whatever the number of users: at each row Python releases the GIL, and
    waits for it again while the event loop is busy.

    A row without an openId belongs to its unionId.

    Attributes:
        has_union_id: whether there is a column unionId. If not, openId holds the user id.
        select: an SQL expression: the rows with one of :open_ids or :union_ids, as JSON.
    """

    links_all_ids = False  # one process writes at a time

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns
        self._names = [column.name for column in columns]
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
        """Read the columns, as `find`; create the table and indexes if they are missing."""
        table = cls.find(cursor)
        if table is None:
            cursor.execute(_CREATE)
            table = cls(read_columns(cursor))
        if not _is_view(cursor):
            with _saving_logins():
                table._create_indexes(cursor)
        return table

    @classmethod
    def find(cls, cursor: sqlite3.Cursor) -> "UserTable | None":
        """Read the columns of the table, None if there is no table; writes nothing.

        Raises:
            ConfigurationError: if logins cannot be saved in the table or view.
        """
        columns = read_columns(cursor)
        if not columns:
            return None
        table = cls(columns)
        with _saving_logins():
            table._check_writable(cursor)
        return table

    def user(self, row: Sequence[Any]) -> User:
        """Convert a row to a user, whose open_id is empty if the row has no openId."""
        fields: dict[str, Any] = {
            ATTRIBUTES[column.name]: column.value(value)
            for column, value in zip(self._columns, row, strict=True)
        }
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
        """Find the column for which `select` fails; None if there is no such column."""
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

    def is_changed(self, stored: User, user: User) -> bool:
        return bool(self._changes(stored, user))

    def insert(self, users: Sequence[User]) -> Iterable[Statement]:
        """Add a row for each user."""
        return insert_rows(self._insert, [self._row(user) for user in users])

    def update(self, stored: User, user: User) -> Statement:
        """Write what has changed in the row of `stored`."""
        return _update(self._changes(stored, user), stored)

    def clear(self, users: Sequence[User], fields: Collection[str], now: int) -> list[Statement]:
        """Erase fields, attributes of `User`, in the rows of users."""
        changes = {
            column.name: column.blank
            for column in self._columns
            if ATTRIBUTES[column.name] in fields
        }
        if not changes:
            return []
        if "updatedAt" in self._names:
            changes["updatedAt"] = now
        return [_update(changes, user) for user in users]

    def delete(self, users: Sequence[User]) -> list[Statement]:
        """Delete the rows of users."""
        return [
            (f"DELETE FROM user WHERE {condition}", ids)  # noqa: S608
            for condition, ids in map(_row_of, users)
        ]

    def _row(self, user: User) -> list[Any]:
        values = [getattr(user, ATTRIBUTES[name]) for name in self._names]
        return [
            column.blank if value is None else value
            for column, value in zip(self._columns, values, strict=True)
        ]

    def _changes(self, stored: User, user: User) -> dict[str, Any]:
        """The values to write, by column."""
        return {
            column.name: new
            for column, old, new in zip(
                self._columns, self._row(stored), self._row(user), strict=True
            )
            if new != old and column.as_read(new) != column.as_read(old)
        }

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
    """Add rows, with the SQL up to VALUES in `head`."""
    for start in range(0, len(rows), _MAX_ROWS):
        some = rows[start : start + _MAX_ROWS]
        marks = f"({', '.join('?' * len(some[0]))})"
        yield head + ", ".join([marks] * len(some)), [value for row in some for value in row]


@contextmanager
def _saving_logins() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
            raise
        raise ConfigurationError(
            f"Logins cannot be saved in user ({error}). A view needs INSTEAD OF triggers for "
            "INSERT, UPDATE and DELETE; a trigger may name only what exists."
        ) from error


def _row_of(user: User) -> Statement:
    """The condition that the row of a stored user meets."""
    if user.open_id:
        return _HAS_OPEN_ID, [user.open_id] * 2
    return _HAS_UNION_ID, [user.union_id] * 2


def _update(changes: Mapping[str, Any], user: User) -> Statement:
    """Write values, by column, to the row of a stored user."""
    parts, values = [], []
    for name, value in changes.items():
        is_time = name == "updatedAt"
        parts.append(_UPDATED_AT if is_time else f"{name} = ?")
        values += [value] * (2 if is_time else 1)
    condition, ids = _row_of(user)
    return f"UPDATE user SET {', '.join(parts)} WHERE {condition}", [*values, *ids]  # noqa: S608


def _is_view(cursor: sqlite3.Cursor) -> bool:
    query = "SELECT 1 FROM sqlite_master WHERE type = 'view' AND lower(name) = 'user'"
    return cursor.execute(query).fetchone() is not None
