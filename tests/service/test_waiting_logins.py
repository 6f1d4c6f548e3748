"""Logins that wait to begin: how many may be in progress, how many may wait, and for how long."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mpauthx_async import (
    AuthResult,
    MPAuthX,
    OverloadedError,
    StatusCode,
    UnavailableError,
    WeChatSimulator,
)
from mpauthx_async.events import LoginFailed
from tests.helpers.logins import Gate
from tests.helpers.near_services import Make
from tests.helpers.outages import PATIENCE, settled
from tests.helpers.service_calls import hear, narrow_connections, of_kind


@pytest.fixture
def gate(wx: WeChatSimulator) -> Gate:
    return Gate(wx)


Busy = Callable[..., AbstractAsyncContextManager[MPAuthX]]


@pytest.fixture
def busy(make: Make, wx: WeChatSimulator, gate: Gate) -> Busy:
    """Makes services of one connection, which a first login holds until the gate opens."""

    @asynccontextmanager
    async def busy(first: str, **options: Any) -> AsyncIterator[MPAuthX]:
        async with (
            narrow_connections(1) as connections,
            make(exchange=gate.exchange, connections=connections, **options) as auth,
        ):
            begun = start(auth, [first])
            await gate.reached_by(1)
            yield auth
            gate.open()
            await asyncio.gather(*begun)

    return busy


def start(auth: MPAuthX, codes: list[str]) -> list["asyncio.Task[AuthResult]"]:
    return [asyncio.create_task(auth.authorize(code)) for code in codes]


def codes_of(wx: WeChatSimulator, count: int, app: str = "user") -> list[str]:
    return [wx.login(f"{app}-{number}") for number in range(count)]


def sent(wx: WeChatSimulator) -> list[str]:
    return [request.query["js_code"] for request in wx.requests]


# How many are in progress


async def test_more_logins_are_exchanged_at_once_while_wechat_is_slow(
    make: Make, wx: WeChatSimulator, gate: Gate
) -> None:
    async with make(exchange=gate.exchange) as auth:
        logins = start(auth, codes_of(wx, 1100))
        await gate.reached_by(1025)  # four times 256, and then some
        gate.open()
        results = await asyncio.gather(*logins, return_exceptions=True)
    # On a slow machine WeChat does not answer so many in time.
    assert all(isinstance(result, (AuthResult, UnavailableError)) for result in results)


async def test_never_more_logins_are_exchanged_than_the_connections_allow(
    make: Make, wx: WeChatSimulator, gate: Gate
) -> None:
    async with (
        narrow_connections(160) as connections,
        make(exchange=gate.exchange, connections=connections) as auth,
    ):
        logins = start(auth, codes_of(wx, 600))
        await gate.reached_by(140)  # an eighth of the connections is left to other calls
        gate.open()
        await asyncio.gather(*logins)
    assert gate.most == 140


async def test_services_on_the_same_connections_share_the_limit_but_for_eight_logins_each(
    make: Make, wx: WeChatSimulator, gate: Gate
) -> None:
    async with (
        narrow_connections(80) as connections,
        make(exchange=gate.exchange, connections=connections) as shop,
        make(exchange=gate.exchange, connections=connections, sku="blog") as blog,
    ):
        logins = start(shop, codes_of(wx, 100))
        await gate.reached_by(70)
        logins += start(blog, codes_of(wx, 100, "reader"))
        await gate.reached_by(78)
        gate.open()
        results = await asyncio.gather(*logins)
    assert gate.most == 78
    assert len({result.response for result in results}) == 200


_WITH_FEW_DESCRIPTORS = """
import asyncio, json, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
from mpauthx_async import MPAuthX

async def main(settings, codes):
    async with MPAuthX(**settings) as auth:
        results = await asyncio.gather(*map(auth.authorize, codes), return_exceptions=True)
        failures = [repr(result) for result in results if isinstance(result, BaseException)]
        limit = auth._parts.connections.http.connector.limit
        print(json.dumps([limit, len(results), failures[:3]]))

asyncio.run(main(**json.load(sys.stdin)))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no RLIMIT_NOFILE")
async def test_with_1024_descriptors_no_login_fails(wx: WeChatSimulator, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "app_id": wx.app_id,
        "app_secret": wx.app_secret,
        "sku": "shop",
        "users": f"sqlite:///{tmp_path}/users.db",
        "tokens": f"sqlite:///{tmp_path}/tokens.db",
        "api_base": wx.url,
        "login_timeout": PATIENCE,
    }
    wx.latency = 0.5  # until which all connections are taken
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        _WITH_FEW_DESCRIPTORS,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    told = json.dumps({"settings": settings, "codes": codes_of(wx, 1200)}).encode()
    output, _ = await process.communicate(told)
    assert json.loads(output) == [512, 1200, []]


# How long they wait


async def test_a_login_that_cannot_begin_in_time_is_overloaded_and_uses_no_code(
    busy: Busy, wx: WeChatSimulator, gate: Gate
) -> None:
    first, second = codes_of(wx, 2)
    async with busy(first, login_timeout=0.01) as auth:
        with pytest.raises(OverloadedError, match="can send it again") as caught:
            await auth.authorize(second)
        assert caught.value.code == StatusCode.overloaded == 6107
        gate.open()
        assert await auth.is_token_valid((await auth.authorize(first)).response)
        assert sent(wx) == [first]
        assert (await auth.authorize(second)).response


async def test_each_waiting_login_has_its_own_timeout(busy: Busy, wx: WeChatSimulator) -> None:
    async with busy(wx.login("first"), login_timeout=0.01) as auth:
        for number in range(3):
            waiting = start(auth, codes_of(wx, 200, f"wave-{number}"))
            outcomes = await settled(waiting)
            assert [type(outcome) for outcome in outcomes] == [OverloadedError] * 200
    assert len(sent(wx)) == 1


async def test_waiting_too_long_is_told_to_all_callers(busy: Busy, wx: WeChatSimulator) -> None:
    first, second = codes_of(wx, 2)
    async with busy(first, login_timeout=0.01) as auth:
        heard = hear(auth)
        outcomes = await settled(start(auth, [second] * 3))
        assert [type(outcome) for outcome in outcomes] == [OverloadedError] * 3
    (failed,) = of_kind(heard, LoginFailed)
    assert failed.error is outcomes[0]


# How many wait


async def test_a_login_over_max_waiting_logins_fails_at_once(
    busy: Busy, wx: WeChatSimulator, gate: Gate
) -> None:
    first, second, third, fourth = codes_of(wx, 4)
    async with busy(first, max_waiting_logins=2) as auth:
        heard = hear(auth)
        logins = start(auth, [first, second, third, third])  # equal calls are one login
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError) as caught:
            await auth.authorize(fourth)
        gate.open()
        results = await asyncio.gather(*logins)
        assert len({result.response for result in results}) == 3
        assert sent(wx) == [first, second, third]
        assert (await auth.authorize(fourth)).response
    (failed,) = of_kind(heard, LoginFailed)
    assert failed.error is caught.value


async def test_a_cancelled_login_makes_room(busy: Busy, wx: WeChatSimulator, gate: Gate) -> None:
    first, leaving, last = codes_of(wx, 3)
    async with busy(first, max_waiting_logins=1) as auth:
        cancelled = start(auth, [leaving, leaving])
        await asyncio.sleep(0)
        for caller in cancelled:
            caller.cancel()
        await asyncio.wait(cancelled)
        waiting = start(auth, [last])
        await asyncio.sleep(0)
        gate.open()
        await asyncio.gather(*waiting)
    assert sent(wx) == [first, last]
