"""Web logins: URLs, tokens and profiles, against a simulated WeChat over HTTP."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
from redis.asyncio import Redis

from mpauthx_async import (
    ClosedError,
    CodeSession,
    ConfigurationError,
    ConnectionFailedError,
    Connections,
    DecryptionError,
    IdentityMismatchError,
    InvalidResponseError,
    NoOAuthTokenError,
    OAuthToken,
    OAuthUser,
    ParameterError,
    SnapshotUserError,
    StatusCode,
    StoreError,
    WeChatAPIError,
    WeChatOAuth,
    WeChatSimulator,
    WeChatUnavailableError,
)
from mpauthx_async.simulator import Fault
from tests.helpers.clock import Clock
from tests.helpers.logins import requests_to
from tests.helpers.memory_stores import DictOAuthTokenStore
from tests.helpers.redis_server import RedisServer
from tests.helpers.scripted_server import Answer, Server
from tests.helpers.secret_search import everything_told
from tests.helpers.service_calls import every_web_call
from tests.helpers.web_logins import service

REFRESH = "/sns/oauth2/refresh_token"
AUTHORIZE = "https://open.weixin.qq.com/connect/oauth2/authorize"
QRCONNECT = "https://open.weixin.qq.com/connect/qrconnect"
DAY = 86_400
SECRET, TOKENS = "a-secret-of-some-32-characters!!", "redis://localhost:1/0"
FIELDS = {"openid": "bob", "access_token": "a", "refresh_token": "r", "expires_in": 7200}


@pytest.fixture
async def wx(clock: Clock) -> AsyncIterator[WeChatSimulator]:
    async with WeChatSimulator(clock=clock) as simulator:
        yield simulator


@pytest.fixture
def kept_in(request: pytest.FixtureRequest) -> str:
    """Where web tokens are kept: in Redis, unless a test says otherwise."""
    return str(getattr(request, "param", "redis"))


IN_EVERY_STORE = pytest.mark.parametrize("kept_in", ["redis", "sqlite", "functions"], indirect=True)


@pytest.fixture
async def oauth(
    kept_in: str,
    wx: WeChatSimulator,
    clock: Clock,
    redis: Redis,
    redis_server: RedisServer,
    tmp_path: Path,
) -> AsyncIterator[WeChatOAuth]:
    kept = DictOAuthTokenStore()
    tokens = {
        "redis": redis_server.url,
        "sqlite": f"sqlite:///{tmp_path / 'oauth.db'}",
        "functions": (kept.get, kept.save),
    }
    async with service(wx, tokens[kept_in], clock) as oauth:
        yield oauth


class Gate:
    """Two functions, the second of which waits until it may save."""

    def __init__(self) -> None:
        self.kept = DictOAuthTokenStore()
        self.came = asyncio.Event()
        self.may_pass = asyncio.Event()
        self.may_pass.set()

    async def save(self, open_id: str, token: OAuthToken) -> None:
        self.came.set()
        await self.may_pass.wait()
        await self.kept.save(open_id, token)

    def shut(self) -> None:
        self.came.clear()
        self.may_pass.clear()

    @property
    def functions(self) -> Any:
        return self.kept.get, self.save


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def stale(wx: WeChatSimulator, clock: Clock, gate: Gate) -> AsyncIterator[WeChatOAuth]:
    """A service that saves behind the gate, and has an expired token of bob's."""
    async with service(wx, gate.functions, clock) as oauth:
        await oauth.get_access_token(wx.web_login("bob", "union-of-bob"))
        clock.now += 7200
        yield oauth


