"""Parsing what WeChat pushes, against its published samples, the simulator, and what is forged."""

import base64
import hashlib
import json
import pickle
import traceback
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest
from Crypto.Cipher import AES
from Crypto.Util.Padding import pad
from hypothesis import given, settings
from hypothesis import strategies as st

from mpauthx_async import (
    ConfigurationError,
    InvalidPushEventError,
    PushEvent,
    StatusCode,
    WeChatSimulator,
    parse_push_event,
    verify_push_url,
)
from tests.helpers.clock import Clock

# https://developers.weixin.qq.com/miniprogram/dev/framework/server-ability/message-push.html
TOKEN, AES_KEY = "AAAAA", "A" * 43
PLAIN_QUERY = {
    "signature": "899cf89e464efb63f54ddac96b0a0a235f53aa78",
    "timestamp": "1714037059",
    "nonce": "486452656",
}
PLAIN_BODY = """{
    "ToUserName": "gh_97417a04a28d",
    "FromUserName": "o9AgO5Kd5ggOC-bXrbNODIiE3bGY",
    "CreateTime": 1714037059,
    "MsgType": "event",
    "Event": "debug_demo",
    "debug_str": "hello world"
}"""
SAFE_QUERY = {
    "signature": "6c5c811b55cc85e0e1b54100749188c20beb3f5d",
    "timestamp": "1714112445",
    "nonce": "415670741",
    "openid": "o9AgO5Kd5ggOC-bXrbNODIiE3bGY",
    "encrypt_type": "aes",
    "msg_signature": "046e02f8204d34f8ba5fa3b1db94908f3df2e9b3",
}
ENCRYPT = (
    "+qdx1OKCy+5JPCBFWw70tm0fJGb2Jmeia4FCB7kao+/Q5c/ohsOzQHi8khUOb05JCpj0JB4RvQMkUyus8TPxLKJGQqcv"
    "ZqzDpVzazhZv6JsXUnnR8XGT740XgXZUXQ7vJVnAG+tE8NUd4yFyjPy7GgiaviNrlCTj+l5kdfMuFUPpRSrfMZuMcp3F"
    "n2Pede2IuQrKEYwKSqFIZoNqJ4M8EajAsjLY2km32IIjdf8YL/P50F7mStwntrA2cPDrM1kb6mOcfBgRtWygb3VIYnSe"
    "OBrebufAlr7F9mFUPAJGj04="
)
SAFE_BODY = json.dumps({"ToUserName": "gh_97417a04a28d", "Encrypt": ENCRYPT})
SAFE_TIME = 1714112445
# Of the sample code that WeChat publishes for encrypted messages.
SAMPLE_QUERY = {
    "timestamp": "1409735669",
    "nonce": "1320562132",
    "msg_signature": "5d197aaffba7e9b25a30732f161a50dee96bd5fa",
}
SAMPLE_BODY = (
    "<xml><ToUserName><![CDATA[gh_10f6c3c3ac5a]]></ToUserName>"
    "<FromUserName><![CDATA[oyORnuP8q7ou2gfYjqLzSIWZf0rs]]></FromUserName>"
    "<CreateTime>1409735668</CreateTime><MsgType><![CDATA[text]]></MsgType>"
    "<Content><![CDATA[abcdteT]]></Content><MsgId>6054768590064713728</MsgId><Encrypt><![CDATA["
    "hyzAe4OzmOMbd6TvGdIOO6uBmdJoD0Fk53REIHvxYtJlE2B655HuD0m8KUePWB3+LrPXo87wzQ1QLvbeUgmBM4x6F8PG"
    "HQHFVAFmOD2LdJF9FrXpbUAh0B5GIItb52sn896wVsMSHGuPE328HnRGBcrS7C41IzDWyWNlZkyyXwon8T332jisa+h6"
    "tEDYsVticbSnyU8dKOIbgU6ux5VTjg3yt+WGzjlpKn6NPhRjpA912xMezR4kw6KWwMrCVKSVCZciVGCgavjIQ6X8tCOp"
    "3yZbGpy0VxpAe+77TszTfRd5RJSVO/HTnifJpXgCSUdUue1v6h0EIBYYI1BD1DlD+C0CR8e6OewpusjZ4uBl9FyJvnhv"
    "Ql+q5rv1ixrcpCumEPo5MJSgM9ehVsNPfUM669WuMyVWQLCzpu9GhglF2PE=]]></Encrypt></xml>"
)
# https://developers.weixin.qq.com/miniprogram/dev/framework/security.html, with its blanks
REVOKE_XML = """<xml>

<ToUserName><![CDATA[gh_870882ca4b1]]></ToUserName>

<FromUserName><![CDATA[owAqB1v0ahK_Xlc7GshIDdf2yf7E]]></FromUserName>

<CreateTime>1626857200</CreateTime>

<MsgType><![CDATA[event]]></MsgType>

<Event><![CDATA[user_authorization_revoke]]></Event>

<OpenID><![CDATA[owAqB1nqaOYYWl0Ng484G2z5NIwU]]></OpenID>

<AppID><![CDATA[wx13974bf780d3dc89]]></AppID>

<RevokeInfo><![CDATA[1]]></RevokeInfo>

<PluginID><![CDATA[wx13974bf780d3dc89]]></PluginID>

< OpenPID><![CDATA[G7esq5NVzP76HIHoB95t4CVBP6to]]></OpenPID>

</xml>"""
REVOKE_JSON = """{
"ToUserName": "gh_870882ca4b1",
"FromUserName": "oaKk346BaWE-eIn4oSRWbaM9vR7s",
"CreateTime": 1627359464,
"MsgType": "event",
"Event": "user_authorization_revoke",
" OpenID": "oaKk343WOktAaT2ygsX138BGblrg",
" AppID": "wx13974bf780d3dc89",
" RevokeInfo": "201",
" OpenPID": " G7esq5NVzP76HIHoB95t4CVBP6to"
}"""

