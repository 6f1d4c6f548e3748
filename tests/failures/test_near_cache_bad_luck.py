"""Near caches whose connection breaks, or whose Redis hangs, dies or comes back another.

Whatever happens, no token is accepted that was revoked longer ago than BOUND, and none is refused
that is good once Redis is back.
"""

import logging
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from mpauthx_async import MPAuthX, StoreError, WeChatSimulator
from mpauthx_async.stores.conformance.examples import until
from tests.helpers.near_checker import USERS, Checker, log_all_in, revoking
from tests.helpers.near_services import (
    BOUND,
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
from tests.helpers.service_calls import log_in

LOGGER = "mpauthx_async.stores.redis.tracking"
PAUSE = 5  # seconds


@pytest.fixture
def make(wx: WeChatSimulator, server: RedisServer, tmp_path: Path) -> Make:
    return maker(wx, server, tmp_path)


@pytest.fixture
async def auth(make: Make) -> AsyncIterator[MPAuthX]:
    async with make() as service:
        yield service


async def kill_tracking(admin: Redis) -> None:
    for tracker in await trackers(admin):
        await admin.client_kill_filter(_id=tracker["id"])


async def test_no_revoked_token_is_accepted_while_connections_are_killed(
    auth: MPAuthX, server: RedisServer, admin: Redis, wx: WeChatSimulator, tmp_path: Path
) -> None:
    tokens, chance = await log_all_in(auth, wx), random.Random(1)
    checker = Checker(auth, tokens)
    doomed = chance.sample(tokens, USERS // 2)
    async with revoking(checker, server.url, wx, tmp_path) as revoker, checker.at_work():
        await until_kept(auth, *tokens)
        while doomed:
            revoker.revoke(doomed.pop(), doomed.pop())
            await kill_tracking(admin)
            await revoker.until_done()
            await checker.until_rounds(2)
        await refused_in_time(auth, *checker.revoked)
        await until_kept(auth, *(set(tokens) - set(checker.revoked)))
        assert len(await trackers(admin)) == 1
    checker.judge()
    assert len(checker.revoked) == USERS // 2


async def test_a_near_cache_is_unused_while_its_connection_is_silent(
    make: Make, server: RedisServer, wx: WeChatSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    async with (
        RedisProxy(server) as proxy,
        make(tokens=with_near_cache(proxy.url)) as auth,
        make() as elsewhere,
    ):
        given, other = await warm(auth, wx), await warm(auth, wx, "carol")
        proxy.pushes.clear()
        await elsewhere.revoke(given.response)
        await refused_in_time(auth, given.response)
        assert await auth.is_token_valid(other.response)

        async def is_told() -> bool:
            assert await auth.is_token_valid(other.response)
            return len(caplog.records) == 1

        await until(is_told)
        proxy.pushes.set()
        await until_kept(auth, other.response)
        levels = [record.levelname for record in caplog.records if record.name == LOGGER]
        assert levels == ["WARNING", "INFO"]


async def test_a_near_cache_is_emptied_when_its_connection_breaks_protocol(
    make: Make, server: RedisServer, wx: WeChatSimulator
) -> None:
    async with (
        RedisProxy(server) as proxy,
        make(tokens=with_near_cache(proxy.url)) as auth,
        make() as elsewhere,
    ):
        given, other = await warm(auth, wx), await warm(auth, wx, "carol")
        proxy.edit = lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n"
        await elsewhere.revoke(given.response)
        await until_true(lambda: not cache_of(auth).is_on and len(cache_of(auth)) == 0)
        proxy.edit = lambda said: said
        await until_kept(auth, other.response)
        assert not await auth.is_token_valid(given.response)


async def test_no_revoked_token_is_accepted_while_redis_hangs(
    auth: MPAuthX, server: RedisServer, wx: WeChatSimulator, tmp_path: Path
) -> None:
    tokens = await log_all_in(auth, wx)
    checker = Checker(auth, tokens)
    doomed, living = tokens[: USERS // 2], tokens[USERS // 2 :]
    async with revoking(checker, server.url, wx, tmp_path) as revoker, checker.at_work():
        await until_kept(auth, *tokens)
        revoker.revoke(*doomed[:10])
        server.pause()
        paused = time.monotonic()
        revoker.revoke(*doomed[10:])

        async def is_over() -> bool:
            assert time.monotonic() < paused + BOUND or not cache_of(auth).known(living[0])
            return time.monotonic() > paused + PAUSE

        await until(is_over)
        server.resume()
        await revoker.until_done()
        await refused_in_time(auth, *doomed)
        await until_kept(auth, *living)
        await checker.until_rounds(3)
    checker.judge()
    assert set(checker.revoked) == set(doomed)


async def test_a_process_that_was_stopped_rejects_what_ended_meanwhile(
    auth: MPAuthX, server: RedisServer, admin: Redis, wx: WeChatSimulator
) -> None:
    given, other = await warm(auth, wx), await warm(auth, wx, "carol")
    before = [tracker["id"] for tracker in await trackers(admin)]

    def stop() -> None:
        with SyncRedis(port=server.port) as client:
            client.delete(session_key(given.session.ref))
        time.sleep(BOUND)

    stop()
    assert not await auth.is_token_valid(given.response)
    await until_kept(auth, other.response)
    assert [tracker["id"] for tracker in await trackers(admin)] == before


async def test_a_near_cache_stays_empty_until_its_connection_answers(
    make: Make, server: RedisServer, wx: WeChatSimulator
) -> None:
    async with RedisProxy(server) as proxy, make(tokens=with_near_cache(proxy.url)) as auth:
        token = (await log_in(auth, wx)).response
        proxy.pushes.clear()
        began = time.monotonic()

        async def was_given_up() -> bool:
            assert await auth.is_token_valid(token)
            assert len(cache_of(auth)) == 0
            return time.monotonic() > began + BOUND

        await until(was_given_up)
        proxy.pushes.set()
        await until_kept(auth, token)


async def test_tokens_are_rejected_when_redis_comes_back_without_them(
    auth: MPAuthX, make: Make, server: RedisServer, wx: WeChatSimulator, tmp_path: Path
) -> None:
    for number in range(3):
        tokens = await log_all_in(auth, wx, f"user-{number}")
        await until_kept(auth, *tokens)
        checker = Checker(auth, tokens)
        async with checker.at_work():
            server.stop(9)
            server.start()
            back = time.monotonic()
            async with make() as elsewhere:
                kept = (await log_in(elsewhere, wx, "carol")).response
            await until_true(lambda: len(checker.refused) == USERS)  # noqa: B023 (awaited here)
            await until_kept(auth, kept)
            await checker.until_rounds(3)
        assert max(checker.accepted.values()) < back + BOUND
        assert max(checker.accepted.values()) < min(checker.refused.values())


async def test_a_near_cache_opens_once_redis_is_up(
    make: Make, server: RedisServer, wx: WeChatSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    async with make() as elsewhere:
        token = (await log_in(elsewhere, wx)).response
    server.stop()
    async with make() as auth:
        for _ in range(3):
            with pytest.raises(StoreError):
                await auth.is_token_valid(token)
        server.start()
        await warm(auth, wx)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert sum(record.name == LOGGER for record in warnings) == 1
