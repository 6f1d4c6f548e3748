"""A MongoDB that acts out a script, for what nx-27017 does not do, such as passwords."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import bson

_HELLO = {
    "ok": 1,
    "isWritablePrimary": True,
    "minWireVersion": 0,
    "maxWireVersion": 21,
    "maxBsonObjectSize": 16_777_216,
    "maxMessageSizeBytes": 48_000_000,
    "maxWriteBatchSize": 100_000,
    "saslSupportedMechs": ["SCRAM-SHA-256"],
}
_OP_QUERY = 2004


@asynccontextmanager
async def scripted_mongo(answer: dict[str, Any]) -> AsyncIterator[int]:
    """Run a server whose answer to every command but hello is the same; gives its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                length, id_, _, opcode = struct.unpack("<4i", await reader.readexactly(16))
                body = await reader.readexactly(length - 16)
                if opcode == _OP_QUERY:  # PyMongo's first hello
                    reply = struct.pack("<iqii", 8, 0, 0, 1) + bson.encode(_HELLO)
                    opcode = 1
                else:
                    size = int.from_bytes(body[5:9], "little")
                    command = next(iter(bson.decode(body[5 : 5 + size])))
                    document = _HELLO if command in ("hello", "isMaster", "ismaster") else answer
                    reply = struct.pack("<ib", 0, 0) + bson.encode(document)
                writer.write(struct.pack("<4i", 16 + len(reply), 1, id_, opcode) + reply)
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener:
        yield listener.sockets[0].getsockname()[1]
