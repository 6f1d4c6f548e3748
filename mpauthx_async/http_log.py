"""The log of the HTTP servers that this package runs."""

import logging

from aiohttp.http import HttpProcessingError
from aiohttp.web import RequestPayloadError

__all__ = ["http_log"]

http_log: logging.Logger = logging.getLogger("aiohttp.server.mpauthx")
"""Takes what aiohttp's server logs, but for requests that it cannot parse: it quotes their heads,
and with them secrets, codes and tokens, and has a traceback for each body."""

_CLIENT_ERRORS = (HttpProcessingError, RequestPayloadError)


def _is_no_client_error(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], _CLIENT_ERRORS))


http_log.addFilter(_is_no_client_error)
