"""RedisDatabase: what the stores on Redis share, a client and the trips that are under way."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from redis.asyncio import RedisCluster
from redis.exceptions import AuthenticationError, RedisClusterException, RedisError

from ..connections import Connections, RedisClient
from ..errors import StoreError
from ..open_calls import OpenCalls

__all__ = ["AnyRedis", "RedisDatabase", "store_error"]

AnyRedis: TypeAlias = Connections | RedisClient | str

# RedisClusterException is no RedisError; ValueError is a number that is none.
_ERRORS = (RedisError, RedisClusterException, OSError, ValueError)


class RedisDatabase:
    """A Redis, or a Redis Cluster.

    Args:
        redis: Connections or a redis-py asyncio client, which stay open, or a URL for a pool of
            its own.
    """

    def __init__(self, redis: AnyRedis) -> None:
        self._owns_connections = not isinstance(redis, Connections)
        if isinstance(redis, Connections):
            self._connections = redis
        elif isinstance(redis, str):
            self._connections = Connections(redis)
        else:
            self._connections = Connections(redis=redis)
        self.client = self._connections.redis
        self.is_cluster = isinstance(self.client, RedisCluster)
        self._first_nodes = dict(_nodes_of(self.client))
        self._calls = OpenCalls("This Redis store")

    @contextmanager
    def trip(self) -> Iterator[Any]:
        """The client, for one trip to Redis, whose failures become StoreErrors.

        Raises:
            ClosedError: after `close()`.
            StoreError: for whatever Redis cannot do.
        """
        with self._calls.one():
            try:
                yield self._connections.redis
            except _ERRORS as error:
                # redis-py before 7.2 drops a node that fails, until it knows none at all.
                _nodes_of(self.client).update(self._first_nodes)
                raise store_error(error) from error

    async def close(self) -> None:
        """Close the pool if it was opened here, after what is in progress; may be called again."""
        # redis-py would connect anew for what is in progress, and nobody would close that.
        await self._calls.close()
        if self._owns_connections:
            await self._connections.close()


def _nodes_of(client: RedisClient) -> dict[str, Any]:
    """The nodes that a client of a cluster begins with, by name; empty for a single Redis."""
    return client.nodes_manager.startup_nodes if isinstance(client, RedisCluster) else {}


def store_error(error: Exception) -> StoreError:
    """What a failure of redis-py means to callers, and what to do about it."""
    advice = "Check that it is up, reachable and writable; the call can be repeated."
    if isinstance(error, AuthenticationError):
        advice = "Check the user and the password in its URL."
    text = str(error).rstrip(".")
    return StoreError(
        f"Redis did not answer as it should ({type(error).__name__}: {text}). {advice}"
    )
