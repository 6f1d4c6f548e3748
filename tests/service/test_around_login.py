"""What a service does with the session key behind a token: decrypt, verify, check, reset."""

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from mpauthx_async import (
    ConfigurationError,
    Connections,
    DecryptionError,
    InvalidTokenError,
    MPAuthX,
    ParameterError,
    SessionKeyLostError,
    WeChatSimulator,
)
from mpauthx_async.models import PhoneNumber
from tests.helpers.logins import requests_at, requests_to
from tests.helpers.memory_stores import MemoryTokens, MemoryUsers
from tests.helpers.near_services import Make
from tests.helpers.outages import turns
from tests.helpers.redis_contents import user_key
from tests.helpers.redis_server import RedisServer
from tests.helpers.service_calls import key_calls, outcomes

CHECK, RESET = "/wxa/checksession", "/wxa/resetusersessionkey"
NUMBER = PhoneNumber("13800138000", "13800138000", "86")


async def log_in(auth: MPAuthX, wx: WeChatSimulator, open_id: str = "bob", **more: Any) -> str:
    return (await auth.authorize(wx.login(open_id, **more))).response


# What it does


async def test_data_of_the_session_is_decrypted(auth: MPAuthX, wx: WeChatSimulator) -> None:
    token = await log_in(auth, wx)
    sealed = wx.seal("bob", {"openGId": "g1"})
    for _ in range(2):
        payload = await auth.decrypt(token, *sealed)
        assert payload["openGId"] == "g1"
        assert payload["watermark"]["appid"] == wx.app_id
    damaged = sealed.encrypted_data.replace("+", " ").rstrip("="), sealed.iv.rstrip("=")
    assert (await auth.decrypt(token, *damaged))["openGId"] == "g1"


async def test_each_caller_gets_a_payload_of_its_own(auth: MPAuthX, wx: WeChatSimulator) -> None:
    token = await log_in(auth, wx)
    sealed = wx.seal("bob", {"openGId": "g1"})
    payloads = await asyncio.gather(*(auth.decrypt(token, *sealed) for _ in range(5)))
    assert len({id(payload) for payload in payloads}) == 5
    for payload in payloads:
        payload.pop("watermark")


async def test_a_phone_number_comes_in_the_old_form_and_in_the_new(
    auth: MPAuthX, wx: WeChatSimulator
) -> None:
    token = await log_in(auth, wx)
    given = wx.get_phone_number("bob")
    assert await auth.decrypt_phone_number(token, given.encrypted_data, given.iv) == NUMBER
    assert await auth.get_phone_number(given.code) == NUMBER
    abroad = wx.get_phone_number("bob", "5551234", country_code="1")
    number = await auth.get_phone_number(abroad.code)
    assert number == PhoneNumber("+15551234", "5551234", "1")


async def test_rejects_data_without_a_phone_number(auth: MPAuthX, wx: WeChatSimulator) -> None:
    token = await log_in(auth, wx)
    with pytest.raises(DecryptionError, match="no phone number"):
        await auth.decrypt_phone_number(token, *wx.seal("bob", {"openGId": "g1"}))


async def test_raw_data_is_verified(auth: MPAuthX, wx: WeChatSimulator) -> None:
    token = await log_in(auth, wx)
    info = wx.get_user_info("bob")
    assert await auth.verify_raw_data(token, info.raw_data, info.signature) is True
    for raw_data, signature in (
        (info.raw_data + " ", info.signature),
        (info.raw_data, "0" * 40),
        (None, info.signature),
        (info.raw_data.encode(), info.signature),
        (info.raw_data, None),
        ("\ud800", "é"),
    ):
        assert await auth.verify_raw_data(token, raw_data, signature) is False


async def test_a_session_is_checked_and_reset_and_the_new_key_kept(
    auth: MPAuthX, wx: WeChatSimulator
) -> None:
    token = await log_in(auth, wx)
    before = wx.seal("bob", {"n": 1})
    assert await auth.check_session_key(token) is True
    assert await auth.reset_session_key(token) is None
    assert await auth.check_session_key(token) is True
    assert (await auth.decrypt(token, *wx.seal("bob", {"n": 2})))["n"] == 2
    with pytest.raises(DecryptionError):
        await auth.decrypt(token, *before)
    await auth.reset_session_key(token)
    assert await auth.is_token_valid(token)


