"""Requests, calls and routes of WeChat's API, and its JSON."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .error_answers import Refused, sns_error

__all__ = [
    "OK",
    "SECRET_PARAMETERS",
    "Answer",
    "Call",
    "Request",
    "Route",
    "content_type",
    "to_bytes",
    "to_json",
]

Answer = dict[str, Any]
OK: Mapping[str, object] = {"errcode": 0, "errmsg": "ok"}
_escaped_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_ESCAPE = re.compile(r"\\(?:u00([01][0-9a-f])|([bfnrt])|.)")
_LETTERS = dict(zip("bfnrt", "\b\f\n\r\t", strict=True))
_LONE_SURROGATE = re.compile("[\ud800-\udc7f\udd00-\udfff]")
SECRET_PARAMETERS = frozenset(
    ("secret", "corpsecret", "access_token", "refresh_token", "component_access_token")
)


@dataclass(frozen=True, slots=True)
class Request:
    """A request to WeChat's API: its path, its query without secrets and tokens, its method.

    The fields of a form that is accepted in place of a query are part of the query; other bodies
    are omitted.
    """

    path: str
    query: Mapping[str, str]
    method: str = "GET"


@dataclass(frozen=True, slots=True)
class Call:
    """A call of an endpoint: the query, in the order it was sent, and the body."""

    query: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)

    def fields(self) -> Mapping[str, Any]:
        """Parse the body's JSON object; raises Refused: 44002 empty, 47001 malformed."""
        if not self.body:
            raise Refused(44002)
        try:
            fields = json.loads(self.body)
        except (ValueError, RecursionError):
            raise Refused(47001) from None
        if not isinstance(fields, dict):
            raise Refused(47001)
        return fields


@dataclass(frozen=True, slots=True)
class Route:
    """An endpoint of WeChat's API.

    Args:
        method: the documented one, GET or POST; another is answered with 43001 or 43002.
        path: begins with a slash.
        answer: answers a call; raises Refused for an errcode.
        parameters: the query and body for the list of routes.
        error: makes the answer for an errcode at a time in Unix seconds.
        also_takes_post: whether WeChat accepts POST, too, where it documents GET.
    """

    method: str
    path: str
    answer: Callable[[Call], Answer]
    parameters: str
    error: Callable[[int, float], Answer] = sns_error
    also_takes_post: bool = False

    def __str__(self) -> str:
        return f"{self.method} {self.path}{self.parameters}"

    @property
    def takes_forms(self) -> bool:
        """Whether WeChat accepts a POST request with a form in place of a query."""
        return self.path.startswith("/sns/") or self.path == "/cgi-bin/token"

    def refuse_method(self, _: Call) -> Answer:
        """The answer to another method than this route's."""
        raise Refused(43001 if self.method == "GET" else 43002)


def to_json(value: object) -> str:
    """Encode JSON as WeChat does: control characters are not escaped."""
    return _ESCAPE.sub(_unescaped, _escaped_json(value))


def to_bytes(text: str) -> bytes:
    """Encode JSON in UTF-8; what `bytes.decode(errors="surrogateescape")` escaped is restored.

    Other lone surrogates become JSON escapes.
    """
    escaped = _LONE_SURROGATE.sub(lambda found: f"\\u{ord(found[0]):x}", text)
    return escaped.encode(errors="surrogateescape")


def _unescaped(found: re.Match[str]) -> str:
    if found[1]:
        return chr(int(found[1], 16))
    return _LETTERS[found[2]] if found[2] else found[0]


def content_type(path: str) -> str:
    """The exact Content-Type header of WeChat's answers under a path."""
    return "text/plain" if path.startswith("/sns/") else "application/json; encoding=utf-8"
