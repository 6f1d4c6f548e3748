"""EvictionCheck: warns of a Redis that evicts sessions when its memory is full."""

import asyncio
import logging
from contextlib import suppress

from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.exceptions import RedisError, ResponseError

from ...connections import Connections

__all__ = ["EvictionCheck"]

logger: logging.Logger = logging.getLogger(__name__)

_LONGEST_WAIT = 1.0  # seconds


class EvictionCheck:
    """Asks Redis, or each primary of a Redis Cluster, for its policy, and warns of what evicts.

    The first call that Redis has served waits for that, a second at most, and gets its own answer
    whatever comes of it.

    Args:
        connections: whose Redis is asked, once for all stores.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def ask(self) -> None:
        """Ask, unless that has been done or is being done."""
        if self._connections.is_eviction_known:
            return
        self._connections.is_eviction_known = True
        with suppress(Exception):  # Redis has served the call: this is no failure of it
            redis = self._connections.redis
            primaries = redis.get_primaries() if isinstance(redis, RedisCluster) else [None]
            answers = set(await asyncio.gather(*map(self._policy, primaries)))
            policies = {policy for policy in answers if policy is not None}
            self._connections.is_eviction_known = bool(policies)  # else the next call asks again
            for policy in sorted(policies - {"noeviction"}):
                logger.warning(
                    "Redis evicts keys when its memory is full (maxmemory-policy %s): users lose "
                    "sessions, and revoke_user and ban may leave some alive. Set it to noeviction.",
                    policy,
                )

    async def _policy(self, primary: ClusterNode | None) -> str | None:
        """What a server does when its memory is full; None if its connection was lost."""
        try:
            async with asyncio.timeout(_LONGEST_WAIT):
                # Not by the client of a cluster, which closes all connections when a node fails.
                if primary is None:
                    memory = await self._connections.redis.info("memory")
                else:
                    memory = await primary.execute_command("INFO", "memory")
        except (ResponseError, TimeoutError):  # it may not be asked, or would hold up each call
            return "noeviction"
        except (RedisError, OSError):
            return None
        return str(memory.get("maxmemory_policy")) if memory.get("maxmemory") else "noeviction"
