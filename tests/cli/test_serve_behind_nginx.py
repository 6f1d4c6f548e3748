"""The nginx configuration of the guide, run by nginx in front of the server and of a service."""

import asyncio
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from mpauthx_async import MPAuthX, WeChatSimulator
from tests.helpers.redis_server import RedisServer
from tests.helpers.serve_process import ServeProcess, environment_of, serving

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "serve.md"
_CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {guide}
}}
"""


@dataclass
class World:
    """nginx and what is behind it.

    Attributes:
        http: a client whose requests all go to nginx.
        server: the login server.
        redis: its token store.
        wx: its WeChat.
        seen: what arrived at the service.
    """

    http: aiohttp.ClientSession
    server: ServeProcess
    redis: RedisServer
    wx: WeChatSimulator
    seen: list[web.Request]

    async def log_in(self, user: str) -> str:
        body = {"code": self.wx.login(user)}
        async with self.http.post("http://app/auth/login", json=body) as answer:
            assert answer.status == 200
            return str((await answer.json())["response"])

    def get(self, path: str, token: str) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self.http.get(f"http://app{path}", headers=bearer(token))

    async def status(self, path: str, token: str = "", **headers: str) -> int:
        headers |= bearer(token) if token else {}
        async with self.http.get(f"http://app{path}", headers=headers) as answer:
            return answer.status


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder for a socket, whose path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="mpauthx-") as folder:
        yield Path(folder)


@pytest.fixture
async def world(
    wx: WeChatSimulator, server: RedisServer, tmp_path: Path, short_folder: Path
) -> AsyncIterator[World]:
    environment = environment_of(wx, tokens=server.url)
    seen: list[web.Request] = []
    async with (
        serving(tmp_path, "--prefix", "/auth", "--cookies", environment=environment) as login,
        TestServer(_service(seen)) as service,
        _nginx(short_folder, login.url, str(service.make_url("")).rstrip("/")) as path,
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as http,
    ):
        yield World(http, login, server, wx, seen)


def _service(seen: list[web.Request]) -> web.Application:
    """A service that lets everybody in, for nginx lets nobody else through."""

    async def handle(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        if request.path == "/broken":
            return web.Response(status=500, text="the service's own fault")
        if request.headers.get("Upgrade") != "websocket":
            return web.Response(body=await request.read())
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(f"{request.headers['X-User-Id']}: {message.data}")
        return socket

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    return app


@asynccontextmanager
async def _nginx(folder: Path, login: str, service: str) -> AsyncIterator[str]:
    """Run the guide's configuration; gives the path of the socket where nginx listens."""
    folders = "/usr/sbin:/usr/local/sbin:/opt/homebrew/bin"
    program = shutil.which("nginx", path=folders) or shutil.which("nginx")
    assert program, "These tests need nginx on PATH: apt-get install nginx."
    (guide,) = re.findall(r"```nginx\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    socket = folder / "socket"
    for written, real in (
        ("listen 80;", f"listen unix:{socket};"),
        ("server 127.0.0.1:8000;", f"server {login.removeprefix('http://')};"),
        ("http://127.0.0.1:9000;", f"{service};"),
    ):
        assert guide.count(written) == 1
        guide = guide.replace(written, real)
    configuration = folder / "nginx.conf"
    configuration.write_text(_CONFIGURATION.format(folder=folder, guide=guide))
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(program, "-p", str(folder), "-c", str(configuration), "-e", "stderr"), stderr=log
        )
    try:
        async with asyncio.timeout(60):
            while not socket.exists():
                assert process.returncode is None, (folder / "log").read_text()
                await asyncio.sleep(0.01)
        yield str(socket)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def test_a_service_learns_whose_request_it_is(world: World) -> None:
    token = await world.log_in("bob")
    assert await world.status("/orders/7?page=2", token) == 200
    (request,) = world.seen
    assert request.raw_path == "/orders/7?page=2"
    assert request.headers.getall("X-User-Id") == ["bob"]
    assert request.headers.getall("X-Session-Id") == [token.rpartition("|")[2][:16]]

    chinese = await world.log_in("张三")
    assert await world.status("/", chinese) == 200
    assert world.seen[-1].headers["X-User-Id"] == "%E5%BC%A0%E4%B8%89"


