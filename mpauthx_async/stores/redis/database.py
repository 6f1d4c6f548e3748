"""RedisDatabase: what the stores on Redis share, a client and the trips that are under way."""

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias, TypeVar

from redis.asyncio import RedisCluster
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    ConnectionError,
    MovedError,
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)

from ..._compat import repeats_lost_calls
from ...concurrency.deadlines import one_call, trip
from ...concurrency.in_flight import InFlight
from ...connections import Connections, RedisClient
from ...errors import ConfigurationError, MPAuthXError, StoreError
from .cluster import ClusterNodes, Command
from .eviction import EvictionCheck

__all__ = ["LONGEST_WAIT", "AnyRedis", "RedisDatabase", "is_replica", "store_error"]

AnyRedis: TypeAlias = Connections | RedisClient | str
Result = TypeVar("Result")

_OLDEST_SERVER = (6, 2)  # its version
LONGEST_WAIT = 5.0  # seconds for one call, with all trips and attempts
_ATTEMPTS = 4
_BACKOFF = 0.1  # seconds before the second attempt, at most; doubles with each
_LONGEST_BACKOFF = 0.5  # seconds
# After these the server, or the one that took its place, may answer on a new connection. redis-py
# answers NOSCRIPT by loading the script, but a failover may lead the next call to another server.
# A RedisClusterException, which is not a RedisError, means that no node was found for a key.
_PASSING = (ClusterDownError, RedisClusterException, TryAgainError, MovedError, NoScriptError)
# Before Redis 7 READONLY stands inside a script's error; redis-py 5 has no class of MASTERDOWN.
_REPLICA = re.compile(r"\bREADONLY |^MASTERDOWN ")
# What redis-py documents. With all else that it raises, a connection was lost. A server that hangs
# (TimeoutError) is not asked again: its callers have waited long enough.
_DOCUMENTED = (RedisError, OSError)


