"""A user with as many sessions as a policy allows holds nobody up."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from redis.asyncio import Redis

from mpauthx_async import AuthResult, MPAuthX, RedisTokenStore, WeChatSimulator
from mpauthx_async.stores.conformance import new_session
from mpauthx_async.stores.conformance.examples import LARGEST, begin
from mpauthx_async.tokens.format import TokenSigner, nonce_of

DEVICE = "📱" * 50  # of as many bytes as a device may have
CALLS = 500
LOGINS = 99  # WeChat allows a user 100 in a minute


@pytest.fixture
async def auth(make: Callable[..., MPAuthX]) -> AsyncIterator[MPAuthX]:
    async with make(policy=LARGEST) as service:
        yield service


@pytest.fixture
async def full(auth: MPAuthX, wx: WeChatSimulator, redis: Redis) -> list[str]:
    """The tokens of Bob's 1,000 sessions."""
    await auth.authorize(wx.login("bob"))
    signer = TokenSigner(app_id=wx.app_id, sku="shop", keys=[wx.app_secret])
    batch = [
        new_session("bob", policy=LARGEST, device=DEVICE, device_kind=DEVICE) for _ in range(1000)
    ]
    begun = await begin(RedisTokenStore(redis), *batch)
    return [signer.mint("bob", session.id) for session in begun]


async def test_concurrent_reads_all_succeed(auth: MPAuthX, full: list[str]) -> None:
    sessions = await asyncio.gather(*map(auth.session, full[:CALLS]))
    assert [session and session.device for session in sessions] == [DEVICE] * CALLS


async def test_concurrent_lists_all_succeed(auth: MPAuthX, full: list[str]) -> None:
    lists = await asyncio.gather(*(auth.sessions("bob") for _ in range(CALLS)))
    assert {len(sessions) for sessions in lists} == {1000}


async def test_concurrent_revocations_by_id_never_list_the_sessions(
    auth: MPAuthX, full: list[str], redis: Redis
) -> None:
    await redis.config_resetstat()
    ids = [nonce_of(token) for token in full[:CALLS]]
    ended = await asyncio.gather(*(auth.revoke_session("bob", one) for one in ids))
    assert ended == [True] * CALLS
    assert "cmdstat_hgetall" not in await redis.info("commandstats")
    assert len(await auth.sessions("bob")) == 1000 - CALLS


async def test_concurrent_rotations_all_succeed(auth: MPAuthX, full: list[str]) -> None:
    rotated = await asyncio.gather(*map(auth.rotate, full[:CALLS]))
    tokens = [result.response for result in rotated]
    assert await asyncio.gather(*map(auth.is_token_valid, tokens)) == [True] * CALLS
    assert len(await auth.sessions("bob")) == 1000


async def test_concurrent_revocations_all_succeed(auth: MPAuthX, full: list[str]) -> None:
    assert await asyncio.gather(*map(auth.revoke, full[:CALLS])) == [True] * CALLS
    assert len(await auth.sessions("bob")) == 1000 - CALLS


async def test_concurrent_logins_all_succeed(
    auth: MPAuthX, full: list[str], wx: WeChatSimulator
) -> None:
    logins = [auth.authorize(wx.login("bob"), device=DEVICE) for _ in range(LOGINS)]
    begun = await asyncio.gather(*logins)
    assert all(isinstance(result, AuthResult) for result in begun)
    ids = {session.id for session in await auth.sessions("bob")}
    assert len(ids) == 1000
    assert {result.session.id for result in begun} <= ids
