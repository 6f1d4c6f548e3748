"""SqliteDatabase: what the SQLite stores share, a connection that opens when it is needed."""

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

from ..._compat import aiosqlite_thread, raw_connection, run_in_thread
from ...concurrency.deadlines import trip
from ...concurrency.forks import unwatch, watch
from ...concurrency.in_flight import InFlight
from ...errors import ConfigurationError, MPAuthXError, StoreError

__all__ = ["Database", "SqliteDatabase", "transaction"]

Database: TypeAlias = str | Path | aiosqlite.Connection
Result = TypeVar("Result")
_Opened: TypeAlias = tuple[aiosqlite.Connection, aiosqlite.Connection]  # for reading, for writing

_WAL_RETRY = 0.01  # seconds
# Files that were open when this process was forked, by device and inode. SQLite's locks belong to
# the parent, but its memory says that this process has them: a connection of the child would go
# without, and lose what it writes.
_left_to_parent: set[tuple[int, int]] = set()
_OWNER_ONLY = 0o600  # a file's mode
_NO_FILES = ("", ":memory:")
_GRACE = 1.0  # seconds that a caller waits beyond `busy_timeout`
_URI = "file:"  # which some builds of SQLite take without being asked to


class SqliteDatabase:
    """A connection for writing and another for reading, each with a thread of aiosqlite's.

    In WAL mode, reading waits for no lock, so reads have a connection of their own and do not wait
    behind writes that wait for one. A ready-made connection, and a database in memory, are used for
    both. What a write has committed, every later read sees.

    Each trip to a thread and back waits for the interpreter's lock, for milliseconds when the
    event loop is busy. So a batch is one trip: a function that is given a cursor and does all.

    A caller waits at most `busy_timeout` and a second, in which its work waits for the connection
    and for locks. Work that has not begun by then is not begun.

    A file that does not exist is created with mode 0600, whatever the umask; SQLite gives its
    `-wal` and `-shm` files the same mode. An existing file keeps its mode.

    Args:
        database: the file's path, or an open aiosqlite connection, which stays open.
        busy_timeout: how long to wait for a file that another process has locked, in seconds.
        prepare: creates what is missing; called in the thread before the first work.
    """

    def __init__(
        self,
        database: Database,
        busy_timeout: float,
        prepare: Callable[[sqlite3.Cursor], None],
    ) -> None:
        self._database = database
        self._busy_timeout = busy_timeout
        self._prepare = prepare
        self._opening: asyncio.Task[_Opened] | None = None
        self._opened: _Opened | None = None
        self._calls = InFlight(self, "This SQLite store")

    @property
    def longest_wait(self) -> float:
        """How long a call waits at most, in seconds."""
        return self._busy_timeout + _GRACE

    async def run(self, work: Callable[[sqlite3.Cursor], Result]) -> Result:
        """Do work that may write, in the thread, after what is in progress.

        Args:
            work: called in the thread, with a cursor whose rows are tuples. Once begun it goes on
                to its end, even when the caller is cancelled or has waited too long.

        Raises:
            ClosedError: after `close()`.
            StoreError: for whatever SQLite cannot do in time.
        """
        return await self._do(work, is_reading=False)

    async def read(self, work: Callable[[sqlite3.Cursor], Result]) -> Result:
        """Do work that only reads; in all else as `run`."""
        return await self._do(work, is_reading=True)

    async def close(self) -> None:
        """Close the connections that were opened here, after what is in progress."""
        await self._calls.close()
        if self._opening is not None:
            await asyncio.wait([self._opening])
        opened, self._opened = self._opened or (), None
        async with AsyncExitStack() as stack:  # what fails to close keeps nothing else open
            stack.callback(unwatch, self)
            for connection in set(opened):
                if connection is not self._database:
                    stack.push_async_callback(connection.close)

    def leave_to_parent(self) -> None:
        """In a forked child process the file is not opened again."""
        if isinstance(self._database, (str, Path)) and (inode := _inode(self._database)):
            _left_to_parent.add(inode)

    async def _do(self, work: Callable[[sqlite3.Cursor], Result], *, is_reading: bool) -> Result:
        with self._calls.one():
            job = _Job(work, self._busy_timeout)
            try:
                with trip("SQLite", self.longest_wait) as seconds:
                    async with asyncio.timeout(seconds):
                        reader, writer = await self._connections()
                        if is_reading and reader is not writer:
                            return await _in_thread(reader, partial(_in_snapshot, job))
                        return await _in_thread(writer, job)
            except MPAuthXError:
                raise
            except TimeoutError:
                raise StoreError(
                    f"{_name(self._database)} did not answer in time. Another process is writing "
                    "to it for too long, or the disk is slow; the call can be repeated."
                ) from None
            except Exception as error:
                raise _store_error(self._database, error) from error
            finally:
                job.is_given_up = True

    async def _connections(self) -> _Opened:
        """The connections for reading and writing; opening them goes on when a caller gives up."""
        if self._opened is not None:
            return self._opened
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._open())
            self._opening.add_done_callback(self._end_opening)
        return await asyncio.shield(self._opening)

    def _end_opening(self, opening: "asyncio.Task[_Opened]") -> None:
        self._opening = None
        if not opening.cancelled() and opening.exception() is None:
            self._opened = opening.result()

    async def _open(self) -> _Opened:
        if isinstance(self._database, aiosqlite.Connection):
            await _in_thread(self._database, self._prepare)
            return self._database, self._database
        if _inode(self._database) in _left_to_parent:
            raise ConfigurationError(
                f"The parent process had {self._database} open when it forked this one, which "
                "SQLite does not survive. Open it after the fork, or start processes with 'spawn'."
            )
        writer = await self._connect(self._database)
        reader = writer
        watch(self)
        try:
            await _in_thread(writer, self._set_up)
            if not _is_private(self._database):
                reader = await self._connect(self._database)
                await _in_thread(reader, _only_read)
        except BaseException:
            for connection in {writer, reader}:
                await connection.close()
            unwatch(self)
            raise
        return reader, writer

    async def _connect(self, path: str | Path) -> aiosqlite.Connection:
        async def connect() -> aiosqlite.Connection:
            # When aiosqlite cannot open a file, its thread outlives the attempt, and the loop.
            await asyncio.to_thread(_try_to_open, path)
            opened = aiosqlite.connect(path, timeout=self._busy_timeout, isolation_level=None)
            # Else a store that is never closed keeps the interpreter from ending.
            aiosqlite_thread(opened).daemon = True
            return await opened

        opening = asyncio.ensure_future(connect())
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            # aiosqlite would forget to close what opens all the same.
            with suppress(sqlite3.Error):
                await (await opening).close()
            raise

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
    """Work for the thread, which is left undone if its caller gives up before it begins.

    Attributes:
        is_given_up: set by the caller.
    """

    def __init__(self, work: Callable[[sqlite3.Cursor], Result], busy_timeout: float) -> None:
        self.is_given_up = False
        self._work = work
        self._busy_timeout = busy_timeout
        self._asked_at = time.monotonic()

    def __call__(self, cursor: sqlite3.Cursor) -> Result:
        if self.is_given_up:
            raise StoreError("The caller gave this up before it began.")
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
def transaction(cursor: sqlite3.Cursor) -> Iterator[None]:
    """All of what is written inside is kept, or nothing; inside another one, a savepoint."""
    # Immediate: a transaction that reads first could not wait for the write lock. In SQL: the
    # connection's own methods do nothing where it was opened with autocommit=True.
    begin, keep, undo = "BEGIN IMMEDIATE", "COMMIT", ["ROLLBACK"]
    if cursor.connection.in_transaction:
        begin, keep = "SAVEPOINT mpauthx", "RELEASE mpauthx"
        undo = ["ROLLBACK TO mpauthx", keep]
    cursor.execute(begin)
    try:
        yield
        cursor.execute(keep)
    except BaseException:
        for statement in undo if cursor.connection.in_transaction else ():
            cursor.execute(statement)
        raise


