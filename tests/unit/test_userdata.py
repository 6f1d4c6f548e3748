"""Decrypting and verifying what WeChat seals, against its published samples."""

import base64
import json
import os
import re
import traceback
from typing import Any

import pytest
from Crypto.Cipher import AES
from Crypto.Util.Padding import pad
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mpauthx_async import (
    DecryptionError,
    ParameterError,
    StatusCode,
    decrypt_user_data,
    sign_user_state,
    verify_raw_data,
)
from mpauthx_async.wechat.sample_user_data import (
    APP_ID,
    ENCRYPTED_DATA,
    IV,
    OPEN_ID,
    SESSION_KEY,
    UNION_ID,
)

# WeChat's published example of a signature.
# https://developers.weixin.qq.com/miniprogram/en/dev/framework/open-ability/signature.html
SIGNED_KEY = "HyVFkGl5F5OQWJZZaNzBBg=="
SIGNED_RAW_DATA = (
    '{"nickName":"Band","gender":1,"language":"zh_CN","city":"Guangzhou","province":"Guangdong",'
    '"country":"CN","avatarUrl":"http://wx.qlogo.cn/mmopen/vi_32/1vZvI39NWFQ9XM4LtQpFrQJ1xlgZxx3w7'
    'bQxKARol6503Iuswjjn6nIGBiaycAjAtpujxyzYsrztuuICqIM5ibXQ/0"}'
)
SIGNATURE = "75e81ceda165f4ffa64f4068af58c64b8f54b88c"

STATE_KEY = "o0q0otL8aEzpcZL/FT9WsQ=="

ANY_TEXT = st.text(st.characters(exclude_categories=()))
WATERMARK = {"appid": APP_ID, "timestamp": 1477314187}
MARKED = json.dumps({"watermark": WATERMARK}).encode()
LONE_SURROGATE = "\ud800"


