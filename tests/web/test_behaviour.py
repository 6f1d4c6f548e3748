"""What all adapters have in common, by real clients of real servers."""

import asyncio
from typing import Any

import pytest
import websockets
from httpx import AsyncClient

from mpauthx_async import MPAuthX, WeChatSimulator
from tests.web.apps import World, serving
from tests.web.raw_client import bearer, send


@pytest.fixture
async def client(port: int) -> AsyncClient:
    async with AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        yield client


async def test_logs_in_and_out(client: AsyncClient, wx: WeChatSimulator) -> None:
    code, info = wx.login("bob"), wx.get_user_info("bob")
    body = {"code": code, "encryptedData": info.encrypted_data, "iv": info.iv}
    body |= {"device": "iPhone 15", "deviceKind": "phone", "errMsg": "login:ok"}
    login = await client.post("/login", json=body)
    assert login.status_code == 200
    assert login.headers["Cache-Control"] == "no-store"
    answer = login.json()
    assert (answer["status_code"], answer["status_message"]) == (1, "OK")
    mine = bearer(answer["response"])

    me = await client.get("/me", headers=mine)
    told = me.json()["response"]
    assert (told["user_id"], told["sku"]) == ("bob", "shop")
    assert (await client.get("/hello", headers=mine)).json() == {"user_id": "bob"}

    logout = await client.post("/logout", headers=mine)
    assert logout.json()["response"] is True
    assert (await client.get("/hello", headers=mine)).status_code == 401
    again = await client.post("/logout", headers=mine)
    assert (again.status_code, again.json()["response"]) == (200, False)


async def test_lists_and_ends_sessions(
    client: AsyncClient, auth: MPAuthX, wx: WeChatSimulator, token: str
) -> None:
    other = (await auth.authorize(wx.login("bob"), device="MacBook", device_kind="desktop")).token
    sessions = (await client.get("/sessions", headers=bearer(token))).json()["response"]
    shown = [(each["device"], each["is_current"]) for each in sessions]
    assert shown == [("MacBook", False), (None, True)]
    ended = await client.delete(f"/sessions/{sessions[0]['id']}", headers=bearer(token))
    assert ended.json()["response"] is True
    assert not await auth.is_token_valid(other)
    assert await auth.is_token_valid(token)


async def test_ends_no_session_of_somebody_else(
    client: AsyncClient, auth: MPAuthX, wx: WeChatSimulator, token: str
) -> None:
    eve = (await auth.authorize(wx.login("eve"))).token
    of_bob = (await auth.authenticate(token)).session_id
    answer = await client.delete(f"/sessions/{of_bob}", headers=bearer(eve))
    assert answer.json()["response"] is False
    assert await auth.is_token_valid(token)


async def test_rotates_a_token(client: AsyncClient, auth: MPAuthX, token: str) -> None:
    rotated = await client.post("/rotate", headers=bearer(token))
    assert await auth.is_token_valid(rotated.json()["response"])
    assert rotated.headers["Cache-Control"] == "no-store"
    refused = await client.get("/hello", headers=bearer(token))
    assert refused.status_code == 401
    assert refused.json()["response"] == {"status": "rotated"}


async def test_excluded_paths_need_no_login(client: AsyncClient) -> None:
    answer = await client.get("/public/page")
    assert (answer.status_code, answer.text) == (200, "public")
    bad_token = await client.get("/public/page", headers=bearer("forged"))
    assert bad_token.status_code == 200


async def test_a_large_body_reaches_the_app_unbuffered(client: AsyncClient, token: str) -> None:
    answer = await client.post("/count", content=b"x" * 10_000_000, headers=bearer(token))
    assert answer.json() == 10_000_000


async def test_a_revoked_token_is_answered_with_its_status(
    client: AsyncClient, auth: MPAuthX, token: str
) -> None:
    await auth.revoke_user("bob")
    answer = await client.get("/hello", headers=bearer(token))
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
    assert answer.json()["status_code"] == 6104
    assert answer.json()["response"] == {"status": "revoked"}


async def test_a_banned_user_is_forbidden(
    client: AsyncClient, auth: MPAuthX, wx: WeChatSimulator, token: str
) -> None:
    await auth.ban("bob", seconds=3600, reason="a note of ours")
    with_token = await client.get("/hello", headers=bearer(token))
    assert with_token.status_code == 403
    assert with_token.json()["response"] == {"status": "banned"}
    assert "WWW-Authenticate" not in with_token.headers
    login = await client.post("/login", json={"code": wx.login("bob")})
    assert (login.status_code, login.json()["status_code"]) == (403, 6106)
    assert login.json()["response"]["until"] > 0
    assert "a note of ours" not in login.text


async def test_a_refused_code_is_a_401(client: AsyncClient) -> None:
    answer = await client.post("/login", json={"code": "used-up"})
    assert (answer.status_code, answer.json()["status_code"]) == (401, 6008)
    assert answer.json()["response"] == {"errcode": 40029}
    assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_closes_the_service_when_the_server_ends(
    framework: str, world: World, token: str
) -> None:
    async with serving(framework, world) as port:
        assert (await send(port, "GET", "/hello", bearer(token))).status == 200
    with pytest.raises(Exception, match="closed"):
        await world.auth.sessions("bob")


WITH_WEBSOCKETS = pytest.mark.parametrize(
    "framework", ["starlette", "fastapi", "aiohttp", "litestar", "quart"], indirect=True
)


@WITH_WEBSOCKETS
async def test_guards_websockets(port: int, token: str) -> None:
    url = f"ws://127.0.0.1:{port}/ws"
    async with websockets.connect(url, additional_headers=bearer(token)) as websocket:
        assert await websocket.recv() == "bob"
    for headers in ([], bearer("forged"), [("Authorization", f"Basic {token}")]):
        assert await refusal_of_websocket(port, headers) == 401


async def refusal_of_websocket(port: int, headers: Any) -> int:
    with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
        await websockets.connect(f"ws://127.0.0.1:{port}/ws", additional_headers=headers)
    status: int = refused.value.response.status_code
    return status


@WITH_WEBSOCKETS
async def test_two_headers_of_a_websocket_are_a_400(port: int, token: str) -> None:
    assert await refusal_of_websocket(port, bearer(token) * 2) == 400


@WITH_WEBSOCKETS
async def test_a_websocket_is_told_that_the_service_does_not_answer(
    framework: str, world: World, token: str
) -> None:
    await world.auth.close()
    async with serving(framework, world) as port:
        assert await refusal_of_websocket(port, bearer(token)) == 503


async def test_concurrent_requests_get_their_own_identity(
    client: AsyncClient, auth: MPAuthX, wx: WeChatSimulator
) -> None:
    names = [f"user-{number}" for number in range(20)]
    tokens = [(await auth.authorize(wx.login(name))).token for name in names]
    calls = (client.get("/hello", headers=bearer(token)) for token in tokens)
    answers = await asyncio.gather(*calls)
    assert [answer.json()["user_id"] for answer in answers] == names
