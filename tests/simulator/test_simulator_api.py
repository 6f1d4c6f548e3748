"""What WeChatSimulator promises of access tokens and the calls that need one, over real HTTP."""

import asyncio
import gc
import hashlib
import hmac
import logging
import re
from functools import partial

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpauthx_async.simulator import Fault, WeChatSimulator
from tests.helpers.simulator_client import (
    ACCOUNT,
    HINT,
    RID,
    SECRET,
    Client,
    component_credentials,
    decrypt,
    session,
    session_form,
)

STABLE, CLASSIC = "/cgi-bin/stable_token", "/cgi-bin/token"
CHECK, RESET = "/wxa/checksession", "/wxa/resetusersessionkey"
PHONE = "/wxa/business/getuserphonenumber"
COMPONENT = "/sns/component/jscode2session"
PARAMETERS = (
    *("appid", "secret", "grant_type", "access_token", "openid", "signature", "sig_method"),
    *("js_code", "corpid", "corpsecret", "component_appid", "component_access_token"),
)
WECOM_TOKEN, WECOM = "/cgi-bin/gettoken", "/cgi-bin/miniprogram/jscode2session"
QUERIED = (
    *(CLASSIC, CHECK, RESET, COMPONENT, WECOM_TOKEN, WECOM, "/sns/userinfo", "/sns/jscode2session"),
    *("/sns/oauth2/component/access_token", "/sns/oauth2/component/refresh_token"),
)


def credentials(wx: WeChatSimulator) -> dict:
    return {"grant_type": "client_credential", "appid": wx.app_id, "secret": wx.app_secret}


async def stable(client: Client, **changes: object) -> dict:
    body = {**credentials(client.wx), **changes}
    return await client.post(STABLE, {name: body[name] for name in body if body[name] is not None})


async def classic(client: Client, **changes: str | None) -> dict:
    return await client.get(CLASSIC, **{**credentials(client.wx), **changes})


async def use(client: Client, answer: dict) -> int:
    """The errcode of a call with this token; 40029, for its code, when the token counts."""
    token = answer["access_token"]
    return (await client.post(PHONE, {"code": "unknown"}, access_token=token))["errcode"]


# App access tokens


async def test_a_stable_token_stays_the_same_while_it_lives(client, clock):
    first = await stable(client)
    assert first["expires_in"] == 7200
    assert await use(client, first) == 40029
    clock.now += 6899
    assert await stable(client, force_refresh=False) == {**first, "expires_in": 301}


async def test_five_minutes_before_the_end_it_is_renewed_and_both_count(client, clock):
    first = await stable(client)
    clock.now += 6900
    second = await stable(client)
    assert second["access_token"] != first["access_token"]
    assert second["expires_in"] == 7200
    assert await use(client, first) == await use(client, second) == 40029
    clock.now += 300
    assert await use(client, first) == 42001
    assert await use(client, second) == 40029


async def test_a_forced_refresh_ends_the_earlier_token_at_once(client):
    first = await stable(client)
    second = await stable(client, force_refresh=True)
    assert second["access_token"] != first["access_token"]
    assert await use(client, first) == 40001
    assert await use(client, second) == 40029
    assert await stable(client) == second


async def test_a_forced_refresh_within_30_seconds_of_the_last_refreshes_nothing(client, clock):
    first = await stable(client, force_refresh=True)
    clock.now += 29
    assert await stable(client, force_refresh=True) == {**first, "expires_in": 7171}
    clock.now += 1
    assert (await stable(client, force_refresh=True))["access_token"] != first["access_token"]


async def test_a_refresh_can_be_forced_20_times_a_day(client, clock):
    for _ in range(20):
        latest = await stable(client, force_refresh=True)
        clock.now += 30
    answer = await stable(client, force_refresh=True)
    assert answer["errcode"] == 45009
    assert re.fullmatch(f"reach max api daily quota limit {HINT} {RID}", answer["errmsg"])
    assert (await stable(client))["access_token"] == latest["access_token"]
    other = await stable(client, appid=ACCOUNT, secret=SECRET, force_refresh=True)
    assert other["expires_in"] == 7200
    clock.now += 86_400
    assert (await stable(client, force_refresh=True))["expires_in"] == 7200