NOW = 1_700_000_000


def sign(*texts: str) -> str:
    return hashlib.sha1("".join(sorted(texts)).encode()).hexdigest()


def plain_query(token: str = TOKEN, now: int = NOW, nonce: str = "123456") -> dict[str, str]:
    return {"timestamp": str(now), "nonce": nonce, "signature": sign(token, str(now), nonce)}


def encrypted(plaintext: bytes) -> tuple[dict[str, str], str]:
    """A safe-mode request, signed as it has to be, around a plaintext of any form."""
    cipher = AES.new(bytes(32), AES.MODE_CBC, bytes(16))
    sealed = base64.b64encode(cipher.encrypt(plaintext)).decode()
    signature = sign(TOKEN, str(NOW), "123456", sealed)
    query = {"timestamp": str(NOW), "nonce": "123456", "msg_signature": signature}
    return query, json.dumps({"Encrypt": sealed})


def sealed_message(message: bytes, app_id: bytes = b"wx1") -> tuple[dict[str, str], str]:
    return encrypted(pad(b"r" * 16 + len(message).to_bytes(4, "big") + message + app_id, 32))


def parse_plain(body: bytes | str) -> PushEvent:
    return parse_push_event(plain_query(), body, token=TOKEN, now=NOW)


def parse_safe(query: Mapping[str, str], body: bytes | str) -> PushEvent:
    return parse_push_event(query, body, token=TOKEN, aes_key=AES_KEY, now=NOW)


def refusal(*args: Any, **options: Any) -> InvalidPushEventError:
    with pytest.raises(InvalidPushEventError) as caught:
        parse_push_event(*args, **options)
    return caught.value


# WeChat's samples


def test_wechats_published_plain_event_is_parsed():
    event = parse_push_event(PLAIN_QUERY, PLAIN_BODY, token=TOKEN, now=1714037059)
    assert event == PushEvent(
        event="debug_demo",
        open_id=None,
        union_id=None,
        app_id=None,
        encrypted_for=None,
        is_encrypted=False,
        nonce="486452656",
        timestamp=1714037059,
        created_at=1714037059000,
        fields=json.loads(PLAIN_BODY),
    )


def test_wechats_published_encrypted_event_is_parsed():
    event = parse_push_event(SAFE_QUERY, SAFE_BODY, token=TOKEN, aes_key=AES_KEY, now=SAFE_TIME)
    assert event.is_encrypted
    assert (event.event, event.nonce, event.timestamp) == ("debug_demo", "415670741", SAFE_TIME)
    assert event.app_id == event.encrypted_for == "wxba5fad812f8e6fb9"
    assert event.fields["debug_str"] == "hello world"
    assert event.created_at == 1714112445000


