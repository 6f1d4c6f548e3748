"""What a caller waits at worst, over all trips, attempts and hosts."""

import asyncio
import gzip
import json
import time
import zlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import aiohttp
import pytest

from mpauthx_async import (
    ConnectionFailedError,
    InvalidResponseError,
    MPAuthX,
    RedisTokenStore,
    SessionRef,
    StoreError,
    Subject,
    WeChatSimulator,
    WeChatUnavailableError,
)
from mpauthx_async.concurrency import deadlines
from mpauthx_async.concurrency.coalescer import Coalescer
from mpauthx_async.concurrency.deadlines import one_call, trip
from mpauthx_async.wechat import transport
from tests.helpers.logins import Gated
from tests.helpers.memory_stores import MemoryTokens, MemoryUsers
from tests.helpers.outages import turns
from tests.helpers.redis_server import RedisServer
from tests.helpers.scripted_server import (
    SESSION_KEY,
    Act,
    Answer,
    Resolver,
    Server,
    asking,
    refused,
    success,
)
from tests.helpers.service_calls import log_in

Make = Callable[..., MPAuthX]


class SpentTime:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(deadlines.time, "monotonic", lambda: self.now)

    def spend(self, seconds: float, system: str = "Redis") -> float:
        """Make a trip that takes so long; returns how many seconds were left for it."""
        with trip(system, 5) as left:
            self.now += seconds
        return left


class TestOneCall:
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> SpentTime:
        return SpentTime(monkeypatch)

    def test_trips_of_a_call_share_a_deadline_for_each_system(self, clock: SpentTime) -> None:
        with one_call():
            assert [clock.spend(2) for _ in range(4)] == [5, 3, 1, 0]
            assert clock.spend(1, "SQLite") == 5

    def test_each_call_has_its_own_deadline(self, clock: SpentTime) -> None:
        for _ in range(2):
            with one_call():
                assert clock.spend(4) == 5

    def test_a_nested_call_shares_the_deadline(self, clock: SpentTime) -> None:
        with one_call():
            clock.spend(4)
            with one_call():
                assert clock.spend(0) == 1

    def test_concurrent_trips_count_once(self, clock: SpentTime) -> None:
        with one_call():
            with trip("Redis", 5), trip("Redis", 5):
                clock.now += 2
            assert clock.spend(0) == 3

    async def test_a_task_that_outlives_its_call_has_no_deadline(self, clock: SpentTime) -> None:
        is_over = asyncio.Event()

        async def go_on() -> list[float]:
            during = clock.spend(1)
            await is_over.wait()
            with one_call():
                first = clock.spend(5)
            return [during, first, clock.spend(5), clock.spend(5)]

        with one_call():
            clock.spend(3)
            task = asyncio.create_task(go_on())
            await asyncio.sleep(0)
            clock.spend(1)
        is_over.set()
        assert await task == [2, 5, 5, 5]

    def test_trips_outside_a_call_share_no_deadline(self, clock: SpentTime) -> None:
        assert [clock.spend(5) for _ in range(2)] == [5, 5]


class Late:
    """How many seconds the event loop's clock is ahead."""

    seconds = 0.0


@pytest.fixture
async def late(monkeypatch: pytest.MonkeyPatch) -> Late:
    loop, ahead = asyncio.get_running_loop(), Late()
    time = loop.time
    monkeypatch.setattr(loop, "time", lambda: time() + ahead.seconds)
    return ahead


