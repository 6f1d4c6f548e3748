"""MongoUserStore on collections of applications, and beside other processes."""

import asyncio
import json
import logging
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import ObjectId
from pymongo import AsyncMongoClient, MongoClient
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.monitoring import (
    CommandFailedEvent,
    CommandListener,
    CommandStartedEvent,
    CommandSucceededEvent,
)

from mpauthx_async import ConfigurationError, PartialStoreError, StoreError, User
from mpauthx_async.stores import MongoUserStore
from tests.helpers.clock import Clock
from tests.helpers.line_process import LineProcess
from tests.helpers.outages import PATIENCE, cancel_at
from tests.helpers.user_stores import link_the_same_persons_at_once, only_user

Database = AsyncDatabase[dict[str, Any]]

THEN = datetime(2019, 5, 1, 8, 30, tzinfo=UTC)
THEN_MS = 1_556_699_400_000
NAIVE = THEN.replace(tzinfo=None)  # as PyMongo reads dates


@pytest.fixture
async def store(mongo: Database, clock: Clock) -> AsyncIterator[MongoUserStore]:
    async with MongoUserStore(mongo, clock=clock) as store:
        yield store


def scaffold_document(open_id: str, **more: Any) -> dict[str, Any]:
    """A document as the koa scaffold writes it."""
    return {
        "_id": ObjectId(),
        "openid": open_id,
        "nickName": "Alice",
        "createAt": THEN,
        "updateAt": THEN,
        "token": "eyJhbGciOiJIUzI1NiJ9.e30.c2ln",
        "__v": 0,
        **more,
    }


