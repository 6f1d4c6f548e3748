"""SqliteStore: what all stores in SQLite have in common."""

import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Self, TypeVar

from ...concurrency.traceback_frames import methods_clear_frames
from ...store_errors import raises_store_errors
from .bad_rows import do_each
from .database import Database, SqliteDatabase, transaction

__all__ = ["SqliteStore"]

Item = TypeVar("Item")
Result = TypeVar("Result")


@methods_clear_frames()
@raises_store_errors
class SqliteStore(ABC):
    """A store with a database and a clock; for the arguments see SqliteTokenStore."""

    system = "SQLite"

    def __init__(
        self,
        database: Database,
        *,
        busy_timeout: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = SqliteDatabase(database, busy_timeout, self._prepare)
        self._clock = clock

    @property
    def longest_wait(self) -> float:
        """How long a call waits for the store at most, in seconds: `busy_timeout` plus one."""
        return self._database.longest_wait

    async def close(self) -> None:
        """Close the database if it was opened here; may be called again."""
        await self._database.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @abstractmethod
    def _prepare(self, cursor: sqlite3.Cursor) -> None:
        """Create missing tables."""

    def _now(self) -> int:
        """The time in Unix milliseconds."""
        return int(self._clock() * 1000)

    async def _read(self, work: Callable[[sqlite3.Cursor, int], Result]) -> Result:
        """Run work that only reads, with a cursor and the time in Unix milliseconds."""
        return await self._database.read(lambda cursor: work(cursor, self._now()))

    async def _write(self, work: Callable[[sqlite3.Cursor, int], Result]) -> Result:
        """Run work in one transaction, with a cursor and the time at which that began."""

        def write(cursor: sqlite3.Cursor) -> Result:
            with transaction(cursor):
                return work(cursor, self._now())

        return await self._database.run(write)

    async def _read_each(
        self,
        items: Sequence[Item],
        work: Callable[[sqlite3.Cursor, Sequence[Item], int], Sequence[Result]],
    ) -> Sequence[Result]:
        """`_read` for a batch, in which a bad row fails only its own item."""
        return await self._read(
            lambda cursor, now: do_each(cursor, items, lambda some: work(cursor, some, now))
        )

    async def _write_each(
        self,
        items: Sequence[Item],
        work: Callable[[sqlite3.Cursor, Sequence[Item], int], Sequence[Result]],
    ) -> Sequence[Result]:
        """`_write` for a batch, in which a bad row fails only its own item."""

        def write(cursor: sqlite3.Cursor, some: Sequence[Item]) -> Sequence[Result]:
            with transaction(cursor):
                return work(cursor, some, self._now())

        return await self._do_each(items, write)

    async def _do_each(
        self,
        items: Sequence[Item],
        work: Callable[[sqlite3.Cursor, Sequence[Item]], Sequence[Result]],
    ) -> Sequence[Result]:
        """`_write_each` for work that begins its transaction itself, if it needs one."""
        return await self._database.run(
            lambda cursor: do_each(cursor, items, lambda some: work(cursor, some))
        )
