"""Checks whether a Redis can serve, and warns if it evicts sessions when its memory is full."""

import asyncio
import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.exceptions import RedisError, ResponseError

from ..._compat import timeout
from ...connections import Connections
from ...errors import ConfigurationError, StoreError

__all__ = ["check_server", "warn_of_eviction"]

logger: logging.Logger = logging.getLogger(__name__)

_MIN_VERSION = (6, 2)
_MAX_WAIT_SECONDS = 1.0  # for the answer of one server to INFO memory


def check_server(info: Mapping[str, Any], cluster_info: Mapping[str, Any] | None) -> None:
    """Check what a server answers to INFO, and a Redis Cluster to CLUSTER INFO.

    A provider's proxy may leave out any field, which is not checked then.

    Raises:
        StoreError: it is loading its data, is a replica, or its memory is full; or the cluster has
            slots that no node serves.
        ConfigurationError: its version is too old.
    """
    version = str(info.get("redis_version", ""))
    numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if numbers and numbers < _MIN_VERSION:
        raise ConfigurationError(f"Redis {version} is too old: use Redis 6.2 or later, or Valkey.")
    if info.get("loading"):
        raise StoreError("Redis is still loading its data; try again in a moment.")
    if cluster_info is not None:
        state = cluster_info.get("cluster_state")
        if state != "ok":
            raise StoreError(f"The state of the Redis Cluster is {state!r}: check its nodes.")
    elif info.get("role") == "slave":
        raise StoreError("Its address leads to a replica: it must lead to the primary.")
    is_full = 0 < info.get("maxmemory", 0) <= info.get("used_memory", 0)
    if is_full and info.get("maxmemory_policy") == "noeviction":
        raise StoreError("The memory of Redis is full: raise its maxmemory.")


async def warn_of_eviction(connections: Connections) -> None:
    """Ask Redis, or each primary of a cluster, for its policy, and log a warning if it evicts keys.

    Asks once for all stores on these connections, for at most a second, and never fails.
    """
    if connections.is_eviction_known:
        return
    connections.is_eviction_known = True
    with suppress(Exception):  # the call that was served before this must not fail with it
        redis = connections.redis
        primaries = redis.get_primaries() if isinstance(redis, RedisCluster) else [None]
        answers = await asyncio.gather(*(_policy(connections, primary) for primary in primaries))
        policies = {policy for policy in answers if policy is not None}
        connections.is_eviction_known = bool(policies)  # otherwise the next call asks again
        for policy in sorted(policies - {"noeviction"}):
            logger.warning(
                "Redis evicts keys when its memory is full (maxmemory-policy %s): users lose "
                "sessions, and revoke_user and ban may leave some alive. Set it to noeviction.",
                policy,
            )


async def _policy(connections: Connections, primary: ClusterNode | None) -> str | None:
    """What a server does when its memory is full; None if its connection was lost."""
    try:
        async with timeout(_MAX_WAIT_SECONDS):
            # A cluster's client would close all connections when a node fails.
            if primary is None:
                memory = await connections.redis.info("memory")
            else:
                memory = await primary.execute_command("INFO", "memory")
    except (ResponseError, TimeoutError):  # INFO is forbidden, or would delay each call
        return "noeviction"
    except (RedisError, OSError):
        return None
    return str(memory.get("maxmemory_policy")) if memory.get("maxmemory") else "noeviction"