class TestCollectionOfTheScaffold:
    async def test_a_login_that_changes_nothing_writes_nothing_to_it(
        self, mongo: Database, store: MongoUserStore
    ) -> None:
        await mongo.users.insert_one(document := scaffold_document("o-alice"))
        assert list(await store.save([User("o-alice", nick_name="Alice")])) == [False]
        assert await mongo.users.find().to_list() == [
            {**document, "createAt": NAIVE, "updateAt": NAIVE}
        ]

    async def test_a_login_writes_what_differs_and_keeps_all_else(
        self, mongo: Database, store: MongoUserStore, clock: Clock
    ) -> None:
        await mongo.users.insert_one(document := scaffold_document("o-alice", orders=[{"id": 7}]))
        user = User("o-alice", "u-alice", "Ali", 1, city="Wuhan")
        assert list(await store.save([user])) == [False]
        assert (await only_user(store, "u-alice")).updated_at == int(clock() * 1000)
        (kept,) = await mongo.users.find().to_list()
        del kept["updateAt"], document["updateAt"]  # nx-27017 keeps a date that is set as a text
        written = {"unionid": "u-alice", "nickName": "Ali", "gender": 1, "city": "Wuhan"}
        assert kept == {**document, **written, "createAt": NAIVE}

    async def test_a_new_document_has_the_scaffolds_fields(
        self, mongo: Database, store: MongoUserStore, clock: Clock
    ) -> None:
        await store.save([User("o-bob", nick_name="Bob", app_id="shop")])
        (document,) = await mongo.users.find().to_list()
        now = datetime.fromtimestamp(clock(), UTC).replace(tzinfo=None)
        assert isinstance(document.pop("_id"), ObjectId)
        assert document == {"openid": "o-bob", "nickName": "Bob", "createAt": now, "updateAt": now}

    async def test_duplicates_are_one_user_and_stay(
        self, mongo: Database, store: MongoUserStore
    ) -> None:
        twin = scaffold_document("o-alice")
        later = scaffold_document("o-alice", nickName="Later", createAt=datetime.now(UTC))
        await mongo.users.insert_many([later, twin, {**twin, "_id": ObjectId()}])
        user = User("o-alice", "u-alice", "Ali")
        assert list(await store.save([user, user])) == [False, False]
        assert (await only_user(store, "u-alice")).nick_name == "Ali"
        names = Counter([document["nickName"] async for document in mongo.users.find()])
        assert names == {"Ali": 2, "Later": 1}  # documents that cannot be told apart stay alike
        assert await store.clear("o-alice", ["nick_name"]) is True
        assert await mongo.users.count_documents({"nickName": {"$exists": True}}) == 0
        assert await mongo.users.count_documents({}) == 3
        assert await store.forget("u-alice", app_ids=()) is True
        assert await mongo.users.count_documents({}) == 0
        assert await mongo.mpauthx_link.count_documents({}) == 0

    @pytest.mark.parametrize(
        ("fields", "expected"),
        [
            ({}, User("o-alice")),
            (
                scaffold_document("o-alice", orders=[1, 2]),
                User("o-alice", None, "Alice", created_at=THEN_MS, updated_at=THEN_MS),
            ),
            ({"nickName": None, "unionid": "", "createAt": None}, User("o-alice")),
            ({"nickName": 42, "gender": "1"}, User("o-alice", nick_name="42", gender=1)),
            ({"nickName": {"zh": "A"}, "gender": THEN, "createAt": []}, User("o-alice")),
            ({"createAt": THEN_MS}, User("o-alice", created_at=THEN_MS)),
            ({"createAt": float(THEN_MS)}, User("o-alice", created_at=THEN_MS)),
            ({"createAt": "2019-05-01T08:30:00.000Z"}, User("o-alice", created_at=THEN_MS)),
            ({"createAt": "yesterday", "updateAt": {}}, User("o-alice")),
            ({"createAt": 1e300, "updateAt": THEN_MS * 1_000_000}, User("o-alice")),
        ],
    )
    async def test_reads_fields_that_are_missing_or_of_other_types(
        self, mongo: Database, store: MongoUserStore, fields: dict[str, Any], expected: User
    ) -> None:
        await mongo.users.insert_one({"openid": "o-alice", **fields})
        assert await only_user(store, "o-alice") == expected
        assert list(await store.save([User("o-alice", "u-alice", "Ali")])) == [False]
        assert (await only_user(store, "u-alice")).nick_name == "Ali"

    async def test_odd_union_ids_join_nobody(self, mongo: Database, store: MongoUserStore) -> None:
        people = [scaffold_document(f"o-{name}", unionid=False) for name in ("alice", "bob")]
        await mongo.users.insert_many(people)
        assert list(await store.save([User("o-alice"), User("o-bob")])) == [False, False]
        found = await store.get(["o-alice", "o-bob", "False"])
        assert [user and user.id for user in found] == ["o-alice", "o-bob", None]

    @pytest.mark.parametrize(
        "value",
        [7, 1.5, False, None, "", [], ["u-alice"], [None], {}, {"id": "u-alice"}, ObjectId(), THEN],
    )
    async def test_a_login_replaces_a_union_id_of_another_type(
        self, mongo: Database, store: MongoUserStore, value: Any
    ) -> None:
        await mongo.users.insert_one(scaffold_document("o-alice", unionid=value))
        batch = [User("o-alice", "u-alice"), User("o-bob", "u-bob")]
        assert list(await store.save(batch)) == [False, True]
        assert (await only_user(store, "u-alice")).open_id == "o-alice"
        (kept,) = await mongo.users.find({"openid": "o-alice"}).to_list()
        assert kept["unionid"] == "u-alice"

    async def test_documents_without_an_open_id_harm_nobody(
        self, mongo: Database, store: MongoUserStore
    ) -> None:
        await mongo.users.insert_many([{"phone": "1"}, {"openid": None}, {"unionid": "u-bob"}])
        assert list(await store.save([User("o-alice"), User("o-bob", "u-bob")])) == [True, False]
        assert list(await store.get(["", "o-eve"])) == [None, None]
        assert (await only_user(store, "o-bob")).id == "u-bob"
        assert await mongo.users.count_documents({}) == 4

    async def test_a_missing_index_is_logged_and_not_created(
        self, mongo: Database, caplog: pytest.LogCaptureFixture
    ) -> None:
        await mongo.members.insert_one(scaffold_document("o-alice"))
        await mongo.members.create_index("unionid")
        async with MongoUserStore(mongo, "members") as store:
            with caplog.at_level(logging.WARNING):
                await only_user(store, "o-alice")
        assert "db.members.createIndex({openid: 1})" in caplog.text
        assert "unionid" not in caplog.text
        indexes = (await mongo.members.index_information()).values()
        assert sorted(index["key"][0][0] for index in indexes) == ["_id", "unionid"]

    async def test_a_new_collection_gets_indexes(
        self, mongo: Database, store: MongoUserStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        await store.save([User("o-alice")])
        indexes = (await mongo.users.index_information()).values()
        assert sorted(index["key"][0][0] for index in indexes) == ["_id", "openid", "unionid"]
        assert not caplog.text


class TestFieldNames:
    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"openid": "openid"}, "'openid', which is no attribute of a user"),
            ({"nick_name": "profile.name"}, "a field of the document itself"),
            ({"open_id": "_id"}, "other than _id"),
            ({"nick_name": "$name"}, "'\\$name' for nick_name"),
            ({"nick_name": ""}, "'' for nick_name"),
            ({"nick_name": "city"}, "two attributes of a user the same field"),
        ],
    )
    def test_rejects_invalid_field_names(self, fields: dict[str, str], said: str) -> None:
        with pytest.raises(ConfigurationError, match=said):
            MongoUserStore("mongodb://localhost/koa2Wechat", fields=fields)

    @pytest.mark.parametrize("name", ["", "a$b", "..", ".users"])
    def test_a_malformed_collection_is_refused(self, name: str) -> None:
        with pytest.raises(ConfigurationError, match="the name of a collection"):
            MongoUserStore("mongodb://localhost/koa2Wechat", name)