class TestURLs:
    @pytest.fixture
    def oauth(self) -> WeChatOAuth:
        return WeChatOAuth(app_id="wx520c15f417810387", app_secret=SECRET, tokens=TOKENS)

    def test_the_url_of_a_page_inside_wechat(self, oauth: WeChatOAuth) -> None:
        # WeChat's own example
        redirect_uri = (
            "https://chong.qq.com/php/index.php?d=&c=wxAdapter&m=mobileDeal"
            "&showwxpaytitle=1&vb2ctag=4_2030_5_1194_60"
        )
        assert oauth.get_authorize_url(redirect_uri, "123") == (
            f"{AUTHORIZE}?appid=wx520c15f417810387"
            "&redirect_uri=https%3A%2F%2Fchong.qq.com%2Fphp%2Findex.php%3Fd%3D%26c%3DwxAdapter"
            "%26m%3DmobileDeal%26showwxpaytitle%3D1%26vb2ctag%3D4_2030_5_1194_60"
            "&response_type=code&scope=snsapi_base&state=123#wechat_redirect"
        )

    def test_the_url_of_a_website(self, oauth: WeChatOAuth) -> None:
        state = "3d6be0a4035d839573b04816624a415e"
        url = oauth.get_authorize_url_for_website("https://passport.yhd.com/callback.do", state)
        assert url == (
            f"{QRCONNECT}?appid=wx520c15f417810387"
            "&redirect_uri=https%3A%2F%2Fpassport.yhd.com%2Fcallback.do"
            f"&response_type=code&scope=snsapi_login&state={state}#wechat_redirect"
        )

    def test_the_state_is_empty_by_default(self, oauth: WeChatOAuth) -> None:
        url = oauth.get_authorize_url("https://example.com", scope="snsapi_userinfo")
        assert url.endswith("&scope=snsapi_userinfo&state=#wechat_redirect")

    @pytest.mark.parametrize(
        ("redirect_uri", "encoded"),
        [
            ("https://a.cn/b?c=d&e=f#g", "https%3A%2F%2Fa.cn%2Fb%3Fc%3Dd%26e%3Df%23g"),
            ("https://a.cn/购?车=%20+", "https%3A%2F%2Fa.cn%2F%E8%B4%AD%3F%E8%BD%A6%3D%2520%2B"),
            ("http://a.cn:8080/😀", "http%3A%2F%2Fa.cn%3A8080%2F%F0%9F%98%80"),
            ("HTTPS://a.cn/-_.~!*'()", "HTTPS%3A%2F%2Fa.cn%2F-_.~!*'()"),
        ],
    )
    def test_redirect_uris_are_encoded_as_by_encodeuricomponent(
        self, oauth: WeChatOAuth, redirect_uri: str, encoded: str
    ) -> None:
        for make in (oauth.get_authorize_url, oauth.get_authorize_url_for_website):
            url = make(redirect_uri)
            assert f"&redirect_uri={encoded}&response_type=code&" in url
            assert parse_qs(urlsplit(url).query)["redirect_uri"] == [redirect_uri]

    @pytest.mark.parametrize("state", ["x" * 128, "购" * 42, "a b&c=d#e", "https://a.cn/?b=c"])
    def test_a_state_comes_back_as_it_was(self, oauth: WeChatOAuth, state: str) -> None:
        url = urlsplit(oauth.get_authorize_url("https://example.com", state))
        assert parse_qs(url.query)["state"] == [state]
        assert url.fragment == "wechat_redirect"

    @pytest.mark.parametrize("state", ["x" * 129, "购" * 43, "\ud800", None, 5])
    def test_rejects_a_state_that_wechat_refuses(self, oauth: WeChatOAuth, state: str) -> None:
        for make in (oauth.get_authorize_url, oauth.get_authorize_url_for_website):
            with pytest.raises(ParameterError, match="at most 128 bytes"):
                make("https://example.com", state)

    @pytest.mark.parametrize("scope", ["", "snsapi_login", "snsapi_base,snsapi_userinfo", None])
    def test_rejects_a_scope_that_the_page_lacks(self, oauth: WeChatOAuth, scope: str) -> None:
        with pytest.raises(ParameterError, match="snsapi_base or snsapi_userinfo"):
            oauth.get_authorize_url("https://example.com", scope=scope)
        if scope != "snsapi_login":
            with pytest.raises(ParameterError, match="must be snsapi_login"):
                oauth.get_authorize_url_for_website("https://example.com", scope=scope)

    @pytest.mark.parametrize(
        "redirect_uri",
        [
            *("", "example.com", "/callback", "javascript:alert(1)", "https://"),
            *("https://a.cn/\ud800", b"https://a.cn", None),
        ],
    )
    def test_rejects_an_invalid_redirect_uri(self, oauth: WeChatOAuth, redirect_uri: str) -> None:
        with pytest.raises(ParameterError, match="redirect_uri"):
            oauth.get_authorize_url(redirect_uri)

    @pytest.mark.parametrize("uri", [" https://a.cn", "https://a.cn\n", "https://a.cn/b c"])
    def test_white_space_in_a_redirect_uri_is_named(self, oauth: WeChatOAuth, uri: str) -> None:
        for make in (oauth.get_authorize_url, oauth.get_authorize_url_for_website):
            with pytest.raises(ParameterError, match="redirect_uri contains white space"):
                make(uri)

    @pytest.mark.parametrize("page_base", ["", "open.weixin.qq.com", "https://a.cn/?b", None])
    def test_rejects_an_invalid_page_base(self, page_base: str) -> None:
        with pytest.raises(ConfigurationError, match="page_base"):
            WeChatOAuth(app_id="wx0", app_secret=SECRET, tokens=TOKENS, page_base=page_base)


