"""Listener: the address at which the simulator serves HTTP."""

from collections.abc import Callable

from aiohttp import web

from ..http_log import http_log
from .control import CONTROLS, as_handler
from .front_page import front_page
from .wechat import WeChat

__all__ = ["Listener"]


class Listener:
    """Serves a simulator at an address, from `start` to `close`.

    Attributes:
        url: where it listens; None while it does not.
    """

    def __init__(self, host: str, port: int) -> None:
        self.url: str | None = None
        self._address = host, port
        self._runner: web.AppRunner | None = None

    async def start(self, simulator: object, wechat: Callable[[], WeChat]) -> None:
        """Listen; raises RuntimeError if it does already, and OSError if the port is taken."""
        if self._runner is not None:
            raise RuntimeError(f"The simulator runs already, at {self.url}.")
        runner = web.AppRunner(
            _application(simulator, wechat),
            access_log=None,  # a request line holds the app secret
            logger=http_log,
            shutdown_timeout=0.5,  # seconds
            handler_cancellation=True,  # else an answer with much latency outlives its client
        )
        await runner.setup()
        await web.TCPSite(runner, *self._address, backlog=1024).start()
        self._runner = runner
        host, port = runner.addresses[0][:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def close(self) -> None:
        """Finish requests within half a second, and free the port; may be called again."""
        runner, self._runner, self.url = self._runner, None, None
        if runner is not None:
            await runner.cleanup()


def _application(simulator: object, wechat: Callable[[], WeChat]) -> web.Application:
    """Create the application; `wechat` returns the simulator's WeChat since the last reset."""

    async def show_front_page(_: web.Request) -> web.Response:
        return web.Response(text=front_page(wechat()))

    async def answer(request: web.Request) -> web.Response:
        return await wechat().answer(request)

    app = web.Application()
    app.router.add_get("/", show_front_page)
    for path in CONTROLS:
        app.router.add_post(path, as_handler(simulator, path))
    app.router.add_route("*", "/{path:.*}", answer)
    return app
