"""What MongoUserStore does when its database fails, hangs, refuses or is misconfigured."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pymongo import AsyncMongoClient
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import WriteError

from mpauthx_async import (
    ClosedError,
    ConfigurationError,
    MPAuthX,
    PartialStoreError,
    StoreError,
    User,
    WeChatSimulator,
)
from mpauthx_async.stores import MongoUserStore, open_user_store
from tests.helpers.mongo_proxy import Answer, mongo_proxy
from tests.helpers.mongo_server import MongoServer
from tests.helpers.outages import (
    ASKED_OF_USERS,
    PATIENCE,
    all_that_it_says,
    fails,
    partial_answers,
    settled,
    turns,
)
from tests.helpers.scripted_mongo import scripted_mongo
from tests.helpers.secret_search import local_variables
from tests.helpers.user_stores import log_in_and_be_forgotten

Database = AsyncDatabase[dict[str, Any]]

ALICE = User("o-alice", app_id="shop")


@pytest.fixture
async def store(mongo_url: str) -> AsyncIterator[MongoUserStore]:
    """A store with one known user."""
    async with MongoUserStore(mongo_url, timeout=PATIENCE) as store:
        await store.save([ALICE])
        yield store


@asynccontextmanager
async def store_behind_proxy(
    url: str, answer: Answer, *, timeout: float = PATIENCE
) -> AsyncIterator[MongoUserStore]:
    async with mongo_proxy(url, answer) as proxy, MongoUserStore(proxy, timeout=timeout) as store:
        yield store


class TestServerDown:
    async def test_the_store_serves_as_soon_as_the_server_does(self) -> None:
        server = MongoServer()
        async with (
            MongoUserStore(server.url, timeout=1.5) as hasty,
            MongoUserStore(server.url, timeout=PATIENCE) as store,
        ):
            for ask in ASKED_OF_USERS.values():  # down at the start
                assert (await fails(ask(hasty), "check that the server runs")).retryable
            with server:
                assert list(await store.save([ALICE])) == [True]
                saves = [store.save([User(f"o-{i}")]) for i in range(8)]
                assert [list(answer) for answer in await asyncio.gather(*saves)] == [[True]] * 8
                await asyncio.to_thread(server.stop)
                for ask in ASKED_OF_USERS.values():
                    assert (await fails(ask(hasty))).retryable
                waiting = asyncio.ensure_future(store.save([ALICE, User("o-new")]))
                await turns(20)
                await asyncio.to_thread(server.start)
                assert list(await waiting) == [False, True]
                found = await asyncio.gather(*[store.get(["o-alice", f"o-{i}"]) for i in range(8)])
                assert all(user is not None for users in found for user in users)

    async def test_a_server_that_hangs_costs_no_more_than_the_timeout(self) -> None:
        with MongoServer() as server:
            async with (
                MongoUserStore(server.url, timeout=0.5) as hasty,
                MongoUserStore(server.url, timeout=PATIENCE) as store,
            ):
                await store.save([ALICE])
                server.pause()
                for ask in ASKED_OF_USERS.values():
                    assert (await fails(ask(hasty))).retryable
                waiting = asyncio.ensure_future(store.save([User("o-bob")]))
                await turns(20)
                server.resume()
                assert list(await waiting) == [True]
                assert list(await store.save([ALICE])) == [False]

    async def test_an_exhausted_pool_costs_no_more_than_the_timeout(self) -> None:
        with MongoServer() as server:
            client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(server.url, maxPoolSize=1)
            database = client.get_default_database()
            store = MongoUserStore(database, timeout=PATIENCE)
            assert list(await store.save([ALICE])) == [True]
            server.pause()
            holder = asyncio.ensure_future(store.save([User("o-bob")]))
            await turns(20)
            async with MongoUserStore(database, timeout=0.5) as hasty:
                for ask in ASKED_OF_USERS.values():
                    assert (await fails(ask(hasty))).retryable
            server.resume()
            assert list(await holder) == [True]
            await store.close()
            await client.close()

    async def test_a_primary_that_became_a_secondary_is_asked_again(self, mongo_url: str) -> None:
        refusals = 3

        def answer(_: str, name: str, __: str) -> dict[str, Any] | None:
            nonlocal refusals
            refusals -= 1
            return {"code": 10107, "errmsg": "not primary"} if refusals >= 0 else None

        async with store_behind_proxy(mongo_url, answer) as store:
            batch = [User("o-1"), User("o-2")]
            assert list(await store.save(batch)) == [True, True]
            refusals = 1_000
            assert (await fails(store.save([User("o-3")]), "not primary")).retryable
            refusals = 0
            assert list(await store.save([*batch, User("o-3")])) == [False, False, True]

    async def test_a_cancelled_caller_harms_nobody(self, store: MongoUserStore) -> None:
        saves = [asyncio.ensure_future(store.save([User(f"o-{i}")])) for i in range(8)]
        await turns(5)
        for save in saves[::2]:
            save.cancel()
        answers = await settled(saves)
        assert all(isinstance(answer, asyncio.CancelledError) for answer in answers[::2])
        assert [list(answer) for answer in answers[1::2]] == [[True]] * 4
        assert list(await store.save([ALICE])) == [False]


class TestRefusedDocuments:
    async def test_an_index_refuses_one_user(self, mongo: Database, store: MongoUserStore) -> None:
        await mongo.users.create_index("nickName", unique=True, sparse=True)
        await store.save([User("o-1", nick_name="taken"), User("o-known", nick_name="mine")])
        batch = [
            User("o-2"),
            User("o-refused", "u-refused", "taken"),
            User("o-known", nick_name="taken"),
            User("o-3", nick_name="free"),
        ]
        new, refused, known, last = await partial_answers(store.save(batch))
        assert (new, last) == (True, True)
        for error in (refused, known):
            assert "Correct the value, or the collection's validator" in str(error)
            assert "taken" not in str(error)
        assert not (await fails(store.save([batch[1]]))).retryable
        found = await store.get(["o-2", "o-refused", "u-refused", "o-known", "o-3"])
        names = [user and (user.id, user.nick_name) for user in found]
        assert names == [("o-2", None), None, None, ("o-known", "mine"), ("o-3", "free")]
        assert await mongo.mpauthx_link.count_documents({"_id": {"$regex": "refused"}}) == 0
        assert list(await store.save([User("o-refused", "u-refused", "ok")])) == [True]

    async def test_a_document_others_insert_and_delete_is_not_refused(self, mongo_url: str) -> None:
        """Others who add the same user may insert the same document, and delete it again."""
        left = 3

        def answer(command: str, name: str, document: str) -> dict[str, Any] | None:
            nonlocal left
            is_insert = command == "insert" and name == "users" and "o-new" in document
            left -= is_insert
            message = "E11000 duplicate key error collection: shop.users index: _id_ dup key: {}"
            return {"code": 11000, "errmsg": message} if is_insert and left >= 0 else None

        async with store_behind_proxy(mongo_url, answer) as store:
            assert list(await store.save([User("o-new", "u-new")])) == [True]
        assert left == -1

    async def test_a_validator_refuses_one_user_alone(self, mongo: Database) -> None:
        required = {"$jsonSchema": {"properties": {"city": {"enum": ["Wuhan"]}}}}
        await mongo.create_collection("users", validator=required)
        try:
            await mongo.users.insert_one({"city": "nowhere"})
            is_refused = False  # nx-27017 has no validators
        except WriteError:
            is_refused = True
        async with MongoUserStore(mongo) as store:
            batch = [User("o-1"), User("o-2", city="Xi'an"), User("o-3", city="Wuhan")]
            try:
                answers = list(await store.save(batch))
            except PartialStoreError as error:
                answers = [answer is True for answer in error.answers]
            assert answers == [True, not is_refused, True]
            (found,) = await store.get(["o-2"])
            assert (found is None) == is_refused


class TestHeldDocuments:
    @pytest.mark.parametrize(
        ("collection", "part"),
        [
            ("users", "'city': 'held'"),  # an update of a document
            ("users", "'openid': 'o-held'"),  # an insert that meets a unique key
            ("mpauthx_link", "openid:o-held'"),
        ],
    )
    async def test_a_transaction_of_the_application_holds_one_user_alone(
        self, mongo: Database, mongo_url: str, collection: str, part: str
    ) -> None:
        is_held = True

        def answer(_: str, name: str, document: str) -> dict[str, Any] | None:
            error = {"code": 50, "errmsg": "operation exceeded time limit"}
            return error if is_held and name == collection and part in document else None

        if "city" in part:
            await mongo.users.insert_one({"openid": "o-held"})
        await mongo.users.insert_many([{"openid": "o-1", "city": "Wuhan"}, {"openid": "o-2"}])
        batch = [
            User("o-1", "u-1", city="Xi'an"),
            User("o-held", "u-held", city="held"),
            User("o-2", city="Wuhan"),
            User("o-new", "u-new"),
        ]
        async with store_behind_proxy(mongo_url, answer, timeout=4) as store:
            known, held, last, new = await partial_answers(store.save(batch))
            assert (known, last) == (False, False)
            assert new or "'openid'" in part  # mongod may have inserted it before it waited
            assert "a transaction of the application holds it" in str(held)
            assert isinstance(held, StoreError)
            assert held.retryable
            found = await store.get(["u-1", "o-2", "u-new"])
            assert [user and user.city for user in found] == ["Xi'an", "Wuhan", None]
            await fails(store.save([batch[1]]), "a transaction of the application holds it")
            is_held = False
            assert list(await store.save(batch)) == [False, "city" not in part, False, False]
        assert await mongo.users.count_documents({}) == 4

    @pytest.mark.parametrize("collection", ["users", "mpauthx_link"])
    async def test_a_refused_document_fails_its_user(self, mongo_url: str, collection: str) -> None:
        def answer(command: str, name: str, document: str) -> dict[str, Any] | None:
            error = {"code": 121, "errmsg": "Document failed validation"}
            is_refused = command != "delete" and name == collection and "o-refused" in document
            return error if is_refused else None

        async with store_behind_proxy(mongo_url, answer) as store:
            error = await fails(store.save([User("o-refused")]), "Document failed validation")
            assert not error.retryable
            assert list(await store.save([ALICE])) == [True]


class TestSettings:
    @pytest.mark.parametrize(
        ("url", "said"),
        [
            ("mongodb://u:geheim@localhost", "has to name it"),
            ("mongodb://u:geheim@localhost/", "has to name it"),
            ("mongodb://u:gehe@geheim@localhost/shop", "percent-encoded"),
            ("mongodb://u:geheim@localhost:geheim/shop", "percent-encoded"),
            ("mongodb+srv://u:geheim@shop.example.com:27017/shop", r"mongodb\+srv://"),
            ("mongodb://u:geheim@localhost/shop?conectTimeoutMS=5", "'conectTimeoutMS'"),
            ("mongodb://u:geheim@localhost/shop?tls=maybe", "option 'tls'"),
            ("mongodb://u:x?geheim=1@localhost/shop", "does not take an option"),
            ("mongodb://u:geheim@localhost/shop?geheim", "does not take an option"),
            ("mongodb://u:geheim@localhost/shop?w=0", "must acknowledge writes"),
            ("mongo://u:geheim@localhost/shop", "or mongodb://, not with mongo://"),
        ],
    )
    def test_rejects_an_invalid_url(self, url: str, said: str) -> None:
        with pytest.raises(ConfigurationError, match=said) as caught:
            open_user_store(url)
        assert "geheim" not in all_that_it_says(caught.value)
        assert "geheim" not in local_variables(caught.value)

    async def test_a_name_of_srv_records_is_not_resolved_before_the_first_call(self) -> None:
        await open_user_store("mongodb+srv://u:geheim@shop.invalid/shop").close()

    @pytest.mark.parametrize(
        ("code", "message"), [(18, "Authentication failed."), (13, "not authorized on shop")]
    )
    async def test_the_error_of_a_wrong_password_hides_it(self, code: int, message: str) -> None:
        async with (
            scripted_mongo({"ok": 0, "code": code, "errmsg": message}) as port,
            MongoUserStore(f"mongodb://u:geheim@127.0.0.1:{port}/shop") as store,
        ):
            for ask in (*ASKED_OF_USERS.values(), MongoUserStore.check):
                error = await fails(ask(store), "Check user, password and authSource")
                assert not error.retryable
                assert "geheim" not in all_that_it_says(error)
                assert "geheim" not in local_variables(error)

    def test_the_extra_is_named_where_pymongo_is_missing(self) -> None:
        script = (
            "import sys; sys.modules['pymongo'] = None\n"
            "from mpauthx_async.stores import SqliteUserStore, open_user_store\n"
            "open_user_store('mongodb://localhost/shop')"
        )
        ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        last_line = ended.stderr.strip().splitlines()[-1]
        assert last_line.startswith("ImportError: This store needs PyMongo")
        assert "mpauthx-async[mongo]" in last_line


class TestService:
    async def test_a_service_logs_in_with_its_users_in_mongodb(
        self, make: Callable[..., MPAuthX], mongo_url: str, wx: WeChatSimulator
    ) -> None:
        async with make(users=mongo_url) as auth:
            await log_in_and_be_forgotten(auth, wx)

    async def test_a_closed_store_takes_no_calls(self, store: MongoUserStore) -> None:
        await store.close()
        await store.close()
        for ask in ASKED_OF_USERS.values():
            with pytest.raises(ClosedError):
                await ask(store)
        with pytest.raises(ClosedError):
            await store.check()

    async def test_a_client_of_the_application_stays_open(self, mongo: Database) -> None:
        async with MongoUserStore(mongo) as store:
            await store.save([ALICE])
        assert await mongo.users.count_documents({}) == 1
