"""docs/examples/{fastapi,aiohttp,litestar,django}_app.py, each run as its docstring says."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import websockets
from websockets.exceptions import ConnectionClosed, InvalidStatus

from mpauthx_async import WeChatSimulator
from tests.helpers.backend_process import EXAMPLES, serving_backend
from tests.helpers.redis_server import RedisServer
from tests.helpers.serve_process import ServeProcess, environment_of

pytestmark = pytest.mark.usefixtures("redis")  # an empty one for each test

BACKENDS = ("fastapi_app", "aiohttp_app", "litestar_app", "django_app")
WITH_WEBSOCKETS = ("fastapi_app", "aiohttp_app", "litestar_app")
# Some versions of uvicorn log this for each websocket that an app refuses with an HTTP status.
SPURIOUS = "ERROR:    ASGI callable returned without completing handshake."
STOP_SECONDS = 30  # aiohttp, for one, waits 60 seconds for a handler that does not end


def command(backend: str) -> list[str]:
    """What the docstring tells to run, on a free port."""
    text = (EXAMPLES / f"{backend}.py").read_text()
    server, app = re.findall(r"^    (uvicorn|python -m aiohttp\.web) (\S+)$", text, re.M)[0]
    if server == "uvicorn":
        return ["uvicorn", app, "--host", "127.0.0.1", "--port", "0"]
    return ["aiohttp.web", app, "-H", "127.0.0.1", "-P", "0"]


@pytest.fixture
async def backend(
    request: pytest.FixtureRequest, wx: WeChatSimulator, redis_server: RedisServer, tmp_path: Path
) -> AsyncIterator[ServeProcess]:
    stores = {"users": f"sqlite:///{tmp_path}/people.db", "tokens": redis_server.url}
    environment = environment_of(wx, sku="examples", **stores)
    async with serving_backend(command(request.param), tmp_path, environment) as backend:
        yield backend


@pytest.fixture
async def http(backend: ServeProcess) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=backend.url, timeout=30) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def log_in(http: httpx.AsyncClient, wx: WeChatSimulator) -> dict[str, str]:
    """Log bob in; returns the header with the token."""
    answer = await http.post("/auth/login", json={"code": wx.login("bob")})
    assert answer.status_code == 200, answer.text
    return bearer(answer.json()["response"])


async def assert_stops_cleanly(backend: ServeProcess) -> None:
    async with asyncio.timeout(STOP_SECONDS):
        code = await backend.stop()
    log = "\n".join(line for line in backend.lines if line != SPURIOUS)
    # uvicorn shuts down, and then ends by the signal that it caught.
    ends_by_signal = "Finished server process" in log
    assert code == (-signal.SIGTERM if ends_by_signal else 0), log
    assert not re.search(r"error|warning|exception|traceback", log, re.IGNORECASE), log


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
async def test_serves_a_user_from_login_to_logout(
    backend: ServeProcess, http: httpx.AsyncClient, wx: WeChatSimulator, tmp_path: Path
) -> None:
    mine = await log_in(http, wx)
    me = (await http.get("/auth/me", headers=mine)).json()["response"]
    assert (me["user_id"], me["sku"]) == ("bob", "examples")
    assert (await http.get("/hello", headers=mine)).json() == {"user_id": "bob"}
    assert (await http.get("/about")).json() == {"name": "shop"}

    refused = await http.get("/hello")
    assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
    refused = await http.post("/auth/login", json={"code": "used-up"})
    assert (refused.status_code, refused.json()["status_code"]) == (401, 6008)

    rotated = bearer((await http.post("/auth/rotate", headers=mine)).json()["response"])
    assert rotated != mine
    assert (await http.get("/hello", headers=rotated)).json() == {"user_id": "bob"}
    assert (await http.post("/auth/logout", headers=rotated)).json()["response"] is True
    refused = await http.get("/hello", headers=rotated)
    assert (refused.status_code, refused.json()["response"]) == (401, {"status": "revoked"})

    await assert_stops_cleanly(backend)
    assert os.listdir(tmp_path) == ["people.db"]  # SQLite leaves more where nobody closes it


@pytest.mark.parametrize("backend", WITH_WEBSOCKETS, indirect=True)
async def test_ends_a_websocket_with_its_session_and_with_the_server(
    backend: ServeProcess, http: httpx.AsyncClient, wx: WeChatSimulator
) -> None:
    url = backend.url.replace("http", "ws") + "/chat"
    with pytest.raises(InvalidStatus) as refused:
        await websockets.connect(url)
    assert refused.value.response.status_code == 401

    mine, other = await log_in(http, wx), await log_in(http, wx)
    async with (
        asyncio.timeout(120),
        websockets.connect(url, additional_headers=mine) as websocket,
        websockets.connect(url, additional_headers=other) as other_websocket,
    ):
        await websocket.send("hello")
        assert await websocket.recv() == "bob: hello"
        await http.post("/auth/logout", headers=mine)
        with pytest.raises(ConnectionClosed) as closed:
            await websocket.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4401, "revoked")

        async with websockets.connect(url, additional_headers=other) as leaving:
            await leaving.send("bye")  # and does not wait for the answer

        await other_websocket.send("hello")
        assert await other_websocket.recv() == "bob: hello"
        stopping = asyncio.create_task(assert_stops_cleanly(backend))
        with pytest.raises(ConnectionClosed) as closed:
            await other_websocket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code in (1001, 1012)  # it goes away, or restarts
    await stopping
