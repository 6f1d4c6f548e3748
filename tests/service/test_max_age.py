"""How old sealed data may be that a service decrypts."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from mpauthx_async import DecryptionError, MPAuthX, ParameterError, WeChatSimulator
from tests.helpers.clock import Clock
from tests.helpers.near_services import Make


@pytest.fixture
async def wx(clock: Clock) -> AsyncIterator[WeChatSimulator]:
    """WeChat, by the clock of the test."""
    async with WeChatSimulator(clock=clock) as simulator:
        yield simulator


@pytest.fixture
async def auth(make: Make, redis: Redis, clock: Clock) -> AsyncIterator[MPAuthX]:
    async with make(clock=clock) as service:
        yield service


async def test_decrypt_refuses_data_older_than_max_age(
    auth: MPAuthX, wx: WeChatSimulator, clock: Clock
) -> None:
    token = (await auth.authorize(wx.login("bob"))).response
    sealed, given = wx.seal("bob", {"openGId": "g1"}), wx.get_phone_number("bob")
    number = given.encrypted_data, given.iv
    clock.now += 60
    assert (await auth.decrypt(token, *sealed, max_age=60))["openGId"] == "g1"
    decrypted = await auth.decrypt_phone_number(token, *number, max_age=60)
    assert decrypted.phone_number == "13800138000"
    clock.now += 1
    for call in (
        auth.decrypt(token, *sealed, max_age=60),
        auth.decrypt_phone_number(token, *number, max_age=60),
    ):
        with pytest.raises(DecryptionError, match="get the data again"):
            await call
    assert (await auth.decrypt(token, *sealed))["openGId"] == "g1"


async def test_authorize_refuses_data_older_than_max_age_and_leaves_nothing(
    auth: MPAuthX, wx: WeChatSimulator, redis: Redis, clock: Clock
) -> None:
    code = wx.login("bob")
    info = wx.get_user_info("bob")
    clock.now += 61
    with pytest.raises(DecryptionError, match="get the data again"):
        await auth.authorize(code, info.encrypted_data, info.iv, max_age=60)
    assert await redis.dbsize() == 0

    code = wx.login("bob")
    info = wx.get_user_info("bob")
    clock.now += 60
    result = await auth.authorize(code, info.encrypted_data, info.iv, max_age=60)
    assert result.is_new_user


async def test_concurrent_logins_with_another_max_age_are_another_login(
    auth: MPAuthX, wx: WeChatSimulator, clock: Clock
) -> None:
    code = wx.login("bob")
    info = wx.get_user_info("bob")
    clock.now += 61
    await asyncio.gather(
        *(auth.authorize(code, info.encrypted_data, info.iv, max_age=age) for age in (60, 61, 60)),
        return_exceptions=True,
    )
    assert len(wx.requests) == 2


@pytest.mark.parametrize("max_age", [0, -1, True, "60", float("nan"), float("inf")])
async def test_rejects_bad_max_ages_first(auth: MPAuthX, wx: WeChatSimulator, max_age: Any) -> None:
    code = wx.login("bob")
    sealed = wx.seal("bob", {"openId": "bob"})
    for call in (
        auth.authorize(code, *sealed, max_age=max_age),
        auth.authorize(code, max_age=max_age),
        auth.decrypt("no token", *sealed, max_age=max_age),
        auth.decrypt_phone_number("no token", *sealed, max_age=max_age),
    ):
        with pytest.raises(ParameterError, match="max_age"):
            await call
    assert not wx.requests