async def test_each_classic_token_replaces_the_one_before_after_five_minutes(client, clock):
    first, second = await classic(client), await classic(client)
    assert second["access_token"] != first["access_token"]
    assert first["expires_in"] == second["expires_in"] == 7200
    clock.now += 299
    assert await use(client, first) == await use(client, second) == 40029
    clock.now += 1
    assert await use(client, first) == 40001
    assert await use(client, second) == 40029


async def test_stable_and_classic_tokens_are_independent(client, clock):
    first, second = await stable(client), await classic(client)
    await classic(client)
    await stable(client, force_refresh=True)
    assert await use(client, first) == 40001
    assert await use(client, second) == 40029
    clock.now += 300
    assert await use(client, second) == 40001


async def test_all_tokens_of_an_app_can_be_expired(wx, client):
    tokens = [await stable(client), await classic(client)]
    other = await stable(client, appid=ACCOUNT, secret=SECRET)
    wx.expire_access_tokens()
    assert [await use(client, token) for token in tokens] == [40001, 40001]
    assert await use(client, other) == 40029
    assert await use(client, await stable(client)) == 40029
    wx.expire_access_tokens(ACCOUNT)
    assert await use(client, other) == 40001
    with pytest.raises(LookupError, match="other_apps"):
        wx.expire_access_tokens("wx0")


@pytest.mark.parametrize(
    ("changes", "number", "text"),
    [
        ({"grant_type": None}, 40002, "invalid grant_type"),
        ({"grant_type": "authorization_code"}, 40002, "invalid grant_type"),
        ({"appid": None}, 41002, "appid missing"),
        ({"appid": "wx0"}, 40013, "invalid appid"),
        ({"secret": None}, 41004, "appsecret missing"),
        ({"secret": SECRET}, 40125, "invalid appsecret"),
    ],
)
@pytest.mark.parametrize("ask", [stable, classic])
async def test_a_token_requires_the_secret(client, ask, changes, number, text):
    answer = await ask(client, **changes)
    assert answer["errcode"] == number
    assert re.fullmatch(f"{text} {HINT} {RID}", answer["errmsg"])


@pytest.mark.parametrize(
    ("body", "number"),
    [(b"", 44002), (b"{", 47001), (b"[]", 47001), (b"\xff", 47001), (b"[" * 100_000, 47001)],
)
async def test_a_body_that_is_no_json_object_is_refused(client, body, number):
    assert (await client.post(STABLE, body))["errcode"] == number


@pytest.mark.parametrize("changes", [{"appid": 7}, {"appid": ["wx0"]}, {"secret": {"a": 1}}])
async def test_rejects_json_of_another_type(client, changes):
    assert (await stable(client, **changes))["errcode"] in {40013, 40125}


async def test_each_endpoint_has_its_method(client):
    query = {"grant_type": "client_credential"}
    assert (await client.get(STABLE, **query))["errcode"] == 43002
    assert (await client.get(PHONE))["errcode"] == 43002
    for path in (CHECK, RESET, WECOM, WECOM_TOKEN):
        assert (await client.post(path, {}))["errcode"] == 43001


@pytest.mark.parametrize("call", [CHECK, RESET, PHONE])
@pytest.mark.parametrize(
    ("token", "number", "text"),
    [
        (None, 41001, "access_token missing"),
        ("", 41001, "access_token missing"),
        ("no token at all", 40014, "invalid access_token"),
        ("97_unknown", 40001, "invalid credential, access_token is invalid or not latest"),
    ],
)
async def test_a_call_needs_a_token(client, call, token, number, text):
    ask = client.post(call, {}, access_token=token) if call == PHONE else None
    answer = await (ask or client.get(call, access_token=token))
    assert answer["errcode"] == number
    assert re.fullmatch(f"{text} {HINT} {RID}", answer["errmsg"])


