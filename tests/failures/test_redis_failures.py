"""What RedisTokenStore does when its Redis fails, and what it leaves behind."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from itertools import count

import pytest
from redis.asyncio import Redis, RedisCluster

from mpauthx_async import ClosedError, LoginPolicy, RedisTokenStore, Session, StoreError
from mpauthx_async.stores.conformance import new_session
from mpauthx_async.stores.conformance.examples import SOLE, begin, listed, until
from tests.helpers.outages import (
    ALICE,
    ASKED_OF_TOKENS,
    KNOWN,
    all_fail,
    all_that_it_says,
    cancel_at,
    fails,
    settled,
    turns,
)
from tests.helpers.redis_cluster import RedisClusterServers, cluster_of_one_node, wait_for_cluster
from tests.helpers.redis_contents import dump, is_kept
from tests.helpers.redis_server import RedisServer


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[RedisTokenStore]:
    """A store on the test's own Redis, in which one session of Alice lives."""
    async with RedisTokenStore(server.url) as store:
        await store.issue([KNOWN])
        yield store


@pytest.fixture
async def known(store: RedisTokenStore) -> Session:
    """That session."""
    (session,) = await store.sessions(ALICE)
    return session


@pytest.fixture
def cluster_server() -> Iterator[RedisServer]:
    """A Redis Cluster of one node."""
    with cluster_of_one_node() as server:
        yield server


class TestRedisThatIsNotThere:
    async def test_every_call_is_a_store_error(self, server: RedisServer) -> None:
        server.stop()
        async with AsyncExitStack() as stack:
            stores = {
                asked: await stack.enter_async_context(RedisTokenStore(server.url))
                for asked in ASKED_OF_TOKENS
            }
            await all_fail([ASKED_OF_TOKENS[asked](store) for asked, store in stores.items()])
            server.start()
            for asked, store in stores.items():
                await ASKED_OF_TOKENS[asked](store)

    async def test_a_host_that_does_not_exist_is_a_store_error(self) -> None:
        async with RedisTokenStore("redis://redis.invalid:6379/0") as store:
            await fails(store.lookup([KNOWN.ref]))


class TestRedisThatDies:
    async def test_lookups_during_a_crash_raise_instead_of_guessing(
        self, server: RedisServer, store: RedisTokenStore, known: Session
    ) -> None:
        lookups = [asyncio.ensure_future(store.lookup([KNOWN.ref])) for _ in range(60)]
        await asyncio.wait(lookups, return_when=asyncio.FIRST_COMPLETED)
        server.stop(signal.SIGKILL)
        answers = await settled(lookups)
        failed = [answer for answer in answers if isinstance(answer, StoreError)]
        answered = [answer for answer in answers if not isinstance(answer, StoreError)]
        assert failed
        assert answered == [[known.expires_at]] * len(answered)
        server.start()
        (again,) = await begin(store, KNOWN)
        assert list(await store.lookup([KNOWN.ref])) == [again.expires_at]

    async def test_hanging_lookups_raise_when_redis_dies(
        self, server: RedisServer, store: RedisTokenStore
    ) -> None:
        server.pause()
        lookups = [asyncio.ensure_future(store.lookup([KNOWN.ref])) for _ in range(16)]
        await asyncio.sleep(0)
        server.stop(signal.SIGKILL)
        assert {type(answer) for answer in await settled(lookups)} == {StoreError}
        server.start()
        assert list(await store.lookup([KNOWN.ref])) == [None]

    async def test_logins_during_a_crash_are_stored_completely_or_not_at_all(self) -> None:
        with RedisServer(appendonly="yes", appendfsync="always") as server:
            async with RedisTokenStore(server.url) as store:
                batches = [
                    [new_session("alice"), new_session(f"user-{i}", policy=SOLE)] for i in range(60)
                ]
                issues = [asyncio.ensure_future(store.issue(batch)) for batch in batches]
                await asyncio.wait(issues, return_when=asyncio.FIRST_COMPLETED)
                server.stop(signal.SIGKILL)
                answers = await settled(issues)
                assert {type(answer) for answer in answers} == {list, StoreError}
                server.start()
                async with Redis.from_url(server.url) as admin:
                    for batch, answer in zip(batches, answers, strict=True):
                        kept = [await is_kept(admin, new.ref) for new in batch]
                        assert kept[0] == kept[1]
                        assert kept[0] or isinstance(answer, StoreError)
                for batch in batches:
                    assert [session.ref for session in await begin(store, *batch)] == [
                        new.ref for new in batch
                    ]
                assert await store.revoke_subject(ALICE) == 60

    async def test_a_lost_cluster_is_a_store_error(self, cluster_server: RedisServer) -> None:
        async with RedisCluster(host="127.0.0.1", port=cluster_server.port) as client:
            store = RedisTokenStore(client)
            await store.issue([KNOWN])
            cluster_server.stop(signal.SIGKILL)
            for ask in ASKED_OF_TOKENS.values():
                await fails(ask(store))
            cluster_server.start()
            wait_for_cluster(cluster_server)
            (known,) = await begin(store, KNOWN)
            assert list(await store.lookup([KNOWN.ref])) == [known.expires_at]


