"""SqliteUserStore: keeps users in a SQLite file, for one machine and for bots."""

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from functools import partial

from ...models import User
from ...store_errors import raises_store_errors
from ..linked_users import Id, LinkedUsers, ids_of
from .database import transaction
from .link_table import create_link_table, query_linked, statements
from .store import SqliteStore
from .user_table import Statement, UserTable

__all__ = ["SqliteUserStore"]


@raises_store_errors
class SqliteUserStore(SqliteStore):
    """Keeps users in a SQLite table named user: an existing one as it is, otherwise a new one.

    An existing table needs a column openId. It may have any of unionId, nickName, gender, city,
    province, country, language, avatarUrl, createdAt and updatedAt, and columns of the application.
    Without a column unionId, openId holds the user id as in mpauthx: the unionId if WeChat gives
    one. With it, a row whose openId is NULL or empty belongs to its unionId.

    If logins cannot be saved in the table, every method raises a ConfigurationError that names the
    column. A user whose row SQLite refuses or cannot read fails alone: see PartialStoreError.

    A table named mpauthx_link keeps which ids belong to one user, where the user table does not
    tell, and the app of each openId. A login neither merges nor deletes rows of users, and never
    changes their openIds.

    Args:
        database: the file's path, or an open aiosqlite connection that nothing else writes
            through; the connection stays open.
        busy_timeout: how long to wait for a file that another process has locked, in seconds.
        clock: returns the time in Unix seconds; called in the database's thread.
    """

    _table: UserTable  # set in `_prepare`

    async def save(self, users: Sequence[User]) -> Sequence[bool]:
        """Add users that are new and keep the others current; writes only what differs."""

        def save(cursor: sqlite3.Cursor, some: Sequence[User]) -> list[bool]:
            version = _data_version(cursor)
            is_new, to_write = self._plan(cursor, some)
            if to_write:
                with transaction(cursor):
                    if _data_version(cursor) != version:
                        # Another process has written. It cannot while this holds the write lock.
                        is_new, to_write = self._plan(cursor, some)
                    _execute(cursor, to_write)
            return is_new

        return await self._do_each(users, save)

    async def get(self, user_ids: Sequence[str]) -> Sequence[User | None]:
        """Find users by any of their ids, in two queries at most if they have no linked ids."""

        def get(cursor: sqlite3.Cursor, some: Sequence[str], now: int) -> list[User | None]:
            linked = self._linked(cursor, untyped=some)
            return [linked.user(user_id) for user_id in some]

        return await self._read_each(user_ids, get)

    async def forget(self, user_id: str, *, app_ids: Collection[str]) -> bool:
        """Erase a user as far as these apps know them, in one transaction."""

        def forget(cursor: sqlite3.Cursor, now: int) -> bool:
            changes = self._linked(cursor, untyped=[user_id]).forget(user_id, app_ids)
            if changes is not None:
                _execute(cursor, statements(self._table, changes))
            return changes is not None

        return await self._write(forget)

    async def clear(self, user_id: str, fields: Collection[str]) -> bool:
        """Erase fields of a user's profile in all their rows, in one transaction."""

        def clear(cursor: sqlite3.Cursor, now: int) -> bool:
            rows = self._linked(cursor, untyped=[user_id]).rows_of(user_id)
            _execute(cursor, self._table.clear(rows, fields, now))
            return bool(rows)

        return await self._write(clear)

    def _prepare(self, cursor: sqlite3.Cursor) -> None:
        self._table = UserTable.open(cursor)
        create_link_table(cursor)

    def _plan(
        self, cursor: sqlite3.Cursor, users: Sequence[User]
    ) -> tuple[list[bool], list[Statement]]:
        """Tell which users are new, and the statements that save them."""
        for user in users:
            self._table.check(user)
        linked = self._linked(cursor, [id_ for user in users for id_ in ids_of(user)])
        now = self._now()
        is_new = [linked.save(user, now) for user in users]
        return is_new, list(statements(self._table, linked.changes()))

    def _linked(
        self, cursor: sqlite3.Cursor, ids: Collection[Id] = (), untyped: Collection[str] = ()
    ) -> LinkedUsers:
        query = partial(query_linked, cursor, self._table)
        return LinkedUsers(query, self._table, ids, untyped=untyped)


def _execute(cursor: sqlite3.Cursor, to_write: Iterable[Statement]) -> None:
    for statement in to_write:
        cursor.execute(*statement)


def _data_version(cursor: sqlite3.Cursor) -> int:
    """A number that changes when another connection has written to the database."""
    ((version,),) = cursor.execute("PRAGMA data_version")
    return int(version)