class TestTwoCollectionsInOneDatabase:
    async def test_a_user_forgotten_in_one_collection_stays_in_the_other(
        self, mongo: Database, store: MongoUserStore
    ) -> None:
        apps = ("shop", "cafe")
        async with MongoUserStore(mongo, "members") as other:
            for one in (store, other):
                await one.save([User("o-shop", "u-alice", app_id="shop")])
                await one.save([User("o-cafe", "u-alice", app_id="cafe")])
            assert await store.forget("u-alice", app_ids=apps) is True
            assert await store.get(["u-alice", "o-cafe"]) == [None, None]
            assert (await only_user(other, "o-cafe")).union_id == "u-alice"
            assert list(await other.save([User("o-cafe", app_id="cafe")])) == [False]


class TestSeveralProcesses:
    @pytest.fixture
    async def stores(self, mongo: Database) -> AsyncIterator[list[MongoUserStore]]:
        stores = [MongoUserStore(mongo, timeout=PATIENCE) for _ in range(3)]
        yield stores
        for store in stores:
            await store.close()

    @pytest.mark.parametrize("kind", ["same ids", "two apps", "union id known to one"])
    async def test_one_document_and_one_new_user_for_all(
        self, mongo: Database, mongo_url: str, kind: str
    ) -> None:
        people = range(40)
        first: list[tuple[str, str | None]] = [(f"o-{i}", f"u-{i}") for i in people]
        others: dict[str, list[tuple[str, str | None]]] = {
            "same ids": first,
            "two apps": [(f"o-game-{i}", f"u-{i}") for i in people],
            "union id known to one": [(f"o-{i}", None) for i in people],
        }
        second = others[kind]
        command = ("-m", "tests.helpers.mongo_logins", mongo_url)
        async with LineProcess(*command) as one, LineProcess(*command) as other:
            assert [await one.read(), await other.read()] == ["ready", "ready"]
            for process, logins in ((one, first), (other, second)):
                process.write(json.dumps([logins[i : i + 4] for i in range(0, len(logins), 4)]))
            outputs = [json.loads(await process.read()) for process in (one, other)]
        answers = [[new for batch in output for new in batch] for output in outputs]
        assert [sum(new) for new in zip(*answers, strict=True)] == [1] * len(people)
        assert await mongo.users.count_documents({}) == len(people)
        async with MongoUserStore(mongo) as store:
            for i, ((open_id, _), (other_id, _)) in enumerate(zip(first, second, strict=True)):
                found = await store.get([open_id, f"u-{i}", other_id])
                assert {user and user.id for user in found} == {f"u-{i}"}

    async def test_logins_that_link_the_same_persons_at_once_lose_nothing(
        self, stores: list[MongoUserStore]
    ) -> None:
        await link_the_same_persons_at_once(stores)

    @pytest.mark.parametrize("first", [None, "u-first"])
    async def test_a_union_id_that_changes_everywhere_at_once_stays_known(
        self, stores: list[MongoUserStore], first: str | None
    ) -> None:
        await stores[0].save([User("o-alice", first)])
        changes = [f"u-{i}" for i in range(9)]
        await asyncio.gather(
            *(stores[i % 3].save([User("o-alice", id_)]) for i, id_ in enumerate(changes))
        )
        ids = ["o-alice", *changes, *([first] if first else [])]
        found = await stores[1].get(ids)
        assert len(set(found)) == 1
        assert found[0] is not None
        assert set(found[0].ids) == set(ids)


class Listener(CommandListener):
    """Hears of commands before they are sent."""

    def succeeded(self, event: CommandSucceededEvent) -> None:
        pass

    def failed(self, event: CommandFailedEvent) -> None:
        pass


