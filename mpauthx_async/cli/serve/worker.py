"""A worker: serves on a socket in this process, until it is told to end."""

import asyncio
import logging
import multiprocessing
import signal
import socket
import sys
from contextlib import suppress
from typing import Any

from aiohttp import web

from ...http_log import http_log
from .access_log import AccessLog
from .application import DRAINING, Handler, create_app
from .options import ServerOptions

__all__ = ["log_to_stderr", "run_worker"]

_FORMAT = "%(asctime)s %(levelname)s %(process)d %(message)s"
_KEEPALIVE = 75  # seconds, longer than nginx keeps its connections to us: 60
_MAX_HEAD_SECONDS = 30.0  # for a client to send the head of its first request
_BACKLOG = 1024

logger: logging.Logger = logging.getLogger(__name__)


def run_worker(options: ServerOptions, listening: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT, which for a second time ends the process at once."""
    log_to_stderr()
    asyncio.run(_serve(options, listening))


def log_to_stderr() -> None:
    """Print what is logged; a line that cannot be printed is lost."""
    logging.raiseExceptions = False  # or each such line prints a traceback, as on a full disk
    logging.basicConfig(level=logging.INFO, format=_FORMAT, stream=sys.stderr)


async def _serve(options: ServerOptions, listening: socket.socket) -> None:
    app = create_app(options)
    silent = _SilentClients()
    app.middlewares.insert(0, silent.hear)
    runner = web.AppRunner(
        app,
        access_log_class=AccessLog,
        access_log=_access_logger() if options.access_log else None,
        logger=http_log,
        keepalive_timeout=_KEEPALIVE,
        # aiohttp waits for this twice, and without limit if it is 0.
        shutdown_timeout=max(options.shutdown_timeout, 0.002) / 2,
    )
    await runner.setup()
    try:
        await web.SockSite(runner, listening, backlog=_BACKLOG).start()
        sweeping = asyncio.create_task(silent.sweep(runner))
        await _told_to_end()
        app[DRAINING].set()
        if options.drain_delay:  # so that load balancers hear of it before clients are refused
            logger.info("Draining: /readyz is 503 for %g seconds.", options.drain_delay)
            await asyncio.sleep(options.drain_delay)
        logger.info("Ending: requests in flight have %g seconds.", options.shutdown_timeout)
        sweeping.cancel()
    finally:
        await runner.cleanup()


async def _told_to_end() -> None:
    """Wait for a signal, or for the parent to die; a second signal then has its default effect."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    parent = multiprocessing.parent_process()
    signals = [signal.SIGTERM]
    if parent is None:
        signals.append(signal.SIGINT)
    else:
        signal.signal(
            signal.SIGINT, signal.SIG_IGN
        )  # Ctrl-C also reaches the parent, which stops us
        loop.add_reader(parent.sentinel, told.set)
    for number in signals:
        with suppress(NotImplementedError):  # on Windows Ctrl-C raises KeyboardInterrupt
            loop.add_signal_handler(number, told.set)
    await told.wait()
    for number in signals:
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_DFL)
    if parent is not None:
        loop.remove_reader(parent.sentinel)


class _SilentClients:
    """Closes connections on which the head of a first request does not arrive in time.

    aiohttp limits the time between requests, and our routes the time for a body, but
    nothing else limits the time for the head of a first request.
    """

    def __init__(self) -> None:
        self._heard: set[object] = set()
        self._silent_since: dict[Any, float] = {}  # by the event loop's clock

    async def sweep(self, runner: web.AppRunner) -> None:
        """Close the connections that are silent for too long, again and again."""
        while (server := runner.server) is not None:
            now = asyncio.get_running_loop().time()
            connections = set(server.connections)
            self._heard &= connections
            self._silent_since = {
                each: self._silent_since.get(each, now) for each in connections - self._heard
            }
            for connection, since in self._silent_since.items():
                if now > since + _MAX_HEAD_SECONDS:
                    connection.force_close()
            await asyncio.sleep(_MAX_HEAD_SECONDS / 10)

    @web.middleware
    async def hear(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Take note that a request arrived; a middleware."""
        self._heard.add(request.protocol)
        return await handler(request)


def _access_logger() -> logging.Logger:
    access = logging.getLogger("mpauthx_async.access")
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    access.addHandler(handler)
    access.propagate = False
    access.setLevel(logging.INFO)
    return access
