"""rotate: a new token in place of the old one, and what follows when the old one is used again."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mpauthx_async import (
    AuthResult,
    InvalidTokenError,
    MPAuthX,
    TokenStatus,
    UserNotFoundError,
    WeChatSimulator,
)
from mpauthx_async.events import Rotated, TokenReuseDetected
from tests.helpers.clock import Clock
from tests.helpers.near_services import Make
from tests.helpers.service_calls import forged, hear, key_calls, log_in, of_kind
from tests.helpers.sqlite_files import run


@pytest.fixture
async def auth(make: Make, tokens: str) -> AsyncIterator[MPAuthX]:
    """A service with a grace that no test outlasts."""
    async with make(tokens=tokens, rotation_grace=3600) as service:
        yield service


@pytest.fixture
async def graceless(make: Make, tokens: str) -> AsyncIterator[MPAuthX]:
    async with make(tokens=tokens, rotation_grace=0) as service:
        yield service


async def status_of_refusal(auth: MPAuthX, token: object) -> TokenStatus:
    """Why `rotate` refuses a token."""
    with pytest.raises(InvalidTokenError) as caught:
        await auth.rotate(token)
    return caught.value.status


async def answers(auth: MPAuthX, *results: AuthResult) -> list[bool]:
    return [await auth.is_token_valid(result.response) for result in results]


# What it gives


async def test_the_session_goes_on_under_a_new_token(auth: MPAuthX, wx: WeChatSimulator) -> None:
    old = await auth.authorize(wx.login("bob"), device="iPhone 15", device_kind="phone")
    new = await auth.rotate(old.response)
    assert new.response != old.response
    assert new.session.id == old.session.id
    assert (new.session.device, new.session.device_kind) == ("iPhone 15", "phone")
    assert new.session.issued_at == old.session.issued_at
    assert new.session.expires_at >= old.session.expires_at
    assert (new.status_code, new.status_message) == (1, "OK")
    assert (new.user.id, new.is_new_user) == ("bob", False)
    assert await auth.sessions("bob") == [new.session]
    assert await auth.session(new.response) == new.session
    assert await auth.session(old.response) is None
    assert await answers(auth, old, new) == [False, True]
    assert await auth.token_status(old.response) is TokenStatus.rotated
    assert auth.extract_open_id(new.response) == "bob"


async def test_a_session_that_rotates_ends_90_days_after_its_login(
    make: Make, wx: WeChatSimulator, tmp_path: Path
) -> None:
    clock, day = Clock(), 86_400
    begun = clock.now
    async with make(tokens=f"sqlite:///{tmp_path}/t.db", token_ttl=30 * day, clock=clock) as auth:
        result = await log_in(auth, wx)
        ends = []
        for _ in range(4):
            clock.now += 20 * day
            result = await auth.rotate(result.token)
            ends.append(result.session.expires_at / 1000 - begun)
        assert ends == [50 * day, 70 * day, 90 * day, 90 * day]
        clock.now = begun + 90 * day - 1
        assert await auth.is_token_valid(result.token)
        clock.now += 1
        assert not await auth.is_token_valid(result.token)
        assert await status_of_refusal(auth, result.token) is TokenStatus.unknown


async def test_a_life_of_more_than_90_days_is_not_cut_short_by_a_rotation(
    make: Make, wx: WeChatSimulator, tmp_path: Path
) -> None:
    clock, day = Clock(), 86_400
    async with make(tokens=f"sqlite:///{tmp_path}/t.db", token_ttl=200 * day, clock=clock) as auth:
        old = await log_in(auth, wx)
        clock.now += 100 * day
        new = await auth.rotate(old.token)
        assert new.session.expires_at == old.session.expires_at


async def test_another_absolute_end_than_90_days_is_set_by_absolute_ttl(
    make: Make, wx: WeChatSimulator, tmp_path: Path
) -> None:
    clock, day = Clock(), 86_400
    url = f"sqlite:///{tmp_path}/t.db"
    settings = {"tokens": url, "token_ttl": 30 * day, "clock": clock}
    async with make(**settings) as auth:
        old = await log_in(auth, wx)
    async with make(**settings, absolute_ttl=40 * day) as auth:
        clock.now += 20 * day
        new = await auth.rotate(old.token)
        assert new.session.expires_at == old.session.issued_at + 40 * day * 1000


async def test_many_rotations_at_once_give_one_token_without_any_grace(
    graceless: MPAuthX, wx: WeChatSimulator
) -> None:
    old = (await log_in(graceless, wx)).response
    results = await asyncio.gather(*(graceless.rotate(old) for _ in range(20)))
    (token,) = {result.response for result in results}
    assert await graceless.is_token_valid(token)


async def test_the_session_key_goes_on_with_the_session(auth: MPAuthX, wx: WeChatSimulator) -> None:
    old = await log_in(auth, wx)
    sealed = wx.seal("bob", {"openGId": "g1"})
    new = await auth.rotate(old.response)
    assert (await auth.decrypt(new.response, *sealed))["openGId"] == "g1"
    for call in key_calls(auth, old.response):
        with pytest.raises(InvalidTokenError) as caught:
            await call
        assert caught.value.status is TokenStatus.rotated
    assert await auth.is_token_valid(new.response)
    await auth.reset_session_key(new.response)
    assert (await auth.decrypt(new.response, *wx.seal("bob", {"openGId": "g2"})))["openGId"] == "g2"


async def test_a_token_of_a_deleted_user_is_not_rotated_and_stays_valid(
    auth: MPAuthX, wx: WeChatSimulator, tmp_path: Path
) -> None:
    gone, stays = await log_in(auth, wx), await log_in(auth, wx, "eve")
    run(tmp_path / "users.db", "DELETE FROM user WHERE openId = 'bob'")
    results = await asyncio.gather(
        *(auth.rotate(result.response) for result in (gone, stays)), return_exceptions=True
    )
    assert [type(result) for result in results] == [UserNotFoundError, AuthResult]
    assert await answers(auth, gone, stays) == [True, False]
    assert await auth.session(gone.response) == gone.session


# The same call again


async def test_within_the_grace_the_very_same_token_comes_again(
    auth: MPAuthX, make: Make, tokens: str, wx: WeChatSimulator
) -> None:
    old = await log_in(auth, wx)
    new = await auth.rotate(old.response)
    async with make(tokens=tokens, rotation_grace=3600) as other:
        for service in (auth, other, auth):
            again = await service.rotate(old.response)
            assert again.response == new.response
            assert again.session == new.session
            assert not await service.is_token_valid(old.response)
    assert await answers(auth, new) == [True]


async def test_the_grace_ends(make: Make, tmp_path: Path, wx: WeChatSimulator) -> None:
    clock = Clock()
    url = f"sqlite:///{tmp_path}/t.db"
    async with make(tokens=url, rotation_grace=10, clock=clock) as auth:
        old = await log_in(auth, wx)
        new = await auth.rotate(old.response)
        clock.now += 9.9
        assert (await auth.rotate(old.response)).response == new.response
        assert await answers(auth, old, new) == [False, True]
        clock.now += 0.1
        assert await auth.token_status(old.response) is TokenStatus.rotated
        assert await status_of_refusal(auth, old.response) is TokenStatus.reused
        assert await answers(auth, new) == [False]


# An old token, used after its grace


@pytest.mark.parametrize("use", ["rotate", "is_token_valid"])
async def test_an_old_token_that_is_used_ends_the_session(
    graceless: MPAuthX, wx: WeChatSimulator, use: str
) -> None:
    auth = graceless
    old = await log_in(auth, wx)
    another = await log_in(auth, wx)
    new = await auth.rotate(old.response)
    if use == "rotate":
        assert await status_of_refusal(auth, old.response) is TokenStatus.reused
    else:
        assert await auth.is_token_valid(old.response) is False
    assert await answers(auth, old, new, another) == [False, False, True]
    for token in (old.response, new.response):
        assert await auth.token_status(token) is TokenStatus.reused
        assert await status_of_refusal(auth, token) is TokenStatus.reused
    assert await auth.session(new.response) is None
    assert await auth.sessions("bob") == [another.session]


async def test_concurrent_reuse_of_a_token_emits_one_event(
    graceless: MPAuthX, make: Make, tokens: str, wx: WeChatSimulator
) -> None:
    async with make(tokens=tokens, rotation_grace=0) as other:
        heard = [hear(service) for service in (graceless, other)]
        old = (await log_in(graceless, wx)).response
        new = (await graceless.rotate(old)).response
        uses = [
            call
            for service in (graceless, other)
            for _ in range(10)
            for call in (service.is_token_valid(old), service.rotate(old))
        ]
        outcomes = await asyncio.gather(*uses, return_exceptions=True)
        assert outcomes[::2] == [False] * 20
        assert {type(outcome) for outcome in outcomes[1::2]} == {InvalidTokenError}
        assert await graceless.token_status(new) is TokenStatus.reused
    await graceless.close()
    assert len(of_kind([*heard[0], *heard[1]], TokenReuseDetected)) == 1


async def test_an_old_tokens_status_ends_nothing(graceless: MPAuthX, wx: WeChatSimulator) -> None:
    auth = graceless
    heard = hear(auth)
    old = await log_in(auth, wx)
    new = await auth.rotate(old.response)
    for _ in range(3):
        assert await auth.token_status(old.response) is TokenStatus.rotated
    assert await answers(auth, new) == [True]
    await auth.close()
    assert len(of_kind(heard, Rotated)) == 1
    assert not of_kind(heard, TokenReuseDetected)


@pytest.mark.parametrize("use", ["session", "check_session_key", "reset_session_key", "decrypt"])
async def test_every_method_that_takes_a_token_detects_reuse(
    graceless: MPAuthX, wx: WeChatSimulator, use: str
) -> None:
    auth = graceless
    old = await log_in(auth, wx)
    new = await auth.rotate(old.response)
    arguments = ("sealed", "iv") if use == "decrypt" else ()
    if use == "session":
        assert await auth.session(old.response) is None
    else:
        with pytest.raises(InvalidTokenError) as caught:
            await getattr(auth, use)(old.response, *arguments)
        assert caught.value.status is TokenStatus.reused
    assert await auth.token_status(new.response) is TokenStatus.reused


async def test_a_forged_old_token_ends_nothing(graceless: MPAuthX, wx: WeChatSimulator) -> None:
    auth = graceless
    old = await log_in(auth, wx)
    new = await auth.rotate(old.response)
    assert await status_of_refusal(auth, forged(old.response)) is TokenStatus.unknown
    assert not await auth.is_token_valid(forged(old.response))
    assert await answers(auth, new) == [True]
