"""What a service tells of its sessions, and how it ends them."""

import pytest

from mpauthx_async import (
    InvalidTokenError,
    LoginPolicy,
    MPAuthX,
    ParameterError,
    TokenStatus,
    WeChatSimulator,
)
from tests.helpers.near_services import Make
from tests.helpers.service_calls import FORGERIES, devices, forged, key_calls, log_in

KEPT_EXACTLY = (
    *("iPhone 15", "d" * 64, "📱" * 50, "é" * 64, "👩‍👩‍👧 family's"),
    *("\"quoted\" 'twice' \\ |,;%{}[]$1\\n", "小明的华为手机", " ", "مرحبا"),
)
NO_DEVICES = (
    *("d" * 10_240, "d" * 65, "📱" * 51, "华" * 67, "one\ntwo", "one\r", "one\ttwo", "\x00"),
    *("\x1b[31mred", "\x7f", "\x85", "\u2028", "\ud800", "ok \udfff", b"iPhone", 15, ["iPhone"]),
    True,
)


# Devices


async def test_a_devices_name_is_kept_exactly(auth: MPAuthX, wx: WeChatSimulator) -> None:
    for device in KEPT_EXACTLY:
        kind = device[::-1]
        result = await auth.authorize(wx.login("bob"), device=device, device_kind=kind)
        session = await auth.session(result.response)
        assert (session.device, session.device_kind) == (device, kind)
    assert devices(await auth.sessions("bob")) == list(reversed(KEPT_EXACTLY))


@pytest.mark.parametrize("device", [None, ""])
async def test_devices_need_no_name(auth: MPAuthX, wx: WeChatSimulator, device: str | None) -> None:
    result = await auth.authorize(wx.login("bob"), device=device, device_kind=device)
    session = await auth.session(result.response)
    assert session.device is session.device_kind is None


@pytest.mark.parametrize("parameter", ["device", "device_kind"])
async def test_rejects_an_invalid_device_before_using_the_code(
    auth: MPAuthX, wx: WeChatSimulator, parameter: str
) -> None:
    code = wx.login("bob")
    for text in NO_DEVICES:
        with pytest.raises(ParameterError, match=f"^{parameter} must be a text of one") as caught:
            await auth.authorize(code, **{parameter: text})
        assert caught.value.code == 6001
    assert not wx.requests
    assert (await auth.authorize(code)).user.id == "bob"


async def test_rejects_an_invalid_user_id(auth: MPAuthX) -> None:
    for user_id in (None, "", 5, b"bob", "a b", "a|b", "x" * 129, "\ud800", "\n"):
        for call in (
            auth.sessions(user_id),
            auth.revoke_session(user_id, "A" * 16),
            auth.revoke_user(user_id),
            auth.ban(user_id),
            auth.unban(user_id),
            auth.ban_of(user_id),
            auth.forget_user(user_id),
            auth.clear_profile(user_id, ["city"]),
        ):
            with pytest.raises(ParameterError, match="user_id"):
                await call
    for user_id in (None, "", 5):
        with pytest.raises(ParameterError):
            await auth.refresh_token(user_id)


# Ending them


async def test_a_session_is_revoked_by_its_id(auth: MPAuthX, wx: WeChatSimulator) -> None:
    phone, desktop = [await log_in(auth, wx, device=name) for name in ("phone", "desktop")]
    assert await auth.revoke_session("bob", phone.session.id) is True
    assert await auth.revoke_session("bob", phone.session.id) is False
    assert await auth.token_status(phone.response) is TokenStatus.revoked
    assert devices(await auth.sessions("bob")) == ["desktop"]
    assert await auth.is_token_valid(desktop.response)


async def test_a_session_id_is_a_text(auth: MPAuthX) -> None:
    for session_id in (None, "", 5, b"A" * 16):
        with pytest.raises(ParameterError, match="session_id"):
            await auth.revoke_session("bob", session_id)


async def test_all_sessions_but_the_callers_own_end(auth: MPAuthX, wx: WeChatSimulator) -> None:
    mine = [await log_in(auth, wx) for _ in range(3)]
    assert await auth.revoke_user("bob", except_token=mine[1].response) == 2
    assert await auth.sessions("bob") == [mine[1].session]
    assert await auth.revoke_user("bob", except_token=mine[1].response) == 0
    assert await auth.is_token_valid(mine[1].response)


