"""RedisProxy: stands between a service and its Redis, and is as bad as a network can be."""

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from tests.helpers.redis_server import RedisServer


class RedisProxy:
    """Forwards connections; those that asked for CLIENT TRACKING are told from the others.

    Args:
        delay: seconds that what is said to Redis takes to arrive.

    Attributes:
        pushes: while it is cleared, what Redis says on connections with tracking does not arrive,
            nor what is said to it.
        answers: likewise what Redis says on the other connections; what is said to it does.
        server: where new connections lead.
        instead: when set, this is sent in place of whatever Redis answers.
        edit: changes what Redis says.
    """

    def __init__(self, server: RedisServer, *, delay: float = 0.0) -> None:
        self.server = server
        self.instead: bytes | None = None
        self.edit: Callable[[bytes], bytes] = lambda said: said
        self._delay = delay
        self._clients: set[asyncio.StreamWriter] = set()
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.pushes = asyncio.Event()
        self.answers = asyncio.Event()
        self.pushes.set()
        self.answers.set()
        self.url = ""

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = self._listener.sockets[0].getsockname()[1]
        self.url = f"redis://127.0.0.1:{port}/0"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listener is not None
        self._listener.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._clients)

    async def reset_all(self) -> int:
        """Reset all connections, as a firewall does to idle ones; returns how many."""
        clients = list(self._clients)
        linger = struct.pack("ii", 1, 0)  # with this, closing sends RST in place of FIN
        for writer in clients:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        return len(clients)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        self._clients.add(writer)
        task.add_done_callback(lambda _: self._clients.discard(writer))
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: writer.close())  # also when it never began

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await self._forward(reader, writer)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_server = await asyncio.open_connection("127.0.0.1", self.server.port)
        is_pushed_to = asyncio.Event()

        async def forth() -> None:
            while data := await reader.read(65_536):
                if b"TRACKING" in data:
                    is_pushed_to.set()
                if is_pushed_to.is_set():
                    await self.pushes.wait()
                if self._delay:
                    await asyncio.sleep(self._delay)
                to_server[1].write(data)

        async def back() -> None:
            while data := await to_server[0].read(65_536):
                await (self.pushes if is_pushed_to.is_set() else self.answers).wait()
                writer.write(self.edit(data) if self.instead is None else self.instead)

        directions = [asyncio.create_task(forth()), asyncio.create_task(back())]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            to_server[1].close()
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)
