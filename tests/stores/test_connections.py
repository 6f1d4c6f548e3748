"""Connections: opened when needed, shared by all, closed by whoever made them."""

import asyncio
import resource
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis

from mpauthx_async import (
    ClosedError,
    ConfigurationError,
    Connections,
    MPAuthX,
    NewSession,
    RedisTokenStore,
    SessionRef,
    WeChatSimulator,
)
from tests.helpers.redis_server import RedisServer

POOL = 16  # connections to Redis, at most
NAME = "the-pool"  # of the connections under test, in Redis's list of clients


def named(redis_server: RedisServer) -> str:
    return f"{redis_server.url}?client_name={NAME}"


async def clients(redis: Redis) -> Sequence[dict[str, Any]]:
    """Redis's own list of the connections under test."""
    return [client for client in await redis.client_list() if client["name"] == NAME]


# Opening


async def test_nothing_is_connected_before_it_is_needed(redis, redis_server):
    async with Connections(named(redis_server)) as connections:
        assert await clients(redis) == []
        threads = threading.active_count()
        _ = connections.redis, connections.executor, connections.http
        assert await clients(redis) == []
        assert threading.active_count() <= threads
        await connections.redis.ping()
        assert len(await clients(redis)) == 1


async def test_each_resource_is_created_once(redis_server):
    async with Connections(redis_server.url) as connections:
        for name in ("http", "redis", "executor"):
            parts = [getattr(connections, name) for _ in range(5)]
            assert all(part is parts[0] for part in parts), name


async def test_two_services_on_the_same_connections_share_one_pool_and_one_session(
    make, redis: Redis, redis_server: RedisServer, wx: WeChatSimulator
):
    async with Connections(named(redis_server)) as connections:

        def service(sku: str) -> MPAuthX:
            tokens = RedisTokenStore(connections)
            return make(sku=sku, tokens=tokens, connections=connections)

        async with service("shop") as shop, service("blog") as blog:
            http = connections.http
            codes = [wx.login(f"user-{number % 50}") for number in range(100)]
            logins = [*map(shop.authorize, codes[:50]), *map(blog.authorize, codes[50:])]
            tokens = [result.response for result in await asyncio.gather(*logins)]
            assert all(await asyncio.gather(*map(shop.is_token_valid, tokens[:50])))
            assert all(await asyncio.gather(*map(blog.is_token_valid, tokens[50:])))
            assert 1 <= len(await clients(redis)) <= POOL
        # The services are closed; what they shared was not theirs to close.
        assert connections.http is http
        assert http.closed is False
        assert await connections.redis.ping() is True


async def test_two_stores_on_the_same_connections_share_one_pool(redis, redis_server):
    async with Connections(named(redis_server)) as connections:
        connections.is_eviction_known = True  # else Redis is asked for that at the same time
        stores = RedisTokenStore(connections), RedisTokenStore(connections)
        ref = SessionRef("shop", "bob", "AAECAwQFBgcICQoL")
        (session,) = await stores[0].issue([NewSession(ref, 60_000)])
        assert list(await stores[1].lookup([ref])) == [session.expires_at]
        assert len(await clients(redis)) == 1


# Closing


@pytest.mark.parametrize("is_url_given_later", [False, True])
async def test_own_resources_are_closed(redis, redis_server, is_url_given_later):
    connections = Connections(None if is_url_given_later else named(redis_server))
    if is_url_given_later:
        connections.use_redis(named(redis_server))
    http, executor = connections.http, connections.executor
    await asyncio.gather(*(connections.redis.ping() for _ in range(50)))
    assert executor.submit(int).result() == 0
    assert await clients(redis)
    await connections.close()
    assert http.closed
    with pytest.raises(RuntimeError):
        executor.submit(int)
    async with asyncio.timeout(30):  # Redis notices in its own time
        while await clients(redis):
            pass


async def test_injected_resources_stay_open(redis):
    with ThreadPoolExecutor(1) as executor:
        async with aiohttp.ClientSession() as http:
            async with Connections(http=http, redis=redis, executor=executor) as connections:
                assert connections.http is http
                assert connections.redis is redis
                assert connections.executor is executor
                connection = await redis.client_id()
            assert not http.closed
            assert await redis.client_id() == connection  # a closed one would be a new one now
            assert executor.submit(int).result() == 0


async def test_injected_resources_stay_open_beside_own_ones(redis):
    connection = await redis.client_id()
    async with Connections(redis=redis) as connections:
        http = connections.http
    assert http.closed
    assert await redis.client_id() == connection


async def test_concurrent_closes_are_allowed(redis_server):
    connections = Connections(redis_server.url)
    _ = connections.http, connections.executor
    await connections.redis.ping()
    await asyncio.gather(*(connections.close() for _ in range(5)))
    assert connections_are_closed(connections)


async def test_closing_waits_for_the_executors_work_without_holding_up_the_loop():
    connections = Connections()
    may_end = threading.Event()
    work = connections.executor.submit(may_end.wait, 30)
    closing = asyncio.create_task(connections.close())
    await asyncio.sleep(0)  # lets it begin
    assert not closing.done()
    # Were the loop held up, only the end of the 30 seconds would have let it come here.
    may_end.set()
    await closing
    assert work.done()
    assert work.result() is True


