"""What WeChatSimulator promises, over real HTTP."""

import asyncio
import base64
import errno
import gc
import hashlib
import json
import logging
import re
from contextlib import suppress

import aiohttp
import pytest

from mpauthx_async.simulator import Fault, SealedUserInfo, WeChatSimulator
from mpauthx_async.wechat.sample_user_data import ENCRYPTED_DATA, IV, SESSION_KEY
from tests.helpers.clock import Clock
from tests.helpers.simulator_client import RID, Client, decrypt, exchange, session, session_form

PATH = "/sns/jscode2session"

# The two ways to log in, and to exchange what they give.
each_login = pytest.mark.parametrize(
    ("login", "ask"), [(WeChatSimulator.login, session), (WeChatSimulator.web_login, exchange)]
)


async def errcode(client: Client, code: str, **changes: str | None) -> int | None:
    return (await session(client, code, **changes)).get("errcode")


# Codes


async def test_a_code_is_exchanged_for_openid_and_session_key(wx, client):
    answer = await session(client, wx.login("bob"))
    assert answer.keys() == {"session_key", "openid"}
    assert answer["openid"] == "bob"
    assert len(base64.b64decode(answer["session_key"], validate=True)) == 16


async def test_a_union_id_is_remembered_and_may_come_late(wx, client):
    assert "unionid" not in await session(client, wx.login("bob"))
    assert (await session(client, wx.login("bob", "union-bob")))["unionid"] == "union-bob"
    assert (await session(client, wx.login("bob")))["unionid"] == "union-bob"


def test_a_code_looks_like_one_of_wechats_and_is_new_each_time():
    wx = WeChatSimulator()
    codes = {wx.login("bob") for _ in range(500)}
    assert len(codes) == 500
    assert all(re.fullmatch("0[A-Za-z0-9]{31}", code) for code in codes)


@each_login
async def test_concurrent_use_of_one_code_succeeds_exactly_once(wx, client, login, ask):
    code = login(wx, "bob")
    answers = await asyncio.gather(*(ask(client, code) for _ in range(50)))
    assert sorted(answer.get("errcode", 0) for answer in answers) == [0] + [40163] * 49


@each_login
async def test_a_code_lives_for_five_minutes(wx, client, clock, login, ask):
    in_time, late = login(wx, "bob"), login(wx, "bob")
    clock.now += 299.9
    assert (await ask(client, in_time))["openid"] == "bob"
    clock.now += 0.1
    assert (await ask(client, late))["errcode"] == 40029


async def test_a_used_code_is_known_as_used_until_its_five_minutes_are_over(wx, client, clock):
    code = wx.login("bob")
    await session(client, code)
    clock.now += 299
    wx.login("alice")
    assert await errcode(client, code) == 40163
    clock.now += 1
    assert await errcode(client, code) == 40029


def codes_in_memory() -> int:
    gc.collect()  # what earlier tests left
    return sum(type(thing).__qualname__ == "_Code" for thing in gc.get_objects())


async def test_expired_codes_do_not_pile_up(clock):
    wx = WeChatSimulator(clock=clock)
    before = codes_in_memory()
    for _ in range(1000):
        wx.login("bob")
        clock.now += 10
    assert 0 < codes_in_memory() - before <= 31


# Session keys


async def test_wechats_published_sample_can_be_replayed(http):
    async with WeChatSimulator(app_id="wx4f4bc4dec97d474b") as wx:
        code = wx.login("oGZUI0egBJY1zhBYw2KhdUfwVJJE", session_key=SESSION_KEY)
        answer = await session(Client(wx, http), code)
    payload = decrypt(answer["session_key"], ENCRYPTED_DATA, IV)
    assert payload["openId"] == answer["openid"]
    assert payload["unionId"] == "ocMvos6NjeKLIBqg5Mr9QjxrP1FA"
    assert payload["nickName"] == "Band"
    assert payload["watermark"] == {"timestamp": 1477314187, "appid": wx.app_id}