class Interruption(Listener):
    """Lets others work before one of the store's reads and writes is sent.

    Args:
        at: before which one: the first is 0.
        work: what they do, in an event loop of its own.
        commands: those that count.

    Attributes:
        has_come: whether there were so many.
    """

    def __init__(
        self,
        at: int,
        work: Callable[[], Coroutine[Any, Any, Any]],
        commands: Collection[str] = ("find", "insert", "update", "delete"),
    ) -> None:
        self._left = at
        self._work = work
        self._commands = commands
        self.has_come = False

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name not in self._commands:
            return
        self._left -= 1
        if self._left == -1:
            self.has_come = True
            thread = threading.Thread(target=lambda: asyncio.run(self._work()))
            thread.start()
            thread.join()


async def test_an_unreadable_value_is_cleared(mongo: Database, store: MongoUserStore) -> None:
    await mongo.users.insert_one(scaffold_document("o-bob", gender="female"))
    assert await store.clear("o-bob", ["gender"]) is True
    assert await mongo.users.count_documents({"gender": {"$exists": True}}) == 0


class Overtaking(Listener):
    """Gives a user another unionId before each write of the store."""

    def __init__(self, url: str, open_id: str) -> None:
        self._url = url
        self._open_id = open_id
        self.times = 0

    def started(self, event: CommandStartedEvent) -> None:
        if event.command.get("update") == "users":
            self.times += 1
            with MongoClient[dict[str, Any]](self._url) as client:
                client.get_default_database().users.update_one(
                    {"openid": self._open_id}, {"$set": {"unionid": f"u-{self.times % 2}"}}
                )


async def test_a_user_whom_others_write_all_the_time_fails_alone(
    mongo: Database, mongo_url: str, store: MongoUserStore
) -> None:
    names = ("o-alice", *(f"o-{i}" for i in range(99)))
    await store.save([User(name, nick_name="Before") for name in names])
    alice, *rest = (User(name, nick_name="After") for name in names)
    logins = [replace(alice, union_id="u-alice"), *rest]
    others = Overtaking(mongo_url, "o-alice")
    client = AsyncMongoClient[dict[str, Any]](mongo_url, event_listeners=[others])
    async with client, MongoUserStore(client.get_default_database(), timeout=8) as overtaken:
        with pytest.raises(PartialStoreError) as caught:
            await overtaken.save(logins)
    failure, *others_are_new = caught.value.answers
    assert isinstance(failure, StoreError)
    assert failure.retryable
    assert "kept changing the same user" in str(failure)
    assert others_are_new == [False] * 99
    found = await store.get(names)
    assert [user and user.nick_name for user in found] == ["Before"] + ["After"] * 99


LOGIN = User("o-alice", "u-alice", app_id="shop")
OTHER_LOGIN = User("o-web", "u-alice", app_id="web")


