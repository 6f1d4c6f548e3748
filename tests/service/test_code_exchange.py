"""Other doors to the same login: a third-party platform's, and WeCom's, end to end."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis

from mpauthx_async import (
    ComponentExchange,
    ConfigurationError,
    Connections,
    IdentityMismatchError,
    InvalidResponseError,
    MiniProgramExchange,
    MPAuthX,
    MPAuthXError,
    WeChatSimulator,
    WeComExchange,
)
from tests.helpers.clock import Clock
from tests.helpers.exchanges import errcode_of, giving
from tests.helpers.near_services import Make
from tests.helpers.scripted_server import Answer, Server, refused
from tests.helpers.secret_search import everything_logged, everything_told, local_variables
from tests.helpers.service_calls import narrow_connections

COMPONENT, WECOM = "/sns/component/jscode2session", "/cgi-bin/miniprogram/jscode2session"
KEY = "AAAAAAAAAAAAAAAAAAAAAA=="


@pytest.fixture
async def wx(clock: Clock) -> AsyncIterator[WeChatSimulator]:
    async with WeChatSimulator(clock=clock) as simulator:
        yield simulator


@pytest.fixture
async def component(
    make: Make, tokens: str, redis: Redis, wx: WeChatSimulator
) -> AsyncIterator[MPAuthX]:
    async def token() -> str:
        return wx.component_access_token

    exchange = ComponentExchange(wx.component_app_id, token)
    async with make(tokens=tokens, app_secret="unused" * 5, exchange=exchange) as auth:
        yield auth


async def test_logins_that_waited_run_in_order_and_in_the_contexts_of_their_callers(
    make: Make, wx: WeChatSimulator
) -> None:
    """For what traces and logs requests, such as OpenTelemetry."""
    request_id: ContextVar[int] = ContextVar("request_id")
    seen = []

    async def token() -> str:
        seen.append(request_id.get())
        return wx.component_access_token

    async def call(number: int) -> None:
        request_id.set(number)
        await auth.authorize(wx.login(f"user-{number}"))

    exchange = ComponentExchange(wx.component_app_id, token)
    async with (
        narrow_connections(1) as connections,
        make(exchange=exchange, connections=connections) as auth,
    ):
        await asyncio.gather(*map(call, range(5)))
    assert seen == [0, 1, 2, 3, 4]


async def wecom_token(wx: WeChatSimulator) -> str:
    query = f"corpid={wx.corp_id}&corpsecret={wx.corp_secret}"
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"{wx.url}/cgi-bin/gettoken?{query}") as response,
    ):
        token: str = json.loads(await response.text())["access_token"]
        return token


@pytest.fixture
async def wecom(
    make: Make, tokens: str, redis: Redis, wx: WeChatSimulator
) -> AsyncIterator[MPAuthX]:
    exchange = WeComExchange(lambda: wecom_token(wx))
    async with make(tokens=tokens, app_secret="unused" * 5, exchange=exchange) as auth:
        yield auth


class TestComponent:
    async def test_logs_in_with_sealed_data(self, component: MPAuthX, wx: WeChatSimulator) -> None:
        wx.set_profile("carol", nickName="Carol")
        code, info = wx.login("carol", "union-carol"), wx.get_user_info("carol")
        result = await component.authorize(code, info.encrypted_data, info.iv)
        assert (result.user.nick_name, result.user.id) == ("Carol", "union-carol")
        assert await component.is_token_valid(result.response)
        assert await component.verify_raw_data(result.response, info.raw_data, info.signature)
        assert [request.path for request in wx.requests] == [COMPONENT]

    async def test_rejects_data_of_others(self, component: MPAuthX, wx: WeChatSimulator) -> None:
        wx.login("eve", session_key=KEY)
        info = wx.get_user_info("eve")
        with pytest.raises(IdentityMismatchError):
            await component.authorize(
                wx.login("carol", session_key=KEY), info.encrypted_data, info.iv
            )

    async def test_a_platform_token_that_is_not_good_reaches_the_caller(
        self, make: Make, wx: WeChatSimulator, clock: Clock, redis: Redis
    ) -> None:
        old = wx.component_access_token
        clock.now += 7200
        good = wx.component_access_token
        for app_id, token, errcode in (
            (wx.component_app_id, "unknown", 40001),
            (wx.component_app_id, old, 42001),
            ("wx-another-platform", good, 40094),
        ):
            exchange = ComponentExchange(app_id, giving(token))
            async with make(exchange=exchange) as auth:
                assert await errcode_of(auth.authorize(wx.login("carol"))) == errcode
        assert await redis.dbsize() == 0

    async def test_what_the_platforms_function_raises_reaches_the_caller(
        self, make: Make, wx: WeChatSimulator, redis: Redis
    ) -> None:
        async def broken() -> str:
            raise ZeroDivisionError

        async with make(exchange=ComponentExchange("wx0", broken)) as auth:
            with pytest.raises(ZeroDivisionError):
                await auth.authorize(wx.login("carol"))
        assert not wx.requests


class TestWeCom:
    async def test_logs_in_with_sealed_data(self, wecom: MPAuthX, wx: WeChatSimulator) -> None:
        code, info = wx.wecom_login("zhang"), wx.get_wecom_user_info("zhang")
        result = await wecom.authorize(code, info.encrypted_data, info.iv)
        assert result.user.id == f"zhang@{wx.corp_id}"
        assert await wecom.is_token_valid(result.response)
        payload = await wecom.decrypt(result.response, info.encrypted_data, info.iv)
        assert payload["userid"] == "zhang"
        assert not (await wecom.authorize(wx.wecom_login("zhang"))).is_new_user

    async def test_members_of_two_corps_are_two(self, wecom: MPAuthX, wx: WeChatSimulator) -> None:
        results = [
            await wecom.authorize(wx.wecom_login("zhang", corp)) for corp in (None, "ww-other")
        ]
        assert [result.user.id for result in results] == [f"zhang@{wx.corp_id}", "zhang@ww-other"]
        assert all(result.is_new_user for result in results)

    async def test_data_of_another_member_is_refused(self, make: Make) -> None:
        answer = {"userid": "zhang", "corpid": "ww0", "session_key": KEY, "errcode": 0}
        for named in ({"userid": "li"}, {"corpid": "ww1"}, {"userid": None}, {"openId": "zhang"}):
            wx = WeChatSimulator()
            wx.login("somebody", session_key=KEY)
            names = {} if "openId" in named else {"userid": "zhang", "corpid": "ww0"}
            sealed = wx.seal("somebody", names | named)
            async with (
                Server(Answer(json.dumps(answer))) as server,
                make(exchange=WeComExchange(giving("t")), api_base=server.url) as auth,
            ):
                with pytest.raises(IdentityMismatchError):
                    await auth.authorize("code", *sealed)

    async def test_wecoms_refusals_reach_the_caller(
        self, make: Make, wx: WeChatSimulator, clock: Clock, redis: Redis
    ) -> None:
        old = await wecom_token(wx)
        code = wx.wecom_login("zhang")
        async with make(exchange=WeComExchange(giving(old))) as auth:
            await auth.authorize(code)
            assert await errcode_of(auth.authorize(code)) == 40029
        clock.now += 7200
        for token, errcode in ((old, 42001), ("unknown", 40014)):
            async with make(exchange=WeComExchange(giving(token))) as auth:
                assert await errcode_of(auth.authorize(wx.wecom_login("zhang"))) == errcode


@pytest.mark.parametrize("token", ["", None, b"token", "a\x07b", "a\ufffdb", "x" * 1025])
@pytest.mark.parametrize(
    "exchange", [WeComExchange, lambda give: ComponentExchange("wx0", give)], ids=["wecom", "wx"]
)
async def test_a_function_that_returns_no_token_is_a_configuration_error(
    make: Make, wx: WeChatSimulator, exchange: Callable[..., Any], token: Any
) -> None:
    async with make(exchange=exchange(giving(token))) as auth:
        with pytest.raises(ConfigurationError, match="access_token must return WeChat's token"):
            await auth.authorize("code")
    assert not wx.requests


MEMBER = {"userid": "zhang", "corpid": "ww0", "session_key": KEY}
USER = {"openid": "carol", "session_key": KEY}


@pytest.mark.parametrize(
    ("exchange", "answer"),
    [
        (ComponentExchange("wx0", giving("t")), {**USER, "openid": "a|b"}),
        *(
            (WeComExchange(giving("t")), answer)
            for answer in (
                *({**MEMBER, "userid": wrong} for wrong in (None, "", "a|b")),
                *({**MEMBER, "corpid": wrong} for wrong in (None, 5)),
                USER,
            )
        ),
    ],
)
async def test_rejects_an_answer_without_a_user(
    make: Make, redis: Redis, exchange: Any, answer: dict[str, Any]
) -> None:
    async with (
        Server(Answer(json.dumps(answer))) as server,
        make(exchange=exchange, api_base=server.url) as auth,
    ):
        with pytest.raises(InvalidResponseError):
            await auth.authorize("code")
    assert await redis.dbsize() == 0


async def test_whatever_is_in_a_token_or_code_arrives_unchanged(make: Make, redis: Redis) -> None:
    async with (
        Server(Answer(json.dumps(USER))) as server,
        make(exchange=ComponentExchange("wx0", giving("a+b&c=d")), api_base=server.url) as auth,
    ):
        await auth.authorize("a&b=+c")
        target = server.requests[0].split(" ")[1]
    assert target == (
        f"{COMPONENT}?appid=wx4f4bc4dec97d474b&js_code=a%26b%3D%2Bc&grant_type=authorization_code"
        "&component_appid=wx0&component_access_token=a%2Bb%26c%3Dd"
    )


async def test_each_exchange_has_its_own_hosts_and_sends_the_secret_to_no_other(make: Make) -> None:
    wechats = ("https://api.weixin.qq.com", "https://api2.weixin.qq.com")
    async with Connections() as connections:
        for exchange, hosts in (
            (None, wechats),
            (MiniProgramExchange("x" * 16), wechats),
            (ComponentExchange("wx0", giving("t")), wechats),
            (WeComExchange(giving("t")), ("https://qyapi.weixin.qq.com",)),
        ):
            stores = {"tokens": "sqlite:///x.db", "connections": connections}
            auth = make(exchange=exchange, api_base=None, **stores)
            assert auth._api._exchange_http._hosts == hosts
            assert auth._api._http._hosts == wechats
            if exchange is None:
                assert auth._web._api._http._hosts == wechats
            else:
                with pytest.raises(ConfigurationError, match="exchange"):
                    await auth.access_token()
                with pytest.raises(ConfigurationError, match="exchange"):
                    await auth.authorize_web("code")
            await auth.close()


async def test_no_token_is_emitted_or_logged(
    make: Make, redis: Redis, debugging: pytest.LogCaptureFixture
) -> None:
    secret, told = "GEHEIM-of-16-bytes", []
    for exchange in (
        MiniProgramExchange(secret),
        ComponentExchange("wx0", giving(secret)),
        WeComExchange(giving(secret)),
    ):
        told.append(repr(exchange))
        no = refused(40001, f"not good: {secret}")
        for answer in (no, Answer("{}"), Answer("", status="500")):
            async with (
                Server(answer) as server,
                make(exchange=exchange, api_base=server.url, app_secret=secret) as auth,
            ):
                with pytest.raises(MPAuthXError) as caught:
                    await auth.authorize("code")
                assert secret in server.requests[0]
                told += [everything_told(caught.value), local_variables(caught.value)]
                told += [repr(auth), repr(auth._api)]
    told.append(everything_logged(debugging.records))
    assert not [text for text in told if secret in text]
