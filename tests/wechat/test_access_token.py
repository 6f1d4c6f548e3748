"""The app's own access token: fetched once for all processes, and renewed in time."""

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from mpauthx_async import (
    AppAccessToken,
    ClosedError,
    ConfigurationError,
    Connections,
    HTTPStatusError,
    InvalidResponseError,
    KeyValueStore,
    MPAuthX,
    RedisTokenStore,
    StoreError,
    WeChatAPIError,
    WeChatSimulator,
)
from mpauthx_async.concurrency.deadlines import one_call
from mpauthx_async.simulator import Fault
from mpauthx_async.stores import open_key_value_store
from mpauthx_async.tokens.sealing import RecordSealer
from mpauthx_async.wechat.transport import waiting_for_wechat
from tests.helpers.clock import Clock
from tests.helpers.exchanges import errcode_of
from tests.helpers.line_process import LineProcess
from tests.helpers.logins import requests_at, requests_to
from tests.helpers.memory_stores import MemoryTokens, MemoryUsers
from tests.helpers.near_services import Make
from tests.helpers.outages import all_fail
from tests.helpers.redis_server import RedisServer
from tests.helpers.scripted_server import Answer, Server, refused
from tests.helpers.secret_search import everything_told
from tests.helpers.service_calls import outcomes

STABLE_TOKEN = "/cgi-bin/stable_token"
PHONE = "/wxa/business/getuserphonenumber"
PROCESSES = 4
CALLERS = 5  # in each process
SEALER = RecordSealer(b"mpauthx access", app_id="wx0", keys=["a-signing-key-of-ours"])


@pytest.fixture
async def auth(make: Make, tokens: str, clock: Clock) -> AsyncIterator[MPAuthX]:
    async with make(tokens=tokens, clock=clock) as service:
        yield service


@pytest.fixture
async def records(tokens: str, redis: Redis, clock: Clock) -> AsyncIterator[KeyValueStore]:
    async with Connections() as connections:
        opened = open_key_value_store(tokens, connections, clock)
        yield opened
        await opened.close()


def fetches(wx: WeChatSimulator) -> int:
    return len(requests_to(wx, STABLE_TOKEN))


def sealer(wx: WeChatSimulator) -> RecordSealer:
    """What the service seals the app's access token with."""
    return RecordSealer(b"mpauthx access", app_id=wx.app_id, keys=[wx.app_secret])


def phone_code(wx: WeChatSimulator) -> str:
    wx.login("bob")
    return wx.get_phone_number("bob").code


class Fetches:
    """Gives token-1, token-2, …, as WeChat would: the same one until a refresh is forced."""

    def __init__(self, expires_in: int = 7200) -> None:
        self.expires_in = expires_in
        self.asked: list[bool] = []
        self.current = 1
        self.came = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, force: bool) -> tuple[str, int]:
        self.asked.append(force)
        self.came.set()
        await self.gate.wait()
        self.current += force
        return f"token-{self.current}", self.expires_in


@pytest.fixture
def fetch() -> Fetches:
    return Fetches()


@pytest.fixture
async def access(
    fetch: Fetches, records: KeyValueStore, clock: Clock
) -> AsyncIterator[AppAccessToken]:
    access = AppAccessToken(fetch, records, "access_token|wx0", SEALER, clock)
    yield access
    await access.close()


# One token for all


async def test_many_calls_get_one_token_for_one_request(auth: MPAuthX, wx: WeChatSimulator) -> None:
    found = await asyncio.gather(*(auth.access_token() for _ in range(100)))
    assert len(set(found)) == 1
    assert await auth.access_token() == found[0]
    assert fetches(wx) == 1


async def test_services_on_one_store_share_the_token(
    make: Make, auth: MPAuthX, tokens: str, clock: Clock, wx: WeChatSimulator
) -> None:
    async with make(tokens=tokens, clock=clock, sku="debug") as other:
        first, second = await asyncio.gather(auth.access_token(), other.access_token())
    assert first == second
    async with make(tokens=tokens, clock=clock) as later:
        assert await later.access_token() == first
    assert fetches(wx) == 1


