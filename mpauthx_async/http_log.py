"""The log of the HTTP servers that this package runs."""

import logging

from aiohttp.http import HttpProcessingError
from aiohttp.web import RequestPayloadError

__all__ = ["http_log"]

http_log: logging.Logger = logging.getLogger("aiohttp.server.mpauthx")
"""The logger of aiohttp's servers. It drops the records of requests that aiohttp cannot parse:
they quote the headers, with any secrets, codes and tokens, and add a traceback for each body."""

_CLIENT_ERRORS = (HttpProcessingError, RequestPayloadError)


def _is_no_client_error(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], _CLIENT_ERRORS))


http_log.addFilter(_is_no_client_error)
