"""SqliteDatabase: a SQLite file or connection that opens at its first use, with its threads."""

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

import aiosqlite

from ..._compat import aiosqlite_thread, raw_connection, run_in_thread, timeout
from ...concurrency.deadlines import trip
from ...concurrency.forks import unwatch, watch
from ...concurrency.in_flight import InFlight
from ...errors import ConfigurationError, MPAuthXError, StoreError

__all__ = ["Database", "SqliteDatabase", "transaction"]

Database: TypeAlias = str | Path | aiosqlite.Connection
Result = TypeVar("Result")
_Connections: TypeAlias = tuple[aiosqlite.Connection, aiosqlite.Connection]  # reader, writer

_WAL_RETRY = 0.01  # seconds
_GRACE = 1.0  # seconds that a caller waits beyond `busy_timeout`
_OWNER_ONLY = 0o600  # a file's mode
_NO_FILES = ("", ":memory:")
_URI = "file:"  # some builds of SQLite accept URIs by default
# Files that were open when this process was forked, by device and inode. SQLite's locks belong to
# the parent, but its memory says that this process holds them: a connection of the child would
# write without locks, and lose its writes.
_left_to_parent: set[tuple[int, int]] = set()


class SqliteDatabase:
    """A connection for writing and another for reading, each with a thread of aiosqlite.

    In WAL mode a read needs no lock, so reads have a connection of their own and do not queue
    behind writes that wait for a lock. A ready-made connection and a database in memory serve both.
    A read sees every write that was committed before it.

    Each trip to a thread waits for the GIL, which takes milliseconds while the event loop is busy.
    So a batch is one trip: a function that gets a cursor and does all of the batch's work.

    A caller waits at most `busy_timeout` and a second, for the connection and for locks together.
    Work that has not begun by then is dropped.

    A new file gets mode 0600, whatever the umask; SQLite gives its `-wal` and `-shm` files the same
    mode. An existing file keeps its mode.

    Args:
        database: the file's path, or an open aiosqlite connection, which stays open.
        busy_timeout: how long to wait for a file that another process has locked, in seconds.
        prepare: creates missing tables; called in the thread before the first work.
    """

    def __init__(
        self, database: Database, busy_timeout: float, prepare: Callable[[sqlite3.Cursor], None]
    ) -> None:
        if isinstance(database, str) and database.startswith("sqlite:"):
            raise ConfigurationError("Give a store the path of the SQLite file, not a URL.")
        self._database = database
        self._busy_timeout = busy_timeout
        self._prepare = prepare
        self._opening: asyncio.Task[_Connections] | None = None
        self._calls = InFlight(self, "This SQLite store")

    @property
    def longest_wait(self) -> float:
        """How long a call waits at most, in seconds."""
        return self._busy_timeout + _GRACE

    async def run(self, work: Callable[[sqlite3.Cursor], Result]) -> Result:
        """Run work that may write, in the thread, after the work before it.

        Args:
            work: called in the thread, with a cursor whose rows are tuples. Once begun it runs to
                its end, even if the caller is cancelled or has waited too long.

        Raises as `InFlight.one`, and StoreError if SQLite fails or does not finish in time.
        """
        return await self._run(work, is_reading=False)

    async def read(self, work: Callable[[sqlite3.Cursor], Result]) -> Result:
        """Run work that only reads, on one state of the database; raises the errors of `run`."""
        return await self._run(work, is_reading=True)

    async def close(self) -> None:
        """Close the connections that were opened here, after the work in progress."""
        await self._calls.close()
        if self._opening is not None:
            await asyncio.wait([self._opening])
        opening, self._opening = self._opening, None
        if opening is None or _has_failed(opening):
            return
        async with AsyncExitStack() as stack:  # closes the second even if the first fails
            stack.callback(unwatch, self)
            for connection in set(opening.result()):
                if connection is not self._database:
                    stack.push_async_callback(connection.close)

    def leave_to_parent(self) -> None:
        """Remember in a forked child process that it must not open the file again."""
        if isinstance(self._database, (str, Path)) and (inode := _inode(self._database)):
            _left_to_parent.add(inode)

    async def _run(self, work: Callable[[sqlite3.Cursor], Result], *, is_reading: bool) -> Result:
        with self._calls.one():
            job = _Job(work, self._busy_timeout)
            try:
                with trip("SQLite", self.longest_wait) as seconds:
                    async with timeout(seconds):
                        reader, writer = await self._connections()
                        if is_reading:
                            return await _in_thread(reader, partial(_in_snapshot, job))
                        return await _in_thread(writer, job)
            except MPAuthXError:
                raise
            except TimeoutError:
                raise StoreError(
                    f"{_name(self._database)} did not answer in time. Another process has held its "
                    "lock for too long, or the disk is slow."
                ) from None
            except Exception as error:
                raise _store_error(self._database, error) from error
            finally:
                job.is_dropped = True

    async def _connections(self) -> _Connections:
        """Open the connections once, for all callers, even if some of them give up."""
        if self._opening is None or (self._opening.done() and _has_failed(self._opening)):
            self._opening = asyncio.ensure_future(self._open())
        return await asyncio.shield(self._opening)

    async def _open(self) -> _Connections:
        if isinstance(self._database, aiosqlite.Connection):
            await _in_thread(self._database, self._prepare)
            return self._database, self._database
        if _inode(self._database) in _left_to_parent:
            raise ConfigurationError(
                f"The parent process had {self._database} open when it forked this one, which "
                "SQLite does not survive. Open it after the fork, or start processes with 'spawn'."
            )
        watch(self)
        async with AsyncExitStack() as stack:
            stack.callback(unwatch, self)
            reader = writer = await self._connect(self._database, stack)
            await _in_thread(writer, self._set_up)
            if not _is_private(self._database):
                reader = await self._connect(self._database, stack)
                await _in_thread(reader, lambda cursor: cursor.execute("PRAGMA query_only = ON"))
            stack.pop_all()
        return reader, writer

    async def _connect(self, path: str | Path, stack: AsyncExitStack) -> aiosqlite.Connection:
        # If aiosqlite cannot open a file, its thread outlives the attempt and the event loop.
        await asyncio.to_thread(_try_to_open, path)
        connection = aiosqlite.connect(path, timeout=self._busy_timeout, isolation_level=None)
        # Otherwise a store that is never closed keeps the interpreter from ending.
        aiosqlite_thread(connection).daemon = True
        return await stack.enter_async_context(connection)

    def _set_up(self, cursor: sqlite3.Cursor) -> None:
        """Switch to WAL, which SQLite refuses without waiting while another process is writing."""
        deadline = time.monotonic() + self._busy_timeout
        while True:
            try:
                cursor.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= deadline:
                    raise
                time.sleep(_WAL_RETRY)
        cursor.execute("PRAGMA synchronous = FULL")
        self._prepare(cursor)


