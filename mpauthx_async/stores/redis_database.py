"""RedisDatabase: what the stores on Redis share, a client and the trips that are under way."""

import asyncio
import logging
import random
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar

from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    ConnectionError,
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)

from ..connections import Connections, RedisClient
from ..deadlines import trip
from ..errors import ConfigurationError, MPAuthXError, StoreError
from ..open_calls import OpenCalls

__all__ = ["LONGEST_WAIT", "AnyRedis", "RedisDatabase", "is_replica", "store_error"]

AnyRedis: TypeAlias = Connections | RedisClient | str
Result = TypeVar("Result")

logger = logging.getLogger(__name__)

_OLDEST_SERVER = (6, 2)  # its version
LONGEST_WAIT = 5.0  # seconds for one call, with all trips and attempts
_EVICTION_WAIT = 1.0  # seconds
_ATTEMPTS = 4
_BACKOFF = 0.1  # seconds before the second attempt, at most; doubles with each
# After these the server, or the one that took its place, may answer on a new connection. redis-py
# answers NOSCRIPT by loading the script, but a failover may lead the next call to another server.
# A RedisClusterException, which is not a RedisError, means that no node was found for a key.
_PASSING = (ClusterDownError, RedisClusterException, TryAgainError, NoScriptError)
# Before Redis 7 READONLY stands inside a script's error; redis-py 5 has no class of MASTERDOWN.
_REPLICA = re.compile(r"\bREADONLY |^MASTERDOWN ")
# What redis-py documents. With all else that it raises, a connection was lost. A server that hangs
# (TimeoutError) is not asked again: its callers have waited long enough.
_DOCUMENTED = (RedisError, OSError)


class RedisDatabase:
    """A Redis, or a Redis Cluster.

    Args:
        redis: Connections or a redis-py asyncio client, which stay open, or a URL for a pool of
            its own.
    """

    def __init__(self, redis: AnyRedis) -> None:
        self._owns_connections = not isinstance(redis, Connections)
        if isinstance(redis, Connections):
            self.connections = redis
        elif isinstance(redis, str):
            self.connections = Connections(redis)
        else:
            self.connections = Connections(redis=redis)
        self.client = self.connections.configured_redis
        self.is_cluster = isinstance(self.client, RedisCluster)
        self._first_nodes = dict(_nodes_of(self.client))
        self._repeats_by_itself = _repeats_by_itself(self.client)
        self._calls = OpenCalls(self, "This Redis store")

    async def run(self, work: Callable[[Any], Awaitable[Result]]) -> Result:
        """Make one trip to Redis, on new connections when those in the pool turn out to be stale.

        redis-py 8 raises TypeError or AttributeError for a connection that was reset while idle
        (CPython 3.12, 3.13.0 to 3.13.9 and 3.14.0; its issue 4287), and on a cluster whose topology
        changes. A primary that was demoted behind its address refuses writes with READONLY.

        Args:
            work: called with the client. It may be called again, so it must be repeatable.

        Raises:
            ClosedError: after `close()`.
            StoreError: for whatever Redis cannot do, within 5 seconds.
        """
        with self._calls.one():
            try:
                with trip("Redis", LONGEST_WAIT) as seconds:
                    async with asyncio.timeout(seconds):
                        result = await self._attempt(work)
                        if not self.connections.is_eviction_known:
                            await self._warn_of_eviction()
                        return result
            except MPAuthXError:
                raise
            except Exception as error:
                raise store_error(error) from error

    async def check(self) -> None:
        """Check that the server can serve.

        Raises:
            StoreError: if it does not answer, is loading its data, or is a replica; or if no node
                of a cluster serves some of the slots.
            ConfigurationError: if its version is too old.
        """
        info = await self.run(lambda redis: redis.info())
        # A provider's proxy may leave out what it wants, and is taken as it is.
        version = str(info.get("redis_version", ""))
        numbers = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
        if numbers and numbers < _OLDEST_SERVER:
            raise ConfigurationError(
                f"Redis {version} does not serve: use Redis 6.2 or later, or Valkey."
            )
        if info.get("loading"):
            raise StoreError("Redis is still loading its data.")
        if self.is_cluster:
            state = (await self.run(lambda redis: redis.cluster_info())).get("cluster_state")
            if state != "ok":
                raise StoreError(f"The state of the Redis Cluster is {state!r}.")
        elif info.get("role") == "slave":
            raise StoreError("Its address leads to a replica: it must lead to the primary.")

    def check_here(self) -> None:
        """Check that a call may be made in the running event loop."""
        self._calls.check_here()

    def refuse_more(self) -> None:
        """Take no more calls."""
        self._calls.refuse_more()

    async def close(self) -> None:
        """Close the pool if it was opened here, after what is in progress; may be called again."""
        # redis-py would connect anew for what is in progress, and nobody would close that.
        await self._calls.close()
        if self._owns_connections:
            await self.connections.close()

    async def _attempt(self, work: Callable[[Any], Awaitable[Result]]) -> Result:
        attempt = 1
        while True:
            epoch = self.connections.redis_epoch
            try:
                return await work(self.connections.redis)
            except MPAuthXError:
                raise
            except Exception as error:
                # redis-py before 7.2 drops a node that fails, until it knows none at all.
                _nodes_of(self.client).update(self._first_nodes)
                if attempt == _ATTEMPTS or not self._is_passing(error):
                    raise
            await self.connections.renew_redis(epoch)
            backoff = _BACKOFF * 2 ** (attempt - 1)
            await asyncio.sleep(random.uniform(0, backoff))  # noqa: S311 (jitter, no secret)
            attempt += 1

    async def _warn_of_eviction(self) -> None:
        """Warn, once for each Connections, if Redis may evict sessions, and what ends them."""
        self.connections.is_eviction_known = True
        # What was asked for is answered, so a server that refuses this or hangs fails nothing.
        with suppress(Exception):
            redis = self.client
            primaries = redis.get_primaries() if isinstance(redis, RedisCluster) else [None]
            policies = set(await asyncio.gather(*map(self._eviction_policy, primaries)))
            for policy in sorted(policies - {"noeviction"}):
                logger.warning(
                    "Redis evicts keys when its memory is full (maxmemory-policy %s): users lose "
                    "sessions, and revoke_user and ban may leave some alive. Set it to noeviction.",
                    policy,
                )

    async def _eviction_policy(self, primary: ClusterNode | None) -> str:
        """What a server does when its memory is full; noeviction if it does not tell soon."""
        target = {} if primary is None else {"target_nodes": primary}
        with suppress(Exception):
            async with asyncio.timeout(_EVICTION_WAIT):
                memory = await self.connections.redis.info("memory", **target)
                if memory.get("maxmemory"):
                    return str(memory.get("maxmemory_policy", "noeviction"))
        return "noeviction"

    def _is_passing(self, error: Exception) -> bool:
        """Whether another attempt, on new connections, may succeed."""
        if isinstance(error, ConnectionError):  # LOADING is one too
            is_refused = isinstance(error, (AuthenticationError, AuthorizationError))
            return not is_refused and not self._repeats_by_itself
        if isinstance(error, _PASSING) or is_replica(error):
            return True
        return not isinstance(error, _DOCUMENTED)