def test_the_message_of_wechats_sample_code_in_compatible_mode_is_parsed():
    event = parse_push_event(
        SAMPLE_QUERY,
        SAMPLE_BODY,
        token="spamtest",
        aes_key="abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG",
        now=1409735669,
    )
    assert event.is_encrypted
    assert event.encrypted_for == "wx2c2769f8efd9abc2"
    content = (event.event, event.fields["MsgType"], event.fields["Content"])
    assert content == ("", "text", "abcdteT")


def test_the_published_revocation_in_xml_is_parsed():
    event = parse_plain(REVOKE_XML)
    assert event.event == "user_authorization_revoke"
    assert event.open_id == "owAqB1nqaOYYWl0Ng484G2z5NIwU"
    assert event.app_id == event.plugin_id == "wx13974bf780d3dc89"
    assert event.open_pid == "G7esq5NVzP76HIHoB95t4CVBP6to"
    assert event.revoke_info == (1,)
    assert event.created_at == 1626857200000


def test_the_published_revocation_in_json_with_blanks_in_its_names_is_parsed():
    for body in (REVOKE_JSON, REVOKE_JSON.encode(), "\r\n " + REVOKE_JSON):
        event = parse_plain(body)
        assert event.open_id == "oaKk343WOktAaT2ygsX138BGblrg"
        assert event.open_pid == "G7esq5NVzP76HIHoB95t4CVBP6to"
        assert (event.app_id, event.revoke_info) == ("wx13974bf780d3dc89", (201,))


def test_the_published_test_of_a_url_is_answered():
    query = {
        "signature": "f464b24fc39322e44b38aa78f5edd27bd1441696",
        "echostr": "4375120948345356249",
        "timestamp": "1714036504",
        "nonce": "1514711492",
    }
    assert verify_push_url(query, token=TOKEN, now=1714036504) == "4375120948345356249"
    for change, options in (
        ({"signature": "0" * 40}, {}),
        ({"nonce": "1514711493"}, {}),
        *(({"echostr": wrong}, {}) for wrong in ("", "<script>", None)),
        ({}, {"token": "AAAAB"}),
        ({}, {"now": None}),
    ):
        with pytest.raises(InvalidPushEventError):
            verify_push_url(query | change, **{"token": TOKEN, "now": 1714036504} | options)
    with pytest.raises(ConfigurationError):
        verify_push_url(query, token="", now=1714036504)


# What it takes


@pytest.mark.parametrize(
    ("revoke_info", "numbers"),
    [("6", (6,)), ("6,8", (6, 8)), (19, (19,)), ("", ()), (None, ()), ([6], ()), ("six", ())],
)
def test_revoke_info_is_read_as_numbers(revoke_info: Any, numbers: tuple[int, ...]):
    fields = {"Event": "user_authorization_revoke", "OpenID": "bob", "RevokeInfo": revoke_info}
    assert parse_plain(json.dumps(fields)).revoke_info == numbers


def test_messages_that_are_no_events_are_parsed():
    event = parse_plain(b'{"MsgType": "text", "FromUserName": "bob", "Content": "a\x07\xff"}')
    assert (event.event, event.open_id) == ("", None)
    assert event.fields["Content"] == "a\x07\ufffd"


def test_an_event_can_name_another_app_than_it_is_encrypted_for():
    message = {"Event": "user_info_modified", "OpenID": "bob", "AppID": "wx-app"}
    event = parse_safe(*sealed_message(json.dumps(message).encode(), b"wx-platform"))
    assert (event.app_id, event.encrypted_for) == ("wx-app", "wx-platform")


def test_xml_may_be_encrypted_in_json_and_contain_any_text():
    xml = (
        "<?xml version='1.0' encoding='gbk'?>\n<xml><Event>微信</Event>"
        "<Content><![CDATA[<!DOCTYPE x> &amp; \x07]]></Content><Empty/>"
        "<List><Item>a</Item><Item>b</Item></List></xml>"
    )
    event = parse_safe(*sealed_message(xml.encode()))
    assert event.event == "微信"
    assert event.fields == {
        "Event": "微信",
        "Content": "<!DOCTYPE x> &amp; \ufffd",
        "Empty": "",
        "List": "ab",
    }


def test_an_event_can_be_hashed_and_pickled():
    event = parse_plain(PLAIN_BODY)
    assert {event: 1}[pickle.loads(pickle.dumps(event))] == 1


