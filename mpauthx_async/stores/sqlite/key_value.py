"""SqliteKeyValueStore: named texts with a lifetime, in a SQLite database."""

import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Self

from ...concurrency.frames import methods_clear_frames
from ...store_boundary import raises_store_errors
from ..key_value import LOCK_TTL, expiring_lock
from .database import Database, SqliteDatabase, transaction

__all__ = ["SqliteKeyValueStore"]

_BUSY_TIMEOUT = 5.0  # seconds
_LOCK_POLL = 0.05  # seconds

# When SQLite's text is no UTF-8, its exception quotes it: as a blob it is only damaged.
_GET = "SELECT CAST(text AS BLOB) FROM mpauthx_record WHERE key = ? AND expires_at > ?"
_SAVE = "INSERT OR REPLACE INTO mpauthx_record (key, text, expires_at) VALUES (?, ?, ?)"
_ADD = (
    "INSERT INTO mpauthx_record (key, text, expires_at) VALUES (?, ?, ?) ON CONFLICT (key)"
    " DO UPDATE SET text = excluded.text, expires_at = excluded.expires_at WHERE expires_at <= ?"
)
_CLEAR = (
    "DELETE FROM mpauthx_record WHERE key IN (SELECT key FROM mpauthx_record"
    " WHERE expires_at <= ? ORDER BY expires_at LIMIT 2)"
)
_DELETE = "DELETE FROM mpauthx_record WHERE key = ?"
_RELEASE = f"{_DELETE} AND text = ?"


@methods_clear_frames()
@raises_store_errors
class SqliteKeyValueStore:
    """Keeps named texts in a SQLite database, in a table named mpauthx_record.

    A lock is a row as well: of who holds it, until when.

    Args:
        database: the file's path, or an open aiosqlite connection that nothing else writes
            through; the connection stays open.
        busy_timeout: how long to wait for a file that another process has locked, in seconds.
        lock_ttl: after how many seconds a lock ends whose holder died. Others wait twice as long,
            but 10 seconds at most.
        clock: tells the time in Unix seconds.
    """

    def __init__(
        self,
        database: Database,
        *,
        busy_timeout: float = _BUSY_TIMEOUT,
        lock_ttl: float = LOCK_TTL,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = SqliteDatabase(database, busy_timeout, _create_table)
        self._lock_ttl = lock_ttl
        self._clock = clock

    async def get(self, key: str) -> str | None:
        """Read a record; None when there is none, or its time is over."""
        args = (f"record|{key}", self._now())
        row = await self._database.read(lambda cursor: cursor.execute(_GET, args).fetchone())
        return None if row is None else row[0].decode(errors="replace")

    async def save(self, key: str, text: str, ttl: float) -> None:
        """Write a record, in place of an earlier one, for `ttl` seconds."""
        await self._write(_SAVE, (f"record|{key}", text, self._now(ttl)))

    async def delete(self, key: str) -> None:
        """Delete a record, if there is one."""
        await self._write(_DELETE, (f"record|{key}",))

    async def add(self, key: str, text: str, ttl: float) -> bool:
        """Write a record for `ttl` seconds if there is none; of all who try one gets True."""
        return await self._write(_ADD, (f"record|{key}", text, self._now(ttl), self._now()))

    @asynccontextmanager
    async def lock(self, key: str) -> AsyncIterator[None]:
        """Keep all others out, in any process, while `async with` lasts."""
        row = (f"lock|{key}", secrets.token_hex(16))
        async with expiring_lock(
            lambda: self._write(_ADD, (*row, self._now(self._lock_ttl), self._now())),
            lambda: self._write(_RELEASE, row),
            ttl=self._lock_ttl,
            poll=_LOCK_POLL,
        ):
            yield

    async def close(self) -> None:
        """Close the database if it was opened here; may be called again."""
        await self._database.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _write(self, sql: str, args: tuple[Any, ...]) -> bool:
        """Write or delete one row; whether there was one."""
        now = self._now()

        def write(cursor: sqlite3.Cursor) -> bool:
            with transaction(cursor):
                # Each write clears the remains of up to two others: the dead never pile up.
                cursor.execute(_CLEAR, (now,))
                return cursor.execute(sql, args).rowcount > 0

        return await self._database.run(write)

    def _now(self, later: float = 0) -> int:
        """The time in Unix milliseconds, so many seconds later."""
        return int((self._clock() + later) * 1000)


def _create_table(cursor: sqlite3.Cursor) -> None:
    cursor.execute(
        "CREATE TABLE IF NOT EXISTS mpauthx_record (key TEXT PRIMARY KEY, text TEXT NOT NULL,"
        " expires_at INTEGER NOT NULL) WITHOUT ROWID"
    )
    cursor.execute(
        "CREATE INDEX IF NOT EXISTS mpauthx_record_expires_at ON mpauthx_record (expires_at)"
    )
