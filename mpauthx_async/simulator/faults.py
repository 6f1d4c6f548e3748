"""Fault: the ways in which a request can fail, and their answers."""

import os
import socket
import struct
from collections.abc import Callable
from enum import Enum

from aiohttp import web

from .routes import Answer, content_type, to_bytes, to_json

__all__ = ["Fault", "fail", "respond"]


class Fault(Enum):
    """A way in which a request fails. It uses up a code only if it says so."""

    SYSTEM_BUSY = "errcode -1"
    TOO_FREQUENT = "errcode 45011"
    HTTP_500 = "status 500"
    HTML = "status 200 with an HTML page"
    EMPTY = "status 200 with an empty body"
    NOT_AN_OBJECT = "status 200 with a JSON list"
    NO_FIELDS = "status 200 with errcode 0 and nothing more"
    CONNECTION_RESET = "a TCP reset instead of an answer"
    TRUNCATED = "half an answer; the code is used up"
    LOST_ANSWER = "a TCP reset instead of an answer; the code is used up"

    @property
    def is_carried_out(self) -> bool:
        """Whether the request is carried out before it fails."""
        return self in (Fault.TRUNCATED, Fault.LOST_ANSWER)


def respond(path: str, body: str) -> web.Response:
    """Answer as WeChat does under a path."""
    return web.Response(body=to_bytes(body), headers={"Content-Type": content_type(path)})


def fail(
    request: web.Request, fault: Fault, body: str, error: Callable[[int], Answer]
) -> web.Response:
    """Answer a request with a fault."""
    if fault in _ERRCODES:
        return respond(request.path, to_json(error(_ERRCODES[fault])))
    if fault in _BODIES:
        return respond(request.path, _BODIES[fault])
    if fault is Fault.HTTP_500:
        return web.Response(status=500, text="Internal Server Error")
    if fault is Fault.HTML:
        page = "<html><body>Sign in to this network</body></html>"
        return web.Response(text=page, content_type="text/html")
    if fault is Fault.TRUNCATED:
        response = respond(request.path, body[: len(body) // 2])
        response.headers["Content-Length"] = str(len(to_bytes(body)))
        response.force_close()
        return response
    _reset_connection(request)
    return web.Response()


def _reset_connection(request: web.Request) -> None:
    if request.transport is not None:
        no_lingering = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_lingering)
        request.transport.abort()


_ERRCODES = {Fault.SYSTEM_BUSY: -1, Fault.TOO_FREQUENT: 45011}
_BODIES = {
    Fault.EMPTY: "",
    Fault.NOT_AN_OBJECT: "[]",
    Fault.NO_FIELDS: '{"errcode":0,"errmsg":"ok"}',
}
