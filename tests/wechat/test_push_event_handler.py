"""What a service does with the events that WeChat pushes."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from redis.asyncio import Redis

from mpauthx_async import (
    ComponentExchange,
    Connections,
    InvalidPushEventError,
    MPAuthX,
    ParameterError,
    PushEvent,
    StoreError,
    WeChatOAuth,
    WeChatSimulator,
    parse_push_event,
    verify_push_url,
)
from mpauthx_async.events import PushEventReceived
from tests.helpers.clock import Clock
from tests.helpers.memory_stores import MemoryTokens, MemoryUsers
from tests.helpers.near_services import Make
from tests.helpers.redis_server import RedisServer
from tests.helpers.service_calls import hear, of_kind
from tests.helpers.simulator_client import ACCOUNT, SECRET

REVOKE, CANCEL = "user_authorization_revoke", "user_authorization_cancellation"
PROFILE = ["avatar_url", "city", "country", "gender", "language", "nick_name", "province"]


class Recorder(MPAuthX):
    """A service that notes what it is asked to erase."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.erased: list[tuple[str, *tuple[object, ...]]] = []
        self.failures: list[Exception] = []

    async def forget_user(self, user_id: str, lift_ban: bool = False) -> bool:
        return self._erase("forget", user_id, lift_ban)

    async def clear_profile(self, user_id: str, fields: Sequence[str]) -> bool:
        return self._erase("clear", user_id, list(fields))

    def _erase(self, *call: Any) -> bool:
        if self.failures:
            raise self.failures.pop()
        self.erased.append(call)
        return True


@pytest.fixture
def make(make: Make, clock: Clock) -> Callable[..., Recorder]:
    return partial(make, Recorder, clock=clock)


def pushed(wx: WeChatSimulator, kind: str, open_id: str = "bob", **how: Any) -> PushEvent:
    """An event as an app gets it."""
    request = wx.push_event(kind, open_id, **how)
    return parse_push_event(
        request.query,
        request.body,
        token=wx.push.token,
        aes_key=None if how.get("mode") == "plain" else wx.push.aes_key,
        now=wx.push._state.clock(),
    )


# What it does


async def test_a_cancellation_forgets_but_lifts_no_ban(auth: Recorder, wx: WeChatSimulator) -> None:
    await auth.handle_push_event(pushed(wx, CANCEL))
    assert auth.erased == [("forget", "bob", False)]


@pytest.mark.parametrize(
    ("revoke_info", "fields"),
    [
        ([6], ["avatar_url", "nick_name"]),
        ([19], ["nick_name"]),
        ([20], ["avatar_url"]),
        ([205], ["avatar_url", "nick_name"]),
        ([301], PROFILE),
        ([20, 8, 19], ["avatar_url", "nick_name"]),
    ],
)
async def test_a_revocation_clears_what_it_names(
    auth: Recorder, wx: WeChatSimulator, revoke_info: list[int], fields: list[str]
) -> None:
    await auth.handle_push_event(pushed(wx, REVOKE, revoke_info=revoke_info))
    assert auth.erased == [("clear", "bob", fields)]


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        (REVOKE, {"revoke_info": []}),
        (REVOKE, {"revoke_info": [8]}),
        (REVOKE, {"revoke_info": [1, 2, 3, 4, 5, 7, 201, 202, 203, 204, 206, 207]}),
        ("user_info_modified", {"mode": "safe"}),
        ("user_info_modified", {"mode": "compatible"}),
        ("user_info_modified", {"mode": "plain"}),
    ],
)
async def test_an_event_about_nothing_that_is_stored_is_only_emitted(
    auth: Recorder, wx: WeChatSimulator, kind: str, how: dict[str, Any]
) -> None:
    heard = hear(auth)
    event = pushed(wx, kind, **how)
    await auth.handle_push_event(event)
    await auth.close()
    assert auth.erased == []
    assert of_kind(heard, PushEventReceived) == [PushEventReceived(event)]


