"""RedisTracking: hears from Redis which sessions have changed, as it happens."""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from ..near_cache import NearCache

__all__ = ["RedisTracking"]

logger = logging.getLogger(__name__)

_HEARTBEAT = 0.5  # seconds between two questions, whose answers tell that the connection is alive
_SILENCE = 1.5  # seconds without any answer after which it is given up
_LONGEST_BACKOFF = 1.0  # seconds before the next attempt to connect
_CANCEL_AGAIN = 0.2  # seconds
_PUSHED = object()


class RedisTracking:
    """Keeps near caches current, over a connection of its own on which Redis pushes what changes.

    While the connection is down the caches are shut; it comes back by itself.

    Args:
        client: whose server to connect to, in the same way as it does.
        prefix: of the keys to hear of, behind whose last colon stands the nonce of a session.

    Source: Redis documentation, client-side caching, broadcasting mode.
    """

    def __init__(self, client: Redis, prefix: str) -> None:
        self._pool = client.connection_pool
        self._prefix = prefix
        self._caches: list[NearCache] = []
        self._task: asyncio.Task[None] | None = None
        self._time: tuple[float, float] | None = None  # while it is up: of Redis, and when asked
        self._is_down = False

    def subscribe(self, cache: NearCache) -> None:
        """Keep a cache current from now on. Its clock has to be `time.monotonic`."""
        self._caches.append(cache)
        if self._time is not None:
            cache.open(*self._time)

    def start(self) -> None:
        """Connect, unless that has begun already; needs a running event loop."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Shut the caches and close the connection; may be called again."""
        while self._task is not None and not self._task.done():
            self._task.cancel()  # on Python 3.11 redis-py swallows one that meets it sending
            await asyncio.wait([self._task], timeout=_CANCEL_AGAIN)

    async def _run(self) -> None:
        backoff = 0.0
        while True:
            connection: Any = self._new_connection()
            try:
                await connection.connect()
                await self._listen(connection)
            except (RedisError, OSError) as error:
                backoff = 0.0 if self._time else min(_LONGEST_BACKOFF, 2 * backoff + 0.05)
                self._report_down(error)
            finally:
                self._time = None
                for cache in self._caches:
                    cache.shut()
                await connection.disconnect(nowait=True)
            # Not all processes at the same moment when a server comes back.
            await asyncio.sleep(random.uniform(0, backoff))  # noqa: S311 (jitter, no secret)

    def _new_connection(self) -> AbstractConnection:
        settings = {
            **self._pool.connection_kwargs,
            "protocol": 3,
            "retry": Retry(NoBackoff(), 0),
            "health_check_interval": 0,
        }
        return self._pool.connection_class(**settings)

    async def _listen(self, connection: AbstractConnection) -> None:
        """Take what Redis pushes until the connection is lost."""
        # redis-py has no public way to it for its asyncio client yet (its issue 3916).
        parser: Any = connection._parser
        parser.set_invalidation_push_handler(self._changed)
        await connection.send_command("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", self._prefix)
        await connection.read_response(timeout=_SILENCE)
        asked: deque[float] = deque()
        asking = asyncio.create_task(_ask_time(connection, asked))
        try:
            while True:
                answer = await connection.read_response(timeout=_SILENCE, push_request=True)
                if answer is not _PUSHED:
                    self._synchronize(answer, asked.popleft())
        finally:
            asking.cancel()

    def _synchronize(self, answer: Sequence[bytes | str], asked_at: float) -> None:
        seconds, microseconds = map(int, answer)
        is_new = self._time is None
        self._time = (seconds + microseconds / 1e6, asked_at)
        for cache in self._caches:
            if is_new:
                cache.open(*self._time)
            else:
                cache.synchronize(*self._time)
        if self._is_down:
            self._is_down = False
            logger.info("The connection on which Redis pushes what changes is up again.")

    async def _changed(self, message: Sequence[object]) -> object:
        """Take what Redis pushed: the names of keys, or nothing when all are gone."""
        keys = message[1]
        for cache in self._caches:
            if isinstance(keys, list):
                for key in keys:
                    name = key if isinstance(key, str) else key.decode(errors="replace")
                    cache.forget(name.rpartition(":")[2])
            else:
                cache.forget_all()
        return _PUSHED

    def _report_down(self, error: Exception) -> None:
        if not self._is_down:
            self._is_down = True
            logger.warning(
                "The connection on which Redis pushes what changes is down, so near caches are "
                "not used until it is up again: %s",
                type(error).__name__,
            )


async def _ask_time(connection: AbstractConnection, asked: "deque[float]") -> None:
    """Ask for the time again and again; the answers also tell that the connection is alive."""
    with suppress(RedisError, OSError):  # whoever reads notices as well
        while True:
            asked.append(time.monotonic())
            await connection.send_command("TIME", check_health=False)
            await asyncio.sleep(_HEARTBEAT)
