"""The app of each framework below another path: mounted in another app, or behind a proxy.

The path is `/public`, below which the app excludes `GET /public/*`. To aiohttp, which has no
`root_path`, patterns are of the whole path, so there it is `/shop`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import websockets
from aiohttp import web
from starlette.applications import Starlette
from starlette.routing import Mount

from mpauthx_async import WeChatSimulator
from tests.web.apps import FRAMEWORKS, World, serve, serve_asgi
from tests.web.raw_client import bearer, login_body, send

TRICKS = [
    *("{}//hello", "/{}/hello", "{}/public/../hello", "{}/public/%2e%2e/hello"),
    *("{}/public%2f..%2fhello", "{}/%2fhello", "{}%2fhello", "{}/../hello", "{}/..{}/hello"),
    *("{}{}/hello", "/x/..{}/hello", "{}/hello/", "{}/%68ello", "{}/login/../me"),
    *("{}//login/../sessions", "{};x/hello", "{}hello"),
]


@dataclass
class Below:
    """Where an app is served: the port, and the path that a client puts before the app's own."""

    framework: str
    port: int
    path: str


@asynccontextmanager
async def mounted(framework: str, world: World) -> AsyncIterator[Below]:
    path, app = "/public", FRAMEWORKS[framework](world)
    if framework == "aiohttp":
        path, outer = "/shop", web.Application()
        outer.add_subapp(path, app)
    else:
        outer = Starlette(routes=[Mount(path, app)])
    async with serve(outer) as port:
        yield Below(framework, port, path)


@asynccontextmanager
async def behind_proxy(framework: str, world: World) -> AsyncIterator[Below]:
    """Served with a `root_path`, which the proxy has taken from the paths that it passes on."""
    async with serve_asgi(FRAMEWORKS[framework](world), root_path="/public") as port:
        yield Below(framework, port, "")


PLACES = [
    *((mounted, framework) for framework in ("starlette", "fastapi", "aiohttp", "django")),
    *((behind_proxy, framework) for framework in ("starlette", "fastapi", "django")),
]


@pytest.fixture(params=PLACES, ids=lambda place: f"{place[1]} {place[0].__name__}")
async def below(request: pytest.FixtureRequest, world: World) -> AsyncIterator[Below]:
    serve, framework = request.param
    async with serve(framework, world) as below:
        yield below


async def test_requires_a_login_as_it_does_alone(below: Below, token: str) -> None:
    calls = [("GET", "/hello"), ("POST", "/count"), ("GET", "/me"), ("POST", "/logout")]
    if below.framework != "fastapi":  # whose endpoints have no HEAD of their own
        calls.append(("HEAD", "/hello"))
    for method, path in calls:
        reply = await send(below.port, method, f"{below.path}{path}")
        assert (reply.status, reply.header("www-authenticate")) == (401, "Bearer"), path
    hello = await send(below.port, "GET", f"{below.path}/hello", bearer(token))
    assert (hello.status, hello.json()) == (200, {"user_id": "bob"})


async def test_excludes_by_the_path_behind_it(below: Below) -> None:
    page = await send(below.port, "GET", f"{below.path}/public/page")
    assert page.status == (401 if below.framework == "aiohttp" else 200)


async def test_serves_the_routes(below: Below, wx: WeChatSimulator) -> None:
    login = await send(below.port, "POST", f"{below.path}/login", body=login_body(wx))
    token = login.json()["response"]
    me = await send(below.port, "GET", f"{below.path}/me", bearer(token))
    assert me.json()["response"]["user_id"] == "bob"


async def test_no_path_trick_reaches_a_protected_endpoint(below: Below) -> None:
    for trick in TRICKS:
        path = trick.format(below.path, below.path)
        reply = await send(below.port, "GET", path)
        assert reply.status in (301, 307, 308, 401, 404), path
        assert b"user_id" not in reply.body


async def test_guards_websockets(below: Below, token: str) -> None:
    url = f"ws://127.0.0.1:{below.port}{below.path}/ws"
    with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
        await websockets.connect(url)
    assert refused.value.response.status_code == 401
    if below.framework != "django":  # which has no websockets
        headers = dict(bearer(token))
        async with websockets.connect(url, additional_headers=headers) as websocket:
            assert await websocket.recv() == "bob"