@pytest.mark.parametrize("website", [False, True], ids=["in WeChat", "website"])
@IN_EVERY_STORE
async def test_a_login_from_the_page_to_the_profile(
    oauth: WeChatOAuth, wx: WeChatSimulator, website: bool
) -> None:
    wx.visit_as("bob", "union-of-bob")
    wx.set_profile("bob", nickName="Bob 😀", gender=1, city="Guangzhou")
    state = oauth.create_state("/cart", session="cookie")
    back = "https://example.com/welcome?lang=zh#top"
    if website:
        url = oauth.get_authorize_url_for_website(back, state)
    else:
        url = oauth.get_authorize_url(back, state, "snsapi_userinfo")
    async with aiohttp.ClientSession() as browser:
        page = await browser.get(url, allow_redirects=False)
    came_back = parse_qs(urlsplit(page.headers["Location"]).query)
    assert came_back["lang"] == ["zh"]
    assert await oauth.verify_state(came_back["state"][0], session="cookie") == "/cart"
    user = await oauth.get_user_by_code(came_back["code"][0])
    assert (user.open_id, user.union_id, user.id) == ("bob", "union-of-bob", "union-of-bob")
    assert (user.nick_name, user.gender, user.city) == ("Bob 😀", 1, "Guangzhou")
    assert await oauth.get_user("bob") == user


class TestTokens:
    @IN_EVERY_STORE
    async def test_a_code_is_exchanged_once_and_the_token_saved(
        self, oauth: WeChatOAuth, wx: WeChatSimulator, clock: Clock
    ) -> None:
        code = wx.web_login("bob", "union-of-bob")
        token = await oauth.get_access_token(code)
        assert (token.open_id, token.union_id) == ("bob", "union-of-bob")
        assert token.scope == "snsapi_userinfo"
        assert (token.expires_in, token.created_at) == (7200, int(clock.now * 1000))
        assert not token.is_snapshot_user
        assert await oauth.verify_token("bob", token.access_token)
        assert (await oauth.get_user("bob")).open_id == "bob"
        assert await refusal(oauth.get_access_token(code)) == 40163

    async def test_rejects_expired_codes_and_codes_of_other_apps(
        self, oauth: WeChatOAuth, wx: WeChatSimulator, clock: Clock
    ) -> None:
        code = wx.web_login("bob")
        clock.now += 301
        assert await refusal(oauth.get_access_token(code)) == 40029
        assert await refusal(oauth.get_access_token("of-somebody-else")) == 40029
        assert await refusal(oauth.get_access_token(wx.login("bob"))) == 40029

    @pytest.mark.parametrize("code", ["", "a b", "x" * 513, None, b"code"])
    async def test_does_not_send_an_invalid_code(
        self, oauth: WeChatOAuth, wx: WeChatSimulator, code: str
    ) -> None:
        for exchange in (oauth.get_access_token, oauth.get_user_by_code, oauth.get_session_key):
            with pytest.raises(ParameterError, match="code is required"):
                await exchange(code)
        assert not wx.requests

    @IN_EVERY_STORE
    async def test_a_token_is_refreshed_and_saved(
        self, oauth: WeChatOAuth, wx: WeChatSimulator, clock: Clock
    ) -> None:
        token = await oauth.get_access_token(wx.web_login("bob"))
        clock.now += 7200
        assert not token.is_valid(clock.now * 1000)
        fresh = await oauth.refresh_access_token(token.refresh_token)
        assert fresh.is_valid(clock.now * 1000)
        assert await oauth.verify_token("bob", fresh.access_token)
        assert not await oauth.verify_token("bob", token.access_token)
        await oauth.get_user("bob")
        assert len(requests_to(wx, REFRESH)) == 1

    async def test_a_refresh_token_that_has_expired_tells_to_authorize_again(
        self, oauth: WeChatOAuth, wx: WeChatSimulator, clock: Clock
    ) -> None:
        token = await oauth.get_access_token(wx.web_login("bob"))
        clock.now += 30 * DAY + 1
        for refresh_token, errcode in ((token.refresh_token, 42002), ("unknown", 40030)):
            with pytest.raises(WeChatAPIError, match=r"authorize\s+again") as caught:
                await oauth.refresh_access_token(refresh_token)
            assert caught.value.errcode == errcode

    @pytest.mark.parametrize("refresh_token", ["", "a b", "\ud800", None])
    async def test_does_not_send_an_invalid_refresh_token(
        self, oauth: WeChatOAuth, wx: WeChatSimulator, refresh_token: str
    ) -> None:
        with pytest.raises(ParameterError, match="refresh_token is required"):
            await oauth.refresh_access_token(refresh_token)
        assert not wx.requests

    def test_a_token_is_valid_until_it_expires(self) -> None:
        token = OAuthToken("bob", "access", "refresh", 7200, "snsapi_base", 1_000_000)
        assert token.is_valid(8_199_999)
        assert not token.is_valid(8_200_000)
        assert not token.is_valid()
        assert not replace(token, access_token="").is_valid(1_000_000)


