"""UserCollection: reads and writes the users' collection and that of links, for `LinkedUsers`.

MongoDB writes one document as a whole, and without a replica set it has no transactions. So each id
of a user has a document in mpauthx_link, whose _id nobody else can insert:

    _id       "openid:" or "unionid:" and the id
    app_id    the app of the openId, if it is known
    union_id  the user's current unionId, if the users' collection does not tell it
    user      the _id of the document that the user has in the users' collection, or gets there

Links are written first. Processes that add the same user at once all insert the document that the
first link names, so one succeeds. If a process dies in between, the next login finishes its work.
An update of ids has the old values in its filter, and a deletion of a document its unionId; if they
have changed, a new plan is made.

A user may be forgotten between a login's read and its write. So every process that adds or deletes
documents or links reads again afterwards, until there is nothing left to change:

- A forget that reads before a login's last write may overlook it. Then the login reads after the
  forget's deletions, and adds the user as a new one; links that it has written for other ids of the
  erased user it deletes. Otherwise the forget reads the login's write, and erases it.
- A forget may delete the link by which two logins would meet, so both insert a document. Each reads
  after its insert, so the later one finds the other's document, and deletes its own. If both do,
  both plan anew.

Only a process that dies between its write and that read may leave two documents; they are one user.
"""

import asyncio
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pymongo
from bson import ObjectId
from pymongo import DeleteMany, DeleteOne, InsertOne, UpdateOne
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import BulkWriteError, PyMongoError

from ...errors import StoreError
from ...models import User
from ..linked_users import Changes, Id, Link, LinkedUsers, ids_of
from .failures import OVERDUE, is_duplicate, is_duplicate_key, is_held, is_overdue, refusal
from .user_fields import Document, UserFields

__all__ = ["ConflictError", "Found", "HeldError", "UserCollection", "Written"]

MongoCollection: TypeAlias = AsyncCollection[Document]
_Operation: TypeAlias = InsertOne[Document] | UpdateOne | DeleteOne | DeleteMany

_KINDS = ("openid", "unionid")
_MAX_ALONE = 16  # writes at once, after one of a batch was held: each is a connection


@dataclass(slots=True)
class Found:
    """What was read for some ids."""

    users: dict[User, list[Any]] = field(default_factory=dict)  # _ids of what holds exactly this
    links: dict[Id, Link] = field(default_factory=dict)
    documents: dict[Id, Any] = field(default_factory=dict)  # _ids that users have, or are to get


@dataclass(slots=True)
class Written:
    """What one call has written, over all its attempts."""

    created: dict[str, tuple[ObjectId, User]] = field(default_factory=dict)  # documents by openId
    claimed: list[Any] = field(default_factory=list)  # _ids that links name, not yet inserted
    links: set[Id] = field(default_factory=set)  # that it has inserted


class ConflictError(Exception):
    """Another process was faster, so that a new plan may succeed.

    `refusal` is the error if the plan is the same again: a unique index refused a document.
    """

    def __init__(self, refusal: StoreError | None = None) -> None:
        super().__init__()
        self.refusal = refusal


class HeldError(Exception):
    """Transactions of the application hold documents of these users; the others are written."""

    def __init__(self, ids: Collection[Id]) -> None:
        super().__init__()
        self.ids = ids