async def test_rejects_an_except_token_of_another_user(
    auth: MPAuthX, make: Make, tokens: str, wx: WeChatSimulator
) -> None:
    mine, hers = await log_in(auth, wx), await log_in(auth, wx, "eve")
    async with make(tokens=tokens, sku="debug") as debug:
        elsewhere = await log_in(debug, wx)
    for bad in (hers.response, elsewhere.response, forged(mine.response), *FORGERIES[1:]):
        with pytest.raises(ParameterError, match="except_token"):
            await auth.revoke_user("bob", except_token=bad)
    assert await auth.sessions("bob") == [mine.session]
    assert await auth.sessions("eve") == [hers.session]


# Users who had an openId first, and a unionId later


@pytest.mark.parametrize("user_id", ["bob", "bob-everywhere"])
async def test_sessions_from_before_a_union_id_was_known_are_the_users_too(
    auth: MPAuthX, wx: WeChatSimulator, user_id: str
) -> None:
    early = await log_in(auth, wx, device="early")
    late = await log_in(auth, wx, device="late", union_id="bob-everywhere")
    third = await log_in(auth, wx, device="third")
    assert [result.session.user_id for result in (early, late)] == ["bob", "bob-everywhere"]
    assert devices(await auth.sessions(user_id)) == ["third", "late", "early"]
    assert await auth.revoke_session(user_id, early.session.id) is True
    assert await auth.token_status(early.response) is TokenStatus.revoked
    assert await auth.revoke_user(user_id, except_token=third.response) == 1
    assert devices(await auth.sessions(user_id)) == ["third"]


@pytest.mark.parametrize("user_id", ["bob", "bob-everywhere"])
async def test_a_session_from_before_a_union_id_was_known_may_be_spared(
    auth: MPAuthX, wx: WeChatSimulator, user_id: str
) -> None:
    early = [await log_in(auth, wx) for _ in range(2)]
    await log_in(auth, wx, union_id="bob-everywhere")
    assert await auth.revoke_user(user_id, except_token=early[0].response) == 2
    assert await auth.sessions(user_id) == [early[0].session]
    assert await auth.revoke_user(user_id) == 1


# What has become of a token


async def test_the_status_of_a_token_tells_what_became_of_it(
    make: Make, tokens: str, wx: WeChatSimulator
) -> None:
    policy = LoginPolicy(max_sessions=1)
    async with make(tokens=tokens, policy=policy, rotation_grace=0) as auth:
        active = (await log_in(auth, wx)).response
        replaced = (await log_in(auth, wx, "eve")).response
        revoked = (await log_in(auth, wx, "eve")).response
        banned = (await log_in(auth, wx, "mallory")).response
        rotated = (await log_in(auth, wx, "alice")).response
        reused = (await log_in(auth, wx, "carol")).response
        await auth.revoke(revoked)
        await auth.ban("mallory")
        await auth.rotate(rotated)
        after = (await auth.rotate(reused)).response
        assert not await auth.is_token_valid(reused)
        expected = {
            active: TokenStatus.active,
            replaced: TokenStatus.replaced,
            revoked: TokenStatus.revoked,
            banned: TokenStatus.banned,
            rotated: TokenStatus.rotated,
            reused: TokenStatus.reused,
            after: TokenStatus.reused,
            forged(active): TokenStatus.unknown,
        }
        assert {token: await auth.token_status(token) for token in expected} == expected
        for token in expected:
            assert await auth.is_token_valid(token) is (token == active)
        expected[rotated] = TokenStatus.reused  # by that call
        del expected[active]
        for token, status in expected.items():
            for call in (auth.authenticate(token), auth.rotate(token), *key_calls(auth, token)):
                with pytest.raises(InvalidTokenError) as caught:
                    await call
                assert (caught.value.status, caught.value.code) == (status, 6104)


async def test_every_method_refuses_an_invalid_token(auth: MPAuthX, wx: WeChatSimulator) -> None:
    token = (await log_in(auth, wx)).response
    for bad in (
        *(*FORGERIES, "\x00\n\t", "a|b", "a|b|c", "a|b|c|d", "||", "\ud800|shop|" + token[-43:]),
        *(
            forged(token),
            token.encode(),
            [token],
            token + "x" * 1_000_000,
            token + "\n",
            " " + token,
        ),
        *(token.replace("shop", "debug"), token.replace("bob", "eve")),
    ):
        assert await auth.is_token_valid(bad) is False
        assert await auth.session(bad) is None
        assert await auth.revoke(bad) is False
        assert await auth.token_status(bad) is TokenStatus.unknown
        for call in (auth.authenticate(bad), auth.rotate(bad), *key_calls(auth, bad)):
            with pytest.raises(InvalidTokenError) as caught:
                await call
            assert caught.value.status is TokenStatus.unknown
    assert len(wx.requests) == 1
    assert await auth.is_token_valid(token)
