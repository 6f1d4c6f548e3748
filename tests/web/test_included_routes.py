"""The routes that an app asks for, in each adapter."""

import re
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from mpauthx_async import ConfigurationError, MPAuthX, WeChatOAuth, WeChatSimulator
from mpauthx_async.web import OAuthRoutes, PushRoutes
from mpauthx_async.web.authenticator import Authenticator
from mpauthx_async.web.routes import Routes
from tests.helpers.redis_server import RedisServer
from tests.helpers.web_logins import service as web_service
from tests.web.apps import World
from tests.web.raw_client import bearer, send

WEB, WEB_SECRET = "wxweb", "websecret-websecret"
CALLBACK = "https://shop.example/oauth/callback"

each_adapter = pytest.mark.parametrize(
    "framework", ["starlette", "fastapi", "aiohttp", "django"], indirect=True
)


@pytest.fixture
async def wx() -> AsyncIterator[WeChatSimulator]:
    async with WeChatSimulator(other_apps={WEB: WEB_SECRET}) as simulator:
        yield simulator


@pytest.fixture
async def oauth(wx: WeChatSimulator, redis_server: RedisServer) -> AsyncIterator[WeChatOAuth]:
    names = {"app_id": WEB, "app_secret": WEB_SECRET}
    async with web_service(wx, redis_server.url, **names) as oauth:
        yield oauth


@pytest.fixture
async def auth(make: Callable[..., MPAuthX], oauth: WeChatOAuth) -> AsyncIterator[MPAuthX]:
    async with make(web=oauth) as service:
        yield service


@pytest.fixture
def world(auth: MPAuthX, oauth: WeChatOAuth, wx: WeChatSimulator) -> World:
    ours = {OAuthRoutes(oauth, CALLBACK), PushRoutes(wx.push.token, wx.push.aes_key)}
    return World(auth, {"include": {"phone", "forget", *ours}, "cookies": True})


@each_adapter
async def test_gives_the_phone_number(port: int, token: str, wx: WeChatSimulator) -> None:
    body = b'{"code": "%s"}' % wx.get_phone_number("bob").code.encode()
    assert (await send(port, "POST", "/phone", body=body)).status == 401
    reply = await send(port, "POST", "/phone", bearer(token), body)
    number = dict.fromkeys(("phone_number", "pure_phone_number"), "13800138000")
    assert reply.json()["response"] == {**number, "country_code": "86"}


@each_adapter
async def test_forgets_the_user(port: int, token: str, auth: MPAuthX) -> None:
    assert (await send(port, "DELETE", "/me")).status == 401
    reply = await send(port, "DELETE", "/me", bearer(token))
    assert reply.json()["response"] is True
    assert not await auth.is_token_valid(token)


async def back_from_wechat(port: int, query: str = "", cookie: str = "") -> tuple[str, str]:
    """Begin a login, and visit WeChat's page; gives where it sends the browser, and its cookie."""
    headers = [("Cookie", cookie)] if cookie else []
    start = await send(port, "GET", f"/oauth/start{query}", headers)
    assert start.status == 303
    cookie = start.header("set-cookie") or ""
    assert cookie.startswith("__Host-mpauthx-oauth=")
    assert cookie.endswith("; Path=/; Secure; HttpOnly; SameSite=Lax")
    async with (
        aiohttp.ClientSession() as wechat,
        wechat.get(start.header("location") or "", allow_redirects=False) as page,
    ):
        back = urlsplit(page.headers["Location"])
    assert f"https://{back.netloc}{back.path}" == CALLBACK
    return f"{back.path}?{back.query}", cookie.partition(";")[0]


@each_adapter
async def test_logs_in_by_wechats_page(port: int, auth: MPAuthX, wx: WeChatSimulator) -> None:
    wx.visit_as("bob")
    back, cookie = await back_from_wechat(port, "?next=/cart")
    reply = await send(port, "GET", back, [("Cookie", cookie)])
    assert (reply.status, reply.header("location")) == (303, "/cart")
    (ours,) = reply.headers["set-cookie"]
    token = ours.removeprefix("__Host-mpauthx=").partition(";")[0]
    assert (await auth.authenticate(token)).user_id == "bob"
    again = await send(port, "GET", back, [("Cookie", cookie)])
    assert (again.status, again.json()["status_code"]) == (400, 6102)