async def test_wechat_posts_to_an_app(auth: Recorder, wx: WeChatSimulator, clock: Clock) -> None:
    async def answer_test(request: web.Request) -> web.Response:
        echo = verify_push_url(request.query, token=wx.push.token, now=clock.now)
        return web.Response(text=echo)

    async def take(request: web.Request) -> web.Response:
        try:
            event = parse_push_event(
                request.query,
                await request.read(),
                token=wx.push.token,
                aes_key=wx.push.aes_key,
                now=clock.now,
            )
            await auth.handle_push_event(event)
        except InvalidPushEventError:
            return web.Response(status=403)
        return web.Response(text="success")

    app = web.Application()
    app.add_routes([web.get("/push", answer_test), web.post("/push", take)])
    async with TestServer(app) as server:
        url = str(server.make_url("/push"))
        challenge = wx.push.challenge()
        async with aiohttp.ClientSession() as http, http.get(url, params=challenge) as response:
            assert await response.text() == challenge["echostr"]
        for form in ("json", "xml"):
            request = wx.push_event(REVOKE, "bob", revoke_info=[19], form=form)
            assert await request.post(url) == (200, "success")
            assert (await request.post(url))[0] == 403
        assert (await wx.push_event(CANCEL, "bob", mode="plain").post(url))[0] == 403
    assert auth.erased == [("clear", "bob", ["nick_name"])] * 2


# What it refuses


@pytest.mark.parametrize(("kind", "revoke_info"), [(CANCEL, []), (REVOKE, [6]), (REVOKE, [8])])
async def test_nothing_is_erased_because_of_an_event_in_plain_mode(
    auth: Recorder, wx: WeChatSimulator, kind: str, revoke_info: list[int]
) -> None:
    heard = hear(auth)
    with pytest.raises(InvalidPushEventError, match="safe mode"):
        await auth.handle_push_event(pushed(wx, kind, revoke_info=revoke_info, mode="plain"))
    await auth.close()
    assert auth.erased == []
    assert of_kind(heard, PushEventReceived) == []


async def test_a_repeated_event_is_refused_for_as_long_as_it_could_be_parsed(
    auth: Recorder, wx: WeChatSimulator, clock: Clock
) -> None:
    heard = hear(auth)
    clock.now += 300  # WeChat's clock is ahead
    event = pushed(wx, CANCEL)
    clock.now -= 300
    await auth.handle_push_event(event)
    for _ in range(2):
        with pytest.raises(InvalidPushEventError, match="handled before"):
            await auth.handle_push_event(event)
        clock.now += 600
    await auth.handle_push_event(pushed(wx, CANCEL))
    await auth.close()
    assert len(auth.erased) == len(of_kind(heard, PushEventReceived)) == 2


async def test_stored_nonces_expire(
    make: Callable[..., Recorder], wx: WeChatSimulator, redis: Redis
) -> None:
    async with make() as auth:
        event = pushed(wx, CANCEL)
        await auth.handle_push_event(event)
    (key,) = await redis.keys()
    assert event.nonce.encode() in key
    assert 600_000 < await redis.pttl(key) <= 660_000


async def test_concurrent_repetitions_are_emitted_once(auth: Recorder, wx: WeChatSimulator) -> None:
    heard = hear(auth)
    event = pushed(wx, CANCEL)
    outcomes = await asyncio.gather(
        *(auth.handle_push_event(event) for _ in range(20)), return_exceptions=True
    )
    await auth.close()
    assert outcomes.count(None) == 1
    assert sum(isinstance(outcome, InvalidPushEventError) for outcome in outcomes) == 19
    assert len(of_kind(heard, PushEventReceived)) == 1


async def test_an_event_handled_in_one_process_is_refused_in_another(
    make: Callable[..., Recorder], wx: WeChatSimulator, tokens: str
) -> None:
    event = pushed(wx, CANCEL)
    async with make(tokens=tokens) as one, make(tokens=tokens) as other:
        await one.handle_push_event(event)
        with pytest.raises(InvalidPushEventError, match="handled before"):
            await other.handle_push_event(event)
        async with make(tokens=tokens, sku="shop-debug") as of_another_sku:
            await of_another_sku.handle_push_event(event)
    assert other.erased == []
    assert len(of_another_sku.erased) == 1


async def test_without_a_place_that_processes_share_a_service_remembers_by_itself(
    make: Callable[..., Recorder], wx: WeChatSimulator, clock: Clock
) -> None:
    async with make(users=MemoryUsers(), tokens=MemoryTokens()) as auth:
        event = pushed(wx, CANCEL)
        await auth.handle_push_event(event)
        clock.now += 599
        await auth.handle_push_event(pushed(wx, CANCEL))
        with pytest.raises(InvalidPushEventError, match="handled before"):
            await auth.handle_push_event(event)
        assert len(auth.erased) == 2