class RedisDatabase:
    """A Redis, or a Redis Cluster.

    Attributes:
        nodes: the nodes of a Redis Cluster; None for a single Redis.

    Args:
        redis: Connections or a redis-py asyncio client, which stay open, or a URL for a pool of
            its own.
    """

    def __init__(self, redis: AnyRedis) -> None:
        self._owns_connections = not isinstance(redis, Connections)
        self.connections: Connections
        if isinstance(redis, Connections):
            self.connections = redis
        elif isinstance(redis, str):
            self.connections = Connections(redis)
        else:
            self.connections = Connections(redis=redis)
        self.client: RedisClient = self.connections.configured_redis
        self.nodes: ClusterNodes | None = (
            ClusterNodes(self.client) if isinstance(self.client, RedisCluster) else None
        )
        self._repeats_by_itself = _repeats_by_itself(self.client)
        self._eviction = EvictionCheck(self.connections)
        self._calls = InFlight(self, "This Redis store")

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
                    async with asyncio.timeout(seconds) as limit:
                        result = await self._attempt(work, limit)
            except MPAuthXError:
                raise
            except Exception as error:
                raise store_error(error) from error
            await self._eviction.ask()
            return result

    async def ask(self, nodes: ClusterNodes, commands: Sequence[Command]) -> list[Any]:
        """Send commands to the nodes of a Redis Cluster, one trip for each node.

        Each node has an end of its own: what one leaves unanswered is no other's failure.

        Args:
            nodes: this cluster's.
            commands: may be sent again, so they must be repeatable.

        Returns:
            For each command the answer, or what redis-py or the operating system raised.

        Raises:
            ClosedError: after `close()`.
        """
        if not nodes.know_slots:
            try:
                await self.run(lambda _: nodes.learn_slots())
            except StoreError as error:
                return [error.__cause__] * len(commands)
        parts: dict[str, dict[int, Command]] = {}
        for i, command in enumerate(commands):
            parts.setdefault(nodes.name_of(command.key), {})[i] = command
        with one_call():
            answered = await asyncio.gather(
                *(self._ask_node(nodes, part) for part in parts.values())
            )
        answers = {i: answer for part in answered for i, answer in part.items()}
        return [answers[i] for i in range(len(commands))]

    async def command(self, key: str, *words: Any) -> Any:
        """Send one command.

        Args:
            key: a key that it is for.
            words: the command and its arguments. It may be sent again, so it must be repeatable.

        Raises:
            ClosedError: after `close()`.
            StoreError: for whatever Redis cannot do, within 5 seconds.
        """
        if self.nodes is None:
            return await self.run(lambda redis: redis.execute_command(*words))
        (answer,) = await self.ask(self.nodes, [Command(key, words)])
        if isinstance(answer, Exception):
            raise store_error(answer) from answer
        return answer

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
        if self.nodes is not None:
            state = (await self.run(lambda redis: redis.cluster_info())).get("cluster_state")
            if state != "ok":
                raise StoreError(f"The state of the Redis Cluster is {state!r}.")
        elif info.get("role") == "slave":
            raise StoreError("Its address leads to a replica: it must lead to the primary.")
        is_full = 0 < info.get("maxmemory", 0) <= info.get("used_memory", 0)
        if is_full and info.get("maxmemory_policy") == "noeviction":
            raise StoreError("The memory of Redis is full: raise its maxmemory.")

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
        if self.nodes is not None:
            await self.nodes.close()
        if self._owns_connections:
            await self.connections.close()

    async def _ask_node(self, nodes: ClusterNodes, commands: dict[int, Command]) -> dict[int, Any]:
        """Send one node its part; returns what stands for each command, under its key here."""
        left, answers = dict(commands), {}

        async def ask(_: object) -> None:
            passing: Exception | None = None
            for i, answer in zip(list(left), await nodes.send(list(left.values())), strict=True):
                if isinstance(answer, Exception) and self._is_passing(answer):
                    passing = answer
                else:
                    answers[i] = answer
                    del left[i]
            if passing is not None:
                raise passing

        try:
            await self.run(ask)
        except StoreError as error:
            nodes.begin_to_learn_slots()  # another node may have taken its place
            answers.update(dict.fromkeys(left, error.__cause__))
        return answers

    async def _attempt(
        self, work: Callable[[Any], Awaitable[Result]], limit: asyncio.Timeout
    ) -> Result:
        attempt = 1
        while True:
            epoch = self.connections.redis_epoch
            try:
                return await work(self.connections.redis)
            except MPAuthXError:
                raise
            except Exception as error:
                backoff = min(_BACKOFF * 2 ** (attempt - 1), _LONGEST_BACKOFF)
                if not self._is_passing(error) or self._is_last(attempt, error, backoff, limit):
                    raise
                await self._renew(epoch, error)
            await asyncio.sleep(random.uniform(0, backoff))  # noqa: S311 (jitter, no secret)
            attempt += 1

    def _is_last(
        self, attempt: int, error: Exception, backoff: float, limit: asyncio.Timeout
    ) -> bool:
        # While a cluster elects a primary, attempts go on until the time is over. A slot may be on
        # its way for longer, and all others of the batch would wait with those who are kept there.
        if not isinstance(error, ClusterDownError):
            return attempt == _ATTEMPTS
        end = limit.when()
        return end is not None and asyncio.get_running_loop().time() + 2 * backoff > end

    async def _renew(self, epoch: int, error: Exception) -> None:
        """Leave what an attempt has shown to be stale."""
        if self.nodes is None:
            await self.connections.renew_redis(epoch)
        else:
            await self.nodes.learn_slots(error)

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
        return False  # what goes straight to its nodes is not repeated
    return repeats_lost_calls(client)


def is_replica(answer: object) -> bool:
    """Whether a server says that it cannot do what it was asked to, because it is a replica."""
    if isinstance(answer, ReadOnlyError):
        return True
    return isinstance(answer, ResponseError) and _REPLICA.search(str(answer)) is not None


def store_error(error: Exception) -> StoreError:
    """What a failure of redis-py means to callers, and what to do about it."""
    advice, is_operators = _advice(error)
    text = str(error).rstrip(".") or f"no answer within {LONGEST_WAIT:.0f} seconds"
    failure = StoreError(
        f"Redis did not answer as it should ({type(error).__name__}: {text}). {advice}"
    )
    failure.retryable = not is_operators
    return failure


def _advice(error: Exception) -> tuple[str, bool]:
    """What to do about a failure, and whether only the operator can."""
    told = str(error)
    if "NOPROTO" in told or ("HELLO" in told and "unknown command" in told):
        return "It does not speak RESP3: add ?protocol=2 to its URL.", True
    if isinstance(error, NoPermissionError):
        return (
            "Allow the command to its user: the documentation has an ACL rule that is enough.",
            True,
        )
    if "certificate verify failed" in told.lower():
        return (
            "Its certificate does not verify: check the clock of this machine, and name the "
            "authority that signed it with ?ssl_ca_certs=FILE in its URL.",
            True,
        )
    if isinstance(error, AuthenticationError):
        return "Check the user and the password in its URL.", True
    if "DB index is out of range" in told:
        return "It has fewer databases than the number in its URL.", True
    if isinstance(error, TryAgainError):
        return (
            "The Redis Cluster is moving this slot to another node: try again in a moment.",
            False,
        )
    if is_replica(error):
        return "Its address leads to a replica: it must lead to the primary.", False
    return "Check that it is up, reachable and writable; the call can be repeated.", False