async def test_after_a_new_login_at_wechat_the_client_has_to_log_in_again(
    auth: MPAuthX, wx: WeChatSimulator
) -> None:
    token = await log_in(auth, wx)
    old = wx.seal("bob", {"n": 1})
    code = wx.login("bob")
    assert await auth.check_session_key(token) is False
    with pytest.raises(SessionKeyLostError, match="log in again"):
        await auth.reset_session_key(token)
    with pytest.raises(DecryptionError, match="log in again"):
        await auth.decrypt(token, *wx.seal("bob", {"n": 2}))
    assert (await auth.decrypt(token, *old))["n"] == 1
    assert await auth.is_token_valid(token)
    again = (await auth.authorize(code)).response
    assert await auth.check_session_key(again) is True
    assert (await auth.decrypt(again, *wx.seal("bob", {"n": 3})))["n"] == 3


async def test_each_device_has_its_own_key(auth: MPAuthX, wx: WeChatSimulator) -> None:
    devices = []
    for n in range(3):
        token = await log_in(auth, wx)
        devices.append((token, wx.seal("bob", {"n": n})))
    for n, (token, sealed) in enumerate(devices):
        assert (await auth.decrypt(token, *sealed))["n"] == n
    # At WeChat a user has one key: that of the last login.
    assert [await auth.check_session_key(token) for token, _ in devices] == [False, False, True]


async def test_a_user_with_a_union_id_is_asked_for_by_their_open_id(
    auth: MPAuthX, wx: WeChatSimulator
) -> None:
    token = await log_in(auth, wx, union_id="union-bob")
    assert auth.extract_open_id(token) == "union-bob"
    assert await auth.check_session_key(token) is True
    await auth.reset_session_key(token)
    assert await auth.check_session_key(token) is True
    assert {r.query["openid"] for r in wx.requests if r.path in (CHECK, RESET)} == {"bob"}


async def test_a_union_id_that_only_the_database_knows_does_not_take_the_open_ids_place(
    make: Make, tokens: str, redis: Redis, tmp_path: Path
) -> None:
    async with WeChatSimulator() as wx, make(tokens=tokens, api_base=wx.url) as auth:
        await log_in(auth, wx, union_id="union-bob")
    async with WeChatSimulator() as wx, make(tokens=tokens, api_base=wx.url) as auth:
        token = await log_in(auth, wx)  # WeChat says no unionId any more
        assert auth.extract_open_id(token) == "union-bob"
        wx.expire_access_tokens()
        assert await auth.check_session_key(token) is True
        await auth.reset_session_key(token)
        assert await auth.check_session_key(token) is True


async def test_keys_open_after_a_change_of_the_secret_while_the_old_one_is_listed(
    make: Make, auth: MPAuthX, tokens: str, wx: WeChatSimulator
) -> None:
    token = await log_in(auth, wx)
    sealed = wx.seal("bob", {"n": 1})
    old, new = wx.app_secret, "a-new-secret-of-the-app"
    wx.app_secret = new
    async with (
        make(tokens=tokens, app_secret=new, signing_keys=[old, new]) as listed,
        make(tokens=tokens, app_secret=new) as changed,
    ):
        assert (await listed.decrypt(token, *sealed))["n"] == 1
        with pytest.raises(InvalidTokenError):
            await changed.decrypt(token, *sealed)


async def test_a_short_app_secret_serves_where_signing_keys_are_given(
    make: Make, tokens: str, redis: Redis
) -> None:
    names = {"tokens": tokens, "app_secret": "short", "signing_keys": ["a-signing-key-of-ours"]}
    async with WeChatSimulator(app_secret="short") as wx, make(**names, api_base=wx.url) as auth:
        assert await auth.check_session_key(await log_in(auth, wx))


