"""Sentinels: which Redis behind Redis Sentinel is the primary, and when another one takes over."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.asyncio.sentinel import MasterNotFoundError, SentinelConnectionPool
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError
from redis.utils import str_if_bytes

from ._compat import MarkingPool, connections_of, timeout

__all__ = ["PrimaryWatch", "SentinelPool", "SentinelRefusedError", "Sentinels"]

logger: logging.Logger = logging.getLogger(__name__)

_MAX_SENTINEL_SECONDS = 1.0  # for the answer of a Sentinel
_PROMPT_SECONDS = 0.25  # after which the answers of a majority are enough
_WATCH_INTERVAL_SECONDS = 0.5


class SentinelRefusedError(ResponseError):
    """The Sentinels answer, but name no primary until the operator has acted."""


class Sentinels:
    """The Sentinels of a URL, as a SentinelConnectionPool asks them.

    All are asked at once, so one that hangs delays nobody for long. redis-py asks them one after
    another, and believes the first, which may be the last to hear of a failover. The owner closes
    `clients`, one for each pool, which is of one Sentinel.
    """

    def __init__(self, pools: Sequence[ConnectionPool]) -> None:
        self.clients: list[Redis] = [Redis.from_pool(pool) for pool in pools]

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """Find the host and port of the primary.

        Raises:
            MasterNotFoundError: there is no primary at the moment, or no Sentinel answers.
            SentinelRefusedError: the Sentinels do not know this name, or refuse the command or the
                password.
        """
        asked = [
            asyncio.create_task(_view(client, service_name), name="mpauthx: ask a Sentinel")
            for client in self.clients
        ]
        try:
            done, left = await asyncio.wait(asked, timeout=_PROMPT_SECONDS)
            if left and 2 * sum(task.exception() is None for task in done) <= len(asked):
                await asyncio.wait(left)
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        answered = [task for task in asked if not task.cancelled()]
        views = [task.result() for task in answered if task.exception() is None]
        if not views:
            raise _failure([task.exception() for task in answered])
        return _primary(views)


class SentinelPool(MarkingPool, SentinelConnectionPool, BlockingConnectionPool):
    """A pool of connections to the primary, whose callers wait for a free one."""

    master_address: tuple[str, int] | None  # of the primary that was found last

    async def get_master_address(self) -> tuple[str, int]:
        """Find the primary; idle connections to an earlier one are closed."""
        address: tuple[str, int] = await self.sentinel_manager.discover_master(self.service_name)
        if address != self.master_address:
            self.master_address = address
            # Not pool.disconnect(): while that waits for a connection to close, a call may get it.
            for connection in connections_of(self)[1]:
                await connection.disconnect(nowait=True)
        return address

    def __repr__(self) -> str:  # before 7.4 redis-py's contains the password
        return "<mpauthx_async Redis pool>"


class PrimaryWatch:
    """Notices that another Redis has become the primary.

    The connections to the earlier one stay open until a Sentinel makes it a replica, which takes
    about ten seconds if it still runs. Until then it serves stale data.
    """

    def __init__(
        self, pool: SentinelConnectionPool, on_change: Callable[[], Awaitable[object]]
    ) -> None:
        self._find: Callable[[], Awaitable[tuple[str, int]]] = pool.get_master_address
        self._on_change = on_change
        self._primary: tuple[str, int] | None = None
        self._asking: asyncio.Task[None] | None = None
        self._due = 0.0

    def look(self) -> None:
        """Ask the Sentinels in a task, at most twice a second."""
        now = time.monotonic()
        if now >= self._due and (self._asking is None or self._asking.done()):
            self._due = now + _WATCH_INTERVAL_SECONDS
            self._asking = asyncio.create_task(self._look(), name="mpauthx: watch the primary")

    async def close(self) -> None:
        """Stop asking; waits for the answers, because a cancelled TLS handshake stays open."""
        if self._asking is not None and not self._asking.done():
            await asyncio.wait([self._asking], timeout=_MAX_SENTINEL_SECONDS)
            self._asking.cancel()
            await asyncio.wait([self._asking])

    async def _look(self) -> None:
        try:
            primary = await self._find()
        except (RedisError, OSError) as error:  # the calls on the connections tell of it
            logger.debug("The Sentinels do not name a primary: %s", error)
            return
        earlier, self._primary = self._primary, primary
        if earlier not in (None, primary):
            logger.info("Another Redis is the primary now, %s:%s.", *primary)
            await self._on_change()


class _View(NamedTuple):
    """What a Sentinel knows of the primary."""

    epoch: int  # of the last failover
    address: tuple[str, int]
    is_up: bool  # whether the Sentinel considers it up


async def _view(client: Redis, name: str) -> _View:
    """Ask a Sentinel for the primary of this name."""
    ask: Callable[..., Awaitable[Any]] = client.execute_command
    async with timeout(_MAX_SENTINEL_SECONDS):
        # Until all replicas follow the new primary, the Sentinel that leads the failover returns
        # the new epoch but the old primary's state. The address is already the new one.
        state: Mapping[str, Any] = await ask("SENTINEL MASTER", name)
        address = await ask("SENTINEL GET-MASTER-ADDR-BY-NAME", name)
    if address is None:
        raise MasterNotFoundError("A Sentinel has forgotten the primary")
    host, port = str_if_bytes(address[0]), int(address[1])
    is_down = state["is_sdown"] or state["is_odown"] or not state["is_master"]
    is_successor = (host, port) != (state["ip"], state["port"])
    return _View(state["config-epoch"], (host, port), is_successor or not is_down)


def _primary(views: Sequence[_View]) -> tuple[str, int]:
    """The primary of the last failover; raises if no Sentinel considers it up."""
    newest = max(view.epoch for view in views)
    for view in views:
        if view.epoch == newest and view.is_up:
            return view.address
    raise MasterNotFoundError("The Sentinels consider the primary to be down")


def _failure(errors: Sequence[BaseException | None]) -> Exception:
    """The error to raise if no Sentinel answered the question."""
    for error in errors:
        if isinstance(error, (AuthenticationError, ResponseError)):
            return SentinelRefusedError(_refusal(error))
        if isinstance(error, Exception) and not isinstance(error, (RedisError, OSError)):
            return error
    told = next((str(error) for error in errors if error is not None and str(error)), "")
    return MasterNotFoundError(f"No Sentinel answers{': ' if told else ''}{told}")


def _refusal(error: Exception) -> str:
    if "No such master" in str(error):
        return "the Sentinels know no primary of this name, so check the URL's path"
    if isinstance(error, (AuthenticationError, NoPermissionError)):
        return (
            "the Sentinels refuse their user or password, so set sentinel_username and "
            "sentinel_password in the URL's query"
        )
    return f"the Sentinels refuse to name the primary: {error}"
