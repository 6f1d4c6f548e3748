"""What WeChat pushes, done by the service and its stores: users forgotten, profiles cleared."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from mpauthx_async import (
    BannedError,
    InvalidPushEventError,
    MPAuthX,
    SqliteUserStore,
    WeChatSimulator,
    parse_push_event,
)
from mpauthx_async.events import ProfileCleared, PushEventReceived, UserForgotten
from tests.helpers.logins import login
from tests.helpers.service_calls import hear, of_kind

REVOKE, CANCEL = "user_authorization_revoke", "user_authorization_cancellation"


@pytest.fixture
async def auth(make: Callable[..., MPAuthX], tokens: str, redis: Redis) -> AsyncIterator[MPAuthX]:
    async with make(tokens=tokens) as service:
        yield service


async def push(
    auth: MPAuthX, wx: WeChatSimulator, kind: str, *revoke_info: int, mode: str = "safe"
) -> None:
    request = wx.push_event(kind, "bob", revoke_info=revoke_info, mode=mode)
    aes_key = None if mode == "plain" else wx.push.aes_key
    event = parse_push_event(request.query, request.body, token=wx.push.token, aes_key=aes_key)
    await auth.handle_push_event(event)


async def test_a_user_with_a_closed_account_is_forgotten(
    auth: MPAuthX, wx: WeChatSimulator, tmp_path: Path
) -> None:
    heard = hear(auth)
    result = await auth.authorize(wx.login("bob", "union-of-bob"))
    await push(auth, wx, CANCEL)
    assert not await auth.is_token_valid(result.response)
    assert await auth.sessions("union-of-bob") == []
    assert await auth.online_count() == 0
    async with SqliteUserStore(tmp_path / "users.db") as users:
        assert await users.get(["bob", "union-of-bob"]) == [None, None]
    assert (await auth.authorize(wx.login("bob"))).is_new_user
    await auth.close()
    assert len(of_kind(heard, UserForgotten)) == len(of_kind(heard, PushEventReceived)) == 1


async def test_closing_an_account_does_not_lift_a_ban(auth: MPAuthX, wx: WeChatSimulator) -> None:
    await auth.authorize(wx.login("bob"))
    await auth.ban("bob", reason="spam")
    await push(auth, wx, CANCEL)
    with pytest.raises(BannedError):
        await auth.authorize(wx.login("bob"))


async def test_what_a_user_withdraws_is_cleared_and_the_rest_stays(
    auth: MPAuthX, wx: WeChatSimulator
) -> None:
    heard = hear(auth)
    wx.set_profile("bob", nickName="Bob", avatarUrl="https://a/1", city="Guangzhou")
    token = (await auth.authorize(*login(wx))).response
    for revoke_info, nick_name, avatar_url, city in (
        ((8,), "Bob", "https://a/1", "Guangzhou"),
        ((19,), None, "https://a/1", "Guangzhou"),
        ((6,), None, None, "Guangzhou"),
        ((301,), None, None, None),
    ):
        await push(auth, wx, REVOKE, *revoke_info)
        user = (await auth.authorize(wx.login("bob"))).user
        assert (user.nick_name, user.avatar_url, user.city) == (nick_name, avatar_url, city)
    assert await auth.is_token_valid(token)
    await auth.close()
    assert len(of_kind(heard, ProfileCleared)) == 3
    assert len(of_kind(heard, PushEventReceived)) == 4


async def test_a_forged_event_in_plain_mode_erases_nothing(
    auth: MPAuthX, wx: WeChatSimulator
) -> None:
    token = (await auth.authorize(wx.login("bob"))).response
    with pytest.raises(InvalidPushEventError, match="safe mode"):
        await push(auth, wx, CANCEL, mode="plain")
    assert await auth.is_token_valid(token)
