"""MongoUserStore: keeps users in MongoDB."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Self, TypeVar

from pymongo.asynchronous.database import AsyncDatabase

from ...concurrency.traceback_frames import methods_clear_frames
from ...errors import StoreError
from ...failure_log import failures
from ...models import User
from ...store_errors import raises_store_errors
from ..bisection import run_bisected
from ..linked_users import Changes, Id, LinkedUsers, ids_of
from .database import MongoDatabase
from .failures import held, is_unwritable, refusal
from .user_collection import ConflictError, HeldError, UserCollection, Written
from .user_fields import Document, UserFields

__all__ = ["MongoUserStore"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_DEFAULT_COLLECTION = "users"
_PATIENCE = 0.25  # of the timeout, for documents that transactions hold: twice in a call
# A batch gives up after this part of the time that is left, and is then bisected, down to the user
# whom other processes keep writing: nine times for a batch of 500.
_PATIENCE_WITH_OTHERS = 0.1
_MIN_PLANS = 5  # tried whatever the time, for a database that is far away
_BACKOFF = 0.005  # seconds, times the number of the plan, times a random number up to 1
_MAX_BACKOFF = 0.04


@methods_clear_frames()
@raises_store_errors
class MongoUserStore:
    """Keeps users in a collection of MongoDB, by PyMongo: also in an existing one as it is.

    By default the collection is that of the koa scaffold: `users`, with the fields openid, unionid,
    nickName, gender, city, province, country, language, avatarUrl, createAt and updateAt. Fields of
    the application stay untouched, and documents may lack any field. A collection named
    mpauthx_link beside it, or mpauthx_link_members beside one named members, keeps all ids of each
    user. A login neither merges nor deletes documents of users, and never changes their openIds.

    Processes may share the database: two that add the same user at once make one document, also
    without a unique index. It needs no transactions and so no replica set. A user whose document
    MongoDB refuses, by a validator or unique index, fails alone: see PartialStoreError.

    Args:
        database: a URL, such as mongodb://user:password@host/database or mongodb+srv://…; or a
            database of an AsyncMongoClient, which stays open.
        collection: the name of the users' collection.
        fields: for attributes of `User` the names of their fields, where they differ, such as
            {"open_id": "openId"}. Times are BSON dates.
        timeout: how long a call waits at most, in seconds.
        clock: returns the time in Unix seconds.

    Raises:
        ConfigurationError: if the URL, the collection or the fields cannot work.
    """

    def __init__(
        self,
        database: AsyncDatabase[Document] | str,
        collection: str = _DEFAULT_COLLECTION,
        *,
        fields: Mapping[str, str] | None = None,
        timeout: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        names = UserFields(fields)
        self._database = MongoDatabase(database, timeout, self._prepare)
        users = self._database.collection(collection)
        # One for each: what one store forgets, another would no longer know.
        suffix = "" if collection == _DEFAULT_COLLECTION else f"_{collection}"
        links = self._database.collection(f"mpauthx_link{suffix}")
        self._users = UserCollection(users, links, names, timeout * _PATIENCE)
        self._collection_name = collection
        self._clock = clock

    @property
    def longest_wait(self) -> float:
        """How long a call waits for the store at most, in seconds: `timeout`."""
        return self._database.longest_wait

    async def save(self, users: Sequence[User]) -> Sequence[bool]:
        """Add users that are new and keep the others current; writes only what differs."""
        now = self._now()
        end = time.monotonic() + self._database.longest_wait
        written = Written()

        def plan(linked: LinkedUsers, some: Sequence[User]) -> Changes:
            for user in some:
                linked.save(user, now)
            return replace(linked.changes(), deleted_links=linked.without_rows(written.links))

        failed: dict[str, StoreError] = {}  # by openId, for documents that are held

        async def save(some: Sequence[User]) -> Sequence[bool | StoreError]:
            rest = [user for user in some if user.open_id not in failed]
            ids = {id_ for user in rest for id_ in ids_of(user)}
            try:
                await self._change(lambda linked: plan(linked, rest), written, ids, end=end)
            except HeldError as error:
                theirs = [user for user in rest if (user.open_id, 0) in error.ids]
                if not theirs:
                    raise
                for user in theirs:
                    failed[user.open_id] = held()
                    await self._users.withdraw(user, written)
                return await save(some)
            except Exception as error:
                if len(rest) == 1 and _refusal_of(error) is not None:  # its links are written
                    await self._users.withdraw(rest[0], written)
                raise
            # A login made a document if it is the first one with its openId.
            return [
                failed.get(open_id) or written.created.pop(open_id, None) is not None
                for open_id in (user.open_id for user in some)
            ]

        return await self._each(users, save)

    async def get(self, user_ids: Sequence[str]) -> Sequence[User | None]:
        """Find users by any of their ids; a user with linked ids takes a trip more."""

        async def get(some: Sequence[str]) -> Sequence[User | None]:
            linked, _ = await self._users.persons(_either(some))
            return [linked.user(user_id) for user_id in some]

        return await self._each(user_ids, get)

    async def forget(self, user_id: str, *, app_ids: Collection[str]) -> bool:
        """Erase a user as far as these apps know them, documents before links."""
        erased: dict[Id, None] = {}

        def plan(linked: LinkedUsers) -> Changes | None:
            changes = linked.forget(user_id, app_ids, erased)
            if changes is not None:
                ids = [id_ for user in changes.deleted for id_ in ids_of(user)]
                erased.update(dict.fromkeys([*ids, *changes.deleted_links]))
            return changes

        return await self._change_one(user_id, plan, erased)

    async def clear(self, user_id: str, fields: Collection[str]) -> bool:
        """Erase fields of a user's profile in all their documents."""
        now = self._now()
        return await self._change_one(user_id, lambda linked: linked.clear(user_id, fields, now))

    async def check(self) -> None:
        """Check that the store can serve.

        Raises:
            StoreError: the database does not answer, or has no primary.
            ConfigurationError: the server is too old for PyMongo.
        """
        await self._database.run(self._users.check)

    async def close(self) -> None:
        """Close the client if it was created here; may be called again."""
        await self._database.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _now(self) -> int:
        """The time in Unix milliseconds."""
        return int(self._clock() * 1000)

    async def _prepare(self) -> None:
        for name in await self._users.create_indexes():
            failures.warning(
                "The collection %s has no index on %s, so each login reads all of it. Create one: "
                "db.%s.createIndex({%s: 1}).",
                self._collection_name,
                name,
                self._collection_name,
                name,
                extra={"kind": f"index {self._collection_name}.{name}"},
            )

    async def _change_one(
        self,
        user_id: str,
        plan: Callable[[LinkedUsers], Changes | None],
        more_ids: Collection[Id] = (),
    ) -> bool:
        """Write a plan for one user; False if it is None because the user is unknown.

        The plan may add to `more_ids`, which are read too.
        """
        end = time.monotonic() + self._database.longest_wait

        async def change(user_ids: Sequence[str]) -> Sequence[bool]:
            return [await self._change(plan, Written(), _either(user_ids), more_ids, end=end)]

        (was_known,) = await self._each([user_id], change)
        return was_known

    async def _change(
        self,
        plan: Callable[[LinkedUsers], Changes | None],
        written: Written,
        ids: Collection[Id],
        more_ids: Collection[Id] = (),
        *,
        end: float,
    ) -> bool:
        """Read persons and write a plan for them, and a new plan until there is nothing to write.

        The call ends at `end` at the latest, by `time.monotonic()`.

        Returns:
            False if the first plan is None.
        """
        tried: list[Changes] = []
        has_written = False
        begun_at = time.monotonic()
        give_up_at = begun_at + _PATIENCE_WITH_OTHERS * (end - begun_at)
        for number in count():
            if number >= _MIN_PLANS and time.monotonic() > give_up_at:
                break
            linked, found = await self._users.persons([*ids, *more_ids, *written.links])
            if await self._users.delete_duplicates(found, written):
                continue
            changes = plan(linked)
            if not changes:  # at almost every login of a known user
                return has_written or changes is not None
            try:
                await self._users.write(changes, found, written)
            except HeldError as error:
                raise HeldError(
                    {id_ for one in error.ids for id_ in linked.ids_with(one)}
                ) from None
            except ConflictError as conflict:
                if conflict.refusal is not None:
                    if changes in tried:  # nobody else wrote: a unique index refuses it
                        raise conflict.refusal from None
                    tried.append(changes)
            else:
                has_written = True
                if changes.only_updates:
                    return True
                continue
            backoff = min(number * _BACKOFF, _MAX_BACKOFF)
            await asyncio.sleep(backoff * random.random())  # noqa: S311
        raise StoreError("Other processes kept changing the same user: try again.")

    async def _each(
        self,
        items: Sequence[Item],
        work: Callable[[Sequence[Item]], Awaitable[Sequence[Result | StoreError]]],
    ) -> Sequence[Result]:
        return await self._database.run(lambda: run_bisected(items, work, _refusal_of))


def _refusal_of(error: Exception) -> StoreError | None:
    if isinstance(error, StoreError):
        return error
    if isinstance(error, HeldError):
        return held()
    return refusal(error) if is_unwritable(error) else None


def _either(user_ids: Sequence[str]) -> list[Id]:
    """Ids of which each may be an openId or a unionId."""
    return [(text, is_union_id) for text in user_ids for is_union_id in (0, 1)]