class TestVerifyToken:
    async def test_a_token_is_valid_for_its_own_user_only(
        self, oauth: WeChatOAuth, wx: WeChatSimulator, clock: Clock
    ) -> None:
        token = await oauth.get_access_token(wx.web_login("bob"))
        assert await oauth.verify_token("bob", token.access_token) is True
        assert await oauth.verify_token("eve", token.access_token) is False
        assert await oauth.verify_token("bob", "forged") is False
        clock.now += 7200
        assert await oauth.verify_token("bob", token.access_token) is False

    @pytest.mark.parametrize("errcode", [40001, 40003, 40014, 42001, 42007])
    async def test_verify_token_is_false_when_wechat_refuses_the_token(
        self, clock: Clock, errcode: int
    ) -> None:
        async with answering(clock, f'{{"errcode": {errcode}, "errmsg": "no"}}') as oauth:
            assert await oauth.verify_token("bob", "token") is False

    @pytest.mark.parametrize("errcode", [45011, 41001, 48001])
    async def test_any_other_failure_raises(self, clock: Clock, errcode: int) -> None:
        async with answering(clock, f'{{"errcode": {errcode}, "errmsg": "?"}}') as oauth:
            assert await refusal(oauth.verify_token("bob", "token")) == errcode

    @pytest.mark.parametrize(("open_id", "token"), [("", "t"), ("bob", ""), ("a|b", "t")])
    async def test_does_not_send_an_invalid_token(
        self, oauth: WeChatOAuth, wx: WeChatSimulator, open_id: str, token: str
    ) -> None:
        with pytest.raises(ParameterError):
            await oauth.verify_token(open_id, token)
        assert not wx.requests


