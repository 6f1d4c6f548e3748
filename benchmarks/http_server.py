"""The endpoints whose requests `http` counts: of FastAPI and of aiohttp, in a process of their own.

Each gives the same few bytes of JSON. They differ in what is done before: nothing, or the token of
the Authorization header is checked in one of several ways.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated, Any

from aiohttp import web
from fastapi import Depends, FastAPI, Header, HTTPException
from redis.asyncio import BlockingConnectionPool, Redis

from . import fastapi_users_party
from .child_process import Pipe
from .sessions import near, service, warm_up

__all__ = ["BARE", "BY_HAND", "FASTAPI_USERS", "HEADER", "NEAR", "REDIS", "key_of", "serve"]

BARE = "bare"
HEADER = "header"  # is read, and not checked
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
    """Serve until the pipe has an end; says the ports, by framework."""
    async with AsyncExitStack() as stack:
        cached = await stack.enter_async_context(service(folder, near(redis_url)))
        through_redis = await stack.enter_async_context(service(folder, redis_url))
        client = await stack.enter_async_context(_client(redis_url))
        await warm_up(cached, tokens, client)

        async def by_hand(token: str) -> bool:
            return await client.get(key_of(token)) is not None

        async def unchecked(_: str) -> bool:
            return True

        checks: dict[str, _Check] = {
            HEADER: unchecked,
            NEAR: cached.is_token_valid,
            REDIS: through_redis.is_token_valid,
            BY_HAND: by_hand,
        }
        ports = {"aiohttp": await _serve_aiohttp(stack, checks)}
        if find_spec("uvicorn") is not None:
            app = _fastapi(checks)
            if fastapi_users_party.is_installed():
                decoding = await stack.enter_async_context(_client(redis_url, decode=True))
                _add_fastapi_users(app, decoding)
            ports["FastAPI"] = await _serve_uvicorn(stack, app)
        pipe.send(ports)
        await asyncio.to_thread(pipe.recv)


def key_of(token: str) -> str:
    """The key of a token for those who ask Redis by hand."""
    return f"session:{token}"


def _client(redis_url: str, *, decode: bool = False) -> Redis:
    return Redis.from_pool(
        BlockingConnectionPool.from_url(
            redis_url, max_connections=_POOL, timeout=None, decode_responses=decode
        )
    )


def _fastapi(checks: dict[str, _Check]) -> FastAPI:
    app = FastAPI()

    @app.get(f"/{BARE}")
    async def bare() -> dict[str, str]:
        return _ANSWER

    def add(name: str, check: _Check) -> None:
        async def allowed(authorization: Annotated[str, Header()] = "") -> str:
            token = authorization.removeprefix(_BEARER)
            if not await check(token):
                raise HTTPException(401)
            return token

        @app.get(f"/{name}")
        async def protected(token: Annotated[str, Depends(allowed)]) -> dict[str, str]:
            return _ANSWER

    for name, check in checks.items():
        add(name, check)
    return app


def _add_fastapi_users(app: FastAPI, redis: Redis) -> None:
    authentication: Any = import_module("fastapi_users.authentication")
    backend = authentication.AuthenticationBackend(
        name="redis",
        transport=authentication.BearerTransport(tokenUrl="login"),
        get_strategy=partial(fastapi_users_party.strategy, redis),
    )
    users = import_module("fastapi_users").FastAPIUsers(
        fastapi_users_party.TrivialUserManager, [backend]
    )
    current_user = users.current_user(active=True)

    @app.get(f"/{FASTAPI_USERS}", dependencies=[Depends(current_user)])
    async def protected() -> dict[str, str]:
        return _ANSWER


async def _serve_uvicorn(stack: AsyncExitStack, app: FastAPI) -> int:
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


async def _serve_aiohttp(stack: AsyncExitStack, checks: dict[str, _Check]) -> int:
    app = web.Application()

    async def bare(_: web.Request) -> web.Response:
        return web.json_response(_ANSWER)

    def protected(check: _Check) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handler(request: web.Request) -> web.Response:
            token = request.headers.get("Authorization", "").removeprefix(_BEARER)
            if not await check(token):
                raise web.HTTPUnauthorized
            return web.json_response(_ANSWER)

        return handler

    app.router.add_get(f"/{BARE}", bare)
    for name, check in checks.items():
        app.router.add_get(f"/{name}", protected(check))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    site = web.TCPSite(runner, _HOST, 0)
    await site.start()
    return int(runner.addresses[0][1])