async def test_data_from_before_a_new_login_does_not_decrypt_with_the_new_codes_key(wx, client):
    wx.login("bob")
    info = wx.get_user_info("bob")
    answer = await session(client, wx.login("bob"))
    # A wrong key makes valid padding once in 256 times; what is under it is no JSON then.
    with pytest.raises(ValueError):  # noqa: PT011
        decrypt(answer["session_key"], info.encrypted_data, info.iv)


async def test_an_older_code_gives_the_key_of_the_latest_login(wx, client):
    older, newer = wx.login("bob"), wx.login("bob")
    info = wx.get_user_info("bob")
    older_answer, newer_answer = await session(client, older), await session(client, newer)
    assert older_answer == newer_answer
    assert decrypt(older_answer["session_key"], info.encrypted_data, info.iv)["openId"] == "bob"


async def test_a_login_of_one_user_leaves_the_key_of_another_alone(wx, client):
    code = wx.login("bob")
    info = wx.get_user_info("bob")
    wx.login("alice")
    answer = await session(client, code)
    assert decrypt(answer["session_key"], info.encrypted_data, info.iv)["openId"] == "bob"


@pytest.mark.parametrize("session_key", ["", "AAAA", "not base64 at all", SESSION_KEY + "AAAA"])
def test_a_session_key_that_is_not_the_base64_of_16_bytes_is_refused(session_key):
    with pytest.raises(ValueError):  # noqa: PT011
        WeChatSimulator().login("bob", session_key=session_key)


def test_an_empty_open_id_is_refused():
    with pytest.raises(ValueError, match="open_id must not be empty"):
        WeChatSimulator().login("")


# User data


async def test_user_info_decrypts_with_the_key_that_the_code_gives(wx, client, clock):
    code = wx.login("bob", "union-bob")
    info = wx.get_user_info("bob")
    assert isinstance(info, SealedUserInfo)
    answer = await session(client, code)
    assert decrypt(answer["session_key"], info.encrypted_data, info.iv) == {
        "openId": "bob",
        "nickName": "微信用户",
        "gender": 0,
        "language": "",
        "city": "",
        "province": "",
        "country": "",
        "avatarUrl": json.loads(info.raw_data)["avatarUrl"],
        "unionId": "union-bob",
        "watermark": {"timestamp": int(clock.now), "appid": wx.app_id},
    }


async def test_sealed_data_names_no_union_id_for_a_user_without_one(wx, client):
    code = wx.login("bob")
    info = wx.get_user_info("bob")
    answer = await session(client, code)
    assert "unionId" not in decrypt(answer["session_key"], info.encrypted_data, info.iv)


async def test_raw_data_is_compact_json_signed_with_the_session_key(wx, client):
    code = wx.login("bob")
    info = wx.get_user_info("bob")
    session_key = (await session(client, code))["session_key"]
    assert hashlib.sha1((info.raw_data + session_key).encode()).hexdigest() == info.signature
    assert info.raw_data.startswith('{"nickName":"微信用户","gender":0,"language":"","city":""')
    assert json.loads(info.raw_data)["avatarUrl"].startswith("https://thirdwx.qlogo.cn/")
    assert "bob" not in info.raw_data


def test_each_sealing_has_an_iv_of_its_own():
    wx = WeChatSimulator()
    wx.login("bob")
    first, second = wx.get_user_info("bob"), wx.get_user_info("bob")
    assert first.iv != second.iv
    assert first.encrypted_data != second.encrypted_data


@pytest.mark.parametrize("known", [False, True])
def test_user_info_before_a_login_is_a_lookup_error_that_says_what_to_do(known):
    wx = WeChatSimulator()
    if known:
        wx.set_profile("bob", nickName="Bob")
    with pytest.raises(LookupError, match=r"call login\('bob'\) first"):
        wx.get_user_info("bob")


def test_a_profile_is_changed_field_by_field_and_for_one_user_only():
    wx = WeChatSimulator()
    wx.set_profile("bob", nickName="小明", gender=1)
    wx.set_profile("bob", city="Guangzhou")
    wx.login("bob")
    wx.login("alice")
    profile = json.loads(wx.get_user_info("bob").raw_data)
    assert (profile["nickName"], profile["gender"], profile["city"]) == ("小明", 1, "Guangzhou")
    assert json.loads(wx.get_user_info("alice").raw_data)["nickName"] == "微信用户"


