"""The aiohttp application that the server runs."""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any
from urllib.parse import quote

from aiohttp import web

from ...errors import ConfigurationError, MPAuthXError
from ...models import LoginPolicy
from ...service import MPAuthX
from ...web import aiohttp as mpauthx_aiohttp
from ...web.authenticator import Authenticator
from ...web.routes import PushRoutes
from .koa import koa_routes
from .options import ServerOptions

__all__ = ["DRAINING", "MULTIPROCESS_FOLDER", "Handler", "create_app"]

logger: logging.Logger = logging.getLogger(__name__)

DRAINING = web.AppKey("draining", asyncio.Event)
"""Set when the server is told to end: it is no longer ready."""

MULTIPROCESS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The environment's variable by which prometheus_client adds up several processes."""

_REFRESH_SECONDS = 1.0  # between two writings of the gauges to the file that all workers read
_CHECK_SECONDS = 1.0  # for which the answer of /readyz holds
# What a header may hold: RFC 9110, section 5.5, without the percent sign, which begins an escape.
_HEADER_CHARACTERS = "!#$&'()*+,-./:;<=>?@[]^_`{}~"
_NO_STORE = {"Cache-Control": "no-store"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def create_app(options: ServerOptions) -> web.Application:
    """Create the application, which closes its service at its end."""
    auth = MPAuthX(
        app_id=options.app_id,
        app_secret=options.app_secret,
        sku=options.sku,
        users=options.users,
        tokens=options.tokens,
        token_ttl=options.token_ttl,
        absolute_ttl=options.absolute_ttl,
        api_base=options.api_base,
        signing_keys=options.signing_keys,
        policy=LoginPolicy(max_sessions=options.max_sessions),
    )
    app = web.Application()
    include: list[Any] = list(options.include)
    if options.push_token is not None:
        include.append(PushRoutes(options.push_token, options.push_aes_key))
    app.add_routes(
        mpauthx_aiohttp.routes(
            auth, prefix=options.prefix, include=include, cookies=options.cookies
        )
    )
    app.on_cleanup.append(lambda _: auth.close())  # after all of cleanup_ctx
    app[DRAINING] = asyncio.Event()
    verify = _verifying(auth)
    app.add_routes(
        [
            web.get("/healthz", _health),
            web.get("/readyz", _readiness(auth)),
            web.route("*", "/verify", verify),
            web.route("*", "/verify/{path:(?s:.*)}", verify),
        ]
    )
    if options.compat is not None:
        app.add_routes(koa_routes(auth))
    if options.metrics:
        app.add_routes([web.get("/metrics", _metrics(app, auth))])
    return app


async def _health(_: web.Request) -> web.Response:
    return web.json_response({"status": "ok"}, headers=_NO_STORE)


def _readiness(auth: MPAuthX) -> Handler:
    """Answers whether the stores can serve; asks them once a second at most."""
    asked_at, is_ready = float("-inf"), False
    turn = asyncio.Lock()

    async def readiness(request: web.Request) -> web.Response:
        nonlocal asked_at, is_ready
        async with turn:
            if time.monotonic() > asked_at + _CHECK_SECONDS:
                try:
                    await auth.check()
                    is_ready = True
                except MPAuthXError as error:
                    is_ready = False
                    logger.warning("Not ready: %s", error)
                asked_at = time.monotonic()
        if is_ready and not request.app[DRAINING].is_set():
            return web.json_response({"status": "ready"}, headers=_NO_STORE)
        return web.json_response({"status": "not ready"}, status=503, headers=_NO_STORE)

    return readiness


def _verifying(auth: MPAuthX) -> Handler:
    """Answers what a proxy asks about a request that it holds back.

    It takes no cookie: the proxy asks with another method than the request's, so that a page of
    another site could act with the browser's cookie.
    """
    authenticator = Authenticator(auth)

    async def verify(request: web.Request) -> web.Response:
        try:
            headers = mpauthx_aiohttp.headers_of(request)
            identity = await authenticator.identity(request, request.method, headers)
        except MPAuthXError as error:
            return mpauthx_aiohttp.response_of(authenticator.refusal(error))
        user_id = quote(identity.user_id, safe=_HEADER_CHARACTERS)
        ids = {"X-User-Id": user_id, "X-Session-Id": identity.session_id}
        return web.Response(headers=ids | _NO_STORE)

    return verify


def _metrics(app: web.Application, auth: MPAuthX) -> Handler:
    """Answers Prometheus, for all workers together."""
    try:
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.exposition import CONTENT_TYPE_LATEST
        from prometheus_client.multiprocess import MultiProcessCollector

        from ...metrics import Metrics
    except ImportError as error:
        raise ConfigurationError(
            "metrics needs prometheus_client: pip install 'mpauthx-async[prometheus]'."
        ) from error
    registry = CollectorRegistry()
    counted = Metrics(registry)
    counted.watch(auth)
    if MULTIPROCESS_FOLDER in os.environ:
        app.cleanup_ctx.append(partial(_refreshing, counted.refresh))
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]

    async def metrics(_: web.Request) -> web.Response:
        text = await asyncio.to_thread(generate_latest, registry)  # reads the workers' files
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST, **_NO_STORE})

    return metrics


async def _refreshing(refresh: Callable[[], None], _: web.Application) -> AsyncIterator[None]:
    """Refresh the gauges for the other workers, which cannot ask this one."""

    async def go_on() -> None:
        while True:
            refresh()
            await asyncio.sleep(_REFRESH_SECONDS)

    task = asyncio.create_task(go_on())
    yield
    task.cancel()
    await asyncio.wait([task])
