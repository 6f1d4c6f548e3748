"""A server that acts out a script in place of WeChat."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any, Self

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from mpauthx_async import Connections, WeChatAPI

APP_ID = "wx4f4bc4dec97d474b"
# No way of writing these down, such as percent-encoding, changes the word that is searched for.
APP_SECRET = "AppSecretGEHEIM+/ &=%?#"
SESSION_KEY = "SessionKeyGEHEIM+/AAAA=="
SECRET_WORD = "GEHEIM"
PATH = "/sns/jscode2session"
RID = "6129ee10-272863a4-64d75414"


@dataclass(frozen=True)
class Answer:
    """An HTTP response.

    Attributes:
        headers: whole lines.
        missing: how many bytes more than there are the header promises.
        hangs: whether the connection stays open after it, as if there were more to come.
    """

    body: bytes | str
    status: str = "200 OK"
    headers: str = ""
    missing: int = 0
    hangs: bool = False

    def encoded(self, keep_alive: bool) -> bytes:
        body = self.body.encode() if isinstance(self.body, str) else self.body
        length = "" if "Transfer-Encoding" in self.headers else len(body) + self.missing
        head = (
            f"HTTP/1.1 {self.status}\r\n"
            f"{self.headers}"
            f"{f'Content-Length: {length}' if length != '' else 'X-Length: none'}\r\n"
            f"Connection: {'keep-alive' if keep_alive else 'close'}\r\n\r\n"
        )
        return head.encode() + body


class Act(Enum):
    """What a server can do instead of answering."""

    RESET = "reset the connection"
    LEAVE = "close the connection"
    HANG = "say nothing for as long as the client waits"
    BABBLE = "say what is no HTTP"


class Server:
    """A TCP server that acts out a script: each request its next entry, at its end the last one.

    Attributes:
        requests: the heads of the requests that came.
        asked: set by each request.
    """

    def __init__(self, *script: Answer | Act, keep_alive: bool = False) -> None:
        self._script = script
        self._keep_alive = keep_alive
        self._connections: set[asyncio.Task[None]] = set()
        self.requests: list[str] = []
        self.connections = 0
        self.asked = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await asyncio.gather(*self._connections)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(asyncio.current_task())
        self.connections += 1
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._act(reader, writer):
                pass
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    async def _act(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve a request; whether another may follow on this connection."""
        head = await reader.readuntil(b"\r\n\r\n")
        act = self._script[min(len(self.requests), len(self._script) - 1)]
        self.requests.append(head.decode())
        self.asked.set()
        if isinstance(act, Answer):
            writer.write(act.encoded(self._keep_alive))
            await writer.drain()
            if act.hangs:
                await reader.read()
            return self._keep_alive
        if act is Act.HANG:
            await reader.read()
        elif act is Act.BABBLE:
            writer.write(f"220 {APP_SECRET} {SESSION_KEY} ESMTP\r\n\r\n".encode())
        elif act is Act.RESET:
            no_lingering = struct.pack("ii", 1, 0)
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_lingering)
            writer.transport.abort()
        return False


def success(**changes: Any) -> Answer:
    fields = {"openid": "bob", "session_key": SESSION_KEY, **changes}
    return Answer(json.dumps({name: value for name, value in fields.items() if value is not ...}))


def refused(errcode: Any, errmsg: Any = f"some error, rid: {RID}") -> Answer:
    fields = {"errcode": errcode, "errmsg": errmsg, "session_key": SESSION_KEY}
    return Answer(json.dumps({name: value for name, value in fields.items() if value is not ...}))


def api(connections: Connections, *hosts: str, **changes: Any) -> WeChatAPI:
    arguments = {"app_id": APP_ID, "app_secret": APP_SECRET, "api_base": hosts, **changes}
    return WeChatAPI(connections=connections, **arguments)


@asynccontextmanager
async def asking(
    *hosts: str, http: aiohttp.ClientSession | None = None, **changes: Any
) -> AsyncIterator[WeChatAPI]:
    """An API on connections of its own, which end with it."""
    async with Connections(http=http) as connections:
        yield api(connections, *hosts, **changes)


@pytest.fixture
async def connections() -> AsyncIterator[Connections]:
    async with Connections() as opened:
        yield opened


class Resolver(AbstractResolver):
    """Name resolution that fails, or takes forever."""

    def __init__(self, *, forever: bool) -> None:
        self._forever = forever

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        if self._forever:
            await asyncio.Event().wait()
        raise OSError(None, "no such host")

    async def close(self) -> None:
        pass