async def test_requests_of_any_method_to_any_path_need_a_token(world: World) -> None:
    token = await world.log_in("bob")
    methods = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    paths = ("/", "/a/b", "/a%2Fb", "/a//b", "/verify", "/healthz", "/metrics")
    for method, path in product(methods, paths):
        url, body = f"http://app{path}", None if method in ("GET", "HEAD") else b"x" * 100_000
        async with world.http.request(method, url, data=body) as answer:
            assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert not world.seen
        async with world.http.request(method, url, data=body, headers=bearer(token)) as answer:
            assert (answer.status, await answer.read()) == (200, body or b"")
        assert world.seen.pop().method == method


async def test_what_a_client_claims_is_replaced(world: World) -> None:
    token = await world.log_in("bob")
    claims = {"X-User-Id": "alice", "x-session-id": "a" * 16, "X_User_Id": "alice"}
    assert await world.status("/", **claims) == 401
    assert await world.status("/", token, **claims) == 200
    (request,) = world.seen
    assert request.headers.getall("X-User-Id") == ["bob"]
    assert request.headers.getall("X-Session-Id") == [token.rpartition("|")[2][:16]]
    assert "X_User_Id" not in request.headers


async def test_nobody_asks_for_the_verification_itself(world: World) -> None:
    assert await world.status("/_verify", await world.log_in("bob")) == 404


async def test_a_token_opens_nothing_after_its_end(world: World) -> None:
    token, other = await world.log_in("bob"), await world.log_in("bob")
    async with world.http.post("http://app/auth/logout", headers=bearer(token)) as answer:
        assert answer.status == 200
    async with world.get("/", token) as answer:
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
    assert await world.status("/", other) == 200
    assert await world.status("/", other + "x") == 401
    assert len(world.seen) == 1


async def test_a_banned_user_is_forbidden(
    world: World, make: Callable[..., MPAuthX], tmp_path: Path
) -> None:
    token = await world.log_in("bob")
    users = f"sqlite:///{tmp_path}/mpauthx-users.db"
    async with make(sku="default", users=users, tokens=world.redis.url) as admin:
        await admin.ban("bob")
    assert await world.status("/", token) == 403
    assert not world.seen


async def test_a_websocket_needs_a_token(world: World) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
        await world.http.ws_connect("http://app/ws")
    headers = {"Authorization": f"Bearer {await world.log_in('bob')}", "X-User-Id": "alice"}
    async with world.http.ws_connect("http://app/ws", headers=headers) as socket:
        await socket.send_str("hello")
        assert await socket.receive_str() == "bob: hello"


async def test_pages_of_the_same_site_get_a_cookie(world: World) -> None:
    for origin, gets_one in (("https://app", True), ("https://login", False)):
        body, url = {"code": world.wx.login("bob")}, "http://app/auth/login"
        async with world.http.post(url, json=body, headers={"Origin": origin}) as answer:
            assert answer.status == 200
            assert ("Set-Cookie" in answer.headers) == gets_one


async def test_two_tokens_are_refused(world: World) -> None:
    token = await world.log_in("bob")
    headers = [("Authorization", f"Bearer {token}"), ("Authorization", "Bearer other")]
    async with world.http.get("http://app/", headers=headers) as answer:
        assert answer.status == 400
    assert not world.seen


async def test_an_outage_tells_clients_to_try_again(world: World) -> None:
    token = await world.log_in("bob")
    async with world.get("/broken", token) as answer:
        assert (answer.status, await answer.text()) == (500, "the service's own fault")
    world.seen.clear()
    for stop in (asyncio.to_thread(world.redis.stop), world.server.stop()):
        await stop
        async with world.get("/", token) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert not world.seen
