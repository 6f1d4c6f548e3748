"""Users who may not log in."""

from typing import Any

import pytest

from mpauthx_async import (
    Ban,
    BannedError,
    InvalidTokenError,
    LoginPolicy,
    MPAuthX,
    ParameterError,
    TokenStatus,
    WeChatSimulator,
)
from tests.helpers.near_services import Make
from tests.helpers.service_calls import log_in


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


async def test_a_ban_ends_sessions_and_refuses_new_ones(auth: MPAuthX, wx: WeChatSimulator) -> None:
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


async def test_a_ban_may_have_no_end_and_no_reason(auth: MPAuthX, wx: WeChatSimulator) -> None:
    await auth.ban("bob")
    assert await refusal(auth, wx) == Ban("bob", "", 0, None)
    with pytest.raises(BannedError, match="banned permanently: no reason was given"):
        await log_in(auth, wx)


async def test_a_reason_may_have_a_thousand_characters(auth: MPAuthX) -> None:
    await auth.ban("bob", 0.5, "长" * 1000)
    await auth.ban("bob", 3_153_600_000, "长" * 1000)
    assert (await auth.ban_of("bob")).reason == "长" * 1000


async def test_a_shared_token_is_refused_to_the_banned_too(
    make: Make, tokens: str, wx: WeChatSimulator
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


# Users with a unionId


@pytest.mark.parametrize("unbanned_as", ["bob", "bob-everywhere"])
@pytest.mark.parametrize("banned_as", ["bob", "bob-everywhere"])
async def test_a_ban_and_its_end_by_either_id_hold_for_both(
    auth: MPAuthX, wx: WeChatSimulator, banned_as: str, unbanned_as: str
) -> None:
    early = await log_in(auth, wx)
    late = await log_in(auth, wx, union_id="bob-everywhere")
    assert await auth.ban(banned_as, reason="spam") == 2
    assert (await refusal(auth, wx)).reason == "spam"
    for result in (early, late):
        assert await auth.token_status(result.response) is TokenStatus.banned
    for one in ("bob", "bob-everywhere"):
        assert (await auth.ban_of(one)).reason == "spam"
        with pytest.raises(BannedError, match="spam"):
            await auth.refresh_token(one)
    assert await auth.unban(unbanned_as) is True
    assert await auth.ban_of("bob") is await auth.ban_of("bob-everywhere") is None
    assert await auth.is_token_valid((await log_in(auth, wx)).response)


# Arguments


async def test_rejects_an_invalid_duration_or_reason(auth: MPAuthX, wx: WeChatSimulator) -> None:
    result = await log_in(auth, wx)
    not_numbers = (float("nan"), float("inf"), "60", [60], True)
    for seconds in (0, -1, 0.0001, 3_153_600_001, 10**400, *not_numbers):
        with pytest.raises(ParameterError, match="seconds"):
            await auth.ban("bob", seconds)
    for reason in (None, 5, b"spam", "x" * 1001, "a\nb", "a\tb", "\x00", "\ud800", "\u2029"):
        with pytest.raises(ParameterError, match="reason"):
            await auth.ban("bob", reason=reason)
    assert await auth.ban_of("bob") is None
    assert await auth.is_token_valid(result.response)
