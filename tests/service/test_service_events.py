"""What a service tells its listeners; how they are told is in test_events.py."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any, get_args

import pytest

from mpauthx_async import (
    BannedError,
    InvalidTokenError,
    LoginPolicy,
    MPAuthX,
    MPAuthXError,
    Session,
    StoreError,
    WeChatAPIError,
    WeChatRefusedError,
    WeChatSimulator,
)
from mpauthx_async.events import (
    Banned,
    BatchFinished,
    Event,
    LoggedIn,
    LoginFailed,
    ProfileCleared,
    PushEventReceived,
    Refreshed,
    Replaced,
    Revoked,
    Rotated,
    StoreFailed,
    TokenReuseDetected,
    TokensValidated,
    Unbanned,
    UserForgotten,
    UserLinked,
    WeChatFailed,
)
from tests.helpers.near_services import Make
from tests.helpers.redis_server import RedisServer
from tests.helpers.service_calls import forged, hear, log_in, of_kind, store_calls

KINDS = get_args(Event)
KINDS_IN_A_LIFE = set(KINDS) - {
    *(StoreFailed, ProfileCleared, PushEventReceived, UserForgotten, UserLinked)
}
TIMED = (BatchFinished, LoggedIn, LoginFailed, TokensValidated)
KEY = "c2Vzc2lvbi1rZXktMTIzNA=="


@pytest.fixture
async def auth(make: Make, tokens: str) -> AsyncIterator[MPAuthX]:
    policy = LoginPolicy(max_sessions=2)
    async with make(tokens=tokens, policy=policy, rotation_grace=0) as service:
        yield service


async def live(auth: MPAuthX, wx: WeChatSimulator) -> set[str]:
    """Let KINDS_IN_A_LIFE happen; returns the tokens that were given."""
    results = [await log_in(auth, wx, device="iPhone 15", session_key=KEY) for _ in range(3)]
    used = wx.login("bob")
    results.append(await auth.authorize(used))
    with pytest.raises(WeChatAPIError):
        await auth.authorize(used)
    results.append(await auth.rotate(results[-1].response))
    results.append(await auth.refresh_token("bob"))
    results.append(await auth.rotate(results[-1].response))
    await auth.is_token_valid(results[-1].response)
    await auth.is_token_valid(results[-2].response)
    with pytest.raises(InvalidTokenError):
        await auth.rotate(results[-1].response)
    results.append(await log_in(auth, wx))
    await auth.session(results[-1].response)
    await auth.revoke(results[-1].response)
    await auth.ban("bob", 60, "spam")
    with pytest.raises(BannedError):
        await log_in(auth, wx)
    await auth.unban("bob")
    return {result.response for result in results}


# What they are told


async def test_logins_emit_events(auth: MPAuthX, wx: WeChatSimulator) -> None:
    heard = hear(auth)
    first, second = [await log_in(auth, wx, device=name) for name in ("phone", None)]
    await auth.close()
    told = of_kind(heard, LoggedIn)
    assert [event.session for event in told] == [first.session, second.session]
    assert [event.user for event in told] == [first.user, second.user]
    assert [event.is_new_user for event in told] == [True, False]
    assert all(event.seconds > 0 for event in told)


async def test_a_login_of_many_callers_emits_one_event(auth: MPAuthX, wx: WeChatSimulator) -> None:
    heard, code = hear(auth), wx.login("bob")
    await asyncio.gather(*(auth.authorize(code) for _ in range(5)))
    await auth.close()
    assert len(of_kind(heard, LoggedIn)) == 1


async def test_failed_logins_emit_events_with_the_error(auth: MPAuthX, wx: WeChatSimulator) -> None:
    heard, code = hear(auth), wx.login("bob")
    await auth.authorize(code)
    await auth.ban("eve", reason="spam")
    errors: list[MPAuthXError] = []
    for bad in (code, wx.login("eve")):
        with pytest.raises(MPAuthXError) as caught:
            await auth.authorize(bad)
        errors.append(caught.value)
    await auth.close()
    assert [event.error for event in of_kind(heard, LoginFailed)] == errors
    assert [type(error) for error in errors] == [WeChatRefusedError, BannedError]
    assert of_kind(heard, WeChatFailed) == [WeChatFailed(40163)]


async def test_replaced_sessions_emit_events(auth: MPAuthX, wx: WeChatSimulator) -> None:
    heard = hear(auth)
    results = [await log_in(auth, wx) for _ in range(4)]
    fresh = await auth.refresh_token("bob")
    await auth.close()
    refs = [result.session.ref for result in results]
    by = [results[2].session, results[3].session, fresh.session, fresh.session]
    told = of_kind(heard, Replaced)
    assert sorted(told, key=lambda event: refs.index(event.ref)) == [
        Replaced(ref, session) for ref, session in zip(refs, by, strict=True)
    ]
    assert of_kind(heard, Refreshed) == [Refreshed(fresh.session)]


async def test_rotations_and_reuse_emit_events(auth: MPAuthX, wx: WeChatSimulator) -> None:
    heard = hear(auth)
    old = await log_in(auth, wx)
    new = await auth.rotate(old.response)
    assert not await auth.is_token_valid(old.response)
    await auth.close()
    assert of_kind(heard, Rotated) == [Rotated(new.session)]
    assert of_kind(heard, TokenReuseDetected) == [TokenReuseDetected(old.session.ref)]


async def test_revocations_emit_events(auth: MPAuthX, wx: WeChatSimulator) -> None:
    heard = hear(auth)
    sessions: list[Session] = []
    for _ in range(2):
        result = await log_in(auth, wx)
        sessions.append(result.session)
        for _ in range(2):
            if len(sessions) == 1:
                await auth.revoke(result.response)
            else:
                await auth.revoke_session("bob", result.session.id)
    for _ in range(2):
        await log_in(auth, wx)
    for _ in range(2):
        await auth.revoke_user("bob")
    await auth.close()
    assert of_kind(heard, Revoked) == [
        Revoked("shop", "bob", sessions[0].id, 1),
        Revoked("shop", "bob", sessions[1].id, 1),
        Revoked("shop", "bob", None, 2),
    ]


async def test_bans_emit_events(auth: MPAuthX, wx: WeChatSimulator) -> None:
    heard = hear(auth)
    await log_in(auth, wx)
    await auth.ban("bob", 60, "spam")
    for _ in range(2):
        await auth.unban("bob")
    await auth.close()
    (told,) = of_kind(heard, Banned)
    assert (told.sku, told.ended) == ("shop", 1)
    assert (told.ban.user_id, told.ban.reason) == ("bob", "spam")
    assert told.ban.until == told.ban.banned_at + 60_000  # the store's own clock may differ
    assert of_kind(heard, Unbanned) == [Unbanned("shop", "bob")]


async def test_validated_tokens_are_counted(auth: MPAuthX, wx: WeChatSimulator) -> None:
    good = (await log_in(auth, wx)).response
    dead = (await log_in(auth, wx)).response
    await auth.revoke(dead)
    heard = hear(auth)
    asked = [good] * 5 + [dead] + [forged(good), None, "x"]
    await asyncio.gather(*map(auth.is_token_valid, asked))
    await auth.close()
    told = of_kind(heard, TokensValidated)
    (trip,) = [event for event in told if event.seconds]
    (without,) = [event for event in told if not event.seconds]
    assert (trip.valid, trip.refused) == (1, 1)  # those that are the same are one
    assert (without.valid, without.refused) == (0, 3)


async def test_batches_emit_events_with_name_and_size(auth: MPAuthX, wx: WeChatSimulator) -> None:
    results = [await log_in(auth, wx, user) for user in ("bob", "eve")]
    heard = hear(auth)
    for call in (auth.is_token_valid, auth.session, auth.rotate, auth.revoke):
        await asyncio.gather(*(call(result.response) for result in results))
    await asyncio.gather(*map(auth.refresh_token, ("bob", "eve")))
    await auth.close()
    told = [(event.name, event.size) for event in of_kind(heard, BatchFinished)]
    names = ("lookup", "lookup", "read", "rotate", "revoke", "refresh")
    assert told == [(name, 2) for name in names]


async def test_failing_stores_emit_events(make: Make, wx: WeChatSimulator) -> None:
    with RedisServer() as server:
        async with make(tokens=server.url) as auth:
            result = await log_in(auth, wx)
            server.stop()
            heard = hear(auth)
            for call in store_calls(auth, result.response, result.session.id).values():
                with pytest.raises(StoreError):
                    await call()
            with pytest.raises(StoreError) as caught:
                await log_in(auth, wx)
    assert [event.operation for event in of_kind(heard, StoreFailed)] == [
        *("lookup", "lookup", "lookup", "sessions", "rotate", "refresh", "revoke", "revoke"),
        *("revoke_subject", "ban", "unban", "bans", "online", "online_count", "login"),
    ]
    assert [event.error for event in of_kind(heard, LoginFailed)] == [caught.value]
    told = {type(event) for event in heard}
    assert told == {StoreFailed, LoginFailed}


async def test_no_event_tells_a_secret(auth: MPAuthX, wx: WeChatSimulator) -> None:
    heard = hear(auth)
    given = await live(auth, wx)
    await auth.close()
    assert {type(event) for event in heard} == KINDS_IN_A_LIFE
    texts = [repr(event) + str(event) for event in heard]
    secrets = {wx.app_secret, KEY, *given, *(token[-43:] for token in given)}
    for secret in secrets:
        assert not [text for text in texts if secret in text]


# Who is told


async def test_listeners_that_fail_or_hang_neither_delay_nor_break_anything(
    auth: MPAuthX, wx: WeChatSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    release = threading.Event()
    hanging = asyncio.Event()

    async def fail(_: Event) -> None:
        raise ValueError("of the listener")

    async def hang(_: Event) -> None:
        await hanging.wait()

    def fail_in_a_thread(_: Event) -> None:
        raise ValueError("of the listener in a thread")

    def hang_in_a_thread(_: Event) -> None:
        release.wait()

    for listener in (fail, hang, fail_in_a_thread, hang_in_a_thread):
        auth.subscribe(listener)
    heard = hear(auth)
    given = await live(auth, wx)  # while the two hang
    assert await auth.is_token_valid((await log_in(auth, wx)).response)
    hanging.set()
    release.set()
    await auth.close()
    assert {type(event) for event in heard} == KINDS_IN_A_LIFE
    assert "of the listener in a thread" in caplog.text
    assert not [token for token in given if token in caplog.text]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_events_are_values_that_do_not_change(kind: Any) -> None:
    fields = kind.__dataclass_fields__
    event = kind(*range(len(fields)))
    assert event == kind(*range(len(fields)))
    assert hash(event) == hash(kind(*range(len(fields))))
    assert ("seconds" in fields) is (kind in TIMED)
    assert not hasattr(event, "__dict__")
    for name in fields:
        with pytest.raises(AttributeError):
            setattr(event, name, None)