async def test_many_calls_make_few_trips(make: Make, redis: Redis, wx: WeChatSimulator) -> None:
    async def commands() -> int:
        return int((await redis.info("stats"))["total_commands_processed"])

    async with make() as auth:
        logins = [(await log_in(auth, wx, f"user-{n}"), n) for n in range(50)]
        sealed = [wx.seal(f"user-{n}", {"n": n}) for n in range(50)]
        before = await commands()
        payloads = await asyncio.gather(
            *(auth.decrypt(token, *sealed[n]) for token, n in logins for _ in range(4))
        )
        assert [payload["n"] for payload in payloads] == [n for n in range(50) for _ in range(4)]
        # A script counts as one, and as what it calls: two for each of the 50 sessions.
        assert await commands() - before < 120


# Tokens without a key


async def test_web_logins_and_refreshes_have_no_key(auth: MPAuthX, wx: WeChatSimulator) -> None:
    refreshed = await auth.authorize(wx.login("bob")) and await auth.refresh_token("bob")
    web = await auth.authorize_web(wx.web_login("bob"))
    for token in (web.response, refreshed.response):
        assert await auth.is_token_valid(token)
        assert await outcomes(key_calls(auth, token)) == [SessionKeyLostError] * 5


@pytest.mark.parametrize(
    "garbage",
    [b"", b"x", b"A" * 43, b"A" * 43 + b"|bob", b"A" * 59, b"A" * 59 + b"|bob", b"\xff\xfe", b"|"],
)
async def test_a_tampered_record_is_a_lost_key_and_nobody_elses(
    auth: MPAuthX, wx: WeChatSimulator, tokens: str, redis: Redis, tmp_path: Path, garbage: bytes
) -> None:
    result = await auth.authorize(wx.login("bob"))
    other = await log_in(auth, wx, "eve")
    sealed = wx.seal("eve", {"n": 1})
    nonce = result.session.ref.nonce
    if tokens.startswith("redis"):
        issued_at = str(result.session.issued_at).encode()
        key = user_key("u", result.session.ref.subject)
        await redis.hset(key, nonce, b'[%s,"%s"]' % (issued_at, garbage))
    else:
        with closing(sqlite3.connect(tmp_path / "tokens.db")) as connection, connection:
            connection.execute(
                "UPDATE mpauthx_session SET sealed_key = ? WHERE nonce = ?", (garbage, nonce)
            )
    calls = [auth.decrypt(result.response, "data", "iv"), auth.decrypt(other, *sealed)]
    assert await outcomes(calls) == [SessionKeyLostError, dict]
    assert await outcomes(key_calls(auth, result.response)) == [SessionKeyLostError] * 5
    assert await auth.is_token_valid(result.response)


async def test_a_key_moved_to_another_session_does_not_open(
    make: Make, redis: Redis, wx: WeChatSimulator
) -> None:
    async with make() as auth:
        bob, eve = [await auth.authorize(wx.login(name)) for name in ("bob", "eve")]
        refs = [bob.session.ref, eve.session.ref]
        (sealed_key,) = await auth._parts.tokens.sealed_keys(refs[:1])
        await auth._parts.tokens.replace_sealed_key(refs[1], sealed_key)
        assert await outcomes(key_calls(auth, eve.response)) == [SessionKeyLostError] * 5


@pytest.mark.parametrize("union_id", [None, "union-bob"])
async def test_a_key_whose_open_id_was_changed_does_not_open(
    auth: MPAuthX, wx: WeChatSimulator, union_id: str | None
) -> None:
    for suffix in ("|eve", "|union-bob", "|", ""):
        result = await auth.authorize(wx.login("bob", union_id))
        ref = result.session.ref
        (stored,) = await auth._parts.tokens.sealed_keys([ref])
        sealed_key, _, open_id = stored.partition("|")
        assert open_id == ("bob" if union_id else "")
        await auth._parts.tokens.replace_sealed_key(ref, sealed_key + suffix)
        is_unchanged = union_id is None and suffix in ("|", "")  # the openId is the user's id
        expected = DecryptionError if is_unchanged else SessionKeyLostError
        assert (await outcomes([auth.decrypt(result.response, "data", "iv")])) == [expected]


# Invalid arguments and answers


async def test_data_and_iv_are_short_strings(auth: MPAuthX, wx: WeChatSimulator) -> None:
    token = await log_in(auth, wx)
    for data, iv in (
        *((None, None), (b"x", b"y"), ("x", None), (5, "y"), ("", ""), ("x", "")),
        *(("A" * 16_385, "A" * 24), ("A" * 64, "A" * 65)),
    ):
        for call in (auth.decrypt, auth.decrypt_phone_number):
            with pytest.raises(ParameterError):
                await call(token, data, iv)


