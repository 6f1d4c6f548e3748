"""Which sessions of a user live side by side."""

import asyncio
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from mpauthx_async import (
    ConfigurationError,
    DecryptionError,
    LoginPolicy,
    TokenStatus,
    WeChatSimulator,
)
from tests.helpers.logins import requests_at
from tests.helpers.near_services import Make
from tests.helpers.service_calls import devices, log_in

SHARED = LoginPolicy(shared_token=True)


async def test_a_login_over_max_sessions_replaces_the_oldest(
    make: Make, tokens: str, wx: WeChatSimulator
) -> None:
    async with make(tokens=tokens, policy=LoginPolicy(max_sessions=3)) as auth:
        hers = await log_in(auth, wx, "eve")
        results = [await log_in(auth, wx, device=str(number)) for number in range(5)]
        answers = [await auth.is_token_valid(result.response) for result in results]
        assert answers == [False, False, True, True, True]
        assert devices(await auth.sessions("bob")) == ["4", "3", "2"]
        assert await auth.token_status(results[0].response) is TokenStatus.replaced
        assert await auth.is_token_valid(hers.response)
        await auth.revoke(results[3].response)
        assert devices(await auth.sessions("bob")) == ["4", "2"]
        await log_in(auth, wx, device="5")
        assert devices(await auth.sessions("bob")) == ["5", "4", "2"]


# One token for all


async def test_a_shared_token_is_not_rotated(make: Make, tokens: str, wx: WeChatSimulator) -> None:
    async with make(tokens=tokens) as auth:
        rotated = await auth.rotate((await log_in(auth, wx)).response)
    async with make(tokens=tokens, policy=SHARED) as auth:
        assert (await log_in(auth, wx)).response == rotated.response
        with pytest.raises(ConfigurationError, match="share"):
            await auth.rotate(rotated.response)
        assert await auth.is_token_valid(rotated.response)


async def test_a_cancelled_login_keeps_the_shared_token(
    make: Make, tokens: str, wx: WeChatSimulator
) -> None:
    async with make(tokens=tokens, policy=SHARED) as auth:
        token = (await log_in(auth, wx)).response
        wx.latency = 0.1
        leaving = asyncio.create_task(log_in(auth, wx))
        staying = asyncio.create_task(log_in(auth, wx))
        await requests_at(wx, 3)
        leaving.cancel()
        assert (await staying).response == token
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await auth.close()
    async with make(tokens=tokens, policy=SHARED) as successor:
        assert await successor.is_token_valid(token)


async def test_the_shared_token_opens_what_the_newest_login_sealed(
    make: Make, tokens: str, wx: WeChatSimulator
) -> None:
    async with make(tokens=tokens, policy=SHARED) as auth:
        token = (await log_in(auth, wx)).response
        earlier = wx.seal("bob", {"openGId": "g1"})
        assert (await auth.decrypt(token, *earlier))["openGId"] == "g1"
        for number in range(2, 4):
            assert (await log_in(auth, wx)).response == token
            sealed = wx.seal("bob", {"openGId": f"g{number}"})
            assert (await auth.decrypt(token, *sealed))["openGId"] == f"g{number}"
            info = wx.get_user_info("bob")
            assert await auth.verify_raw_data(token, info.raw_data, info.signature)
        with pytest.raises(DecryptionError):
            await auth.decrypt(token, *earlier)


async def test_the_shared_token_of_a_user_with_a_union_id_opens_what_is_sealed(
    make: Make, tokens: str, wx: WeChatSimulator
) -> None:
    async with make(tokens=tokens, policy=SHARED) as auth:
        results = [await log_in(auth, wx, union_id="bob-everywhere") for _ in range(2)]
        assert results[0].response == results[1].response
        sealed = wx.seal("bob", {"openGId": "g1"})
        assert (await auth.decrypt(results[0].response, *sealed))["openGId"] == "g1"
        assert await auth.check_session_key(results[0].response)


# Policies that can be


def test_a_policy_does_not_change() -> None:
    policy = LoginPolicy(max_sessions=3)
    with pytest.raises(FrozenInstanceError):
        policy.max_sessions = 4
    assert policy == LoginPolicy(max_sessions=3)
    assert LoginPolicy() == LoginPolicy(100, one_per_kind=False, shared_token=False)


@pytest.mark.parametrize(
    "rules",
    [
        *({"max_sessions": number} for number in (0, -1, 1.5, "3", True, None, 1001)),
        *({"one_per_kind": flag} for flag in ("yes", None)),
        {"shared_token": 1},
        {"shared_token": True, "one_per_kind": True},
    ],
)
def test_rejects_conflicting_or_invalid_rules(rules: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        LoginPolicy(**rules)
    assert caught.value.code == 6101
