"""The same app in every framework: our routes, protected and public handlers, a websocket.

GET /hello          wants a login: the user id
GET /public/page    wants none
GET /late           wants a login, waits for the test, and then asks the store
POST /count         wants a login: how many bytes the body has
/ws                 a websocket that wants a login, and says the user id
"""

import asyncio
import types
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

import django
import django.conf
import django.core.asgi
import django.http
import django.urls
import litestar
import quart
import uvicorn
from aiohttp import web
from fastapi import FastAPI, Request, Security, WebSocket
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route, WebSocketRoute

from mpauthx_async import Identity, MPAuthX, MPAuthXError
from mpauthx_async.web import aiohttp as mpauthx_aiohttp
from mpauthx_async.web.asgi import MPAuthXMiddleware
from mpauthx_async.web.fastapi import MPAuthXGuard

EXCLUDE = ("GET /public/*",)


@dataclass
class World:
    """What the app of one test stands on."""

    auth: MPAuthX
    options: dict[str, Any] = field(default_factory=dict)
    checked: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def late(self, user_id: str) -> int:
        """What the handler of /late does after the token was checked."""
        self.checked.set()
        await self.go_on.wait()
        return len(await self.auth.sessions(user_id))


async def greet(websocket: Any, user_id: str) -> None:
    """What the handler of /ws does."""
    await websocket.accept()
    await websocket.send_text(user_id)
    await websocket.close()


def starlette_app(world: World) -> Any:
    async def hello(request: Any) -> JSONResponse:
        assert request.user.is_authenticated
        assert request.auth.scopes == ["authenticated"]
        return JSONResponse({"user_id": request.state.mpauthx.user_id})

    async def public(request: Any) -> PlainTextResponse:
        assert not request.user.is_authenticated
        return PlainTextResponse("public")

    async def late(request: Any) -> JSONResponse:
        return JSONResponse(await world.late(request.user.identity))

    async def count(request: Any) -> JSONResponse:
        return JSONResponse(sum([len(chunk) async for chunk in request.stream()]))

    async def ws(websocket: Any) -> None:
        await greet(websocket, websocket.user.display_name)

    routes = [Route("/hello", hello), Route("/public/page", public), Route("/late", late)]
    routes.append(Route("/count", count, methods=["POST"]))
    app = Starlette(routes=[*routes, WebSocketRoute("/ws", ws)])
    options = {"exclude": EXCLUDE, "prefix": "", **world.options}
    app.add_middleware(MPAuthXMiddleware, auth=world.auth, **options)
    return app


def fastapi_app(world: World) -> Any:
    options = dict(world.options)
    include = options.pop("include", ())
    guard = MPAuthXGuard(world.auth, **options)
    current_user = Annotated[Identity, Security(guard)]
    app = FastAPI(lifespan=guard.lifespan)
    guard.install(app)
    app.include_router(guard.router(include=include))

    @app.get("/hello")
    async def hello(user: current_user) -> dict[str, str]:  # type: ignore[valid-type]
        return {"user_id": user.user_id}  # type: ignore[attr-defined]

    @app.get("/public/page")
    async def public() -> PlainTextResponse:
        return PlainTextResponse("public")

    @app.get("/late")
    async def late(user: current_user) -> int:  # type: ignore[valid-type]
        return await world.late(user.user_id)  # type: ignore[attr-defined]

    @app.post("/count")
    async def count(request: Request, user: current_user) -> int:  # type: ignore[valid-type]
        return sum([len(chunk) async for chunk in request.stream()])

    @app.websocket("/ws")
    async def ws(websocket: WebSocket, user: current_user) -> None:  # type: ignore[valid-type]
        await greet(websocket, user.user_id)  # type: ignore[attr-defined]

    return app


def litestar_app(world: World) -> Any:
    @litestar.get("/hello")
    async def hello(request: litestar.Request[Any, Any, Any]) -> dict[str, str]:
        return {"user_id": request.user.mpauthx.user_id}

    @litestar.get("/public/page")
    async def public() -> str:
        return "public"

    @litestar.get("/late")
    async def late(request: litestar.Request[Any, Any, Any]) -> int:
        return await world.late(request.user.identity)

    @litestar.post("/count", status_code=200)
    async def count(request: litestar.Request[Any, Any, Any]) -> int:
        return sum([len(chunk) async for chunk in request.stream()])

    @litestar.websocket("/ws")
    async def ws(socket: litestar.WebSocket[Any, Any, Any]) -> None:
        await greet(socket, socket.user.identity)

    app = litestar.Litestar(
        [hello, public, late, count, ws],
        exception_handlers={
            # Litestar makes a 500 of each exception that it has no handler for.
            MPAuthXError: lambda _, error: (_ for _ in ()).throw(error)
        },
        request_max_body_size=None,
        logging_config=None,  # or it changes the root logger for all tests after this one
    )
    return MPAuthXMiddleware(app, world.auth, exclude=EXCLUDE, prefix="", **world.options)


