"""A Litestar backend of a mini-program.

    pip install mpauthx-async litestar 'uvicorn[standard]'
    uvicorn litestar_app:app

Below /auth are login, me, sessions, rotate and logout. GET /about needs no login, GET /hello and
the websocket /chat do.

Environment: MPAUTHX_APP_ID, MPAUTHX_APP_SECRET; MPAUTHX_SKU, MPAUTHX_USERS and MPAUTHX_TOKENS, if
the defaults below do not suit; MPAUTHX_API_BASE for a simulator.
"""

import os
from typing import NoReturn

from litestar import Litestar, Request, WebSocket, get, websocket
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import WebSocketDisconnect
from litestar.types import Scope

from mpauthx_async import Identity, InvalidTokenError, MPAuthX, MPAuthXError
from mpauthx_async.web.asgi import Authentication, MPAuthXMiddleware, RequestUser

auth = MPAuthX(
    app_id=os.environ.get("MPAUTHX_APP_ID", ""),
    app_secret=os.environ.get("MPAUTHX_APP_SECRET", ""),
    api_base=os.environ.get("MPAUTHX_API_BASE"),
    sku=os.environ.get("MPAUTHX_SKU", "shop"),
    users=os.environ.get("MPAUTHX_USERS", "sqlite:///users.db"),
    tokens=os.environ.get("MPAUTHX_TOKENS", "sqlite:///tokens.db"),
)


def current_user(scope: Scope) -> Identity:
    return scope["user"].mpauthx


def leave_to_middleware(
    request: Request[RequestUser, Authentication, State], error: MPAuthXError
) -> NoReturn:
    raise error  # else Litestar answers 500


@get("/about")
async def about() -> dict[str, str]:
    return {"name": "shop"}


@get("/hello")
async def hello(user: Identity) -> dict[str, str]:
    return {"user_id": user.user_id}


@websocket("/chat")
async def chat(socket: WebSocket[RequestUser, Authentication, State], user: Identity) -> None:
    await socket.accept()
    try:
        async with auth.until_revoked(user.token):
            while True:
                text = await socket.receive_text()
                await socket.send_text(f"{user.user_id}: {text}")
    except WebSocketDisconnect:
        pass  # the client has left
    except InvalidTokenError as error:
        await socket.close(4401, error.status.name)


litestar = Litestar(
    [about, hello, chat],
    dependencies={"user": Provide(current_user, sync_to_thread=False)},
    exception_handlers={MPAuthXError: leave_to_middleware},
)
# Around the whole app, and not in its `middleware`, which sees no unknown path and no lifespan.
app = MPAuthXMiddleware(litestar, auth, prefix="/auth", exclude=("/about",))
