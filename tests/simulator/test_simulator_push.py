"""What WeChatSimulator pushes, read without this package's own parser."""

import base64
import hashlib
import json
from typing import Any
from xml.etree import ElementTree

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from Crypto.Cipher import AES

from mpauthx_async.simulator import PushedEvent, WeChatSimulator
from tests.helpers.simulator_client import ACCOUNT, Client

REVOKE = "user_authorization_revoke"


def sign(*texts: str) -> str:
    return hashlib.sha1("".join(sorted(texts)).encode()).hexdigest()


def read(body: bytes, form: str) -> dict[str, Any]:
    if form == "xml":
        return {child.tag: child.text for child in ElementTree.fromstring(body)}
    return json.loads(body, parse_int=str)


def decrypt(encrypted: str, aes_key: str) -> tuple[bytes, str]:
    """The message and the AppID, by the description in WeChat's document."""
    key = base64.b64decode(aes_key + "=")
    assert len(key) == 32
    full = AES.new(key, AES.MODE_CBC, key[:16]).decrypt(base64.b64decode(encrypted))
    assert len(full) % 32 == 0
    assert full[-1] <= 32
    assert full.endswith(bytes([full[-1]]) * full[-1])
    length = int.from_bytes(full[16:20], "big")
    return full[20 : 20 + length], full[20 + length : -full[-1]].decode()


@pytest.mark.parametrize("mode", ["safe", "compatible", "plain"])
@pytest.mark.parametrize("form", ["json", "xml"])
def test_an_event_has_the_fields_that_wechat_documents(wx: WeChatSimulator, form: Any, mode: Any):
    wx.login("bob", "union-of-bob", app_id=ACCOUNT)
    wx.push.token = "AAAAA"
    pushed = wx.push_event(REVOKE, "bob", revoke_info=[6, 8], mode=mode, form=form, app_id=ACCOUNT)
    query = pushed.query
    assert query["signature"] == sign("AAAAA", query["timestamp"], query["nonce"])
    assert query["timestamp"] == "1700000000"
    shown = read(pushed.body, form)
    message = shown
    if mode == "plain":
        assert query.keys() == {"signature", "timestamp", "nonce"}
    else:
        encrypted = shown.pop("Encrypt")
        signed = "AAAAA", query["timestamp"], query["nonce"], encrypted
        assert query["msg_signature"] == sign(*signed)
        assert (query["encrypt_type"], query["openid"]) == ("aes", "bob")
        raw, app_id = decrypt(encrypted, wx.push.aes_key)
        assert app_id == ACCOUNT
        message = read(raw, form)
        assert shown == (message if mode == "compatible" else {"ToUserName": message["ToUserName"]})
    assert message.pop("ToUserName").startswith("gh_")
    assert message.pop("FromUserName")
    assert message == {
        "CreateTime": "1700000000",
        "MsgType": "event",
        "Event": REVOKE,
        "OpenID": "bob",
        "UnionID": "union-of-bob",
        "AppID": ACCOUNT,
        "RevokeInfo": "6,8",
    }
    assert pushed.content_type == {"json": "application/json", "xml": "text/xml"}[form]


@pytest.mark.parametrize("open_id", ["a]]>b", "<&>", "微信"])
def test_xml_holds_any_open_id(wx: WeChatSimulator, open_id: str):
    pushed = wx.push_event("user_info_modified", open_id, mode="plain", form="xml")
    fields = read(pushed.body, "xml")
    assert fields["OpenID"] == open_id
    assert not {"UnionID", "RevokeInfo"} & fields.keys()


def test_no_two_events_have_one_nonce(wx: WeChatSimulator):
    nonces = {wx.push_event("user_info_modified", "bob").query["nonce"] for _ in range(50)}
    assert len(nonces) == 50


def test_the_test_of_a_url_is_signed(wx: WeChatSimulator):
    query = wx.push.challenge()
    assert query["signature"] == sign(wx.push.token, query["timestamp"], query["nonce"])
    assert query["echostr"].isdigit()


async def test_an_event_is_posted_to_a_url(wx: WeChatSimulator):
    taken: list[PushedEvent] = []

    async def take(request: web.Request) -> web.Response:
        taken.append(PushedEvent(dict(request.query), await request.read(), request.content_type))
        return web.Response(status=202, text="success")

    app = web.Application()
    app.add_routes([web.post("/push", take)])
    async with TestServer(app) as server:
        for form in ("json", "xml"):
            pushed = wx.push_event(REVOKE, "bob", form=form)
            assert await pushed.post(str(server.make_url("/push"))) == (202, "success")
            assert taken.pop() == pushed


async def front_page(client: Client) -> str:
    async with client.http.get(client.wx.url + "/") as response:
        return await response.text()


async def test_another_process_gets_an_event_and_the_settings(wx: WeChatSimulator, client: Client):
    pushed = await client.control(
        "push_event", event=REVOKE, open_id="bob", revoke_info=[19], mode="plain", form="xml"
    )
    assert pushed["query"].keys() == {"signature", "timestamp", "nonce"}
    assert read(pushed["body"].encode(), "xml")["RevokeInfo"] == "19"
    pushed = await client.control("push_event", event=REVOKE, open_id="bob", app_id=ACCOUNT)
    encrypted = json.loads(pushed["body"])["Encrypt"]
    assert decrypt(encrypted, wx.push.aes_key)[1] == ACCOUNT
    page = await front_page(client)
    assert f"push token {wx.push.token}\n" in page
    assert f"push EncodingAESKey {wx.push.aes_key}\n" in page


async def test_settings_of_ones_own_are_not_shown(wx: WeChatSimulator, client: Client):
    wx.push.token, wx.push.aes_key = "own-token", "own" + "K" * 40
    page = await front_page(client)
    assert "own-token" not in page
    assert "ownK" not in page


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "'event'"),
        ({"event": REVOKE}, "'open_id'"),
        ({"event": REVOKE, "open_id": "bob", "mode": "raw"}, "'mode'"),
        ({"event": REVOKE, "open_id": "bob", "form": ["json"]}, "'form'"),
        ({"event": REVOKE, "open_id": "bob", "revoke_info": 6}, "'revoke_info'"),
        ({"event": REVOKE, "open_id": "bob", "revoke_info": [True]}, "'revoke_info'"),
        ({"event": REVOKE, "open_id": "bob", "app_id": "wx-unknown"}, "wx-unknown"),
    ],
)
async def test_bad_control_input_says_what_to_send(client: Client, body: Any, says: str):
    assert says in (await client.control("push_event", **body))["message"]