async def test_an_expired_token_is_known_as_expired_and_then_forgotten(client, clock):
    token = await stable(client)
    clock.now += 7200
    assert await use(client, token) == 42001
    clock.now += 7200
    assert await use(client, token) == 40001


def tokens_in_memory() -> int:
    gc.collect()  # what earlier tests left
    return sum(type(thing).__qualname__ == "_Token" for thing in gc.get_objects())


async def test_expired_tokens_do_not_pile_up(client, clock):
    before = tokens_in_memory()
    for _ in range(50):
        await classic(client)
        clock.now += 3600
    assert 0 < tokens_in_memory() - before <= 5


# Phone numbers


async def test_a_phone_code_gives_the_number(wx, client, clock):
    wx.login("bob")
    phone = wx.get_phone_number("bob")
    token = (await stable(client))["access_token"]
    assert await client.post(PHONE, {"code": phone.code}, access_token=token) == {
        "errcode": 0,
        "errmsg": "ok",
        "phone_info": {
            "phoneNumber": "13800138000",
            "purePhoneNumber": "13800138000",
            "countryCode": "86",
            "watermark": {"timestamp": int(clock.now), "appid": wx.app_id},
        },
    }


async def test_the_old_form_is_sealed_with_the_session_key_and_says_the_same(wx, client):
    code = wx.login("bob")
    phone = wx.get_phone_number("bob", "61234567", country_code="852")
    payload = decrypt(await session_key_of(client, code), phone.encrypted_data, phone.iv)
    assert payload["phoneNumber"] == "+85261234567"
    assert (payload["purePhoneNumber"], payload["countryCode"]) == ("61234567", "852")
    token = (await stable(client))["access_token"]
    answer = await client.post(PHONE, {"code": phone.code}, access_token=token)
    assert answer["phone_info"] == payload


async def test_a_phone_code_works_once_for_five_minutes_in_its_app(wx, client, clock):
    wx.login("bob")
    wx.login("bob", app_id=ACCOUNT)
    codes = [wx.get_phone_number("bob").code for _ in range(2)]
    codes.append(wx.get_phone_number("bob", app_id=ACCOUNT).code)
    codes.append(wx.login("bob"))  # which is a code of another kind
    token = (await stable(client))["access_token"]

    async def errcode(code: object) -> int:
        return (await client.post(PHONE, {"code": code}, access_token=token))["errcode"]

    assert [await errcode(code) for code in codes] == [0, 0, 40029, 40029]
    assert await errcode(codes[0]) == 40029
    assert [await errcode(code) for code in (None, "", 7, ["a"])] == [41008, 41008, 40029, 40029]
    late = wx.get_phone_number("bob").code
    clock.now += 300
    assert await errcode(late) == 40029


async def test_concurrent_use_of_one_phone_code_succeeds_exactly_once(wx, client):
    wx.login("bob")
    code, token = wx.get_phone_number("bob").code, (await stable(client))["access_token"]
    calls = (client.post(PHONE, {"code": code}, access_token=token) for _ in range(20))
    answers = await asyncio.gather(*calls)
    assert sorted(answer["errcode"] for answer in answers) == [0] + [40029] * 19


def test_a_phone_number_before_a_login_is_a_lookup_error_that_says_what_to_do():
    with pytest.raises(LookupError, match=r"call login\('bob'\) first"):
        WeChatSimulator().get_phone_number("bob")


# Session keys


async def session_key_of(client: Client, code: str) -> str:
    return (await session(client, code))["session_key"]