class TestProfiles:
    @IN_EVERY_STORE
    async def test_a_user_who_never_authorized_is_told_to(self, oauth: WeChatOAuth) -> None:
        with pytest.raises(NoOAuthTokenError, match="'bob' is stored: authorize first") as caught:
            await oauth.get_user("bob")
        assert caught.value.code == StatusCode.invalid_access_token == 6007

    async def test_get_user_by_code_needs_the_scope_snsapi_userinfo(
        self, oauth: WeChatOAuth, wx: WeChatSimulator
    ) -> None:
        code = wx.web_login("bob", scope="snsapi_base")
        with pytest.raises(WeChatAPIError, match="snsapi_userinfo") as caught:
            await oauth.get_user_by_code(code)
        assert caught.value.errcode == 48001
        assert len(requests_to(wx, REFRESH)) == 0

    async def test_a_token_that_wechat_refuses_is_refreshed_once(
        self, wx: WeChatSimulator, clock: Clock, gate: Gate
    ) -> None:
        behind = Clock()
        async with service(wx, gate.functions, behind) as oauth:
            await oauth.get_access_token(wx.web_login("bob"))
            clock.now += 7200
            assert (await oauth.get_user("bob")).open_id == "bob"
            assert len(requests_to(wx, REFRESH)) == 1

    async def test_the_union_id_outlives_a_refresh(
        self, stale: WeChatOAuth, clock: Clock, gate: Gate
    ) -> None:
        await stale.get_user("bob")
        token = await gate.kept.get("bob")
        assert token.is_valid(clock.now * 1000)
        assert token.union_id == "union-of-bob"

    @pytest.mark.parametrize("lang", ["zh_CN", "zh_TW", "en"])
    async def test_the_language_is_asked_for(
        self, oauth: WeChatOAuth, wx: WeChatSimulator, lang: str
    ) -> None:
        await oauth.get_user_by_code(wx.web_login("bob"), lang)
        assert wx.requests[-1].query["lang"] == lang
        await oauth.get_user("bob", lang=lang)
        assert wx.requests[-1].query["lang"] == lang

    async def test_unknown_langs_use_no_code(self, oauth: WeChatOAuth, wx: WeChatSimulator) -> None:
        code = wx.web_login("bob")
        with pytest.raises(ParameterError, match="zh_CN, zh_TW, en"):
            await oauth.get_user_by_code(code, "de")
        await oauth.get_user_by_code(code)

    async def test_a_profile_in_wechats_documented_form(self, clock: Clock) -> None:
        body = (
            '{"openid": "bob", "nickname": "NICK", "sex": "1", "province": "P", "city": "C",'
            ' "country": "CN", "headimgurl": "http://img/46", "privilege": ["A", 5, "B"],'
            ' "unionid": "u-bob", "language": "zh_CN"}'
        )
        async with answering(clock, body) as oauth:
            assert await oauth.get_user("bob") == OAuthUser(
                "bob", "u-bob", "NICK", 1, "C", "P", "CN", "zh_CN", "http://img/46", ("A", "B")
            )

    @pytest.mark.parametrize("body", ["{}", '{"openid": "eve"}', '{"openid": 5}'])
    async def test_rejects_a_profile_of_another_user(self, clock: Clock, body: str) -> None:
        async with answering(clock, body) as oauth:
            with pytest.raises(InvalidResponseError):
                await oauth.get_user("bob")

    @pytest.mark.parametrize(
        "fields",
        [
            *({}, {"openid": "bob"}, {**FIELDS, "openid": "a|b"}, {**FIELDS, "access_token": ""}),
            *({**FIELDS, "refresh_token": 5}, {**FIELDS, "expires_in": "7200"}),
            {**FIELDS, "unionid": 5},
        ],
    )
    async def test_rejects_an_incomplete_token(self, clock: Clock, fields: dict[str, Any]) -> None:
        async with answering(clock, json.dumps(fields)) as oauth:
            for exchange in (oauth.get_access_token, oauth.refresh_access_token):
                with pytest.raises(InvalidResponseError):
                    await exchange("text")

    async def test_rejects_a_refresh_that_returns_another_users_token(self, clock: Clock) -> None:
        async with answering(clock, json.dumps({**FIELDS, "openid": "eve"})) as oauth:
            clock.now += 7200
            with pytest.raises(InvalidResponseError, match="another openid"):
                await oauth.get_user("bob")


class TestSnapshotUsers:
    @IN_EVERY_STORE
    async def test_a_snapshot_user_is_recognized_and_never_stored(
        self, oauth: WeChatOAuth, wx: WeChatSimulator
    ) -> None:
        token = await oauth.get_access_token(wx.web_login("virtual", snapshot=True))
        assert token.is_snapshot_user
        with pytest.raises(NoOAuthTokenError):
            await oauth.get_user("virtual")

    async def test_no_snapshot_user_logs_in(self, oauth: WeChatOAuth, wx: WeChatSimulator) -> None:
        with pytest.raises(SnapshotUserError, match="press a button") as caught:
            await oauth.get_user_by_code(wx.web_login("virtual", snapshot=True))
        assert caught.value.code == StatusCode.snapshot_user == 6103
        assert len(requests_to(wx, "/sns/userinfo")) == 0

    async def test_a_refresh_never_stores_a_snapshot_user(
        self, oauth: WeChatOAuth, wx: WeChatSimulator
    ) -> None:
        token = await oauth.get_access_token(wx.web_login("nobody", snapshot=True))
        await oauth.refresh_access_token(token.refresh_token)
        with pytest.raises(NoOAuthTokenError):
            await oauth.get_user("nobody")


