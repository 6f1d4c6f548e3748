"""The access log: a line for each request, without what may be secret."""

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from ..text import visible

__all__ = ["AccessLog"]

_MAX_PATH = 200  # characters


class AccessLog(AbstractAccessLogger):
    """Logs the client's address, method, path, status, size and duration.

    A query is left out: it may hold a code or a token.
    """

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Log a request that was answered."""
        path = visible(request.rel_url.raw_path[:_MAX_PATH])
        self.logger.info(
            '%s "%s %s" %d %d %.1fms',
            request.remote,
            visible(request.method),
            path,
            response.status,
            response.body_length,
            time * 1000,
        )