def encode(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def seal(plaintext: bytes, *, key: str = SESSION_KEY, iv: str = IV, padded: bool = True) -> str:
    """Encrypt as WeChat does."""
    cipher = AES.new(base64.b64decode(key), AES.MODE_CBC, base64.b64decode(iv))
    return encode(cipher.encrypt(pad(plaintext, 16) if padded else plaintext))


def seal_json(payload: Any) -> str:
    return seal(json.dumps(payload).encode())


def refusal(session_key: Any, encrypted_data: Any, iv: Any, app_id: Any) -> DecryptionError:
    with pytest.raises(DecryptionError) as caught:
        decrypt_user_data(session_key, encrypted_data, iv, app_id)
    return caught.value


# Decrypting


def test_wechats_published_sample_decrypts():
    assert decrypt_user_data(SESSION_KEY, ENCRYPTED_DATA, IV, APP_ID) == {
        "openId": OPEN_ID,
        "unionId": UNION_ID,
        "nickName": "Band",
        "gender": 1,
        "language": "zh_CN",
        "city": "Guangzhou",
        "province": "Guangdong",
        "country": "CN",
        "avatarUrl": "http://wx.qlogo.cn/mmopen/vi_32/aSKcBBPpibyKNicHNTMM0qJVh8Kjgiak2AHWr8MHM4WgMEm7G"
        "Fhsf8OYrySdbvAMvTsw3mo8ibKicsnfN5pRjl1p8HQ/0",
        "watermark": WATERMARK,
    }


def test_chinese_and_emoji_survive():
    payload = {"nickName": "微信用户 👩‍👩‍👧", "watermark": WATERMARK}
    sealed = seal(json.dumps(payload, ensure_ascii=False).encode())
    assert decrypt_user_data(SESSION_KEY, sealed, IV, APP_ID) == payload


def test_raw_control_characters_and_bytes_that_are_not_utf_8_are_taken():
    start = b'{"nickName":"a\x07\x14\nb\xff\xe5\xbe","watermark":'
    sealed = seal(start + json.dumps(WATERMARK).encode() + b"}")
    payload = decrypt_user_data(SESSION_KEY, sealed, IV, APP_ID)
    assert payload == {"nickName": "a\x07\x14\nb\ufffd\ufffd", "watermark": WATERMARK}


@pytest.mark.parametrize("size", range(1, 17))
def test_padding_of_any_size_is_taken_and_with_any_byte_changed_is_refused(size):
    payload = json.dumps({"x": "", "watermark": WATERMARK})
    payload = payload.replace('""', f'"{"x" * ((-len(payload) - size) % 16)}"')
    good = payload.encode() + bytes([size]) * size
    sealed = seal(good, padded=False)
    assert decrypt_user_data(SESSION_KEY, sealed, IV, APP_ID) == json.loads(payload)
    for place in range(1, size + 1):
        for change in (0x01, 0x80, 0xFF):
            wrong = bytearray(good)
            wrong[-place] ^= change
            refusal(SESSION_KEY, seal(bytes(wrong), padded=False), IV, APP_ID)


# Damaged base64


LINES = re.findall(".{1,76}", ENCRYPTED_DATA)
REPAIRED = {
    "a space where a plus was": (SESSION_KEY, ENCRYPTED_DATA.replace("+", " "), IV),
    "the URL-safe alphabet": (SESSION_KEY, ENCRYPTED_DATA.replace("+", "-").replace("/", "_"), IV),
    "missing padding": tuple(text.rstrip("=") for text in (SESSION_KEY, ENCRYPTED_DATA, IV)),
    "LF": (SESSION_KEY, "\n".join(LINES) + "\n", IV + "\n"),
    "CR LF": (SESSION_KEY, "\r\n".join(LINES) + "\r\n", IV + "\r\n"),
    "CR": (SESSION_KEY, "\r".join(LINES) + "\r", IV + "\r"),
}


@pytest.mark.parametrize("sent", REPAIRED.values(), ids=REPAIRED)
def test_damaged_base64_is_repaired(sent):
    assert sent != (SESSION_KEY, ENCRYPTED_DATA, IV)
    assert decrypt_user_data(*sent, APP_ID)["openId"] == OPEN_ID


@st.composite
def damaged(draw: st.DrawFn, text: str) -> str:
    """The same base64 with any mix of the damages that are repaired."""
    spellings = {"+": "+ -", "/": "/_"}
    breaks = st.sampled_from(["", "", "", "\n", "\r\n", "\r"])
    unpadded = text.rstrip("=")
    padding = "=" * draw(st.integers(0, len(text) - len(unpadded)))
    return "".join(
        draw(st.sampled_from(spellings.get(character, character))) + draw(breaks)
        for character in unpadded + padding
    )


@given(
    data=st.data(), key=st.binary(min_size=16, max_size=16), iv=st.binary(min_size=16, max_size=16)
)
@settings(max_examples=60)
def test_any_mix_of_damages_still_decrypts(data, key, iv):
    payload = {"x": data.draw(st.text(max_size=40)), "watermark": WATERMARK}
    sealed = seal(json.dumps(payload).encode(), key=encode(key), iv=encode(iv))
    sent = data.draw(damaged(sealed)), data.draw(damaged(encode(iv)))
    assert decrypt_user_data(encode(key), *sent, APP_ID) == payload


# Bad data


DEEP = 12_000
BAD_DATA: dict[str, dict[str, Any]] = {
    "the key of another login": {"session_key": encode(os.urandom(16))},
    **{
        f"a key of {size} bytes": {"session_key": key, "encrypted_data": seal(MARKED, key=key)}
        for size, key in ((24, encode(b"k" * 24)), (32, encode(b"k" * 32)))
    },
    "a key of 15 bytes": {"session_key": encode(b"k" * 15)},
    "an empty key": {"session_key": ""},
    "another iv": {"iv": encode(b"i" * 16)},
    "an empty iv": {"iv": ""},
    "an iv of 8 bytes": {"iv": encode(b"i" * 8)},
    "an iv of 15 bytes": {"iv": IV[:20]},
    "an iv of 17 bytes": {"iv": encode(base64.b64decode(IV) + b"i")},
    "an iv of 32 bytes": {"iv": encode(base64.b64decode(IV) * 2)},
    "an iv that is no base64": {"iv": IV[:-3] + "!=="},
    "no ciphertext": {"encrypted_data": ""},
    "nothing but padding": {"encrypted_data": "===="},
    "a ciphertext without its last block": {"encrypted_data": ENCRYPTED_DATA[:-24]},
    "a ciphertext without its first block": {
        "encrypted_data": encode(base64.b64decode(ENCRYPTED_DATA)[16:])
    },
    "a ciphertext that is not whole blocks": {"encrypted_data": ENCRYPTED_DATA[:-4]},
    "one character of base64": {"encrypted_data": "A"},
    "a character that is not of base64": {"encrypted_data": "*" + ENCRYPTED_DATA[1:]},
    "padding in the middle": {"encrypted_data": ENCRYPTED_DATA[:8] + "====" + ENCRYPTED_DATA[8:]},
    "PKCS#7 padding of 0": {"encrypted_data": seal(b"\0" * 16, padded=False)},
    "PKCS#7 padding of 17": {"encrypted_data": seal(MARKED.ljust(79) + b"\x11" * 17, padded=False)},
    "PKCS#7 padding that is uneven": {
        "encrypted_data": seal(MARKED.ljust(94) + b"\x01\x02", padded=False)
    },
    "a blank between the JSON and its padding": {"encrypted_data": seal(MARKED + b" ")},
    "padding between the JSON and its padding": {"encrypted_data": seal(MARKED + b"\x01")},
    "a whole block between the JSON and its padding": {
        "encrypted_data": seal(MARKED + b"\x10" * 16)
    },
    "nothing inside": {"encrypted_data": seal(b"")},
    "no JSON": {"encrypted_data": seal(b"openId=" + OPEN_ID.encode())},
    "half of the JSON": {"encrypted_data": seal(MARKED[:-1])},
    "more than the JSON": {"encrypted_data": seal(MARKED * 2)},
    "a list": {"encrypted_data": seal_json([{"watermark": WATERMARK}])},
    "a number": {"encrypted_data": seal_json(7)},
    "a number of too many digits": {"encrypted_data": seal(b"9" * 12_000)},
    "a text": {"encrypted_data": seal_json("watermark")},
    "null": {"encrypted_data": seal_json(None)},
    "lists too deep in each other": {"encrypted_data": seal(b"[" * DEEP + b"]" * DEEP)},
    "objects too deep in each other": {"encrypted_data": seal(b'{"watermark":' * (DEEP // 8))},
    "no watermark": {"encrypted_data": seal_json({"openId": OPEN_ID})},
    "a watermark that is a text": {"encrypted_data": seal_json({"watermark": APP_ID})},
    "a watermark that is a list": {"encrypted_data": seal_json({"watermark": ["appid", APP_ID]})},
    "a watermark that is null": {"encrypted_data": seal_json({"watermark": None})},
    "an empty watermark": {"encrypted_data": seal_json({"watermark": {}})},
    "another app's watermark": {
        "encrypted_data": seal_json({"watermark": {"appid": "wx0000000000000000"}})
    },
    "a watermark in another case": {
        "encrypted_data": seal_json({"watermark": {"appid": APP_ID.upper()}})
    },
    "another app than ours": {"app_id": "wx0000000000000000"},
    **{f"{name} None": {name: None} for name in ("session_key", "encrypted_data", "iv")},
    **{f"a number as {name}": {name: 7} for name in ("session_key", "encrypted_data", "iv")},
    "no text but bytes as key": {"session_key": SESSION_KEY.encode()},
    "no text but bytes as data": {"encrypted_data": ENCRYPTED_DATA.encode()},
    "no text but bytes as iv": {"iv": IV.encode()},
    "no text but a list as data": {"encrypted_data": [ENCRYPTED_DATA]},
    "a key that is not ASCII": {"session_key": "密" + SESSION_KEY[1:]},
    "data that is not ASCII": {"encrypted_data": "密" + ENCRYPTED_DATA[1:]},
    "an iv that is not ASCII": {"iv": "密" + IV[1:]},
    "full-width base64": {"encrypted_data": "Ｃ" + ENCRYPTED_DATA[1:]},
    "a lone surrogate": {"encrypted_data": LONE_SURROGATE + ENCRYPTED_DATA[1:]},
    "a NUL": {"encrypted_data": "\0" + ENCRYPTED_DATA[1:]},
}


@pytest.mark.parametrize("change", BAD_DATA.values(), ids=BAD_DATA)
def test_bad_data_is_refused_without_telling_which_check_failed(change):
    good = {
        "session_key": SESSION_KEY,
        "encrypted_data": ENCRYPTED_DATA,
        "iv": IV,
        "app_id": APP_ID,
    }
    error = refusal(**good | change)
    assert error.code is StatusCode.user_info_decryption_error
    assert error.code == 6011
    assert error.args == refusal("", "", "", "").args
    assert error.__cause__ is None
    assert error.__context__ is None
    assert not vars(error)


def test_the_refusal_names_the_usual_cause_and_its_cure():
    text = str(refusal(encode(os.urandom(16)), ENCRYPTED_DATA, IV, APP_ID))
    assert "called wx.getUserInfo before wx.login" in text
    assert "has to log in again, wx.login first" in text


def test_no_frame_of_a_refusal_holds_key_data_or_payload():
    for app_id, max_age in (("wx0000000000000000", None), (APP_ID, 1)):
        with pytest.raises(DecryptionError) as caught:
            decrypt_user_data(SESSION_KEY, ENCRYPTED_DATA, IV, app_id, max_age=max_age)
        frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
        told = repr([frame.f_locals for frame in frames[1:]])
        assert app_id in told
        for secret in (SESSION_KEY[:-2], ENCRYPTED_DATA[:20], IV[:-2], OPEN_ID, UNION_ID):
            assert secret not in told


def test_data_of_up_to_16384_characters_decrypts_and_longer_data_is_refused():
    bare = len(json.dumps({"x": "", "watermark": WATERMARK}))
    longest, too_long = (
        seal_json({"x": "x" * (16_384 // 4 * 3 - bare - spare), "watermark": WATERMARK})
        for spare in (1, 0)
    )
    assert (len(longest), len(too_long)) == (16_384, 16_408)
    assert decrypt_user_data(SESSION_KEY, longest, IV, APP_ID)["watermark"] == WATERMARK
    assert refusal(SESSION_KEY, too_long, IV, APP_ID).code == 6011
    assert refusal(SESSION_KEY, longest + "\n", IV, APP_ID).code == 6011


def test_an_iv_of_up_to_64_characters_decrypts_and_a_longer_one_is_refused():
    iv = IV + "\n" * 40
    assert decrypt_user_data(SESSION_KEY, ENCRYPTED_DATA, iv, APP_ID)["openId"] == OPEN_ID
    assert refusal(SESSION_KEY, ENCRYPTED_DATA, iv + "\n", APP_ID).code == 6011


@given(ANY_TEXT | st.just(SESSION_KEY), ANY_TEXT | st.just(ENCRYPTED_DATA), ANY_TEXT, ANY_TEXT)
@settings(max_examples=200)
def test_any_text_raises_decryption_error(session_key, encrypted_data, iv, app_id):
    assert refusal(session_key, encrypted_data, iv, app_id).code == 6011


@given(plaintext=st.binary(max_size=200), padded=st.booleans())
@settings(max_examples=200)
def test_any_sealed_bytes_raise_decryption_error(plaintext, padded):
    assume(padded or len(plaintext) % 16 == 0)
    sealed = seal(plaintext, padded=padded)
    assert refusal(SESSION_KEY, sealed, IV, APP_ID).code == 6011


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=10,
)


@given(payload=st.dictionaries(st.sampled_from(["watermark", "openId", "x"]), JSON_VALUES))
@settings(max_examples=200)
def test_no_json_without_our_watermark_is_taken(payload):
    assert refusal(SESSION_KEY, seal_json(payload), IV, APP_ID).code == 6011


@given(position=st.integers(0, 399), mask=st.integers(1, 255))
@settings(max_examples=100)
def test_changed_ciphertext_raises_decryption_error_at_most(position, mask):
    sealed = bytearray(base64.b64decode(ENCRYPTED_DATA))
    sealed[position] ^= mask
    try:
        payload = decrypt_user_data(SESSION_KEY, encode(sealed), IV, APP_ID)
    except DecryptionError as error:
        assert error.args == refusal("", "", "", "").args  # noqa: PT017
    else:
        # AES-CBC has no MAC: a change may go by unseen, but never one of whose app it is.
        assert payload["watermark"]["appid"] == APP_ID


@given(
    payload=st.dictionaries(
        st.text(max_size=8).filter(lambda name: not name.lower().endswith("id")),  # ids have a form
        st.text() | st.integers() | st.none(),
    ),
    junk=st.binary(min_size=1, max_size=32),
)
@settings(max_examples=200)
def test_a_payload_with_anything_after_it_but_its_padding_is_refused(payload, junk):
    plaintext = json.dumps({**payload, "watermark": WATERMARK}).encode()
    sealed = seal(plaintext)
    assert decrypt_user_data(SESSION_KEY, sealed, IV, APP_ID)["watermark"] == WATERMARK
    size = -len(plaintext) % 16 or 16
    assume(junk != bytes([size]) * size)
    wrong = plaintext + junk
    refusal(SESSION_KEY, seal(wrong), IV, APP_ID)
    refusal(SESSION_KEY, seal(wrong + b"\x00" * (-len(wrong) % 16), padded=False), IV, APP_ID)


# The age of data

NOW = 1_477_314_187 + 60
NO_NUMBERS = [float("nan"), float("inf"), True, None, str(NOW), [NOW]]


def test_data_within_its_max_age_decrypts():
    for max_age in (60, 60.5, 3600, None):
        age = {"max_age": max_age, "now": NOW}
        assert (
            decrypt_user_data(SESSION_KEY, ENCRYPTED_DATA, IV, APP_ID, **age)["openId"] == OPEN_ID
        )


@pytest.mark.parametrize("timestamp", [NOW - 60, float(NOW), NOW + 300])
def test_a_timestamp_up_to_five_minutes_ahead_is_taken(timestamp):
    payload = {"watermark": {"appid": APP_ID, "timestamp": timestamp}}
    opened = decrypt_user_data(SESSION_KEY, seal_json(payload), IV, APP_ID, max_age=60, now=NOW)
    assert opened == payload


@pytest.mark.parametrize(
    "timestamp",
    [NOW - 61, NOW - 60.5, 0, -NOW, NOW + 301, 10**400, -(10**400), *NO_NUMBERS, "missing"],
)
def test_any_other_timestamp_is_refused_with_a_message_of_its_own(timestamp):
    watermark = {"appid": APP_ID, "timestamp": timestamp}
    if timestamp == "missing":
        del watermark["timestamp"]
    sealed = seal_json({"watermark": watermark})
    decrypt_user_data(SESSION_KEY, sealed, IV, APP_ID)
    with pytest.raises(DecryptionError, match="get the data again"):
        decrypt_user_data(SESSION_KEY, sealed, IV, APP_ID, max_age=60, now=NOW)


def test_the_age_counts_by_the_systems_clock_by_default():
    with pytest.raises(DecryptionError, match="get the data again"):
        decrypt_user_data(SESSION_KEY, ENCRYPTED_DATA, IV, APP_ID, max_age=3600)


def test_damaged_data_is_refused_as_such_whatever_its_age():
    with pytest.raises(DecryptionError, match="does not decrypt"):
        decrypt_user_data(SESSION_KEY, ENCRYPTED_DATA[:-24], IV, APP_ID, max_age=1, now=NOW)


@pytest.mark.parametrize(
    "max_age", [0, -1, True, "60", float("nan"), float("inf"), 10**400, [60], object()]
)
def test_a_max_age_is_a_positive_number(max_age):
    with pytest.raises(ParameterError, match="max_age"):
        decrypt_user_data(SESSION_KEY, ENCRYPTED_DATA, IV, APP_ID, max_age=max_age)


# rawData and its signature


def test_wechats_published_example_of_a_signature_is_right():
    assert verify_raw_data(SIGNED_KEY, SIGNED_RAW_DATA, SIGNATURE) is True


@pytest.mark.parametrize(
    ("raw_data", "signature"),
    [
        # printf '%s' "$raw_data" 'tiihtNczf5v6AKRyjwEUhQ==' | sha1sum
        ('{"nickName":"Band"}', "54b71917aab21b53e850dec1b03f73b0bbeb6abe"),
        ('{"nickName":"微信用户","city":""}', "b1b1156c0972a47934987e36a295d0e7d326130c"),
    ],
)
def test_the_signature_is_the_sha1_of_raw_data_and_session_key(raw_data, signature):
    assert verify_raw_data(SESSION_KEY, raw_data, signature) is True


@pytest.mark.parametrize(
    "signature",
    [
        *("", "0" * 40, SIGNATURE[:-1], SIGNATURE + "0", SIGNATURE.upper(), " " + SIGNATURE),
        *(SIGNATURE + "\n", SIGNATURE[:-1] + "ｃ", SIGNATURE[:-1] + LONE_SURROGATE),
        *("c" + SIGNATURE[1:], "7" * 1_000_000),
    ],
)
def test_any_other_signature_is_wrong(signature):
    assert verify_raw_data(SIGNED_KEY, SIGNED_RAW_DATA, signature) is False


@pytest.mark.parametrize(
    ("session_key", "raw_data"),
    [
        (SESSION_KEY, SIGNED_RAW_DATA),
        ("", SIGNED_RAW_DATA),
        (SIGNED_KEY, ""),
        (SIGNED_KEY, SIGNED_RAW_DATA.replace("Band", "Bind")),
        (SIGNED_KEY, SIGNED_RAW_DATA + " "),
        (SIGNED_KEY, SIGNED_RAW_DATA + LONE_SURROGATE),
    ],
)
def test_a_signature_is_good_for_its_own_key_and_data_only(session_key, raw_data):
    assert verify_raw_data(session_key, raw_data, SIGNATURE) is False


@pytest.mark.parametrize(
    "wrong", [None, 7, True, [], {}, object(), SIGNED_RAW_DATA.encode(), SIGNATURE.encode()]
)
def test_nothing_but_strings_is_verified(wrong):
    assert verify_raw_data(SIGNED_KEY, wrong, SIGNATURE) is False
    assert verify_raw_data(SIGNED_KEY, SIGNED_RAW_DATA, wrong) is False
    assert verify_raw_data(SIGNED_KEY, wrong, wrong) is False
    for session_key in (wrong, SIGNED_KEY.encode()):
        assert verify_raw_data(session_key, SIGNED_RAW_DATA, SIGNATURE) is False


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT)
def test_no_text_makes_verifying_raise(session_key, raw_data, signature):
    assert verify_raw_data(session_key, raw_data, signature) is False


# The signature of a user's state


def test_wechats_published_example_of_a_user_state_is_signed():
    expected = "654571f79995b2ce1e149e53c0a33dc39c0a74090db514261454e8dbe432aa0b"
    assert sign_user_state(STATE_KEY, '{"foo":"bar"}') == expected
    assert sign_user_state(STATE_KEY, b'{"foo":"bar"}') == expected


def test_the_user_state_of_a_get_is_signed_with_an_empty_body():
    # printf '' | openssl dgst -sha256 -hmac 'o0q0otL8aEzpcZL/FT9WsQ=='
    expected = "46e043c5525c2d817c44be603d30837a808a1d930d038f6fdc3e62a201fed128"
    assert sign_user_state(STATE_KEY) == expected
    assert sign_user_state(STATE_KEY, "") == expected
    assert sign_user_state(STATE_KEY, b"") == expected


def test_text_is_signed_as_its_utf_8():
    assert sign_user_state(STATE_KEY, "微信") == sign_user_state(STATE_KEY, "微信".encode())


def test_no_text_is_quoted_by_an_error_of_encoding():
    assert re.fullmatch("[0-9a-f]{64}", sign_user_state(STATE_KEY + "\ud800", "\ud800"))
