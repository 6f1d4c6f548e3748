"""Which Redis has taken over from which, and what its predecessor's replicas had by then."""

import asyncio
import time
from typing import NamedTuple

from redis import Redis

from tests.chaos.worlds import World, until
from tests.helpers.redis_cluster import ask
from tests.helpers.redis_sentinel import RedisSentinels
from tests.helpers.redis_server import RedisServer

__all__ = ["Takeovers", "caught_up", "until_whole"]


class _Reign(NamedTuple):
    """A Redis as a primary: it has a new replication id whenever it becomes one."""

    replication_id: str
    predecessor_id: str


class Takeovers:
    """Notes as lossy what was acknowledged while a Redis took over without being meant to.

    On a slow machine Sentinels and nodes take a Redis for down that only answers late.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._reigns: list[_Reign] = []
        self._since = 0.0  # all that was acknowledged before is on the replicas, too

    async def note(self, *, meant: int = 0) -> None:
        """Compare the primaries with those at the last call.

        Args:
            meant: how many of them a replica was meant to take over from, once.
        """
        earlier, since = self._reigns, self._since
        while True:
            await until_whole(self._world)
            self._reigns = await asyncio.to_thread(_reigns, self._world)
            self._since = await caught_up(self._world)
            if self._reigns == await asyncio.to_thread(_reigns, self._world):
                break
        changed = [pair for pair in zip(earlier, self._reigns, strict=False) if pair[0] != pair[1]]
        if len(changed) > meant or any(
            new.predecessor_id != old.replication_id for old, new in changed
        ):
            self._world.windows.append((since, time.monotonic()))


async def caught_up(world: World) -> float:
    """Wait until the replicas have all that was acknowledged before; returns the time of that."""
    since = time.monotonic()
    for primary, replica in await asyncio.to_thread(_pairs, world):
        offset = await asyncio.to_thread(_offset, primary)
        await until(lambda: _offset(replica) >= offset)  # noqa: B023 (it is awaited here)
    return since


async def until_whole(world: World) -> None:
    """Wait until all nodes agree and every service has left those that are no primaries."""
    if isinstance(world.redis, RedisServer) or world.is_reduced:
        return
    await asyncio.to_thread(world.redis.wait_until_whole)
    if isinstance(world.redis, RedisSentinels):
        servers = world.redis
        await until(lambda: not _services_on(servers.replica))


def _reigns(world: World) -> list[_Reign]:
    if isinstance(world.redis, RedisServer):  # from which no other Redis takes over
        return []
    infos = [ask(primary, "INFO", "replication") for primary in world.primaries]
    return [_Reign(info["master_replid"], info["master_replid2"]) for info in infos]


def _pairs(world: World) -> list[tuple[RedisServer, RedisServer]]:
    """The primaries, each with its replica."""
    if isinstance(world.redis, RedisServer) or world.is_reduced:
        return []
    servers = world.redis
    if isinstance(servers, RedisSentinels):
        places = [(servers.servers[0], servers.servers[1])]
    else:
        places = list(zip(servers.primaries, servers.replicas, strict=True))
    primaries = world.primaries
    return [(one, other) if one in primaries else (other, one) for one, other in places]


def _offset(node: RedisServer) -> int:
    """How much of the replication stream a node has."""
    return int(ask(node, "INFO", "replication")["master_repl_offset"])


def _services_on(node: RedisServer) -> list[str]:
    """The connections of services to a node."""
    with Redis(port=node.port) as client:
        own = client.client_id()
        return [
            one["addr"]
            for one in client.client_list()
            if int(one["id"]) != own
            and not one["name"].startswith("sentinel-")
            and not set(one["flags"]) & {"M", "S"}
        ]
