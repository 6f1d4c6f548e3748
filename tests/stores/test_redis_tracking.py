"""Near caches on Redis: what changed anywhere is refused here, and what costs nothing does.

What changes is waited for, as it is Redis that tells; how long it may take is in `near_services`.
"""

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError

from mpauthx_async import (
    AuthResult,
    Connections,
    LoginPolicy,
    MPAuthX,
    RedisTokenStore,
    TokenStatus,
    WeChatSimulator,
)
from mpauthx_async.events import TokenReuseDetected, TokensValidated
from mpauthx_async.stores.conformance.examples import until
from mpauthx_async.stores.near_cache import SharedNearCache
from mpauthx_async.stores.redis.keys import SESSION_PREFIX
from mpauthx_async.stores.redis.tracking import RedisTracking
from tests.helpers.near_services import (
    Make,
    cache_of,
    maker,
    refused_in_time,
    trackers,
    until_kept,
    warm,
    with_near_cache,
)
from tests.helpers.outages import until_true
from tests.helpers.redis_contents import session_key
from tests.helpers.redis_proxy import RedisProxy
from tests.helpers.redis_server import RedisServer
from tests.helpers.service_calls import hear, log_in, of_kind


@pytest.fixture
def make(wx: WeChatSimulator, server: RedisServer, tmp_path: Path) -> Make:
    return maker(wx, server, tmp_path)


@pytest.fixture
async def auth(make: Make) -> AsyncIterator[MPAuthX]:
    async with make(rotation_grace=0) as service:
        yield service


