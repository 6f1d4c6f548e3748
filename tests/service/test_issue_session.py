"""Sessions for users whose identity is proven elsewhere, such as by Tencent's cloud hosting."""

import asyncio

import pytest
from redis.asyncio import Redis

from mpauthx_async import (
    BannedError,
    LoginPolicy,
    MPAuthX,
    OverloadedError,
    ParameterError,
    SessionKeyLostError,
    StoreError,
    WeChatSimulator,
)
from mpauthx_async.events import LoggedIn, LoginFailed, Replaced, UserLinked
from tests.helpers.logins import Gate, login
from tests.helpers.near_services import Make
from tests.helpers.service_calls import hear, key_calls, narrow_connections, of_kind, outcomes


async def test_a_session_is_issued_without_wechat(auth: MPAuthX, wx: WeChatSimulator) -> None:
    first = await auth.issue_session(open_id="bob", device="iPhone", device_kind="phone")
    second = await auth.issue_session(open_id="bob")
    assert (first.is_new_user, second.is_new_user) == (True, False)
    assert (first.user.id, first.user.app_id) == ("bob", wx.app_id)
    assert (first.session.device, first.session.device_kind) == ("iPhone", "phone")
    assert await auth.is_token_valid(first.token)
    assert await auth.is_token_valid(second.token)
    assert not wx.requests


async def test_concurrent_calls_issue_a_session_each(auth: MPAuthX) -> None:
    results = await asyncio.gather(*(auth.issue_session(open_id="bob") for _ in range(20)))
    assert len({result.token for result in results}) == 20
    assert sum(result.is_new_user for result in results) == 1
    assert len(await auth.sessions("bob")) == 20


async def test_it_is_the_user_who_logs_in_with_a_code(auth: MPAuthX, wx: WeChatSimulator) -> None:
    wx.set_profile("bob", nickName="Bob")
    await auth.authorize(*login(wx))
    events = hear(auth)
    result = await auth.issue_session(open_id="bob", union_id="union-bob")
    assert not result.is_new_user
    assert (result.user.id, result.user.nick_name) == ("union-bob", "Bob")
    again = await auth.authorize(wx.login("bob", "union-bob"))
    assert not again.is_new_user
    assert {one.id for one in await auth.sessions("bob")} == {
        one.id for one in await auth.sessions("union-bob")
    }
    await auth.close()
    (linked,) = of_kind(events, UserLinked)
    assert (linked.old_id, linked.new_id) == ("bob", "union-bob")


async def test_listeners_are_told_and_the_policy_applies(make: Make) -> None:
    async with make(policy=LoginPolicy(max_sessions=1)) as auth:
        events = hear(auth)
        first = await auth.issue_session(open_id="bob")
        second = await auth.issue_session(open_id="bob")
        assert not await auth.is_token_valid(first.token)
        assert await auth.is_token_valid(second.token)
    assert [one.session for one in of_kind(events, LoggedIn)] == [first.session, second.session]
    assert [one.ref for one in of_kind(events, Replaced)] == [first.session.ref]


@pytest.mark.parametrize("banned", ["bob", "union-bob"])
async def test_a_banned_user_is_refused(auth: MPAuthX, banned: str) -> None:
    await auth.issue_session(open_id="bob", union_id="union-bob")
    await auth.ban(banned, reason="spam")
    with pytest.raises(BannedError, match="spam"):
        await auth.issue_session(open_id="bob", union_id="union-bob")


async def test_there_is_no_session_key(auth: MPAuthX) -> None:
    token = (await auth.issue_session(open_id="bob")).token
    calls = [*key_calls(auth, token), auth.user_encrypt_keys(token)]
    assert await outcomes(calls) == [SessionKeyLostError] * 6


async def test_rejects_a_malformed_id(auth: MPAuthX, redis: Redis) -> None:
    unclean = ("a\x07b", "a\x85b", "a\ufffdb", "\ud83d")
    for open_id in ("", None, 5, b"bob", "a|b", "a b", "x" * 129, *unclean):
        with pytest.raises(ParameterError, match="open_id"):
            await auth.issue_session(open_id=open_id)
        if open_id:
            with pytest.raises(ParameterError, match="union_id"):
                await auth.issue_session(open_id="bob", union_id=open_id)
    assert await redis.dbsize() == 0


async def test_an_absent_header_as_union_id_means_none(auth: MPAuthX) -> None:
    assert (await auth.issue_session(open_id="bob", union_id="")).user.union_id is None


async def test_a_device_is_validated(auth: MPAuthX) -> None:
    with pytest.raises(ParameterError, match="device"):
        await auth.issue_session(open_id="bob", device="two\nlines")


async def test_it_waits_among_the_other_logins(make: Make, wx: WeChatSimulator) -> None:
    gate = Gate(wx)
    async with (
        narrow_connections(1) as connections,
        make(exchange=gate.exchange, connections=connections, max_waiting_logins=1) as auth,
    ):
        events = hear(auth)
        begun = asyncio.create_task(auth.authorize(wx.login("alice")))
        await gate.reached_by(1)
        waiting = asyncio.create_task(auth.issue_session(open_id="bob"))
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="max_waiting_logins") as caught:
            await auth.issue_session(open_id="carol")
        assert "Nothing was done" in str(caught.value)
        gate.open()
        assert [(await one).user.id for one in (begun, waiting)] == ["alice", "bob"]
    assert [type(one.error) for one in of_kind(events, LoginFailed)] == [OverloadedError]


async def test_a_failing_store_leaves_no_session(make: Make, redis: Redis) -> None:
    async with make(users="sqlite:////dev/null/users.db") as auth:
        with pytest.raises(StoreError):
            await auth.issue_session(open_id="bob")
    assert await redis.dbsize() == 0