def quart_app(world: World) -> Any:
    app = quart.Quart(__name__)

    def user_id() -> str:
        return str(quart.request.scope["user"].identity)

    @app.get("/hello")
    async def hello() -> dict[str, str]:
        return {"user_id": user_id()}

    @app.get("/public/page")
    async def public() -> str:
        return "public"

    @app.get("/late")
    async def late() -> Any:
        return quart.jsonify(await world.late(user_id()))

    @app.post("/count")
    async def count() -> Any:
        return quart.jsonify(sum([len(chunk) async for chunk in quart.request.body]))

    @app.websocket("/ws")
    async def ws() -> None:
        await quart.websocket.send(quart.websocket.scope["user"].identity)

    app.config["PROPAGATE_EXCEPTIONS"] = True
    return MPAuthXMiddleware(app, world.auth, exclude=EXCLUDE, prefix="", **world.options)


def configure_django() -> None:
    """Configure Django, which has one set of settings for the whole process."""
    if not django.conf.settings.configured:
        django.conf.settings.configure(
            ALLOWED_HOSTS=["*"],
            ROOT_URLCONF=_django_urls(),
            MIDDLEWARE=["mpauthx_async.web.django.MPAuthXMiddleware"],
            LOGGING_CONFIG=None,
        )
        django.setup(set_prefix=False)


def django_app(world: World) -> Any:
    configure_django()
    inner = django.core.asgi.get_asgi_application()

    async def with_world(scope: Any, receive: Any, send: Any) -> None:
        await inner({**scope, "world": world}, receive, send)

    return MPAuthXMiddleware(with_world, world.auth, exclude=EXCLUDE, prefix="", **world.options)


def _django_urls() -> Any:
    async def hello(request: Any) -> Any:
        return django.http.JsonResponse({"user_id": request.mpauthx.user_id})

    async def public(request: Any) -> Any:
        assert request.mpauthx is None
        return django.http.HttpResponse("public")

    async def late(request: Any) -> Any:
        count = await request.scope["world"].late(request.mpauthx.user_id)
        return django.http.JsonResponse(count, safe=False)

    async def count(request: Any) -> Any:
        return django.http.JsonResponse(len(request.read()), safe=False)

    urls = types.ModuleType("urls")
    views = {"hello": hello, "public/page": public, "late": late, "count": count}
    urls.urlpatterns = [django.urls.path(*view) for view in views.items()]  # type: ignore[attr-defined]
    return urls


def aiohttp_app(world: World) -> web.Application:
    async def hello(request: web.Request) -> web.Response:
        return web.json_response({"user_id": mpauthx_aiohttp.identity(request).user_id})

    async def public(request: web.Request) -> web.Response:
        return web.Response(text="public")

    async def late(request: web.Request) -> web.Response:
        return web.json_response(await world.late(mpauthx_aiohttp.identity(request).user_id))

    async def count(request: web.Request) -> web.Response:
        return web.json_response(sum([len(chunk) async for chunk in request.content.iter_any()]))

    app = web.Application()
    mpauthx_aiohttp.setup(app, world.auth, exclude=EXCLUDE, prefix="", **world.options)
    app.add_routes([web.get("/hello", hello), web.get("/public/page", public)])
    app.add_routes([web.get("/late", late), web.post("/count", count), web.get("/ws", aiohttp_ws)])
    return app


async def aiohttp_ws(request: web.Request) -> web.StreamResponse:
    websocket = web.WebSocketResponse()
    await websocket.prepare(request)
    await websocket.send_str(mpauthx_aiohttp.identity(request).user_id)
    await websocket.close()
    return websocket


@asynccontextmanager
async def serve_asgi(app: Any, **options: Any) -> AsyncIterator[int]:
    """Serve an ASGI app by uvicorn; gives the port."""
    quiet: dict[str, Any] = {"log_level": "error", "log_config": None, "access_log": False}
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, **quiet, **options))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        if serving.done():
            await serving
            raise RuntimeError("uvicorn did not start.")
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await serving


@asynccontextmanager
async def serve_aiohttp(app: web.Application) -> AsyncIterator[int]:
    """Serve an aiohttp app; gives the port."""
    # By default aiohttp waits ten seconds for the rest of a body that it refused.
    runner = web.AppRunner(app, access_log=None, lingering_time=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


FRAMEWORKS: dict[str, Callable[[World], Any]] = {
    "starlette": starlette_app,
    "fastapi": fastapi_app,
    "aiohttp": aiohttp_app,
    "django": django_app,
    "litestar": litestar_app,
    "quart": quart_app,
}


def serve(app: Any) -> AbstractAsyncContextManager[int]:
    """Serve an app of any framework; gives the port."""
    return serve_aiohttp(app) if isinstance(app, web.Application) else serve_asgi(app)


def serving(framework: str, world: World) -> AbstractAsyncContextManager[int]:
    """Serve the app of a framework; gives the port."""
    return serve(FRAMEWORKS[framework](world))
