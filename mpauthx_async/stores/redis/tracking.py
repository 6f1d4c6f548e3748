"""RedisTracking: keeps near caches current with the changes that Redis pushes."""

import asyncio
import logging
import math
import random
import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    InvalidResponse,
    RedisError,
    ResponseError,
)

from ..._compat import transport_of
from ...connections import Connections
from ..change_feed import ChangeFeed
from ..near_cache import MAX_SILENCE_SECONDS
from .failures import redacted_text

__all__ = ["RedisTracking"]

logger: logging.Logger = logging.getLogger(__name__)

_REFUSAL = re.compile(
    r"unknown|unsupported|NOPROTO|NOPERM|permission|TRACKING|HELLO|RESP|syntax", re.I
)
_MIN_REPORT_INTERVAL_SECONDS = 1.0  # between two log records that the connection is down
_HEARTBEAT = 0.5  # seconds between two TIME commands, whose answers show that it is up
_MIN_BACKOFF_SECONDS = 0.05  # before the next attempt to connect
_MAX_BACKOFF_SECONDS = 1.0
_INCOMPLETE = object()  # instead of a reply that has not arrived in full
# Settings of the pool for the maintenance notifications of a managed Redis.
_POOL_SETTINGS = ("maint_notifications_config", "maint_notifications_pool_handler")


class RedisTracking:
    """Keeps near caches current, over a connection of its own on which Redis pushes changes.

    While the connection is down the caches are shut. It reconnects by itself.

    When `connections` renew stale ones, this one is renewed too. The keys with the prefix end in a
    colon and the nonce of a session.

    Source: Redis documentation, client-side caching, broadcasting mode.
    """

    def __init__(self, connections: Connections, prefix: str) -> None:
        self._connections = connections
        client: Any = connections.configured_redis  # of a single Redis, perhaps behind Sentinels
        self._pool = client.connection_pool
        self._prefix = prefix
        self.feed: ChangeFeed = ChangeFeed()
        self._task: asyncio.Task[None] | None = None
        self._may_start = True
        self._time: tuple[float, float] | None = None  # while up: Redis's, and ours when asked
        self._asked: deque[float] = deque()  # when TIME was sent that is not answered yet
        self._heard = 0.0  # when TIME was sent that was answered last
        self._is_down = False
        self._reported_at = -math.inf

    def forget(self, nonces: Sequence[str]) -> None:
        """Drop the sessions of these nonces from all caches."""
        for nonce in nonces:
            self.feed.forget(nonce)

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
            try:
                await connection.connect()
                await self._listen(connection, epoch)
            except (AuthenticationError, AuthorizationError) as error:
                self._report_down(error)
                backoff = _MAX_BACKOFF_SECONDS
            except Exception as error:  # noqa: BLE001 (it must reconnect after any failure)
                if self._time is None and _is_refusal(error):
                    self._report_refusal(error)
                    return
                backoff = 0.0 if self._time else backoff
                backoff = min(_MAX_BACKOFF_SECONDS, 2 * backoff + _MIN_BACKOFF_SECONDS)
                self._report_down(error)
            finally:
                self._time = None
                self.feed.shut()
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

    async def _listen(self, connection: Any, epoch: int) -> None:
        """Apply the changes that Redis pushes until the connection is lost or its epoch is over."""
        # Not by read_response: with its timeout a message takes twice the CPU time.
        transport, reader = transport_of(connection), _Reader(self._take)
        transport.set_protocol(reader)

        def send(*command: str) -> None:
            # Not by writelines: if the connection is lost, that of CPython 3.12 and early 3.13
            # (issue 136234) leaves the socket's number in the selector, and the next socket that
            # has it hangs.
            transport.write(b"".join(connection.pack_command(*command)))

        send("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", self._prefix)
        self._asked.clear()
        self._heard = due = time.monotonic()
        while not _is_cancelled():
            if self._connections.redis_epoch != epoch:
                raise ConnectionError("The connections of this epoch are stale.")
            now, heard = time.monotonic(), self._heard
            if now >= due:
                self._connections.watch_primary()  # calls that the caches answer make no trips
                self._asked.append(now)
                send("TIME")
                due = now + _HEARTBEAT
            await asyncio.wait([reader.ended], timeout=due - now)
            if reader.ended.done():
                raise reader.ended.result()
            # If this process was busy for long, the answer may have arrived, and is read first.
            if now >= heard + MAX_SILENCE_SECONDS and self._heard == heard:
                raise TimeoutError

    def _take(self, reply: Any) -> None:
        """Take what Redis said: the answers to CLIENT TRACKING and TIME, and pushes."""
        if isinstance(reply, Exception):
            raise reply
        if isinstance(reply, list) and reply:
            if reply[0] == b"invalidate":
                self._apply(reply[1])
            elif reply[0].isdigit():  # the answer of TIME; other pushes are ignored
                self._heard = self._asked.popleft()
                self._synchronize(reply, self._heard)

    def _synchronize(self, answer: Sequence[bytes], asked_at: float) -> None:
        seconds, microseconds = map(int, answer)
        tell = self.feed.open if self._time is None else self.feed.synchronize
        self._time = (seconds + microseconds / 1e6, asked_at)
        tell(*self._time)
        if self._is_down:
            self._is_down = False
            logger.info("The push connection of Redis is up again.")

    def _apply(self, keys: Sequence[bytes] | None) -> None:
        """Forget the sessions of changed keys; None stands for all keys."""
        if keys is None:
            self.feed.forget_all()
        else:
            self.forget([key.rpartition(b":")[2].decode(errors="replace") for key in keys])

    def _report_refusal(self, error: Exception) -> None:
        self._may_start = False
        logger.warning(
            "This Redis refuses a push connection, so near caches stay off, every token is looked "
            "up, and until_revoked asks once a second. It has to speak RESP3 and allow CLIENT "
            "TRACKING. It answered: %s",
            redacted_text(error),
        )

    def _report_down(self, error: Exception) -> None:
        now = time.monotonic()
        if self._is_down or now < self._reported_at + _MIN_REPORT_INTERVAL_SECONDS:
            return
        self._is_down, self._reported_at = True, now
        unknown = None if isinstance(error, (RedisError, OSError)) else error
        logger.warning(
            "The push connection of Redis is down. Until it is up again, near caches are not used, "
            "and until_revoked asks once a second: %s",
            type(error).__name__,
            exc_info=unknown,
        )


class _Reader(asyncio.Protocol):
    """Reads what Redis says on a connection, until `take` raises: `ended` tells why."""

    def __init__(self, take: Callable[[Any], None]) -> None:
        self.ended: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._take = take
        self._replies = hiredis.Reader(
            protocolError=InvalidResponse, replyError=ResponseError, notEnoughData=_INCOMPLETE
        )

    def data_received(self, data: bytes) -> None:
        if self.ended.done():
            return
        try:
            self._replies.feed(data)
            while (reply := self._replies.gets()) is not _INCOMPLETE:
                self._take(reply)
        except Exception as error:  # noqa: BLE001 (who waits for it raises it)
            self.ended.set_result(error)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(error or ConnectionError("Redis closed the connection."))


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
        logger.warning("The push connection of Redis could not be closed.", exc_info=True)
