"""What is the aiohttp adapter's own."""

from typing import Any

import aiohttp
import pytest
from aiohttp import web

from mpauthx_async import ConfigurationError, InvalidTokenError, MPAuthX, WeChatSimulator
from mpauthx_async.web import aiohttp as mpauthx
from tests.web.apps import serve_aiohttp
from tests.web.raw_client import bearer, login_body, send


async def hello(request: web.Request) -> web.Response:
    return web.json_response(mpauthx.identity(request).user_id)


async def test_login_required_protects_a_single_handler(auth: MPAuthX, token: str) -> None:
    async def public(_: web.Request) -> web.Response:
        return web.Response(text="public")

    app = web.Application()
    mpauthx.setup(app, auth, exclude=("/*",))
    app.add_routes([web.get("/public", public), web.get("/hello", mpauthx.login_required(hello))])
    async with serve_aiohttp(app) as port:
        assert (await send(port, "GET", "/public")).body == b"public"
        assert (await send(port, "GET", "/hello")).status == 401
        assert (await send(port, "GET", "/hello", bearer(token))).json() == "bob"


async def test_login_required_needs_setup() -> None:
    app = web.Application()
    app.router.add_get("/", mpauthx.login_required(hello))

    @web.middleware
    async def remember(request: web.Request, handler: Any) -> web.StreamResponse:
        with pytest.raises(ConfigurationError, match=r"needs setup"):
            await handler(request)
        return web.Response(status=204)

    app.middlewares.append(remember)
    async with serve_aiohttp(app) as port:
        assert (await send(port, "GET", "/")).status == 204


async def test_a_handler_that_wants_no_login_has_no_identity(auth: MPAuthX, token: str) -> None:
    app = web.Application()
    mpauthx.setup(app, auth, exclude=("/hello",))
    app.router.add_get("/hello", hello)
    async with serve_aiohttp(app) as port:
        assert (await send(port, "GET", "/hello", bearer(token))).status == 503


async def test_protects_sub_apps(auth: MPAuthX, token: str) -> None:
    app, admin = web.Application(), web.Application()
    mpauthx.setup(app, auth, exclude=("/admin/open",))
    admin.add_routes([web.get("/hello", hello), web.get("/open", mpauthx.login_required(hello))])
    app.add_subapp("/admin", admin)
    async with serve_aiohttp(app) as port:
        for path in ("/admin/hello", "/admin/open"):
            assert (await send(port, "GET", path)).status == 401
            assert (await send(port, "GET", path, bearer(token))).json() == "bob"


async def test_routes_may_stand_elsewhere(auth: MPAuthX, wx: WeChatSimulator) -> None:
    app, login = web.Application(), web.Application()
    mpauthx.setup(app, auth)
    login.add_routes(mpauthx.routes(auth, prefix="/v1"))
    app.add_subapp("/auth", login)
    async with serve_aiohttp(app) as port:
        login = await send(port, "POST", "/auth/v1/login", body=login_body(wx))
        token = login.json()["response"]
        me = await send(port, "GET", "/auth/v1/me", bearer(token))
    assert me.json()["response"]["user_id"] == "bob"


async def test_the_service_is_at_hand(auth: MPAuthX) -> None:
    app = web.Application()
    mpauthx.setup(app, auth)
    assert app[mpauthx.AUTH] is auth


async def test_a_function_picks_the_service(auth: MPAuthX, game: MPAuthX, of_game: str) -> None:
    app = web.Application()
    mpauthx.setup(app, lambda request: game if request.host == "game" else auth)
    app.router.add_get("/", hello)
    async with serve_aiohttp(app) as port:
        for host, status in (("game", 200), ("shop", 401)):
            headers = [*bearer(of_game), ("Host", host)]
            assert (await send(port, "GET", "/", headers)).status == status
    assert await game.online_count() == 1  # it was not closed with the app


async def test_only_a_handler_of_options_needs_no_token(auth: MPAuthX, token: str) -> None:
    async def preflight(_: object) -> web.Response:
        return web.Response(status=204)

    class Preflight(web.View):
        options = preflight

    app = web.Application()
    mpauthx.setup(app, auth, exclude=("/open",))
    app.router.add_route("OPTIONS", "/only", preflight)
    app.router.add_route("*", "/all", hello)
    app.router.add_route("*", "/open", mpauthx.login_required(hello))
    app.router.add_view("/view", Preflight)
    async with serve_aiohttp(app) as port:
        for path, status in (("/only", 204), ("/view", 204), ("/nowhere", 404)):
            assert (await send(port, "OPTIONS", path)).status == status
        for path in ("/all", "/open"):
            assert (await send(port, "OPTIONS", path)).status == 401
            assert (await send(port, "OPTIONS", path, bearer(token))).json() == "bob"


async def test_an_error_after_the_headers_sends_no_second_response(
    auth: MPAuthX, token: str
) -> None:
    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"first")
        return await fail(request)

    async def websocket(request: web.Request) -> web.StreamResponse:
        await web.WebSocketResponse().prepare(request)
        return await fail(request)

    async def fail(request: web.Request) -> web.StreamResponse:
        raise InvalidTokenError("The session is over.")

    app = web.Application()
    mpauthx.setup(app, auth)
    app.add_routes([web.get("/stream", stream), web.get("/websocket", websocket)])
    async with serve_aiohttp(app) as port:
        url = f"http://127.0.0.1:{port}"
        async with aiohttp.ClientSession(url, headers=dict(bearer(token))) as client:
            async with client.get("/stream") as response:
                with pytest.raises(aiohttp.ClientPayloadError):
                    await response.read()
            async with client.ws_connect("/websocket") as connected:
                message = await connected.receive()
                assert (message.type, connected.close_code) == (aiohttp.WSMsgType.CLOSED, 1006)


async def test_one_app_has_the_routes_of_several_mini_programs(
    auth: MPAuthX, game: MPAuthX, of_game: str
) -> None:
    app = web.Application()
    app.add_routes(mpauthx.routes(auth, prefix="/shop"))
    app.add_routes(mpauthx.routes(game, prefix="/game"))
    async with serve_aiohttp(app) as port:
        assert (await send(port, "GET", "/game/me", bearer(of_game))).status == 200
        assert (await send(port, "GET", "/shop/me", bearer(of_game))).status == 401
