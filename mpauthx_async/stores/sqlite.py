"""SqliteTokenStore and SqliteUserStore: the embedded stores, for one machine and for bots."""

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import aiosqlite

from ..errors import StoreError
from ..models import NewSession, Session, SessionRef, Subject, User
from .sqlite_database import Database, SqliteDatabase

__all__ = ["SqliteTokenStore", "SqliteUserStore"]

_BUSY_TIMEOUT = 5.0  # seconds


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
        async with self._database.transaction() as cursor:
            # Each login clears the remains of up to two others, so that the dead never pile up.
            await cursor.execute(
                "DELETE FROM mpauthx_session WHERE nonce IN (SELECT nonce FROM mpauthx_session"
                " WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)",
                (self._now(), 2 * len(begun)),
            )
            for new, session in zip(sessions, begun, strict=True):
                await cursor.execute(
                    "INSERT OR IGNORE INTO mpauthx_session"
                    " (sku, user_id, nonce, issued_at, expires_at) VALUES (?, ?, ?, ?, ?)",
                    (*session.ref, session.issued_at, session.expires_at),
                )
                # One that is there already is being repeated: others may have begun since.
                if new.sole and cursor.rowcount:
                    await cursor.execute(
                        "DELETE FROM mpauthx_session WHERE sku = ? AND user_id = ? AND nonce <> ?",
                        session.ref,
                    )
        return begun

    async def lookup(self, refs: Sequence[SessionRef]) -> Sequence[int | None]:
        """Tell when sessions end, with one query."""
        async with self._database.cursor() as cursor:
            await cursor.execute(
                "SELECT sku, user_id, nonce, expires_at FROM mpauthx_session"
                " WHERE nonce IN (SELECT value FROM json_each(?)) AND expires_at > ?",
                (json.dumps([ref.nonce for ref in refs]), self._now()),
            )
            ends = {SessionRef(*ref): end for *ref, end in await cursor.fetchall()}
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
        async with self._database.cursor() as cursor:
            await cursor.execute(
                "SELECT nonce, issued_at, expires_at FROM mpauthx_session"
                " WHERE sku = ? AND user_id = ? AND expires_at > ? ORDER BY issued_at DESC",
                (*subject, self._now()),
            )
            rows = await cursor.fetchall()
        return [Session(SessionRef(*subject, nonce), begin, end) for nonce, begin, end in rows]

    async def revoke_subject(self, subject: Subject) -> int:
        """End all sessions of a subject in one transaction; returns how many were alive."""
        return len(await self._delete("sku = ? AND user_id = ?", subject))

    async def close(self) -> None:
        """Close the database if it was opened here; may be called again."""
        await self._database.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _delete(self, condition: str, args: Sequence[str]) -> set[SessionRef]:
        """Delete rows; returns the sessions among them that were alive."""
        async with self._database.transaction() as cursor:
            await cursor.execute(
                f"DELETE FROM mpauthx_session WHERE {condition}"  # noqa: S608
                " RETURNING sku, user_id, nonce, expires_at",
                args,
            )
            now = self._now()
            return {SessionRef(*ref) for *ref, end in await cursor.fetchall() if end > now}

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
        async with self._database.cursor() as cursor:
            plan = await self._plan(cursor, users)
        if plan.inserts or plan.updates:
            async with self._database.transaction() as cursor:
                # Planned again under the write lock: another process may have been faster.
                plan = await self._plan(cursor, users)
                await cursor.executemany(self._table.insert, plan.inserts)
                await cursor.executemany(self._table.update, plan.updates)
        return plan.is_new

    async def get(self, user_ids: Sequence[str]) -> Sequence[User | None]:
        """Find users by their ids, with one query."""
        async with self._database.cursor() as cursor:
            stored = await self._find(cursor, user_ids)
        by_id = {user.open_id: user for user in stored}
        by_id |= {user.union_id: user for user in stored if user.union_id}
        return [by_id.get(user_id) for user_id in user_ids]

    async def close(self) -> None:
        """Close the database if it was opened here; may be called again."""
        await self._database.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _plan(self, cursor: aiosqlite.Cursor, users: Sequence[User]) -> "_Plan":
        ids = [user_id for user in users for user_id in (user.open_id, user.union_id) if user_id]
        stored = await self._find(cursor, ids)
        return _Plan(self._table, stored, users, now=int(self._clock() * 1000))

    async def _find(self, cursor: aiosqlite.Cursor, user_ids: Sequence[str]) -> list[User]:
        await cursor.execute(self._table.select, {"ids": json.dumps(user_ids)})
        return [self._table.user(row) for row in await cursor.fetchall()]

    async def _prepare(self, cursor: aiosqlite.Cursor) -> None:
        columns = await _user_columns(cursor)
        if not columns:
            await cursor.execute(_CREATE_USER_TABLE)
            columns = await _user_columns(cursor)
        self._table = _UserTable(columns)
        for index in self._table.indexes:
            await cursor.execute(index)


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


