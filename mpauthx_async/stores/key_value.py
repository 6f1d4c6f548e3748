"""What is kept as named texts with a lifetime: OAuth tokens, used states, an app's own token."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from ..errors import ConnectionFailedError

__all__ = ["LOCK_TTL", "LONGEST_LOCK_WAIT", "Records", "within_lock"]

LOCK_TTL = 15.0
"""Seconds after which a lock ends whose holder died."""

LONGEST_LOCK_WAIT = 10.0
"""Seconds to wait for a lock: its holder may wait as long for WeChat."""

_LONGEST_WORK = 12.0  # seconds: less than a lock lasts


class KeyValueStore(Protocol):
    """Keeps named texts for all processes. Every method raises StoreError when it cannot answer.

    A key is any text of a few hundred characters, with its purpose in front.
    """

    async def get(self, key: str) -> str | None:
        """Read a record; None when there is none, or its time is over."""

    async def save(self, key: str, text: str, ttl: float) -> None:
        """Write a record, in place of an earlier one, for `ttl` seconds."""

    async def delete(self, key: str) -> None:
        """Delete a record, if there is one."""

    async def add(self, key: str, text: str, ttl: float) -> bool:
        """Write a record for `ttl` seconds if there is none; of all who try one gets True.

        The text has to be nobody else's: a store may repeat the write when its answer was lost.
        """

    def lock(self, key: str) -> AbstractAsyncContextManager[None]:
        """Keep all others out, in any process, while `async with` lasts.

        Who holds it has to be quick: after some seconds it ends by itself, so that a process which
        died keeps nobody waiting. Entering raises StoreError when the wait gets too long.
        """

    async def close(self) -> None:
        """Close what was opened here, after what is in progress; may be called again."""


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
