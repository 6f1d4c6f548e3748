"""Users who may not log in."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from mpauthx_async import (
    AuthResult,
    Ban,
    BannedError,
    InvalidTokenError,
    LoginPolicy,
    MPAuthX,
    ParameterError,
    TokenStatus,
    WeChatSimulator,
)
from tests.helpers.redis_server import RedisServer
from tests.helpers.service_calls import log_in
from tests.helpers.simulator_client import Clock
from tests.service.test_service import make, tokens

__all__ = ["make", "tokens"]


@pytest.fixture
async def auth(make: Callable[..., MPAuthX], tokens: str) -> AsyncIterator[MPAuthX]:
    async with make(tokens=tokens) as service:
        yield service


async def refusal(auth: MPAuthX, wx: WeChatSimulator, user: str = "bob", **more: Any) -> Ban:
    """What a banned user is told, at the login and at the refresh alike."""
    with pytest.raises(BannedError) as at_login:
        await log_in(auth, wx, user, **more)
    error = at_login.value
    with pytest.raises(BannedError) as at_refresh:
        await auth.refresh_token(error.user_id)
    assert error.code == at_refresh.value.code == 6106
    assert error.args == at_refresh.value.args
    return Ban(error.user_id, error.reason, 0, error.until)


async def test_a_ban_ends_all_sessions_and_refuses_new_ones(
    auth: MPAuthX, wx: WeChatSimulator
) -> None:
    results = [await log_in(auth, wx, device=str(number)) for number in range(3)]
    assert await auth.ban("bob", reason="spam") == 3
    assert await refusal(auth, wx) == Ban("bob", "spam", 0, None)
    for result in results:
        assert not await auth.is_token_valid(result.response)
        assert await auth.token_status(result.response) is TokenStatus.banned
        with pytest.raises(InvalidTokenError) as caught:
            await auth.rotate(result.response)
        assert caught.value.status is TokenStatus.banned
    assert await auth.sessions("bob") == []
    assert await auth.online_count() == 0


async def test_a_ban_is_read_as_it_was_written(auth: MPAuthX, wx: WeChatSimulator) -> None:
    await log_in(auth, wx)
    assert await auth.ban_of("bob") is None
    reason = "骂人 🤬 \"quoted\" 'twice' | \\n %s {0}"
    await auth.ban("bob", 3600, reason)
    ban = await auth.ban_of("bob")
    assert ban is not None
    assert (ban.user_id, ban.reason) == ("bob", reason)
    assert ban.until == ban.banned_at + 3_600_000
    assert await refusal(auth, wx) == Ban("bob", reason, 0, ban.until)


async def test_a_ban_without_an_end_or_a_reason_has_none(
    auth: MPAuthX, wx: WeChatSimulator
) -> None:
    await auth.ban("bob")
    ban = await auth.ban_of("bob")
    assert ban is not None
    assert (ban.reason, ban.until) == ("", None)
    with pytest.raises(BannedError, match="banned permanently: no reason was given"):
        await log_in(auth, wx)


async def test_a_reason_may_have_a_thousand_characters(auth: MPAuthX) -> None:
    await auth.ban("bob", 0.5, "长" * 1000)
    await auth.ban("bob", 3_153_600_000, "长" * 1000)
    ban = await auth.ban_of("bob")
    assert ban is not None
    assert ban.reason == "长" * 1000


async def test_who_was_never_here_may_be_banned(auth: MPAuthX, wx: WeChatSimulator) -> None:
    assert await auth.ban("bob", reason="known elsewhere") == 0
    with pytest.raises(BannedError, match="known elsewhere"):
        await log_in(auth, wx)


async def test_a_later_ban_takes_the_place_of_an_earlier_one(auth: MPAuthX) -> None:
    await auth.ban("bob", 60, "spam")
    await auth.ban("bob", None, "more spam")
    ban = await auth.ban_of("bob")
    assert ban is not None
    assert (ban.reason, ban.until) == ("more spam", None)


async def test_a_ban_is_lifted_once(auth: MPAuthX, wx: WeChatSimulator) -> None:
    old = await log_in(auth, wx)
    await auth.ban("bob")
    assert await auth.unban("bob") is True
    assert await auth.unban("bob") is False
    assert await auth.ban_of("bob") is None
    assert not await auth.is_token_valid(old.response)
    assert await auth.is_token_valid((await log_in(auth, wx)).response)
    assert await auth.is_token_valid((await auth.refresh_token("bob")).response)


async def test_who_is_not_banned_is_not_unbanned(auth: MPAuthX, wx: WeChatSimulator) -> None:
    await log_in(auth, wx)
    await auth.ban("eve")
    assert await auth.unban("bob") is False
    assert await auth.unban("nobody") is False
    assert await auth.ban_of("eve") is not None


async def test_others_and_other_skus_are_untouched(
    auth: MPAuthX, make: Callable[..., MPAuthX], tokens: str, wx: WeChatSimulator
) -> None:
    hers = await log_in(auth, wx, "eve")
    async with make(tokens=tokens, sku="debug") as debug:
        elsewhere = await log_in(debug, wx)
        assert await auth.ban("bob") == 0
        assert await debug.is_token_valid(elsewhere.response)
        assert await debug.ban_of("bob") is None
        assert await debug.unban("bob") is False
        await debug.refresh_token("bob")
        await log_in(debug, wx)
    assert await auth.is_token_valid(hers.response)
    await log_in(auth, wx, "eve")
    assert await auth.ban_of("bob") is not None


async def test_of_logins_and_a_ban_at_once_no_token_is_left(
    auth: MPAuthX, wx: WeChatSimulator
) -> None:
    codes = [wx.login("bob") for _ in range(30)]
    logins = [asyncio.create_task(auth.authorize(code)) for code in codes]
    await asyncio.wait(logins, return_when=asyncio.FIRST_COMPLETED)
    await auth.ban("bob")
    outcomes = await asyncio.gather(*logins, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} <= {AuthResult, BannedError}
    for outcome in outcomes:
        if isinstance(outcome, AuthResult):
            assert not await auth.is_token_valid(outcome.response)
    assert await auth.sessions("bob") == []


async def test_in_one_batch_only_the_banned_are_refused(auth: MPAuthX, wx: WeChatSimulator) -> None:
    await auth.ban("user-3", reason="spam")
    codes = [wx.login(f"user-{number}") for number in range(6)]
    outcomes = await asyncio.gather(*map(auth.authorize, codes), return_exceptions=True)
    assert [isinstance(outcome, AuthResult) for outcome in outcomes] == [
        number != 3 for number in range(6)
    ]
    assert isinstance(outcomes[3], BannedError)


async def test_a_shared_token_is_refused_to_the_banned_too(
    make: Callable[..., MPAuthX], tokens: str, wx: WeChatSimulator
) -> None:
    async with make(tokens=tokens, policy=LoginPolicy(shared_token=True)) as auth:
        token = (await log_in(auth, wx)).response
        assert await auth.ban("bob") == 1
        with pytest.raises(BannedError):
            await log_in(auth, wx)
        await auth.unban("bob")
        assert (await log_in(auth, wx)).response != token


async def test_a_web_login_is_refused_to_the_banned_too(auth: MPAuthX, wx: WeChatSimulator) -> None:
    await auth.ban("bob", reason="spam")
    with pytest.raises(BannedError, match="spam"):
        await auth.authorize_web(wx.web_login("bob"))


# The end of a ban


async def test_a_ban_ends_by_itself(
    make: Callable[..., MPAuthX], tmp_path: Path, wx: WeChatSimulator
) -> None:
    clock = Clock()
    async with make(tokens=f"sqlite:///{tmp_path}/t.db", clock=clock) as auth:
        await auth.ban("bob", 60, "spam")
        clock.now += 59.9
        assert (await refusal_at_login(auth, wx)).until == int(clock.now * 1000) + 100
        clock.now += 0.1
        assert await auth.ban_of("bob") is None
        assert await auth.unban("bob") is False
        assert await auth.is_token_valid((await log_in(auth, wx)).response)


async def refusal_at_login(auth: MPAuthX, wx: WeChatSimulator) -> BannedError:
    with pytest.raises(BannedError) as caught:
        await log_in(auth, wx)
    return caught.value


async def test_a_ban_ends_by_the_clock_of_redis(
    make: Callable[..., MPAuthX], redis_server: RedisServer, wx: WeChatSimulator
) -> None:
    async with make(tokens=redis_server.url) as auth:
        await auth.ban("bob", 0.3)
        deadline = time.monotonic() + 30
        while await auth.ban_of("bob") is not None:
            assert time.monotonic() < deadline
        assert await auth.unban("bob") is False
        assert await auth.is_token_valid((await log_in(auth, wx)).response)


# Users with a unionId


@pytest.mark.parametrize("user_id", ["bob", "bob-everywhere"])
async def test_who_has_both_ids_is_banned_by_either(
    auth: MPAuthX, wx: WeChatSimulator, user_id: str
) -> None:
    early = await log_in(auth, wx)
    late = await log_in(auth, wx, union_id="bob-everywhere")
    assert await auth.ban(user_id, reason="spam") == 2
    assert (await refusal(auth, wx)).reason == "spam"
    for result in (early, late):
        assert await auth.token_status(result.response) is TokenStatus.banned
    for one in ("bob", "bob-everywhere"):
        ban = await auth.ban_of(one)
        assert ban is not None
        assert ban.reason == "spam"
        with pytest.raises(BannedError, match="spam"):
            await auth.refresh_token(one)


@pytest.mark.parametrize("user_id", ["bob", "bob-everywhere"])
@pytest.mark.parametrize("banned_as", ["bob", "bob-everywhere"])
async def test_who_has_both_ids_is_unbanned_by_either(
    auth: MPAuthX, wx: WeChatSimulator, user_id: str, banned_as: str
) -> None:
    await log_in(auth, wx, union_id="bob-everywhere")
    await auth.ban(banned_as)
    assert await auth.unban(user_id) is True
    assert await auth.ban_of("bob") is await auth.ban_of("bob-everywhere") is None
    assert await auth.is_token_valid((await log_in(auth, wx)).response)


# Arguments


async def test_what_cannot_be_is_refused_and_bans_nobody(
    auth: MPAuthX, wx: WeChatSimulator
) -> None:
    result = await log_in(auth, wx)
    many_seconds: list[Any] = [
        *(0, -1, 0.0001, float("nan"), float("inf"), 3_153_600_001, 10**400, "60", [60], True)
    ]
    for seconds in many_seconds:
        with pytest.raises(ParameterError, match="seconds"):
            await auth.ban("bob", seconds)
    reasons: list[Any] = [None, 5, b"spam", "x" * 1001, "a\nb", "a\tb", "\x00", "\ud800", "\u2029"]
    for reason in reasons:
        with pytest.raises(ParameterError, match="reason"):
            await auth.ban("bob", reason=reason)
    assert await auth.ban_of("bob") is None
    assert await auth.is_token_valid(result.response)


async def test_who_was_banned_before_their_union_id_was_known_stays_banned(
    auth: MPAuthX, wx: WeChatSimulator
) -> None:
    await log_in(auth, wx)
    await auth.ban("bob", reason="spam")
    eve = wx.login("eve", "eve-everywhere")
    bob = wx.login("bob", "bob-everywhere")
    outcomes = await asyncio.gather(
        auth.authorize(bob), auth.authorize(eve), return_exceptions=True
    )
    assert isinstance(outcomes[0], BannedError)
    assert outcomes[0].reason == "spam"
    assert isinstance(outcomes[1], AuthResult)
    with pytest.raises(BannedError):
        await auth.refresh_token("bob-everywhere")
    assert await auth.unban("bob-everywhere") is True
    await auth.authorize(wx.login("bob", "bob-everywhere"))