async def _user_columns(cursor: aiosqlite.Cursor) -> list[_Column]:
    """The columns of the user table that are known here."""
    known = {name.lower(): name for name in _ATTRIBUTES}  # SQLite's names have no case
    await cursor.execute("PRAGMA table_info(user)")
    rows = list(await cursor.fetchall())
    columns = [
        _Column(known[name.lower()], bool(required), bool(key))
        for _, name, _, required, _, key in rows
        if name.lower() in known
    ]
    if rows and not any(column.name == "openId" for column in columns):
        raise StoreError("The database has a table named user without a column openId.")
    return columns


class _UserTable:
    """The statements for a user table, and its rows as users and back."""

    def __init__(self, columns: Sequence[_Column]) -> None:
        self._columns = columns
        names = [column.name for column in columns]
        self._has_union_id = "unionId" in names
        union = " OR unionId IN (SELECT value FROM json_each(:ids))" if self._has_union_id else ""
        self.select = (
            f"SELECT {', '.join(names)} FROM user"  # noqa: S608
            f" WHERE openId IN (SELECT value FROM json_each(:ids)){union}"
        )
        marks = ", ".join(f":{name}" for name in names)
        self.insert = f"INSERT INTO user ({', '.join(names)}) VALUES ({marks})"  # noqa: S608
        changes = ", ".join(f"{name} = :{name}" for name in names if name != "createdAt")
        self.update = f"UPDATE user SET {changes} WHERE openId = :stored_id"  # noqa: S608
        self.indexes = [
            f"CREATE INDEX IF NOT EXISTS mpauthx_user_{column.name} ON user ({column.name})"
            for column in columns
            if column.name == "unionId" or (column.name == "openId" and not column.key)
        ]

    def user(self, row: Iterable[Any]) -> User:
        values = zip(self._columns, row, strict=True)
        return User(**{_ATTRIBUTES[column.name]: value for column, value in values})

    def row(self, user: User) -> dict[str, Any]:
        if not self._has_union_id:
            user = replace(user, open_id=user.id)
        row = {column.name: getattr(user, _ATTRIBUTES[column.name]) for column in self._columns}
        for column in self._columns:
            if column.required and row[column.name] is None:
                row[column.name] = 0 if column.name in _NUMBERS else ""
        return row


class _Plan:
    """What saving users comes to: who is new, the rows to insert, and the rows to update."""

    def __init__(
        self, table: _UserTable, stored: Sequence[User], users: Iterable[User], now: int
    ) -> None:
        self.is_new: list[bool] = []
        people = [_Person(user, stored_id=user.open_id) for user in stored]
        known = {person.user.open_id: person for person in people}
        known |= {person.user.union_id: person for person in people if person.user.union_id}
        for user in users:
            person = known.get(user.union_id or "") or known.get(user.open_id)
            self.is_new.append(person is None)
            if person is None:
                person = _Person(replace(user, created_at=now, updated_at=now), changed=True)
                people.append(person)
            else:
                current = person.user.updated_by(user)
                if table.row(current) != table.row(person.user):
                    person.user = replace(current, updated_at=now)
                    person.changed = True
            known[user.open_id] = known[user.id] = person
        changed = [person for person in people if person.changed]
        self.inserts = [table.row(p.user) for p in changed if p.stored_id is None]
        self.updates = [
            table.row(p.user) | {"stored_id": p.stored_id}
            for p in changed
            if p.stored_id is not None
        ]


@dataclass(slots=True)
class _Person:
    user: User
    stored_id: str | None = None  # the openId of the row; None while there is none
    changed: bool = False


async def _create_session_table(cursor: aiosqlite.Cursor) -> None:
    await cursor.execute(
        "CREATE TABLE IF NOT EXISTS mpauthx_session (nonce TEXT PRIMARY KEY, sku TEXT NOT NULL,"
        " user_id TEXT NOT NULL, issued_at INTEGER NOT NULL, expires_at INTEGER NOT NULL)"
        " WITHOUT ROWID"
    )
    await cursor.execute(
        "CREATE INDEX IF NOT EXISTS mpauthx_session_subject ON mpauthx_session"
        " (sku, user_id, issued_at)"
    )
    await cursor.execute(
        "CREATE INDEX IF NOT EXISTS mpauthx_session_expires_at ON mpauthx_session (expires_at)"
    )
