"""Many mini-programs behind one web app: the app is named in the path, or in a header."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
import websockets
from aiohttp import web
from fastapi import FastAPI, Security, WebSocket
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute

from mpauthx_async import Apps, Identity, WeChatSimulator
from mpauthx_async.web import aiohttp as mpauthx_aiohttp
from mpauthx_async.web.asgi import MPAuthXMiddleware
from mpauthx_async.web.fastapi import MPAuthXGuard
from tests.helpers.many_apps import NAMES, SECRETS, Shop
from tests.helpers.redis_server import RedisServer
from tests.web.apps import aiohttp_ws, greet, serve

HEADER = "X-App-Id"


@pytest.fixture
async def wx() -> AsyncIterator[WeChatSimulator]:
    async with WeChatSimulator(other_apps=SECRETS) as simulator:
        yield simulator


@pytest.fixture
async def shop(wx: WeChatSimulator) -> Shop:
    return Shop(wx)


@pytest.fixture
async def apps(
    shop: Shop, redis: Redis, redis_server: RedisServer, path: Path
) -> AsyncIterator[Apps]:
    users = f"sqlite:///{path}"
    async with Apps(shop.load, users=users, tokens=redis_server.url) as apps:
        yield apps


def fastapi_app(apps: Apps) -> FastAPI:
    guard = MPAuthXGuard(lambda connection: apps.use(connection.path_params["app"]))
    user_of = Annotated[Identity, Security(guard)]
    app = FastAPI(lifespan=guard.lifespan)
    guard.install(app)
    app.include_router(guard.router(prefix="/{app}"))

    @app.get("/{app}/hello")
    async def hello(app: str, user: user_of) -> dict[str, str]:
        return {"user_id": user.user_id, "app": app}

    @app.websocket("/{app}/ws")
    async def ws(websocket: WebSocket, user: user_of) -> None:
        await greet(websocket, user.user_id)

    return app


def asgi_app(apps: Apps) -> MPAuthXMiddleware:
    def app_id_of(connection: Any) -> str:
        return dict(connection["headers"]).get(HEADER.lower().encode(), b"").decode("latin-1")

    async def hello(request: Any) -> JSONResponse:
        return JSONResponse({"user_id": request.user.identity, "app": app_id_of(request.scope)})

    async def ws(websocket: Any) -> None:
        await greet(websocket, websocket.user.identity)

    inner = Starlette(routes=[Route("/hello", hello), WebSocketRoute("/ws", ws)])
    return MPAuthXMiddleware(inner, lambda scope: apps.use(app_id_of(scope)), prefix="")


def aiohttp_app(apps: Apps) -> web.Application:
    async def hello(request: web.Request) -> web.Response:
        user = mpauthx_aiohttp.identity(request)
        return web.json_response({"user_id": user.user_id, "app": request.match_info["app"]})

    app = web.Application()
    mpauthx_aiohttp.setup(
        app, lambda request: apps.use(request.match_info.get("app", "")), prefix="/{app}"
    )
    app.add_routes([web.get("/{app}/hello", hello), web.get("/{app}/ws", aiohttp_ws)])
    return app


class Site:
    """A web app over Apps, as clients of each mini-program see it."""

    def __init__(self, port: int, *, is_in_path: bool) -> None:
        self._port = port
        self._is_in_path = is_in_path

    async def ask(
        self, app_id: str, call: str, token: str | None = None, **options: Any
    ) -> httpx.Response:
        """Make a call such as `GET /me`."""
        method, _, path = call.partition(" ")
        url = f"http://127.0.0.1:{self._port}{self._prefix(app_id)}{path}"
        headers = self._headers(app_id, token)
        async with httpx.AsyncClient() as client:
            return await client.request(method, url, headers=headers, **options)

    def connect(self, app_id: str, token: str | None) -> websockets.connect:
        url = f"ws://127.0.0.1:{self._port}{self._prefix(app_id)}/ws"
        return websockets.connect(url, additional_headers=self._headers(app_id, token))

    async def log_in(self, app_id: str, code: str) -> str:
        answer = await self.ask(app_id, "POST /login", json={"code": code})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["response"])

    def _prefix(self, app_id: str) -> str:
        return f"/{app_id}" if self._is_in_path else ""

    def _headers(self, app_id: str, token: str | None) -> dict[str, str]:
        headers = {} if self._is_in_path else {HEADER: app_id}
        return headers if token is None else {**headers, "Authorization": f"Bearer {token}"}


FRAMEWORKS: dict[str, Callable[[Apps], Any]] = {
    "fastapi": fastapi_app,
    "asgi": asgi_app,
    "aiohttp": aiohttp_app,
}


@pytest.fixture(params=FRAMEWORKS)
async def site(request: pytest.FixtureRequest, apps: Apps) -> AsyncIterator[Site]:
    async with serve(FRAMEWORKS[request.param](apps)) as port:
        yield Site(port, is_in_path=request.param != "asgi")


async def test_each_app_logs_its_own_users_in_and_out(site: Site, wx: WeChatSimulator) -> None:
    for app_id in NAMES:
        user = f"bob-of-{app_id}"
        token = await site.log_in(app_id, wx.login(user, app_id=app_id))
        me = await site.ask(app_id, "GET /me", token)
        assert me.json()["response"]["user_id"] == user
        hello = await site.ask(app_id, "GET /hello", token)
        assert hello.json() == {"user_id": user, "app": app_id}
        sessions = await site.ask(app_id, "GET /sessions", token)
        assert [one["is_current"] for one in sessions.json()["response"]] == [True]
        assert (await site.ask(app_id, "POST /logout", token)).json()["response"] is True
        assert (await site.ask(app_id, "GET /hello", token)).status_code == 401


async def test_rejects_the_token_of_another_app(site: Site, wx: WeChatSimulator) -> None:
    token = await site.log_in("wxaaaa", wx.login("bob", app_id="wxaaaa"))
    for call in ("GET /hello", "GET /me", "GET /sessions", "POST /rotate"):
        refused = await site.ask("wxbbbb", call, token)
        assert (refused.status_code, refused.json()["status_code"]) == (401, 6104), call
    assert (await site.ask("wxbbbb", "POST /logout", token)).json()["response"] is False
    assert (await site.ask("wxaaaa", "GET /hello", token)).status_code == 200


async def test_rejects_the_code_of_another_app(site: Site, wx: WeChatSimulator) -> None:
    code = wx.login("bob", app_id="wxaaaa")
    refused = await site.ask("wxbbbb", "POST /login", json={"code": code})
    assert (refused.status_code, refused.json()["status_code"]) == (401, 6008)


@pytest.mark.parametrize("app_id", ["wxdddd", "x" * 65, "wx%20a"])
async def test_an_app_that_nobody_knows_is_not_found(site: Site, app_id: str) -> None:
    for call in ("GET /hello", "GET /me", "POST /login"):
        answer = await site.ask(app_id, call, "a|b|c", json={"code": "code"})
        assert answer.status_code == 404, call
        message = "There is no app with this app_id."
        assert answer.json() == {"status_code": 6109, "status_message": message, "response": None}


async def test_an_app_can_be_added_while_the_server_runs(
    site: Site, shop: Shop, wx: WeChatSimulator
) -> None:
    row = shop.apps.pop("wxbbbb")
    assert (await site.ask("wxbbbb", "GET /me")).status_code == 404
    shop.apps["wxbbbb"] = row
    assert await site.log_in("wxbbbb", wx.login("bob", app_id="wxbbbb"))


async def test_a_load_that_fails_is_unavailable_for_its_app_alone(
    site: Site, shop: Shop, wx: WeChatSimulator
) -> None:
    token = await site.log_in("wxaaaa", wx.login("bob", app_id="wxaaaa"))
    shop.failure = OSError("the table is down")
    for call in ("GET /hello", "POST /login"):
        answer = await site.ask("wxbbbb", call, token, json={"code": "code"})
        assert (answer.status_code, answer.json()["response"]) == (503, None), call
        assert "table" not in answer.text
    assert (await site.ask("wxaaaa", "GET /hello", token)).status_code == 200
    shop.failure = None
    assert (await site.ask("wxbbbb", "GET /me")).status_code == 401


async def test_options_that_cannot_work_are_the_operators_fault(site: Site, shop: Shop) -> None:
    shop.apps["wxbbbb"]["sku"] = "no sku"
    answer = await site.ask("wxbbbb", "GET /me", "a|b|c")
    assert (answer.status_code, answer.headers.get("Retry-After")) == (503, None)
    assert "no sku" not in answer.text


async def test_a_websocket_is_for_users_of_its_app(site: Site, wx: WeChatSimulator) -> None:
    token = await site.log_in("wxaaaa", wx.login("bob", app_id="wxaaaa"))
    async with site.connect("wxaaaa", token) as websocket:
        assert await websocket.recv() == "bob"
    for app_id, shown, status in (
        ("wxaaaa", None, 401),
        ("wxbbbb", token, 401),
        ("wxdddd", token, 404),
    ):
        with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
            await site.connect(app_id, shown)
        assert refused.value.response.status_code == status


async def test_a_path_without_an_app_is_not_found(site: Site) -> None:
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"http://127.0.0.1:{site._port}/")
    assert answer.status_code == 404