class _Job(Generic[Result]):
    """Work for the thread; its caller sets `is_dropped` when it stops waiting."""

    def __init__(self, work: Callable[[sqlite3.Cursor], Result], busy_timeout: float) -> None:
        self.is_dropped = False
        self._work = work
        self._busy_timeout = busy_timeout
        self._asked_at = time.monotonic()

    def __call__(self, cursor: sqlite3.Cursor) -> Result:
        if self.is_dropped:
            raise StoreError("The caller stopped waiting before this work began.")
        waited = time.monotonic() - self._asked_at
        if waited < _GRACE / 2:  # by far the most frequent case
            return self._work(cursor)
        left = max(0.0, self._busy_timeout + _GRACE / 2 - waited)
        (usual,) = cursor.execute("PRAGMA busy_timeout").fetchone()
        cursor.execute(f"PRAGMA busy_timeout = {min(usual, int(left * 1000))}")
        try:
            return self._work(cursor)
        finally:
            cursor.execute(f"PRAGMA busy_timeout = {usual}")


@contextmanager
def transaction(cursor: sqlite3.Cursor, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
    """Commit all that is written inside, or nothing; within another transaction, a savepoint."""
    # IMMEDIATE, because a transaction that reads first cannot wait for the write lock. In SQL,
    # because the connection's own methods do nothing if it was opened with autocommit=True.
    commit, rollback = "COMMIT", ["ROLLBACK"]
    if cursor.connection.in_transaction:
        begin, commit = "SAVEPOINT mpauthx", "RELEASE mpauthx"
        rollback = ["ROLLBACK TO mpauthx", commit]
    cursor.execute(begin)
    try:
        yield
        cursor.execute(commit)
    except BaseException:
        for statement in rollback if cursor.connection.in_transaction else ():
            cursor.execute(statement)
        raise


def _in_snapshot(work: Callable[[sqlite3.Cursor], Result], cursor: sqlite3.Cursor) -> Result:
    """Run work whose queries all see one state of the database."""
    with transaction(cursor, "BEGIN"):
        return work(cursor)


async def _in_thread(
    connection: aiosqlite.Connection, work: Callable[[sqlite3.Cursor], Result]
) -> Result:
    def with_cursor() -> Result:
        raw = raw_connection(connection)
        if raw.in_transaction:
            raise StoreError(
                "The SQLite connection given to this store has an open transaction that the store "
                "did not begin. Pass the file's path, or a connection that nothing else uses and "
                "that was opened without autocommit=False."
            )
        with closing(raw.cursor()) as cursor:
            cursor.row_factory = None  # a ready-made connection may have set one
            return work(cursor)

    return await run_in_thread(connection, with_cursor)


def _inode(path: str | Path) -> tuple[int, int] | None:
    """The device and inode of a file; None if it does not exist."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _is_private(path: str | Path) -> bool:
    """Whether a second connection might open another database."""
    return str(path) in _NO_FILES or str(path).startswith(_URI)


def _has_failed(task: asyncio.Task[_Connections]) -> bool:
    return task.cancelled() or task.exception() is not None


def _try_to_open(path: str | Path) -> None:
    if not _is_private(path):
        # SQLite would make the file readable for others. It follows links, which O_EXCL does not.
        with suppress(FileExistsError):
            file = os.path.realpath(path)
            os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR, _OWNER_ONLY))
    sqlite3.connect(path).close()


def _store_error(database: Database, error: Exception) -> StoreError:
    reason, is_retryable = str(error), False
    if "locked" in reason or "busy" in reason:
        advice = "Another process has held its lock for too long."
        is_retryable = True
    elif "readonly" in reason:
        advice = "Make the file and its folder writable."
    elif "not a database" in reason:
        advice = "Give the path of a SQLite file, or of a file that does not exist yet."
    elif "unable to open" in reason or isinstance(error, OSError):
        advice = "Check that its folder exists and that this process may write there."
    elif isinstance(error, sqlite3.IntegrityError):
        advice = "Change the value, or the table's constraint or trigger."
    else:
        advice = "Check the file and its folder."
        is_retryable = True
    failure = StoreError(f"{_name(database)} failed ({error}). {advice}")
    failure.retryable = is_retryable
    return failure


def _name(database: Database) -> str:
    """The name of a database in messages; a file is named by its full path."""
    if isinstance(database, aiosqlite.Connection):
        return "The SQLite database of the given connection"
    return f"The SQLite database {os.path.abspath(database)!r}"
