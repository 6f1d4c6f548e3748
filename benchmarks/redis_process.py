"""FarRedis: a proxy in a process of its own, behind which a Redis is some milliseconds away."""

import asyncio

from tests.helpers.redis_proxy import RedisProxy
from tests.helpers.redis_server import RedisServer

from .child_process import ChildProcess, Pipe

__all__ = ["FarRedis"]


class FarRedis(ChildProcess):
    """A Redis as a client sees it who is farther away.

    Args:
        server: a running Redis.
        delay: how long a command takes to arrive, in seconds.
    """

    def __init__(self, server: RedisServer, delay: float) -> None:
        super().__init__(_forward, server.port, delay)

    @property
    def url(self) -> str:
        return str(self.said)


async def _forward(pipe: Pipe, port: int, delay: float) -> None:
    server = RedisServer()
    server.port = port  # where the other process runs it
    async with RedisProxy(server, delay=delay) as proxy:
        pipe.send(proxy.url)
        await asyncio.to_thread(pipe.recv)