def test_timestamps_up_to_five_minutes_off_are_taken_and_others_are_refused():
    for now in (1714037059 - 300, 1714037059 + 300):
        parse_push_event(PLAIN_QUERY, PLAIN_BODY, token=TOKEN, now=now)
    for now in (1714037059 - 301, 1714037059 + 301, 0, float("nan")):
        error = refusal(PLAIN_QUERY, PLAIN_BODY, token=TOKEN, now=now)
        assert "five minutes" in str(error)
    assert "five minutes" in str(refusal(PLAIN_QUERY, PLAIN_BODY, token=TOKEN))


# What it refuses


PADDED = bytes(16) + (2).to_bytes(4, "big") + b"{}wx1"
CIPHERTEXTS = {
    "nothing": b"",
    "not padded": PADDED.ljust(32, b"\0"),
    "padded with too much": PADDED.ljust(32, b"\x21"),
    "padded unevenly": PADDED.ljust(31, b"\x07") + b"\x06",
    "padded to 16 bytes": pad(PADDED, 16) + pad(b"", 16),
    "not whole blocks of 32": bytes(16) + bytes([16]) * 16 + bytes([16]) * 16,
    "shorter than its head": pad(bytes(10), 32),
    "without an AppID": pad(PADDED[:-3], 32),
    "with a length beyond its end": pad(bytes(16) + b"\xff" * 4 + b"{}wx1", 32),
    "with an AppID that is not ASCII": pad(PADDED + b"\xff", 32),
}


@pytest.mark.parametrize("plaintext", CIPHERTEXTS.values(), ids=CIPHERTEXTS)
def test_data_that_does_not_decrypt_is_refused_as_forged(plaintext: bytes):
    forged = refusal(SAFE_QUERY, SAFE_BODY, token="other", aes_key=AES_KEY, now=SAFE_TIME)
    error = refusal(*encrypted(plaintext), token=TOKEN, aes_key=AES_KEY, now=NOW)
    assert error.code is StatusCode.invalid_push_event
    assert error.code == 6108
    assert error.args == forged.args
    assert error.__cause__ is error.__context__ is None


def test_another_key_or_invalid_base64_is_refused_as_forged():
    forged = refusal(SAFE_QUERY, SAFE_BODY, token="other", aes_key=AES_KEY, now=SAFE_TIME)
    other = "B" + AES_KEY[1:]
    error = refusal(SAFE_QUERY, SAFE_BODY, token=TOKEN, aes_key=other, now=SAFE_TIME)
    assert error.args == forged.args
    for sealed in ("é", "A", "====", "A" * 43 + "\n"):
        query = plain_query() | {"msg_signature": sign(TOKEN, str(NOW), "123456", sealed)}
        body = json.dumps({"Encrypt": sealed})
        error = refusal(query, body, token=TOKEN, aes_key=AES_KEY, now=NOW)
        assert error.args == forged.args


@pytest.mark.parametrize(
    "change",
    [
        *({"signature": wrong} for wrong in ("0" * 40, "", None, "é\ud800")),
        {"signature": PLAIN_QUERY["signature"].upper()},
        {"signature": PLAIN_QUERY["signature"] + " "},
        *({"timestamp": wrong} for wrong in ("1714037060", "1714037059 ", "", None)),
        {"timestamp": "１７１４０３７０５９"},
        *({"nonce": wrong} for wrong in ("486452657", "", None, "1" * 49)),
    ],
)
def test_another_query_is_refused(change: dict[str, Any]):
    refusal(PLAIN_QUERY | change, PLAIN_BODY, token=TOKEN, now=1714037059)


def test_a_query_that_joins_to_the_same_text_is_refused():
    # The timestamp's last digit moved to the nonce: "1714037059" "486452656" in other words.
    moved = PLAIN_QUERY | {"timestamp": "171403705", "nonce": "9486452656"}
    refusal(moved, PLAIN_BODY, token=TOKEN, now=1714037059)
    # The first three blocks of what is encrypted moved to the nonce, which sorts before them.
    query, body = sealed_message(b'{"Event": "user_info_modified", "OpenID": "bob"}' * 3)
    sealed = json.loads(body)["Encrypt"]
    for nonce, rest in ((query["nonce"] + sealed[:64], sealed[64:]), (sealed[:64], sealed[64:])):
        body = json.dumps({"Encrypt": rest})
        refusal(query | {"nonce": nonce}, body, token=TOKEN, aes_key=AES_KEY, now=NOW)


def test_with_a_key_nothing_plain_is_taken():
    refusal(PLAIN_QUERY, PLAIN_BODY, token=TOKEN, aes_key=AES_KEY, now=1714037059)
    # Whoever has seen the URL of an encrypted event knows a signature that is good without a body.
    body = json.dumps({"Event": "user_authorization_cancellation", "OpenID": "bob"})
    refusal(SAFE_QUERY, body, token=TOKEN, aes_key=AES_KEY, now=SAFE_TIME)


