"""SqliteKeyValueStore: named texts with a lifetime, in a SQLite database."""

import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from ...concurrency.traceback_frames import methods_clear_frames
from ...store_errors import raises_store_errors
from ..key_value import LOCK_TTL, expiring_lock
from .database import Database
from .store import SqliteStore

__all__ = ["SqliteKeyValueStore"]

# sqlite3's exception quotes text that is not UTF-8, so the text is read as a blob.
_GET = "SELECT CAST(text AS BLOB) FROM mpauthx_record WHERE key = ? AND expires_at > ?"
_SAVE = (
    "INSERT OR REPLACE INTO mpauthx_record (key, text, expires_at)"
    " VALUES (:key, :text, :expires_at)"
)
_ADD = (
    "INSERT INTO mpauthx_record (key, text, expires_at) VALUES (:key, :text, :expires_at)"
    " ON CONFLICT (key) DO UPDATE SET text = excluded.text, expires_at = excluded.expires_at"
    " WHERE expires_at <= :now"
)
_DELETE = "DELETE FROM mpauthx_record WHERE key = :key"
_RELEASE = f"{_DELETE} AND text = :text"
_DELETE_EXPIRED = (
    "DELETE FROM mpauthx_record WHERE key IN (SELECT key FROM mpauthx_record"
    " WHERE expires_at <= ? ORDER BY expires_at LIMIT 2)"
)


@methods_clear_frames()
@raises_store_errors
class SqliteKeyValueStore(SqliteStore):
    """Keeps named texts in a SQLite database, in a table named mpauthx_record.

    A lock is a row as well, with its holder and its end.

    Args:
        database: the file's path, or an open aiosqlite connection that nothing else writes
            through; the connection stays open.
        busy_timeout: how long to wait for a file that another process has locked, in seconds.
        lock_ttl: after how many seconds a lock ends if its holder died. Others wait twice as long,
            but 10 seconds at most.
        clock: returns the time in Unix seconds; called in the database's thread.
    """

    def __init__(
        self,
        database: Database,
        *,
        busy_timeout: float = 5.0,
        lock_ttl: float = LOCK_TTL,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(database, busy_timeout=busy_timeout, clock=clock)
        self._lock_ttl = lock_ttl

    async def get(self, key: str) -> str | None:
        """Read a record; None if it does not exist or has expired."""
        row = await self._read(
            lambda cursor, now: cursor.execute(_GET, (f"record|{key}", now)).fetchone()
        )
        return None if row is None else row[0].decode(errors="replace")

    async def save(self, key: str, text: str, ttl: float) -> None:
        """Write a record for `ttl` seconds, in place of an earlier one."""
        await self._write_row(_SAVE, f"record|{key}", text, ttl)

    async def delete(self, key: str) -> None:
        """Delete a record if it exists."""
        await self._write_row(_DELETE, f"record|{key}")

    async def add(self, key: str, text: str, ttl: float) -> bool:
        """Write a record for `ttl` seconds if it does not exist; True for one of all callers."""
        return await self._write_row(_ADD, f"record|{key}", text, ttl)

    @asynccontextmanager
    async def lock(self, key: str) -> AsyncIterator[None]:
        """Keep all others out, in any process, while `async with` lasts."""
        row = (f"lock|{key}", secrets.token_hex(16))
        async with expiring_lock(
            lambda: self._write_row(_ADD, *row, self._lock_ttl),
            lambda: self._write_row(_RELEASE, *row),
            self._lock_ttl,
        ):
            yield

    def _prepare(self, cursor: sqlite3.Cursor) -> None:
        cursor.execute(
            "CREATE TABLE IF NOT EXISTS mpauthx_record (key TEXT PRIMARY KEY, text TEXT NOT NULL,"
            " expires_at INTEGER NOT NULL) WITHOUT ROWID"
        )
        cursor.execute(
            "CREATE INDEX IF NOT EXISTS mpauthx_record_expires_at ON mpauthx_record (expires_at)"
        )

    async def _write_row(self, sql: str, key: str, text: str = "", ttl: float = 0) -> bool:
        """Write or delete a row; returns whether one was written or deleted."""

        def write(cursor: sqlite3.Cursor, now: int) -> bool:
            # Two for each write, so that expired rows do not pile up.
            cursor.execute(_DELETE_EXPIRED, (now,))
            values = {"key": key, "text": text, "now": now, "expires_at": now + int(ttl * 1000)}
            return cursor.execute(sql, values).rowcount > 0

        return await self._write(write)