async def test_the_memory_of_events_is_bounded(
    make: Callable[..., Recorder], wx: WeChatSimulator, clock: Clock
) -> None:
    async with make(users=MemoryUsers(), tokens=MemoryTokens()) as auth:
        handler = auth._push_events
        first, second = [pushed(wx, "user_info_modified") for _ in range(2)]
        await handler.handle(first)
        await handler.handle(second)
        for number in range(9_999):
            await handler.handle(PushEvent("", None, None, None, None, True, f"n-{number}", 0))
        with pytest.raises(InvalidPushEventError, match="handled before"):
            await handler.handle(second)
        await handler.handle(first)  # forgotten, as the oldest
        clock.now += 660
        await handler.handle(second)
        assert len(handler._records._ends) == 1


async def test_an_event_that_failed_can_be_repeated(auth: Recorder, wx: WeChatSimulator) -> None:
    heard = hear(auth)
    event = pushed(wx, CANCEL)
    auth.failures.append(StoreError("no answer"))
    with pytest.raises(StoreError):
        await auth.handle_push_event(event)
    await auth.handle_push_event(event)
    await auth.close()
    assert auth.erased == [("forget", "bob", False)]
    assert len(of_kind(heard, PushEventReceived)) == 1


async def test_a_store_that_cannot_answer_is_an_error_and_nothing_is_erased(
    make: Callable[..., Recorder], wx: WeChatSimulator, server: RedisServer
) -> None:
    async with make(tokens=server.url) as auth:
        server.stop()
        with pytest.raises(StoreError):
            await auth.handle_push_event(pushed(wx, CANCEL))
        assert auth.erased == []


async def test_an_event_about_another_app_is_refused(auth: Recorder, wx: WeChatSimulator) -> None:
    for mode in ("safe", "plain"):
        event = pushed(wx, "user_info_modified", app_id=ACCOUNT, mode=mode)
        with pytest.raises(InvalidPushEventError, match="another app"):
            await auth.handle_push_event(event)
    with pytest.raises(InvalidPushEventError, match="another app"):
        await auth.handle_push_event(pushed(wx, CANCEL, app_id=ACCOUNT))
    assert auth.erased == []


@pytest.mark.parametrize(
    ("open_id", "encrypted_for", "said"), [("bob", ACCOUNT, "another app"), (None, None, "no user")]
)
async def test_an_event_that_is_encrypted_for_another_app_or_has_no_user_is_refused(
    auth: Recorder, wx: WeChatSimulator, open_id: str | None, encrypted_for: str | None, said: str
) -> None:
    recipient = encrypted_for or wx.app_id
    event = PushEvent(CANCEL, open_id, None, wx.app_id, recipient, True, "1", 1_700_000_000)
    with pytest.raises(InvalidPushEventError, match=said):
        await auth.handle_push_event(event)
    assert auth.erased == []


async def test_an_event_about_the_app_of_the_web_logins_is_handled(
    make: Callable[..., Recorder], wx: WeChatSimulator, redis_server: RedisServer
) -> None:
    web_app = WeChatOAuth(app_id=ACCOUNT, app_secret=SECRET, tokens=redis_server.url)
    async with web_app, make(web=web_app) as auth:
        await auth.handle_push_event(pushed(wx, CANCEL, app_id=ACCOUNT))
        await auth.handle_push_event(pushed(wx, CANCEL))
    assert len(auth.erased) == 2


async def test_an_event_encrypted_for_the_platform_that_acts_for_the_app_is_handled(
    make: Callable[..., Recorder], wx: WeChatSimulator
) -> None:
    async def access_token() -> str:
        return wx.component_access_token

    exchange = ComponentExchange(wx.component_app_id, access_token)
    event = PushEvent(CANCEL, "bob", None, wx.app_id, wx.component_app_id, True, "1", 1)
    async with make(exchange=exchange) as auth:
        await auth.handle_push_event(event)
        with pytest.raises(InvalidPushEventError, match="another app"):
            await auth.handle_push_event(replace(event, app_id=wx.component_app_id, nonce="2"))
    assert len(auth.erased) == 1


@pytest.mark.parametrize("event", [None, {}, "event", PushEventReceived])
async def test_rejects_what_is_not_a_push_event(auth: Recorder, event: Any) -> None:
    with pytest.raises(ParameterError, match="parse_push_event"):
        await auth.handle_push_event(event)


async def test_connections_with_a_redis_remember_for_all_processes_beside_any_store(
    make: Callable[..., Recorder], wx: WeChatSimulator, redis_server: RedisServer
) -> None:
    event = pushed(wx, CANCEL)
    async with Connections(redis_server.url) as connections:
        stores = {"users": MemoryUsers(), "tokens": MemoryTokens(), "connections": connections}
        async with make(**stores) as one, make(**stores) as other:
            await one.handle_push_event(event)
            with pytest.raises(InvalidPushEventError, match="handled before"):
                await other.handle_push_event(event)
