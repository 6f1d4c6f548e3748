"""Control characters and bytes that are not UTF-8 in what WeChat sends."""

import json
import unicodedata
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from mpauthx_async import (
    DecryptionError,
    InvalidPushEventError,
    InvalidResponseError,
    MPAuthX,
    WeChatOAuth,
    WeChatSimulator,
    parse_push_event,
)
from mpauthx_async.models import PhoneNumber
from tests.helpers.logins import login
from tests.helpers.near_services import Make
from tests.helpers.scripted_server import Answer, Server
from tests.helpers.sqlite_files import query

KEY = "AAAAAAAAAAAAAAAAAAAAAA=="
NAMES = {  # as WeChat sends them, and as they are stored
    b"bell\x07 and \x14": "bell and ",
    b"line\nand\ttab": "lineandtab",
    "C1 \x85\x9b and DEL \x7f".encode(): "C1  and DEL ",
    b"\xff\xe5\xbe": "\ufffd\ufffd",
    "微信 😀\u2028".encode(): "微信 😀\u2028",
    rb"back\slash \u0007": r"back\slash \u0007",
    b'"': '"',
}
WEB_TOKEN = {"openid": "bob", "access_token": "a", "refresh_token": "r", "expires_in": 7200}
UNCLEAN = ("\x07", "\n", "\x7f", "\x85", "\ufffd", "\ud83d")
SHARED = [HealthCheck.function_scoped_fixture]


@pytest.fixture
async def auth(make: Make, redis: Redis) -> AsyncIterator[MPAuthX]:
    async with make() as service:
        yield service


def stored_name(folder: Path, open_id: str) -> Any:
    return query(folder / "users.db", f"SELECT nickName FROM user WHERE openId = '{open_id}'")[0][0]


# Profiles


@pytest.mark.parametrize("name", NAMES)
async def test_a_user_with_any_nickname_logs_in(
    auth: MPAuthX, wx: WeChatSimulator, tmp_path: Path, name: bytes
) -> None:
    wx.set_profile("alice", nickName=name)
    wx.set_profile("bob", nickName=name)
    sealed = await auth.authorize(*login(wx, "alice"))
    web = await auth.authorize_web(wx.web_login("bob"))
    assert (sealed.user.nick_name, web.user.nick_name) == (NAMES[name], NAMES[name])
    assert [stored_name(tmp_path, one) for one in ("alice", "bob")] == [NAMES[name]] * 2


@settings(max_examples=50, suppress_health_check=SHARED)
@given(st.binary(max_size=64) | st.text(max_size=64))
@example(b"\x00\x1f\x7f\x80\x9f\xc2\x80\xed\xa0\xbd")
@example("half \ud83d")
async def test_no_control_character_is_stored_whatever_the_nickname(
    auth: MPAuthX, wx: WeChatSimulator, tmp_path: Path, name: bytes | str
) -> None:
    wx.set_profile("alice", nickName=name)
    wx.set_profile("bob", nickName=name)
    await auth.clear_profile("alice", ["nick_name"])
    await auth.clear_profile("bob", ["nick_name"])
    sealed = (await auth.authorize(*login(wx, "alice"))).user.nick_name
    web = (await auth.authorize_web(wx.web_login("bob"))).user.nick_name
    assert sealed == web
    assert [stored_name(tmp_path, one) for one in ("alice", "bob")] == [sealed, web]
    assert not {unicodedata.category(char) for char in sealed or ""} & {"Cc", "Cs"}
    assert len(sealed or "") <= len(name)


async def test_half_an_emoji_is_a_replacement_character(auth: MPAuthX, wx: WeChatSimulator) -> None:
    wx.set_profile("bob", nickName="Bob \ud83d", city="\udc4d")
    user = (await auth.authorize(*login(wx))).user
    assert (user.nick_name, user.city) == ("Bob \ufffd", "\ufffd")


async def test_raw_data_with_any_nickname_is_verified(auth: MPAuthX, wx: WeChatSimulator) -> None:
    wx.set_profile("bob", nickName=b"bell\x07 \xff")
    code = wx.login("bob")
    info = wx.get_user_info("bob")
    token = (await auth.authorize(code)).token
    assert "bell\x07 \ufffd" in info.raw_data
    assert await auth.verify_raw_data(token, info.raw_data, info.signature)


async def test_a_byte_order_mark_before_the_json_is_ignored(make: Make, redis: Redis) -> None:
    body = "\ufeff" + json.dumps({"openid": "bob", "session_key": KEY})
    async with Server(Answer(body)) as server, make(api_base=server.url) as auth:
        assert (await auth.authorize("code")).user.open_id == "bob"


# Ids, keys and tokens in answers


def raw_json(fields: dict[str, Any]) -> bytes:
    """JSON with raw control characters; half a surrogate pair is escaped."""
    text = json.dumps(fields)
    for char in UNCLEAN[:-1]:
        text = text.replace(json.dumps(char)[1:-1], char)
    return text.encode()