async def signed(client: Client, path: str, session_key: str, **changes: str | None) -> dict:
    token = (await stable(client))["access_token"]
    signature = hmac.new(session_key.encode(), b"", hashlib.sha256).hexdigest()
    query = {"access_token": token, "openid": "bob", "signature": signature}
    return await client.get(path, **{**query, "sig_method": "hmac_sha256", **changes})


async def test_checksession_checks_whether_a_session_key_is_current(wx, client):
    session_key = await session_key_of(client, wx.login("bob"))
    assert await signed(client, CHECK, session_key) == {"errcode": 0, "errmsg": "ok"}
    wx.login("bob")
    answer = await signed(client, CHECK, session_key)
    assert answer["errcode"] == 87009
    assert re.fullmatch(f"invalid signature {HINT} {RID}", answer["errmsg"])


async def test_a_session_key_can_be_reset(wx, client):
    session_key = await session_key_of(client, wx.login("bob"))
    answer = await signed(client, RESET, session_key)
    assert (answer["errcode"], answer["errmsg"], answer["openid"]) == (0, "ok", "bob")
    assert answer["session_key"] != session_key
    assert (await signed(client, CHECK, answer["session_key"]))["errcode"] == 0
    assert (await signed(client, CHECK, session_key))["errcode"] == 87009
    info = wx.get_user_info("bob")
    assert decrypt(answer["session_key"], info.encrypted_data, info.iv)["openId"] == "bob"


@pytest.mark.parametrize("path", [CHECK, RESET])
@pytest.mark.parametrize(
    ("changes", "number"),
    [
        ({"openid": None}, 41009),
        ({"openid": "nobody"}, 40003),
        ({"openid": "carol"}, 40003),
        ({"openid": "dave"}, 87009),
        ({"sig_method": None}, 87008),
        ({"sig_method": "sha1"}, 87008),
        ({"signature": None}, 87009),
        ({"signature": "密"}, 87009),
    ],
)
async def test_a_session_is_asked_for_with_a_right_signature(wx, client, path, changes, number):
    session_key = await session_key_of(client, wx.login("bob"))
    wx.login("carol", app_id=ACCOUNT)
    wx.web_login("dave")  # who has no session key
    assert (await signed(client, path, session_key, **changes))["errcode"] == number
    assert (await signed(client, CHECK, session_key))["errcode"] == 0


async def test_users_of_two_apps_have_session_keys_of_their_own(wx, client):
    code = wx.login("bob")
    info = wx.get_user_info("bob")
    wx.login("bob", app_id=ACCOUNT)
    session_key = await session_key_of(client, code)
    assert decrypt(session_key, info.encrypted_data, info.iv)["watermark"]["appid"] == wx.app_id


async def test_sealed_data_carries_the_watermark_of_its_app(wx, client):
    key = "tiihtNczf5v6AKRyjwEUhQ=="
    wx.login("bob", session_key=key, app_id=ACCOUNT)
    sealed = wx.seal("bob", {"openGId": "group"}, app_id=ACCOUNT)
    payload = decrypt(key, sealed.encrypted_data, sealed.iv)
    assert (payload["openGId"], payload["watermark"]["appid"]) == ("group", ACCOUNT)


# Third-party platforms


async def component(client: Client, code: str, **changes: str | None) -> dict:
    query = {**session_form(client.wx, code), "secret": None, **component_credentials(client.wx)}
    return await client.get(COMPONENT, **{**query, **changes})


async def test_a_platform_logs_users_of_its_apps_in(wx, client):
    answer = await component(client, wx.login("bob", "union-bob"))
    assert answer.keys() == {"openid", "session_key", "unionid"}
    code = wx.login("carol", app_id=ACCOUNT)
    assert (await component(client, code))["errcode"] == 40029
    assert (await component(client, code, appid=ACCOUNT))["openid"] == "carol"
    assert (await component(client, code, appid=ACCOUNT))["errcode"] == 40163