class Held:
    """Trips that answer with what was asked, once the gate is open."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.gate = asyncio.Event()

    async def run(self, items: Sequence[int]) -> Sequence[int]:
        self.asked.append(list(items))
        await self.gate.wait()
        return items


class TestCoalescer:
    async def test_no_caller_waits_longer_than_longest_wait(self, late: Late) -> None:
        trips = Held()
        calls: Coalescer[int, int] = Coalescer(trips.run, max_in_flight=1, longest_wait=1000)
        first = calls.submit(1)
        await turns(10)
        waiting = calls.submit(2)
        for seconds in (500, 1000, 1500):
            late.seconds = seconds
            await turns(10)
        for call in (first, waiting):
            with pytest.raises(StoreError, match="did not answer in time"):
                await call
        trips.gate.set()
        assert await calls.submit(3) == 3
        assert trips.asked == [[1], [3]]  # what was given up before it began was not asked
        await calls.close()

    async def test_a_caller_who_came_later_waits_on(self, late: Late) -> None:
        trips = Held()
        calls: Coalescer[int, int] = Coalescer(trips.run, max_in_flight=1, longest_wait=1000)
        first = calls.submit(1)
        await turns(10)
        late.seconds = 600
        await turns(10)
        second = calls.submit(2)
        late.seconds = 1200
        with pytest.raises(StoreError):
            await first
        assert not second.done()
        trips.gate.set()
        assert await second == 2
        await calls.close()


@pytest.mark.parametrize("is_refresh", [False, True], ids=["login", "refresh"])
async def test_a_session_that_is_given_up_leaves_no_token(
    make: Make, wx: WeChatSimulator, is_refresh: bool
) -> None:
    tokens, users = Gated(MemoryTokens(), "issue"), MemoryUsers()
    tokens.longest_wait = users.longest_wait = 0.1  # seconds
    async with make(users=users, tokens=tokens) as auth:
        if is_refresh:
            tokens.gate.set()
            await log_in(auth, wx)
            tokens.gate.clear()
        with pytest.raises(StoreError, match="did not answer in time"):
            await (auth.refresh_token("bob") if is_refresh else log_in(auth, wx))
        tokens.gate.set()
    assert await tokens.sessions(Subject("shop", "bob")) == []


class TestWeChat:
    async def test_without_time_nothing_is_sent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(transport, "MAX_WAIT_SECONDS", 0)
        async with Server(success()) as server, asking(server.url) as wechat:
            with pytest.raises(ConnectionFailedError) as caught:
                await wechat.code_to_session("code")
        assert (caught.value.sent, caught.value.retryable) == (False, True)
        assert server.requests == []

    async def test_hosts_that_hang_share_the_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(transport, "MAX_WAIT_SECONDS", 1)
        async with Server(Act.HANG) as server, asking(server.url, server.url) as wechat:
            with pytest.raises(ConnectionFailedError) as caught:
                await wechat.code_to_session("code")
        assert (caught.value.sent, caught.value.retryable) == (True, False)
        assert len(server.requests) == 1

    async def test_a_host_that_cannot_be_reached_leaves_time_for_the_next(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(transport, "MAX_WAIT_SECONDS", 2)
        connector = aiohttp.TCPConnector(resolver=Resolver(forever=True))
        timeout = aiohttp.ClientTimeout(connect=0.9)  # three of these are too long
        async with (
            Server(success()) as server,
            aiohttp.ClientSession(connector=connector, timeout=timeout) as http,
            asking("http://weixin.invalid", server.url, http=http) as wechat,
        ):
            assert (await wechat.code_to_session("code")).open_id == "bob"

    async def test_a_time_that_ends_while_connecting_has_not_consumed_the_code(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(transport, "MAX_WAIT_SECONDS", 1)
        connector = aiohttp.TCPConnector(resolver=Resolver(forever=True))
        async with (
            aiohttp.ClientSession(connector=connector) as http,
            asking("http://weixin.invalid", http=http) as wechat,
        ):
            with pytest.raises(ConnectionFailedError) as caught:
                await wechat.code_to_session("code")
        assert (caught.value.sent, caught.value.retryable) == (False, True)

    async def test_retries_happen_only_in_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(transport, "MAX_WAIT_SECONDS", 1)
        monkeypatch.setattr(transport.random, "uniform", lambda *_: 1.1)
        async with Server(refused(-1)) as server, asking(server.url) as wechat:
            with pytest.raises(WeChatUnavailableError):
                await wechat.code_to_session("code")
        assert len(server.requests) == 1

    async def test_requests_of_a_call_share_the_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(transport, "MAX_WAIT_SECONDS", 1)
        async with Server(Act.HANG) as server, asking(server.url) as wechat:
            with one_call():
                for _ in range(3):
                    with pytest.raises(ConnectionFailedError):
                        await wechat.code_to_session("code")
        assert len(server.requests) == 1


LONG = json.dumps({"openid": "bob", "session_key": SESSION_KEY, "nickname": "x" * 2**20})


class TestLongAnswers:
    @pytest.mark.parametrize(
        ("body", "encoding"),
        [
            (LONG.encode(), ""),
            (gzip.compress(LONG.encode()), "Content-Encoding: gzip\r\n"),
            (zlib.compress(LONG.encode()), "Content-Encoding: deflate\r\n"),
            (gzip.compress(b"[" * 2**26), "Content-Encoding: gzip\r\n"),
            (b"{}", "Content-Encoding: br\r\n"),
        ],
        ids=["plain", "gzip", "deflate", "bomb", "unknown"],
    )
    async def test_answers_longer_than_1_mib_are_refused(self, body: bytes, encoding: str) -> None:
        async with Server(Answer(body, headers=encoding)) as server, asking(server.url) as wechat:
            with pytest.raises(InvalidResponseError, match="longer than 1 MiB"):
                await wechat.code_to_session("code")

    async def test_compressed_answers_are_read(self) -> None:
        body = gzip.compress(str(success().body).encode())
        answer = Answer(body, headers="Content-Encoding: gzip\r\n")
        async with Server(answer) as server, asking(server.url) as wechat:
            assert (await wechat.code_to_session("code")).open_id == "bob"
        (head,) = server.requests
        assert "accept-encoding: gzip\r\n" in head.lower()  # whatever else is installed


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch) -> Late:
    """Sets all clocks ahead, the event loop's too."""
    ahead, now = Late(), time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + ahead.seconds)
    return ahead