def test_a_field_that_a_profile_does_not_have_is_refused_by_name():
    with pytest.raises(TypeError, match=r"no nickname; it has nickName, gender"):
        WeChatSimulator().set_profile("bob", nickname="Bob")


async def test_any_payload_can_be_sealed_with_a_true_watermark(wx, client, clock):
    code = wx.login("bob")
    sealed = wx.seal("bob", {"phoneNumber": "+85212345678"})
    session_key = (await session(client, code))["session_key"]
    assert decrypt(session_key, *sealed) == {
        "phoneNumber": "+85212345678",
        "watermark": {"timestamp": int(clock.now), "appid": wx.app_id},
    }


async def test_a_payload_keeps_a_watermark_of_its_own(wx, client):
    code, watermark = wx.login("bob"), {"appid": "wx-of-another", "timestamp": 1}
    sealed = wx.seal("bob", {"watermark": watermark})
    session_key = (await session(client, code))["session_key"]
    assert decrypt(session_key, *sealed)["watermark"] == watermark


# Errors


@each_login
@pytest.mark.parametrize(
    ("changes", "number", "text"),
    [
        ({"appid": None}, 41002, "appid missing"),
        ({"appid": ""}, 41002, "appid missing"),
        ({"appid": "wx0000000000000000"}, 40013, "invalid appid"),
        ({"secret": None}, 41004, "appsecret missing"),
        ({"secret": "0" * 32}, 40125, "invalid appsecret"),
        ({"secret": "密"}, 40125, "invalid appsecret"),
        ({"code": None}, 41008, "missing code"),
        ({"grant_type": None}, 40002, "invalid grant_type"),
        ({"grant_type": "client_credential"}, 40002, "invalid grant_type"),
        ({"code": "never given out"}, 40029, "invalid code"),
    ],
)
async def test_a_wrong_request_is_answered_in_wechats_words_and_uses_no_code(
    wx, client, login, ask, changes, number, text
):
    code = login(wx, "bob")
    answer = await ask(client, **{"code": code, **changes})
    assert answer["errcode"] == number
    assert re.fullmatch(f"{text}, {RID}", answer["errmsg"])
    assert (await ask(client, code))["openid"] == "bob"


@pytest.mark.parametrize(
    ("changes", "number"),
    [
        ({"appid": None, "secret": None, "js_code": None, "grant_type": None}, 41002),
        ({"appid": "wx0", "secret": None, "js_code": None, "grant_type": None}, 40013),
        ({"secret": None, "js_code": None, "grant_type": None}, 41004),
        ({"secret": "0", "js_code": None, "grant_type": None}, 40125),
        ({"js_code": None, "grant_type": None}, 41008),
        ({"js_code": "unknown", "grant_type": None}, 40002),
    ],
)
async def test_of_several_mistakes_the_first_is_answered(wx, client, changes, number):
    assert await errcode(client, wx.login("bob"), **changes) == number


async def test_the_code_of_a_blocked_user_is_blocked(wx, client):
    code = wx.login("bob")
    wx.block("bob")
    answer = await session(client, code)
    assert answer["errcode"] == 40226
    assert answer["errmsg"].startswith("code blocked, rid: ")
    assert (await session(client, wx.login("alice")))["openid"] == "alice"


async def test_more_than_100_calls_a_minute_for_one_user_are_too_many(wx, client, clock):
    codes = [wx.login("bob") for _ in range(101)]
    for code in codes[:100]:
        assert (await session(client, code))["openid"] == "bob"
    answer = await session(client, codes[100])
    assert answer["errcode"] == 45011
    assert answer["errmsg"].startswith("api minute-quota reach limit, must slower, retry next")
    assert (await session(client, wx.login("alice")))["openid"] == "alice"
    clock.now += 60
    assert (await session(client, codes[100]))["openid"] == "bob"


async def test_the_limit_can_be_changed(http, clock):
    async with WeChatSimulator(clock=clock, calls_a_minute=1) as wx:
        client = Client(wx, http)
        assert await errcode(client, wx.login("bob")) is None
        assert await errcode(client, wx.login("bob")) == 45011


