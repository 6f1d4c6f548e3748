"""What WeChatSimulator answers to the letter, and which requests it takes, over real HTTP."""

import json
import re
from collections.abc import AsyncIterator

import aiohttp
import pytest

from mpauthx_async.simulator import Fault, WeChatSimulator
from tests.helpers.simulator_client import HINT, RID, Client, component_credentials, session_form

SESSION, CHECK = "/sns/jscode2session", "/wxa/checksession"
TOKEN, STABLE, CALLBACK_IP = "/cgi-bin/token", "/cgi-bin/stable_token", "/cgi-bin/getcallbackip"
KEYS = "/wxa/business/getuserencryptkey"
SNS = (
    *(SESSION, "/sns/component/jscode2session", "/sns/userinfo", "/sns/auth"),
    *("/sns/oauth2/access_token", "/sns/oauth2/refresh_token"),
)
FAULTS = (
    *(Fault.SYSTEM_BUSY, Fault.TOO_FREQUENT, Fault.EMPTY, Fault.NOT_AN_OBJECT),
    *(Fault.NO_FIELDS, Fault.TRUNCATED),
)


@pytest.fixture
async def strict() -> AsyncIterator[Client]:
    """A client of a simulator that takes the documented methods alone."""
    async with WeChatSimulator(strict_methods=True) as wx, aiohttp.ClientSession() as http:
        yield Client(wx, http)


def token_form(wx: WeChatSimulator) -> dict[str, str]:
    return {"grant_type": "client_credential", "appid": wx.app_id, "secret": wx.app_secret}


# Content types and words


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (SESSION, "text/plain"),
        ("/sns/userinfo", "text/plain"),
        (TOKEN, "application/json; encoding=utf-8"),
        ("/cgi-bin/gettoken", "application/json; encoding=utf-8"),
        (CHECK, "application/json; encoding=utf-8"),
    ],
)
@pytest.mark.parametrize("fault", [None, *FAULTS])
async def test_errors_and_faults_have_wechats_content_type(wx, client, path, expected, fault):
    if fault is not None:
        wx.fail_next(fault)
    async with client.http.get(wx.url + path) as response:
        assert response.headers.getall("Content-Type") == [expected]


async def test_a_nickname_of_sns_is_utf_8_though_its_content_type_does_not_say_so(wx, client):
    wx.set_profile("bob", nickName="小明")
    form = {**session_form(wx, ""), "code": wx.web_login("bob")}
    tokens = await client.get("/sns/oauth2/access_token", **form)
    query = {"access_token": tokens["access_token"], "openid": "bob"}
    async with client.http.get(wx.url + "/sns/userinfo", params=query) as response:
        assert "小明".encode() in await response.read()


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (SESSION, f"appid missing, {RID}"),
        ("/sns/component/jscode2session", f"missing component_appid, {RID}"),
        (TOKEN, f"invalid grant_type {HINT} {RID}"),
        (CHECK, f"access_token missing {HINT} {RID}"),
        (
            "/cgi-bin/gettoken",
            r"corpid missing, hint: \[[0-9a-f_]+\], from ip: 127\.0\.0\.1, more info at https://.+",
        ),
    ],
)
async def test_each_api_words_its_errors_in_its_own_way(client, path, text):
    assert re.fullmatch(text, (await client.get(path))["errmsg"])


async def test_the_rid_of_each_api_begins_with_the_time_and_is_new_each_time(client, clock):
    for path in (SESSION, CHECK):
        errmsgs = [(await client.get(path))["errmsg"] for _ in range(2)]
        first, second = (errmsg.rpartition("rid: ")[2] for errmsg in errmsgs)
        assert first != second
        assert int(first[:8], 16) == int(second[:8], 16) == int(clock.now)


# Paths


@pytest.mark.parametrize(
    ("path", "separator"),
    [
        ("/sns/jsCode2Session", ","),
        ("/sns/jscode2session/", ","),
        ("/cgi-bin/getcallbackips", f" {HINT}"),
        ("/wxa/getwxacode", f" {HINT}"),
        ("/simulator/nothing", f" {HINT}"),
        ("/favicon.ico", f" {HINT}"),
    ],
)
async def test_an_unknown_path_is_answered_with_errcode_40066(client, path, separator):
    for answer in (await client.get(path), await client.post(path, {})):
        assert answer.keys() == {"errcode", "errmsg"}
        assert answer["errcode"] == 40066
        assert re.fullmatch(f"invalid url{separator} {RID}", answer["errmsg"])


async def test_an_unknown_path_meets_no_fault(wx, client):
    wx.fail_next(Fault.SYSTEM_BUSY)
    assert (await client.get("/favicon.ico"))["errcode"] == 40066
    assert (await client.get(SESSION))["errcode"] == -1


