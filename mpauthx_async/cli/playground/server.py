"""The server of the playground, on the loopback."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from tempfile import TemporaryDirectory
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from ...errors import ConfigurationError, MPAuthXError
from ...http_log import http_log
from ...simulator import WeChatSimulator
from .stage import World
from .tab import Message, Tab, open_tab

__all__ = ["serve_playground"]

_HOST = "127.0.0.1"
_MAX_TABS = 32  # each has connections of its own
_MAX_MESSAGE = 1024  # bytes
_FILES = {
    "/": ("page.html", "text/html"),
    "/style.css": ("style.css", "text/css"),
    "/script.js": ("script.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self' {websockets}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serve_playground(port: int = 0, redis_url: str | None = None) -> AsyncIterator[str]:
    """Serve the playground; gives its URL. For redis_url see `run_demo`.

    Raises:
        ConfigurationError: the port is taken, or redis_url does not name a Redis.
        StoreError: Redis cannot serve.
    """
    with TemporaryDirectory(prefix="mpauthx-playground-") as folder:
        tokens = redis_url or f"sqlite:///{folder}/tokens.db"
        # No rate limit: visitors may click as often as they like.
        async with WeChatSimulator(calls_a_minute=None) as wx:
            world = World(wx, f"sqlite:///{folder}/users.db", tokens)
            async with open_tab(world, lambda _: None):
                pass  # a Redis that does not answer is told here, and not on the page
            app = _Server(world).app
            runner = web.AppRunner(app, access_log=None, logger=http_log, shutdown_timeout=2)
            await runner.setup()
            try:
                await _listen(runner, port)
                yield f"http://{_HOST}:{runner.addresses[0][1]}/"
            finally:
                await runner.cleanup()


async def _listen(runner: web.AppRunner, port: int) -> None:
    try:
        await web.TCPSite(runner, _HOST, port).start()
    except OSError as error:
        raise ConfigurationError(
            f"The playground cannot listen on port {port} ({os.strerror(error.errno or 0)}). "
            "Choose another with --port, or leave --port out for a free one."
        ) from None


class _Server:
    """Serves the files of the page, and a websocket for each tab."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._sockets: set[web.WebSocketResponse] = set()
        self._texts = {
            path: (files(__package__).joinpath(name).read_text("utf-8"), content_type)
            for path, (name, content_type) in _FILES.items()
        }
        self.app: web.Application = web.Application(middlewares=[_refuse_foreign])
        for path in _FILES:
            self.app.router.add_get(path, self._file)
        self.app.router.add_get("/tab", self._tab)
        self.app.on_response_prepare.append(_protect)
        self.app.on_shutdown.append(self._close_tabs)

    async def _file(self, request: web.Request) -> web.Response:
        text, content_type = self._texts[request.path]
        return web.Response(text=text, content_type=content_type)

    async def _tab(self, request: web.Request) -> web.StreamResponse:
        if "Origin" not in request.headers:  # browsers send it with each websocket
            raise web.HTTPForbidden(text="A websocket needs an Origin.")
        socket = web.WebSocketResponse(heartbeat=30, max_msg_size=_MAX_MESSAGE)
        await socket.prepare(request)
        if len(self._sockets) >= _MAX_TABS:
            reason = b"Too many tabs: close one."
            await socket.close(code=WSCloseCode.TRY_AGAIN_LATER, message=reason)
            return socket
        self._sockets.add(socket)
        try:
            await self._converse(socket)
        finally:
            self._sockets.discard(socket)
        return socket

    async def _converse(self, socket: web.WebSocketResponse) -> None:
        messages: asyncio.Queue[Message] = asyncio.Queue()
        sending = asyncio.create_task(_send_all(socket, messages))
        try:
            async with open_tab(self._world, messages.put_nowait) as tab:
                async for received in socket:
                    if received.type is not WSMsgType.TEXT:
                        break
                    await _act(tab, received.data, messages.put_nowait)
                    await messages.join()  # so that a page that does not read is not served on
        except MPAuthXError as error:
            with suppress(ConnectionError):
                await socket.send_json(_failure(error))
        finally:
            sending.cancel()
            with suppress(asyncio.CancelledError):
                await sending
            await socket.close()

    async def _close_tabs(self, _: web.Application) -> None:
        reason = b"The playground has ended: run it again."
        closing = [
            socket.close(code=WSCloseCode.GOING_AWAY, message=reason) for socket in self._sockets
        ]
        await asyncio.gather(*closing)


async def _send_all(socket: web.WebSocketResponse, messages: asyncio.Queue[Message]) -> None:
    while True:
        message = await messages.get()
        with suppress(ConnectionError):  # the page is gone
            await socket.send_json(message)
        messages.task_done()


async def _act(tab: Tab, text: str, send: Callable[[Message], None]) -> None:
    try:
        message: Any = json.loads(text)
        get = message.get if isinstance(message, dict) else {}.get
        await tab.act(get("action"), get("device"), get("policy"), get("life"))
    except (ValueError, RecursionError, MPAuthXError) as error:
        send(_failure(error))


def _failure(error: Exception) -> Message:
    return {"type": "failed", "message": str(error)}


@web.middleware
async def _refuse_foreign(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """Answer only to our own address: a foreign page may have a name that leads to the loopback."""
    hosts = _own_hosts(request)
    given = request.headers.getall("Host", [])
    origins = request.headers.getall("Origin", [])
    if len(given) != 1 or given[0] not in hosts:
        raise web.HTTPForbidden(text=f"The playground is at http://{hosts[0]}/ and nowhere else.")
    if any(origin != f"http://{given[0]}" for origin in origins):
        raise web.HTTPForbidden(text="The playground answers only to its own page.")
    return await handler(request)


def _own_hosts(request: web.Request) -> list[str]:
    """The values that the Host header may have, by the socket's own port."""
    transport = request.transport
    port = transport.get_extra_info("sockname")[1] if transport is not None else 0
    suffix = "" if port == 80 else f":{port}"
    return [f"{_HOST}{suffix}", f"localhost{suffix}"]


async def _protect(request: web.Request, response: web.StreamResponse) -> None:
    # Not every browser counts a websocket of the same address as 'self'.
    websockets = " ".join(f"ws://{host}" for host in _own_hosts(request))
    response.headers.update(
        {
            "Cache-Control": "no-store",
            "Content-Security-Policy": _POLICY.format(websockets=websockets),
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
    )
