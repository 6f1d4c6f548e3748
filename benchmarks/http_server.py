"""The endpoints whose requests `http` counts, in a process of their own.

Each gives the same few bytes of JSON, and is an app of its own: of FastAPI, of Starlette, of
aiohttp. They differ in what is done before: nothing, or the token of the Authorization header is
checked in one of several ways.
"""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, Any

from aiohttp import web
from fastapi import Depends, FastAPI, HTTPException, Security
from fastapi.security import HTTPBearer
from fastapi.security.base import SecurityBase
from redis.asyncio import BlockingConnectionPool, Redis
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.routing import Route

from mpauthx_async import Identity, MPAuthX
from mpauthx_async.web import aiohttp as mpauthx_aiohttp
from mpauthx_async.web.asgi import MPAuthXMiddleware
from mpauthx_async.web.fastapi import MPAuthXGuard

from . import fastapi_users_party
from .child_process import Pipe
from .sessions import near, service, warm_up

__all__ = [
    "AIOHTTP",
    "BARE",
    "BY_HAND",
    "FASTAPI",
    "FASTAPI_USERS",
    "NEAR",
    "NO_OP",
    "REDIS",
    "STARLETTE",
    "key_of",
    "serve",
]

FASTAPI, STARLETTE, AIOHTTP = "FastAPI", "Starlette", "aiohttp"

BARE = "bare"
NO_OP = "no_op"  # FastAPI's Security dependency, or aiohttp's middleware, that does nothing
NEAR = "near"
REDIS = "redis"
BY_HAND = "by_hand"
FASTAPI_USERS = "fastapi_users"

_POOL = 64  # connections, as many as the clients have
_HOST = "127.0.0.1"
_ANSWER = {"message": "Hello"}
_BEARER = "Bearer "

_Check = Callable[[str], Awaitable[bool]]


async def serve(pipe: Pipe, folder: str, redis_url: str, tokens: Sequence[str]) -> None:
    """Serve until the pipe has an end.

    Says the ports, by framework and way. Then, whenever asked, how many seconds of CPU time this
    process took since it was last asked.
    """
    async with AsyncExitStack() as stack:
        cached = await stack.enter_async_context(service(folder, near(redis_url)))
        through_redis = await stack.enter_async_context(service(folder, redis_url))
        client = await stack.enter_async_context(_client(redis_url))
        await warm_up(cached, tokens, client)

        async def by_hand(token: str) -> bool:
            return await client.get(key_of(token)) is not None

        services = {NEAR: cached, REDIS: through_redis}
        ports: dict[tuple[str, str], int] = {}
        for way, aiohttp_app in _aiohttp_apps(services, by_hand).items():
            ports[AIOHTTP, way] = await _serve_aiohttp(stack, aiohttp_app)
        if find_spec("uvicorn") is not None:
            apps: dict[tuple[str, str], Any] = {
                **{(STARLETTE, way): app for way, app in _starlette_apps(services).items()},
                **{(FASTAPI, way): app for way, app in _fastapi_apps(services, by_hand).items()},
            }
            if fastapi_users_party.is_installed():
                decoding = await stack.enter_async_context(_client(redis_url, decode=True))
                apps[FASTAPI, FASTAPI_USERS] = _fastapi_users_app(decoding)
            for party, app in apps.items():
                ports[party] = await _serve_uvicorn(stack, app)
        gc.collect()
        gc.freeze()  # as a server does once it has started
        pipe.send(ports)
        since = time.process_time()
        while True:
            await asyncio.to_thread(pipe.recv)
            taken = time.process_time() - since
            gc.collect()  # one party's garbage is not another's time
            pipe.send(taken)
            since = time.process_time()


def key_of(token: str) -> str:
    """The key of a token for those who ask Redis by hand."""
    return f"session:{token}"


def _client(redis_url: str, *, decode: bool = False) -> Redis:
    return Redis.from_pool(
        BlockingConnectionPool.from_url(
            redis_url, max_connections=_POOL, timeout=None, decode_responses=decode
        )
    )


