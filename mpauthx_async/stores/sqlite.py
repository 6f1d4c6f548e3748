"""SqliteTokenStore and SqliteUserStore: the embedded stores, for one machine and for bots."""

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Self

from ..errors import StoreError
from ..models import NewSession, Session, SessionRef, Subject, User
from .sqlite_database import Database, SqliteDatabase, transaction

__all__ = ["SqliteTokenStore", "SqliteUserStore"]

_BUSY_TIMEOUT = 5.0  # seconds
_INSERT_ROWS = 500  # in one statement, which SQLite lets bind 32,766 values


class SqliteTokenStore:
    """Keeps sessions in a SQLite database, in a table named mpauthx_session.

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
        self._database = SqliteDatabase(database, busy_timeout, _create_session_table)
        self._clock = clock

    async def issue(self, sessions: Sequence[NewSession]) -> Sequence[Session]:
        """Begin sessions, all of them in one transaction."""
        begun = [session.begun() for session in sessions]
        now = self._now()

        def issue(cursor: sqlite3.Cursor) -> None:
            with transaction(cursor):
                # Each login clears the remains of up to two others: the dead never pile up.
                cursor.execute(
                    "DELETE FROM mpauthx_session WHERE nonce IN (SELECT nonce FROM mpauthx_session"
                    " WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)",
                    (now, 2 * len(begun)),
                )
                for new, session in zip(sessions, begun, strict=True):
                    cursor.execute(
                        "INSERT OR IGNORE INTO mpauthx_session"
                        " (sku, user_id, nonce, issued_at, expires_at, sealed_key)"
                        " VALUES (?, ?, ?, ?, ?, ?)",
                        (*session.ref, session.issued_at, session.expires_at, new.sealed_key),
                    )
                    # One that is there already is being repeated: others may have begun since.
                    if new.sole and cursor.rowcount:
                        cursor.execute(
                            "DELETE FROM mpauthx_session"
                            " WHERE sku = ? AND user_id = ? AND nonce <> ?",
                            session.ref,
                        )

        await self._database.run(issue)
        return begun

    async def lookup(self, refs: Sequence[SessionRef]) -> Sequence[int | None]:
        """Tell when sessions end, with one query."""
        nonces = json.dumps([ref.nonce for ref in refs])
        rows = await self._query(
            "SELECT sku, user_id, nonce, expires_at FROM mpauthx_session"
            " WHERE nonce IN (SELECT value FROM json_each(?)) AND expires_at > ?",
            (nonces, self._now()),
        )
        ends = {SessionRef(*ref): end for *ref, end in rows}
        return [ends.get(ref) for ref in refs]

    async def revoke(self, refs: Sequence[SessionRef]) -> Sequence[bool]:
        """End sessions, all of them in one transaction."""
        ended = await self._delete(
            "(sku, user_id, nonce) IN (SELECT json_extract(value, '$[0]'),"
            " json_extract(value, '$[1]'), json_extract(value, '$[2]') FROM json_each(?))",
            (json.dumps(refs),),
        )
        answers = []
        for ref in refs:
            answers.append(ref in ended)
            ended.discard(ref)  # a session that was named twice ended once
        return answers

    async def sessions(self, subject: Subject) -> Sequence[Session]:
        """List the sessions of a subject that are alive, newest first."""
        rows = await self._query(
            "SELECT nonce, issued_at, expires_at FROM mpauthx_session"
            " WHERE sku = ? AND user_id = ? AND expires_at > ? ORDER BY issued_at DESC",
            (*subject, self._now()),
        )
        return [Session(SessionRef(*subject, nonce), begin, end) for nonce, begin, end in rows]

    async def revoke_subject(self, subject: Subject) -> int:
        """End all sessions of a subject in one transaction; returns how many were alive."""
        return len(await self._delete("sku = ? AND user_id = ?", subject))

    async def sealed_keys(self, refs: Sequence[SessionRef]) -> Sequence[str | None]:
        """Read the sealed session keys of sessions that are alive, with one query."""
        rows = await self._query(
            # When SQLite's text is no UTF-8, its exception quotes it: as a blob it is only damaged.
            "SELECT sku, user_id, nonce, CAST(sealed_key AS BLOB) FROM mpauthx_session"
            " WHERE nonce IN (SELECT value FROM json_each(?)) AND expires_at > ?",
            (json.dumps([ref.nonce for ref in refs]), self._now()),
        )
        found = {
            SessionRef(*ref): sealed_key.decode(errors="replace")
            for *ref, sealed_key in rows
            if sealed_key is not None
        }
        return [found.get(ref) for ref in refs]

    async def replace_sealed_key(self, ref: SessionRef, sealed_key: str) -> bool:
        """Keep another sealed session key; False when the session is no longer alive."""
        args = (sealed_key, *ref, self._now())

        def replace_key(cursor: sqlite3.Cursor) -> bool:
            with transaction(cursor):
                cursor.execute(
                    "UPDATE mpauthx_session SET sealed_key = ?"
                    " WHERE sku = ? AND user_id = ? AND nonce = ? AND expires_at > ?",
                    args,
                )
                return cursor.rowcount > 0

        return await self._database.run(replace_key)

    async def close(self) -> None:
        """Close the database if it was opened here; may be called again."""
        await self._database.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _query(self, sql: str, args: Sequence[object]) -> list[Any]:
        return await self._database.run(lambda cursor: cursor.execute(sql, args).fetchall())

    async def _delete(self, condition: str, args: Sequence[str]) -> set[SessionRef]:
        """Delete rows; returns the sessions among them that were alive."""
        now = self._now()

        def delete(cursor: sqlite3.Cursor) -> list[Any]:
            with transaction(cursor):
                return cursor.execute(
                    f"DELETE FROM mpauthx_session WHERE {condition}"  # noqa: S608
                    " RETURNING sku, user_id, nonce, expires_at",
                    args,
                ).fetchall()

        rows = await self._database.run(delete)
        return {SessionRef(*ref) for *ref, end in rows if end > now}

    def _now(self) -> int:
        return int(self._clock() * 1000)


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


def _create_session_table(cursor: sqlite3.Cursor) -> None:
    cursor.execute(
        "CREATE TABLE IF NOT EXISTS mpauthx_session (nonce TEXT PRIMARY KEY, sku TEXT NOT NULL,"
        " user_id TEXT NOT NULL, issued_at INTEGER NOT NULL, expires_at INTEGER NOT NULL,"
        " sealed_key TEXT) WITHOUT ROWID"
    )
    if not _has_sealed_key(cursor):  # a table from before there were any
        with transaction(cursor):
            if not _has_sealed_key(cursor):  # another process may have been faster
                cursor.execute("ALTER TABLE mpauthx_session ADD COLUMN sealed_key TEXT")
    cursor.execute(
        "CREATE INDEX IF NOT EXISTS mpauthx_session_subject ON mpauthx_session"
        " (sku, user_id, issued_at)"
    )
    cursor.execute(
        "CREATE INDEX IF NOT EXISTS mpauthx_session_expires_at ON mpauthx_session (expires_at)"
    )


def _has_sealed_key(cursor: sqlite3.Cursor) -> bool:
    columns = cursor.execute("SELECT name FROM pragma_table_info('mpauthx_session')").fetchall()
    return ("sealed_key",) in columns
