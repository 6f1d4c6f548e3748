"""Calling WeChat: what becomes of every answer, what is repeated, and that no secret gets out."""

import asyncio
import json
import logging
import re
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote, quote_plus, urlsplit

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpauthx_async import (
    CodeSession,
    ConfigurationError,
    ConnectionFailedError,
    Connections,
    EmptyResponseError,
    HTTPStatusError,
    IncompleteResponseError,
    InvalidResponseError,
    MPAuthXError,
    ParameterError,
    StatusCode,
    WeChatAPIError,
    WeChatOperatorError,
    WeChatRefusedError,
    WeChatSimulator,
    WeChatUnavailableError,
)
from mpauthx_async.simulator import Fault
from mpauthx_async.wechat.transport import WeChatHTTP
from tests.helpers.exchanges import errcode_of
from tests.helpers.scripted_server import (
    APP_ID,
    APP_SECRET,
    PATH,
    RID,
    SECRET_WORD,
    SESSION_KEY,
    Act,
    Answer,
    Resolver,
    Server,
    api,
    asking,
    refused,
    success,
)
from tests.helpers.secret_search import everything_logged, everything_told, local_variables


@contextmanager
def refusing_host() -> Iterator[str]:
    """The address of a port that is taken by nobody who listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
async def wx() -> AsyncIterator[WeChatSimulator]:
    async with WeChatSimulator(app_id=APP_ID, app_secret=APP_SECRET) as simulator:
        yield simulator


@pytest.fixture
async def other_wx() -> AsyncIterator[WeChatSimulator]:
    async with WeChatSimulator(app_id=APP_ID, app_secret=APP_SECRET) as simulator:
        yield simulator


@pytest.fixture
async def connections() -> AsyncIterator[Connections]:
    async with Connections() as opened:
        yield opened


# Success


@pytest.mark.parametrize("union_id", [None, "union-bob"])
async def test_a_code_is_exchanged_for_the_ids_and_the_session_key(wx, connections, union_id):
    code = wx.login("bob", union_id, session_key=SESSION_KEY)
    session = await api(connections, wx.url).code_to_session(code)
    assert session == CodeSession("bob", SESSION_KEY, union_id)


@pytest.mark.parametrize("union_id", [..., None, ""])
async def test_an_empty_unionid_is_read_as_missing(union_id):
    async with Server(success(unionid=union_id)) as server, asking(server.url) as wechat:
        assert (await wechat.code_to_session("code")).union_id is None


async def test_success_may_have_errcode_0_and_unknown_fields():
    answer = success(errcode=0, errmsg="ok", expires_in=7200, new={"field": []})
    async with Server(answer) as server, asking(server.url) as wechat:
        assert (await wechat.code_to_session("code")).open_id == "bob"


@pytest.mark.parametrize(
    "headers",
    [
        "",
        "Content-Type: text/plain\r\n",
        "Content-Type: text/html; charset=gbk\r\n",
        "Content-Type: application/json; charset=utf-8\r\n",
        "Content-Type: nonsense\r\n",
    ],
)
async def test_the_answer_is_read_whatever_its_content_type(headers):
    answer = Answer(success(openid="鲍勃").body, headers=headers)
    async with Server(answer) as server, asking(server.url) as wechat:
        assert (await wechat.code_to_session("code")).open_id == "鲍勃"


async def test_the_request_is_the_one_that_wechat_documents():
    async with Server(success()) as server, asking(server.url) as wechat:
        await wechat.code_to_session("the-code")
    (request,) = server.requests
    method, target, *_ = request.split(" ")
    assert method == "GET"
    assert urlsplit(target).path == PATH
    assert parse_qs(urlsplit(target).query, strict_parsing=True) == {
        "appid": [APP_ID],
        "secret": [APP_SECRET],
        "js_code": ["the-code"],
        "grant_type": ["authorization_code"],
    }


@pytest.mark.parametrize("code", ["a+b", "a&b=c", "a%41b", "a#b?c/d", "%", "c" * 512])
async def test_a_code_arrives_unchanged(code):
    async with Server(success()) as server, asking(server.url) as wechat:
        await wechat.code_to_session(code)
    target = server.requests[0].split(" ")[1]
    assert parse_qs(urlsplit(target).query)["js_code"] == [code]


@pytest.mark.parametrize(
    "code",
    [
        *("", "a b", "a\n", "a\r\nHost: x", "a\0", "ü", "码", "a\ud800", "c" * 513, None, 7, b"a"),
        ["a"],
    ],
)
async def test_does_not_send_an_invalid_code(code):
    async with Server(success()) as server, asking(server.url) as wechat:
        with pytest.raises(ParameterError, match="code") as caught:
            await wechat.code_to_session(code)
    assert caught.value.code == 6001
    assert server.connections == 0


async def test_many_calls_at_once_each_get_their_own_answer(wx, connections):
    users = [f"user-{number}" for number in range(200)]
    wechat = api(connections, wx.url)
    sessions = await asyncio.gather(*(wechat.code_to_session(wx.login(user)) for user in users))
    assert [session.open_id for session in sessions] == users
    assert len({session.session_key for session in sessions}) == len(users)


async def test_the_server_may_be_given_as_one_address_or_as_several(wx, connections):
    for api_base in (wx.url, [wx.url], (wx.url,)):
        session = await api(connections, api_base=api_base).code_to_session(wx.login("bob"))
        assert session.open_id == "bob"


# Failures


@dataclass(frozen=True)
class Failure:
    """What a host does, and what the caller is told."""

    act: Answer | Act
    error: type[MPAuthXError]
    code: int
    attributes: Mapping[str, Any] = field(default_factory=dict)


GZIP = "Content-Encoding: gzip\r\n"
ECHO = f"GET {PATH}?appid={APP_ID}&secret={quote(APP_SECRET)} {APP_SECRET} {SESSION_KEY}"


def status(line: str) -> Failure:
    answer = Answer(ECHO, line, "Location: /elsewhere\r\n")
    return Failure(answer, HTTPStatusError, 6002, {"status": int(line.split(" ")[0])})


def empty(body: str) -> Failure:
    return Failure(Answer(body), EmptyResponseError, 6003)


def invalid(answer: bytes | str | Answer) -> Failure:
    act = answer if isinstance(answer, Answer) else Answer(answer)
    return Failure(act, InvalidResponseError, 6004)


def incomplete(answer: Answer) -> Failure:
    return Failure(answer, IncompleteResponseError, 6005)


def failed(act: Answer | Act) -> Failure:
    return Failure(act, ConnectionFailedError, 6006, {"sent": True})


FAILURES = {
    "status 500": status("500 Internal Server Error"),
    "status 502": status("502 Bad Gateway"),
    "status 404": status("404 Not Found"),
    "status 401": status("401 Unauthorized"),
    "status 301": status("301 Moved Permanently"),
    "status 302": status("302 Found"),
    "status 307": status("307 Temporary Redirect"),
    "status 201": status("201 Created"),
    "an empty body": empty(""),
    "white space": empty(" \r\n\t\n"),
    "HTML": invalid(f"<html><body>No route for {ECHO}</body></html>"),
    "a list": invalid(f'["{SESSION_KEY}"]'),
    "a number": invalid("40029"),
    "a text": invalid(f'"{SESSION_KEY}"'),
    "null": invalid("null"),
    "true": invalid("true"),
    "no JSON": invalid(f"openid=bob&session_key={SESSION_KEY}"),
    "half of the JSON": invalid(f'{{"session_key":"{SESSION_KEY}","openid":"bo'),
    "more than the JSON": invalid(f'{{"session_key":"{SESSION_KEY}","openid":"bob"}}}}'),
    "JSON too deep": invalid(f'{{"session_key":"{SESSION_KEY}","openid":' + "[" * 100_000),
    "invalid UTF-8": invalid(b'{"session_key":"%s","openid":"\xff"}' % SESSION_KEY.encode()),
    "no fields at all": invalid("{}"),
    "no openid": invalid(success(openid=...)),
    "openid null": invalid(success(openid=None)),
    "an openid that is a number": invalid(success(openid=7)),
    "an openid that is a list": invalid(success(openid=["bob"])),
    "an empty openid": invalid(success(openid="")),
    "an openid with a bar": invalid(success(openid="bob|shop")),
    "an openid with a space": invalid(success(openid="bob ")),
    "an openid with a line end": invalid(success(openid="bob\n")),
    "an openid of 129 characters": invalid(success(openid="b" * 129)),
    "no session_key": invalid(success(session_key=...)),
    "an empty session_key": invalid(success(session_key="")),
    "a session_key that is a list": invalid(success(session_key=[SESSION_KEY])),
    "a unionid that is a number": invalid(success(unionid=7)),
    "a unionid with a bar": invalid(success(unionid="union|bob")),
    "an errcode that is a text": invalid(refused("no number")),
    "an errcode that is a boolean": invalid(refused(True)),
    "an errcode that is null": invalid(refused(None)),
    "an errcode that is a list": invalid(refused([40029])),
    "an errcode that is a fraction": invalid(refused(0.5)),
    "a body that breaks off": incomplete(Answer(success().body[:-5], missing=5)),
    "an error page that breaks off": Failure(
        Answer(ECHO, "500 Oh", missing=5), HTTPStatusError, 6002, {"status": 500}
    ),
    "an error page that is not compressed as it says": Failure(
        Answer(ECHO, "502 Bad Gateway", GZIP), HTTPStatusError, 6002, {"status": 502}
    ),
    "a compressed body of nothing": Failure(Answer("", headers=GZIP), EmptyResponseError, 6003),
    "chunks that break off": incomplete(
        Answer(f"40\r\n{SESSION_KEY}", headers="Transfer-Encoding: chunked\r\n")
    ),
    "a body that is not compressed as it says": incomplete(Answer(ECHO, headers=GZIP)),
    "a reset": failed(Act.RESET),
    "a goodbye": failed(Act.LEAVE),
    "what is no HTTP": failed(Act.BABBLE),
    "errcode 40029": Failure(refused(40029), WeChatRefusedError, 6008, {"errcode": 40029}),
    "errcode 45011": Failure(refused(45011), WeChatUnavailableError, 6008, {"errcode": 45011}),
    "errcode -2": Failure(refused(-2), WeChatOperatorError, 6008, {"errcode": -2}),
    "an unknown errcode": Failure(refused(99999), WeChatOperatorError, 6008, {"errcode": 99999}),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
async def test_a_failure_that_may_have_consumed_the_code_is_reported_at_once(failure):
    async with (
        Server(failure.act) as server,
        Server(success()) as fallback,
        asking(server.url, fallback.url) as wechat,
    ):
        with pytest.raises(MPAuthXError) as caught:
            await wechat.code_to_session("code")
    assert len(server.requests) == 1
    assert fallback.requests == []
    assert type(caught.value) is failure.error
    assert caught.value.code == failure.code
    for name, value in failure.attributes.items():
        assert getattr(caught.value, name) == value


async def test_a_redirect_is_not_followed_and_its_target_learns_nothing():
    async with Server(success()) as thief:
        redirect = Answer("", "302 Found", f"Location: {thief.url}{PATH}\r\n")
        async with Server(redirect) as server, asking(server.url) as wechat:
            with pytest.raises(HTTPStatusError) as caught:
                await wechat.code_to_session("code")
        assert thief.connections == 0
    assert caught.value.status == 302


@pytest.mark.parametrize(
    "timeout", [aiohttp.ClientTimeout(total=0.2), aiohttp.ClientTimeout(sock_read=0.1)]
)
@pytest.mark.parametrize("act", [Act.HANG, Answer(success().body[:-5], missing=5, hangs=True)])
async def test_an_answer_that_does_not_come_in_time_may_have_consumed_the_code(timeout, act):
    async with (
        Server(act) as server,
        Server(success()) as fallback,
        aiohttp.ClientSession(timeout=timeout) as http,
        asking(server.url, fallback.url, http=http) as wechat,
    ):
        with pytest.raises(ConnectionFailedError, match="in time") as caught:
            await wechat.code_to_session("code")
    assert len(server.requests) <= 1
    assert fallback.requests == []
    assert caught.value.code == 6006
    assert caught.value.sent is True


@pytest.mark.parametrize("act", [Act.RESET, Act.LEAVE])
async def test_aiohttps_own_repetition_of_a_get_is_off_on_a_kept_alive_connection(act):
    script = (success(), act)
    # aiohttp, left to itself, sends the request a second time: the server meets three in all.
    async with Server(*script, keep_alive=True) as server:
        async with aiohttp.ClientSession() as http:
            await (await http.get(server.url)).read()
            with pytest.raises(aiohttp.ClientError):
                await http.get(server.url)
        assert len(server.requests) == 3

    async with Server(*script, keep_alive=True) as server:
        async with asking(server.url) as wechat:
            await wechat.code_to_session("code")
            with pytest.raises(ConnectionFailedError) as caught:
                await wechat.code_to_session("code")
        assert len(server.requests) == 2
        assert server.connections == 1
    assert caught.value.sent is True


async def test_an_aiohttp_session_that_raises_for_status_makes_no_difference():
    async with (
        Server(FAILURES["status 500"].act) as server,
        aiohttp.ClientSession(raise_for_status=True) as http,
        asking(server.url, http=http) as wechat,
    ):
        with pytest.raises(HTTPStatusError):
            await wechat.code_to_session("code")


ANY_TEXT = st.text(st.characters(exclude_categories=()))
FIELDS = {
    "errcode": st.none() | st.integers(min_value=0) | ANY_TEXT | st.booleans() | st.floats(),
    "errmsg": st.none() | st.integers() | ANY_TEXT | ANY_TEXT.map("{}, rid: x".format),
    "openid": st.just("bob") | st.none() | st.integers() | ANY_TEXT,
    "session_key": st.just(SESSION_KEY) | st.none() | ANY_TEXT,
    "unionid": st.just("union-bob") | st.none() | st.booleans() | ANY_TEXT,
}


@given(body=st.binary() | st.fixed_dictionaries({}, optional=FIELDS).map(json.dumps))
@settings(max_examples=60)
async def test_any_answer_is_a_session_or_an_error_that_is_documented(body):
    async with Server(Answer(body)) as server, asking(server.url) as wechat:
        try:
            session = await wechat.code_to_session("code")
        except (WeChatAPIError, EmptyResponseError, InvalidResponseError) as error:
            assert str(error)  # noqa: PT017
        else:
            fields = json.loads(body)
            assert session.open_id == fields["openid"]
            assert session.session_key == fields["session_key"]
            assert session.union_id == (fields.get("unionid") or None)


# WeChat's errors


@pytest.mark.parametrize(
    "errmsg",
    [
        f"some error, rid: {RID}",
        f"some error rid: {RID}",
        f"some error, hints: [ req_id: {RID} ]",
        f"some error, hints: [req_id: {RID}]",
        f"some error hint: [IfdFrrMre-JPlAXa] rid: {RID}",
        f"some error hint: [k7PaiA0848vr49!], rid: {RID}",
        f"some error hint: [{RID}]",
        f"some error, hint: [{RID}], from ip: 1.2.3.4, more info at https://open.work.weixin.qq.com",
    ],
)
async def test_wechats_errors_come_with_number_text_rid_and_a_hint(errmsg):
    error = await refusal(errmsg)
    assert error.code is StatusCode.session_key_and_open_id_request_error
    assert (error.code, error.errcode) == (6008, 40029)
    assert (error.errmsg, error.rid) == ("some error", RID)
    assert error.hint.endswith(".")
    for piece in ("40029", "some error", RID, error.hint):
        assert piece in str(error)


@pytest.mark.parametrize(
    ("errcode", "errmsg"),
    [
        (40164, f"invalid ip 203.0.113.7 ipv6 ::ffff:203.0.113.7, not in whitelist rid: {RID}"),
        (60020, f"not allow to access, hint: [{RID}], from ip: 203.0.113.7, more info at z"),
        (61004, f"access clientip is not registered requestIP: 203.0.113.7 rid: {RID}"),
        (61004, f"access clientip is not registered hint: [x] requestIP: 203.0.113.7 rid: {RID}"),
    ],
)
async def test_the_hint_names_the_address_that_wechat_saw(errcode, errmsg):
    error = await refusal(errmsg, errcode)
    assert isinstance(error, WeChatOperatorError)
    assert "WeChat saw 203.0.113.7." in str(error)


async def test_each_known_error_has_a_hint_of_its_own():
    errcodes = [40029, 40163, 40013, 40125, 41002, 41004, 41008, 45011, 40226]
    hints = {(await refusal("some error", errcode)).hint for errcode in errcodes}
    assert all(hint.endswith(".") for hint in hints)
    assert len(hints) == len(errcodes)


async def test_an_unknown_errcode_has_no_hint():
    error = await refusal(f"some error, rid: {RID}", errcode=99999)
    assert (error.errcode, error.hint) == (99999, "")
    assert str(error) == f"WeChat answered errcode 99999, 'some error' (rid {RID})"


@pytest.mark.parametrize(
    ("errmsg", "told"),
    [("invalid code", "invalid code"), ("", ""), (..., ""), ("rid is not here", "rid is not here")],
)
async def test_an_error_without_a_rid_keeps_its_text(errmsg, told):
    error = await refusal(errmsg)
    assert (error.errmsg, error.rid) == (told, None)


async def refusal(errmsg: str, errcode: int = 40029) -> WeChatAPIError:
    """What an errcode with this errmsg raises."""
    async with Server(refused(errcode, errmsg)) as server, asking(server.url) as wechat:
        with pytest.raises(WeChatAPIError) as caught:
            await wechat.code_to_session("code")
    return caught.value


@pytest.mark.parametrize("rid", ["6129ee10-272863a4-64d75414", "a.b:c_d-e", "::ffff:1.2.3.4", "7"])
@pytest.mark.parametrize("before", [", rid: ", " rid: ", "  rid:", " hint: [x] rid: "])
async def test_a_rid_has_letters_digits_and_four_signs(rid, before):
    error = await refusal(f"some error{before}{rid}")
    assert (error.errmsg, error.rid) == ("some error", rid)


@pytest.mark.parametrize(
    "errmsg",
    [
        *("invalid ip 1.2.3.4 ipv6 ::ffff:1.2.3.4, not in whitelist", "madrid: 7"),
        *("rid: two words", "mind the hint", "hint: [", "hint: []"),
        *("some error hint: [\x1b[2J\x1b[31m]", "some error, hint: [a\x07], from ip: 1.2.3.4"),
    ],
)
async def test_text_that_only_resembles_a_rid_or_hint_stays(errmsg):
    error = await refusal(errmsg)
    assert (error.errmsg, error.rid) == (errmsg, None)


@pytest.mark.parametrize("filler", ["x", "密", "hint: ["])
async def test_a_long_text_is_cut(filler):
    errmsg = "some error" + filler * 40_000
    error = await refusal(f"{errmsg}, rid: {RID}")
    assert (error.errmsg, error.rid) == (errmsg[:500], None)


async def test_blanks_are_cut_off_too():
    assert (await refusal("some error" + " " * 40_000 + "x")).errmsg == "some error" + " " * 490


async def test_a_cut_leaves_no_part_of_a_secret():
    assert (await refusal("x" * 490 + APP_SECRET)).errmsg == "x" * 490 + "***"


@pytest.mark.parametrize(
    ("path", "errmsg"),
    [
        ("/sns/jscode2session", "appid missing"),
        ("/wxa/checksession", "access_token missing"),
        ("/cgi-bin/token", "invalid grant_type"),
        ("/wxa/unknown", "invalid url"),
    ],
)
async def test_separates_the_rid_from_the_text_of_each_api(wx, connections, path, errmsg):
    with pytest.raises(WeChatAPIError) as caught:
        await WeChatHTTP(connections, wx.url).get(path, {})
    assert caught.value.errmsg == errmsg
    assert re.fullmatch("[0-9a-f]{8}-[0-9a-f]{8}-[0-9a-f]{8}", caught.value.rid)


async def test_the_hint_of_wecom_is_the_id_of_the_request(wx, connections):
    with pytest.raises(WeChatAPIError) as caught:
        await WeChatHTTP(connections, wx.url).get("/cgi-bin/gettoken", {})
    assert caught.value.errmsg == "corpid missing"
    assert re.fullmatch("[0-9]+_1_[0-9a-f]{32}", caught.value.rid)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.HTTP_500, HTTPStatusError),
        (Fault.EMPTY, EmptyResponseError),
        (Fault.HTML, InvalidResponseError),
        (Fault.NOT_AN_OBJECT, InvalidResponseError),
        (Fault.NO_FIELDS, InvalidResponseError),
        (Fault.TRUNCATED, IncompleteResponseError),
        (Fault.CONNECTION_RESET, ConnectionFailedError),
        (Fault.LOST_ANSWER, ConnectionFailedError),
        (Fault.TOO_FREQUENT, WeChatAPIError),
    ],
)
async def test_after_a_fault_of_wechats_the_next_call_succeeds(wx, connections, fault, error):
    wechat = api(connections, wx.url)
    wx.fail_next(fault)
    with pytest.raises(error):
        await wechat.code_to_session(wx.login("bob"))
    assert len(wx.requests) == 1
    assert (await wechat.code_to_session(wx.login("bob"))).open_id == "bob"


# What is repeated


async def test_a_busy_wechat_is_asked_again(wx, other_wx, connections):
    wx.fail_next(Fault.SYSTEM_BUSY, 2)
    session = await api(connections, wx.url, other_wx.url).code_to_session(wx.login("bob"))
    assert session.open_id == "bob"
    assert len(wx.requests) == 3
    assert len(other_wx.requests) == 0


async def test_when_a_host_stays_busy_the_next_one_is_asked(wx, other_wx, connections):
    wx.fail_next(Fault.SYSTEM_BUSY, 100)
    code = other_wx.login("bob")
    session = await api(connections, wx.url, other_wx.url).code_to_session(code)
    assert session.open_id == "bob"
    assert 2 <= len(wx.requests) <= 5
    assert len(other_wx.requests) == 1


async def test_when_all_hosts_stay_busy_the_call_gives_up(wx, other_wx, connections):
    wx.fail_next(Fault.SYSTEM_BUSY, 100)
    other_wx.fail_next(Fault.SYSTEM_BUSY, 100)
    call = api(connections, wx.url, other_wx.url).code_to_session(wx.login("bob"))
    assert await errcode_of(call) == -1
    assert 2 <= len(wx.requests) <= 5
    assert 2 <= len(other_wx.requests) <= 5


async def test_a_host_that_refuses_the_connection_is_passed_over(wx, connections):
    with refusing_host() as host:
        session = await api(connections, host, wx.url).code_to_session(wx.login("bob"))
    assert session.open_id == "bob"
    assert len(wx.requests) == 1


async def test_when_no_host_takes_the_connection_the_code_is_still_good(connections):
    with (
        refusing_host() as host,
        refusing_host() as fallback,
        pytest.raises(ConnectionFailedError) as caught,
    ):
        await api(connections, host, fallback).code_to_session("code")
    assert caught.value.code == 6006
    assert caught.value.sent is False


async def test_a_host_that_dns_does_not_know_is_passed_over(wx):
    connector = aiohttp.TCPConnector(resolver=Resolver(forever=False))
    async with (
        aiohttp.ClientSession(connector=connector) as http,
        asking("http://weixin.invalid", wx.url, http=http) as wechat,
    ):
        assert (await wechat.code_to_session(wx.login("bob"))).open_id == "bob"


async def test_a_connection_that_does_not_come_in_time_has_not_consumed_the_code():
    connector = aiohttp.TCPConnector(resolver=Resolver(forever=True))
    timeout = aiohttp.ClientTimeout(connect=0.05)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout) as http,
        asking("http://weixin.invalid", http=http) as wechat,
    ):
        with pytest.raises(ConnectionFailedError) as caught:
            await wechat.code_to_session("code")
    assert caught.value.sent is False


async def test_raises_the_last_error(wx, connections):
    with refusing_host() as host:
        call = api(connections, host, wx.url).code_to_session("never-given")
        assert await errcode_of(call) == 40029
        wx.fail_next(Fault.SYSTEM_BUSY, 100)
        with pytest.raises(ConnectionFailedError):
            await api(connections, wx.url, host).code_to_session("never-given")


async def test_another_error_after_a_busy_answer_ends_the_call(wx, other_wx, connections):
    wx.fail_next(Fault.SYSTEM_BUSY)
    wx.fail_next(Fault.HTTP_500)
    with pytest.raises(HTTPStatusError):
        await api(connections, wx.url, other_wx.url).code_to_session(wx.login("bob"))
    assert len(wx.requests) == 2
    assert len(other_wx.requests) == 0


async def test_repetitions_are_logged_with_host_and_reason(wx, connections, caplog):
    wx.fail_next(Fault.SYSTEM_BUSY, 2)
    with caplog.at_level(logging.WARNING, "mpauthx_async"):
        await api(connections, wx.url).code_to_session(wx.login("bob"))
    (record,) = caplog.records  # at most one a second
    assert record.levelname == "WARNING"
    assert wx.url in record.getMessage()
    assert "errcode -1" in record.getMessage()


# Cancellation and closing


async def test_a_cancelled_call_leaves_its_connection_usable():
    script = (Act.HANG, Act.HANG, Act.HANG, success())
    async with (
        Server(*script) as server,
        # With one connection only, a cancelled call that kept it would block all others.
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as http,
        asking(server.url, http=http) as wechat,
    ):
        for _ in range(3):
            server.asked.clear()
            call = asyncio.create_task(wechat.code_to_session("code"))
            await server.asked.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        async with asyncio.timeout(30):
            assert (await wechat.code_to_session("code")).open_id == "bob"
        assert len(server.requests) == 4


# Secrets


def test_the_search_finds_a_secret_wherever_an_error_could_hold_it():
    secret = ValueError(APP_SECRET)
    caused, followed, holding = (MPAuthXError("harmless") for _ in range(3))
    caused.__cause__ = MPAuthXError("harmless", secret)
    followed.__context__ = secret
    holding.url = f"https://api.weixin.qq.com/?secret={quote(APP_SECRET)}"
    for error in (secret, caused, followed, holding):
        assert SECRET_WORD in everything_told(error)
    assert SECRET_WORD not in everything_told(MPAuthXError("harmless"))


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
async def test_failures_do_not_contain_the_app_secret_or_session_key(failure, debugging):
    async with Server(failure.act) as server, asking(server.url) as wechat:
        with pytest.raises(failure.error) as caught:
            await wechat.code_to_session("code")
    assert SECRET_WORD in server.requests[0]
    assert SECRET_WORD not in everything_told(caught.value)
    assert SECRET_WORD not in local_variables(caught.value)
    assert any(record.name == "asyncio" for record in debugging.records)
    assert SECRET_WORD not in everything_logged(debugging.records)


async def test_cancelled_calls_do_not_contain_the_app_secret(debugging):
    async with Server(Act.HANG) as server, asking(server.url) as wechat:
        call = asyncio.create_task(wechat.code_to_session("code"))
        await server.asked.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await call
    assert SECRET_WORD in server.requests[0]
    assert SECRET_WORD not in everything_told(caught.value)
    assert SECRET_WORD not in everything_logged(debugging.records)


@pytest.mark.parametrize(
    "secret",  # the last as it stands in the request
    [APP_SECRET, quote(APP_SECRET, safe=""), quote_plus(APP_SECRET)],
)
async def test_an_errmsg_that_repeats_the_request_does_not_tell_the_app_secret(secret, debugging):
    answer = refused(-1, f"no route for GET {PATH}?appid={APP_ID}&secret={secret}")
    async with Server(answer) as server, asking(server.url) as wechat:
        with pytest.raises(WeChatAPIError) as caught:
            await wechat.code_to_session("code")
    assert SECRET_WORD not in everything_told(caught.value)
    assert "errcode -1" in everything_logged(debugging.records)
    assert SECRET_WORD not in everything_logged(debugging.records)


async def test_a_success_is_read_as_it_came_even_where_a_short_secret_stands_in_it():
    async with Server(success()) as server, asking(server.url, app_secret="key") as wechat:
        assert (await wechat.code_to_session("code")).session_key == SESSION_KEY


def test_the_repr_of_the_api_holds_no_secret():
    wechat = api(Connections(), "https://api.weixin.qq.com")
    assert APP_ID in repr(wechat)
    assert SECRET_WORD not in f"{wechat!r} {wechat!s}"


# Configuration


@pytest.mark.parametrize(
    "api_base",
    [
        *("", "api.weixin.qq.com", "//api.weixin.qq.com", "ftp://api.weixin.qq.com"),
        *("redis://localhost", "https://", "http://:80", "http://[::1", "http://host:port"),
        *("http://host:99999", "http://h\N{ACCOUNT OF}st", "http://host?x=1", "http://host#x"),
        *("http://a..b", f"http://{64 * 'a'}", "http://a b", "http://host ", " http://host"),
        *(b"http://host", 7, [], (), [None], [""]),
        ["https://api.weixin.qq.com", "api2.weixin.qq.com"],
    ],
)
def test_rejects_an_invalid_api_base(api_base):
    with pytest.raises(ConfigurationError, match="api_base") as caught:
        api(Connections(), api_base=api_base)
    assert SECRET_WORD not in everything_told(caught.value)


NO_TEXTS = ["", None, 7, True, b"GEHEIM", ["GEHEIM"]]
NOT_ONE_LINE_OF_ASCII = ["GEHEIM\n", "GEHEIM\r", "\tGEHEIM", "GEHEIM\udc80", "GEHEIMÜ"]


@pytest.mark.parametrize("name", ["app_id", "app_secret"])
@pytest.mark.parametrize("value", NO_TEXTS + NOT_ONE_LINE_OF_ASCII)
def test_app_id_and_app_secret_are_one_line_of_ascii(name, value):
    with pytest.raises(ConfigurationError, match=name) as caught:
        api(Connections(), "https://api.weixin.qq.com", **{name: value})
    assert SECRET_WORD not in everything_told(caught.value)