async def test_a_store_without_session_keys_logs_in_all_the_same(
    make: Make, wx: WeChatSimulator, redis: Redis, redis_server: RedisServer
) -> None:
    async with (
        Connections(redis_server.url) as connections,
        make(users=MemoryUsers(), tokens=MemoryTokens(), connections=connections) as auth,
    ):
        token = await log_in(auth, wx)
        assert await auth.is_token_valid(token)
        assert await outcomes(key_calls(auth, token)) == [ConfigurationError] * 5
        assert await outcomes(key_calls(auth, "no token")) == [InvalidTokenError] * 5


# Callers who leave, and closing


async def test_a_reset_outlives_its_cancelled_caller(auth: MPAuthX, wx: WeChatSimulator) -> None:
    token = await log_in(auth, wx)
    await auth.access_token()
    wx.latency = 0.2
    before = len(wx.requests)
    caller = asyncio.create_task(auth.reset_session_key(token))
    await requests_at(wx, before + 1)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    wx.latency = 0
    await auth._session_keys._resets.close()  # which waits for it
    assert await auth.check_session_key(token) is True
    assert (await auth.decrypt(token, *wx.seal("bob", {"n": 1})))["n"] == 1


async def test_concurrent_resets_of_one_session_are_one(auth: MPAuthX, wx: WeChatSimulator) -> None:
    token = await log_in(auth, wx)
    await asyncio.gather(*(auth.reset_session_key(token) for _ in range(10)))
    assert len(requests_to(wx, RESET)) == 1
    assert await auth.check_session_key(token) is True
    assert not auth._session_keys._resets._callers


async def test_a_cancelled_caller_does_not_affect_others_in_a_batch(
    make: Make, wx: WeChatSimulator, tokens: str, redis: Redis
) -> None:
    executor = ThreadPoolExecutor(1)
    async with (
        Connections(executor=executor) as connections,
        make(tokens=tokens, connections=connections) as auth,
    ):
        token = await log_in(auth, wx)
        sealed = wx.seal("bob", {"n": 1})
        callers = [asyncio.create_task(auth.decrypt(token, *sealed)) for _ in range(4)]
        while not auth._session_keys._decryptions._in_flight:  # noqa: ASYNC110
            await asyncio.sleep(0)
        callers[0].cancel()
        answers = await asyncio.gather(*callers, return_exceptions=True)
    executor.shutdown()
    assert isinstance(answers[0], asyncio.CancelledError)
    assert [payload["n"] for payload in answers[1:]] == [1, 1, 1]


@pytest.mark.parametrize("ticks", range(12))
async def test_close_lets_calls_in_flight_finish(
    make: Make, wx: WeChatSimulator, tokens: str, redis: Redis, ticks: int
) -> None:
    auth = make(tokens=tokens)
    token = await log_in(auth, wx)
    sealed, info = wx.seal("bob", {"n": 1}), wx.get_user_info("bob")
    calls = [
        asyncio.create_task(call)
        for call in (
            auth.decrypt(token, *sealed),
            auth.verify_raw_data(token, info.raw_data, info.signature),
            auth.get_phone_number(wx.get_phone_number("bob").code),
            auth.check_session_key(token),
        )
    ]
    await turns(1 + ticks)
    await auth.close()
    assert all(call.done() for call in calls)
    payload, *others = await asyncio.gather(*calls)
    assert payload["n"] == 1
    assert others == [True, NUMBER, True]


async def test_close_waits_for_a_reset_whose_key_would_be_lost(
    make: Make, wx: WeChatSimulator, tokens: str, redis: Redis
) -> None:
    auth = make(tokens=tokens)
    token = await log_in(auth, wx)
    await auth.access_token()
    wx.latency = 0.2
    before = len(wx.requests)
    reset = asyncio.create_task(auth.reset_session_key(token))
    await requests_at(wx, before + 1)
    await auth.close()
    await reset
    wx.latency = 0
    async with make(tokens=tokens) as successor:
        assert await successor.check_session_key(token) is True