class TestForgetAmongLogins:
    """Whatever a forget overlooks, or deletes under a login's hands, is mended by the end."""

    @staticmethod
    async def work(url: str, what: User | str, *interruptions: Interruption) -> bool:
        """Log a user in, or forget one, in a store of its own."""
        client = AsyncMongoClient[dict[str, Any]](url, event_listeners=interruptions)
        async with client, MongoUserStore(client.get_default_database(), timeout=PATIENCE) as store:
            if isinstance(what, User):
                (is_new,) = await store.save([what])
                return is_new
            return await store.forget(what, app_ids={"shop", "web"})

    async def is_whole(self, mongo: Database) -> bool:
        """Check that the user has one document and links to it, or nothing; returns which."""
        documents = await mongo.users.find().to_list()
        links = await mongo.mpauthx_link.find().to_list()
        assert len(documents) == bool(links), (documents, links)
        async with MongoUserStore(mongo) as store:
            for link in links:
                (user,) = await store.get([link["_id"].partition(":")[2]])
                assert user is not None, (documents, links)
        return bool(documents)

    @pytest.mark.parametrize(
        ("known", "login"),
        [
            (LOGIN, LOGIN),
            (LOGIN, OTHER_LOGIN),
            (LOGIN, User("o-alice", nick_name="Ali")),
            (User("o-alice", app_id="shop"), LOGIN),
        ],
    )
    @pytest.mark.parametrize("user_id", ["o-alice", "u-alice"])
    @pytest.mark.parametrize("first", ["login", "forget"])
    async def test_a_login_and_a_forget_may_interleave_anywhere(
        self, mongo: Database, mongo_url: str, known: User, login: User, user_id: str, first: str
    ) -> None:
        outer, inner = (login, user_id) if first == "login" else (user_id, login)
        await MongoUserStore(mongo).check()
        for at in range(100):
            await mongo.users.delete_many({})
            await mongo.mpauthx_link.delete_many({})
            await self.work(mongo_url, known)
            interruption = Interruption(at, lambda: self.work(mongo_url, inner))
            await self.work(mongo_url, outer, interruption)
            await self.is_whole(mongo)
            if not interruption.has_come:
                assert at > 1
                return
        pytest.fail("It never ended.")

    @pytest.mark.parametrize("slow", [LOGIN, OTHER_LOGIN])
    async def test_two_logins_around_a_forget_make_one_document(
        self, mongo: Database, mongo_url: str, slow: User
    ) -> None:
        """A login waits; meanwhile another adds the user, and a forget comes in between."""
        await MongoUserStore(mongo).check()
        for at in range(100):
            for inner_at in range(100):
                await mongo.users.delete_many({})
                await mongo.mpauthx_link.delete_many({})
                inner = Interruption(inner_at, lambda: self.work(mongo_url, "u-alice"))
                outer = Interruption(at, lambda inner=inner: self.work(mongo_url, LOGIN, inner))
                await self.work(mongo_url, slow, outer)
                assert await self.is_whole(mongo)
                if not inner.has_come:
                    break
            if not outer.has_come:
                assert at > 3
                return
        pytest.fail("It never ended.")

    async def test_a_login_keeps_its_document_when_another_has_added_the_union_id_to_it(
        self, mongo: Database, mongo_url: str
    ) -> None:
        """Two logins make a document each; the other one deletes its own, and takes this one."""
        await MongoUserStore(mongo).check()
        twin = {"_id": ObjectId(), "openid": "o-alice", "unionid": "u-alice"}

        async def insert() -> None:
            async with AsyncMongoClient[dict[str, Any]](mongo_url) as client:
                other = client.get_default_database()
                await other.mpauthx_link.insert_one({"_id": "unionid:u-alice", "user": twin["_id"]})
                await other.users.insert_one(twin)

        async def delete() -> None:
            async with AsyncMongoClient[dict[str, Any]](mongo_url) as client:
                users = client.get_default_database().users
                await users.delete_one({"_id": twin["_id"]})
                await users.update_one({"openid": "o-alice"}, {"$set": {"unionid": "u-alice"}})

        interruptions = [
            Interruption(2, insert, ["find"]),  # before it reads again
            Interruption(0, delete, ["delete"]),
        ]
        is_new = await self.work(mongo_url, User("o-alice", app_id="shop"), *interruptions)
        assert all(interruption.has_come for interruption in interruptions)
        assert is_new
        assert await self.is_whole(mongo)


class TestUnfinishedWork:
    async def test_a_login_cut_off_anywhere_is_finished_by_the_next(self, mongo: Database) -> None:
        async with MongoUserStore(mongo, timeout=PATIENCE) as store:
            await store.check()
            for wait in range(1, 1_000):
                login = User(f"o-{wait}", f"u-{wait}", app_id="shop")
                is_done = await cancel_at(wait, store.save([login]))
                by_open_id, by_union_id = await store.get([f"o-{wait}", f"u-{wait}"])
                assert (by_open_id is None) == (by_union_id is None)
                again = User(f"o-web-{wait}", f"u-{wait}", app_id="web")
                (is_new,) = await store.save([again])
                # Read now, because MongoDB may carry out a write that was cut off a little later.
                documents = await mongo.users.find({"openid": login.open_id}).to_list()
                assert is_new is not bool(documents)
                found = await store.get([f"o-{wait}", f"o-web-{wait}"])
                assert found[1] is not None
                assert list(await store.save([login])) == [False]
                assert await mongo.users.count_documents({"unionid": f"u-{wait}"}) == 1
                if is_done:
                    return
            pytest.fail("The login never ended.")

    async def test_a_user_whose_document_the_application_deleted_is_new(
        self, mongo: Database, store: MongoUserStore
    ) -> None:
        await store.save([LOGIN])
        await mongo.users.delete_many({})
        assert list(await store.get(["o-alice", "u-alice"])) == [None, None]
        assert list(await store.save([LOGIN, LOGIN])) == [True, False]
        assert await mongo.users.count_documents({}) == 1
