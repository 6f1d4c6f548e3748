"""Encryption keys that a client and its server share."""

import base64
import json
from typing import Any

import pytest
from Crypto.Cipher import AES
from Crypto.Util.Padding import pad, unpad
from redis.asyncio import Redis

from mpauthx_async import (
    InvalidResponseError,
    InvalidTokenError,
    MPAuthX,
    SessionKeyLostError,
    UserEncryptKey,
    WeChatSimulator,
)
from mpauthx_async.simulator import EncryptKey
from tests.helpers.clock import Clock
from tests.helpers.near_services import Make
from tests.helpers.scripted_server import Answer, Server
from tests.helpers.simulator_client import Client

PATH = "/wxa/business/getuserencryptkey"
KEY = "AAAAAAAAAAAAAAAAAAAAAA=="
LIFE = {"expire_in": 3597, "create_time": 1616572301}
INFO = {"encrypt_key": KEY, "version": 10, "iv": "6003f73ec441c386", **LIFE}
WRONG = (None, "", "a\x07b", "a\ufffdb", 1.5, [])


def cipher(key: UserEncryptKey | EncryptKey) -> Any:
    return AES.new(base64.b64decode(key.encrypt_key), AES.MODE_CBC, key.iv.encode())


async def test_what_the_client_encrypts_opens_with_the_key_of_its_version(
    auth: MPAuthX, wx: WeChatSimulator
) -> None:
    token = (await auth.authorize(wx.login("bob"))).token
    at_client = wx.get_latest_user_key("bob")
    sent = cipher(at_client).encrypt(pad(b"a message", 16))
    keys = {key.version: key for key in await auth.user_encrypt_keys(token)}
    assert unpad(cipher(keys[at_client.version]).decrypt(sent), 16) == b"a message"


async def test_returns_three_newest_keys(auth: MPAuthX, wx: WeChatSimulator, clock: Clock) -> None:
    token = (await auth.authorize(wx.login("bob"))).token
    assert await auth.user_encrypt_keys(token) == ()
    begun_at = int(clock.now)
    for _ in range(4):
        wx.get_latest_user_key("bob")
        clock.now += 3600
    clock.now -= 3599
    keys = await auth.user_encrypt_keys(token)
    assert [(key.version, key.expires_in, key.created_at) for key in keys] == [
        (4, 3599, (begun_at + 3 * 3600) * 1000),
        (3, 0, (begun_at + 2 * 3600) * 1000),
        (2, 0, (begun_at + 3600) * 1000),
    ]
    assert len({(key.encrypt_key, key.iv) for key in keys}) == 3


async def test_a_client_that_logged_in_again_has_to_log_in_here_too(
    auth: MPAuthX, wx: WeChatSimulator
) -> None:
    token = (await auth.authorize(wx.login("bob"))).token
    wx.login("bob")
    with pytest.raises(SessionKeyLostError, match=r"wx\.login"):
        await auth.user_encrypt_keys(token)
    web = (await auth.authorize_web(wx.web_login("bob"))).token
    with pytest.raises(SessionKeyLostError):
        await auth.user_encrypt_keys(web)
    with pytest.raises(InvalidTokenError):
        await auth.user_encrypt_keys("bob|shop|forged")


async def test_the_session_key_is_not_sent(auth: MPAuthX, wx: WeChatSimulator) -> None:
    token = (await auth.authorize(wx.login("bob", session_key=KEY))).token
    await auth.user_encrypt_keys(token)
    request = wx.requests[-1]
    assert (request.path, request.method) == (PATH, "GET")
    assert request.query["openid"] == "bob"
    assert request.query["sig_method"] == "hmac_sha256"
    assert KEY not in request.query.values()


@pytest.mark.parametrize(
    "key_info_list",
    [
        *(None, {}, [None], [INFO, {}]),
        *([{**INFO, name: wrong}] for name in INFO for wrong in WRONG),
    ],
)
async def test_a_malformed_list_of_keys_is_refused(
    make: Make, wx: WeChatSimulator, redis: Redis, key_info_list: Any
) -> None:
    answers = (
        {"openid": "bob", "session_key": KEY},
        {"access_token": "access", "expires_in": 7200},
        {"errcode": 0, "key_info_list": key_info_list},
        {"errcode": 0, "key_info_list": [INFO]},
    )
    script = (Answer(json.dumps(answer)) for answer in answers)
    async with Server(*script) as server, make(api_base=server.url) as auth:
        token = (await auth.authorize("code")).token
        with pytest.raises(InvalidResponseError, match="key_info_list"):
            await auth.user_encrypt_keys(token)
        assert await auth.user_encrypt_keys(token) == (
            UserEncryptKey(KEY, "6003f73ec441c386", 10, 3597, 1616572301000),
        )


def test_the_key_is_not_in_the_repr() -> None:
    assert KEY not in repr(UserEncryptKey.from_wechat(INFO))
    assert KEY not in repr(EncryptKey(KEY, "iv", 1, 1))


async def test_another_process_gets_the_clients_key(client: Client, wx: WeChatSimulator) -> None:
    assert "call login" in (await client.control("user_key", open_id="bob"))["message"]
    wx.login("bob")
    key = wx.get_latest_user_key("bob")
    assert await client.control("user_key", open_id="bob") == {
        "encryptKey": key.encrypt_key,
        "iv": key.iv,
        "version": 1,
        "expireTime": key.expire_time,
    }
    with pytest.raises(LookupError, match="call login"):
        wx.get_latest_user_key("nobody")