def _in_snapshot(work: Callable[[sqlite3.Cursor], Result], cursor: sqlite3.Cursor) -> Result:
    """Do work whose queries see the same state, whatever is written meanwhile."""
    cursor.execute("BEGIN")
    try:
        return work(cursor)
    finally:
        if cursor.connection.in_transaction:
            cursor.execute("COMMIT")


async def _in_thread(
    connection: aiosqlite.Connection, work: Callable[[sqlite3.Cursor], Result]
) -> Result:
    def with_cursor() -> Result:
        raw = raw_connection(connection)
        if raw.in_transaction:
            raise StoreError(
                "The SQLite connection given to this store has a transaction open that is not the "
                "store's. Give the store a connection of its own, opened without autocommit=False, "
                "or the file's path."
            )
        with closing(raw.cursor()) as cursor:
            cursor.row_factory = None  # a ready-made connection may have one of its own
            return work(cursor)

    return await run_in_thread(connection, with_cursor)


def _inode(path: str | Path) -> tuple[int, int] | None:
    """What a file is, whatever its path says; None when there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _is_private(path: str | Path) -> bool:
    """Whether a second connection may not see the same database."""
    return str(path) in _NO_FILES or str(path).startswith(_URI)


def _only_read(cursor: sqlite3.Cursor) -> None:
    cursor.execute("PRAGMA query_only = ON")


def _try_to_open(path: str | Path) -> None:
    if not _is_private(path):
        _create(path)
    sqlite3.connect(path).close()


def _create(path: str | Path) -> None:
    """Create a file that only its owner may read; SQLite would create it readable for others.

    Through a symbolic link, which SQLite follows and O_EXCL does not.
    """
    with suppress(FileExistsError):
        os.close(os.open(os.path.realpath(path), os.O_CREAT | os.O_EXCL | os.O_RDWR, _OWNER_ONLY))


def _store_error(database: Database, error: Exception) -> StoreError:
    told, is_operators = str(error), True
    if "locked" in told or "busy" in told:
        advice = "Another process is writing to it for too long; the call can be repeated."
        is_operators = False
    elif "readonly" in told:
        advice = "Make the file and its folder writable."
    elif "not a database" in told:
        advice = "The path names a file that is something else."
    elif "unable to open" in told or isinstance(error, OSError):
        advice = "Check that its folder exists and that this process may write there."
    elif isinstance(error, sqlite3.IntegrityError):
        advice = "Change the value, or the table's constraint or trigger."
    else:
        advice = "Check the file and its folder; the call can be repeated."
        is_operators = False
    failure = StoreError(f"{_name(database)} did not answer as it should ({error}). {advice}")
    failure.retryable = not is_operators
    return failure


def _name(database: Database) -> str:
    """What to call a database in a message: a file by its full path."""
    if isinstance(database, aiosqlite.Connection):
        return "The SQLite database of the given connection"
    return f"The SQLite database {os.path.abspath(database)!r}"