@pytest.mark.parametrize("unclean", UNCLEAN)
@pytest.mark.parametrize("name", ["openid", "unionid", "session_key"])
async def test_a_session_with_an_unclean_field_is_refused(
    make: Make, redis: Redis, name: str, unclean: str
) -> None:
    answer = {"openid": "bob", "unionid": "union-bob", "session_key": KEY, name: f"a{unclean}b"}
    async with Server(Answer(raw_json(answer))) as server, make(api_base=server.url) as auth:
        with pytest.raises(InvalidResponseError):
            await auth.authorize("code")
    assert await redis.dbsize() == 0


@pytest.mark.parametrize("unclean", UNCLEAN)
@pytest.mark.parametrize("name", ["openid", "unionid", "access_token", "refresh_token"])
async def test_a_web_login_with_an_unclean_field_is_refused(
    redis: Redis, redis_server: Any, name: str, unclean: str
) -> None:
    answer = {**WEB_TOKEN, "unionid": "union-bob", "scope": "snsapi_base", name: f"a{unclean}b"}
    async with Server(Answer(raw_json(answer))) as server:
        names = {"app_id": "wx0", "app_secret": "s" * 32, "api_base": server.url}
        async with WeChatOAuth(**names, tokens=redis_server.url) as oauth:
            with pytest.raises(InvalidResponseError):
                await oauth.get_access_token("code")
    assert await redis.dbsize() == 0


@pytest.mark.parametrize("unclean", UNCLEAN)
async def test_an_unclean_unionid_is_refused(make: Make, redis: Redis, unclean: str) -> None:
    script = (
        Answer(raw_json({**WEB_TOKEN, "scope": "snsapi_userinfo"})),
        Answer(raw_json({"openid": "bob", "unionid": f"a{unclean}b", "nickname": "Bob"})),
    )
    async with Server(*script) as server, make(api_base=server.url) as auth:
        with pytest.raises(InvalidResponseError, match="unionid"):
            await auth.authorize_web("code")


@pytest.mark.parametrize("unclean", UNCLEAN)
async def test_an_unclean_access_token_or_phone_number_is_refused(
    make: Make, redis: Redis, unclean: str
) -> None:
    bad = Answer(raw_json({"access_token": f"a{unclean}b", "expires_in": 7200}))
    good = Answer(raw_json({"access_token": "a", "expires_in": 7200}))
    phone = Answer(raw_json({"phone_info": {"phoneNumber": f"1{unclean}3"}}))
    async with Server(bad, good, phone) as server, make(api_base=server.url) as auth:
        with pytest.raises(InvalidResponseError, match="access_token"):
            await auth.access_token()
        with pytest.raises(InvalidResponseError, match="phone_info"):
            await auth.get_phone_number("code")


def test_a_phone_number_is_clean_in_all_of_its_parts() -> None:
    good = {"phoneNumber": "+4413", "purePhoneNumber": "13", "countryCode": "44"}
    assert PhoneNumber.from_wechat(good) == PhoneNumber("+4413", "13", "44")
    for name in good:
        for unclean in UNCLEAN:
            assert PhoneNumber.from_wechat({**good, name: f"1{unclean}"}) is None


# Ids in sealed data


@pytest.mark.parametrize("unclean", UNCLEAN)
@pytest.mark.parametrize("name", ["openId", "unionId", "openGId", "userid", "corpid"])
async def test_sealed_data_with_an_unclean_id_is_refused(
    auth: MPAuthX, wx: WeChatSimulator, name: str, unclean: str
) -> None:
    code = wx.login("bob")
    sealed = wx.seal("bob", {"openId": "bob", name: f"a{unclean}b"})
    with pytest.raises(DecryptionError) as caught:
        await auth.authorize(code, *sealed)
    with pytest.raises(DecryptionError) as other:
        await auth.authorize(wx.login("bob"), *sealed)  # sealed with an earlier key
    assert str(caught.value) == str(other.value)


# Push events


@pytest.mark.parametrize("form", ["json", "xml"])
@pytest.mark.parametrize("unclean", ["\x07", "\x1f", "\x7f", "\x85", "\ufffd"])
async def test_a_push_event_with_an_unclean_openid_is_refused(
    wx: WeChatSimulator, form: Any, unclean: str
) -> None:
    def parse(open_id: str) -> str | None:
        pushed = wx.push_event("user_authorization_cancellation", open_id, form=form)
        return parse_push_event(
            pushed.query, pushed.body, token=wx.push.token, aes_key=wx.push.aes_key
        ).open_id

    assert parse("bob") == "bob"
    for open_id in (f"bo{unclean}b", f"bob{unclean}", f"{unclean}bob"):
        with pytest.raises(InvalidPushEventError, match="refuse it"):
            parse(open_id)