async def server_time(admin: Redis) -> int:
    """In Unix milliseconds."""
    seconds, microseconds = await admin.time()
    return int(seconds * 1000 + microseconds // 1000)


# What ends a token


Ending = Callable[[MPAuthX, AuthResult], Awaitable[object]]
ENDINGS: dict[str, Ending] = {
    "revoke": lambda auth, given: auth.revoke(given.response),
    "revoke_session": lambda auth, given: auth.revoke_session("bob", given.session.id),
    "revoke_user": lambda auth, _: auth.revoke_user("bob"),
    "ban": lambda auth, _: auth.ban("bob"),
    "rotate": lambda auth, given: auth.rotate(given.response),
    "refresh_token": lambda auth, _: auth.refresh_token("bob"),
}


@pytest.mark.parametrize("ending", ENDINGS)
async def test_rejects_a_session_that_another_service_ended(
    ending: str, auth: MPAuthX, make: Make, wx: WeChatSimulator
) -> None:
    given, other = await warm(auth, wx), await warm(auth, wx, "carol")
    async with make() as elsewhere:
        await ENDINGS[ending](elsewhere, given)
        await refused_in_time(auth, given.response)
    assert cache_of(auth).known(other.response)


@pytest.mark.parametrize("ending", ENDINGS)
async def test_rejects_a_session_that_this_service_ended_at_once(
    ending: str, auth: MPAuthX, wx: WeChatSimulator
) -> None:
    for _ in range(20):
        given = await warm(auth, wx)
        await ENDINGS[ending](auth, given)
        assert not await auth.is_token_valid(given.response)
        await auth.unban("bob")


async def test_rejects_a_session_a_login_replaced_at_once(make: Make, wx: WeChatSimulator) -> None:
    async with make(policy=LoginPolicy(max_sessions=1)) as auth:
        old = await warm(auth, wx)
        for _ in range(20):
            new = await log_in(auth, wx)
            assert not await auth.is_token_valid(old.response)
            await until_kept(auth, new.response)
            old = new


async def test_a_token_changed_in_redis_is_refused(
    auth: MPAuthX, admin: Redis, wx: WeChatSimulator
) -> None:
    async def evict_all() -> None:
        await admin.config_set("maxmemory-policy", "allkeys-lru")
        await admin.config_set("maxmemory", 1)
        with pytest.raises(OutOfMemoryError):
            await admin.set("any", "thing")
        await admin.config_set("maxmemory", 0)

    changes: list[Callable[[str], Awaitable[Any]]] = [
        admin.delete,
        admin.unlink,
        lambda key: admin.set(key, -2),
        lambda key: admin.pexpireat(key, 1),
        lambda key: admin.rename(key, "elsewhere"),
        lambda _: admin.flushdb(),
        lambda _: admin.flushall(),
        lambda _: admin.flushall(asynchronous=True),
        lambda _: evict_all(),
    ]
    for change in changes:
        given = await warm(auth, wx)
        await change(session_key(given.session.ref))
        await refused_in_time(auth, given.response)


@pytest.mark.parametrize("off", [0, 60, -60])
async def test_a_token_ends_when_redis_says_so(
    off: int, make: Make, admin: Redis, wx: WeChatSimulator
) -> None:
    async with make(token_ttl=1, clock=lambda: time.time() + off) as auth:
        result = await log_in(auth, wx)
        token, end = result.response, result.session.expires_at
        was_kept = False
        while (asked_at := await server_time(admin)) < end + 100:
            is_valid = await auth.is_token_valid(token)
            was_kept |= cache_of(auth).known(token) is not None
            assert not is_valid or asked_at < end + 1
            assert is_valid or await server_time(admin) >= end
        assert was_kept


async def test_reuse_of_a_token_is_detected(auth: MPAuthX, make: Make, wx: WeChatSimulator) -> None:
    heard, old = hear(auth), await warm(auth, wx)
    async with make(rotation_grace=0) as elsewhere:
        new = (await elsewhere.rotate(old.response)).response
    await refused_in_time(auth, old.response, new)
    assert await auth.token_status(new) is TokenStatus.reused
    await auth.close()
    assert len(of_kind(heard, TokenReuseDetected)) == 1


async def test_lives_slide_with_a_near_cache(make: Make, admin: Redis, wx: WeChatSimulator) -> None:
    async with make(token_ttl=2, absolute_ttl=60) as auth:
        result = await warm(auth, wx)
        while await server_time(admin) < result.session.expires_at + 200:
            assert await auth.is_token_valid(result.response)
        await until_kept(auth, result.response)


# What a hit costs


async def test_a_hit_sends_no_command(auth: MPAuthX, admin: Redis, wx: WeChatSimulator) -> None:
    given = await warm(auth, wx)
    await admin.config_resetstat()
    for _ in range(1000):
        assert await auth.is_token_valid(given.response)
    stats = await admin.info("commandstats")
    sent = {name.removeprefix("cmdstat_").partition("|")[0] for name in stats}
    assert sent <= {"config", "info", "time"}


class CountingLoop(asyncio.SelectorEventLoop):
    """An event loop that notes the futures, tasks and timers that are made."""

    made: ClassVar[list[str]] = []

    def create_future(self) -> Any:
        self.made.append("future")
        return super().create_future()

    def create_task(self, *args: Any, **more: Any) -> Any:
        self.made.append("task")
        return super().create_task(*args, **more)

    def call_at(self, *args: Any, **more: Any) -> Any:
        self.made.append("timer")
        return super().call_at(*args, **more)


@pytest.mark.parametrize("is_heard", [False, True])
def test_a_hit_makes_no_task_or_future(is_heard: bool, server: RedisServer, tmp_path: Path) -> None:
    async def main() -> None:
        async with WeChatSimulator() as wx, maker(wx, server, tmp_path)() as auth:
            heard = hear(auth) if is_heard else []
            given = await warm(auth, wx)
            CountingLoop.made.clear()
            tasks = asyncio.all_tasks()
            for _ in range(1000):
                assert await auth.is_token_valid(given.response)
            assert not {"future", "task"} & set(CountingLoop.made)
            assert asyncio.all_tasks() == tasks
        if is_heard:
            assert sum(event.valid for event in of_kind(heard, TokensValidated)) > 1000

    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        runner.run(main())


async def test_each_hit_emits_an_event(auth: MPAuthX, make: Make, wx: WeChatSimulator) -> None:
    given = await warm(auth, wx)
    heard = hear(auth)
    for _ in range(7):
        assert await auth.is_token_valid(given.response)
    assert not await auth.is_token_valid("no token")
    await auth.close()
    told = of_kind(heard, TokensValidated)
    assert sum(event.valid for event in told) == 7
    assert sum(event.refused for event in told) == 1


# Several services


async def test_services_on_one_store_do_not_accept_each_others_tokens(
    make: Make, admin: Redis, wx: WeChatSimulator, server: RedisServer
) -> None:
    async with RedisTokenStore(server.url, near_cache=10) as store:
        async with (
            make(tokens=store) as auth,
            make(tokens=store, app_id="wx0123456789abcdef") as other_app,
            make(tokens=store, sku="game") as other_sku,
            make(tokens=store) as same,
        ):
            token = (await warm(auth, wx)).response
            assert not await other_app.is_token_valid(token)
            assert not await other_sku.is_token_valid(token)
            await until_kept(same, token)
            assert len(await trackers(admin)) == 1
            await same.revoke(token)
            assert not await auth.is_token_valid(token)
        async with make(tokens=store) as later:  # while the connection is up
            await warm(later, wx)
            assert len(await trackers(admin)) == 1


async def test_a_cache_leaves_with_its_service(server: RedisServer, make: Make) -> None:
    async with RedisTokenStore(server.url, near_cache=10) as store:
        for _ in range(5):
            async with make(tokens=store):
                pass
        assert store._near_cache is not None
        gc.collect()
        assert len(store._near_cache._caches) == 0


async def test_a_thousand_services_are_one_listener(server: RedisServer, make: Make) -> None:
    async with RedisTokenStore(server.url, near_cache=10) as store:
        services = [make(tokens=store, sku=f"shop-{number}") for number in range(1_000)]
        assert store._tracking is not None
        assert list(store._tracking.feed._listeners) == [store._near_cache]
        for auth in services:
            await auth.close()


async def test_a_change_wakes_only_the_blocks_of_its_session(
    make: Make, wx: WeChatSimulator, server: RedisServer
) -> None:
    async def hold(auth: MPAuthX, token: str, entered: asyncio.Event) -> None:
        async with auth.until_revoked(token):
            entered.set()
            await asyncio.Event().wait()

    async with (
        RedisTokenStore(server.url, near_cache=10) as store,
        contextlib.AsyncExitStack() as stack,
    ):
        blocks, tokens = [], []
        for number in range(5):
            auth = await stack.enter_async_context(make(tokens=store, sku=f"shop-{number}"))
            entered = asyncio.Event()
            tokens.append((await log_in(auth, wx)).response)
            blocks.append(asyncio.create_task(hold(auth, tokens[-1], entered)))
            await entered.wait()
        assert store._tracking is not None
        feed = store._tracking.feed
        assert feed._of_all == (store._near_cache,)
        assert [len(waiting) for waiting in feed._waiting.values()] == [1] * 5
        acting = await stack.enter_async_context(make(sku="shop-3"))
        assert await acting.revoke(tokens[3])
        done, _ = await asyncio.wait(blocks, return_when=asyncio.FIRST_COMPLETED)
        assert done == {blocks[3]}
        for block in blocks:
            block.cancel()
        await asyncio.gather(*blocks, return_exceptions=True)
        assert feed._waiting == {}


def test_pushes_share_timers_tasks_and_futures(server: RedisServer) -> None:
    class Changes(SharedNearCache):
        told = 0

        def forget(self, nonce: str) -> None:
            self.told += 1

    async def main() -> None:
        changes = Changes(10)
        async with Connections(server.url) as connections:
            tracking = RedisTracking(connections, SESSION_PREFIX)
            tracking.feed.subscribe_to_all(changes)
            tracking.start()
            await until_true(lambda: changes.is_open)
            CountingLoop.made.clear()
            with SyncRedis(port=server.port) as client:
                for number in range(1_000):  # each is a push of its own
                    client.set(f"{SESSION_PREFIX}{number}", 1)
            await until_true(lambda: changes.told == 1_000)
            assert len(CountingLoop.made) < 500
            await tracking.close()

    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        runner.run(main())


async def test_a_cache_keeps_its_size(make: Make, wx: WeChatSimulator, server: RedisServer) -> None:
    async with make(tokens=with_near_cache(server.url, 3)) as auth:
        tokens = [(await warm(auth, wx, f"user-{number}")).response for number in range(8)]
        assert [bool(cache_of(auth).known(token)) for token in tokens] == [False] * 5 + [True] * 3
        assert all([await auth.is_token_valid(token) for token in tokens])


# What overtakes what


async def test_an_answer_on_its_way_when_its_session_ended_is_not_kept(
    make: Make, server: RedisServer, admin: Redis, wx: WeChatSimulator
) -> None:
    async def was_looked_up() -> bool:
        return "cmdstat_mget" in await admin.info("commandstats")

    async with (
        RedisProxy(server) as proxy,
        make(tokens=with_near_cache(proxy.url)) as auth,
        make() as elsewhere,
    ):
        token, other = (await log_in(auth, wx)).response, (await warm(auth, wx, "carol")).response
        await admin.config_resetstat()
        proxy.answers.clear()
        call = asyncio.ensure_future(auth.is_token_valid(token))
        await until(was_looked_up)
        await elsewhere.revoke(token)
        await elsewhere.revoke(other)
        await until_true(lambda: not cache_of(auth).known(other))  # so both were pushed
        proxy.answers.set()
        assert await call  # it was asked before
        assert not await auth.is_token_valid(token)


async def test_nothing_is_kept_before_it_is_known_that_redis_pushes(
    make: Make, server: RedisServer, wx: WeChatSimulator
) -> None:
    async with RedisProxy(server) as proxy, make(tokens=with_near_cache(proxy.url)) as auth:
        proxy.pushes.clear()
        given = await log_in(auth, wx)
        for _ in range(50):
            assert await auth.is_token_valid(given.response)
            assert len(cache_of(auth)) == 0
        proxy.pushes.set()
        await until_kept(auth, given.response)
