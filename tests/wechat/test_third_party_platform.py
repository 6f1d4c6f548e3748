"""A third-party platform that acts for an app: its web logins, and the app's access token."""

from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest
from redis.asyncio import Redis

from mpauthx_async import (
    ComponentExchange,
    ConfigurationError,
    MiniProgramExchange,
    MPAuthX,
    OAuthUser,
    WeChatAPIError,
    WeChatOAuth,
    WeChatSimulator,
    WeComExchange,
)
from mpauthx_async.models import PhoneNumber
from tests.helpers.clock import Clock
from tests.helpers.exchanges import errcode_of, giving
from tests.helpers.near_services import Make
from tests.helpers.redis_server import RedisServer
from tests.helpers.simulator_client import Client
from tests.helpers.web_logins import service as web_service

PLATFORM: dict[str, Any] = {"component_app_id": "wx0", "access_token": giving("unused")}
UNUSED_SECRET = "unused-secret-of-the-app"


class Platform:
    """Keeps the tokens of a third-party platform, and counts how often each was asked for."""

    def __init__(self, wx: WeChatSimulator) -> None:
        self.asked: list[str] = []
        self._wx = wx

    @property
    def exchange(self) -> ComponentExchange:
        return ComponentExchange(
            self._wx.component_app_id,
            self.access_token,
            authorizer_access_token=self.authorizer_access_token,
        )

    async def access_token(self) -> str:
        self.asked.append("component")
        return self._wx.component_access_token

    async def authorizer_access_token(self) -> str:
        self.asked.append("authorizer")
        return self._wx.authorizer_access_token()


@pytest.fixture
def platform(wx: WeChatSimulator) -> Platform:
    return Platform(wx)


@pytest.fixture
async def auth(make: Make, platform: Platform) -> AsyncIterator[MPAuthX]:
    async with make(app_secret=UNUSED_SECRET, exchange=platform.exchange) as service:
        yield service


@pytest.fixture
async def oauth(
    wx: WeChatSimulator, platform: Platform, redis: Redis, redis_server: RedisServer
) -> AsyncIterator[WeChatOAuth]:
    options = {"app_secret": UNUSED_SECRET, "exchange": platform.exchange}
    async with web_service(wx, redis_server.url, wx._clock, **options) as service:
        yield service


# The app's access token


async def test_the_authorizer_access_token_serves_all_calls_that_need_one(
    auth: MPAuthX, wx: WeChatSimulator, platform: Platform
) -> None:
    token = (await auth.authorize(wx.login("bob"))).token
    key = wx.get_latest_user_key("bob")
    assert await auth.get_phone_number(wx.get_phone_number("bob").code) == PhoneNumber(
        "13800138000", "13800138000", "86"
    )
    assert await auth.check_session_key(token) is True
    await auth.reset_session_key(token)
    assert await auth.check_session_key(token) is True
    assert (await auth.user_encrypt_keys(token))[0].encrypt_key == key.encrypt_key
    assert await auth.access_token() == wx.authorizer_access_token()
    assert platform.asked == ["component", *["authorizer"] * 6]
    assert not [request for request in wx.requests if request.path.startswith("/cgi-bin")]


async def test_a_refused_authorizer_token_is_fetched_again(make: Make, wx: WeChatSimulator) -> None:
    tokens = [wx.authorizer_access_token()]
    wx.expire_access_tokens()
    tokens.append(wx.authorizer_access_token())

    async def give() -> str:
        return tokens.pop(0)

    exchange = ComponentExchange(**PLATFORM, authorizer_access_token=give)
    wx.login("bob")
    async with make(exchange=exchange) as auth:
        await auth.get_phone_number(wx.get_phone_number("bob").code)
        assert tokens == []
        wx.expire_access_tokens()
        tokens.extend(["97_refused", "97_refused", "97_unused"])
        assert await errcode_of(auth.get_phone_number(wx.get_phone_number("bob").code)) == 40001
        assert tokens == ["97_unused"]


async def test_a_refusal_for_another_reason_is_not_repeated(
    auth: MPAuthX, wx: WeChatSimulator, platform: Platform
) -> None:
    assert await errcode_of(auth.get_phone_number("unknown")) == 40029
    assert platform.asked == ["authorizer"]


async def test_a_missing_authorizer_access_token_is_named(make: Make, wx: WeChatSimulator) -> None:
    exchange = ComponentExchange(wx.component_app_id, giving(wx.component_access_token))
    async with make(exchange=exchange) as auth:
        token = (await auth.authorize(wx.login("bob"))).token
        calls: tuple[Awaitable[object], ...] = (
            auth.get_phone_number("code"),
            auth.check_session_key(token),
            auth.reset_session_key(token),
            auth.user_encrypt_keys(token),
            auth.access_token(),
        )
        for call in calls:
            with pytest.raises(ConfigurationError, match="authorizer_access_token"):
                await call


@pytest.mark.parametrize("token", ["", None, "a\nb", "a\ufffdb"])
async def test_an_invalid_authorizer_token_is_a_configuration_error(
    make: Make, wx: WeChatSimulator, token: Any
) -> None:
    exchange = ComponentExchange(**PLATFORM, authorizer_access_token=giving(token))
    async with make(exchange=exchange) as auth:
        for call in (auth.access_token(), auth.get_phone_number("code")):
            with pytest.raises(ConfigurationError, match="authorizer_access_token must return"):
                await call
    assert not wx.requests