@each_adapter
async def test_another_browser_does_not_finish_a_login(port: int, wx: WeChatSimulator) -> None:
    wx.visit_as("eve")
    back, _ = await back_from_wechat(port)
    _, cookie_of_bob = await back_from_wechat(port)
    for cookies in ([], [("Cookie", cookie_of_bob)]):
        reply = await send(port, "GET", back, cookies)
        assert (reply.status, "set-cookie" in reply.headers) == (400, False)


@each_adapter
async def test_a_login_leads_to_no_other_site(port: int) -> None:
    for path in ("//evil", "https://evil", "/%5Cevil", "cart", "", "/a%0Ab"):
        reply = await send(port, "GET", f"/oauth/start?next={path}")
        assert reply.status == 400


@each_adapter
async def test_logins_in_two_tabs_of_a_browser_both_succeed(port: int, wx: WeChatSimulator) -> None:
    wx.visit_as("bob")
    first, cookie = await back_from_wechat(port, "?next=/first")
    second, cookie = await back_from_wechat(port, "?next=/second", cookie)
    for back, path in ((first, "/first"), (second, "/second")):
        reply = await send(port, "GET", back, [("Cookie", cookie)])
        assert (reply.status, reply.header("location")) == (303, path)


@each_adapter
@pytest.mark.parametrize("value", ["", "a", "a" * 44, "a" * 42 + "%"])
async def test_a_login_replaces_a_cookie_that_is_not_ours(
    port: int, wx: WeChatSimulator, value: str
) -> None:
    wx.visit_as("bob")
    _, cookie = await back_from_wechat(port, cookie=f"__Host-mpauthx-oauth={value}")
    assert re.fullmatch(r"__Host-mpauthx-oauth=[\w-]{43}", cookie)
    assert cookie != f"__Host-mpauthx-oauth={value}"


@each_adapter
async def test_takes_what_wechat_pushes(
    port: int, wx: WeChatSimulator, auth: MPAuthX, token: str
) -> None:
    challenge = wx.push.challenge()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as wechat:
        async with wechat.get("/wechat/push", params=challenge) as answer:
            assert await answer.text() == challenge["echostr"]
            assert answer.content_type == "text/plain"
        pushed = wx.push_event("user_authorization_cancellation", "bob")
        async with wechat.post("/wechat/push", params=pushed.query, data=pushed.body) as answer:
            assert (answer.status, await answer.text()) == (200, "success")
        assert not await auth.is_token_valid(token)
        async with wechat.post("/wechat/push", params=pushed.query, data=pushed.body) as answer:
            assert (answer.status, (await answer.json())["status_code"]) == (400, 6108)


@each_adapter
async def test_a_url_with_a_parameter_twice_is_a_400(port: int) -> None:
    for query in ("next=/a&next=/b", "&".join(f"a{number}=" for number in range(100))):
        assert (await send(port, "GET", f"/oauth/start?{query}")).status == 400


async def test_routes_that_were_not_asked_for_are_not_there(auth: MPAuthX) -> None:
    assert {(route.method, route.path) for route in Routes(Authenticator(auth))} == {
        *(("POST", "/login"), ("POST", "/rotate"), ("POST", "/logout")),
        *(("GET", "/me"), ("GET", "/sessions"), ("DELETE", "/sessions/{session_id}")),
    }


@pytest.mark.parametrize("include", ["refresh", {"ban"}, {1}, {None}, None, 5])
async def test_nothing_else_can_be_asked_for(auth: MPAuthX, include: Any) -> None:
    with pytest.raises(ConfigurationError, match="include m"):
        Routes(Authenticator(auth), include)


def test_settings_keep_their_secrets() -> None:
    assert "secret" not in repr(PushRoutes("secret", "secret".ljust(43, "A")))


@pytest.mark.parametrize(
    ("redirect_uri", "scope"),
    [("shop.example/callback", "snsapi_login"), (CALLBACK, "snsapi"), (None, "snsapi_base")],
)
async def test_the_operators_settings_are_checked_at_once(
    oauth: WeChatOAuth, redirect_uri: str, scope: Any
) -> None:
    with pytest.raises(ConfigurationError):
        OAuthRoutes(oauth, redirect_uri, scope)


@pytest.mark.parametrize(("token", "aes_key"), [("", None), (None, None), ("t", "short")])
def test_push_settings_are_checked_at_once(token: str, aes_key: str | None) -> None:
    with pytest.raises(ConfigurationError):
        PushRoutes(token, aes_key)