def test_an_encrypted_event_without_a_key_says_what_is_missing():
    error = refusal(SAFE_QUERY, SAFE_BODY, token=TOKEN, now=SAFE_TIME)
    assert "pass aes_key" in str(error)


@pytest.mark.parametrize(
    "body",
    [
        *("", " ", "null", "[]", "7", '"text"', "{", '{"a": 1}x', "{" * 5000, "9" * 5000, "<"),
        *("<xml>", "<xml></xml><xml></xml>", "<xml><a></b></xml>", "<xml>&unknown;</xml>"),
        "<!DOCTYPE xml><xml></xml>",
        "<?xml version='1.0'?><!DOCTYPE xml [<!ENTITY a 'a'>]><xml>&a;</xml>",
        "<!-- --><!DOCTYPE xml [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><xml>&a;</xml>",
        "<?pi?><!DOCTYPE xml [<!ENTITY a 'a'>]><xml>&a;</xml>",
        '{"Event": "user_info_modified"}',
        '{"Event": "user_authorization_revoke", "OpenID": ""}',
        '{"Event": "user_authorization_cancellation", "OpenID": "a|b"}',
        *('{"Event": "user_authorization_cancellation", "OpenID": ["bob"]}', b"\xff\xfe<\0x\0>\0"),
        *(None, {"Event": "user_info_modified", "OpenID": "bob"}),
    ],
)
def test_rejects_a_body_that_is_not_an_event(body: Any):
    error = refusal(plain_query(), body, token=TOKEN, now=NOW)
    assert "JSON object or XML document" in str(error)
    assert error.__cause__ is error.__context__ is None
    if isinstance(body, str):
        refusal(*sealed_message(body.encode()), token=TOKEN, aes_key=AES_KEY, now=NOW)


def test_a_body_of_more_than_65536_bytes_is_refused():
    longest = '{"x": "' + "x" * (65_536 - 9) + '"}'
    assert len(parse_plain(longest).fields["x"]) == 65_527
    assert "65,536" in str(refusal(plain_query(), longest + " ", token=TOKEN, now=NOW))


def test_deep_xml_is_parsed():
    deep = "<a>" * 9000 + "</a>" * 9000
    assert parse_plain(f"<xml>{deep}</xml>").fields == {"a": ""}


@pytest.mark.parametrize("token", ["", None, b"AAAAA"])
def test_an_invalid_token_is_a_configuration_error(token: Any):
    with pytest.raises(ConfigurationError, match="token"):
        parse_push_event(PLAIN_QUERY, PLAIN_BODY, token=token, now=1714037059)


@pytest.mark.parametrize("aes_key", ["", "A" * 42, "A" * 44, "A" * 42 + "é", b"A" * 43, 5])
def test_an_invalid_key_is_a_configuration_error(aes_key: Any):
    with pytest.raises(ConfigurationError, match="aes_key"):
        parse_push_event(SAFE_QUERY, SAFE_BODY, token=TOKEN, aes_key=aes_key, now=SAFE_TIME)


def test_no_frame_of_a_refusal_holds_the_token_or_the_key():
    token, aes_key = "token-in-no-frame", "keyInNoFrame" + "A" * 31
    cases: list[tuple[Any, str | None]] = [
        *((SAFE_QUERY, key) for key in (None, aes_key, aes_key + "!")),
        (None, aes_key),  # a mistake of the caller's
    ]
    for query, key in cases:
        expected = (InvalidPushEventError, ConfigurationError, AttributeError)
        with pytest.raises(expected) as caught:
            parse_push_event(query, SAFE_BODY, token=token, aes_key=key, now=SAFE_TIME)
        frames = [
            frame
            for frame, _ in traceback.walk_tb(caught.value.__traceback__)
            if "mpauthx_async" in frame.f_code.co_filename
        ]
        assert frames
        told = repr([frame.f_locals for frame in frames]) + repr(caught.value)
        assert "InNoFrame" not in told
        assert "in-no-frame" not in told


# Round trips and mutations


