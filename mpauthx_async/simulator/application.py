"""The simulator's application: which requests go to WeChat, to a control or to the front page."""

from collections.abc import Callable

from aiohttp import web

from .control import CONTROLS, Simulator, as_handler
from .front_page import front_page
from .wechat import WeChat

__all__ = ["application"]


def application(simulator: Simulator, wechat: Callable[[], WeChat]) -> web.Application:
    """Make the application of a simulator; `wechat` gives its WeChat since the last reset."""

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