class TestWhatIsKnownOfAUser:
    @IN_EVERY_STORE
    async def test_a_silent_login_knows_the_union_id_of_an_earlier_one(
        self, oauth: WeChatOAuth, wx: WeChatSimulator
    ) -> None:
        await oauth.get_access_token(wx.web_login("bob", "union-bob"))
        silent = wx.web_login("bob", "union-bob", scope="snsapi_base")
        assert (await oauth.identify(silent)).id == "union-bob"

    async def test_a_silent_login_does_not_narrow_what_the_user_has_granted(
        self, oauth: WeChatOAuth, wx: WeChatSimulator
    ) -> None:
        await oauth.get_access_token(wx.web_login("bob"))
        await oauth.get_access_token(wx.web_login("bob", scope="snsapi_base"))
        assert (await oauth.get_user("bob")).open_id == "bob"

    async def test_a_refresh_by_hand_keeps_the_union_id(
        self, oauth: WeChatOAuth, wx: WeChatSimulator
    ) -> None:
        token = await oauth.get_access_token(wx.web_login("bob", "union-bob"))
        assert (await oauth.refresh_access_token(token.refresh_token)).union_id == "union-bob"

    async def test_a_login_during_a_refresh_is_not_overwritten_by_it(
        self, wx: WeChatSimulator, clock: Clock, gate: Gate
    ) -> None:
        async with service(wx, gate.functions, clock) as oauth:
            await oauth.get_access_token(wx.web_login("bob", scope="snsapi_base"))
            clock.now += 7200
            gate.shut()
            refreshing = asyncio.ensure_future(oauth.get_user("bob"))
            await gate.came.wait()
            login = asyncio.ensure_future(oauth.get_access_token(wx.web_login("bob")))
            gate.may_pass.set()
            await asyncio.gather(refreshing, login, return_exceptions=True)
            assert (await oauth.get_user("bob")).open_id == "bob"

    async def test_a_login_replaces_a_damaged_record(
        self, wx: WeChatSimulator, clock: Clock, redis: Redis, redis_server: RedisServer
    ) -> None:
        async with service(wx, redis_server.url, clock) as oauth:
            await oauth.get_access_token(wx.web_login("bob"))
            (key,) = await redis.keys("mpauthx:r:*oauth_token*")
            await redis.set(key, "{")
            with pytest.raises(NoOAuthTokenError, match="damaged"):
                await oauth.get_user("bob")
            await oauth.get_access_token(wx.web_login("bob"))
            assert (await oauth.get_user("bob")).open_id == "bob"

    async def test_after_a_change_of_the_secret_users_authorize_again_unless_the_old_is_listed(
        self, wx: WeChatSimulator, clock: Clock, tmp_path: Path
    ) -> None:
        tokens, old, new = f"sqlite:///{tmp_path}/oauth.db", wx.app_secret, "a-new-app-secret"
        async with service(wx, tokens, clock) as before:
            await before.get_access_token(wx.web_login("bob"))
        wx.app_secret = new
        async with (
            service(wx, tokens, clock, signing_keys=[old, new]) as listed,
            service(wx, tokens, clock) as changed,
        ):
            assert (await listed.get_user("bob")).open_id == "bob"
            with pytest.raises(NoOAuthTokenError, match="list the old ones before the new one"):
                await changed.get_user("bob")
            await changed.get_access_token(wx.web_login("bob"))
            assert (await changed.get_user("bob")).open_id == "bob"

    async def test_a_store_may_only_get_and_save(self, wx: WeChatSimulator, clock: Clock) -> None:
        class Store:
            def __init__(self) -> None:
                kept = DictOAuthTokenStore()
                self.get, self.save = kept.get, kept.save

        async with service(wx, Store(), clock) as oauth:
            await oauth.get_access_token(wx.web_login("bob"))
            clock.now += 7200
            assert (await oauth.get_user("bob")).open_id == "bob"