@pytest.mark.parametrize(
    ("changes", "number", "text"),
    [
        ({"component_appid": None}, 41018, "missing component_appid"),
        ({"component_appid": "wx0"}, 40094, "invalid component credential"),
        ({"component_access_token": None}, 41001, "access_token missing"),
        ({"component_access_token": "97_unknown"}, 40001, "invalid credential, .*"),
        ({"appid": None}, 41002, "appid missing"),
        ({"appid": "wx0"}, 61003, "component is not authorized by this account"),
        ({"js_code": None}, 41008, "missing code"),
        ({"grant_type": None}, 40002, "invalid grant_type"),
        ({"js_code": "unknown"}, 40029, "invalid code"),
    ],
)
async def test_a_wrong_call_of_a_platform_uses_no_code(wx, client, changes, number, text):
    code = wx.login("bob")
    answer = await component(client, code, **changes)
    assert answer["errcode"] == number
    assert re.fullmatch(f"{text}, {RID}", answer["errmsg"])
    assert (await component(client, code))["openid"] == "bob"


async def test_a_platforms_token_lives_for_two_hours(wx, client, clock):
    token = wx.component_access_token
    clock.now += 7199
    assert wx.component_access_token == token
    clock.now += 1
    code = wx.login("bob")
    answer = await component(client, code, component_access_token=token)
    assert answer["errcode"] == 42001
    assert (await component(client, code))["openid"] == "bob"


# WeCom


async def wecom_token(client: Client, **changes: str | None) -> dict:
    query = {"corpid": client.wx.corp_id, "corpsecret": client.wx.corp_secret}
    return await client.get(WECOM_TOKEN, **{**query, **changes})


async def wecom_session(client: Client, code: str, **changes: str | None) -> dict:
    token = (await wecom_token(client))["access_token"]
    query = {"access_token": token, "js_code": code, "grant_type": "authorization_code"}
    return await client.get(WECOM, **{**query, **changes})


async def test_wecom_gives_the_same_token_for_two_hours(client, clock):
    first = await wecom_token(client)
    assert (first["errcode"], first["errmsg"], first["expires_in"]) == (0, "ok", 7200)
    clock.now += 7199
    assert await wecom_token(client) == {**first, "expires_in": 1}
    clock.now += 1
    assert (await wecom_token(client))["access_token"] != first["access_token"]


async def test_a_new_token_has_an_expires_in_of_7200_with_a_running_clock():
    async with WeChatSimulator() as wx, aiohttp.ClientSession() as http:
        client = Client(wx, http)
        for answer in (await stable(client), await classic(client), await wecom_token(client)):
            assert answer["expires_in"] == 7200


async def test_a_member_is_logged_in(wx, client):
    answer = await wecom_session(client, wx.wecom_login("zhangsan"))
    assert answer.keys() == {"errcode", "errmsg", "corpid", "userid", "session_key"}
    assert (answer["errcode"], answer["errmsg"]) == (0, "ok")
    assert (answer["corpid"], answer["userid"]) == (wx.corp_id, "zhangsan")
    info = wx.get_wecom_user_info("zhangsan")
    payload = decrypt(answer["session_key"], info.encrypted_data, info.iv)
    assert payload.pop("watermark")["appid"] == wx.app_id
    assert payload == {"userid": "zhangsan", "corpid": wx.corp_id, "name": "zhangsan"}


async def test_a_member_of_another_company_has_its_corpid(wx, client):
    answer = await wecom_session(client, wx.wecom_login("zhangsan", "ww2"))
    assert (answer["corpid"], answer["userid"]) == ("ww2", "zhangsan")


