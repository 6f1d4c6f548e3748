"""What WeChatSimulator promises of third-party platforms and encryption keys, over real HTTP."""

import hashlib
import hmac
from collections.abc import Callable

import pytest

from mpauthx_async.simulator import WeChatSimulator
from tests.helpers.simulator_client import ACCOUNT, Client, component_credentials

ACCESS, REFRESH = "/sns/oauth2/component/access_token", "/sns/oauth2/component/refresh_token"
KEYS = "/wxa/business/getuserencryptkey"
Fields = dict[str, str | None]


async def exchange(client: Client, code: str, /, **changes: str | None) -> dict:
    query: Fields = {"appid": ACCOUNT, "code": code, "grant_type": "authorization_code"}
    return await client.get(ACCESS, **{**query, **component_credentials(client.wx), **changes})


async def refresh(client: Client, refresh_token: str, /, **changes: str | None) -> dict:
    query: Fields = {"appid": ACCOUNT, "grant_type": "refresh_token"}
    given = {**query, "refresh_token": refresh_token, **component_credentials(client.wx), **changes}
    return await client.get(REFRESH, **given)


# Web logins


async def test_a_platform_exchanges_and_refreshes_as_the_account_itself_does(wx, client, clock):
    answer = await exchange(client, wx.web_login("bob", "union-bob", app_id=ACCOUNT))
    assert (answer["openid"], answer["unionid"]) == ("bob", "union-bob")
    assert answer["expires_in"] == 7200
    clock.now += 7200
    again = await refresh(client, answer["refresh_token"])
    assert again["openid"] == "bob"
    assert again["access_token"] != answer["access_token"]
    profile = await client.get("/sns/userinfo", access_token=again["access_token"], openid="bob")
    assert profile["openid"] == "bob"


@pytest.mark.parametrize(
    ("changes", "errcode"),
    [
        ({"component_appid": None}, 41018),
        ({"component_appid": "wx0"}, 40094),
        ({"component_access_token": None}, 41001),
        ({"component_access_token": "97_unknown"}, 40001),
        ({"appid": None}, 41002),
        ({"appid": "wx0"}, 61003),
        ({"code": None, "refresh_token": None}, (41008, 41003)),
        ({"grant_type": None}, 40002),
        ({"code": "unknown", "refresh_token": "unknown"}, (40029, 40030)),
    ],
)
async def test_a_wrong_call_is_refused_and_uses_no_code(wx, client, changes, errcode):
    expected = (errcode, errcode) if isinstance(errcode, int) else errcode
    code = wx.web_login("bob", app_id=ACCOUNT)
    assert (await exchange(client, code, **changes))["errcode"] == expected[0]
    token = (await exchange(client, code))["refresh_token"]
    assert (await refresh(client, token, **changes))["errcode"] == expected[1]
    assert (await exchange(client, code))["errcode"] == 40163


# The access tokens of apps


async def test_an_authorizer_token_lives_for_two_hours_and_belongs_to_its_app(wx, client, clock):
    async def errcode(token: str) -> int:
        answer = await client.get("/cgi-bin/getcallbackip", access_token=token)
        return answer.get("errcode", 0)

    first = wx.authorizer_access_token()
    assert wx.authorizer_access_token(ACCOUNT) != first
    clock.now += 7199
    assert wx.authorizer_access_token() == first
    assert await errcode(first) == 0
    clock.now += 1
    second = wx.authorizer_access_token()
    assert second != first
    assert await errcode(first) == 42001
    wx.expire_access_tokens()
    assert await errcode(second) == 40001
    assert await errcode(wx.authorizer_access_token()) == 0
    with pytest.raises(LookupError):
        wx.authorizer_access_token("wx-unknown")


# Encryption keys


@pytest.fixture
def ask(wx: WeChatSimulator, client: Client) -> Callable[..., object]:
    """Asks for the keys of bob, who logs in now."""
    session_key = "AAAAAAAAAAAAAAAAAAAAAA=="
    wx.login("bob", session_key=session_key)

    async def ask(body: bytes = b"", method: str = "GET", **changes: str | None) -> dict:
        signature = hmac.new(session_key.encode(), b"", hashlib.sha256).hexdigest()
        query = {"openid": "bob", "signature": signature, "sig_method": "hmac_sha256"}
        query["access_token"] = wx.authorizer_access_token()
        return await client._answer(method, KEYS, {**query, **changes}, body)

    return ask


async def test_the_keys_of_a_user_are_listed(wx, clock, ask):
    assert (await ask())["key_info_list"] == []
    key = wx.get_latest_user_key("bob")
    clock.now += 3
    assert wx.get_latest_user_key("bob") == key
    assert await ask() == {
        "errcode": 0,
        "errmsg": "ok",
        "key_info_list": [
            {"encrypt_key": key.encrypt_key, "version": 1, "expire_in": 3597}
            | {"iv": key.iv, "create_time": int(clock.now) - 3}
        ],
    }


@pytest.mark.parametrize(
    ("changes", "errcode"),
    [
        ({"access_token": None}, 41001),
        ({"openid": None}, 41009),
        ({"openid": "nobody"}, 40003),
        ({"sig_method": "sha1"}, 87008),
        ({"signature": "0" * 64}, 87009),
        ({"signature": None}, 87009),
    ],
)
async def test_the_keys_want_a_token_and_a_signature(ask, changes, errcode):
    assert (await ask(**changes))["errcode"] == errcode


async def test_the_signature_of_a_call_covers_its_body(ask):
    assert (await ask(b"{}", "POST"))["errcode"] == 87009
    signed = hmac.new(b"AAAAAAAAAAAAAAAAAAAAAA==", b"{}", hashlib.sha256).hexdigest()
    assert (await ask(b"{}", "POST", signature=signed))["errcode"] == 0


async def test_the_keys_are_given_by_the_method_that_was_documented_before(wx, ask):
    key = wx.get_latest_user_key("bob")
    assert (await ask(method="POST"))["key_info_list"][0]["encrypt_key"] == key.encrypt_key
    assert (await ask(method="PUT"))["errcode"] == 43001
