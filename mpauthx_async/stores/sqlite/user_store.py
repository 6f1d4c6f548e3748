"""SqliteUserStore: keeps users in a SQLite file, for one machine and for bots."""

import sqlite3
import time
from collections.abc import Callable, Collection, Sequence
from typing import Self

from ...models import User
from ...store_boundary import raises_store_errors
from .bad_rows import read_each, write_each
from .database import Database, SqliteDatabase, transaction
from .linked_users import People, create_link_table
from .user_table import Statement, UserTable

__all__ = ["SqliteUserStore"]

_BUSY_TIMEOUT = 5.0  # seconds


@raises_store_errors
class SqliteUserStore:
    """Keeps users in a SQLite table named user: an existing one as it is, else a new one.

    An existing table needs a column openId and may have any of unionId, nickName, gender, city,
    province, country, language, avatarUrl, createdAt and updatedAt beside others of its own.
    Without a unionId column, openId holds the user id, as mpauthx has it: the unionId where
    WeChat gives one. With one, a row whose openId is NULL or empty belongs to its unionId.

    If logins cannot work on the table, every method raises a ConfigurationError that names the
    column. A user whose row SQLite refuses or cannot read fails alone: see PartialStoreError.

    Which ids are one person, as far as the table does not say so, and which app an openId is of,
    stand in a table named mpauthx_link. Rows of users are neither merged nor deleted by a login,
    and their openIds never change.

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
        self._table = UserTable(())

    async def save(self, users: Sequence[User]) -> Sequence[bool]:
        """Add users that are new and keep the others current; writes only what differs."""
        now = self._now()

        def save(cursor: sqlite3.Cursor, some: Sequence[User]) -> list[bool]:
            version = _data_version(cursor)
            is_new, statements = self._plan(cursor, some, now)
            if statements:
                with transaction(cursor):
                    if _data_version(cursor) != version:
                        # Another process was faster. Now that the write lock is ours, none can be.
                        is_new, statements = self._plan(cursor, some, now)
                    _execute(cursor, statements)
            return is_new

        return await self._database.run(
            lambda cursor: write_each(cursor, users, lambda some: save(cursor, some))
        )

    async def get(self, user_ids: Sequence[str]) -> Sequence[User | None]:
        """Find users by any of their ids, in two queries at most where nothing is linked."""

        def get(cursor: sqlite3.Cursor, some: Sequence[str]) -> list[User | None]:
            people = self._people(cursor, some)
            return [people.user(user_id) for user_id in some]

        return await self._database.read(
            lambda cursor: read_each(user_ids, lambda some: get(cursor, some))
        )

    async def forget(self, user_id: str, *, app_ids: Collection[str]) -> bool:
        """Erase a person as far as these apps know them, in one transaction."""
        return await self._change(user_id, lambda people: people.forget(user_id, app_ids))

    async def clear(self, user_id: str, fields: Collection[str]) -> bool:
        """Erase fields of a person's profile in all their rows, in one transaction."""
        now = self._now()
        return await self._change(user_id, lambda people: people.clear(user_id, fields, now))

    @property
    def longest_wait(self) -> float:
        """How long a call waits for it at most, in seconds: `busy_timeout` and one."""
        return self._database.longest_wait

    async def close(self) -> None:
        """Close the database if it was opened here; may be called again."""
        await self._database.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _plan(
        self, cursor: sqlite3.Cursor, users: Sequence[User], now: int
    ) -> tuple[list[bool], list[Statement]]:
        """Who is new, and the statements that save the users."""
        for user in users:
            self._table.check(user)
        open_ids = [user.open_id for user in users]
        union_ids = [user.union_id for user in users if user.union_id]
        people = People.load(cursor, self._table, open_ids=open_ids, union_ids=union_ids)
        is_new = [people.save(user, now) for user in users]
        return is_new, list(people.statements())

    def _people(self, cursor: sqlite3.Cursor, user_ids: Sequence[str]) -> People:
        return People.load(cursor, self._table, untyped=user_ids)

    async def _change(
        self, user_id: str, statements: Callable[[People], Sequence[Statement] | None]
    ) -> bool:
        """Change what is stored of a person; False if they are not known."""

        def change(cursor: sqlite3.Cursor) -> bool:
            with transaction(cursor):
                to_execute = statements(self._people(cursor, [user_id]))
                _execute(cursor, to_execute or ())
            return to_execute is not None

        return await self._database.run(change)

    def _prepare(self, cursor: sqlite3.Cursor) -> None:
        self._table = UserTable.open(cursor)
        create_link_table(cursor)

    def _now(self) -> int:
        """The time in Unix milliseconds."""
        return int(self._clock() * 1000)


def _execute(cursor: sqlite3.Cursor, statements: Sequence[Statement]) -> None:
    for statement in statements:
        cursor.execute(*statement)


def _data_version(cursor: sqlite3.Cursor) -> int:
    """A number that changes when another connection has written to the database."""
    ((version,),) = cursor.execute("PRAGMA data_version")
    return int(version)
