"""Cookies in place of the Authorization header, for web pages, in each adapter."""

from functools import partial

import pytest
import websockets

from mpauthx_async import MPAuthX, WeChatSimulator
from tests.web.apps import World
from tests.web.raw_client import Reply, login_body, send

SAME_ORIGIN = ("Sec-Fetch-Site", "same-origin")
OTHER_ORIGINS = ([], [("Sec-Fetch-Site", "cross-site")], [("Origin", "https://evil.example")])
ATTRIBUTES = "Path=/; Secure; HttpOnly; SameSite=Lax"


pytestmark = pytest.mark.parametrize(
    "framework", ["starlette", "fastapi", "aiohttp", "django"], indirect=True
)


@pytest.fixture
def world(auth: MPAuthX) -> World:
    return World(auth, {"cookies": True})


def set_cookie(reply: Reply) -> str:
    cookie = reply.header("set-cookie")
    assert cookie is not None
    return cookie


def cookie(token: str) -> tuple[str, str]:
    return "Cookie", f"__Host-mpauthx={token}"


async def test_a_login_of_our_page_sets_the_cookie(port: int, wx: WeChatSimulator) -> None:
    reply = await send(port, "POST", "/login", [SAME_ORIGIN], login_body(wx))
    token = reply.json()["response"]
    assert set_cookie(reply) == f"__Host-mpauthx={token}; Max-Age=34560000; {ATTRIBUTES}"
    hello = await send(port, "GET", "/hello", [cookie(token)])
    assert hello.json() == {"user_id": "bob"}


async def test_another_sites_page_cannot_log_a_browser_in(port: int, wx: WeChatSimulator) -> None:
    for origin in OTHER_ORIGINS:
        reply = await send(port, "POST", "/login", origin, login_body(wx, "eve"))
        assert (reply.status, reply.header("set-cookie")) == (200, None)


async def test_another_sites_page_cannot_act(port: int, token: str, auth: MPAuthX) -> None:
    for origin in OTHER_ORIGINS:
        for path in ("/logout", "/rotate", "/count"):
            reply = await send(port, "POST", path, [cookie(token), *origin])
            assert reply.status == 403
            assert reply.json()["response"] is None
    assert await auth.is_token_valid(token)


async def test_scripts_do_not_get_a_rotated_token(port: int, token: str, auth: MPAuthX) -> None:
    headers = [cookie(token), SAME_ORIGIN, ("Authorization", "Bearer ")]
    reply = await send(port, "POST", "/rotate", headers)
    assert reply.json()["response"] is None
    rotated = set_cookie(reply).removeprefix("__Host-mpauthx=").partition(";")[0]
    assert rotated != token
    assert await auth.is_token_valid(rotated)


async def test_logging_out_clears_the_cookie(port: int, token: str, auth: MPAuthX) -> None:
    reply = await send(port, "POST", "/logout", [cookie(token), SAME_ORIGIN])
    assert set_cookie(reply) == f"__Host-mpauthx=; Max-Age=0; {ATTRIBUTES}"
    assert not await auth.is_token_valid(token)


async def test_two_cookies_are_a_400(port: int, token: str) -> None:
    both = ("Cookie", f"__Host-mpauthx={token}; __Host-mpauthx={token}")
    assert (await send(port, "GET", "/hello", [both])).status == 400


async def test_a_cookie_of_a_sibling_domain_logs_nobody_in(port: int, token: str) -> None:
    for blank in (b"\x85", b"\xa0", "\u2000".encode()):  # what str.strip() takes for blanks
        forged = ("Cookie", blank + f"__Host-mpauthx={token}".encode())
        assert (await send(port, "GET", "/hello", [forged])).status == 401
        both = [("Cookie", f"__Host-mpauthx={token}; ".encode() + forged[1])]
        assert (await send(port, "GET", "/hello", both)).status == 200


async def test_another_sites_page_opens_no_websocket(framework: str, port: int, token: str) -> None:
    if framework == "django":
        return  # has no websockets
    url = f"ws://127.0.0.1:{port}/ws"
    connect = partial(websockets.connect, url, additional_headers=[cookie(token)])
    async with connect(origin=f"http://127.0.0.1:{port}") as websocket:
        assert await websocket.recv() == "bob"
    with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
        await connect(origin="https://evil.example")
    assert refused.value.response.status_code == 403