class UserCollection:
    """Reads the documents and links of users, and writes changes.

    A write waits `patience` seconds for a document that a transaction of the application holds:
    once with all others, and once alone.
    """

    has_union_id = True
    links_all_ids = True

    def __init__(
        self, users: MongoCollection, links: MongoCollection, fields: UserFields, patience: float
    ) -> None:
        self._users = users
        self._links = links
        self._fields = fields
        self._patience = patience

    def is_changed(self, stored: User, user: User) -> bool:
        return bool(self._fields.update(stored, user))

    async def persons(self, ids: Collection[Id]) -> tuple[LinkedUsers, Found]:
        """Read the persons with any of some ids."""
        found = Found()
        known: set[Id] = set()
        while True:
            linked = LinkedUsers(lambda _: ([*found.users], [*found.links.values()]), self, ids)
            missing = linked.ids - known
            if not missing:
                return linked, found
            await self._find(missing, found)
            known |= missing

    async def write(self, changes: Changes, found: Found, written: Written) -> None:
        """Write changes that were planned for what was found; adds to what the call has written.

        Raises:
            HeldError: transactions hold documents.
            ConflictError: another process was faster.
            StoreError: MongoDB refuses a document, and has written the others.
        """
        documents = _documents(changes, found, written)
        await self._write_links(changes, found, documents, written)
        await self._write_users(changes, found, documents, written)
        if changes.deleted_links:
            deletions = [DeleteOne({"_id": _key(id_)}) for id_ in changes.deleted_links]
            errors, _ = await self._bulk(self._links, deletions)
            _check(errors, [[id_] for id_ in changes.deleted_links])

    async def delete_duplicates(self, found: Found, written: Written) -> bool:
        """Delete documents of the call whose users have another one by now; whether any was."""
        duplicates: list[ObjectId] = []
        if written.created:
            keys: dict[Id, list[Any]] = {}
            for user, documents in found.users.items():
                for id_ in ids_of(user):
                    keys.setdefault(id_, []).extend(documents)
            for own, user in written.created.values():
                same = [key for id_ in ids_of(user) for key in keys.get(id_, ())]
                if own in same and any(key != own and key not in duplicates for key in same):
                    duplicates.append(own)
        is_any_deleted = False
        for open_id, (own, user) in [*written.created.items()]:
            if own in duplicates:
                # Not if another login has found it, and added its unionId.
                known = {"_id": own, **self._fields.has_union_id(user.union_id)}
                if (await self._users.delete_one(known)).deleted_count:
                    del written.created[open_id]
                    is_any_deleted = True
        return is_any_deleted

    async def withdraw(self, user: User, written: Written) -> None:
        """Delete the links that were written for a user whose document was refused."""
        if written.claimed:
            keys = [_key(id_) for id_ in ids_of(user)]
            claims = {"_id": {"$in": keys}, "user": {"$in": written.claimed}}
            await self._bulk(self._links, [DeleteMany(claims)])

    async def create_indexes(self) -> list[str]:
        """Create the indexes of links and an empty collection of users; returns what is missing."""
        await self._links.create_index("union_id", sparse=True)
        indexes = (await self._users.index_information()).values()
        indexed = {index["key"][0][0] for index in indexes}
        names = [self._fields.open_id, self._fields.union_id]
        missing = [name for name in names if name not in indexed]
        if missing and await self._users.find_one({}, ["_id"]) is None:
            for name in missing:
                await self._users.create_index(name, sparse=True)
            return []
        return missing

    async def check(self) -> None:
        """Read from both collections."""
        await asyncio.gather(self._users.find_one({}, ["_id"]), self._links.find_one({}, ["_id"]))

    async def _find(self, ids: Iterable[Id], found: Found) -> None:
        """Read the documents and links that have any of these ids, links also by their union_id."""
        open_ids = [text for text, is_union_id in ids if not is_union_id]
        union_ids = [text for text, is_union_id in ids if is_union_id]
        of_users = [
            {name: {"$in": texts}}
            for name, texts in (
                (self._fields.open_id, open_ids),
                (self._fields.union_id, union_ids),
            )
            if texts
        ]
        of_links: list[Document] = [{"_id": {"$in": [_key(id_) for id_ in ids]}}]
        if union_ids:
            of_links.append({"union_id": {"$in": union_ids}})
        documents, links = await asyncio.gather(
            self._users.find(_any(of_users), self._fields.projection).to_list(),
            self._links.find(_any(of_links)).to_list(),
        )
        for link in links:
            kind, _, text = link["_id"].partition(":")
            id_ = text, _KINDS.index(kind)
            found.links[id_] = Link(*id_, link.get("app_id"), link.get("union_id"))
            found.documents.setdefault(id_, link.get("user"))
        for document in documents:
            user = self._fields.user(document)
            same = found.users.setdefault(user, [])
            if document["_id"] not in same:
                same.append(document["_id"])
            found.documents |= dict.fromkeys(ids_of(user), same[0])

    async def _write_links(
        self, changes: Changes, found: Found, documents: dict[Id, Any], written: Written
    ) -> None:
        operations: list[_Operation] = []
        for link in changes.new_links:
            values = _values(link) | {"user": documents[link[:2]]}
            operations.append(InsertOne({"_id": _key(link[:2]), **values}))
        for link in changes.changed_links:
            old, values = found.links[link[:2]], _values(link)
            update: Document = {"$set": values} if values else {}
            if gone := _values(old).keys() - values.keys():
                update["$unset"] = dict.fromkeys(gone, "")
            known = {"_id": _key(link[:2]), "app_id": old.app_id, "union_id": old.union_id}
            operations.append(UpdateOne(known, update))
        errors, matched = await self._bulk(self._links, operations)
        new = enumerate(changes.new_links)
        written.links |= {link[:2] for index, link in new if index not in errors}
        _check(errors, [[link[:2]] for link in (*changes.new_links, *changes.changed_links)])
        if errors or matched < len(changes.changed_links):
            raise ConflictError

    async def _write_users(
        self, changes: Changes, found: Found, documents: dict[Id, Any], written: Written
    ) -> None:
        keys = [documents[ids_of(user)[0]] for user in changes.inserted]
        inserts: list[_Operation] = [
            InsertOne({"_id": key, **self._fields.document(user)})
            for key, user in zip(keys, changes.inserted, strict=True)
        ]
        # Apart from the rest: what is known to be inserted is not tried again.
        not_inserted, _ = await self._bulk(self._users, inserts)
        for index, (key, user) in enumerate(zip(keys, changes.inserted, strict=True)):
            if index not in not_inserted:
                written.created[user.open_id] = key, user
                written.claimed = [other for other in written.claimed if other != key]
        updates = list(self._updates(changes, found))
        others: list[tuple[User, _Operation]] = [*updates]
        for user in changes.deleted:
            known = self._fields.has_union_id(user.union_id)
            others += [(user, DeleteOne({"_id": key, **known})) for key in found.users[user]]
        not_done, matched = await self._bulk(self._users, [operation for _, operation in others])
        errors = [(error, changes.inserted[index]) for index, error in not_inserted.items()]
        errors += [(error, others[index][0]) for index, error in not_done.items()]
        _check(dict(enumerate(error for error, _ in errors)), [ids_of(user) for _, user in errors])
        refusals = [refusal(error) for error, _ in errors if not is_duplicate_key(error)]
        if errors:
            raise ConflictError(refusals[0] if refusals else None)
        if matched < len(updates):
            raise ConflictError

    def _updates(self, changes: Changes, found: Found) -> Iterator[tuple[User, UpdateOne]]:
        for stored, user in changes.updated:
            update = self._fields.update(stored, user, changes.cleared)
            for key in found.users[stored] if update else ():
                known: Document = {"_id": key}
                if user.union_id != stored.union_id:
                    known |= self._fields.has_union_id(stored.union_id)
                yield stored, UpdateOne(known, update)

    async def _bulk(
        self, collection: MongoCollection, operations: Sequence[_Operation]
    ) -> tuple[dict[int, Document], int]:
        """Do all operations that MongoDB does not refuse, and for which it need not wait long.

        A write waits while a transaction of the application holds its document, and with it all in
        the same command. Returns the errors by index, and how many documents were found to update.
        """
        if not operations:
            return {}, 0
        try:
            with pymongo.timeout(self._patience):
                return await _bulk_write(collection, operations)
        except PyMongoError as error:
            if not is_overdue(error):
                raise
            if len(operations) == 1:
                return {0: {"code": OVERDUE}}, 0
        places = asyncio.Semaphore(_MAX_ALONE)

        async def alone(operation: _Operation) -> tuple[dict[int, Document], int]:
            async with places:
                return await self._bulk(collection, [operation])

        answers = await asyncio.gather(*map(alone, operations))
        errors = {index: one[0] for index, (one, _) in enumerate(answers) if one}
        return errors, sum(matched for _, matched in answers)


