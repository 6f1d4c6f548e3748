"""SQLAlchemyUserStore: keeps users in PostgreSQL, MySQL, MariaDB or SQLite."""

import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Self, TypeVar

from sqlalchemy import Connection, MetaData
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from ...concurrency.traceback_frames import methods_clear_frames
from ...errors import StoreError
from ...failure_log import failures
from ...models import User
from ...store_errors import raises_store_errors
from ..bisection import run_bisected
from ..linked_users import Changes, Id, LinkedUsers, ids_of
from .columns import Model
from .database import SQLDatabase
from .failures import is_held, is_refusal, is_timeout, refusal, store_error
from .models import user_table
from .table_checks import check_tables
from .user_table import UserTable

__all__ = ["SQLAlchemyUserStore"]

_UNUSED: Id = ("mpauthx-check", 0)

Item = TypeVar("Item")
Result = TypeVar("Result")


@methods_clear_frames()
@raises_store_errors
class SQLAlchemyUserStore:
    """Keeps users in a table of PostgreSQL, MySQL, MariaDB or SQLite, by SQLAlchemy.

    The table is the application's, or one named mpauthx_user. Columns that are not a user's,
    defaults and foreign keys stay untouched. A table named mpauthx_link beside it keeps all ids of
    each user. A login neither merges nor deletes rows of users, and never changes their openIds.

    Processes may share the database: two that add the same user at once make one row. The store
    works in READ COMMITTED, with SQLite in its only level. If a connection is lost before COMMIT is
    answered, the work is repeated, and a user whom that transaction has added counts as known.

    If logins cannot be saved in the table, every method raises a ConfigurationError that names the
    column. A user whose row the database refuses fails alone: see PartialStoreError.

    Args:
        engine: an engine of SQLAlchemy, which stays open, or a URL with an asyncio driver, such as
            postgresql+asyncpg://user:password@host/database.
        model: a mapped class or Table for the users; by default a table of the store's own.
        columns: the model's attributes or columns that hold a user, by the attributes of `User`,
            such as {"open_id": "openId"}; open_id is needed. By default all that are named as in
            `User` or as in mpauthx: open_id or openId, and so on. Without one for union_id, that of
            open_id holds the user id, as in mpauthx: the unionId if WeChat gives one.
        create: whether to create missing tables.
        timeout: how long a call waits at most, in seconds.
        clock: returns the time in Unix seconds.

    Raises:
        ConfigurationError: if the URL, the model or the columns cannot work.
    """

    def __init__(
        self,
        engine: AsyncEngine | str,
        model: Model | None = None,
        *,
        columns: Mapping[str, str] | None = None,
        create: bool = False,
        timeout: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = SQLDatabase(engine, timeout, self._prepare)
        model = user_table(MetaData()) if model is None else model
        self._table = UserTable(model, columns, self._database.dialect_name)
        self._creates = create
        self._clock = clock

    @property
    def longest_wait(self) -> float:
        """How long a call waits for the store at most, in seconds: `timeout`."""
        return self._database.longest_wait

    async def save(self, users: Sequence[User]) -> Sequence[bool]:
        """Add users that are new and keep the others current; writes only what differs."""
        now = self._now()

        def plan(linked: LinkedUsers, some: Sequence[User]) -> tuple[Sequence[bool], Changes]:
            is_new = [linked.save(user, now) for user in some]
            return is_new, linked.changes()

        async def save(some: Sequence[User], *, waits: bool) -> Sequence[bool]:
            for user in some:
                self._table.check(user)
            link = partial(LinkedUsers, ids=[id_ for user in some for id_ in ids_of(user)])
            return await self._change(link, lambda linked: plan(linked, some), waits=waits)

        return await self._database.run(lambda: self._write_each(users, save))

    async def get(self, user_ids: Sequence[str]) -> Sequence[User | None]:
        """Find users by any of their ids, in two queries if they have no linked ids."""

        async def get(some: Sequence[str]) -> Sequence[User | None]:
            def find(connection: Connection) -> list[User | None]:
                query = partial(self._table.query, connection)
                linked = LinkedUsers(query, self._table, untyped=some)
                return [linked.user(user_id) for user_id in some]

            return await self._database.read(find)

        return await self._database.run(lambda: run_bisected(user_ids, get, _refusal_of))

    async def forget(self, user_id: str, *, app_ids: Collection[str]) -> bool:
        """Erase a user as far as these apps know them, in one transaction."""
        return await self._change_one(user_id, lambda linked: linked.forget(user_id, app_ids))

    async def clear(self, user_id: str, fields: Collection[str]) -> bool:
        """Erase fields of a user's profile in all their rows, in one transaction."""
        now = self._now()
        return await self._change_one(user_id, lambda linked: linked.clear(user_id, fields, now))

    async def check(self) -> None:
        """Check that the store can serve: the tables can be read and written. It writes nothing.

        Raises:
            StoreError: the database does not answer, or is read-only, as a replica is.
            ConfigurationError: logins cannot be saved in the tables.
        """

        async def check() -> None:
            await self._database.read(lambda connection: self._table.query(connection, [_UNUSED]))
            await self._database.write(self._table.write_nothing)

        await self._database.run(check)

    async def close(self) -> None:
        """Close the connections if the engine was created here; may be called again."""
        await self._database.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _now(self) -> int:
        """The time in Unix milliseconds."""
        return int(self._clock() * 1000)

    async def _prepare(self) -> None:
        if self._creates:
            for table in (self._table.table, self._table.links):
                create = partial(table.create, checkfirst=True)
                try:
                    await self._database.write(create)
                except DBAPIError:  # another process has created this one meanwhile
                    await self._database.write(create)
        unindexed = await self._database.read(
            lambda connection: check_tables(connection, self._table)
        )
        for column in unindexed:
            failures.warning(
                "There is no index on %s, so each login reads the whole table. Create one: "
                "CREATE INDEX … ON %s.",
                column,
                column,
                extra={"kind": f"index {column}"},
            )

    async def _change_one(
        self, user_id: str, plan: Callable[[LinkedUsers], Changes | None]
    ) -> bool:
        """Write a plan for one user; False if it is None because the user is unknown."""

        def answered(linked: LinkedUsers) -> tuple[bool, Changes]:
            changes = plan(linked)
            return changes is not None, changes or Changes()

        async def change(user_ids: Sequence[str], *, waits: bool) -> Sequence[bool]:
            link = partial(LinkedUsers, untyped=user_ids)
            return [await self._change(link, answered, waits=waits)]

        (was_known,) = await self._database.run(lambda: self._write_each([user_id], change))
        return was_known

    async def _write_each(
        self, items: Sequence[Item], work: Callable[..., Awaitable[Sequence[Result]]]
    ) -> Sequence[Result]:
        """Write a batch, in which an item fails alone if it is refused or its row is locked."""
        waits = True

        def failure_of(error: Exception) -> StoreError | None:
            nonlocal waits
            if not is_held(error) and not (waits and is_timeout(error)):
                return _refusal_of(error)
            waits = False  # the batch has waited, so its parts do not
            failure = store_error(self._database.name, error)
            failure.__cause__ = error
            return failure

        return await run_bisected(items, lambda some: work(some, waits=waits), failure_of)

    async def _change(
        self,
        link: Callable[..., LinkedUsers],
        plan: Callable[[LinkedUsers], tuple[Result, Changes]],
        *,
        waits: bool,
    ) -> Result:
        """Read persons by `link`, and write a plan for them, or a new one while others are faster.

        The plan is an answer, and what to write. `waits` is for rows that others have locked.
        """
        ids: set[Id] = set()
        tried: list[Changes] = []

        def read(connection: Connection) -> tuple[Result, Changes]:
            linked = link(partial(self._table.query, connection), self._table)
            ids.update(linked.ids)
            return plan(linked)

        def write(connection: Connection) -> tuple[Result] | None:
            if planned:  # the first attempt
                answer, changes = planned.pop()
            else:
                locked = set(ids)
                self._table.lock(connection, locked, waits=waits)
                answer, changes = read(connection)
                if ids > locked:  # more ids lead to these persons by now
                    return None
                if not waits:
                    self._table.lock_rows(connection, changes)
            try:
                self._table.write(connection, changes)
            except IntegrityError as error:
                if changes in tried:  # no other process wrote: the database refuses a row
                    raise refusal(error) from error
                tried.append(changes)
                raise
            return (answer,)

        answer, changes = await self._database.read(read)
        if not changes:  # at almost every login of a known user
            return answer
        planned = [(answer, changes)] if changes.only_adds else []
        while (written := await self._database.write(write, waits_for_locks=waits)) is None:
            pass
        return written[0]


def _refusal_of(error: Exception) -> StoreError | None:
    return refusal(error) if is_refusal(error) else None
