"""Faults that redis-py answers with exceptions of all kinds: a store raises StoreErrors alone."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from redis.asyncio import Redis, RedisCluster

from mpauthx_async import Connections, RedisKeyValueStore, RedisTokenStore, StoreError, TokenStatus
from mpauthx_async.stores.conformance import new_session
from mpauthx_async.stores.conformance.examples import begin, until
from mpauthx_async.stores.redis import database as redis_database
from tests.helpers.outages import (
    ASKED_OF_RECORDS,
    ASKED_OF_TOKENS,
    KNOWN,
    fails,
    settled,
    turns,
    until_true,
)
from tests.helpers.redis_cluster import RedisClusterServers
from tests.helpers.redis_proxy import RedisProxy
from tests.helpers.redis_server import RedisServer

CONNECTIONS = 8
WRONG_TYPES = {
    "integer": b":5\r\n",
    "status": b"+OK\r\n",
    "nil": b"$-1\r\n",
    "text": b"$3\r\nabc\r\n",
    "bytes": b"$3\r\n\xff\xfe\xfd\r\n",
    "empty": b"*0\r\n",
    "longer": b"*3\r\n:1\r\n:2\r\n:3\r\n",
    "nested": b"*1\r\n*1\r\n:1\r\n",
    "map": b"%1\r\n+a\r\n+b\r\n",
    "boolean": b"#t\r\n",
    "double": b",1.5\r\n",
    "error": b"-WHATEVER it is\r\n",
    "not of Redis": b"HTTP/1.1 400 Bad Request\r\n\r\n",
}


@pytest.fixture
async def proxy(redis: Redis, redis_server: RedisServer) -> AsyncIterator[RedisProxy]:
    """Stands in front of an empty Redis."""
    async with RedisProxy(redis_server) as proxy:
        yield proxy


@pytest.fixture(params=["url", "client"])
async def store(
    request: pytest.FixtureRequest, proxy: RedisProxy
) -> AsyncIterator[RedisTokenStore]:
    """A store behind the proxy, on a pool of its own or on a ready-made client."""
    if request.param == "url":
        async with RedisTokenStore(proxy.url) as store:
            yield store
    else:
        async with Redis.from_url(proxy.url) as client:
            yield RedisTokenStore(client)


async def all_at_once(proxy: RedisProxy, ask: Callable[[], Awaitable[object]]) -> list[object]:
    """Ask as often as there are connections, each on one of its own."""
    proxy.answers.clear()
    asked = [asyncio.ensure_future(ask()) for _ in range(CONNECTIONS)]
    await until_true(lambda: proxy.connections == CONNECTIONS)
    proxy.answers.set()
    return await settled(asked)


class TestConnectionsResetWhileIdle:
    """On Python 3.12 and 3.13 redis-py raises TypeError or AttributeError (its issue 4287)."""

    @pytest.mark.parametrize("asked", ASKED_OF_TOKENS)
    async def test_every_call_is_answered_on_new_connections(
        self, asked: str, proxy: RedisProxy, store: RedisTokenStore
    ) -> None:
        await begin(store, KNOWN)
        lookups = await all_at_once(proxy, lambda: store.lookup([KNOWN.ref]))
        assert len({str(answer) for answer in lookups}) == 1
        assert await proxy.reset_all() >= CONNECTIONS
        await turns(5)  # in which the event loop hears of it
        answers = await settled(ASKED_OF_TOKENS[asked](store) for _ in range(CONNECTIONS))
        assert [answer for answer in answers if isinstance(answer, Exception)] == []

    @pytest.mark.parametrize("asked", ASKED_OF_RECORDS)
    async def test_records_are_used_on_new_connections(self, asked: str, proxy: RedisProxy) -> None:
        async with RedisKeyValueStore(proxy.url) as records:
            await all_at_once(proxy, lambda: records.get("name"))
            await proxy.reset_all()
            await turns(5)
            await ASKED_OF_RECORDS[asked](records)

    async def test_a_pool_that_is_renewed_once_is_renewed_for_all(self, proxy: RedisProxy) -> None:
        async with RedisTokenStore(proxy.url) as store:
            connections = store._database.connections
            connections.is_eviction_known = True  # else Redis is asked for that at the same time
            await all_at_once(proxy, lambda: store.lookup([KNOWN.ref]))
            before = connections.redis_epoch
            await asyncio.gather(*(connections.renew_redis(before) for _ in range(5)))
            assert connections.redis_epoch == before + 1
            await until_true(lambda: proxy.connections == 0)
            assert list(await store.lookup([KNOWN.ref])) == [None]

    async def test_a_connection_in_use_is_renewed_when_released(self, proxy: RedisProxy) -> None:
        async with Connections(proxy.url) as connections:
            async with connections.redis.client() as client:
                await client.ping()
                held = client.connection
                await connections.renew_redis(connections.redis_epoch)
                await client.ping()
                assert held.is_connected
            assert not held.is_connected
            await connections.redis.ping()


class TestAnswersOfAnotherType:
    @pytest.mark.parametrize("kind", WRONG_TYPES)
    async def test_every_failure_is_a_store_error(self, kind: str, proxy: RedisProxy) -> None:
        # A short timeout, for some of these answers leave redis-py waiting for more of them.
        async with RedisTokenStore(f"{proxy.url}?socket_timeout=0.5") as store:
            await begin(store, KNOWN)
            proxy.instead = WRONG_TYPES[kind]
            refs = [KNOWN.ref, new_session("bob").ref]
            questions = [*ASKED_OF_TOKENS.values(), lambda store: store.lookup(refs)]
            answers = await settled(ask(store) for ask in questions)
            failures = [answer for answer in answers if isinstance(answer, Exception)]
            assert {type(failure) for failure in failures} == {StoreError}
            assert isinstance(answers[-1], StoreError)
        proxy.instead = None
        async with RedisTokenStore(proxy.url) as store:
            (carol,) = await begin(store, new_session("carol"))
            assert list(await store.lookup([carol.ref])) == [carol.expires_at]

    @pytest.mark.parametrize("kind", WRONG_TYPES)
    async def test_records_raise_store_errors_alone(self, kind: str, proxy: RedisProxy) -> None:
        async with RedisKeyValueStore(f"{proxy.url}?socket_timeout=0.5", lock_ttl=0.1) as records:
            assert await records.get("name") is None
            proxy.instead = WRONG_TYPES[kind]
            answers = await settled(ask(records) for ask in ASKED_OF_RECORDS.values())
            failed = {type(answer) for answer in answers if isinstance(answer, Exception)}
            assert failed <= {StoreError}
            proxy.instead = None
            assert await records.add("another", "text", 60) is True


class TestDeadline:
    async def test_a_client_that_would_wait_for_ever_is_given_up(
        self, proxy: RedisProxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(redis_database, "MAX_WAIT_SECONDS", 0.2)
        async with Redis.from_url(proxy.url, socket_timeout=None) as client:
            store = RedisTokenStore(client)
            await store.lookup([KNOWN.ref])
            proxy.answers.clear()
            assert "no answer" in str(await fails(store.lookup([KNOWN.ref])))
            proxy.answers.set()
            assert list(await store.lookup([KNOWN.ref])) == [None]


@pytest.mark.usefixtures("collected")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
class TestClusterWhoseTopologyChanges:
    async def test_failovers_break_no_call(self, cluster_servers: RedisClusterServers) -> None:
        seen: Counter[str] = Counter()
        is_over = asyncio.Event()

        async def use(store: RedisTokenStore, user: str) -> None:
            while not is_over.is_set():
                new = new_session(user)
                others = [new_session(f"user-{i}").ref for i in range(8)]
                try:
                    await store.issue([new])
                    alive, *unknown = await store.lookup([new.ref, *others])
                    assert alive is not None
                    assert unknown == [None] * len(others)
                    await store.revoke([new.ref])  # False if repeated because its answer was lost
                    assert list(await store.lookup([new.ref])) == [TokenStatus.revoked]
                    seen["answered"] += 1
                except StoreError as error:
                    seen[repr(error.__cause__)] += 1

        async with RedisCluster(host="127.0.0.1", port=cluster_servers.port) as client:
            store = RedisTokenStore(client)
            users = [asyncio.create_task(use(store, f"user-{i}")) for i in range(20)]
            for i in range(3):
                await asyncio.to_thread(cluster_servers.fail_over, i)
            answered = seen["answered"]
            await until_true(lambda: seen["answered"] > answered + 100)
            is_over.set()
            await asyncio.gather(*users)
        assert seen.keys() <= {"answered", "TimeoutError()"}  # on a machine that is busy


async def test_a_revocation_whose_answer_was_lost_is_repeated_and_says_false(
    redis_server: RedisServer, redis: Redis
) -> None:
    async with RedisProxy(redis_server) as proxy, RedisTokenStore(proxy.url) as store:
        await store.issue([KNOWN])
        await store.revoke([new_session("carol").ref])  # from now on Redis knows the script
        proxy.answers.clear()
        revocation = asyncio.ensure_future(store.revoke([KNOWN.ref]))
        async with RedisTokenStore(redis_server.url) as other:

            async def is_revoked() -> bool:
                return list(await other.lookup([KNOWN.ref])) == [TokenStatus.revoked]

            await until(is_revoked)
        await proxy.reset_all()
        proxy.answers.set()
        assert list(await revocation) == [False]
