"""What WeChatSimulator promises of WeChat's web OAuth 2.0, over real HTTP."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from urllib.parse import parse_qsl, urlencode, urlsplit

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from yarl import URL

from mpauthx_async.simulator import Fault, WeChatSimulator

from .simulator_client import RID, Client, Clock

ACCOUNT = "wxaaaaaaaaaaaaaaaa"  # an Official Account
SECRET = "f0e1d2c3" * 4
PAGE = "/connect/oauth2/authorize"
QR_PAGE = "/connect/qrconnect"
DAY = 86_400


@pytest.fixture
async def clock() -> Clock:
    return Clock()


@pytest.fixture
async def wx(clock: Clock) -> AsyncIterator[WeChatSimulator]:
    async with WeChatSimulator(clock=clock, other_apps={ACCOUNT: SECRET}) as simulator:
        yield simulator


@pytest.fixture
async def client(wx: WeChatSimulator) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as http:
        yield Client(wx, http)


async def exchange(client: Client, code: str, /, **changes: str | None) -> dict:
    query: dict[str, str | None] = {
        "appid": client.wx.app_id,
        "secret": client.wx.app_secret,
        "code": code,
        "grant_type": "authorization_code",
        **changes,
    }
    return await client.get("/sns/oauth2/access_token", **query)


async def refresh(client: Client, refresh_token: str, /, **changes: str | None) -> dict:
    query: dict[str, str | None] = {
        "appid": client.wx.app_id,
        "grant_type": "refresh_token",
        "refresh_token": refresh_token,
        **changes,
    }
    return await client.get("/sns/oauth2/refresh_token", **query)


async def user_info(client: Client, tokens: dict, **changes: str | None) -> dict:
    query = {"access_token": tokens["access_token"], "openid": tokens["openid"], **changes}
    return await client.get("/sns/userinfo", **query)


# Codes


async def test_a_code_is_exchanged_for_tokens_and_openid(wx, client):
    tokens = await exchange(client, wx.web_login("bob"))
    assert tokens.keys() == {"access_token", "expires_in", "refresh_token", "openid", "scope"}
    assert (tokens["openid"], tokens["scope"], tokens["expires_in"]) == (
        "bob",
        "snsapi_userinfo",
        7200,
    )
    assert tokens["access_token"] != tokens["refresh_token"]


@pytest.mark.parametrize(
    ("scope", "union"),
    [("snsapi_userinfo", "union-bob"), ("snsapi_login", "union-bob"), ("snsapi_base", None)],
)
async def test_unionid_comes_with_every_scope_but_the_silent_one(wx, client, scope, union):
    tokens = await exchange(client, wx.web_login("bob", "union-bob", scope=scope))
    assert (tokens["scope"], tokens.get("unionid")) == (scope, union)


async def test_a_snapshot_user_is_marked(wx, client):
    assert (await exchange(client, wx.web_login("bob", snapshot=True)))["is_snapshotuser"] == 1


async def test_a_code_works_once(wx, client):
    code = wx.web_login("bob")
    answers = await asyncio.gather(*(exchange(client, code) for _ in range(20)))
    assert sorted(answer.get("errcode", 0) for answer in answers) == [0] + [40163] * 19


async def test_a_code_lives_for_five_minutes(wx, client, clock):
    in_time, late = wx.web_login("bob"), wx.web_login("bob")
    clock.now += 299.9
    assert (await exchange(client, in_time))["openid"] == "bob"
    clock.now += 0.1
    assert (await exchange(client, late))["errcode"] == 40029


async def test_a_code_belongs_to_one_app(wx, client):
    code = wx.web_login("bob", app_id=ACCOUNT)
    assert (await exchange(client, code))["errcode"] == 40029
    assert (await exchange(client, code, appid=ACCOUNT, secret=SECRET))["openid"] == "bob"


async def test_the_codes_of_pages_and_of_mini_programs_are_not_the_same(wx, client):
    assert (await exchange(client, wx.login("bob")))["errcode"] == 40029
    session = {"appid": wx.app_id, "secret": wx.app_secret, "grant_type": "authorization_code"}
    answer = await client.get("/sns/jscode2session", **session, js_code=wx.web_login("bob"))
    assert answer["errcode"] == 40029


async def test_a_mini_programs_code_belongs_to_one_app(wx, client):
    code = wx.login("bob", app_id=ACCOUNT)
    query = {"js_code": code, "grant_type": "authorization_code"}
    first = {"appid": wx.app_id, "secret": wx.app_secret}
    assert (await client.get("/sns/jscode2session", **first, **query))["errcode"] == 40029
    second = {"appid": ACCOUNT, "secret": SECRET}
    assert (await client.get("/sns/jscode2session", **second, **query))["openid"] == "bob"


async def test_one_open_id_is_another_user_in_another_app(wx, client):
    wx.web_login("bob", "union-bob")
    tokens = await exchange(
        client, wx.web_login("bob", app_id=ACCOUNT), appid=ACCOUNT, secret=SECRET
    )
    assert "unionid" not in tokens


@pytest.mark.parametrize(
    ("changes", "number", "text"),
    [
        ({"appid": None}, 41002, "appid missing"),
        ({"appid": "wx0000000000000000"}, 40013, "invalid appid"),
        ({"secret": None}, 41004, "appsecret missing"),
        ({"secret": SECRET}, 40125, "invalid appsecret"),
        ({"code": None}, 41008, "missing code"),
        ({"grant_type": None}, 40002, "invalid grant_type"),
        ({"code": "never given out"}, 40029, "invalid code"),
    ],
)
async def test_a_wrong_exchange_is_answered_in_wechats_words_and_uses_no_code(
    wx, client, changes, number, text
):
    code = wx.web_login("bob")
    answer = await exchange(client, code, **changes)
    assert answer["errcode"] == number
    assert re.fullmatch(f"{text}, {RID}", answer["errmsg"])
    assert (await exchange(client, code))["openid"] == "bob"


@pytest.mark.parametrize("scope", ["", "snsapi_privateinfo"])
def test_an_unknown_scope_is_refused(scope):
    with pytest.raises(ValueError, match="snsapi_base, snsapi_userinfo, snsapi_login"):
        WeChatSimulator().web_login("bob", scope=scope)


@pytest.mark.parametrize("call", ["login", "web_login", "set_profile", "block", "get_user_info"])
def test_an_unknown_app_is_a_lookup_error_that_says_what_to_do(call):
    with pytest.raises(LookupError, match=r"No app 'wx0' here: name it .* in other_apps"):
        getattr(WeChatSimulator(), call)("bob", app_id="wx0")


# Refreshing


async def test_a_refresh_prolongs_an_access_token_that_lives(wx, client, clock):
    tokens = await exchange(client, wx.web_login("bob"))
    clock.now += 7199
    assert await refresh(client, tokens["refresh_token"]) == tokens
    clock.now += 7199
    assert (await user_info(client, tokens))["openid"] == "bob"


async def test_a_refresh_after_the_end_gives_a_new_access_token(wx, client, clock):
    tokens = await exchange(client, wx.web_login("bob"))
    clock.now += 7200
    newer = await refresh(client, tokens["refresh_token"])
    assert newer["access_token"] != tokens["access_token"]
    assert newer["refresh_token"] == tokens["refresh_token"]
    assert (await user_info(client, newer))["openid"] == "bob"
    assert (await user_info(client, tokens))["errcode"] == 42001


async def test_a_refresh_token_lives_for_30_days(wx, client, clock):
    tokens = await exchange(client, wx.web_login("bob"))
    clock.now += 30 * DAY - 1
    assert (await refresh(client, tokens["refresh_token"]))["openid"] == "bob"
    clock.now += 1
    answer = await refresh(client, tokens["refresh_token"])
    assert answer["errcode"] == 42002
    assert answer["errmsg"].startswith("refresh_token expired, rid: ")


@pytest.mark.parametrize(
    ("changes", "number"),
    [
        ({"appid": None}, 41002),
        ({"appid": "wx0"}, 40013),
        ({"appid": ACCOUNT}, 40030),
        ({"grant_type": "authorization_code"}, 40002),
        ({"refresh_token": None}, 41003),
        ({"refresh_token": "never given out"}, 40030),
    ],
)
async def test_a_wrong_refresh_is_answered_with_an_errcode(wx, client, changes, number):
    tokens = await exchange(client, wx.web_login("bob"))
    assert (await refresh(client, tokens["refresh_token"], **changes))["errcode"] == number


async def test_an_access_token_refreshes_nothing(wx, client):
    tokens = await exchange(client, wx.web_login("bob"))
    assert (await refresh(client, tokens["access_token"]))["errcode"] == 40030
    swapped = {**tokens, "access_token": tokens["refresh_token"]}
    assert (await user_info(client, swapped))["errcode"] == 40001


# The user


async def test_userinfo_is_the_profile_in_the_names_of_the_web(wx, client):
    profile = {"nickName": "小明", "gender": 1, "city": "Guangzhou", "avatarUrl": "https://a/b"}
    wx.set_profile("bob", **profile, province="Guangdong", country="CN")
    tokens = await exchange(client, wx.web_login("bob", "union-bob"))
    assert await user_info(client, tokens, lang="zh_CN") == {
        "openid": "bob",
        "nickname": "小明",
        "sex": 1,
        "province": "Guangdong",
        "city": "Guangzhou",
        "country": "CN",
        "headimgurl": "https://a/b",
        "privilege": [],
        "unionid": "union-bob",
    }


async def test_a_user_without_a_unionid_has_none_in_userinfo(wx, client):
    info = await user_info(client, await exchange(client, wx.web_login("bob")))
    assert info["nickname"] == "微信用户"
    assert "unionid" not in info


async def test_a_silent_login_may_not_ask_for_the_profile(wx, client):
    tokens = await exchange(client, wx.web_login("bob", scope="snsapi_base"))
    answer = await user_info(client, tokens)
    assert answer["errcode"] == 48001
    assert answer["errmsg"].startswith("api unauthorized, rid: ")
    assert (await client.get("/sns/auth", **keys(tokens)))["errcode"] == 0


def keys(tokens: dict) -> dict[str, str]:
    return {"access_token": tokens["access_token"], "openid": tokens["openid"]}


@pytest.mark.parametrize("path", ["/sns/userinfo", "/sns/auth"])
@pytest.mark.parametrize(
    ("changes", "number", "text"),
    [
        ({"access_token": None}, 41001, "access_token missing"),
        ({"openid": None}, 41009, "missing openid"),
        ({"openid": "alice"}, 40003, "invalid openid"),
        (
            {"access_token": "never given out"},
            40001,
            "invalid credential, access_token is invalid or not latest",
        ),
    ],
)
async def test_a_token_counts_for_its_own_user_only(wx, client, path, changes, number, text):
    wx.web_login("alice")
    tokens = await exchange(client, wx.web_login("bob"))
    answer = await client.get(path, **{**keys(tokens), **changes})
    assert answer["errcode"] == number
    assert re.fullmatch(f"{text}, {RID}", answer["errmsg"])


async def test_auth_tells_whether_an_access_token_lives(wx, client, clock):
    tokens = await exchange(client, wx.web_login("bob"))
    clock.now += 7199
    assert await client.get("/sns/auth", **keys(tokens)) == {"errcode": 0, "errmsg": "ok"}
    clock.now += 1
    answer = await client.get("/sns/auth", **keys(tokens))
    assert answer["errcode"] == 42001
    assert answer["errmsg"].startswith("access_token expired, rid: ")


async def test_what_has_expired_is_forgotten_in_time(wx, client, clock):
    tokens = await exchange(client, wx.web_login("bob"))
    clock.now += 2 * 7200
    assert (await user_info(client, tokens))["errcode"] == 40001
    clock.now += 60 * DAY
    assert (await refresh(client, tokens["refresh_token"]))["errcode"] == 40030


# The pages


def page_query(wx: WeChatSimulator, **changes: str | None) -> dict[str, str]:
    query = {
        "appid": wx.app_id,
        "redirect_uri": "https://shop.example/back",
        "response_type": "code",
        "scope": "snsapi_userinfo",
        "state": "s-1",
        **changes,
    }
    return {name: text for name, text in query.items() if text is not None}


async def visit(client: Client, query: dict[str, str], page: str = PAGE) -> tuple[int, str, str]:
    """Open a page: its status, where it leads to, its text."""
    url = f"{client.wx.url}{page}?{urlencode(query)}#wechat_redirect"
    async with client.http.get(url, allow_redirects=False) as response:
        assert response.content_type == "text/html"
        return response.status, response.headers.get("Location", ""), await response.text()


async def test_a_page_sends_its_visitor_back_with_a_code_and_the_state(wx, client):
    wx.visit_as("bob", "union-bob")
    status, location, _ = await visit(client, page_query(wx))
    assert status == 302
    back = urlsplit(location)
    assert f"{back.scheme}://{back.netloc}{back.path}" == "https://shop.example/back"
    parameters = dict(parse_qsl(back.query))
    assert parameters["state"] == "s-1"
    tokens = await exchange(client, parameters["code"])
    assert (tokens["openid"], tokens["unionid"]) == ("bob", "union-bob")
    assert tokens["scope"] == "snsapi_userinfo"


async def test_the_website_page_gives_the_website_scope(wx, client):
    wx.visit_as("bob")
    query = page_query(wx, appid=ACCOUNT, scope="snsapi_login")
    _, location, _ = await visit(client, query, QR_PAGE)
    code = dict(parse_qsl(urlsplit(location).query))["code"]
    tokens = await exchange(client, code, appid=ACCOUNT, secret=SECRET)
    assert (tokens["openid"], tokens["scope"]) == ("bob", "snsapi_login")


@pytest.mark.parametrize(
    ("redirect_uri", "pattern"),
    [
        ("https://a.example", r"https://a\.example\?code=\w+&state=s-1"),
        (
            "http://a.example:81/b?c=1&d=%26",
            r"http://a\.example:81/b\?c=1&d=%26&code=\w+&state=s-1",
        ),
        (
            "https://a.example/b?c=1#/route?x",
            r"https://a\.example/b\?c=1&code=\w+&state=s-1#/route\?x",
        ),
        ("https://a.example/#/", r"https://a\.example/\?code=\w+&state=s-1#/"),
        (
            "https://a.example/é\r\nX: y",
            r"https://a\.example/%C3%A9%0D%0AX:%20y\?code=\w+&state=s-1",
        ),
    ],
)
async def test_code_and_state_are_added_to_the_query_of_the_redirect_uri(
    wx, client, redirect_uri, pattern
):
    wx.visit_as("bob")
    _, location, _ = await visit(client, page_query(wx, redirect_uri=redirect_uri))
    assert re.fullmatch(pattern, location)


async def test_a_state_comes_back_as_it_was(wx, client):
    wx.visit_as("bob")
    state = "a b&c=d#é%20"
    _, location, _ = await visit(client, page_query(wx, state=state))
    assert dict(parse_qsl(urlsplit(location).query))["state"] == state


async def test_without_a_state_none_comes_back(wx, client):
    wx.visit_as("bob")
    _, location, _ = await visit(client, page_query(wx, state=None))
    assert parse_qsl(urlsplit(location).query)[0][0] == "code"
    assert "state" not in location


async def test_without_a_visitor_the_page_says_what_to_do(wx, client):
    status, location, text = await visit(client, page_query(wx))
    assert (status, location) == (400, "")
    assert "visit_as" in text


@pytest.mark.parametrize("page", [PAGE, QR_PAGE])
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"appid": None}, "AppID 参数错误"),
        ({"appid": "wx0"}, "AppID 参数错误"),
        ({"redirect_uri": None}, "redirect_uri 参数错误"),
        ({"redirect_uri": "shop.example/back"}, "redirect_uri 参数错误"),
        ({"redirect_uri": "javascript:alert(1)"}, "redirect_uri 参数错误"),
        ({"redirect_uri": "https://[::1/"}, "redirect_uri 参数错误"),
        ({"redirect_uri": "ht\ntps://a.example/"}, "redirect_uri 参数错误"),
        ({"redirect_uri": "https://a.example:port/"}, "redirect_uri 参数错误"),
        ({"response_type": "token"}, "response_type 参数错误"),
        ({"scope": None}, "Scope 参数错误"),
        ({"scope": "snsapi_privateinfo"}, "Scope 参数错误"),
    ],
)
async def test_a_page_says_what_is_wrong(wx, client, page, changes, says):
    wx.visit_as("bob")
    right = "snsapi_login" if page == QR_PAGE else "snsapi_base"
    status, location, text = await visit(
        client, page_query(wx, **{"scope": right, **changes}), page
    )
    assert (status, location) == (200, "")
    assert says in text


@pytest.mark.parametrize(("page", "scope"), [(PAGE, "snsapi_login"), (QR_PAGE, "snsapi_base")])
async def test_a_page_has_scopes_of_its_own(wx, client, page, scope):
    wx.visit_as("bob")
    assert "Scope 参数错误" in (await visit(client, page_query(wx, scope=scope), page))[2]


async def test_the_parameters_must_stand_in_wechats_order(wx, client):
    wx.visit_as("bob")
    query = page_query(wx)
    backwards = dict(reversed(query.items()))
    assert "in this order: appid, redirect_uri" in (await visit(client, backwards))[2]
    with_others = {"forcePopup": "true", **query, "lang": "en"}
    assert (await visit(client, with_others))[0] == 302


async def test_a_state_has_at_most_128_bytes(wx, client):
    wx.visit_as("bob")
    assert (await visit(client, page_query(wx, state="a" * 128)))[0] == 302
    assert "128 bytes" in (await visit(client, page_query(wx, state="é" * 65)))[2]


@pytest.mark.parametrize("bad", ["%FF%FE", "%ED%A0%80", "%00", "%0D%0AX:%20y"])
async def test_bytes_that_are_no_text_break_no_page(wx, client, bad):
    wx.visit_as("bob")
    start = f"{wx.url}{PAGE}?appid={wx.app_id}&redirect_uri=https://a.example/{bad}"
    url = f"{start}&response_type=code&scope=snsapi_base&state={bad}"
    async with client.http.get(URL(url, encoded=True), allow_redirects=False) as response:
        assert response.status == 302
        assert response.headers["Location"].startswith("https://a.example/%")


@settings(
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    redirect_uri=st.text(st.characters(exclude_categories=["Cs"]), max_size=30).map(
        lambda text: f"https://a.example/{text}"
    ),
    state=st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
)
async def test_any_redirect_uri_and_state_lead_to_one_place(wx, client, redirect_uri, state):
    wx.visit_as("bob")
    status, location, _ = await visit(
        client, page_query(wx, redirect_uri=redirect_uri, state=state)
    )
    assert status == 302
    assert urlsplit(location).hostname == "a.example"
    assert dict(parse_qsl(urlsplit(location).query, keep_blank_values=True))["state"] == state


def test_a_visitor_needs_an_open_id():
    with pytest.raises(ValueError, match="open_id must not be empty"):
        WeChatSimulator().visit_as("")


# As everywhere


async def test_no_secret_and_no_token_is_in_requests_reprs_and_logs(wx, client, caplog):
    caplog.set_level(logging.DEBUG)
    tokens = await exchange(client, wx.web_login("bob"))
    await refresh(client, tokens["refresh_token"])
    await user_info(client, tokens)
    await client.get("/sns/auth", **keys(tokens))
    told = repr((wx, wx.requests, vars(wx))) + caplog.text
    assert [request.path for request in wx.requests] == [
        "/sns/oauth2/access_token",
        "/sns/oauth2/refresh_token",
        "/sns/userinfo",
        "/sns/auth",
    ]
    assert {request.method for request in wx.requests} == {"GET"}
    for secret in (wx.app_secret, tokens["access_token"], tokens["refresh_token"]):
        assert secret not in told


@pytest.mark.parametrize("path", ["access_token", "refresh_token"])
async def test_another_method_than_get_is_refused(client, path):
    assert (await client.post(f"/sns/oauth2/{path}", {}))["errcode"] == 43001


async def test_a_fault_meets_the_next_call_and_no_page(wx, client):
    wx.visit_as("bob")
    wx.fail_next(Fault.SYSTEM_BUSY)
    assert (await visit(client, page_query(wx)))[0] == 302
    code = wx.web_login("bob")
    assert (await exchange(client, code))["errcode"] == -1
    assert (await exchange(client, code))["openid"] == "bob"


async def test_another_process_can_log_in_and_visit(wx, client):
    code = (await client.control("web_login", open_id="bob", scope="snsapi_base"))["code"]
    assert (await exchange(client, code))["scope"] == "snsapi_base"
    await client.control("visit_as", open_id="alice", union_id="union-alice")
    _, location, _ = await visit(client, page_query(wx))
    code = dict(parse_qsl(urlsplit(location).query))["code"]
    assert (await exchange(client, code))["unionid"] == "union-alice"
    assert (
        "must be one of" in (await client.control("web_login", open_id="a", scope="b"))["message"]
    )
    assert "'open_id' must be" in (await client.control("visit_as"))["message"]
    assert "No app" in (await client.control("login", open_id="a", app_id="b"))["message"]


async def test_the_secret_can_change_while_it_runs(wx, client):
    old, wx.app_secret = wx.app_secret, SECRET
    code = wx.web_login("bob")
    assert (await exchange(client, code, secret=old))["errcode"] == 40125
    assert (await exchange(client, code))["openid"] == "bob"