@pytest.mark.parametrize(
    ("ask", "changes", "number", "text"),
    [
        ("token", {"corpid": None}, 41002, "corpid missing"),
        ("token", {"corpid": "ww0"}, 40013, "invalid corpid"),
        ("token", {"corpsecret": None}, 41004, "corpsecret missing"),
        ("token", {"corpsecret": "wrong"}, 40001, "invalid credential"),
        ("session", {"access_token": None}, 41001, "access_token missing"),
        ("session", {"access_token": "unknown"}, 40014, "invalid access_token"),
        ("session", {"js_code": None}, 41008, "missing code"),
        ("session", {"grant_type": None}, 40002, "invalid grant_type"),
        ("session", {"js_code": "unknown"}, 40029, "invalid code"),
    ],
)
async def test_wecom_words_its_errors_in_its_own_way(wx, client, ask, changes, number, text):
    code = wx.wecom_login("zhangsan")
    ask_wecom = wecom_token if ask == "token" else partial(wecom_session, code=code)
    answer = await ask_wecom(client, **changes)
    assert answer["errcode"] == number
    assert re.fullmatch(
        rf"{text}, hint: \[1700000000_1_[0-9a-f]{{32}}\], from ip: 127\.0\.0\.1, "
        rf"more info at https://open\.work\.weixin\.qq\.com/devtool/query\?e={number}",
        answer["errmsg"],
    )
    assert (await wecom_session(client, code))["userid"] == "zhangsan"


async def test_wecoms_codes_and_tokens_end(wx, client, clock):
    code, late = wx.wecom_login("zhangsan"), wx.wecom_login("zhangsan")
    token = (await wecom_token(client))["access_token"]
    assert (await wecom_session(client, code))["errcode"] == 0
    assert (await wecom_session(client, code))["errcode"] == 40029
    clock.now += 300
    assert (await wecom_session(client, late))["errcode"] == 40029
    clock.now += 6900
    fresh = wx.wecom_login("zhangsan")
    assert (await wecom_session(client, fresh, access_token=token))["errcode"] == 42001


async def test_wecom_refuses_a_mini_programs_code(wx, client):
    assert (await wecom_session(client, wx.login("bob")))["errcode"] == 40029


async def test_wecoms_users_are_checked_like_others(wx):
    with pytest.raises(ValueError, match="user_id must not be empty"):
        wx.wecom_login("")
    with pytest.raises(LookupError, match=r"call wecom_login\(\) first"):
        wx.get_wecom_user_info("nobody")


# As everywhere


async def test_no_secret_and_no_token_is_in_requests_reprs_and_logs(wx, client, caplog):
    caplog.set_level(logging.DEBUG)
    token = (await stable(client))["access_token"]
    session_key = await session_key_of(client, wx.login("bob"))
    phone = wx.get_phone_number("bob")
    await client.post(PHONE, {"code": phone.code}, access_token=token)
    await signed(client, CHECK, session_key)
    other_token = (await classic(client))["access_token"]
    await component(client, wx.login("bob"))
    wecom = await wecom_token(client)
    await wecom_session(client, wx.wecom_login("zhangsan"))
    told = repr((wx, wx.requests, vars(wx))) + caplog.text
    secrets = (wx.app_secret, wx.component_access_token, wx.corp_secret, token, other_token)
    for secret in (*secrets, session_key, phone.code, wecom["access_token"]):
        assert secret not in told
    [request] = [request for request in wx.requests if request.path == PHONE]
    assert (request.method, dict(request.query)) == ("POST", {})


@pytest.mark.parametrize("path", [STABLE, CLASSIC, CHECK, COMPONENT, WECOM_TOKEN])
async def test_faults_meet_every_endpoint_in_its_own_words(wx, client, path):
    wx.fail_next(Fault.SYSTEM_BUSY)
    answer = await (client.post(path, {}) if path == STABLE else client.get(path))
    assert answer["errcode"] == -1
    assert answer["errmsg"].startswith("system error")
    assert ("from ip: " in answer["errmsg"]) == (path == WECOM_TOKEN)
    assert (", rid: " in answer["errmsg"]) == (path == COMPONENT)
    assert ("] rid: " in answer["errmsg"]) == (path in (STABLE, CLASSIC, CHECK))


