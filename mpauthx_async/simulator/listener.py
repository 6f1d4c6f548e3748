"""Listener: the address at which the simulator serves HTTP."""

import logging

from aiohttp import web
from aiohttp.http import HttpProcessingError

__all__ = ["Listener"]


class Listener:
    """Serves an application at an address, from `start` to `close`.

    Args:
        host: the address to listen on.
        port: the TCP port; 0 takes a free one.

    Attributes:
        url: where it listens; None while it does not.
    """

    def __init__(self, host: str, port: int) -> None:
        self.url: str | None = None
        self._address = host, port
        self._runner: web.AppRunner | None = None

    async def start(self, application: web.Application) -> None:
        """Listen; RuntimeError: it does already; OSError: the port is taken."""
        if self._runner is not None:
            raise RuntimeError(f"The simulator runs already, at {self.url}.")
        logger = logging.getLogger(__name__)
        logger.addFilter(_is_no_parse_error)
        runner = web.AppRunner(
            application,
            access_log=None,  # a request line holds the app secret
            logger=logger,
            shutdown_timeout=0.5,  # seconds
            handler_cancellation=True,  # else an answer with much latency outlives its client
        )
        await runner.setup()
        await web.TCPSite(runner, *self._address, backlog=1024).start()
        self._runner = runner
        host, port = runner.addresses[0][:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def close(self) -> None:
        """Give requests in progress half a second, then free the port; twice is fine."""
        runner, self._runner, self.url = self._runner, None, None
        if runner is not None:
            await runner.cleanup()


def _is_no_parse_error(record: logging.LogRecord) -> bool:
    # aiohttp logs a request line that it cannot parse, and with it the app secret.
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))
