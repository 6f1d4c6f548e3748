"""What WeChatSimulator promises of WeChat's web OAuth 2.0, over real HTTP."""

import logging
import re

import pytest

from mpauthx_async.simulator import WeChatSimulator
from tests.helpers.simulator_client import ACCOUNT, RID, SECRET, Client, exchange, session

DAY = 86_400


async def refresh(client: Client, refresh_token: str, /, **changes: str | None) -> dict:
    query = {"appid": client.wx.app_id, "grant_type": "refresh_token"}
    given = {**query, "refresh_token": refresh_token, **changes}
    return await client.get("/sns/oauth2/refresh_token", **given)


async def user_info(client: Client, tokens: dict, **changes: str | None) -> dict:
    query = {"access_token": tokens["access_token"], "openid": tokens["openid"], **changes}
    return await client.get("/sns/userinfo", **query)


# Codes


async def test_a_code_is_exchanged_for_tokens_and_openid(wx, client):
    tokens = await exchange(client, wx.web_login("bob"))
    assert tokens.keys() == {"access_token", "expires_in", "refresh_token", "openid", "scope"}
    assert (tokens["openid"], tokens["scope"]) == ("bob", "snsapi_userinfo")
    assert tokens["expires_in"] == 7200
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


@pytest.mark.parametrize(
    ("login", "ask"), [(WeChatSimulator.login, session), (WeChatSimulator.web_login, exchange)]
)
async def test_a_code_belongs_to_one_app(wx, client, login, ask):
    code = login(wx, "bob", app_id=ACCOUNT)
    assert (await ask(client, code))["errcode"] == 40029
    assert (await ask(client, code, appid=ACCOUNT, secret=SECRET))["openid"] == "bob"


async def test_the_codes_of_pages_and_of_mini_programs_are_not_the_same(wx, client):
    assert (await exchange(client, wx.login("bob")))["errcode"] == 40029
    assert (await session(client, wx.web_login("bob")))["errcode"] == 40029


async def test_one_open_id_is_another_user_in_another_app(wx, client):
    wx.web_login("bob", "union-bob")
    code = wx.web_login("bob", app_id=ACCOUNT)
    assert "unionid" not in await exchange(client, code, appid=ACCOUNT, secret=SECRET)


@pytest.mark.parametrize("scope", ["", "snsapi_privateinfo"])
def test_an_unknown_scope_is_refused(scope):
    with pytest.raises(ValueError, match="snsapi_base, snsapi_userinfo, snsapi_login"):
        WeChatSimulator().web_login("bob", scope=scope)


@pytest.mark.parametrize("call", ["login", "web_login", "set_profile", "block", "get_user_info"])
def test_an_unknown_app_is_a_lookup_error_that_says_what_to_do(call):
    with pytest.raises(LookupError, match=r"The app 'wx0' is unknown: pass it .* in other_apps"):
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


async def test_userinfo_of_a_user_without_unionid_has_no_unionid(wx, client):
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
        ({"access_token": "?"}, 40001, "invalid credential, access_token is invalid or not latest"),
    ],
)
async def test_a_token_counts_for_its_own_user_only(wx, client, path, changes, number, text):
    wx.web_login("alice")
    tokens = await exchange(client, wx.web_login("bob"))
    answer = await client.get(path, **{**keys(tokens), **changes})
    assert answer["errcode"] == number
    assert re.fullmatch(f"{text}, {RID}", answer["errmsg"])


async def test_auth_checks_whether_an_access_token_is_valid(wx, client, clock):
    tokens = await exchange(client, wx.web_login("bob"))
    clock.now += 7199
    assert await client.get("/sns/auth", **keys(tokens)) == {"errcode": 0, "errmsg": "ok"}
    clock.now += 1
    answer = await client.get("/sns/auth", **keys(tokens))
    assert answer["errcode"] == 42001
    assert answer["errmsg"].startswith("access_token expired, rid: ")


async def test_expired_values_are_removed(wx, client, clock):
    tokens = await exchange(client, wx.web_login("bob"))
    clock.now += 2 * 7200
    assert (await user_info(client, tokens))["errcode"] == 40001
    clock.now += 60 * DAY
    assert (await refresh(client, tokens["refresh_token"]))["errcode"] == 40030


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


async def test_another_process_can_log_in(wx, client):
    code = (await client.control("web_login", open_id="bob", scope="snsapi_base"))["code"]
    assert (await exchange(client, code))["scope"] == "snsapi_base"
    refused = await client.control("web_login", open_id="a", scope="b")
    assert "must be one of" in refused["message"]
    assert "is unknown" in (await client.control("login", open_id="a", app_id="b"))["message"]


async def test_the_secret_can_change_while_it_runs(wx, client):
    old, wx.app_secret = wx.app_secret, SECRET
    code = wx.web_login("bob")
    assert (await exchange(client, code, secret=old))["errcode"] == 40125
    assert (await exchange(client, code))["openid"] == "bob"