class SlowOnce(RedisTokenStore):
    """A store on Redis: once armed, the next lookup takes four seconds, and then Redis hangs."""

    def __init__(self, server: RedisServer, ahead: Late) -> None:
        super().__init__(server.url)
        self.is_armed = False
        self.hangs = asyncio.Event()
        self._server = server
        self._ahead = ahead

    async def lookup(self, refs: Sequence[SessionRef]) -> Sequence[int | None]:
        ends = await super().lookup(refs)
        if self.is_armed:
            self.is_armed = False
            self._ahead.seconds += 4
            self._server.pause()
            self.hangs.set()
        return ends


async def a_good_token(auth: MPAuthX, wx: WeChatSimulator) -> str:
    return (await log_in(auth, wx)).token


async def a_rotated_token(auth: MPAuthX, wx: WeChatSimulator) -> str:
    token = await a_good_token(auth, wx)
    await auth.rotate(token)
    return token


@pytest.mark.parametrize(
    ("token_of", "call"),
    [
        (a_good_token, lambda auth, token: auth.session(token)),
        (a_good_token, lambda auth, token: auth.decrypt(token, SESSION_KEY, SESSION_KEY)),
        (a_rotated_token, lambda auth, token: auth.is_token_valid(token)),
        (a_rotated_token, lambda auth, token: auth.authenticate(token)),
    ],
    ids=["session", "decrypt", "is_token_valid-reused", "authenticate-reused"],
)
async def test_a_call_that_waits_for_two_batches_has_one_deadline_for_redis(
    make: Make,
    wx: WeChatSimulator,
    server: RedisServer,
    ahead: Late,
    token_of: Callable[[MPAuthX, WeChatSimulator], Awaitable[str]],
    call: Callable[[MPAuthX, str], Coroutine[Any, Any, object]],
) -> None:
    store = SlowOnce(server, ahead)
    async with store, make(tokens=store, users=MemoryUsers(), rotation_grace=0) as auth:
        token = await token_of(auth, wx)
        store.is_armed = True
        waiting = asyncio.create_task(call(auth, token))
        try:
            hangs = asyncio.create_task(store.hangs.wait())
            await asyncio.wait((waiting, hangs), return_when=asyncio.FIRST_COMPLETED)
            assert not waiting.done()
            await turns(20)
            ahead.seconds += 0.5
            await turns(20)
            assert not waiting.done()
            ahead.seconds += 0.5
            with pytest.raises(StoreError, match="did not answer in time"):
                await waiting
        finally:
            server.resume()


async def test_a_cancelled_caller_of_a_second_batch_ends_its_trip() -> None:
    trips = Held()
    calls: Coalescer[int, int] = Coalescer(trips.run, longest_wait=1000, system="Redis")
    with one_call():
        for item in range(2):
            future = calls.submit(item)
            future.cancel()
            await turns(2)
        with trip("Redis", 1000) as first:
            await turns(2)
        with trip("Redis", 1000) as second:
            assert second < first < 1000
    trips.gate.set()
    await calls.close()
