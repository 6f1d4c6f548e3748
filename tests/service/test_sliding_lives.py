"""Lives that count from a token's last use, and those that do not.

A service with a longer token_ttl finds the sessions of one with a shorter due to be renewed, so
nothing has to wait here until they are.
"""

import asyncio
import logging
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest
from redis.asyncio import Redis

from mpauthx_async import AuthResult, Session, WeChatSimulator
from mpauthx_async.events import BatchFinished, StoreFailed
from tests.helpers.clock import Clock
from tests.helpers.near_services import Make
from tests.helpers.redis_server import RedisServer
from tests.helpers.service_calls import hear, log_in, of_kind

DAY = 86_400


async def begun(
    make: Make, url: str, wx: WeChatSimulator, absolute_ttl: int = 10 * DAY
) -> AuthResult:
    """A session of a hundred seconds."""
    async with make(tokens=url, token_ttl=100, absolute_ttl=absolute_ttl) as auth:
        return await log_in(auth, wx, device="iPhone 15")


async def now_of(make: Make, url: str, token: str) -> Session:
    """A session as it is stored now."""
    async with make(tokens=url) as auth:
        return await auth.session(token)


async def calls(redis: Redis, *commands: str) -> int:
    """How often commands were carried out since the last CONFIG RESETSTAT.

    The first EVALSHA of a script that Redis does not know yet fails, and is not one.
    """
    stats = await redis.info("commandstats")
    found = [stats[f"cmdstat_{name}"] for name in commands if f"cmdstat_{name}" in stats]
    return sum(each["calls"] - each["failed_calls"] for each in found)


# Off


async def test_by_default_use_changes_nothing(make: Make, tokens: str, wx: WeChatSimulator) -> None:
    result = await begun(make, tokens, wx)
    async with make(tokens=tokens, token_ttl=DAY) as auth:
        heard = hear(auth)
        for _ in range(5):
            assert await auth.is_token_valid(result.response)
        assert await auth.session(result.response) == result.session
    assert {event.name for event in of_kind(heard, BatchFinished)} == {"lookup", "read"}
    assert await now_of(make, tokens, result.response) == result.session


async def test_by_default_a_use_is_one_reading_command(
    make: Make, redis: Redis, redis_server: RedisServer, wx: WeChatSimulator
) -> None:
    result = await begun(make, redis_server.url, wx)
    async with make(token_ttl=DAY) as auth:
        assert await auth.is_token_valid(result.response)
        await redis.config_resetstat()
        for _ in range(5):
            assert await auth.is_token_valid(result.response)
        assert await calls(redis, "mget") == 5
        assert await calls(redis, "evalsha", "eval", "set", "hset", "zadd", "pexpireat") == 0


# On


async def test_a_use_moves_end_and_last_seen(make: Make, tokens: str, wx: WeChatSimulator) -> None:
    result = await begun(make, tokens, wx)
    async with make(tokens=tokens, token_ttl=DAY, absolute_ttl=DAY) as auth:
        assert await auth.is_token_valid(result.response)
    renewed = await now_of(make, tokens, result.response)
    assert renewed.last_seen is not None
    assert renewed.last_seen >= result.session.issued_at
    assert renewed.expires_at == renewed.last_seen + DAY * 1000
    assert (renewed.ref, renewed.device) == (result.session.ref, "iPhone 15")
    assert renewed.issued_at == result.session.issued_at


async def test_however_often_it_is_used_a_session_is_written_once(
    make: Make, redis: Redis, redis_server: RedisServer, wx: WeChatSimulator
) -> None:
    results = [await begun(make, redis_server.url, wx) for _ in range(3)]
    used = [result.response for result in results]
    async with make(token_ttl=DAY, absolute_ttl=DAY) as auth:
        await redis.config_resetstat()
        for _ in range(10):
            answers = await asyncio.gather(*(auth.is_token_valid(token) for token in used * 20))
            assert answers == [True] * 60
    assert await calls(redis, "evalsha", "eval") == 1  # for all three
    assert await calls(redis, "set") == 3


