"""What WeChat pushes, done by the service and its stores: users forgotten, profiles cleared."""

from pathlib import Path

from mpauthx_async import (
    MPAuthX,
    SqliteUserStore,
    WeChatSimulator,
    parse_push_event,
)
from mpauthx_async.events import ProfileCleared, PushEventReceived, UserForgotten
from tests.helpers.logins import login
from tests.helpers.service_calls import hear, of_kind

REVOKE, CANCEL = "user_authorization_revoke", "user_authorization_cancellation"


async def push(auth: MPAuthX, wx: WeChatSimulator, kind: str, *revoke_info: int) -> None:
    request = wx.push_event(kind, "bob", revoke_info=revoke_info)
    keys = {"token": wx.push.token, "aes_key": wx.push.aes_key}
    event = parse_push_event(request.query, request.body, **keys)
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