@pytest.mark.parametrize("mode", ["safe", "compatible", "plain"])
@pytest.mark.parametrize("form", ["json", "xml"])
def test_what_the_simulator_pushes_is_parsed(form: Any, mode: Any):
    clock = Clock()
    wx = WeChatSimulator(clock=clock)
    wx.login("bob", "union-of-bob")
    pushed = wx.push_event(
        "user_authorization_revoke", "bob", revoke_info=[6, 8], mode=mode, form=form
    )
    is_encrypted = mode != "plain"
    keys = {"token": wx.push.token, "aes_key": wx.push.aes_key if is_encrypted else None}
    event = parse_push_event(pushed.query, pushed.body, **keys, now=clock.now)
    assert event == PushEvent(
        event="user_authorization_revoke",
        open_id="bob",
        union_id="union-of-bob",
        app_id=wx.app_id,
        encrypted_for=wx.app_id if is_encrypted else None,
        is_encrypted=is_encrypted,
        nonce=pushed.query["nonce"],
        timestamp=int(clock.now),
        created_at=int(clock.now) * 1000,
        revoke_info=(6, 8),
        fields=event.fields,
    )
    assert event.fields["ToUserName"].startswith("gh_")


WX = WeChatSimulator(clock=Clock())
CANCELLED = {
    form: WX.push_event("user_authorization_cancellation", "bob", form=form)
    for form in ("json", "xml")
}
KEYS: dict[str, Any] = {"token": WX.push.token, "aes_key": WX.push.aes_key, "now": Clock().now}


@given(data=st.data(), form=st.sampled_from(sorted(CANCELLED)))
@settings(max_examples=300)
def test_no_changed_byte_of_an_encrypted_body_changes_the_event(data: st.DataObject, form: Any):
    pushed = CANCELLED[form]
    good = parse_push_event(pushed.query, pushed.body, **KEYS)
    sealed = pushed.body.index(b"Encrypt")
    place = data.draw(st.integers(0, len(pushed.body) - 1))
    changed = bytearray(pushed.body)
    changed[place] ^= data.draw(st.integers(1, 255))
    try:
        event = parse_push_event(pushed.query, bytes(changed), **KEYS)
    except InvalidPushEventError:
        return
    assert event == good
    # The rest is not signed, and is not read: the name of the recipient, and blanks.
    assert place < sealed or chr(changed[place]).isspace() or place > len(pushed.body) - 20


@given(data=st.data())
@settings(max_examples=300)
def test_every_changed_character_of_what_is_signed_is_refused(data: st.DataObject):
    pushed = CANCELLED["json"]
    query, body = dict(pushed.query), json.loads(pushed.body)
    name = data.draw(st.sampled_from(["msg_signature", "timestamp", "nonce", "Encrypt"]))
    part = body if name == "Encrypt" else query
    place = data.draw(st.integers(0, len(part[name]) - 1))
    other = data.draw(st.characters(exclude_characters=part[name][place]))
    part[name] = part[name][:place] + other + part[name][place + 1 :]
    refusal(query, json.dumps(body), **KEYS)


@given(
    body=st.binary(max_size=300)
    | st.text(max_size=300)
    | st.text("<>/&;![]CDAT=\"' xml?-", max_size=80),
    is_sealed=st.booleans(),
)
@settings(max_examples=500)
def test_any_body_raises_invalid_push_event_error_at_most(body: bytes | str, is_sealed: bool):
    with suppress(InvalidPushEventError):
        if is_sealed:
            raw = body.encode(errors="replace") if isinstance(body, str) else body
            parse_safe(*sealed_message(raw))
        else:
            parse_plain(body)


@given(
    fields=st.dictionaries(
        st.sampled_from(["Event", "OpenID", "AppID", "CreateTime", "RevokeInfo", "UnionID", "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner, max_size=3),
            max_leaves=4,
        ),
    )
)
@settings(max_examples=300)
def test_any_fields_give_a_well_formed_event(fields: dict[str, Any]):
    try:
        event = parse_safe(*sealed_message(json.dumps(fields).encode()))
    except InvalidPushEventError:
        return
    assert isinstance(event.event, str)
    for value in (event.open_id, event.union_id, event.app_id, event.plugin_id, event.open_pid):
        assert value is None or (isinstance(value, str) and value)
    assert event.created_at is None or event.created_at > 0
    assert all(type(number) is int for number in event.revoke_info)


@given(plaintext=st.binary(max_size=200))
@settings(max_examples=300)
def test_any_plaintext_raises_invalid_push_event_error_at_most(plaintext: bytes):
    with suppress(InvalidPushEventError):
        parse_safe(*encrypted(pad(plaintext, 32)))