async def test_the_front_page_lists_every_route(wx, client):
    async with client.http.get(wx.url + "/") as response:
        assert response.status == 200
        text = await response.text()
    assert text.startswith(f"WeChatSimulator of the app {wx.app_id}. Its routes:\n")
    assert all(fault.name in text for fault in Fault)
    assert wx.app_secret not in text
    got = (
        *("/cgi-bin/token", "/cgi-bin/gettoken", "/cgi-bin/miniprogram/jscode2session"),
        *("/wxa/checksession", "/wxa/resetusersessionkey", "/wxa/business/getuserencryptkey"),
        *("/sns/jscode2session", "/sns/component/jscode2session", "/sns/userinfo", "/sns/auth"),
        *("/sns/oauth2/access_token", "/sns/oauth2/component/access_token"),
        *("/sns/oauth2/refresh_token", "/sns/oauth2/component/refresh_token"),
        *("/connect/oauth2/authorize", "/connect/qrconnect"),
    )
    commands = (
        *("login", "user_info", "faults", "web_login", "visit_as", "phone_number", "user_key"),
        "wecom_login",
    )
    for line in (
        "POST /cgi-bin/stable_token {",
        "GET /cgi-bin/getcallbackip?access_token=…",
        "POST /wxa/business/getuserphonenumber?access_token=… {",
        *(f"GET {path}?" for path in got),
        *(f"POST /simulator/{command} {{" for command in commands),
        "POST /simulator/clear_faults {}",
        "POST /simulator/reset {}",
    ):
        assert f"\n{line}" in text


async def test_the_front_page_lists_the_ids_and_secrets_of_platform_and_wecom(wx, client, clock):
    told = await front_page(client)
    code = wx.login("bob")
    platform = {name: told[name] for name in ("component_appid", "component_access_token")}
    assert (await component(client, code, **platform))["openid"] == "bob"
    assert await use(client, {"access_token": told["authorizer_access_token"]}) == 40029
    company = {name: told[name] for name in ("corpid", "corpsecret")}
    assert (await wecom_token(client, **company))["errcode"] == 0
    clock.now += 7200
    assert (await front_page(client))["component_access_token"] == wx.component_access_token


async def test_the_front_page_hides_custom_secrets():
    async with (
        WeChatSimulator(corp_id="ww1", corp_secret="chosen-secret") as wx,
        aiohttp.ClientSession() as http,
    ):
        told = await front_page(Client(wx, http))
    assert (told["corpid"], told["corpsecret"]) == ("ww1", "(your own)")
    assert "chosen-secret" not in str(told)


async def front_page(client: Client) -> dict[str, str]:
    """The lines of GET /: what follows their first word."""
    async with client.http.get(client.wx.url + "/") as response:
        lines = (await response.text()).splitlines()
    return {name: rest for name, _, rest in (line.partition(" ") for line in lines)}


async def test_another_process_gets_phone_numbers_and_members(wx, client):
    code = (await client.control("login", open_id="bob", app_id=ACCOUNT))["code"]
    phone = await client.control("phone_number", open_id="bob", app_id=ACCOUNT, phone_number="1")
    assert phone.keys() == {"code", "encryptedData", "iv"}
    token = (await stable(client, appid=ACCOUNT, secret=SECRET))["access_token"]
    answer = await client.post(PHONE, {"code": phone["code"]}, access_token=token)
    assert answer["phone_info"]["phoneNumber"] == "1"
    assert (await component(client, code, appid=ACCOUNT))["openid"] == "bob"
    code = (await client.control("wecom_login", user_id="zhangsan"))["code"]
    assert (await wecom_session(client, code))["userid"] == "zhangsan"
    assert "call login" in (await client.control("phone_number", open_id="nobody"))["message"]


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(QUERIED),
    query=st.dictionaries(
        st.sampled_from(PARAMETERS), st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
    ),
)
async def test_any_query_is_answered_with_an_errcode(client, path, query):
    assert (await client.get(path, **query))["errcode"] > 40000
