"""A websocket that ends with the session of its token, in each framework."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
import websockets
from aiohttp import web
from fastapi import FastAPI, Security, WebSocket
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

from mpauthx_async import Identity, InvalidTokenError, MPAuthX
from mpauthx_async.web.aiohttp import identity, setup
from mpauthx_async.web.asgi import MPAuthXMiddleware
from mpauthx_async.web.fastapi import MPAuthXGuard
from tests.web.apps import serve_aiohttp, serve_asgi


async def chat(auth: MPAuthX, websocket: Any, user: Identity) -> str:
    """Talk until the session ends; returns why it did."""
    try:
        async with auth.until_revoked(user.token):
            await websocket.send_text("hello")
            await asyncio.Event().wait()
    except InvalidTokenError as error:
        return error.status.name


def starlette_app(auth: MPAuthX) -> Any:
    async def ws(websocket: Any) -> None:
        await websocket.accept()
        await websocket.close(4401, await chat(auth, websocket, websocket.state.mpauthx))

    return MPAuthXMiddleware(Starlette(routes=[WebSocketRoute("/ws", ws)]), auth)


def fastapi_app(auth: MPAuthX) -> Any:
    guard = MPAuthXGuard(auth)
    app = FastAPI(lifespan=guard.lifespan)
    guard.install(app)

    @app.websocket("/ws")
    async def ws(websocket: WebSocket, user: Annotated[Identity, Security(guard)]) -> None:
        await websocket.accept()
        await websocket.close(4401, await chat(auth, websocket, user))

    return app


def aiohttp_app(auth: MPAuthX) -> web.Application:
    async def ws(request: web.Request) -> web.StreamResponse:
        websocket: Any = web.WebSocketResponse()
        await websocket.prepare(request)
        websocket.send_text = websocket.send_str
        why = await chat(auth, websocket, identity(request))
        await websocket.close(code=4401, message=why.encode())
        return websocket

    app = web.Application()
    setup(app, auth)
    app.router.add_get("/ws", ws)
    return app


@asynccontextmanager
async def serving(framework: str, auth: MPAuthX) -> AsyncIterator[int]:
    if framework == "aiohttp":
        async with serve_aiohttp(aiohttp_app(auth)) as port:
            yield port
    else:
        make = starlette_app if framework == "starlette" else fastapi_app
        async with serve_asgi(make(auth)) as port:
            yield port


@pytest.mark.parametrize("framework", ["starlette", "fastapi", "aiohttp"])
async def test_a_websocket_is_closed_when_its_session_ends(
    framework: str, auth: MPAuthX, token: str
) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    async with serving(framework, auth) as port:
        url = f"ws://127.0.0.1:{port}/ws"
        async with websockets.connect(url, additional_headers=headers) as websocket:
            assert await websocket.recv() == "hello"
            await auth.revoke(token)
            with pytest.raises(websockets.exceptions.ConnectionClosed) as closed:
                await websocket.recv()
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4401, "revoked")
        with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
            await websockets.connect(url, additional_headers=headers)
        assert refused.value.response.status_code == 401
