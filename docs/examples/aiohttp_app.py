"""An aiohttp backend of a mini-program.

    pip install mpauthx-async
    python -m aiohttp.web aiohttp_app:make_app

Below /auth are login, me, sessions, rotate and logout. GET /about needs no login, GET /hello and
the websocket /chat do.

Environment: MPAUTHX_APP_ID, MPAUTHX_APP_SECRET; MPAUTHX_SKU, MPAUTHX_USERS and MPAUTHX_TOKENS, if
the defaults below do not suit; MPAUTHX_API_BASE for a simulator.
"""

import os
from weakref import WeakSet

from aiohttp import WSCloseCode, WSMsgType, web

from mpauthx_async import InvalidTokenError, MPAuthX
from mpauthx_async.web import aiohttp as mpauthx

WEBSOCKETS = web.AppKey("websockets", WeakSet[web.WebSocketResponse])

routes = web.RouteTableDef()


@routes.get("/about")
async def about(request: web.Request) -> web.Response:
    return web.json_response({"name": "shop"})


@routes.get("/hello")
async def hello(request: web.Request) -> web.Response:
    return web.json_response({"user_id": mpauthx.identity(request).user_id})


@routes.get("/chat")
async def chat(request: web.Request) -> web.WebSocketResponse:
    user = mpauthx.identity(request)
    websocket = web.WebSocketResponse()
    await websocket.prepare(request)
    request.app[WEBSOCKETS].add(websocket)
    try:
        async with request.app[mpauthx.AUTH].until_revoked(user.token):
            async for message in websocket:
                if message.type is WSMsgType.TEXT:
                    await websocket.send_str(f"{user.user_id}: {message.data}")
    except ConnectionError:
        pass  # the client has left
    except InvalidTokenError as error:
        await websocket.close(code=4401, message=error.status.name.encode())
    return websocket


async def close_websockets(app: web.Application) -> None:
    for websocket in app[WEBSOCKETS].copy():
        await websocket.close(code=WSCloseCode.GOING_AWAY)


def make_app(arguments: list[str]) -> web.Application:
    auth = MPAuthX(
        app_id=os.environ.get("MPAUTHX_APP_ID", ""),
        app_secret=os.environ.get("MPAUTHX_APP_SECRET", ""),
        api_base=os.environ.get("MPAUTHX_API_BASE"),
        sku=os.environ.get("MPAUTHX_SKU", "shop"),
        users=os.environ.get("MPAUTHX_USERS", "sqlite:///users.db"),
        tokens=os.environ.get("MPAUTHX_TOKENS", "sqlite:///tokens.db"),
    )
    app = web.Application()
    mpauthx.setup(app, auth, prefix="/auth", exclude=("/about",))  # closes auth at the app's end
    app.add_routes(routes)
    app[WEBSOCKETS] = WeakSet()
    app.on_shutdown.append(close_websockets)
    return app
