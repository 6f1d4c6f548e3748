"""An HTTP client that sends whatever it is told, byte by byte."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from mpauthx_async import WeChatSimulator

Headers: TypeAlias = Sequence[tuple[str, str | bytes]]
Body: TypeAlias = bytes | AsyncIterator[bytes]
_PATIENCE = 30  # seconds


@dataclass(frozen=True)
class Reply:
    """An answer; its headers by their names in lower case."""

    status: int
    headers: dict[str, list[str]]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        values = self.headers.get(name, [])
        assert len(values) <= 1, values
        return values[0] if values else None


def bearer(token: str) -> list[tuple[str, str]]:
    """The header with a token."""
    return [("Authorization", f"Bearer {token}")]


async def send(port: int, method: str, path: str, headers: Headers = (), body: Body = b"") -> Reply:
    """Send a request; its body with its length, or in chunks until the server has answered."""
    lines = [f"{method} {path} HTTP/1.1".encode("latin-1")]
    names = {name.lower() for name, _ in headers}
    if "host" not in names:
        lines.append(b"Host: localhost")
    for name, value in headers:
        raw = value if isinstance(value, bytes) else value.encode()
        lines.append(name.encode() + b": " + raw)
    if isinstance(body, bytes):
        if body and "content-length" not in names:
            lines.append(b"Content-Length: %d" % len(body))
    else:
        lines.append(b"Transfer-Encoding: chunked")
    async with asyncio.timeout(_PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        sending = asyncio.create_task(_send(writer, b"\r\n".join([*lines, b"", b""]), body))
        try:
            return await _read(reader, method)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            writer.transport.abort()  # what is left of the body goes nowhere


async def _send(writer: asyncio.StreamWriter, head: bytes, body: Body) -> None:
    writer.write(head)
    if isinstance(body, bytes):
        writer.write(body)
        await writer.drain()
        return
    async for chunk in body:
        writer.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        await writer.drain()
    writer.write(b"0\r\n\r\n")


async def _read(reader: asyncio.StreamReader, method: str) -> Reply:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers: dict[str, list[str]] = {}
    for line in filter(None, head[1:]):
        name, _, value = line.partition(":")
        headers.setdefault(name.lower(), []).append(value.strip())
    status = int(head[0].split(" ")[1])
    if status == 204 or method == "HEAD":
        body = b""
    elif "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"][0]))
    elif headers.get("transfer-encoding") == ["chunked"]:
        body = b""
        while length := int(await reader.readline(), 16):
            body += await reader.readexactly(length)
            await reader.readline()
    else:
        body = await reader.read()
    return Reply(status, headers, body)


def login_body(wx: WeChatSimulator, user: str = "bob") -> bytes:
    """The body of a login, with a new code."""
    return json.dumps({"code": wx.login(user)}).encode()
