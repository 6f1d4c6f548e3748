"""RedisTracking: keeps near caches current with the changes that Redis pushes."""

import asyncio
import logging
import math
import random
import re
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any
from weakref import WeakSet

from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    RedisError,
    ResponseError,
)

from ..._compat import pushes_as_read
from ...connections import Connections
from ..near_cache import MAX_SILENCE_SECONDS, ChangeListener

__all__ = ["RedisTracking"]

logger: logging.Logger = logging.getLogger(__name__)

_REFUSAL = re.compile(
    r"unknown|unsupported|NOPROTO|NOPERM|permission|TRACKING|HELLO|RESP|syntax", re.I
)
_MIN_REPORT_INTERVAL_SECONDS = 1.0  # between two log records that the connection is down
_HEARTBEAT = 0.5  # seconds between two TIME commands, whose answers show that it is up
_MIN_BACKOFF_SECONDS = 0.05  # before the next attempt to connect
_MAX_BACKOFF_SECONDS = 1.0
# Settings of the pool for the maintenance notifications of a managed Redis.
_POOL_SETTINGS = ("maint_notifications_config", "maint_notifications_pool_handler")


class RedisTracking:
    """Keeps near caches current, over a connection of its own on which Redis pushes changes.

    While the connection is down the caches are shut. It reconnects by itself.

    Args:
        connections: connects to their Redis, with the settings of their client. When they renew
            stale connections, this one is renewed too.
        prefix: of the keys to track, which end in a colon and the nonce of a session.

    Source: Redis documentation, client-side caching, broadcasting mode.
    """

    def __init__(self, connections: Connections, prefix: str) -> None:
        self._connections = connections
        client: Any = connections.configured_redis  # of a single Redis
        self._pool = client.connection_pool
        self._prefix = prefix
        self._caches: WeakSet[ChangeListener] = WeakSet()  # their services may end first
        self._task: asyncio.Task[None] | None = None
        self._may_start = True
        self._time: tuple[float, float] | None = None  # while up: Redis's, and ours when asked
        self._is_down = False
        self._reported_at = -math.inf

    def subscribe(self, cache: ChangeListener) -> None:
        """Keep a cache or another listener current; a cache's clock must be `time.monotonic`."""
        self._caches.add(cache)
        if self._time is not None:
            cache.open(*self._time)

    def forget(self, nonces: Iterable[str]) -> None:
        """Drop the sessions of these nonces from all caches."""
        for nonce in nonces:
            for cache in self._caches:
                cache.forget(nonce)

    def start(self) -> None:
        """Connect, unless that has begun; needs a running event loop."""
        if self._may_start and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Shut the caches and close the connection; repeatable."""
        self._may_start = False
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        backoff = 0.0
        while not _is_cancelled():
            connection = self._new_connection()
            epoch = self._connections.redis_epoch
            is_tracking = False
            try:
                await connection.connect()
                await self._track(connection)
                is_tracking = True
                await self._listen(connection, epoch)
            except (AuthenticationError, AuthorizationError) as error:
                self._report_down(error)
                backoff = _MAX_BACKOFF_SECONDS
            except Exception as error:  # noqa: BLE001 (it must reconnect after any failure)
                if not is_tracking and _is_refusal(error):
                    self._report_refusal(error)
                    return
                backoff = 0.0 if self._time else backoff
                backoff = min(_MAX_BACKOFF_SECONDS, 2 * backoff + _MIN_BACKOFF_SECONDS)
                self._report_down(error)
            finally:
                self._time = None
                for cache in self._caches:
                    cache.shut()
                await _abandon(connection)
            # Jitter: not all processes reconnect at the same moment.
            await asyncio.sleep(random.uniform(0, backoff))  # noqa: S311 (no secret)

    def _new_connection(self) -> Any:
        settings = {
            **self._pool.connection_kwargs,
            "protocol": 3,
            "decode_responses": False,  # a key that is not UTF-8 would end the connection
            "retry": Retry(NoBackoff(), 0),
            "health_check_interval": 0,
        }
        for name in _POOL_SETTINGS:
            settings.pop(name, None)
        return self._pool.connection_class(**settings)

    async def _track(self, connection: Any) -> None:
        """Let Redis push changes on this connection."""
        pushes_as_read(connection)
        await connection.send_command("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", self._prefix)
        # After its timeout, read_response returns None, and can be called again.
        if await connection.read_response(timeout=MAX_SILENCE_SECONDS) is None:
            raise TimeoutError

    async def _listen(self, connection: Any, epoch: int) -> None:
        """Apply the changes that Redis pushes until the connection is lost or its epoch is over."""
        heard = due = time.monotonic()
        asked: deque[float] = deque()
        while not _is_cancelled():
            if self._connections.redis_epoch != epoch:
                raise ConnectionError("The connections of this epoch are stale.")
            now = time.monotonic()
            if now >= due:
                asked.append(now)
                await connection.send_command("TIME")
                due = now + _HEARTBEAT
            # If this process was busy for long, the answer may have arrived, and is read first.
            is_late = now >= heard + MAX_SILENCE_SECONDS
            answer = await connection.read_response(timeout=due - now, push_request=True)
            if answer is None and is_late:
                raise TimeoutError
            if answer and answer[0] == b"invalidate":
                self._apply(answer[1])
            elif answer and answer[0].isdigit():  # the answer of TIME; other pushes are ignored
                heard = asked.popleft()
                self._synchronize(answer, heard)

    def _synchronize(self, answer: Sequence[bytes], asked_at: float) -> None:
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
            logger.info("The push connection of near caches is up again.")

    def _apply(self, keys: Sequence[bytes] | None) -> None:
        """Forget the sessions of changed keys; None stands for all keys."""
        if keys is None:
            for cache in self._caches:
                cache.forget_all()
        else:
            self.forget(key.decode(errors="replace").rpartition(":")[2] for key in keys)

    def _report_refusal(self, error: Exception) -> None:
        self._may_start = False
        logger.warning(
            "This Redis refuses the push connection of near caches, so they stay off; every token "
            "is looked up. It has to speak RESP3 and allow CLIENT TRACKING. It answered: %s",
            error,
        )

    def _report_down(self, error: Exception) -> None:
        now = time.monotonic()
        if self._is_down or now < self._reported_at + _MIN_REPORT_INTERVAL_SECONDS:
            return
        self._is_down, self._reported_at = True, now
        unknown = None if isinstance(error, (RedisError, OSError)) else error
        logger.warning(
            "The push connection of near caches is down, so they are not used until it is up "
            "again: %s",
            type(error).__name__,
            exc_info=unknown,
        )


def _is_refusal(error: Exception) -> bool:
    """Whether a server does not support tracking, or not for this user."""
    return isinstance(error, ResponseError) and _REFUSAL.search(str(error)) is not None


def _is_cancelled() -> bool:
    """Whether this task was cancelled: on Python 3.11 redis-py swallows it while it sends."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _abandon(connection: Any) -> None:
    try:
        await connection.disconnect(nowait=True)
    except Exception:
        logger.warning("The push connection of near caches could not be closed.", exc_info=True)
