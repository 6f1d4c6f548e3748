"""Opening, closing and refusing near caches on Redis, and the servers on which they cannot be."""

import asyncio
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Connection, ConnectionPool, Redis, RedisCluster

from mpauthx_async import (
    ClosedError,
    ConfigurationError,
    Connections,
    MPAuthX,
    RedisKeyValueStore,
    RedisTokenStore,
    WeChatSimulator,
)
from mpauthx_async._compat import transport_of
from mpauthx_async.stores import open_key_value_store, open_token_store
from mpauthx_async.stores.conformance import new_session
from mpauthx_async.stores.conformance.examples import until
from mpauthx_async.stores.near_cache import SharedNearCache
from tests.helpers.near_services import (
    Make,
    cache_of,
    maker,
    refused_in_time,
    trackers,
    warm,
    with_near_cache,
)
from tests.helpers.outages import until_true
from tests.helpers.redis_proxy import RedisProxy
from tests.helpers.redis_server import RedisServer
from tests.helpers.secret_world import PASSWORD, add_user, redis_url
from tests.helpers.service_calls import log_in

LOGGER = "mpauthx_async.stores.redis.tracking"


@pytest.fixture
def make(wx: WeChatSimulator, server: RedisServer, tmp_path: Path) -> Make:
    return maker(wx, server, tmp_path)


async def until_alone(admin: Redis) -> None:
    """Wait until Redis has no connection but the one that asks."""

    async def is_alone() -> bool:
        return len(await admin.client_list()) == 1

    await until(is_alone)


# Closing


async def test_closing_leaves_no_connection_and_no_task(
    make: Make, admin: Redis, wx: WeChatSimulator
) -> None:
    tasks = asyncio.all_tasks()
    auth = make()
    token = (await warm(auth, wx)).response
    await auth.close()
    await auth.close()
    with pytest.raises(ClosedError):
        await auth.is_token_valid(token)
    await until_alone(admin)
    assert asyncio.all_tasks() <= tasks


async def test_closing_while_redis_is_down_leaves_no_task(
    make: Make, server: RedisServer, wx: WeChatSimulator
) -> None:
    tasks = asyncio.all_tasks()
    async with make() as auth:
        await warm(auth, wx)
        server.stop()
        await until_true(lambda: len(cache_of(auth)) == 0)
    assert asyncio.all_tasks() <= tasks


async def test_closing_while_it_connects_leaves_nothing(server: RedisServer, admin: Redis) -> None:
    tasks, url = asyncio.all_tasks(), f"{server.url}?socket_timeout=0.5"
    for turns in range(12):
        server.pause()
        store = RedisTokenStore(url, near_cache=10)
        lookup = asyncio.ensure_future(store.lookup([new_session().ref]))
        for _ in range(turns):
            await asyncio.sleep(0)
        lookup.cancel()
        await store.close()
        await asyncio.wait([lookup])
        server.resume()
    await until_alone(admin)
    assert asyncio.all_tasks() <= tasks


