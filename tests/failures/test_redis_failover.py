"""A failover behind one address: a proxy that leads from a demoted primary to the new one."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from functools import partial

import pytest
from redis.asyncio import Redis

from mpauthx_async import MPAuthX, RedisTokenStore, WeChatSimulator
from mpauthx_async.stores.conformance import new_session
from tests.helpers.near_services import cache_of, refused_in_time, until_kept, with_near_cache
from tests.helpers.outages import ASKED_OF_TOKENS, KNOWN, settled, until_true
from tests.helpers.redis_cluster import ask
from tests.helpers.redis_proxy import RedisProxy
from tests.helpers.redis_server import RedisServer, catch_up
from tests.helpers.service_calls import log_in

LOGINS = 30
Make = Callable[..., MPAuthX]


class Pair:
    """A primary and its replica behind one address."""

    def __init__(self, primary: RedisServer, replica: RedisServer, proxy: RedisProxy) -> None:
        self.primary, self.replica, self.proxy = primary, replica, proxy

    async def fail_over(self) -> None:
        """Swap the roles. Connections to the demoted primary stay open."""
        await asyncio.to_thread(catch_up, self.primary)
        ask(self.replica, "REPLICAOF", "NO", "ONE")
        ask(self.primary, "REPLICAOF", "127.0.0.1", self.replica.port)
        self.primary, self.replica = self.replica, self.primary
        self.proxy.server = self.primary

    def cut_off(self) -> None:
        """Let the replica hear nothing more of the primary."""
        ask(self.replica, "REPLICAOF", "127.0.0.1", 1)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    primary, replica = (RedisServer(repl_diskless_sync_delay="0") for _ in range(2))
    with replica, primary:
        async with RedisProxy(primary) as proxy:
            ask(replica, "REPLICAOF", "127.0.0.1", primary.port)
            await until_true(lambda: ask(replica, "ROLE")[3] == "connected")
            yield Pair(primary, replica, proxy)


@pytest.fixture
def make(make: Make, pair: Pair) -> Make:
    """Makes services on the pair."""
    return partial(make, tokens=pair.proxy.url)


async def test_logins_and_revocations_succeed_after_a_failover(
    pair: Pair, make: Make, wx: WeChatSimulator
) -> None:
    async with make() as auth:
        before = await asyncio.gather(*(log_in(auth, wx, f"user-{i}") for i in range(LOGINS)))
        await pair.fail_over()
        logins = [asyncio.ensure_future(log_in(auth, wx, f"user-{i}")) for i in range(LOGINS)]
        revocations = [asyncio.ensure_future(auth.revoke(one.response)) for one in before]
        after = await settled(logins)
        assert [result for result in after if isinstance(result, Exception)] == []
        assert await settled(revocations) == [True] * LOGINS
        assert not any([await auth.is_token_valid(result.response) for result in before])
        assert all([await auth.is_token_valid(result.response) for result in after])


@pytest.mark.parametrize("kind", ["url", "client"])
async def test_every_call_to_a_store_is_answered_by_the_new_primary(kind: str, pair: Pair) -> None:
    async with AsyncExitStack() as stack:
        stores = {}
        for asked in ASKED_OF_TOKENS:
            client = await stack.enter_async_context(Redis.from_url(pair.proxy.url))
            store = RedisTokenStore(pair.proxy.url if kind == "url" else client)
            stores[asked] = await stack.enter_async_context(store)
            await store.issue([KNOWN])
        await pair.fail_over()
        for asked, store in stores.items():
            await store.issue([new_session("bob")])
            await ASKED_OF_TOKENS[asked](store)
        clients = ask(pair.replica, "CLIENT", "LIST", "TYPE", "NORMAL")
        assert clients.count("\n") == 1  # that of this question: nothing asks the demoted one


async def test_reads_leave_the_demoted_primary_with_the_first_write(
    pair: Pair, make: Make, wx: WeChatSimulator
) -> None:
    async with make() as auth, make() as other:
        token = (await log_in(auth, wx)).response
        await asyncio.gather(*(auth.is_token_valid(token) for _ in range(5)))
        await pair.fail_over()
        pair.cut_off()  # so the demoted primary would say that the token is good
        assert await other.revoke(token) is True
        await log_in(auth, wx, "alice")
        assert await auth.is_token_valid(token) is False


async def test_a_near_cache_follows_a_failover(pair: Pair, make: Make, wx: WeChatSimulator) -> None:
    url = with_near_cache(pair.proxy.url)
    async with make(tokens=url) as auth, make(tokens=url) as other:
        tokens = [(await log_in(auth, wx)).response for _ in range(2)]
        await until_kept(auth, *tokens)
        await pair.fail_over()
        pair.cut_off()
        await log_in(auth, wx, "alice")
        assert await other.revoke(tokens[0]) is True
        await refused_in_time(auth, tokens[0])
        await until_kept(auth, tokens[1])
        assert await other.revoke(tokens[1]) is True
        await refused_in_time(auth, tokens[1])
        assert not cache_of(auth).known(tokens[1])


async def test_a_replica_that_has_lost_its_primary_is_left(pair: Pair) -> None:
    async with RedisTokenStore(pair.proxy.url) as store:
        await store.issue([KNOWN])
        await pair.fail_over()
        ask(pair.replica, "CONFIG", "SET", "replica-serve-stale-data", "no")
        pair.cut_off()  # it says MASTERDOWN from now on
        (end,) = await store.lookup([KNOWN.ref])
        assert end is not None
        assert end > 0
