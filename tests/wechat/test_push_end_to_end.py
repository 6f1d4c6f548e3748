"""What WeChat pushes, done by the service and its stores."""

from mpauthx_async import MPAuthX, WeChatSimulator, parse_push_event
from tests.helpers.clock import Clock
from tests.helpers.logins import login


async def test_what_a_user_withdraws_is_cleared_and_the_rest_stays(
    auth: MPAuthX, wx: WeChatSimulator, clock: Clock
) -> None:
    keys = {"token": wx.push.token, "aes_key": wx.push.aes_key}
    wx.set_profile("bob", nickName="Bob", avatarUrl="https://a/1", city="Guangzhou")
    token = (await auth.authorize(*login(wx))).response
    for revoked, *profile in (
        (8, "Bob", "https://a/1", "Guangzhou"),
        (19, None, "https://a/1", "Guangzhou"),
        (6, None, None, "Guangzhou"),
        (301, None, None, None),
    ):
        pushed = wx.push_event("user_authorization_revoke", "bob", revoke_info=[revoked])
        event = parse_push_event(pushed.query, pushed.body, **keys, now=clock.now)
        await auth.handle_push_event(event)
        user = (await auth.authorize(wx.login("bob"))).user
        assert [user.nick_name, user.avatar_url, user.city] == profile
    assert await auth.is_token_valid(token)