async def test_closing_a_store_goes_on_when_cancelled(server: RedisServer, admin: Redis) -> None:
    async def was_looked_up() -> bool:
        return "cmdstat_mget" in await admin.info("commandstats")

    tasks = asyncio.all_tasks()
    async with RedisProxy(server) as proxy:
        store = RedisTokenStore(proxy.url, near_cache=10)
        assert await store.lookup([new_session().ref]) == [None]
        await admin.config_resetstat()
        proxy.answers.clear()
        lookup = asyncio.ensure_future(store.lookup([new_session().ref]))
        await until(was_looked_up)
        closing = asyncio.create_task(store.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        proxy.answers.set()
        await asyncio.gather(lookup, return_exceptions=True)
        await until_alone(admin)
    assert asyncio.all_tasks() <= tasks


async def test_a_store_that_was_closed_connects_no_more(server: RedisServer, admin: Redis) -> None:
    store = RedisTokenStore(server.url, near_cache=10)
    await store.close()
    with pytest.raises(ClosedError):
        await store.lookup([new_session().ref])
    assert store._tracking is not None
    assert store._tracking._task is None


# How it connects


async def test_a_connection_that_is_lost_as_soon_as_it_is_open_leaves_nothing_to_the_event_loop(
    server: RedisServer,
) -> None:
    lost: list[int] = []  # the number of its socket
    left: list[bool] = []

    class LostOnce(Connection):
        async def connect(self) -> None:
            if lost and not left:
                left.append(asyncio.get_running_loop().remove_writer(lost[0]))
            await super().connect()
            if self.protocol == 3 and not lost:
                connected = transport_of(self).get_extra_info("socket")
                lost.append(connected.fileno())
                connected.shutdown(socket.SHUT_RDWR)

    changes = SharedNearCache(10)
    pool = ConnectionPool(LostOnce, host="127.0.0.1", port=server.port, protocol=2)
    async with Redis(connection_pool=pool) as client, RedisTokenStore(client) as store:
        store.push_changes_to(changes)
        await until_true(lambda: changes.is_open)
    assert left == [False]  # else the next socket of this number would hang


async def test_a_decoding_client_tolerates_keys_that_are_not_utf_8(
    make: Make, server: RedisServer, admin: Redis, wx: WeChatSimulator
) -> None:
    async with (
        Redis.from_url(server.url, decode_responses=True) as client,
        RedisTokenStore(client, near_cache=10) as store,
        make(tokens=store) as auth,
        make() as elsewhere,
    ):
        given, other = await warm(auth, wx), await warm(auth, wx, "carol")
        before = [tracker["id"] for tracker in await trackers(admin)]
        await admin.set(b"mpauthx:t:\xff\xfe", b"\xff")
        await admin.set("mpauthx:t:", "5")
        await admin.execute_command("DEL", b"mpauthx:t:\xff\xfe")
        await elsewhere.revoke(given.response)
        await refused_in_time(auth, given.response)
        assert cache_of(auth).known(other.response)
        assert [tracker["id"] for tracker in await trackers(admin)] == before


async def test_injected_connections_can_have_a_near_cache(
    make: Make, server: RedisServer, wx: WeChatSimulator
) -> None:
    async with (
        Redis.from_url(server.url) as client,
        Connections(redis=client) as connections,
        RedisTokenStore(connections, near_cache=10) as store,
        make(tokens=store, connections=connections) as auth,
    ):
        token = (await warm(auth, wx)).response
        await client.flushall()
        await refused_in_time(auth, token)


async def test_it_connects_as_the_url_says(
    make: Make, server: RedisServer, admin: Redis, wx: WeChatSimulator
) -> None:
    await admin.config_set("requirepass", "p%ss word")
    url = f"redis://:p%25ss%20word@127.0.0.1:{server.port}/3?near_cache=10&client_name=shop"
    async with make(tokens=url) as auth:
        token = (await warm(auth, wx)).response
        (tracker,) = await trackers(admin)
        assert (tracker["name"], tracker["db"]) == ("shop", "3")
        async with make(tokens=url) as elsewhere:
            await elsewhere.revoke(token)
        await refused_in_time(auth, token)


async def test_a_unix_socket_has_a_cache(make: Make, tmp_path: Path, wx: WeChatSimulator) -> None:
    with RedisServer(unixsocket=str(tmp_path / "redis.sock")):
        url = f"unix://{tmp_path}/redis.sock?db=2&near_cache=10"
        async with make(tokens=url) as auth, make(tokens=url) as elsewhere:
            token = (await warm(auth, wx)).response
            await elsewhere.revoke(token)
            await refused_in_time(auth, token)


async def test_web_logins_and_access_tokens_share_the_url(make: Make, wx: WeChatSimulator) -> None:
    async with make() as auth:
        code = wx.web_login("bob")
        assert await auth.is_token_valid((await auth.authorize_web(code)).response)
        assert await auth.access_token() == await auth.access_token()


# What is refused


@pytest.mark.parametrize("size", ["", "x", "-1", "1.5", "1e3", "+5", "9999999999", "5 ", "None"])
@pytest.mark.parametrize("opener", [open_token_store, open_key_value_store])
async def test_rejects_a_near_cache_that_is_not_a_number(opener: Any, size: str) -> None:
    for query in ("near_cache={}", "db=1&near_cache={}", "near_cache={}&near_cache=5"):
        with pytest.raises(ConfigurationError, match="near_cache"):
            opener(f"redis://127.0.0.1/0?{query.format(size)}", Connections())


@pytest.mark.parametrize("size", [-1, 1.5, "5", None, True])
def test_rejects_a_size_that_is_not_a_number(size: Any) -> None:
    with pytest.raises(ConfigurationError, match="near_cache"):
        RedisTokenStore("redis://127.0.0.1/0", near_cache=size)


async def test_a_cluster_is_refused(cluster: RedisCluster) -> None:
    with pytest.raises(ConfigurationError, match="single Redis"):
        RedisTokenStore(cluster, near_cache=10)
    await RedisTokenStore(cluster).lookup([new_session().ref])


@pytest.mark.parametrize("make_one", [RedisTokenStore, RedisKeyValueStore, Connections])
def test_tells_that_near_cache_is_an_argument_where_a_url_cannot_have_it(
    make_one: Callable[[str], object],
) -> None:
    for query in ("near_cache=100", "db=1&near_cache=100"):
        with pytest.raises(ConfigurationError, match=r"as an argument: RedisTokenStore\(url, "):
            make_one(f"redis://:pass@127.0.0.1/0?{query}")


@pytest.mark.parametrize("query", ["", "?near_cache=0", "?db=0&near_cache=0"])
async def test_there_is_no_near_cache_by_default(
    query: str, make: Make, server: RedisServer, admin: Redis, wx: WeChatSimulator
) -> None:
    async with make(tokens=server.url + query) as auth:
        assert await auth.is_token_valid((await log_in(auth, wx)).response)
        assert auth._validator._near is None
        assert await trackers(admin) == []


# Where it cannot be


async def test_a_user_who_may_not_track_has_no_near_cache_and_one_warning(
    make: Make, admin: Redis, wx: WeChatSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    await admin.execute_command("ACL", "SETUSER", "default", "-client")
    async with make() as auth:
        await use_without_cache(auth, wx, caplog)
    assert_warned_once(caplog)


async def test_a_redis_without_resp3_has_no_near_cache_and_one_warning_without_its_password(
    make: Make, tmp_path: Path, wx: WeChatSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    settings = tmp_path / "old.conf"
    settings.write_text("rename-command HELLO GREET\n")
    with RedisServer(include=str(settings)) as old:
        add_user(old)
        url = f"{redis_url(old)}?protocol=2"
        async with make(tokens=with_near_cache(url)) as auth:
            await use_without_cache(auth, wx, caplog)
    assert_warned_once(caplog)
    assert "HELLO" in caplog.text
    assert PASSWORD not in caplog.text


async def use_without_cache(
    auth: MPAuthX, wx: WeChatSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    """Use a service until it has given its near cache up, and then some more."""
    token = (await log_in(auth, wx)).response

    async def is_given_up() -> bool:
        assert await auth.is_token_valid(token)
        return "stay off" in caplog.text

    await until(is_given_up)
    tracking = auth._parts.tokens._tracking  # type: ignore[attr-defined]
    await asyncio.wait([tracking._task])
    for _ in range(20):
        assert await auth.is_token_valid(token)
    assert len(cache_of(auth)) == 0
    assert tracking._task.done()
    assert await auth.revoke(token)


def assert_warned_once(caplog: pytest.LogCaptureFixture) -> None:
    records = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [(record.name, record.levelname) for record in records] == [(LOGGER, "WARNING")]
