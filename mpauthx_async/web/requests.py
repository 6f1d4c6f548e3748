"""A request as the routes see it, and reading its body within bounds."""

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from .._compat import timeout
from ..errors import ParameterError
from .credentials import Headers
from .errors import RequestTooLargeError, RequestTooSlowError

__all__ = ["MAX_BODY_BYTES", "WebRequest"]

MAX_BODY_BYTES = 65_536
"""Bytes that a body may have: sealed data is at most 16,384 characters long."""

_MAX_BODY_SECONDS = 10.0
_MAX_QUERY_FIELDS = 32


@dataclass(frozen=True, slots=True)
class WebRequest:
    """A request to one of our routes."""

    connection: object = field(repr=False)  # the request as its framework has it
    method: str
    headers: Headers = field(repr=False)
    chunks: AsyncIterator[bytes] = field(repr=False)  # ParameterError if it ends early
    query_string: str = field(default="", repr=False)  # as it was sent
    session_id: str = ""  # in the path, if it has one

    def query(self) -> dict[str, str]:
        """The parameters in the URL; ParameterError if they are too many, or one comes twice."""
        try:
            pairs = parse_qsl(
                self.query_string, keep_blank_values=True, max_num_fields=_MAX_QUERY_FIELDS
            )
        except ValueError:
            raise ParameterError("The URL has too many parameters.") from None
        if len(query := dict(pairs)) < len(pairs):
            raise ParameterError("A parameter appears twice in the URL.")
        return query

    async def body(self) -> bytes:
        """Read the body.

        Raises:
            RequestTooLargeError: it is longer than MAX_BODY_BYTES, or claims to be.
            RequestTooSlowError: it did not arrive in time.
            ParameterError: the client ended it early.
        """
        for length in self.headers("content-length"):
            # A number of more digits would take int() long.
            if not length.isdecimal() or len(length) > 9 or int(length) > MAX_BODY_BYTES:
                raise _too_large()
        body = bytearray()
        try:
            async with timeout(_MAX_BODY_SECONDS):
                async for chunk in self.chunks:
                    body += chunk
                    if len(body) > MAX_BODY_BYTES:
                        raise _too_large()
        except TimeoutError:
            raise RequestTooSlowError("The request's body did not arrive in time.") from None
        return bytes(body)

    async def json(self) -> Mapping[str, Any]:
        """Read the body as a JSON object; ParameterError for anything else."""
        body = await self.body()
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise ParameterError("The request's body must be a JSON object.")
        return value


def _too_large() -> RequestTooLargeError:
    return RequestTooLargeError(f"The request's body is longer than {MAX_BODY_BYTES:,} bytes.")
