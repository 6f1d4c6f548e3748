"""The locks of key-value stores."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from .._compat import timeout
from ..errors import ConnectionFailedError, MPAuthXError, StoreError

__all__ = ["LOCK_TTL", "expiring_lock", "within_lock"]

logger: logging.Logger = logging.getLogger(__name__)

LOCK_TTL = 15.0
"""Seconds after which a lock expires if its holder died."""

MAX_LOCK_WAIT_SECONDS = 10.0
"""How long to wait for a lock: its holder may wait as long for WeChat."""

_MAX_POLL_SECONDS = 0.1  # between two attempts to acquire a lock
_MAX_WORK_SECONDS = 12.0  # less than LOCK_TTL


@asynccontextmanager
async def expiring_lock(
    acquire: Callable[[], Awaitable[bool]], release: Callable[[], Awaitable[object]], ttl: float
) -> AsyncIterator[None]:
    """Hold a lock that is stored for all processes.

    Args:
        acquire: stores the lock for `ttl` seconds; returns False if another holder has it.
        release: deletes it.
        ttl: in seconds. Others wait twice as long, but 10 seconds at most.

    Raises:
        StoreError: another holder has it for too long, or `acquire` raised it.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + min(2 * ttl, MAX_LOCK_WAIT_SECONDS)
    while not await acquire():
        if loop.time() > deadline:
            raise StoreError(
                "Another process has held a lock in the store too long. Check for one that hangs."
            )
        await asyncio.sleep(random.uniform(0, _MAX_POLL_SECONDS))  # noqa: S311 (jitter, no secret)
    try:
        yield
    finally:
        try:
            await release()
        except MPAuthXError as error:  # the work under the lock has not failed
            logger.warning("A lock in the store was not released, and expires by itself: %s", error)


@asynccontextmanager
async def within_lock(lock: AbstractAsyncContextManager[None]) -> AsyncIterator[None]:
    """Hold a lock during a request to WeChat, and give up before the lock expires.

    Raises:
        ConnectionFailedError: WeChat took too long, over all attempts.
    """
    async with lock:
        try:
            async with timeout(_MAX_WORK_SECONDS) as deadline:
                yield
        except TimeoutError:
            if not deadline.expired():
                raise
            raise ConnectionFailedError(
                "WeChat did not answer in time. Check the network on the way to it.", sent=True
            ) from None
