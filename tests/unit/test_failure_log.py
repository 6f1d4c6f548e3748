"""The log of failures that are not the client's: what it says, and how often."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from mpauthx_async import (
    MPAuthX,
    PartialStoreError,
    SessionRef,
    StoreError,
    User,
    WeChatAPIError,
    WeChatSimulator,
)
from mpauthx_async.failure_log import OncePerSecond, failures
from mpauthx_async.simulator import Fault
from tests.helpers.clock import Clock
from tests.helpers.memory_stores import MemoryTokens, MemoryUsers
from tests.helpers.scripted_server import Answer, Server
from tests.helpers.service_calls import log_in

Make = Callable[..., MPAuthX]


@pytest.fixture
def now(caplog: pytest.LogCaptureFixture) -> Iterator[Clock]:
    """The clock of the log, whose lines of other tests are forgotten."""
    clock = Clock()
    others, failures.filters[:] = list(failures.filters), [OncePerSecond(lambda: clock.now)]
    with caplog.at_level(logging.WARNING, failures.name):
        yield clock
    failures.filters[:] = others


class Broken(MemoryTokens):
    """A store that says itself that it cannot answer."""

    async def lookup(self, refs: Sequence[SessionRef]) -> Sequence[int | None]:
        raise StoreError("The disk of tokens is gone.")


class HalfBroken(MemoryUsers):
    """A store that cannot save users whose ids begin with x."""

    async def save(self, users: Sequence[User]) -> Sequence[bool]:
        lost = StoreError("The partition x is gone.")
        saved = iter(await super().save([user for user in users if user.open_id[0] != "x"]))
        raise PartialStoreError([lost if user.open_id[0] == "x" else next(saved) for user in users])


class Hanging(MemoryTokens):
    """A store that does not answer until it is told to."""

    longest_wait = 0.1

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()

    async def lookup(self, refs: Sequence[SessionRef]) -> Sequence[int | None]:
        await self.gate.wait()
        return await super().lookup(refs)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.name == failures.name]


async def test_a_wrong_secret_is_logged_with_its_hint(
    make: Make, wx: WeChatSimulator, now: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "f" * 32
    async with make(app_secret=secret) as auth:
        with pytest.raises(WeChatAPIError):
            await auth.authorize(wx.login("bob"))
    (line,) = lines(caplog)
    assert "errcode 40125" in line
    assert "Check app_secret" in line
    assert secret not in line


async def test_the_password_of_a_gateway_is_not_logged(
    make: Make, wx: WeChatSimulator, now: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = wx.url.replace("://", "://shop:gateway-password@")
    async with make(app_secret="f" * 32, api_base=gateway) as auth:
        with pytest.raises(WeChatAPIError):
            await auth.authorize(wx.login("bob"))
    (line,) = lines(caplog)
    assert line.startswith(f"{wx.url}: ")
    assert "gateway-password" not in caplog.text


async def test_what_a_client_does_wrong_is_not_logged(
    make: Make, now: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with make() as auth:
        with pytest.raises(WeChatAPIError):
            await auth.authorize("unknown")
    assert lines(caplog) == []


async def test_a_store_that_fails_is_logged_once_a_second_with_a_count(
    make: Make, wx: WeChatSimulator, now: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with make(tokens=Broken()) as auth:
        token = (await log_in(auth, wx)).token
        for _ in range(5):
            with pytest.raises(StoreError):
                await auth.is_token_valid(token)
        now.now += 1
        with pytest.raises(StoreError):
            await auth.is_token_valid(token)
    assert lines(caplog) == [
        "The disk of tokens is gone.",
        "The disk of tokens is gone. (4 more like it since the last line)",
    ]


async def test_a_store_of_ours_is_logged_by_each_kind(
    make: Make, now: Clock, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    missing = tmp_path / "missing"
    async with make(
        users=f"sqlite:///{missing}/users.db", tokens=f"sqlite:///{missing}/tokens.db"
    ) as auth:
        for _ in range(3):
            with pytest.raises(StoreError):
                await auth.refresh_token("bob")
        with pytest.raises(StoreError):
            await auth.online_count()
    told = lines(caplog)
    assert ["users.db" in line for line in told] == [True, False]
    assert ["tokens.db" in line for line in told] == [False, True]


async def test_a_busy_wechat_is_logged(
    make: Make, wx: WeChatSimulator, now: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    wx.fail_next(Fault.SYSTEM_BUSY, 3)
    async with make() as auth:
        with pytest.raises(WeChatAPIError):
            await log_in(auth, wx)
        now.now += 1
        wx.fail_next(Fault.SYSTEM_BUSY)
        await log_in(auth, wx)
    first, second = lines(caplog)
    assert "errcode -1" in first
    assert second.endswith("(2 more like it since the last line)")


async def test_a_stale_token_that_a_new_one_cures_is_not_logged(
    make: Make, wx: WeChatSimulator, now: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with make() as auth:
        token = (await log_in(auth, wx)).token
        for call in (
            lambda: auth.get_phone_number(wx.get_phone_number("bob").code),
            lambda: auth.check_session_key(token),
            lambda: auth.user_encrypt_keys(token),
            lambda: auth.reset_session_key(token),
        ):
            await auth.access_token()
            wx.expire_access_tokens()
            await call()
    assert lines(caplog) == []


@pytest.mark.parametrize("errcode", [40001, 40014, 42001])
async def test_a_stale_token_that_no_new_one_cures_is_logged_once(
    make: Make, now: Clock, caplog: pytest.LogCaptureFixture, errcode: int
) -> None:
    fetched = Answer('{"access_token": "access", "expires_in": 7200}')
    refused = Answer(f'{{"errcode": {errcode}, "errmsg": "invalid credential"}}')
    async with (
        Server(fetched, refused, fetched, fetched, refused) as server,
        make(api_base=server.url) as auth,
    ):
        with pytest.raises(WeChatAPIError):
            await auth.get_phone_number("code")
        paths = [request.split()[1].partition("?")[0] for request in server.requests]
    assert paths.count("/wxa/business/getuserphonenumber") == 2
    (line,) = lines(caplog)
    assert f"errcode {errcode}" in line


async def test_a_failure_to_renew_a_stale_token_is_logged(
    make: Make, now: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    fetched = Answer('{"access_token": "access", "expires_in": 7200}')
    refused = Answer('{"errcode": 40001, "errmsg": "invalid credential"}')
    async with Server(fetched, refused) as server, make(api_base=server.url) as auth:
        with pytest.raises(WeChatAPIError):
            await auth.get_phone_number("code")
    (line,) = lines(caplog)
    assert "Check app_secret" in line


async def test_a_batch_that_fails_in_part_is_logged_by_its_failures(
    make: Make, wx: WeChatSimulator, now: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    async with make(users=HalfBroken(), tokens=MemoryTokens()) as auth:
        for failing in (1, 2, 3):
            names = [f"{failing}a", *(f"x{number}" for number in range(failing))]
            results = await asyncio.gather(
                *(log_in(auth, wx, name) for name in names), return_exceptions=True
            )
            assert [isinstance(one, StoreError) for one in results] == [False] + failing * [True]
        now.now += 1
        with pytest.raises(StoreError):
            await log_in(auth, wx, "x")
    first, second = lines(caplog)
    assert first == "The partition x is gone."
    assert second.startswith("The partition x is gone. (")


async def test_a_store_that_hangs_is_logged(
    make: Make, wx: WeChatSimulator, now: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = Hanging()
    async with make(users=MemoryUsers(), tokens=tokens) as auth:
        token = (await log_in(auth, wx)).token
        with pytest.raises(StoreError):
            await auth.is_token_valid(token)
        tokens.gate.set()
    (line,) = lines(caplog)
    assert "did not answer in time" in line


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("x", logging.WARNING, "", 0, text, None, None)


def test_kinds_do_not_grow_without_end() -> None:
    clock = Clock()
    limit = OncePerSecond(lambda: clock.now)
    for number in range(5_000):
        assert limit.filter(record(f"kind {number}"))
        clock.now += 1
    assert len(limit._last) <= 1_000


def test_many_kinds_do_not_lose_the_count_of_another() -> None:
    clock = Clock()
    limit = OncePerSecond(lambda: clock.now)
    assert limit.filter(record("the first"))
    assert not limit.filter(record("the first"))
    for number in range(1_500):
        limit.filter(record(f"kind {number}"))
    clock.now += 1
    told = record("the first")
    assert limit.filter(told)
    assert told.getMessage() == "the first (1 more like it since the last line)"
