"""docs/examples/miniprogram/login.js, run by node against the routes."""

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from mpauthx_async import MPAuthX, StoreError, WeChatSimulator
from mpauthx_async.web.aiohttp import routes, setup

SHIM = Path(__file__).with_name("wx_shim.js")


class Faults:
    """What the test's server does wrong when it is told to."""

    def __init__(self, auth: MPAuthX, wx: WeChatSimulator) -> None:
        self._auth = auth
        self._wx = wx
        self._is_broken = False
        self._loses = 0

    async def code(self, request: web.Request) -> web.Response:
        return web.Response(text=self._wx.login("bob"))

    async def control(self, request: web.Request) -> web.Response:
        match request.match_info["what"]:
            case "revoke":
                await self._auth.revoke_user("bob")
            case "ban":
                await self._auth.ban("bob")
            case "break" | "mend" as what:
                self._is_broken = what == "break"
            case "lose":
                self._loses = 1
        return web.Response()

    @web.middleware
    async def middleware(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self._is_broken and not request.path.startswith("/test/"):
            raise StoreError("Redis is away.")  # as the service does when it cannot answer
        answer = await handler(request)
        if request.path == "/rotate" and self._loses:
            self._loses -= 1
            request.transport.close()
        return answer


@pytest.fixture
async def run(make: Callable[..., MPAuthX], wx: WeChatSimulator) -> Any:
    """Runs a scenario; returns its result and how often it called wx.login."""
    async with make() as auth:
        faults = Faults(auth, wx)
        app = web.Application()
        setup(app, auth, exclude=["/code", "/test/*"])
        app.middlewares.append(faults.middleware)
        app.add_routes(routes(auth))
        app.router.add_get("/code", faults.code)
        app.router.add_post("/test/{what}", faults.control)
        async with TestServer(app) as server:

            async def run(scenario: str) -> tuple[list[Any], int]:
                node = shutil.which("node")
                assert node, "These tests need node on PATH: install nodejs."
                url = str(server.make_url("")).rstrip("/")
                process = await asyncio.create_subprocess_exec(
                    *(node, str(SHIM), url, scenario),
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                )
                out, errors = await process.communicate()
                assert process.returncode == 0, errors.decode()
                told = json.loads(out)
                return told["result"], told["logins"]

            yield run


@pytest.mark.parametrize(
    ("scenario", "result", "logins"),
    [
        pytest.param("oneFlight", [200] * 5, 1, id="calls at the same time share one login"),
        pytest.param("revoked", [200] * 3, 2, id="a 401 logs in again, once for all"),
        pytest.param("unavailable", [503, 200, True], 1, id="a 503 keeps the token"),
        pytest.param("lostAnswer", [200, True], 1, id="a lost answer is asked for again"),
        pytest.param("oldToken", [200, True], 1, id="an old token is rotated first"),
        pytest.param("oldTokenWhileUnavailable", [503, True], 1, id="or kept while that fails"),
        pytest.param("banned", [403, 403], 2, id="a ban is no reason to log in again"),
        pytest.param("logout", [None, 0], 1, id="a logout forgets the token"),
        pytest.param("restart", [200, True], 1, id="the token outlives a restart"),
    ],
)
async def test_login_js_logs_in_and_recovers(
    run: Any, scenario: str, result: list[Any], logins: int
) -> None:
    assert await run(scenario) == (result, logins)
