"""The Redis user of the documentation may do all that the stores do, and nothing more."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from mpauthx_async import RedisTokenStore, StoreError
from mpauthx_async.stores import RedisKeyValueStore
from mpauthx_async.stores.conformance import new_session
from mpauthx_async.stores.conformance.examples import until
from tests.helpers.outages import ASKED_OF_RECORDS, ASKED_OF_TOKENS, KNOWN
from tests.helpers.redis_cluster import MovingSlot, RedisClusterServers
from tests.helpers.redis_contents import session_key
from tests.helpers.redis_server import RedisServer

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "redis-in-production.md"
(RULE,) = re.findall(r"ACL SETUSER (mpauthx .*)", GUIDE.read_text("utf-8"))
ALLOWED = [word for word in RULE.split() if word.startswith("+")]
OF_A_CLUSTER = ["+asking", "+cluster|info", "+cluster|slots", "+command"]
OF_A_SINGLE = [word for word in ALLOWED if word not in OF_A_CLUSTER]
# What redis-py tells and asks about itself on each new connection; it does without an answer.
QUIETLY_REFUSED = {"client", "client|setinfo", "client|maint_notifications"}
PASSWORD = "a-password-of-redis"


@pytest.fixture(autouse=True)
def empty(redis_server: RedisServer) -> None:
    """Delete what another test left, such as a ban of the user."""
    with Redis(port=redis_server.port) as admin:
        admin.flushall()


def allow(servers: Sequence[RedisServer], without: str | None = None) -> None:
    """Make the user of the guide anew, for servers that know no script."""
    words = [word for word in RULE.replace(">PASSWORD", f">{PASSWORD}").split() if word != without]
    for server in servers:
        with Redis(port=server.port) as admin:
            admin.execute_command("ACL", "SETUSER", words[0], "reset", *words[1:])
            admin.execute_command("ACL", "LOG", "RESET")
            admin.script_flush()


def refused(servers: Sequence[RedisServer]) -> set[str]:
    """The commands that the user was refused."""
    found: set[str] = set()
    for server in servers:
        with Redis(port=server.port, decode_responses=True) as admin:
            found.update(entry["object"] for entry in admin.acl_log())
    return found


def with_user(url: str) -> str:
    return url.replace("://", f"://mpauthx:{PASSWORD}@")


async def use(url: str, near_cache: int) -> None:
    """Call everything once; raises what is refused."""
    async with (
        RedisTokenStore(url, near_cache=near_cache) as store,
        RedisKeyValueStore(url) as records,
    ):
        await store.check()
        await store.issue([KNOWN])
        await store.read([KNOWN.ref])  # later it has ended
        for ask in ASKED_OF_TOKENS.values():
            await ask(store)
        for ask in ASKED_OF_RECORDS.values():
            await ask(records)
        if near_cache:
            cache = store.open_near_cache()
            assert cache is not None

            async def is_open_or_refused() -> bool:
                await store.lookup([new_session().ref])
                tracking: Any = store._tracking
                return cache.shared.is_open or tracking._task.done()

            await until(is_open_or_refused)
            assert cache.shared.is_open, "the push connection is refused"


async def test_the_user_of_the_guide_may_use_a_single_redis(redis_server: RedisServer) -> None:
    allow([redis_server])
    for _ in range(2):
        await use(with_user(f"redis://127.0.0.1:{redis_server.port}/3"), 10)
    assert refused([redis_server]) <= QUIETLY_REFUSED


@pytest.mark.parametrize("command", OF_A_SINGLE)
async def test_each_command_of_the_guide_is_needed(command: str, redis_server: RedisServer) -> None:
    allow([redis_server], without=command)
    url = with_user(f"redis://127.0.0.1:{redis_server.port}/3")
    with pytest.raises((StoreError, AssertionError), match=r"has an ACL rule|push connection"):
        await use(url, 10)


@pytest.mark.parametrize("command", ["+evalsha", "+set", "+hset", "+zadd", "+pexpireat", "+time"])
async def test_a_check_finds_missing_rights(command: str, redis_server: RedisServer) -> None:
    allow([redis_server], without=command)
    async with RedisTokenStore(with_user(f"redis://127.0.0.1:{redis_server.port}/3")) as store:
        with pytest.raises(StoreError, match="has an ACL rule"):
            await store.check()


async def test_a_check_leaves_nothing_for_more_than_a_second(redis_server: RedisServer) -> None:
    async with RedisTokenStore(redis_server.url) as store:
        await store.check()
    with Redis.from_url(redis_server.url) as admin:
        (ended,) = admin.keys("*mpauthx-check*")
        assert admin.pttl(ended) <= 1000


async def test_a_refused_client_name_names_the_command(redis_server: RedisServer) -> None:
    allow([redis_server])
    url = with_user(f"redis://127.0.0.1:{redis_server.port}/0?client_name=shop")
    # Redis 6.2 knows no rule for one command of CLIENT.
    advice = r"run CLIENT( SETNAME)?, with \+client(\|setname)?:.* take client_name off"
    async with RedisTokenStore(url) as store:
        with pytest.raises(StoreError, match=advice) as caught:
            await store.lookup([KNOWN.ref])
    assert not caught.value.retryable


@pytest.mark.parametrize("command", ["CLIENT", "MGET", "SELECT"])
async def test_a_command_that_the_provider_forbids_is_named(command: str) -> None:
    with RedisServer(rename_command=f'{command} ""') as server:
        url = f"redis://127.0.0.1:{server.port}/3?client_name=shop"
        async with RedisTokenStore(url) as store:
            with pytest.raises(StoreError, match=f"It has no command {command}, or") as caught:
                await store.lookup([KNOWN.ref])
    assert not caught.value.retryable
    assert ("client_name off" in str(caught.value)) == (command == "CLIENT")


async def test_the_user_of_the_guide_may_use_a_cluster_and_needs_each_command(
    cluster_servers: RedisClusterServers,
) -> None:
    servers = [*cluster_servers.primaries, *cluster_servers.replicas]
    url = with_user(f"redis+cluster://127.0.0.1:{cluster_servers.port}")
    allow(servers)
    async with RedisTokenStore(url) as store:
        await store.issue([KNOWN])
    key = session_key(KNOWN.ref)
    moving = MovingSlot(cluster_servers, key)
    moving.move([key])  # from now on its node answers ASK
    assert not await moved_session_is_refused(url)
    for command in OF_A_CLUSTER:
        allow(servers, without=command)
        assert await moved_session_is_refused(url), command
    allow(servers)
    moving.finish()
    await use(url, 0)
    assert refused(servers) <= QUIETLY_REFUSED


async def moved_session_is_refused(url: str) -> bool:
    """Whether a session in a slot on its way to another node cannot be looked up."""
    try:
        async with RedisTokenStore(url) as store:
            await store.check()
            assert await store.lookup([KNOWN.ref]) != [None]
    except StoreError:
        return True
    return False
