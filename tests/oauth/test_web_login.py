"""Web logins through the service: the same user and kind of token as in the mini-program."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from mpauthx_async import (
    AuthResult,
    ClosedError,
    ConfigurationError,
    Connections,
    MPAuthX,
    SnapshotUserError,
    StatusCode,
    WeChatAPIError,
    WeChatOAuth,
    WeChatSimulator,
)
from mpauthx_async.simulator import Fault
from tests.helpers.logins import requests_at
from tests.helpers.memory_stores import MemoryTokens, MemoryUsers
from tests.helpers.near_services import Make
from tests.helpers.redis_server import RedisServer
from tests.helpers.sqlite_files import query

WEB, WEB_SECRET = "wxweb", "websecret-websecret"


@pytest.fixture
async def wx() -> AsyncIterator[WeChatSimulator]:
    async with WeChatSimulator(other_apps={WEB: WEB_SECRET}) as simulator:
        yield simulator


@pytest.fixture
async def web(wx: WeChatSimulator, tokens: str, redis: Redis) -> AsyncIterator[WeChatOAuth]:
    """The web logins of another app than the mini-program."""
    names = {"app_id": WEB, "app_secret": WEB_SECRET, "api_base": wx.url}
    async with WeChatOAuth(**names, tokens=tokens) as oauth:
        yield oauth


@pytest.fixture
async def auth(make: Make, tokens: str, web: WeChatOAuth) -> AsyncIterator[MPAuthX]:
    async with make(tokens=tokens, web=web) as service:
        yield service


def rows(folder: Path) -> list[Any]:
    path = folder / "users.db"
    return query(path, "SELECT openId FROM user") if path.exists() else []


# The same person


@pytest.mark.parametrize("web_first", [True, False])
async def test_mini_program_and_web_logins_with_one_union_id_are_one_user(
    auth: MPAuthX, wx: WeChatSimulator, tmp_path: Path, web_first: bool
) -> None:
    def web_login() -> Any:
        return auth.authorize_web(wx.web_login("bob-web", "union-bob", app_id=WEB))

    def login() -> Any:
        return auth.authorize(wx.login("bob", "union-bob"))

    doors = [web_login, login] if web_first else [login, web_login]
    results: list[AuthResult] = [await door() for door in (*doors, *doors)]
    assert [result.is_new_user for result in results] == [True, False, False, False]
    assert {result.user.id for result in results} == {"union-bob"}
    assert {auth.extract_open_id(result.response) for result in results} == {"union-bob"}
    assert [await auth.is_token_valid(result.response) for result in results] == [True] * 4
    assert len(rows(tmp_path)) == 1
    fresh = await auth.refresh_token("union-bob")
    assert [await auth.is_token_valid(result.response) for result in results] == [False] * 4
    assert await auth.is_token_valid(fresh.response)


async def test_without_a_union_id_a_web_user_is_a_separate_user(
    auth: MPAuthX, wx: WeChatSimulator, tmp_path: Path
) -> None:
    first = await auth.authorize(wx.login("bob"))
    second = await auth.authorize_web(wx.web_login("bob-web", app_id=WEB))
    assert [first.is_new_user, second.is_new_user] == [True, True]
    assert [first.user.id, second.user.id] == ["bob", "bob-web"]
    assert len(rows(tmp_path)) == 2
    assert not (await auth.authorize_web(wx.web_login("bob-web", app_id=WEB))).is_new_user


# Scopes and profiles


async def test_a_user_of_snsapi_base_has_no_profile(auth: MPAuthX, wx: WeChatSimulator) -> None:
    wx.set_profile("bob-web", app_id=WEB, nickName="Bob")
    code = wx.web_login("bob-web", scope="snsapi_base", app_id=WEB)
    result = await auth.authorize_web(code)
    assert (result.user.open_id, result.user.nick_name) == ("bob-web", None)
    assert await auth.is_token_valid(result.response)
    assert [request.path for request in wx.requests] == ["/sns/oauth2/access_token"]


@pytest.mark.parametrize("scope", ["snsapi_userinfo", "snsapi_login"])
async def test_a_web_profile_is_kept(auth: MPAuthX, wx: WeChatSimulator, scope: str) -> None:
    def web_login() -> Any:
        code = wx.web_login("bob-web", "union-bob", scope=scope, app_id=WEB)
        return auth.authorize_web(code)

    profile = {"nickName": "Bob 🎈", "gender": 1, "city": "深圳", "province": "广东"}
    wx.set_profile("bob-web", app_id=WEB, **profile)
    result = await web_login()
    user = result.user
    assert (user.nick_name, user.gender, user.city, user.province) == tuple(profile.values())
    assert user.created_at == user.updated_at
    assert user.created_at is not None
    again = await auth.authorize(wx.login("bob", "union-bob"))
    assert (again.user.nick_name, again.user.created_at) == ("Bob 🎈", user.created_at)


# Who does not get in


async def test_a_snapshot_user_gets_no_row_and_no_token(
    auth: MPAuthX, wx: WeChatSimulator, tmp_path: Path, redis: Redis
) -> None:
    with pytest.raises(SnapshotUserError) as caught:
        await auth.authorize_web(wx.web_login("ghost", "union-ghost", app_id=WEB, snapshot=True))
    assert caught.value.code == StatusCode.snapshot_user
    assert rows(tmp_path) == []
    assert await redis.dbsize() == 0
    assert not (tmp_path / "tokens.db").exists()


async def test_a_login_without_its_profile_fails(
    auth: MPAuthX, wx: WeChatSimulator, tmp_path: Path
) -> None:
    wx.fail_next(Fault.TRUNCATED)
    with pytest.raises(Exception, match="ended early"):
        await auth.authorize_web(wx.web_login("bob-web", app_id=WEB))
    assert rows(tmp_path) == []


# Whose app


async def test_by_default_the_app_is_the_services_own(
    make: Make, tokens: str, redis: Redis, wx: WeChatSimulator
) -> None:
    async with make(tokens=tokens) as auth:
        result = await auth.authorize_web(wx.web_login("bob"))
        assert result.user.open_id == "bob"
        with pytest.raises(WeChatAPIError):
            await auth.authorize_web(wx.web_login("bob-web", app_id=WEB))


async def test_web_logins_that_were_passed_stay_open(
    make: Make, tokens: str, web: WeChatOAuth, wx: WeChatSimulator
) -> None:
    async with make(tokens=tokens, web=web) as auth:
        await auth.authorize_web(wx.web_login("bob-web", app_id=WEB))
    assert (await web.get_user("bob-web")).open_id == "bob-web"


async def test_a_custom_token_store_requires_web_to_be_passed(
    make: Make, web: WeChatOAuth, wx: WeChatSimulator
) -> None:
    async with make(users=MemoryUsers(), tokens=MemoryTokens()) as auth:
        with pytest.raises(ConfigurationError, match="`web`"):
            await auth.authorize_web(wx.web_login("bob"))
    async with make(users=MemoryUsers(), tokens=MemoryTokens(), web=web) as auth:
        result = await auth.authorize_web(wx.web_login("bob-web", app_id=WEB))
        assert await auth.is_token_valid(result.response)


async def test_a_custom_token_store_with_redis_connections_needs_no_web(
    make: Make, wx: WeChatSimulator, redis: Redis, redis_server: RedisServer
) -> None:
    async with (
        Connections(redis_server.url) as connections,
        make(users=MemoryUsers(), tokens=MemoryTokens(), connections=connections) as auth,
    ):
        assert (await auth.authorize_web(wx.web_login("bob"))).user.id == "bob"


# Many at once, leaving and closing


async def test_concurrent_calls_of_a_code_are_one_login(auth: MPAuthX, wx: WeChatSimulator) -> None:
    code = wx.web_login("bob-web", app_id=WEB)
    results = await asyncio.gather(*(auth.authorize_web(code) for _ in range(20)))
    assert len({result.response for result in results}) == 1
    assert len(wx.requests) == 2  # the token and the profile


async def test_the_same_text_as_mini_program_and_web_code_is_two_logins(
    auth: MPAuthX, wx: WeChatSimulator
) -> None:
    code = wx.login("bob")
    mine, other = await asyncio.gather(
        auth.authorize(code), auth.authorize_web(code), return_exceptions=True
    )
    assert isinstance(mine, AuthResult)
    assert isinstance(other, WeChatAPIError)


async def test_a_cancelled_caller_leaves_no_token_and_harms_nobody(
    make: Make, auth: MPAuthX, tokens: str, wx: WeChatSimulator
) -> None:
    wx.latency = 0.2
    shared = wx.web_login("shared", app_id=WEB)
    leaving = asyncio.create_task(auth.authorize_web(wx.web_login("leaving", app_id=WEB)))
    both = [asyncio.create_task(auth.authorize_web(shared)) for _ in range(2)]
    await requests_at(wx, 2)
    leaving.cancel()
    both[0].cancel()
    result = await both[1]
    for left in (leaving, both[0]):
        with pytest.raises(asyncio.CancelledError):
            await left
    await auth.close()
    async with make(tokens=tokens) as successor:
        assert await successor.is_token_valid(result.response)
        subject = result.session.ref.subject
        assert list(await successor._parts.tokens.sessions(subject)) == [result.session]
        assert not list(await successor._parts.tokens.sessions(subject._replace(user_id="leaving")))


async def test_close_lets_a_web_login_finish(
    make: Make, tokens: str, redis: Redis, wx: WeChatSimulator
) -> None:
    wx.latency = 0.2
    auth = make(tokens=tokens)
    login = asyncio.create_task(auth.authorize_web(wx.web_login("bob")))
    await requests_at(wx, 1)
    await auth.close()
    assert (await login).response
    with pytest.raises(ClosedError):
        await auth.authorize_web("code")