async def test_the_limit_can_be_lifted(http, clock):
    async with WeChatSimulator(clock=clock, calls_a_minute=None) as wx:
        for _ in range(150):
            assert await errcode(Client(wx, http), wx.login("bob")) is None


@pytest.mark.parametrize("bad", [b"\xff\xfe", b"%FF%FE", b"%ED%A0%80", b"x" * 10_000, b"\x00"])
async def test_a_broken_request_line_breaks_nothing_and_is_not_logged(wx, client, caplog, bad):
    caplog.set_level(logging.DEBUG)
    host, port = wx.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    target = f"{PATH}?appid={wx.app_id}&secret={wx.app_secret}".encode() + bad
    writer.write(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert b" 500 " not in answer.splitlines()[0]
    assert wx.app_secret not in caplog.text
    assert await errcode(client, wx.login("bob")) is None


# Faults, as an aiohttp client meets them


@pytest.mark.parametrize(
    ("fault", "number", "text"),
    [
        (Fault.SYSTEM_BUSY, -1, "system error, rid: "),
        (Fault.TOO_FREQUENT, 45011, "api minute-quota reach limit, must slower, retry next minute"),
    ],
)
async def test_a_busy_wechat_answers_with_an_errcode_and_keeps_the_code(
    wx, client, fault, number, text
):
    code = wx.login("bob")
    wx.fail_next(fault)
    answer = await session(client, code)
    assert answer["errcode"] == number
    assert answer["errmsg"].startswith(text)
    assert (await session(client, code))["openid"] == "bob"


@pytest.mark.parametrize(
    ("fault", "status", "content_type", "text"),
    [
        (Fault.HTTP_500, 500, "text/plain", "Internal Server Error"),
        (Fault.HTML, 200, "text/html", "<html>"),
        (Fault.EMPTY, 200, "text/plain", ""),
        (Fault.NOT_AN_OBJECT, 200, "text/plain", "[]"),
        (Fault.NO_FIELDS, 200, "text/plain", '{"errcode":0,"errmsg":"ok"}'),
    ],
)
async def test_an_answer_can_be_nonsense_and_keeps_the_code(
    wx, client, fault, status, content_type, text
):
    code = wx.login("bob")
    wx.fail_next(fault)
    async with client.http.get(wx.url + PATH, params=session_form(wx, code)) as response:
        assert (response.status, response.content_type) == (status, content_type)
        body = await response.text()
    assert body.startswith(text)
    assert bool(body) == bool(text)
    assert (await session(client, code))["openid"] == "bob"


# aiohttp's client sends a GET once more by itself when the connection breaks before an answer:
# hence two faults for one call in the next tests, and two requests in wx.requests.


async def test_a_connection_can_be_reset_before_anything_was_done(wx, client):
    code = wx.login("bob")
    wx.fail_next(Fault.CONNECTION_RESET, times=2)
    with pytest.raises(aiohttp.ClientOSError, match="reset"):
        await session(client, code)
    assert len(wx.requests) == 2
    assert (await session(client, code))["openid"] == "bob"


async def test_an_answer_can_be_lost_after_the_code_was_used_up(wx, client):
    code = wx.login("bob")
    wx.fail_next(Fault.LOST_ANSWER, times=2)
    with pytest.raises(aiohttp.ClientOSError, match="reset"):
        await session(client, code)
    assert await errcode(client, code) == 40163


async def test_an_answer_can_stop_in_the_middle_after_the_code_was_used_up(wx, client):
    code = wx.login("bob")
    wx.fail_next(Fault.TRUNCATED)
    async with client.http.get(wx.url + PATH, params=session_form(wx, code)) as response:
        assert response.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    assert await errcode(client, code) == 40163


async def test_faults_are_met_in_the_order_they_were_asked_for(wx, client):
    code = wx.login("bob")
    wx.fail_next(Fault.SYSTEM_BUSY, times=2)
    wx.fail_next(Fault.TOO_FREQUENT)
    numbers = [await errcode(client, code) for _ in range(5)]
    assert numbers == [-1, -1, 45011, None, 40163]


@pytest.mark.parametrize("times", [0, -1, 10_001])
def test_a_senseless_number_of_faults_is_refused(times):
    with pytest.raises(ValueError, match="1 to 10,000"):
        WeChatSimulator().fail_next(Fault.EMPTY, times)


async def begun(client: Client, clock: Clock, code: str, latency: float) -> asyncio.Task[dict]:
    """An exchange that has come to WeChat, whose answer is yet to come."""
    clock.read.clear()
    client.wx.latency = latency
    call = asyncio.create_task(session(client, code))
    await clock.read.wait()
    return call


async def test_latency_delays_every_answer(wx, client):
    wx.latency = 0.05
    began = asyncio.get_running_loop().time()
    assert await errcode(client, wx.login("bob")) is None
    assert asyncio.get_running_loop().time() - began >= 0.05
    wx.fail_next(Fault.SYSTEM_BUSY)
    assert await errcode(client, wx.login("bob")) == -1
    assert asyncio.get_running_loop().time() - began >= 0.1
    assert (await client.get("/cgi-bin/token"))["errcode"] == 40002
    assert asyncio.get_running_loop().time() - began >= 0.15


async def test_a_client_that_gives_up_waiting_has_used_up_its_code(wx, client, clock):
    code = wx.login("bob")
    call = await begun(client, clock, code, latency=3600)
    call.cancel()
    await asyncio.wait([call])
    wx.latency = 0
    assert await errcode(client, code) == 40163


async def test_an_abandoned_answer_leaves_no_task_behind(wx, client, clock):
    call = await begun(client, clock, "unknown", latency=3600)
    call.cancel()
    await asyncio.wait([call])
    await wx.close()
    assert asyncio.all_tasks() == {asyncio.current_task()}


# What was asked


async def test_only_the_last_thousand_requests_are_kept(wx, client):
    for number in range(1002):
        await session(client, str(number))
    assert len(wx.requests) == 1000
    assert (wx.requests[0].query["js_code"], wx.requests[-1].query["js_code"]) == ("2", "1001")


async def test_the_secret_is_in_no_log_and_no_repr(http, caplog):
    caplog.set_level(logging.DEBUG)
    secret = "a1b2c3d4" * 4
    async with WeChatSimulator(app_secret=secret) as wx:
        await session(Client(wx, http), wx.login("bob"))
        for fault in Fault:
            wx.fail_next(fault, times=2)
        for path in (*[PATH] * 2 * len(Fault), "/unknown"):
            with suppress(aiohttp.ClientError):
                async with http.get(wx.url + path, params=session_form(wx, "unknown")) as response:
                    await response.read()
        reprs = repr(wx) + repr(wx.requests)
    assert secret not in caplog.text
    assert secret not in reprs
    assert "sns" not in caplog.text


async def test_a_session_key_is_in_no_repr_and_no_request(wx, client):
    code = wx.login("bob")
    info = wx.get_user_info("bob")
    session_key = (await session(client, code))["session_key"]
    assert session_key not in repr((wx, info, wx.requests, vars(wx)))


# Life


async def test_repr_shows_app_id_and_url(wx):
    assert repr(wx) == f"WeChatSimulator(app_id='wx4f4bc4dec97d474b', url='{wx.url}')"


def test_can_be_created_without_an_event_loop():
    assert repr(WeChatSimulator(app_id="wx1")) == "WeChatSimulator(app_id='wx1', url=None)"


def test_the_url_of_a_simulator_that_is_not_running_says_what_to_do():
    with pytest.raises(RuntimeError, match=r"use 'async with', or await start\(\)"):
        _ = WeChatSimulator().url


async def test_start_and_close_work_without_async_with(http):
    wx = WeChatSimulator()
    await wx.start()
    assert (await session(Client(wx, http), wx.login("bob")))["openid"] == "bob"
    await wx.close()
    await wx.close()
    with pytest.raises(RuntimeError, match="not running"):
        _ = wx.url


async def test_it_cannot_be_started_twice(wx):
    with pytest.raises(RuntimeError, match=f"runs already, at {wx.url}"):
        await wx.start()


async def test_a_taken_port_is_an_os_error_after_which_it_can_still_start(wx):
    taken = int(wx.url.rpartition(":")[2])
    other = WeChatSimulator(port=taken)
    with pytest.raises(OSError) as caught:  # noqa: PT011
        await other.start()
    assert caught.value.errno == errno.EADDRINUSE
    await wx.close()
    async with other:
        assert other.url == f"http://127.0.0.1:{taken}"


async def test_close_frees_the_port_while_clients_keep_connections_open(wx, client):
    url = wx.url
    await session(client, wx.login("bob"))
    await wx.close()
    with pytest.raises(aiohttp.ClientConnectorError):
        await client.http.get(url)


async def test_close_lets_a_request_in_progress_finish(wx, client, clock):
    call = await begun(client, clock, wx.login("bob"), latency=0.1)
    await wx.close()
    assert (await call)["openid"] == "bob"


async def test_close_does_not_wait_for_a_request_that_hangs(wx, client, clock):
    call = await begun(client, clock, wx.login("bob"), latency=3600)
    async with asyncio.timeout(5):
        await wx.close()
    with pytest.raises(aiohttp.ClientError):
        await call


# Control from another process


async def test_a_login_over_http_gives_a_code_that_works(client):
    answer = await client.control("login", open_id="bob", union_id="union-bob")
    logged_in = await session(client, answer["code"])
    assert (logged_in["openid"], logged_in["unionid"]) == ("bob", "union-bob")


async def test_user_info_over_http_has_the_names_that_a_client_sees(wx, client):
    code = wx.login("bob")
    info = await client.control("user_info", open_id="bob")
    assert info.keys() == {"encryptedData", "iv", "rawData", "signature"}
    session_key = (await session(client, code))["session_key"]
    assert decrypt(session_key, info["encryptedData"], info["iv"])["openId"] == "bob"
    assert hashlib.sha1((info["rawData"] + session_key).encode()).hexdigest() == info["signature"]


async def test_faults_can_be_asked_for_over_http(wx, client):
    await client.control("faults", fault="SYSTEM_BUSY", times=2)
    await client.control("faults", fault="TOO_FREQUENT")
    code = wx.login("bob")
    assert [await errcode(client, code) for _ in range(4)] == [-1, -1, 45011, None]


@pytest.mark.parametrize(
    ("command", "body", "says"),
    [
        ("login", b"", "Expecting value"),
        ("login", b"\xff\xfe\xfd", "Send JSON such as"),
        ("login", b"[" * 100_000, "Send JSON such as"),
        ("login", [], "'open_id' must be a text that is not empty"),
        ("login", {}, "'open_id' must be a text that is not empty"),
        ("login", {"open_id": 7}, "'open_id' must be a text that is not empty"),
        ("login", {"open_id": ""}, "'open_id' must be a text that is not empty"),
        ("login", {"open_id": "bob", "union_id": 7}, "'union_id' must be a text"),
        ("user_info", {"open_id": "nobody"}, "call login('nobody') first"),
        ("faults", {"fault": "EARTHQUAKE"}, "'fault' must be one of SYSTEM_BUSY, TOO_FREQUENT"),
        ("faults", {"fault": "EMPTY", "times": "2"}, "'times' must be a whole number"),
        ("faults", {"fault": "EMPTY", "times": True}, "'times' must be a whole number"),
        ("faults", {"fault": "EMPTY", "times": 0}, "'times' must be 1 to 10,000"),
    ],
)
async def test_bad_control_input_is_400_and_says_what_to_send(wx, client, command, body, says):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with client.http.post(f"{wx.url}/simulator/{command}", data=data) as response:
        assert response.status == 400
        answer = await response.json()
    assert says in answer["message"]
    assert 'Send JSON such as {"' in answer["message"]


async def test_control_is_not_taken_for_a_request_to_wechat(wx, client):
    wx.fail_next(Fault.SYSTEM_BUSY)
    code = (await client.control("login", open_id="bob"))["code"]
    assert not wx.requests
    assert await errcode(client, code) == -1
