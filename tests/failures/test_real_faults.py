"""Faults that were met by attacking the library: each once, with the right answer."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from mpauthx_async import (
    ComponentExchange,
    ConnectionFailedError,
    InvalidResponseError,
    InvalidTokenError,
    MPAuthX,
    RedisTokenStore,
    SqliteUserStore,
    StoreError,
    TokenStatus,
    WeChatSimulator,
)
from mpauthx_async.events import TokensValidated
from mpauthx_async.simulator import Fault
from mpauthx_async.stores.conformance import new_session
from mpauthx_async.wechat import transport
from tests.helpers.redis_server import RedisServer
from tests.helpers.scripted_server import asking
from tests.helpers.service_calls import hear, log_in, of_kind
from tests.helpers.sqlite_files import run

Make = Callable[..., MPAuthX]


@pytest.mark.parametrize("column", ["expires_at", "ended", "generation"])
@pytest.mark.parametrize("damage", ["'text'", "''", "x'fffe'"])
async def test_a_damaged_row_is_a_store_error_of_its_own_token(
    make: Make, wx: WeChatSimulator, tmp_path: Path, column: str, damage: str
) -> None:
    file = tmp_path / "tokens.db"
    async with make(tokens=f"sqlite:///{file}") as auth:
        damaged, whole = [(await log_in(auth, wx, user)).token for user in ("bob", "carol")]
        run(file, f"UPDATE mpauthx_session SET {column} = {damage} WHERE user_id = 'bob'")
        calls: list[Callable[[str], Awaitable[object]]] = [
            *(auth.is_token_valid, auth.authenticate, auth.token_status, auth.session, auth.rotate),
            lambda token: auth.verify_raw_data(token, "{}", "signature"),
        ]
        for call in calls:
            with pytest.raises(StoreError) as caught:
                await call(damaged)
            assert not caught.value.retryable
            assert await auth.is_token_valid(whole)


async def test_looks_a_dead_token_up_once(make: Make, wx: WeChatSimulator, tmp_path: Path) -> None:
    async with make(tokens=f"sqlite:///{tmp_path}/tokens.db") as auth:
        token = (await log_in(auth, wx)).token
        await auth.revoke(token)
        heard = hear(auth)
        with pytest.raises(InvalidTokenError) as caught:
            await auth.authenticate(token)
    assert caught.value.status is TokenStatus.revoked
    assert [(event.valid, event.refused) for event in of_kind(heard, TokensValidated)] == [(0, 1)]


async def test_an_answer_without_its_fields_is_logged(
    make: Make, wx: WeChatSimulator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with make(tokens=f"sqlite:///{tmp_path}/tokens.db") as auth:
        wx.fail_next(Fault.NO_FIELDS)
        with pytest.raises(InvalidResponseError) as caught:
            await log_in(auth, wx)
    assert str(caught.value) in caplog.text


async def test_a_platform_that_hangs_has_an_end(
    wx: WeChatSimulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "MAX_WAIT_SECONDS", 0.1)

    async def hang() -> str:
        await asyncio.Event().wait()
        raise AssertionError("Nobody sets that event.")

    async with asking(wx.url, exchange=ComponentExchange("wx2", hang)) as api:
        with pytest.raises(ConnectionFailedError) as caught:
            await api.code_to_session("code")
    assert not caught.value.sent


async def test_a_full_redis_is_not_ready(server: RedisServer, admin: Redis) -> None:
    async with RedisTokenStore(server.url) as store:
        await store.check()
        await admin.config_set("maxmemory", 1000)
        with pytest.raises(StoreError, match="memory of Redis is full"):
            await store.check()


async def test_a_damaged_position_hides_nobody_who_is_online(redis: Redis) -> None:
    store = RedisTokenStore(redis)
    known = [new_session(f"user-{i}") for i in range(20)]
    await store.issue(known)
    await redis.zadd((await redis.keys("mpauthx:o:*"))[0], {"damaged": float("inf")})
    page = await store.online("shop", cursor=None, limit=100)
    assert {new.ref.user_id for new in known} <= set(page.user_ids)


async def test_queries_of_one_read_see_one_state(tmp_path: Path) -> None:
    file = tmp_path / "users.db"
    async with SqliteUserStore(file) as users:
        await users.get(["bob"])

        def read_twice(cursor: sqlite3.Cursor) -> tuple[object, object]:
            first = cursor.execute("SELECT count(*) FROM sqlite_master").fetchone()
            run(file, "CREATE TABLE another (id)")
            return first, cursor.execute("SELECT count(*) FROM sqlite_master").fetchone()

        first, second = await users._database.read(read_twice)
    assert first == second
