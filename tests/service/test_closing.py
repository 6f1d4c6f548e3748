"""Closing: what is in flight finishes or is cut off."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mpauthx_async import ClosedError, Connections, MPAuthX, ParameterError, WeChatSimulator
from tests.helpers.logins import Gated, requests_at
from tests.helpers.memory_stores import MemoryTokens, MemoryUsers
from tests.helpers.redis_server import RedisServer
from tests.helpers.service_calls import log_in
from tests.helpers.web_logins import service as web_service

Make = Callable[..., MPAuthX]


@pytest.fixture
def make(make: Make, tmp_path: Path) -> Make:
    tokens = f"sqlite:///{tmp_path}/tokens.db"
    return lambda **changes: make(**{"users": MemoryUsers(), "tokens": tokens} | changes)


async def is_cut_off(call: "asyncio.Task[Any]") -> bool:
    """Whether a call raised ClosedError, and its own task was left as it was."""
    with pytest.raises(ClosedError, match="Create a new one"):
        await call
    return call.cancelling() == 0


@pytest.mark.parametrize("timeouts", [[0], [None, 0, 60]], ids=["one close", "the shortest counts"])
@pytest.mark.parametrize("name", ["is_token_valid", "authenticate", "token_status", "online_count"])
async def test_a_call_to_a_store_that_takes_longer_than_the_timeout_is_cut_off(
    make: Make, wx: WeChatSimulator, name: str, timeouts: list[float | None]
) -> None:
    tokens = Gated(MemoryTokens(), "lookup", "online_count")
    auth = make(tokens=tokens)
    token = (await log_in(auth, wx)).response
    arguments = () if name == "online_count" else (token,)
    call = asyncio.create_task(getattr(auth, name)(*arguments))
    await tokens.reached.wait()
    await asyncio.gather(*(auth.close(timeout=timeout) for timeout in timeouts))
    assert await is_cut_off(call)


@pytest.mark.parametrize("name", ["authorize", "authorize_web", "access_token"])
async def test_a_call_to_wechat_that_takes_longer_is_cut_off(
    make: Make, wx: WeChatSimulator, name: str
) -> None:
    auth = make()
    codes = {"authorize": [wx.login("bob")], "authorize_web": [wx.web_login("bob")]}
    wx.latency = 60
    call = asyncio.create_task(getattr(auth, name)(*codes.get(name, ())))
    await requests_at(wx, 1)
    await auth.close(timeout=0)
    assert await is_cut_off(call)


@pytest.mark.parametrize("timeout", ["5", float("nan"), True, 1j])
async def test_an_invalid_timeout_closes_nothing(
    make: Make, wx: WeChatSimulator, timeout: Any
) -> None:
    auth = make()
    with pytest.raises(ParameterError, match="timeout must be"):
        await auth.close(timeout)
    await log_in(auth, wx)
    await auth.close()


@pytest.mark.parametrize("timeout", [-1, 10**400, float("inf")])
async def test_a_timeout_may_be_any_number(make: Make, wx: WeChatSimulator, timeout: Any) -> None:
    auth = make()
    await log_in(auth, wx)
    await auth.close(timeout)
    with pytest.raises(ClosedError):
        await auth.check()


async def test_a_web_login_that_takes_longer_is_cut_off(
    wx: WeChatSimulator, tmp_path: Path
) -> None:
    oauth = web_service(wx, f"sqlite:///{tmp_path}/oauth.db")
    code = wx.web_login("bob")
    wx.latency = 60
    call = asyncio.create_task(oauth.get_access_token(code))
    await requests_at(wx, 1)
    await oauth.close(timeout=0)
    assert await is_cut_off(call)


async def test_closing_goes_on_when_it_is_cancelled_and_may_be_called_again(
    make: Make, wx: WeChatSimulator
) -> None:
    tokens = Gated(MemoryTokens(), "lookup", "online_count")
    connections = Connections()
    auth = make(tokens=tokens)
    token = (await log_in(auth, wx)).response
    call = asyncio.create_task(auth.is_token_valid(token))
    await tokens.reached.wait()
    closing = asyncio.create_task(auth.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    tokens.gate.set()
    assert await call is True
    await asyncio.gather(auth.close(), auth.close(timeout=5))
    with pytest.raises(ClosedError):
        _ = auth._parts.connections.http
    await connections.close()


async def test_the_near_cache_alone_answers_again_after_the_last_listener_has_left(
    make: Make, redis_server: RedisServer
) -> None:
    async with make(tokens=f"{redis_server.url}?near_cache=10") as auth:
        near = auth._validator._near
        assert auth._validator.known == near.known
        leave = [auth.subscribe(print), auth.subscribe(print)]
        leave[0]()
        assert auth._validator.known != near.known
        leave[1]()
        assert auth._validator.known == near.known