class TestRedisThatHangs:
    @pytest.mark.parametrize("is_connected", [True, False])
    async def test_every_call_ends_in_time(self, server: RedisServer, is_connected: bool) -> None:
        async with RedisTokenStore(f"{server.url}?socket_timeout=0.2") as store:
            if is_connected:
                await store.issue([KNOWN])
            with server.hanging():
                await all_fail([ask(store) for ask in ASKED_OF_TOKENS.values()])
            (known,) = await begin(store, KNOWN)
            assert list(await store.lookup([KNOWN.ref])) == [known.expires_at]

    async def test_abandoned_logins_are_stored_completely_or_not_at_all(
        self, server: RedisServer, admin: Redis
    ) -> None:
        async with RedisTokenStore(f"{server.url}?socket_timeout=0.2") as store:
            await store.issue([KNOWN])
            batch = [new_session("alice") for _ in range(10)]
            with server.hanging():
                await all_fail([store.issue([new]) for new in batch])
            for new in batch:
                await is_kept(admin, new.ref)  # which says whether its parts agree
            await store.issue(batch)
            assert await store.revoke_subject(ALICE) == 11


class TestRedisThatRefuses:
    @pytest.mark.parametrize(
        "rights",
        [
            ["-@all", "~*"],
            ["+@all", "-@scripting", "~*"],
            ["+@all", "-@write", "~*"],
            ["+@all", "-set", "~*"],
            ["+@all", "~mpauthx:t:*"],
            ["+@all", "~mpauthx:u:*"],
            ["+@all", "~mpauthx:[tu]:*"],
            ["+@all"],
        ],
        ids=" ".join,
    )
    async def test_a_user_without_rights_begins_no_session(
        self, rights: list[str], server: RedisServer, store: RedisTokenStore, admin: Redis
    ) -> None:
        await admin.execute_command("ACL", "SETUSER", "app", "on", ">Xy-s3cret-yX", *rights)
        before = await dump(admin)
        async with RedisTokenStore(server.url.replace("//", "//app:Xy-s3cret-yX@")) as limited:
            for policy in (LoginPolicy(), SOLE):
                error = await fails(limited.issue([new_session("alice", policy=policy)]))
                assert "s3cret" not in all_that_it_says(error)
                assert not error.retryable
            assert await dump(admin) == before
            await admin.execute_command("ACL", "SETUSER", "app", "+@all", "~*")
            await limited.issue([new_session("alice")])
        assert await store.revoke_subject(ALICE) == 2

    @pytest.mark.parametrize("user_info", [":Xy-wr0ng-yX@", "nobody:Xy-wr0ng-yX@", ""])
    async def test_a_wrong_password_is_a_store_error_that_does_not_tell_it(
        self, user_info: str, server: RedisServer, admin: Redis
    ) -> None:
        await admin.config_set("requirepass", "Ab-r1ght-bA")
        async with RedisTokenStore(server.url.replace("//", f"//{user_info}")) as store:
            for ask in ASKED_OF_TOKENS.values():
                error = await fails(ask(store))
                said = all_that_it_says(error)
                assert not error.retryable
                assert "Check the user and the password" in said
                assert "wr0ng" not in said
                assert "r1ght" not in said
        async with RedisTokenStore(server.url.replace("//", "//:Ab-r1ght-bA@")) as store:
            for ask in ASKED_OF_TOKENS.values():
                await ask(store)

    async def test_a_cluster_that_refuses_the_user_or_a_database_is_no_retryable_error(
        self, cluster_servers: RedisClusterServers
    ) -> None:
        urls = {
            f"redis+cluster://nobody:wr0ng@127.0.0.1:{cluster_servers.port}": ["the user and the"],
            f"redis://127.0.0.1:{cluster_servers.port}/3": [
                "redis+cluster://host, without",
                "fewer databases",  # Valkey 9 has databases in a cluster, too
            ],
        }
        for url, advices in urls.items():
            async with RedisTokenStore(url) as store:
                error = await fails(store.lookup([KNOWN.ref]))
            assert not error.retryable
            assert any(advice in str(error) for advice in advices)

    async def test_a_redis_with_too_many_clients_is_a_store_error(
        self, server: RedisServer, admin: Redis
    ) -> None:
        await admin.config_set("maxclients", "1")
        async with RedisTokenStore(server.url) as store:
            await fails(store.lookup([KNOWN.ref]))
            await admin.config_set("maxclients", "100")
            assert list(await store.lookup([KNOWN.ref])) == [None]


