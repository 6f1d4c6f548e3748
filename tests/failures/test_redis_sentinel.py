"""Redis behind Sentinels: a primary that is killed, stopped or replaced, and Sentinels that fail.

Redis replicates asynchronously: a failover may lose what was written just before. So these tests
wait until the replica has caught up before the primary fails.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis
from redis.asyncio.sentinel import Sentinel

from mpauthx_async import Connections, MPAuthX, RedisTokenStore, StoreError, WeChatSimulator
from mpauthx_async.stores.conformance import new_session
from mpauthx_async.stores.conformance.examples import until
from tests.helpers.near_checker import USERS, Checker, log_all_in, revoking
from tests.helpers.near_services import refused_in_time, until_kept, with_near_cache
from tests.helpers.outages import fails, until_true
from tests.helpers.redis_cluster import ask
from tests.helpers.redis_contents import session_key
from tests.helpers.redis_sentinel import PRIMARY_NAME, RedisSentinels
from tests.helpers.redis_server import RedisServer, catch_up
from tests.helpers.service_calls import log_in

Make: TypeAlias = Callable[..., MPAuthX]


@pytest.fixture
def sentinels() -> Iterator[RedisSentinels]:
    """Sentinels of the test's own, which fail over."""
    with RedisSentinels() as sentinels:
        yield sentinels


@pytest.fixture(scope="module")
def quiet() -> Iterator[RedisSentinels]:
    """Sentinels whose primary stays."""
    with RedisSentinels() as sentinels:
        yield sentinels


async def kill(sentinels: RedisSentinels) -> None:
    """Kill the primary, and the Sentinel that the URL names first."""
    primary = sentinels.primary
    sentinels.sentinels[0].stop(signal.SIGKILL)
    primary.stop(signal.SIGKILL)


async def stop(sentinels: RedisSentinels) -> None:
    """Let the primary hang until another Redis has taken over."""
    primary = sentinels.primary
    with primary.hanging():
        await asyncio.to_thread(sentinels.wait_for_failover, primary)


async def replace(sentinels: RedisSentinels) -> None:
    """Let the Sentinels replace a primary that works on, and takes itself for one."""
    sentinels.fail_over()


