"""What is kept as named texts with a lifetime: OAuth tokens, used states, an app's own token."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from ..errors import ConnectionFailedError

__all__ = ["LOCK_TTL", "LONGEST_LOCK_WAIT", "within_lock"]

LOCK_TTL = 15.0
"""Seconds after which a lock ends whose holder died."""

LONGEST_LOCK_WAIT = 10.0
"""Seconds to wait for a lock: its holder may wait as long for WeChat."""

_LONGEST_WORK = 12.0  # seconds: less than a lock lasts


@asynccontextmanager
async def within_lock(lock: AbstractAsyncContextManager[None]) -> AsyncIterator[None]:
    """Hold a lock while WeChat is asked, and give up before the lock would end by itself.

    Raises:
        ConnectionFailedError: WeChat took too long, with all retries.
    """
    async with lock:
        try:
            async with asyncio.timeout(_LONGEST_WORK) as timeout:
                yield
        except TimeoutError:
            if not timeout.expired():
                raise
            raise ConnectionFailedError(
                "WeChat did not answer in time; the call can be repeated.", sent=True
            ) from None