def connections_are_closed(connections: Connections) -> bool:
    for name in ("http", "redis", "executor"):
        with pytest.raises(ClosedError, match="closed"):
            getattr(connections, name)
    return True


async def test_closing_does_not_wait_for_a_redis_that_hangs(redis_server, monkeypatch, caplog):
    async with Connections(f"{redis_server.url}?socket_connect_timeout=0.2") as connections:
        await connections.redis.ping()
        (connection,) = connections.redis.connection_pool._available_connections
        # As when TLS waits for the other side's last word.
        monkeypatch.setattr(connection._writer, "wait_closed", asyncio.Event().wait)
    assert "did not close in time" in caplog.text
    assert connections_are_closed(connections)


async def test_a_closed_ready_made_aiohttp_session_raises():
    async with aiohttp.ClientSession() as http:
        pass
    async with Connections(http=http) as connections:
        with pytest.raises(ClosedError, match="aiohttp session"):
            _ = connections.http


# Redis


async def test_commands_wait_for_a_connection_instead_of_failing(redis, redis_server):
    async with Connections(named(redis_server)) as connections:
        # While Redis stands still, no command ends and every connection is taken.
        await redis.client_pause(200)
        assert await asyncio.gather(*(connections.redis.ping() for _ in range(200))) == [True] * 200
        assert 1 < len(await clients(redis)) <= POOL


async def test_a_url_may_ask_for_fewer_connections(redis, redis_server):
    async with Connections(f"{named(redis_server)}&max_connections=2") as connections:
        assert all(await asyncio.gather(*(connections.redis.ping() for _ in range(50))))
        assert 1 <= len(await clients(redis)) <= 2


async def test_a_whole_pool_that_redis_closed_is_replaced(redis, redis_server):
    async with Connections(named(redis_server)) as connections:
        await redis.client_pause(100)
        await asyncio.gather(*(connections.redis.ping() for _ in range(200)))
        before = [client["id"] for client in await clients(redis)]
        assert len(before) > 1
        for number in before:
            await redis.client_kill_filter(_id=number)
        assert all(await asyncio.gather(*(connections.redis.ping() for _ in range(200))))
        assert len(await clients(redis)) <= POOL


async def test_without_redis_the_error_names_the_missing_option():
    async with Connections() as connections:
        with pytest.raises(ConfigurationError, match="redis_url"):
            _ = connections.redis


async def test_a_url_and_a_ready_made_redis_exclude_each_other(redis):
    with pytest.raises(ConfigurationError, match="redis_url or redis"):
        Connections("redis://localhost:6379/0", redis=redis)


@pytest.mark.parametrize("is_url_given_at_the_start", [False, True])
async def test_use_redis_opens_the_first_and_keeps_it(redis_server, is_url_given_at_the_start):
    async with Connections(redis_server.url if is_url_given_at_the_start else None) as connections:
        connections.use_redis(redis_server.url)
        client = connections.redis
        assert await client.ping() is True
        connections.use_redis(redis_server.url)
        assert connections.redis is client


async def test_use_redis_refuses_a_second_redis(redis, redis_server):
    used = Connections()
    used.use_redis(redis_server.url)
    for connections in (used, Connections(redis_server.url), Connections(redis=redis)):
        async with connections:
            client = connections.redis
            with pytest.raises(ConfigurationError, match="already have"):
                connections.use_redis("redis://:geheim@localhost:6379/1")
            assert connections.redis is client


async def test_after_a_refused_url_use_redis_takes_a_good_one(redis_server):
    async with Connections() as connections:
        with pytest.raises(ConfigurationError):
            connections.use_redis("http://localhost")
        connections.use_redis(redis_server.url)
        assert await connections.redis.ping() is True


# HTTP


async def test_the_http_session_has_connect_and_total_timeouts():
    async with Connections() as connections:
        timeout = connections.http.timeout
        assert 0 < timeout.total <= 60
        assert 0 < (timeout.connect or timeout.sock_connect) < timeout.total


async def test_http_connections_are_bounded_and_dns_answers_cached():
    async with Connections() as connections:
        connector = connections.http.connector
        assert isinstance(connector, aiohttp.TCPConnector)
        assert connector.limit == min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        assert connector.use_dns_cache is True


async def test_connections_are_bounded_without_a_descriptor_limit(monkeypatch):
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda _: unlimited)
    async with Connections() as connections:
        assert connections.http.connector.limit == 4096


@pytest.mark.parametrize(
    ("options", "exchanges"),
    [
        ({"limit": 1}, 1),
        ({"limit": 100}, 88),  # an eighth is left to other calls
        ({"limit": 0, "limit_per_host": 16}, 14),
        ({"limit": 0}, 256),  # as many as may begin before the loop is seen to be idle
    ],
)
async def test_exchanges_keep_to_the_connector_of_a_ready_made_session(options, exchanges):
    connector = aiohttp.TCPConnector(**options)
    async with aiohttp.ClientSession(connector=connector) as http:
        limit = Connections(http=http).login_limit
        while limit.acquire(print):
            pass
        assert limit.exchanges == exchanges


async def test_no_cookie_of_one_answer_goes_into_the_next_request():
    async with Connections() as connections:
        connections.http.cookie_jar.update_cookies({"session": "x"})
        assert len(connections.http.cookie_jar) == 0