# Web logins


async def test_a_user_logs_in_on_a_page_of_an_official_account(
    oauth: WeChatOAuth, wx: WeChatSimulator, client: Client, platform: Platform
) -> None:
    wx.set_profile("bob", nickName="Bob")
    wx.visit_as("bob", "union-bob")
    url = oauth.get_authorize_url("https://shop.example/back", "a state", "snsapi_userinfo")
    assert url.endswith(f"&state=a%20state&component_appid={wx.component_app_id}#wechat_redirect")
    async with client.http.get(url, allow_redirects=False) as response:
        code = response.headers["Location"].partition("code=")[2].partition("&")[0]
    token = await oauth.get_access_token(code)
    assert (token.open_id, token.union_id) == ("bob", "union-bob")
    avatar_url = (
        "https://thirdwx.qlogo.cn/mmopen/vi_32/POgEwh4mIHO4nibH0KlMECNjjGxQUq24ZEaGT4po"
        "C6icRiccVGKSyXwibcPq4BWmiaIGuG1icwxaQX6grC9VemZoJ8rg/132"
    )
    expected = OAuthUser("bob", "union-bob", "Bob", 0, "", "", "", None, avatar_url)
    assert await oauth.get_user("bob") == expected
    assert [request.path for request in wx.requests] == [
        "/connect/oauth2/authorize",
        "/sns/oauth2/component/access_token",
        "/sns/userinfo",
    ]


async def test_a_page_of_another_platform_is_refused(
    oauth: WeChatOAuth, wx: WeChatSimulator, client: Client
) -> None:
    wx.visit_as("bob")
    url = oauth.get_authorize_url("https://shop.example/back")
    other = url.replace(wx.component_app_id, "wx-another-platform")
    async with client.http.get(other, allow_redirects=False) as response:
        assert "component_appid" in await response.text()


async def test_tokens_are_refreshed_through_the_platform(
    oauth: WeChatOAuth, wx: WeChatSimulator, clock: Clock
) -> None:
    first = await oauth.get_access_token(wx.web_login("bob"))
    clock.now += 7200
    assert (await oauth.get_user("bob")).open_id == "bob"
    second = await oauth.refresh_access_token(first.refresh_token)
    assert second.open_id == "bob"
    refreshes = [one for one in wx.requests if "refresh_token" in one.path]
    assert [(one.path, one.query["component_appid"]) for one in refreshes] == [
        ("/sns/oauth2/component/refresh_token", wx.component_app_id)
    ] * 2


async def test_one_exchange_serves_both_services(
    make: Make, oauth: WeChatOAuth, wx: WeChatSimulator, platform: Platform
) -> None:
    async with make(app_secret=UNUSED_SECRET, exchange=platform.exchange, web=oauth) as auth:
        first = await auth.authorize(wx.login("bob", "union-bob"))
        second = await auth.authorize_web(wx.web_login("bob", "union-bob"))
        assert (first.user.id, second.user.id) == ("union-bob", "union-bob")
    assert not [request for request in wx.requests if "secret" in request.query]


async def test_refusals_of_the_platform_reach_the_caller(
    wx: WeChatSimulator, redis_server: RedisServer
) -> None:
    exchange = ComponentExchange(wx.component_app_id, giving("unknown"))
    options = {"app_secret": UNUSED_SECRET, "exchange": exchange}
    async with web_service(wx, redis_server.url, **options) as oauth:
        for call in (
            oauth.get_access_token(wx.web_login("bob")),
            oauth.refresh_access_token("unknown"),
            oauth.get_session_key(wx.login("bob")),
        ):
            with pytest.raises(WeChatAPIError) as caught:
                await call
            assert caught.value.errcode == 40001
            assert "component_access_token" in caught.value.hint


async def test_a_mini_program_code_is_exchanged_through_the_platform(
    oauth: WeChatOAuth, wx: WeChatSimulator
) -> None:
    assert (await oauth.get_session_key(wx.login("bob"))).open_id == "bob"
    assert wx.requests[-1].path == "/sns/component/jscode2session"


def test_websites_have_no_logins_through_a_platform(redis_server: RedisServer) -> None:
    names = {"app_id": "wx0", "app_secret": UNUSED_SECRET, "tokens": redis_server.url}
    oauth = WeChatOAuth(**names, exchange=ComponentExchange(**PLATFORM))
    with pytest.raises(ConfigurationError, match="app_secret"):
        oauth.get_authorize_url_for_website("https://shop.example/back")
    own = WeChatOAuth(**names, exchange=MiniProgramExchange(UNUSED_SECRET))
    url = own.get_authorize_url_for_website("https://shop.example/back")
    assert url == WeChatOAuth(**names).get_authorize_url_for_website("https://shop.example/back")


async def test_an_exchange_without_web_logins_is_refused(redis_server: RedisServer) -> None:
    with pytest.raises(ConfigurationError, match="WeComExchange has no web logins"):
        WeChatOAuth(
            app_id="wx0",
            app_secret=UNUSED_SECRET,
            tokens=redis_server.url,
            exchange=WeComExchange(giving("unused")),
        )