class TestMiniProgramMode:
    async def test_a_code_with_sealed_data_gives_the_profile(
        self, oauth: WeChatOAuth, wx: WeChatSimulator
    ) -> None:
        code = wx.login("bob", "union-of-bob")
        wx.set_profile("bob", nickName="Bob", gender=2, avatarUrl="https://img/132")
        info = wx.get_user_info("bob")
        user = await oauth.get_user_by_code(code, encrypted_data=info.encrypted_data, iv=info.iv)
        assert (user.open_id, user.union_id) == ("bob", "union-of-bob")
        assert (user.nick_name, user.gender, user.avatar_url) == ("Bob", 2, "https://img/132")

    async def test_gets_a_session_key_and_decrypts_a_user_with_it(
        self, oauth: WeChatOAuth, wx: WeChatSimulator
    ) -> None:
        code = wx.login("bob")
        info = wx.get_user_info("bob")
        session = await oauth.get_session_key(code)
        assert isinstance(session, CodeSession)
        payload = oauth.decrypt_mini_program_user(
            session_key=session.session_key, encrypted_data=info.encrypted_data, iv=info.iv
        )
        assert payload["openId"] == "bob"

    async def test_data_of_another_login_or_another_user_is_refused(
        self, oauth: WeChatOAuth, wx: WeChatSimulator
    ) -> None:
        wx.login("bob")
        data, iv = wx.seal("bob", {"openId": "bob"})
        with pytest.raises(DecryptionError):
            await oauth.get_user_by_code(wx.login("bob"), encrypted_data=data, iv=iv)
        code = wx.login("bob")
        data, iv = wx.seal("bob", {"openId": "eve"})
        with pytest.raises(IdentityMismatchError):
            await oauth.get_user_by_code(code, encrypted_data=data, iv=iv)

    @pytest.mark.parametrize(
        ("encrypted_data", "iv"),
        [(None, "iv"), ("data", None), ("A" * 16_385, "iv"), ("data", "A" * 65)],
    )
    async def test_data_and_iv_come_together_and_of_a_limited_length(
        self, oauth: WeChatOAuth, wx: WeChatSimulator, encrypted_data: Any, iv: Any
    ) -> None:
        with pytest.raises(ParameterError, match="required together"):
            await oauth.get_user_by_code(wx.login("bob"), encrypted_data=encrypted_data, iv=iv)
        assert not wx.requests


class TestManyCallersAndOneExpiredToken:
    @IN_EVERY_STORE
    async def test_ask_once(self, oauth: WeChatOAuth, wx: WeChatSimulator, clock: Clock) -> None:
        await oauth.get_access_token(wx.web_login("bob", "union-of-bob"))
        clock.now += 7200
        users = await asyncio.gather(*(oauth.get_user("bob") for _ in range(50)))
        users.append(await oauth.get_user("bob"))
        assert {(user.open_id, user.union_id) for user in users} == {("bob", "union-of-bob")}
        assert len(requests_to(wx, REFRESH)) == 1

    async def test_users_do_not_wait_for_each_other(
        self, stale: WeChatOAuth, wx: WeChatSimulator, gate: Gate
    ) -> None:
        await stale.get_access_token(wx.web_login("alice"))
        gate.shut()
        waiting = asyncio.ensure_future(stale.get_user("bob"))
        await gate.came.wait()
        await stale.get_user("alice")
        assert not waiting.done()
        gate.may_pass.set()
        await waiting

    async def test_the_token_is_saved_even_if_all_callers_are_cancelled(
        self, stale: WeChatOAuth, wx: WeChatSimulator, gate: Gate
    ) -> None:
        gate.shut()
        caller = asyncio.ensure_future(stale.get_user("bob"))
        await gate.came.wait()
        caller.cancel()
        await asyncio.wait([caller])
        gate.may_pass.set()
        await stale.get_user("bob")
        assert len(requests_to(wx, REFRESH)) == 1

    async def test_a_failure_goes_to_all_and_the_next_caller_asks_again(
        self, stale: WeChatOAuth, wx: WeChatSimulator
    ) -> None:
        wx.fail_next(Fault.TOO_FREQUENT)
        callers = [stale.get_user("bob") for _ in range(5)]
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {WeChatUnavailableError}
        assert len(requests_to(wx, REFRESH)) == 1
        assert (await stale.get_user("bob")).open_id == "bob"