def _documents(changes: Changes, found: Found, written: Written) -> dict[Id, Any]:
    """For each id that gets a document or link the _id of the user's document."""
    documents = {id_: key for id_, key in found.documents.items() if key is not None}
    for stored, user in changes.updated:
        for id_ in ids_of(user):
            documents.setdefault(id_, found.users[stored][0])

    def claim() -> ObjectId:
        written.claimed.append(key := ObjectId())
        return key

    for user in changes.inserted:
        ids = ids_of(user)
        known = [documents[id_] for id_ in reversed(ids) if id_ in documents]
        # What another process claims comes first: it may insert that document meanwhile.
        known.sort(key=lambda key: key in written.claimed)
        documents |= dict.fromkeys(ids, known[0] if known else claim())
    for link in changes.new_links:
        if link[:2] not in documents:
            by_union_id = documents.get((link.union_id or "", 1))
            documents[link[:2]] = claim() if by_union_id is None else by_union_id
    return documents


async def _bulk_write(
    collection: MongoCollection, operations: Sequence[_Operation]
) -> tuple[dict[int, Document], int]:
    try:
        result = await collection.bulk_write(operations, ordered=False)
    except BulkWriteError as error:
        details = error.details or {}
        errors = {each["index"]: each for each in details.get("writeErrors", ())}
        if details.get("writeConcernErrors") or not errors:
            raise
        return errors, details["nMatched"]
    return {}, result.matched_count


def _check(errors: dict[int, Document], ids: Sequence[Collection[Id]]) -> None:
    """Raise HeldError or StoreError for errors; `ids` are those of each operation."""
    if held_ids := {
        id_ for index, error in errors.items() if is_held(error.get("code")) for id_ in ids[index]
    }:
        raise HeldError(held_ids)
    for error in errors.values():
        if not is_duplicate(error):
            raise refusal(error)


def _any(conditions: Sequence[Document]) -> Document:
    return conditions[0] if len(conditions) == 1 else {"$or": conditions}


def _key(id_: Id) -> str:
    text, is_union_id = id_
    return f"{_KINDS[is_union_id]}:{text}"


def _values(link: Link) -> Document:
    values = {"app_id": link.app_id, "union_id": link.union_id}
    return {name: value for name, value in values.items() if value is not None}