class TestClosing:
    async def test_closing_a_redis_store_lets_what_is_in_progress_finish(
        self, server: RedisServer, admin: Redis
    ) -> None:
        async def only_admin_is_connected() -> bool:
            return bool((await admin.info("clients"))["connected_clients"] == 1)

        for ticks in range(6):
            store = RedisTokenStore(server.url)
            (known,) = await begin(store, KNOWN)
            lookups = [asyncio.ensure_future(store.lookup([KNOWN.ref])) for _ in range(20)]
            await turns(ticks)
            await store.close()
            for answer in await settled(lookups):
                assert isinstance(answer, ClosedError) or answer == [known.expires_at]
            await until(only_admin_is_connected)


class TestCancelledCallers:
    """A caller is cancelled where it waits for the first time, another at the second, and so on."""

    @pytest.mark.parametrize("opened", [False, True])
    async def test_a_cancelled_login_is_stored_in_redis_completely_or_not_at_all(
        self, redis: Redis, redis_server: RedisServer, opened: bool
    ) -> None:
        for wait in count(1):
            batch = [new_session("alice"), new_session("bob", policy=SOLE)]
            async with RedisTokenStore(_one_connection(redis_server)) as store:
                if opened:
                    await store.issue([new_session("alice")])
                finished = await cancel_at(wait, store.issue(batch))
                for new in batch:
                    await is_kept(redis, new.ref)  # which says whether its parts agree
                await store.issue(batch)
                assert await is_kept(redis, batch[0].ref)
                assert await listed(store, batch[1].ref.subject) == [batch[1].ref]
            if finished:
                break
        assert wait > 1

    @pytest.mark.parametrize("opened", [False, True])
    async def test_a_cancelled_lookup_leaves_no_answer_for_the_next_call(
        self, redis: Redis, redis_server: RedisServer, opened: bool
    ) -> None:
        mine, yours = new_session("alice", ttl=60_000), new_session("bob", ttl=90_000)
        _, begun = await begin(RedisTokenStore(redis), mine, yours)
        for wait in count(1):
            async with RedisTokenStore(_one_connection(redis_server)) as store:
                if opened:
                    await store.lookup([mine.ref])
                finished = await cancel_at(wait, store.lookup([mine.ref]))
                assert list(await store.lookup([yours.ref])) == [begun.expires_at]
            if finished:
                break
        assert wait > 1

    @pytest.mark.parametrize("opened", [False, True])
    async def test_a_cluster_works_after_a_cancelled_call(
        self, cluster_server: RedisServer, opened: bool
    ) -> None:
        mine, yours = new_session("alice", ttl=60_000), new_session("bob", ttl=90_000)
        async with Redis.from_url(cluster_server.url) as admin:
            for wait in count(1):
                async with RedisCluster(host="127.0.0.1", port=cluster_server.port) as client:
                    store = RedisTokenStore(client)
                    if opened:
                        await store.issue([mine, yours])
                    finished = await cancel_at(wait, store.issue([mine, yours]))
                    finished &= await cancel_at(wait, store.lookup([mine.ref]))
                    for new in (mine, yours):
                        await is_kept(admin, new.ref)
                    _, begun = await begin(store, mine, yours)
                    assert list(await store.lookup([yours.ref])) == [begun.expires_at]
                if finished:
                    break
        assert wait > 1


def _one_connection(server: RedisServer) -> str:
    """The URL of a pool that misses at once a connection that is not given back."""
    return f"{server.url}?max_connections=1&timeout=1"
