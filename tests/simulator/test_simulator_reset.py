"""What WeChatSimulator forgets when it is told to, over real HTTP."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest

from mpauthx_async.simulator import Fault, WeChatSimulator
from tests.helpers.clock import Clock
from tests.helpers.simulator_client import ACCOUNT, SECRET, Client, exchange, session

SESSION, TOKEN = "/sns/jscode2session", "/cgi-bin/token"
PAGE = "/connect/oauth2/authorize"


@pytest.fixture
async def wx() -> AsyncIterator[WeChatSimulator]:
    async with WeChatSimulator(calls_a_minute=1, other_apps={ACCOUNT: SECRET}) as simulator:
        yield simulator


async def app_token(client: Client) -> str:
    query = {"appid": client.wx.app_id, "secret": client.wx.app_secret}
    answer = await client.get(TOKEN, grant_type="client_credential", **query)
    return answer["access_token"]


async def test_faults_can_be_cleared(wx, client):
    wx.fail_next(Fault.SYSTEM_BUSY, 3)
    wx.fail_next(Fault.TOO_FREQUENT)
    code = wx.login("bob")
    assert (await session(client, code))["errcode"] == -1
    wx.clear_faults()
    assert (await session(client, code))["openid"] == "bob"
    wx.fail_next(Fault.TOO_FREQUENT)
    assert (await session(client, "unknown"))["errcode"] == 45011


async def test_clearing_faults_leaves_all_else_as_it_is(wx, client):
    code = wx.login("bob", "union-bob")
    await client.get(SESSION)
    wx.clear_faults()
    assert len(wx.requests) == 1
    assert (await session(client, code))["unionid"] == "union-bob"


async def test_a_reset_forgets_codes(wx, client):
    codes = wx.login("bob"), wx.web_login("bob"), wx.wecom_login("zhang")
    phone = wx.get_phone_number("bob").code
    wx.reset()
    assert (await session(client, codes[0]))["errcode"] == 40029
    assert (await exchange(client, codes[1]))["errcode"] == 40029
    company = {"corpid": wx.corp_id, "corpsecret": wx.corp_secret}
    token = (await client.get("/cgi-bin/gettoken", **company))["access_token"]
    query = {"access_token": token, "js_code": codes[2], "grant_type": "authorization_code"}
    assert (await client.get("/cgi-bin/miniprogram/jscode2session", **query))["errcode"] == 40029
    number = "/wxa/business/getuserphonenumber"
    answer = await client.post(number, {"code": phone}, access_token=await app_token(client))
    assert answer["errcode"] == 40029


async def test_a_reset_forgets_users(wx, client):
    wx.set_profile("bob", nickName="Bob")
    wx.login("bob", "union-bob")
    wx.block("bob")
    wx.login("bob", app_id=ACCOUNT)
    wx.reset()
    for app_id in (None, ACCOUNT):
        with pytest.raises(LookupError, match=r"call login\('bob'\) first"):
            wx.get_user_info("bob", app_id=app_id)
    answer = await session(client, wx.login("bob"))
    assert (answer["openid"], "unionid" in answer) == ("bob", False)
    assert "微信用户" in wx.get_user_info("bob").raw_data


async def test_a_reset_forgets_how_often_a_user_called(wx, client):
    assert (await session(client, wx.login("bob")))["openid"] == "bob"
    assert (await session(client, wx.login("bob")))["errcode"] == 45011
    wx.reset()
    assert (await session(client, wx.login("bob")))["openid"] == "bob"


async def test_a_reset_forgets_tokens(wx, client):
    token, component = await app_token(client), wx.component_access_token
    web = await exchange(client, wx.web_login("bob"))
    wx.reset()
    assert (await client.get("/cgi-bin/getcallbackip", access_token=token))["errcode"] == 40001
    keys = {"access_token": web["access_token"], "openid": "bob"}
    assert (await client.get("/sns/auth", **keys))["errcode"] == 40001
    query = {"appid": wx.app_id, "grant_type": "refresh_token"}
    query["refresh_token"] = web["refresh_token"]
    assert (await client.get("/sns/oauth2/refresh_token", **query))["errcode"] == 40030
    assert wx.component_access_token != component


async def test_a_reset_forgets_faults_latency_and_requests(wx, client):
    await client.get(SESSION)
    wx.fail_next(Fault.SYSTEM_BUSY)
    wx.latency = 3600
    wx.reset()
    assert (wx.latency, len(wx.requests)) == (0, 0)
    assert (await client.get(SESSION))["errcode"] == 41002
    assert [request.path for request in wx.requests] == [SESSION]


async def test_a_reset_forgets_the_visitor_of_the_pages(wx, client):
    wx.visit_as("bob")
    wx.reset()
    query = {"appid": wx.app_id, "redirect_uri": "https://a.example", "response_type": "code"}
    query["scope"] = "snsapi_base"
    async with client.http.get(wx.url + PAGE, params=query, allow_redirects=False) as response:
        assert response.status == 400


async def test_a_reset_takes_the_secrets_and_settings_that_were_given(wx, client):
    given, url, company = wx.app_secret, wx.url, (wx.corp_id, wx.corp_secret)
    wx.app_secret = "another"
    wx.reset()
    assert (wx.app_secret, wx.url) == (given, url)
    assert (wx.corp_id, wx.corp_secret) == company
    assert (await session(client, wx.login("bob"), secret="another"))["errcode"] == 40125
    assert (await session(client, wx.login("bob"), secret=given))["openid"] == "bob"
    code = wx.web_login("bob", app_id=ACCOUNT)
    assert (await exchange(client, code, appid=ACCOUNT, secret=SECRET))["openid"] == "bob"


async def test_strict_methods_stay_strict_after_a_reset():
    async with WeChatSimulator(strict_methods=True) as wx, aiohttp.ClientSession() as http:
        wx.reset()
        assert (await Client(wx, http).post_form(SESSION, {}))["errcode"] == 43001


async def test_a_request_in_progress_ends_as_it_would_have_without_a_reset():
    clock = Clock()
    async with WeChatSimulator(clock=clock) as wx, aiohttp.ClientSession() as http:
        code = wx.login("bob")
        clock.read.clear()
        wx.latency = 0.05
        call = asyncio.create_task(session(Client(wx, http), code))
        await clock.read.wait()
        wx.reset()
        assert (await call)["openid"] == "bob"
        assert not wx.requests


def test_a_reset_needs_no_event_loop():
    wx = WeChatSimulator(app_id="wx1")
    wx.login("bob")
    wx.reset()
    with pytest.raises(LookupError):
        wx.get_user_info("bob")
    assert wx.app_id == "wx1"


async def test_another_process_can_clear_faults_and_reset(wx, client):
    code = wx.login("bob")
    wx.fail_next(Fault.SYSTEM_BUSY)
    assert await client.control("clear_faults") == {}
    assert (await session(client, code))["openid"] == "bob"
    assert await client.control("reset") == {}
    assert not wx.requests
    assert (await session(client, code))["errcode"] == 40029
