"""RedisDatabase: a client of Redis or a Redis Cluster, its calls in progress, and their retries."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Any, TypeAlias, TypeVar

from redis.asyncio import RedisCluster
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    ConnectionError,
    MovedError,
    NoScriptError,
    RedisClusterException,
    RedisError,
    TryAgainError,
)

from ..._compat import repeats_lost_calls, timeout
from ...concurrency.deadlines import one_call, trip
from ...concurrency.in_flight import InFlight
from ...connections import Connections
from ...errors import MPAuthXError, StoreError
from ...redis_urls import RedisClient
from .cluster import ClusterNodes
from .commands import Command
from .failures import is_replica, store_error
from .keys import hash_tag
from .server_checks import check_server, warn_of_eviction

__all__ = ["MAX_WAIT_SECONDS", "AnyRedis", "RedisDatabase"]

AnyRedis: TypeAlias = Connections | RedisClient | str
Result = TypeVar("Result")

MAX_WAIT_SECONDS = 5.0
"""The deadline of one call, over all its trips and attempts."""

_MAX_ATTEMPTS = 4
_BACKOFF = 0.1  # seconds before the second attempt, at most; doubles with each
_MAX_BACKOFF_SECONDS = 0.5
# After these the server, or its successor, may answer on a new connection. RedisClusterException,
# which is not a RedisError, means that no node was found for a key.
_TRANSIENT = (ClusterDownError, RedisClusterException, TryAgainError, MovedError)
# The exceptions that redis-py documents. With all others that it raises, a connection was lost. A
# server that hangs (TimeoutError) is not asked again: its callers have waited long enough.
_DOCUMENTED = (RedisError, OSError)


class RedisDatabase:
    """A Redis, or a Redis Cluster, whose `nodes` are None for a single Redis.

    `calls.close` closes the pool if that was opened here, for a URL.
    """

    def __init__(self, redis: AnyRedis) -> None:
        owns_connections = not isinstance(redis, Connections)
        self.connections: Connections
        if isinstance(redis, Connections):
            self.connections = redis
        elif isinstance(redis, str):
            self.connections = Connections(redis)
        else:
            self.connections = Connections(redis=redis)
        client: Any = self.connections.configured_redis
        self.nodes: ClusterNodes | None = (
            ClusterNodes(client) if isinstance(client, RedisCluster) else None
        )
        # The nodes of a cluster are asked directly, without the retries of its client.
        self._client_retries = self.nodes is None and repeats_lost_calls(client)
        self.calls: InFlight = InFlight(self, "This Redis store")
        # After the calls in progress: redis-py would open new connections for them, and never
        # close these.
        if owns_connections:
            self.calls.on_close(self.connections.close)
        if self.nodes is not None:
            self.calls.on_close(self.nodes.close)

    async def run(self, work: Callable[[Any], Awaitable[Result]]) -> Result:
        """Make one trip to Redis, on new connections if those in the pool are stale.

        redis-py 8 raises TypeError or AttributeError for a connection that was reset while idle
        (CPython 3.12, 3.13.0 to 3.13.9 and 3.14.0; its issue 4287), and on a cluster whose topology
        changes. A primary that was demoted behind its address refuses writes with READONLY.

        `work` is called with the client, and may be called again. A StoreError is raised if Redis
        failed, or did not answer within 5 seconds.
        """
        with self.calls.one():
            try:
                with trip("Redis", MAX_WAIT_SECONDS) as seconds:
                    async with timeout(seconds) as deadline:
                        result = await self._attempt(work, deadline)
            except MPAuthXError:
                raise
            except Exception as error:
                raise store_error(error) from error
            await warn_of_eviction(self.connections)
            return result

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands one after another, or on a Redis Cluster in one trip for each node.

        They may be sent again, so they must be repeatable. Each node of a cluster fails alone: the
        answer to a command may be the exception that redis-py or the operating system raised.
        """
        self.calls.check_here()
        nodes = self.nodes
        if nodes is None:
            return [await self.run(partial(_execute, command=command)) for command in commands]
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

    async def command(self, command: Command) -> Any:
        """Send one command; returns its answer, and raises as `run`."""
        (answer,) = await self.ask([command])
        if isinstance(answer, Exception):
            raise store_error(answer)
        return answer

    def groups(self, keys: Sequence[str]) -> Collection[Sequence[int]]:
        """The indexes of the items that one command may contain: on a cluster of one hash tag."""
        if self.nodes is None:
            return [range(len(keys))] if keys else []
        groups: dict[str, list[int]] = {}
        for i, key in enumerate(keys):
            groups.setdefault(hash_tag(key), []).append(i)
        return groups.values()

    async def check(self) -> None:
        """Check that the server answers; raises as `run` and `check_server`."""
        info = await self.run(lambda redis: redis.info())
        cluster_info = None
        if self.nodes is not None:
            cluster_info = await self.run(lambda redis: redis.cluster_info())
        check_server(info, cluster_info)

    async def _ask_node(self, nodes: ClusterNodes, commands: dict[int, Command]) -> dict[int, Any]:
        """Send one node its commands; returns the answer, or exception, of each."""
        left, answers = dict(commands), {}

        async def ask(_: object) -> None:
            transient: Exception | None = None
            for i, answer in zip(list(left), await nodes.send(list(left.values())), strict=True):
                if isinstance(answer, Exception) and self._is_transient(answer):
                    transient = answer
                else:
                    answers[i] = answer
                    del left[i]
            if transient is not None:
                raise transient

        try:
            await self.run(ask)
        except StoreError as error:
            nodes.begin_to_learn_slots()  # another node may have taken its place
            answers.update(dict.fromkeys(left, error.__cause__))
        return answers

    async def _attempt(
        self, work: Callable[[Any], Awaitable[Result]], deadline: asyncio.Timeout
    ) -> Result:
        attempt = 1
        while True:
            self.connections.watch_primary()
            epoch = self.connections.redis_epoch
            backoff = min(_BACKOFF * 2 ** (attempt - 1), _MAX_BACKOFF_SECONDS)
            try:
                return await work(self.connections.redis)
            except MPAuthXError:
                raise
            except Exception as error:
                if not self._is_transient(error) or _is_last(attempt, error, backoff, deadline):
                    raise
                if self.nodes is None:
                    await self.connections.renew_redis(epoch)
                else:
                    await self.nodes.learn_slots(error)
            await asyncio.sleep(random.uniform(0, backoff))  # noqa: S311 (jitter, no secret)
            attempt += 1

    def _is_transient(self, error: Exception) -> bool:
        """Whether another attempt, on new connections, may succeed."""
        if isinstance(error, ConnectionError):  # LOADING is one too
            is_refused = isinstance(error, (AuthenticationError, AuthorizationError))
            return not is_refused and not self._client_retries
        if isinstance(error, _TRANSIENT) or is_replica(error):
            return True
        return not isinstance(error, _DOCUMENTED)


def _is_last(attempt: int, error: Exception, backoff: float, deadline: asyncio.Timeout) -> bool:
    # While a cluster elects a primary, attempts continue until the deadline. While a slot moves,
    # which may take longer, they do not: the rest of the batch would wait for it.
    if not isinstance(error, ClusterDownError):
        return attempt == _MAX_ATTEMPTS
    end = deadline.when()
    return end is not None and asyncio.get_running_loop().time() + 2 * backoff > end


async def _execute(redis: Any, command: Command) -> Any:
    """Send a command to a single Redis."""
    try:
        answer = await redis.execute_command(*command.args)
    except NoScriptError:
        answer = await redis.execute_command(*command.with_script().args)
    if command.script and isinstance(answer, list):
        for item in filter(is_replica, answer):
            raise item  # it refused all items, and another server may accept them
    return answer