@pytest.mark.parametrize("happens", [kill, stop, replace])
async def test_a_near_cache_follows_the_primary(
    happens: Callable[[RedisSentinels], Any],
    sentinels: RedisSentinels,
    make: Make,
    wx: WeChatSimulator,
    tmp_path: Path,
) -> None:
    primary = sentinels.primary
    async with make(tokens=with_near_cache(sentinels.url)) as auth:
        tokens = await log_all_in(auth, wx)
        doomed, living = tokens[: USERS // 2], tokens[USERS // 2 :]
        checker = Checker(auth, tokens)
        await asyncio.to_thread(catch_up, primary)
        async with revoking(checker, sentinels.url, wx, tmp_path) as revoker, checker.at_work():
            await until_kept(auth, *tokens)
            revoker.revoke(*doomed[:10])
            await revoker.until_done()
            await asyncio.to_thread(catch_up, primary)
            await happens(sentinels)
            await asyncio.to_thread(sentinels.wait_for_failover, primary)
            # From now on the other process, which begins anew, is led to the new primary.
            async with revoking(checker, sentinels.url, wx, tmp_path) as other:
                other.revoke(*doomed[10:])
                await other.until_done()
            await refused_in_time(auth, *doomed)
            await until_kept(auth, *living)
            await checker.until_rounds(3)
        checker.judge()
        assert set(checker.revoked) == set(doomed)
        assert (await log_in(auth, wx, "newcomer")).token
        assert sentinels.primary is not primary


@pytest.mark.parametrize("kind", ["url", "client"])
async def test_a_killed_primary_loses_nothing_that_its_replica_has(
    kind: str, sentinels: RedisSentinels, make: Make, wx: WeChatSimulator
) -> None:
    primary = sentinels.primary
    async with (
        client_of(sentinels) as client,
        make(tokens=sentinels.url if kind == "url" else RedisTokenStore(client)) as auth,
    ):
        before = await log_all_in(auth, wx)
        app_token = await auth.access_token()
        assert (await auth.authorize_web(wx.web_login("bob"))).token
        await auth.ban("mallory")
        await asyncio.to_thread(catch_up, primary)
        primary.stop(signal.SIGKILL)
        failures: list[StoreError] = []

        async def goes_on() -> bool:
            try:
                return bool((await auth.issue_session(open_id="newcomer")).token)
            except StoreError as error:
                failures.append(error)
                return False

        await until(goes_on)
        assert all(error.retryable for error in failures)
        assert all(await asyncio.gather(*map(auth.is_token_valid, before)))
        assert await auth.access_token() == app_token
        assert await auth.ban_of("mallory") is not None
        await auth.check()


async def test_a_new_primary_is_found_before_all_replicas_follow_it(
    sentinels: RedisSentinels,
) -> None:
    primary = sentinels.primary
    with RedisServer(replica_priority="200") as replica:  # of two, it is the last to take over
        ask(replica, "REPLICAOF", "127.0.0.1", primary.port)
        await asyncio.to_thread(sentinels.wait_for_replicas, 2)
        ask(replica, "CONFIG", "SET", "masteruser", "nobody")  # so it never follows another one
        ask(replica, "CONFIG", "SET", "masterauth", "wrong")
        await asyncio.to_thread(sentinels.fail_over)
        await asyncio.to_thread(sentinels.wait_for_failover, primary)
        async with RedisTokenStore(sentinels.url) as store:
            session = new_session("bob")
            await store.issue([session])
        assert ask(sentinels.primary, "EXISTS", session_key(session.ref)) == 1


@asynccontextmanager
async def client_of(sentinels: RedisSentinels) -> AsyncIterator[Redis]:
    """What people make with redis-py's own Sentinel class."""
    new_sentinel: Callable[..., Any] = Sentinel
    manager = new_sentinel([("127.0.0.1", sentinel.port) for sentinel in sentinels.sentinels])
    asked = list(manager.sentinels)  # whose order redis-py changes; two calls at once may lose one
    client: Redis
    async with manager.master_for(PRIMARY_NAME) as client:
        yield client
    for sentinel in asked:
        await sentinel.aclose()


# Sentinels that fail


@pytest.fixture
async def store(quiet: RedisSentinels) -> AsyncIterator[RedisTokenStore]:
    async with RedisTokenStore(quiet.url) as store:
        yield store


@pytest.mark.parametrize("hung", [(0,), (0, 1), (1, 2)])
async def test_hung_sentinels_do_not_keep_a_store_from_its_primary(
    hung: tuple[int, ...], quiet: RedisSentinels, store: RedisTokenStore
) -> None:
    with ExitStack() as stack:
        for number in hung:
            stack.enter_context(quiet.sentinels[number].hanging())
        session = new_session("bob")
        await store.issue([session])
        assert await store.lookup([session.ref]) != [None]


async def test_sentinels_that_are_all_down_are_missed_only_by_new_connections(
    quiet: RedisSentinels, store: RedisTokenStore
) -> None:
    await store.check()
    for sentinel in quiet.sentinels:
        sentinel.stop(signal.SIGKILL)
    try:
        await store.check()
        async with RedisTokenStore(quiet.url) as other:
            error = await fails(other.lookup([new_session("bob").ref]), "No Sentinel answers")
            assert error.retryable
    finally:
        for sentinel in quiet.sentinels:
            sentinel.start()
    await store.check()


async def test_a_primary_of_another_name_is_an_error_that_says_so(quiet: RedisSentinels) -> None:
    async with RedisTokenStore(quiet.url.replace(PRIMARY_NAME, "mymastr")) as store:
        error = await fails(store.lookup([new_session("bob").ref]))
    assert "the Sentinels know no primary of this name" in str(error)
    assert not error.retryable


async def test_sentinels_have_a_password_of_their_own(quiet: RedisSentinels) -> None:
    for sentinel in quiet.sentinels:
        ask_with_password(sentinel.port, None, "ACL", "SETUSER", "default", "resetpass", ">geh eim")
    try:
        async with RedisTokenStore(quiet.url) as store:
            assert not (await fails(store.check(), "sentinel_password")).retryable
        async with RedisTokenStore(f"{quiet.url}?sentinel_password=wrong") as store:
            error = await fails(store.check(), "sentinel_password")
            assert "wrong" not in str(error).replace("WRONGPASS", "")
        async with RedisTokenStore(f"{quiet.url}?sentinel_password=geh%20eim") as store:
            await store.check()
    finally:
        for sentinel in quiet.sentinels:
            ask_with_password(sentinel.port, "geh eim", "ACL", "SETUSER", "default", "nopass")


def ask_with_password(port: int, password: str | None, *command: str) -> None:
    with SyncRedis(port=port, password=password) as client:
        client.execute_command(*command)


async def test_the_database_and_the_password_of_the_url_are_those_of_the_primary(
    quiet: RedisSentinels,
) -> None:
    for server in quiet.servers:
        ask(server, "ACL", "SETUSER", "bob", "on", ">geh@eim", "~*", "&*", "+@all")
    url = f"{quiet.url.replace('//', '//bob:geh@eim@')}/3?client_name=shop"
    async with Connections(url) as connections:
        assert await connections.redis.client_getname() in ("shop", b"shop")
        assert await connections.redis.acl_whoami() in ("bob", b"bob")
        await connections.redis.set("mpauthx:r:{x}", "1", ex=60)
    assert "db3" in str(ask(quiet.primary, "INFO", "keyspace"))


async def test_an_evicting_primary_is_warned_of(
    quiet: RedisSentinels, caplog: pytest.LogCaptureFixture
) -> None:
    primary = quiet.primary
    ask(primary, "CONFIG", "SET", "maxmemory", "100mb")
    ask(primary, "CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    try:
        async with RedisTokenStore(quiet.url) as store:
            await store.lookup([new_session("bob").ref])
    finally:
        ask(primary, "CONFIG", "SET", "maxmemory", "0")
        ask(primary, "CONFIG", "SET", "maxmemory-policy", "noeviction")
    assert caplog.text.count("maxmemory-policy volatile-lru") == 1


async def test_closing_leaves_no_task_and_no_connection(
    quiet: RedisSentinels, make: Make, wx: WeChatSimulator
) -> None:
    ports = [quiet.primary.port, *(sentinel.port for sentinel in quiet.sentinels)]
    tasks, clients = asyncio.all_tasks(), [clients_of(port) for port in ports]
    async with make(tokens=with_near_cache(quiet.url)) as auth:
        await until_kept(auth, (await log_in(auth, wx)).response)
    assert asyncio.all_tasks() <= tasks
    for port, before in zip(ports, clients, strict=True):
        await until_true(lambda: clients_of(port) <= before)  # noqa: B023 (it is awaited here)


def clients_of(port: int) -> set[int]:
    """The ids of clients other than Redis's and Sentinel's own processes and this question."""
    with SyncRedis(port=port, decode_responses=True, client_name="question") as client:
        return {
            one["id"]
            for one in client.client_list(_type="normal")
            if one["name"] != "question" and not one["name"].startswith("sentinel-")
        }