class TestClose:
    async def test_it_lets_calls_in_flight_finish_and_takes_no_more(
        self, stale: WeChatOAuth, wx: WeChatSimulator, gate: Gate
    ) -> None:
        gate.shut()
        alice = stale.get_user_by_code(wx.web_login("alice"))
        calls = [asyncio.ensure_future(call) for call in (stale.get_user("bob"), alice)]
        await gate.came.wait()
        closing_down = [asyncio.ensure_future(stale.close()) for _ in range(2)]
        await asyncio.wait(closing_down, timeout=0)
        for call in every_web_call(stale).values():
            with pytest.raises(ClosedError):
                await call()
        assert not any(each.done() for each in (*calls, *closing_down))
        gate.may_pass.set()
        assert [user.open_id for user in await asyncio.gather(*calls)] == ["bob", "alice"]
        await asyncio.gather(*closing_down)
        await stale.close()

    async def test_a_service_that_was_never_used_closes(self) -> None:
        async with WeChatOAuth(app_id="wx0", app_secret=SECRET, tokens=TOKENS) as oauth:
            assert oauth.get_authorize_url("https://example.com")
        assert oauth.get_authorize_url("https://example.com")

    async def test_injected_resources_stay_open(
        self, wx: WeChatSimulator, clock: Clock, redis: Redis
    ) -> None:
        async with aiohttp.ClientSession() as session:
            connections = Connections(http=session, redis=redis)
            async with service(wx, DictOAuthTokenStore(), clock, connections=connections) as oauth:
                await oauth.get_access_token(wx.web_login("bob"))
            assert connections.http is session
            assert not session.closed
            assert await redis.ping()


class TestOutages:
    async def test_calls_fail_while_redis_is_down(self, wx: WeChatSimulator, clock: Clock) -> None:
        with RedisServer() as server:
            async with service(wx, server.url, clock) as oauth:
                await oauth.get_access_token(wx.web_login("bob"))
                state = oauth.create_state("/cart", session="cookie")
                server.stop()
                for call in (
                    oauth.get_user("bob"),
                    oauth.get_access_token(wx.web_login("bob")),
                    oauth.verify_state(state, session="cookie"),
                ):
                    with pytest.raises(StoreError, match="Redis failed"):
                        await call
                server.start()
                assert await oauth.verify_state(state, session="cookie") == "/cart"

    async def test_a_refresh_fails_while_the_sqlite_file_is_locked(
        self, wx: WeChatSimulator, clock: Clock, tmp_path: Path
    ) -> None:
        path = tmp_path / "oauth.db"
        async with service(wx, f"sqlite:///{path}", clock) as oauth:
            await oauth.get_access_token(wx.web_login("bob"))
            clock.now += 7200
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                with pytest.raises(StoreError, match="Another process has held its lock"):
                    await oauth.get_user("bob")
            await oauth.get_user("bob")
        assert len(requests_to(wx, REFRESH)) == 1

    async def test_a_reset_connection_to_wechat_fails_one_call(
        self, wx: WeChatSimulator, clock: Clock, gate: Gate
    ) -> None:
        async with service(wx, gate.functions, clock) as oauth:
            await oauth.get_access_token(wx.web_login("bob"))
            wx.fail_next(Fault.CONNECTION_RESET)
            with pytest.raises(ConnectionFailedError):
                await oauth.get_user("bob")
            await oauth.get_user("bob")

    @pytest.mark.parametrize(
        "tokens", [(), (print,), (print, print, print, print), (print, 5), (print, print, 5)]
    )
    async def test_rejects_functions_that_cannot_keep_tokens(
        self, wx: WeChatSimulator, clock: Clock, tokens: Any
    ) -> None:
        with pytest.raises(ConfigurationError, match="pair of functions"):
            service(wx, tokens, clock)


class TestSecrets:
    async def test_a_token_in_an_errmsg_is_redacted(self, clock: Clock) -> None:
        token = "token-GEHEIM"
        body = f'{{"errcode": 48001, "errmsg": "not for {token}"}}'
        async with answering(clock, body, token) as oauth:
            with pytest.raises(WeChatAPIError) as refreshing:
                await oauth.refresh_access_token(token)
            with pytest.raises(WeChatAPIError) as asking:
                await oauth.get_user("bob")
        for error in (refreshing.value, asking.value):
            assert token not in everything_told(error)


@asynccontextmanager
async def answering(
    clock: Clock, body: str, access_token: str = "access-token"
) -> AsyncIterator[WeChatOAuth]:
    """A service whose WeChat gives one answer to everything, and which has a token of bob."""
    kept, now = DictOAuthTokenStore(), int(clock() * 1000)
    await kept.save("bob", OAuthToken("bob", access_token, "refresh", 7200, "", now))
    async with Server(Answer(body)) as server:
        names = {"app_id": "wx0", "app_secret": SECRET, "api_base": server.url}
        async with WeChatOAuth(**names, tokens=kept, clock=clock) as oauth:
            yield oauth


async def refusal(call: Any) -> int:
    with pytest.raises(WeChatAPIError) as caught:
        await call
    assert caught.value.hint or caught.value.errcode == 99999
    return caught.value.errcode