_PROCESS = f"""
import asyncio, sys
from mpauthx_async import MPAuthX

async def main(app_id, app_secret, wechat, users, tokens, now):
    async with MPAuthX(
        app_id=app_id, app_secret=app_secret, sku="shop", users=users, tokens=tokens,
        api_base=wechat, clock=lambda: float(now),
    ) as auth:
        print("ready", flush=True)
        for line in sys.stdin:
            found = await asyncio.gather(*(auth.access_token() for _ in range({CALLERS})))
            print(*sorted(set(found)), flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_many_processes_make_one_request(
    wx: WeChatSimulator, tokens: str, clock: Clock, redis: Redis, tmp_path: Path
) -> None:
    users = f"sqlite:///{tmp_path}/users.db"
    arguments = wx.app_id, wx.app_secret, wx.url, users, tokens, str(clock.now)
    async with AsyncExitStack() as stack:
        processes = [
            await stack.enter_async_context(LineProcess("-c", _PROCESS, *arguments))
            for _ in range(PROCESSES)
        ]
        assert [await each.read() for each in processes] == ["ready"] * PROCESSES
        wx.latency = 0.3  # so that all of them miss it before the first has it
        answers = await asyncio.gather(*(each.ask("go") for each in processes))
    assert len(set(answers)) == 1
    assert len(answers[0].split()) == 1
    assert fetches(wx) == 1


# Renewal


async def test_the_token_is_renewed_a_little_before_its_end_while_the_old_one_works(
    auth: MPAuthX, wx: WeChatSimulator, clock: Clock
) -> None:
    old = await auth.access_token()
    clock.now += 7200 - 241
    assert await auth.access_token() == old
    clock.now += 1
    new = await auth.access_token()
    assert new != old
    assert fetches(wx) == 2
    for access_token in (old, new):
        assert await auth._api.get_phone_number(phone_code(wx), access_token)
    clock.now += 7200 - 241
    assert await auth.access_token() == new


@pytest.mark.parametrize(("expires_in", "good_for"), [(7200, 6960), (481, 241), (480, 240), (9, 4)])
async def test_a_token_fetched_elsewhere_is_used_for_its_remaining_lifetime(
    access: AppAccessToken, fetch: Fetches, clock: Clock, expires_in: int, good_for: int
) -> None:
    fetch.expires_in = expires_in
    await access.get()
    clock.now += good_for - 1
    await access.get()
    assert fetch.asked == [False]
    clock.now += 1
    await access.get()
    assert fetch.asked == [False, False]


@pytest.mark.parametrize("expires_in", [0, 1, -5])
async def test_a_token_that_ends_at_once_is_given_and_not_kept(
    access: AppAccessToken, fetch: Fetches, clock: Clock, expires_in: int
) -> None:
    fetch.expires_in = expires_in
    assert await access.get() == await access.get() == "token-1"
    assert fetch.asked == [False, False]


async def test_the_wait_for_a_token_counts_as_waiting_for_wechat(
    fetch: Fetches, records: KeyValueStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, ahead = time.monotonic, 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now() + ahead)

    async def slow(force: bool) -> tuple[str, int]:
        nonlocal ahead
        ahead += 7
        return await fetch(force)

    async def ask(access_token: str) -> float:
        with waiting_for_wechat() as left:
            return left

    access = AppAccessToken(slow, records, "access_token|wx0", SEALER, clock)
    with one_call():
        assert 0 < await access.call(ask) <= 3
    with one_call():
        assert await access.call(ask) == 10  # the token is known now
    await access.close()


# When WeChat refuses it


async def test_a_refused_token_is_replaced_once_for_all_and_the_calls_repeated(
    auth: MPAuthX, wx: WeChatSimulator
) -> None:
    old = await auth.access_token()
    codes = [phone_code(wx) for _ in range(20)]
    wx.expire_access_tokens()
    numbers = await asyncio.gather(*map(auth.get_phone_number, codes))
    assert {number.phone_number for number in numbers} == {"13800138000"}
    assert fetches(wx) == 2
    assert len(requests_to(wx, PHONE)) == 40
    assert await auth.access_token() != old


async def test_another_process_has_the_token_that_this_one_lacks(
    make: Make, auth: MPAuthX, tokens: str, clock: Clock, wx: WeChatSimulator
) -> None:
    async with make(tokens=tokens, clock=clock) as other:
        await auth.access_token()
        await other.access_token()
        wx.expire_access_tokens()
        await other.get_phone_number(phone_code(wx))
        assert fetches(wx) == 2
        await auth.get_phone_number(phone_code(wx))
        assert fetches(wx) == 2


@pytest.mark.parametrize("errcode", [40001, 40014, 42001])
async def test_a_token_that_wechat_goes_on_refusing_ends_in_its_error(
    access: AppAccessToken, fetch: Fetches, errcode: int
) -> None:
    asked: list[str] = []

    async def ask(access_token: str) -> None:
        asked.append(access_token)
        raise WeChatAPIError(errcode, "still not")

    assert await errcode_of(access.call(ask)) == errcode
    assert asked == ["token-1", "token-2"]
    assert fetch.asked == [False, False, True]


@pytest.mark.parametrize("errcode", [40029, 40013, 48001, 45011, 41001])
async def test_any_other_refusal_is_not_repeated(
    access: AppAccessToken, fetch: Fetches, errcode: int
) -> None:
    async def ask(access_token: str) -> None:
        raise WeChatAPIError(errcode, "no")

    with pytest.raises(WeChatAPIError):
        await access.call(ask)
    assert fetch.asked == [False]


async def test_a_token_that_is_refused_for_good_does_not_use_up_the_days_forced_refreshes(
    access: AppAccessToken, fetch: Fetches, clock: Clock
) -> None:
    refused = await access.get()
    for _ in range(25):
        refused = await access.get(refused=refused)
    assert fetch.asked.count(True) == 1
    clock.now += 7200
    await access.get(refused=refused)
    assert fetch.asked.count(True) == 2


async def test_a_refused_token_that_wechat_gives_again_is_refreshed_by_force_once(
    access: AppAccessToken, fetch: Fetches
) -> None:
    assert await access.get() == "token-1"
    assert await access.get(refused="token-1") == "token-2"
    assert await access.get() == "token-2"
    found = await asyncio.gather(*(access.get(refused="token-1") for _ in range(10)))
    assert set(found) == {"token-2"}
    assert fetch.asked == [False, False, True]


async def test_two_concurrent_fetches_end_with_the_same_token(
    access: AppAccessToken, records: KeyValueStore, fetch: Fetches, clock: Clock
) -> None:
    text = json.dumps(["token-1", int(clock.now + 60) * 1000])
    await records.save("access_token|wx0", SEALER.seal("access_token|wx0", text), 60)
    fetch.gate.clear()
    refused = [asyncio.ensure_future(access.get(refused="token-1")) for _ in range(3)]
    await fetch.came.wait()
    older = [asyncio.ensure_future(access.get(refused="token-0")) for _ in range(3)]
    assert set(await asyncio.gather(*older)) == {"token-1"}  # as far as anybody knows
    fetch.gate.set()
    assert set(await asyncio.gather(*refused)) == {"token-2"}
    assert await access.get() == "token-2"
    assert fetch.asked == [False, True]


# KeyValueStore


@pytest.mark.parametrize("tokens", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "text",
    [
        *(None, "", "garbage", "[", "5", "null", "[]", '["a"]', '"ab"', "[1, 2]", '["a", "b"]'),
        *('["a", null]', '["a", 1e400]', '["a", Infinity]', '["a", 4102444800000.5]'),
        *('["", 4102444800000]', '["a b\\n", 4102444800000]', '["\\ud800", 4102444800000]'),
        *('[["a"], 4102444800000]', '{"a": 1, "b": 2}', "[" * 100_000, '["a", ' + "9" * 5000 + "]"),
    ],
)
async def test_a_damaged_record_is_fetched_anew_with_a_warning(
    auth: MPAuthX,
    wx: WeChatSimulator,
    records: KeyValueStore,
    caplog: pytest.LogCaptureFixture,
    text: str | None,
) -> None:
    key = f"access_token|{wx.app_id}"
    stored = '["a", 4102444800000]' if text is None else sealer(wx).seal(key, text)
    await records.save(key, stored, 600)
    assert await auth._api.get_phone_number(phone_code(wx), await auth.access_token())
    assert fetches(wx) == 1
    assert f"{key!r} with the app's access token cannot be decrypted" in caplog.text


async def test_bytes_that_are_no_text_are_damage_too(
    auth: MPAuthX, wx: WeChatSimulator, tokens: str, redis: Redis, tmp_path: Path
) -> None:
    key = f"access_token|{wx.app_id}"
    await auth.access_token()
    if tokens.startswith("redis"):
        await redis.set(f"mpauthx:r:{{{key}}}", b"\xff\xfe")
    else:
        with closing(sqlite3.connect(tmp_path / "tokens.db")) as connection, connection:
            connection.execute("UPDATE mpauthx_record SET text = CAST(x'fffe' AS TEXT)")
    assert await auth._access_token.get(refused="some other") != ""  # from memory
    wx.expire_access_tokens()
    assert await auth.get_phone_number(phone_code(wx))
    assert fetches(wx) == 2


async def test_a_record_that_has_ended_is_fetched_anew(
    auth: MPAuthX, wx: WeChatSimulator, records: KeyValueStore, clock: Clock
) -> None:
    key = f"access_token|{wx.app_id}"
    for until, expected in ((clock.now + 1, True), (clock.now, False)):
        text = json.dumps(["old", int(until * 1000)])
        await records.save(key, sealer(wx).seal(key, text), 600)
        assert ((await auth._access_token._read()) is not None) is expected
    assert await auth.access_token() != "old"


async def test_a_token_is_kept_sealed_and_opens_for_its_own_app_alone(
    make: Make,
    auth: MPAuthX,
    wx: WeChatSimulator,
    records: KeyValueStore,
    tokens: str,
    clock: Clock,
) -> None:
    known = await auth.access_token()
    record = await records.get(f"access_token|{wx.app_id}") or ""
    assert known not in record
    assert (opened := sealer(wx).open(f"access_token|{wx.app_id}", record)) is not None
    assert json.loads(opened)[0] == known
    await records.save("access_token|wx0", record, 600)
    async with (
        WeChatSimulator(app_id="wx0", clock=clock) as other_wx,
        make(tokens=tokens, app_id="wx0", api_base=other_wx.url, clock=clock) as other,
    ):
        assert await other.access_token() != known
        assert fetches(other_wx) == 1


async def test_after_a_change_of_the_secret_a_token_is_fetched_unless_the_old_is_listed(
    make: Make, auth: MPAuthX, wx: WeChatSimulator, tokens: str, clock: Clock
) -> None:
    known = await auth.access_token()
    old, new = wx.app_secret, "a-new-secret-of-the-app"
    wx.app_secret = new
    async with (
        make(tokens=tokens, clock=clock, app_secret=new, signing_keys=[old, new]) as listed,
        make(tokens=tokens, clock=clock, app_secret=new) as changed,
    ):
        assert await listed.access_token() == known
        assert fetches(wx) == 1
        assert await changed.access_token()
        assert fetches(wx) == 2


# Failures


async def test_a_store_that_is_down_raises(make: Make, wx: WeChatSimulator, clock: Clock) -> None:
    with RedisServer() as server:
        async with make(tokens=server.url, clock=clock) as auth:
            server.stop()
            await all_fail(auth.access_token() for _ in range(5))
            assert fetches(wx) == 0
            server.start()
            known = await auth.access_token()
            server.stop()
            assert await auth.access_token() == known  # nobody has to be asked
            clock.now += 7200
            with pytest.raises(StoreError):
                await auth.access_token()


async def test_wechats_failure_goes_to_all_and_the_next_call_asks_again(
    auth: MPAuthX, wx: WeChatSimulator
) -> None:
    wx.fail_next(Fault.HTTP_500)
    assert await outcomes([auth.access_token() for _ in range(10)]) == [HTTPStatusError] * 10
    assert fetches(wx) == 1
    assert await auth.access_token()


async def test_a_failed_renewal_keeps_the_old_token_while_it_is_valid(
    auth: MPAuthX, wx: WeChatSimulator, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    old = await auth.access_token()
    clock.now += 7200 - 200
    wx.fail_next(Fault.HTTP_500)
    assert await auth.access_token() == old
    assert "HTTP status 500" in caplog.text
    assert await auth.access_token() != old
    clock.now += 7200
    wx.fail_next(Fault.HTTP_500)
    with pytest.raises(HTTPStatusError):
        await auth.access_token()


async def test_a_wrong_secret_reaches_the_caller(make: Make, tokens: str, redis: Redis) -> None:
    async with make(tokens=tokens, app_secret="a-wrong-secret-of-ours") as auth:
        assert await errcode_of(auth.access_token()) == 40125


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"access_token": "a"},
        {"expires_in": 7200},
        *({"access_token": wrong, "expires_in": 7200} for wrong in ("", 5, "a\nb")),
        *({"access_token": "a", "expires_in": wrong} for wrong in ("7200", True)),
    ],
)
async def test_rejects_an_answer_without_a_token(
    make: Make, tokens: str, fields: dict[str, Any]
) -> None:
    answer = Answer(json.dumps(fields))
    async with Server(answer) as server, make(tokens=tokens, api_base=server.url) as auth:
        with pytest.raises(InvalidResponseError):
            await auth.access_token()


# Cancelling and closing


async def test_the_token_is_kept_even_if_all_callers_are_cancelled(
    access: AppAccessToken, fetch: Fetches
) -> None:
    fetch.gate.clear()
    callers = [asyncio.create_task(access.get()) for _ in range(3)]
    await fetch.came.wait()
    for caller in callers:
        caller.cancel()
    await asyncio.wait(callers)
    late = asyncio.create_task(access.get())
    await asyncio.sleep(0)
    fetch.gate.set()
    assert await late == "token-1"
    assert fetch.asked == [False]


async def test_close_lets_a_fetch_finish_and_takes_no_more(
    make: Make, tokens: str, clock: Clock, wx: WeChatSimulator
) -> None:
    wx.latency = 0.2
    auth = make(tokens=tokens, clock=clock)
    caller = asyncio.create_task(auth.access_token())
    await requests_at(wx, 1)
    closing_ = asyncio.create_task(auth.close())
    await asyncio.sleep(0)
    with pytest.raises(ClosedError):
        await auth.access_token()
    assert await caller
    await closing_
    await auth.close()


# Where there is no place to share it


async def test_a_custom_token_store_without_redis_cannot_keep_the_access_token(
    make: Make, wx: WeChatSimulator
) -> None:
    async with make(users=MemoryUsers(), tokens=MemoryTokens()) as auth:
        for call in (auth.access_token(), auth.get_phone_number("code")):
            with pytest.raises(ConfigurationError, match="`connections` with a Redis"):
                await call
        assert (await auth.authorize(wx.login("bob"))).response


async def test_a_custom_token_store_with_redis_connections_keeps_the_access_token(
    make: Make, wx: WeChatSimulator, redis: Redis, redis_server: RedisServer
) -> None:
    async with Connections(redis_server.url) as connections:
        for store in (MemoryTokens(), RedisTokenStore(connections)):
            async with make(tokens=store, connections=connections) as auth:
                assert (await auth.get_phone_number(phone_code(wx))).country_code == "86"
    assert fetches(wx) == 1


# Secrets


async def test_a_token_in_an_errmsg_is_redacted(make: Make, tokens: str, redis: Redis) -> None:
    given = Answer('{"access_token": "GEHEIM-1", "expires_in": 7200}')
    no = refused(48001, "not for GEHEIM-1")
    async with Server(given, no) as server, make(tokens=tokens, api_base=server.url) as auth:
        with pytest.raises(WeChatAPIError) as caught:
            await auth.get_phone_number("code")
    assert "GEHEIM" not in everything_told(caught.value)
