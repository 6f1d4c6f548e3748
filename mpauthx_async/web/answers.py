"""Answers to clients: the envelope of every body, and which answer an error gets.

Sources: RFC 6750, section 3; RFC 9110, sections 10.2.3, 11.6.1 and 15.5.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..constants import StatusCode
from ..errors import (
    BannedError,
    InvalidTokenError,
    MPAuthXError,
    OperatorError,
    RefusedError,
    WeChatRefusedError,
)
from ..failure_log import failures
from .errors import CredentialsError, NoTokenError

__all__ = ["Answer", "Render", "envelope", "message_of", "ok", "plain", "redirect", "refusal"]

Render = Callable[[int, str, Any], Any]
"""Builds the body of an answer from its status code, its status message and the response."""

_NO_STORE = ("Cache-Control", "no-store")
_JSON = ("Content-Type", "application/json")
_TOO_MANY_REQUESTS = 429
_SECONDS_AFTER_TOO_MANY = 60  # WeChat counts by the minute
_SECONDS_AFTER_OUTAGE = 1
_KIND = 200  # characters of a message that tell what it is about


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer, for any framework."""

    status: int
    headers: tuple[tuple[str, str], ...]  # a name may come twice
    body: bytes

    def with_headers(self, *headers: tuple[str, str]) -> "Answer":
        """The same answer with more headers."""
        return Answer(self.status, (*self.headers, *headers), self.body)


def envelope(status_code: int, status_message: str, response: Any) -> dict[str, Any]:
    """The body that mpauthx's clients know."""
    return {"status_code": status_code, "status_message": status_message, "response": response}


def ok(render: Render, response: Any) -> Answer:
    """The answer of a call that succeeded."""
    return _json(200, render(StatusCode.success.value, "OK", response))


def plain(text: str) -> Answer:
    """A bare text, as WeChat wants it."""
    return Answer(200, (("Content-Type", "text/plain; charset=utf-8"), _NO_STORE), text.encode())


def redirect(location: str) -> Answer:
    """Send a browser on, with a GET."""
    return Answer(303, (("Location", location), _NO_STORE), b"")


def refusal(error: MPAuthXError, render: Render = envelope) -> Answer:
    """The answer to an error. If the client did not cause it, the answer has no details."""
    headers = []
    if (challenge := _challenge(error)) is not None:
        headers.append(("WWW-Authenticate", challenge))
    if error.retryable:
        is_limit = error.http_status == _TOO_MANY_REQUESTS
        seconds = _SECONDS_AFTER_TOO_MANY if is_limit else _SECONDS_AFTER_OUTAGE
        headers.append(("Retry-After", str(seconds)))
    if isinstance(error, OperatorError):  # its text goes nowhere else
        failures.error("%s", error, extra={"kind": f"{type(error).__name__} {error!s:.{_KIND}}"})
    body = render(error.code.value, message_of(error), _details(error))
    return _json(error.http_status, body).with_headers(*headers)


def message_of(error: MPAuthXError) -> str:
    """What a client is told of an error."""
    if isinstance(error, WeChatRefusedError):
        return "WeChat refused what was sent."
    if isinstance(error, BannedError):  # the reason is a note of whoever banned them
        return "This user is banned."
    if isinstance(error, RefusedError):
        return str(error)
    if error.retryable:
        return "The service cannot answer now. Try again later."
    return "The service cannot answer."


def _challenge(error: MPAuthXError) -> str | None:
    if isinstance(error, CredentialsError):
        return 'Bearer error="invalid_request"'
    if error.http_status != 401:
        return None
    if isinstance(error, InvalidTokenError) and not isinstance(error, NoTokenError):
        return 'Bearer error="invalid_token"'
    return "Bearer"


def _json(status: int, body: Any) -> Answer:
    return Answer(status, (_JSON, _NO_STORE), json.dumps(body).encode())


def _details(error: MPAuthXError) -> dict[str, Any] | None:
    if isinstance(error, WeChatRefusedError):
        return {"errcode": error.errcode}
    if isinstance(error, BannedError):
        return {"until": error.until}
    if isinstance(error, InvalidTokenError) and not isinstance(error, NoTokenError):
        return {"status": error.status.name}
    return None