def _fastapi_apps(services: dict[str, MPAuthX], by_hand: _Check) -> dict[str, FastAPI]:
    bare = FastAPI()

    @bare.get("/")
    async def hello() -> dict[str, str]:
        return _ANSWER

    apps = {BARE: bare, NO_OP: _fastapi_app(_NoOp())}
    for way, auth in services.items():
        guard = MPAuthXGuard(auth)
        apps[way] = _fastapi_app(guard)
        guard.install(apps[way])
    bearer = HTTPBearer()

    async def allowed(sent: Annotated[Any, Security(bearer)]) -> str:
        token = str(sent.credentials)
        if not await by_hand(token):
            raise HTTPException(401)
        return token

    apps[BY_HAND] = _fastapi_app(allowed)
    return apps


def _fastapi_app(dependency: Any) -> FastAPI:
    app = FastAPI()

    @app.get("/")
    async def hello(user: Annotated[Any, Security(dependency)]) -> dict[str, str]:
        return _ANSWER

    return app


class _NoOp(SecurityBase):
    def __init__(self) -> None:
        bearer = HTTPBearer()
        self.model, self.scheme_name = bearer.model, bearer.scheme_name

    async def __call__(self, connection: HTTPConnection) -> Identity | None:
        return None


def _fastapi_users_app(redis: Redis) -> FastAPI:
    authentication: Any = import_module("fastapi_users.authentication")
    backend = authentication.AuthenticationBackend(
        name="redis",
        transport=authentication.BearerTransport(tokenUrl="login"),
        get_strategy=partial(fastapi_users_party.strategy, redis),
    )
    users = import_module("fastapi_users").FastAPIUsers(
        fastapi_users_party.TrivialUserManager, [backend]
    )
    app = FastAPI()

    @app.get("/", dependencies=[Depends(users.current_user(active=True))])
    async def hello() -> dict[str, str]:
        return _ANSWER

    return app


def _starlette_apps(services: dict[str, MPAuthX]) -> dict[str, Any]:
    async def hello(_: Any) -> JSONResponse:
        return JSONResponse(_ANSWER)

    app = Starlette(routes=[Route("/", hello)])
    return {BARE: app} | {way: MPAuthXMiddleware(app, auth) for way, auth in services.items()}


def _aiohttp_apps(services: dict[str, MPAuthX], by_hand: _Check) -> dict[str, web.Application]:
    async def hello(_: web.Request) -> web.Response:
        return web.json_response(_ANSWER)

    async def allowed(request: web.Request) -> web.Response:
        token = request.headers.get("Authorization", "").removeprefix(_BEARER)
        if not await by_hand(token):
            raise web.HTTPUnauthorized
        return await hello(request)

    @web.middleware
    async def no_op(request: web.Request, handler: Any) -> web.StreamResponse:
        response: web.StreamResponse = await handler(request)
        return response

    handlers = {BARE: hello, NO_OP: hello, **dict.fromkeys(services, hello), BY_HAND: allowed}
    apps = {}
    for way, handler in handlers.items():
        apps[way] = web.Application()
        apps[way].router.add_get("/", handler)
        if way == NO_OP:
            apps[way].middlewares.append(no_op)
        elif way in services:
            mpauthx_aiohttp.setup(apps[way], services[way])
    return apps


async def _serve_uvicorn(stack: AsyncExitStack, app: Any) -> int:
    uvicorn: Any = import_module("uvicorn")
    # It binds by itself: asyncio sets no TCP_NODELAY for what is accepted on a socket that does not
    # name its protocol, and each answer then waits for a delayed acknowledgement, 40 ms.
    config = uvicorn.Config(
        app, host=_HOST, port=0, log_level="warning", access_log=False, lifespan="off"
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())

    async def end() -> None:
        server.should_exit = True
        await serving

    stack.push_async_callback(end)
    while not server.started:
        if serving.done():
            await serving
            raise RuntimeError("uvicorn did not start.")
        await asyncio.sleep(0.01)
    return int(server.servers[0].sockets[0].getsockname()[1])


async def _serve_aiohttp(stack: AsyncExitStack, app: web.Application) -> int:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, _HOST, 0)
    await site.start()
    return int(runner.addresses[0][1])
