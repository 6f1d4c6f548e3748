"""A proxy before a MongoDB that holds or refuses some writes, which nx-27017 never does."""

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import bson
from pymongo.uri_parser import parse_uri

_OP_MSG = 2013
_WRITES = ("insert", "update", "delete")

Answer = Callable[[str, str, str], dict[str, Any] | None]
"""For a command, a collection and a document or filter as text, the error of the write, or None."""


@asynccontextmanager
async def mongo_proxy(url: str, answer: Answer) -> AsyncIterator[str]:
    """Run a proxy; gives the URL through which it is reached.

    It sends commands on unless `answer` gives an error for one of their writes. Like mongod, it
    answers the whole command with the error 50, when its maxTimeMS is over, or with 10107, and
    other errors for each write.

    Args:
        url: of the server, with a database.
        answer: gives the error of a write.
    """
    host, port = parse_uri(url)["nodelist"][0]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_server: asyncio.StreamWriter | None = None
        try:
            from_server, to_server = await asyncio.open_connection(host, port)
            while True:
                head = await reader.readexactly(16)
                length, id_, _, opcode = struct.unpack("<4i", head)
                body = await reader.readexactly(length - 16)
                reply = await _reply(body, answer) if opcode == _OP_MSG else None
                if reply is None:
                    to_server.write(head + body)
                    reply_head = await from_server.readexactly(16)
                    size = struct.unpack_from("<i", reply_head)[0]
                    writer.write(reply_head + await from_server.readexactly(size - 16))
                else:
                    message = struct.pack("<ib", 0, 0) + bson.encode(reply)
                    writer.write(struct.pack("<4i", 16 + len(message), 1, id_, opcode) + message)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            for end in (writer, to_server):
                if end is not None:
                    with suppress(ConnectionError):
                        end.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener:
        own_port = listener.sockets[0].getsockname()[1]
        yield url.replace(f"{host}:{port}", f"127.0.0.1:{own_port}")


async def _reply(body: bytes, answer: Answer) -> dict[str, Any] | None:
    """The answer to a command; None if the server is to answer it."""
    command, documents = _parsed(body)
    name = next(iter(command))
    if name not in _WRITES:
        return None
    errors = [
        {"index": index, **error}
        for index, document in enumerate(documents)
        if (error := answer(name, command[name], repr(document))) is not None
    ]
    if not errors:
        return None
    if errors[0]["code"] == 50:
        await asyncio.sleep(command["maxTimeMS"] / 1000)
        return {"ok": 0, **errors[0]}
    if errors[0]["code"] == 10107:
        return {"ok": 0, **errors[0]}
    assert len(documents) == len(errors), "the other documents would not be written"
    return {"ok": 1, "n": 0, "nModified": 0, "writeErrors": errors}


def _parsed(body: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The command of a message, and the documents that it writes."""
    command: dict[str, Any] = {}
    documents: list[dict[str, Any]] = []
    offset = 4
    while offset < len(body):
        kind = body[offset]
        (size,) = struct.unpack_from("<i", body, offset + 1)
        section = body[offset + 1 : offset + 1 + size]
        if kind == 0:
            command = bson.decode(section)
        else:
            start = section.index(b"\0", 4) + 1
            documents += bson.decode_all(section[start:])
        offset += 1 + size
    for field in ("documents", "updates", "deletes"):
        documents += command.get(field, ())
    return command, documents