async def test_getcallbackip_lists_the_addresses_of_wechat(wx, client):
    token = (await client.get(TOKEN, **token_form(wx)))["access_token"]
    assert await client.get(CALLBACK_IP, access_token=token) == {"ip_list": ["127.0.0.1"]}
    assert (await client.get(CALLBACK_IP))["errcode"] == 41001
    assert (await client.get(CALLBACK_IP, access_token="97_unknown"))["errcode"] == 40001
    assert (await client.post(CALLBACK_IP, {}, access_token=token))["errcode"] == 43001
    wx.expire_access_tokens()
    assert (await client.get(CALLBACK_IP, access_token=token))["errcode"] == 40001


# Methods


async def test_a_form_is_taken_like_a_query(wx, client):
    assert (await client.post_form(SESSION, session_form(wx, wx.login("bob"))))["openid"] == "bob"
    assert (await client.post_form(TOKEN, token_form(wx)))["expires_in"] == 7200
    form = {**session_form(wx, ""), "code": wx.web_login("bob")}
    tokens = await client.post_form("/sns/oauth2/access_token", form)
    bob = {"access_token": tokens["access_token"], "openid": "bob"}
    assert (await client.post_form("/sns/auth", bob))["errcode"] == 0
    assert (await client.post_form("/sns/userinfo", bob))["openid"] == "bob"
    refresh = {"appid": wx.app_id, "grant_type": "refresh_token"}
    refresh["refresh_token"] = tokens["refresh_token"]
    assert await client.post_form("/sns/oauth2/refresh_token", refresh) == tokens
    component = {**session_form(wx, wx.login("bob")), **component_credentials(wx)}
    answer = await client.post_form("/sns/component/jscode2session", component)
    assert answer["openid"] == "bob"


async def test_a_form_and_a_query_add_up_and_the_query_comes_first(wx, client):
    form = session_form(wx, wx.login("bob"))
    code = form.pop("js_code")
    assert (await client.post_form(SESSION, form, js_code=code))["openid"] == "bob"
    form = {**session_form(wx, wx.login("bob")), "secret": "wrong"}
    assert (await client.post_form(SESSION, form))["errcode"] == 40125
    assert (await client.post_form(SESSION, form, secret=wx.app_secret))["openid"] == "bob"


async def test_a_post_request_without_a_form_has_its_query_alone(wx, client):
    form = session_form(wx, wx.login("bob"))
    assert (await client.post(SESSION, form))["errcode"] == 41002
    assert (await client.post(SESSION, b"", **form))["openid"] == "bob"


@pytest.mark.parametrize("body", [b"", b"&&=&%", b"appid=%FF", b"\xff\xfe\x00", b"a=1&" * 10_000])
async def test_any_form_is_answered_with_an_errcode(wx, client, body):
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    async with client.http.post(wx.url + SESSION, data=body, headers=headers) as response:
        assert json.loads(await response.read())["errcode"] in {41002, 40013}


@pytest.mark.parametrize("path", [*SNS, TOKEN])
async def test_other_methods_are_refused(wx, client, path):
    for method in ("PUT", "DELETE", "PATCH"):
        async with client.http.request(method, wx.url + path, data={"appid": "wx0"}) as response:
            assert json.loads(await response.read())["errcode"] == 43001


@pytest.mark.parametrize("path", [CHECK, CALLBACK_IP, "/cgi-bin/gettoken"])
async def test_a_form_is_refused_where_wechat_accepts_only_a_query(client, path):
    assert (await client.post_form(path, {"access_token": "97_unknown"}))["errcode"] == 43001


@pytest.mark.parametrize("path", [*SNS, TOKEN])
async def test_a_form_is_refused_with_strict_methods(strict, path):
    answer = await strict.post_form(path, {"appid": strict.wx.app_id})
    assert answer["errcode"] == 43001
    assert answer["errmsg"].startswith("require GET method")


async def test_strict_methods_refuse_what_was_documented_before(strict):
    assert (await strict.post(KEYS, b""))["errcode"] == 43001
    assert (await strict.get(KEYS))["errcode"] == 41001


async def test_a_form_that_is_refused_uses_no_code(strict):
    form = session_form(strict.wx, strict.wx.login("bob"))
    assert (await strict.post_form(SESSION, form))["errcode"] == 43001
    assert (await strict.get(SESSION, **form))["openid"] == "bob"
    assert (await strict.post(STABLE, token_form(strict.wx)))["expires_in"] == 7200


async def test_a_form_is_recorded_like_a_query_without_its_secrets(wx, client):
    form = session_form(wx, wx.login("bob"))
    await client.post_form(SESSION, form)
    await client.get(SESSION, **form)
    secret = form.pop("secret")
    posted, got = wx.requests
    assert dict(posted.query) == dict(got.query) == form
    assert (posted.method, got.method) == ("POST", "GET")
    assert secret not in repr(wx.requests)


async def test_tokens_in_a_form_are_not_recorded(wx, client):
    secrets = ("access_token", "refresh_token", "component_access_token", "secret")
    await client.post_form("/sns/auth", {name: f"hidden-{name}" for name in secrets})
    assert "hidden" not in repr(wx.requests)


async def test_a_form_that_is_refused_is_not_recorded(strict):
    await strict.post_form(SESSION, session_form(strict.wx, "code"), lang="en")
    [request] = strict.wx.requests
    assert dict(request.query) == {"lang": "en"}