def _repeats_by_itself(client: RedisClient) -> bool:
    """Whether a client makes further attempts when a connection is lost."""
    if isinstance(client, RedisCluster):
        return True
    retry = client.connection_pool.connection_kwargs.get("retry")
    return retry is not None and retry._retries != 0


def is_replica(answer: object) -> bool:
    """Whether a server says that it cannot do what it was asked to, because it is a replica."""
    if isinstance(answer, ReadOnlyError):
        return True
    return isinstance(answer, ResponseError) and _REPLICA.search(str(answer)) is not None


def _nodes_of(client: RedisClient) -> dict[str, Any]:
    """The nodes that a client of a cluster begins with, by name; empty for a single Redis."""
    return client.nodes_manager.startup_nodes if isinstance(client, RedisCluster) else {}


def store_error(error: Exception) -> StoreError:
    """What a failure of redis-py means to callers, and what to do about it."""
    advice = "Check that it is up, reachable and writable; the call can be repeated."
    told = str(error)
    if "NOPROTO" in told or ("HELLO" in told and "unknown command" in told):
        advice = "It does not speak RESP3: add ?protocol=2 to its URL."
    elif isinstance(error, NoPermissionError):
        advice = "Allow the command to its user: the README has an ACL rule that is enough."
    elif "certificate verify failed" in told.lower():
        advice = (
            "Its certificate does not verify: check the clock of this machine, and name the "
            "authority that signed it with ?ssl_ca_certs=FILE in its URL."
        )
    elif isinstance(error, AuthenticationError):
        advice = "Check the user and the password in its URL."
    elif is_replica(error):
        advice = "Its address leads to a replica: it must lead to the primary."
    text = str(error).rstrip(".") or f"no answer within {LONGEST_WAIT:.0f} seconds"
    return StoreError(
        f"Redis did not answer as it should ({type(error).__name__}: {text}). {advice}"
    )
