"""A FastAPI backend of a mini-program.

    pip install 'mpauthx-async[fastapi]' 'uvicorn[standard]'
    uvicorn fastapi_app:app

Below /auth are login, me, sessions, rotate and logout. GET /about needs no login, GET /hello and
the websocket /chat do. /docs shows them all.

Environment: MPAUTHX_APP_ID, MPAUTHX_APP_SECRET; MPAUTHX_SKU, MPAUTHX_USERS and MPAUTHX_TOKENS, if
the defaults below do not suit; MPAUTHX_API_BASE for a simulator.
"""

import os
from typing import Annotated

from fastapi import FastAPI, Security, WebSocket, WebSocketDisconnect

from mpauthx_async import Identity, InvalidTokenError, MPAuthX
from mpauthx_async.web.fastapi import MPAuthXGuard

auth = MPAuthX(
    app_id=os.environ.get("MPAUTHX_APP_ID", ""),
    app_secret=os.environ.get("MPAUTHX_APP_SECRET", ""),
    api_base=os.environ.get("MPAUTHX_API_BASE"),
    sku=os.environ.get("MPAUTHX_SKU", "shop"),
    users=os.environ.get("MPAUTHX_USERS", "sqlite:///users.db"),
    tokens=os.environ.get("MPAUTHX_TOKENS", "sqlite:///tokens.db"),
)
guard = MPAuthXGuard(auth)
CurrentUser = Annotated[Identity, Security(guard)]

app = FastAPI(lifespan=guard.lifespan)  # closes auth at shutdown
guard.install(app)
app.include_router(guard.router(prefix="/auth"))


@app.get("/about")
async def about() -> dict[str, str]:
    return {"name": "shop"}


@app.get("/hello")
async def hello(user: CurrentUser) -> dict[str, str]:
    return {"user_id": user.user_id}


@app.websocket("/chat")
async def chat(websocket: WebSocket, user: CurrentUser) -> None:
    await websocket.accept()
    try:
        async with auth.until_revoked(user.token):
            while True:
                text = await websocket.receive_text()
                await websocket.send_text(f"{user.user_id}: {text}")
    except WebSocketDisconnect:
        pass  # the client has left
    except InvalidTokenError as error:
        await websocket.close(4401, error.status.name)