async def test_a_session_at_its_absolute_end_is_renewed_only_once(
    make: Make, redis: Redis, redis_server: RedisServer, wx: WeChatSimulator
) -> None:
    token = (await begun(make, redis_server.url, wx, absolute_ttl=100)).response
    async with make(token_ttl=DAY, absolute_ttl=DAY) as auth:
        await redis.config_resetstat()
        for _ in range(10):
            assert await auth.is_token_valid(token)
    assert await calls(redis, "evalsha", "eval") == 1
    assert await calls(redis, "set") == 0


async def test_a_life_slides_by_tenths_up_to_its_absolute_end(
    make: Make, tmp_path: Path, wx: WeChatSimulator
) -> None:
    clock, url = Clock(), f"sqlite:///{tmp_path}/t.db"
    begin = int(clock.now)
    ends = []
    for step in range(0, 251, 5):
        clock.now = begin + step
        async with make(tokens=url, token_ttl=100, absolute_ttl=250, clock=clock) as auth:
            if step == 0:
                token = (await log_in(auth, wx)).response
            assert await auth.is_token_valid(token) is (step < 250)
        async with make(tokens=url, clock=clock) as auth:
            ends += [session.expires_at // 1000 - begin for session in await auth.sessions("bob")]
    moving = [end for at in range(0, 150, 15) for end in [at + 100] * 3]
    assert ends == moving + [250] * 20


# What goes wrong with it


async def test_in_redis_a_renewal_that_fails_harms_no_answer_and_is_tried_again(
    make: Make, wx: WeChatSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer() as server:
        token = (await begun(make, server.url, wx)).response
        async with Redis.from_url(server.url) as admin:
            await admin.acl_setuser("default", enabled=True, commands=["-evalsha", "-eval"])
            async with make(tokens=server.url, token_ttl=DAY, absolute_ttl=DAY) as auth:
                heard = hear(auth)
                assert await auth.is_token_valid(token) is True
            await admin.acl_setuser("default", enabled=True, commands=["+evalsha", "+eval"])
        async with make(tokens=server.url, token_ttl=DAY, absolute_ttl=DAY) as auth:
            assert await auth.is_token_valid(token) is True
        assert (await now_of(make, server.url, token)).last_seen is not None
    assert of_kind(heard, StoreFailed) == [StoreFailed("renew")]
    assert "A session was not renewed" in caplog.text
    assert token not in caplog.text


async def test_in_sqlite_a_renewal_that_fails_harms_no_answer_and_is_tried_again(
    make: Make, tmp_path: Path, wx: WeChatSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    url = f"sqlite:///{tmp_path}/t.db"
    token = (await begun(make, url, wx)).response
    with closing(sqlite3.connect(tmp_path / "t.db", isolation_level=None)) as database:
        async with make(tokens=url, token_ttl=DAY, absolute_ttl=DAY) as auth:
            heard = hear(auth)
            database.execute(
                "CREATE TRIGGER refuse BEFORE UPDATE ON mpauthx_session"
                " BEGIN SELECT RAISE(ABORT, 'refused'); END"
            )
            deadline = time.monotonic() + 60
            while "A session was not renewed" not in caplog.text:
                assert time.monotonic() < deadline
                assert await auth.is_token_valid(token) is True
            database.execute("DROP TRIGGER refuse")
            assert await auth.is_token_valid(token) is True
    assert StoreFailed("renew") in heard
    assert (await now_of(make, url, token)).last_seen is not None


async def test_close_lets_renewals_finish(make: Make, tokens: str, wx: WeChatSimulator) -> None:
    result = await begun(make, tokens, wx)
    auth = make(tokens=tokens, token_ttl=DAY, absolute_ttl=DAY)
    asked = asyncio.create_task(auth.is_token_valid(result.response))
    await asyncio.sleep(0)
    await auth.close()
    assert await asked is True
    assert (await now_of(make, tokens, result.response)).last_seen is not None
