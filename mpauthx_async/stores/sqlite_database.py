"""SqliteDatabase: what the two SQLite stores share, a connection that opens when it is needed."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeAlias, cast

import aiosqlite

from ..errors import ClosedError, StoreError

__all__ = ["Database", "SqliteDatabase"]

Database: TypeAlias = str | Path | aiosqlite.Connection

_WAL_RETRY = 0.01  # seconds


class SqliteDatabase:
    """One connection, used by one coroutine at a time.

    Args:
        database: the file's path, or an open aiosqlite connection, which stays open.
        busy_timeout: how long to wait for a file that another process has locked, in seconds.
        prepare: creates what is missing; awaited with a cursor before the first use.
    """

    def __init__(
        self,
        database: Database,
        busy_timeout: float,
        prepare: Callable[[aiosqlite.Cursor], Awaitable[None]],
    ) -> None:
        self._database = database
        self._busy_timeout = busy_timeout
        self._prepare = prepare
        self._lock = asyncio.Lock()
        self._connection: aiosqlite.Connection | None = None
        self._cursor: aiosqlite.Cursor | None = None
        self._closed = False

    @asynccontextmanager
    async def cursor(self) -> AsyncIterator[aiosqlite.Cursor]:
        """A cursor for reading, whose rows are tuples.

        Raises:
            ClosedError: after `close()`.
            StoreError: for whatever SQLite cannot do.
        """
        async with self._lock:
            if self._closed:
                raise ClosedError("This SQLite store is closed.")
            try:
                yield self._cursor or await self._open()
            except (sqlite3.Error, ValueError, OverflowError) as error:
                # aiosqlite's own is a ValueError; OverflowError is a number beyond 64 bits.
                raise _store_error(error) from error

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[aiosqlite.Cursor]:
        """A cursor for writing: all of what is done with it is kept, or nothing.

        Raises:
            ClosedError: after `close()`.
            StoreError: for whatever SQLite cannot do.
        """
        async with self.cursor() as cursor:
            connection = cast(aiosqlite.Connection, self._connection)
            _refuse_open_transaction(connection)
            try:
                # Immediate: a transaction that reads first could not wait for the write lock.
                await cursor.execute("BEGIN IMMEDIATE")
                yield cursor
                await connection.commit()
            except BaseException:
                await connection.rollback()
                raise

    async def close(self) -> None:
        """Close the connection if it was opened here, after what is in progress."""
        async with self._lock:
            self._closed = True
            connection, self._connection, self._cursor = self._connection, None, None
            if connection is not None and connection is not self._database:
                await connection.close()

    async def _open(self) -> aiosqlite.Cursor:
        if isinstance(self._database, aiosqlite.Connection):
            connection = self._database
        else:
            connection = await self._connect(self._database)
        try:
            cursor = await connection.cursor()
            cursor.row_factory = None  # a ready-made connection may have one of its own
            if connection is not self._database:
                await self._use_wal(cursor)
                await cursor.execute("PRAGMA synchronous = FULL")
            _refuse_open_transaction(connection)  # what prepare creates could be rolled back
            await self._prepare(cursor)
        except BaseException:
            if connection is not self._database:
                await connection.close()
            raise
        self._connection, self._cursor = connection, cursor
        return cursor

    async def _connect(self, path: str | Path) -> aiosqlite.Connection:
        async def connect() -> aiosqlite.Connection:
            # When aiosqlite cannot open a file, its thread outlives the attempt, and the loop.
            await asyncio.to_thread(_try_to_open, path)
            return await aiosqlite.connect(path, timeout=self._busy_timeout, isolation_level=None)

        opening = asyncio.ensure_future(connect())
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            # aiosqlite would forget to close what opens all the same.
            with suppress(sqlite3.Error):
                await (await opening).close()
            raise

    async def _use_wal(self, cursor: aiosqlite.Cursor) -> None:
        """Switch to WAL, which SQLite refuses without waiting while another process is writing."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._busy_timeout
        while True:
            try:
                await cursor.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or loop.time() >= deadline:
                    raise
                await asyncio.sleep(_WAL_RETRY)
            else:
                return


def _try_to_open(path: str | Path) -> None:
    sqlite3.connect(path).close()


def _refuse_open_transaction(connection: aiosqlite.Connection) -> None:
    if connection.in_transaction:
        raise StoreError(
            "The SQLite connection given to this store has a transaction open that is not the "
            "store's. Give the store a connection of its own, or the file's path."
        )


def _store_error(error: Exception) -> StoreError:
    advice = "Check the file and its folder; the call can be repeated."
    if "locked" in str(error) or "busy" in str(error):
        advice = "Another process is writing to it for too long; the call can be repeated."
    elif "readonly" in str(error):
        advice = "Make the file and its folder writable."
    elif "not a database" in str(error):
        advice = "The path names a file that is something else."
    return StoreError(f"The SQLite database did not answer as it should ({error}). {advice}")
