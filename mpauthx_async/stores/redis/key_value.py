"""RedisKeyValueStore: named texts with a lifetime, in Redis.

Keys, each in braces so that the key's own characters choose the slot of a Redis Cluster:

    mpauthx:r:{<key>}       the text, with the TTL that deletes it
    mpauthx:r:lock:{<key>}  who holds the lock, with the TTL that frees it
"""

import asyncio
import logging
import random
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from ...concurrency.frames import methods_clear_frames
from ...errors import MPAuthXError, StoreError
from ...store_boundary import raises_store_errors
from ..key_value import LOCK_TTL, LONGEST_LOCK_WAIT
from .database import AnyRedis, RedisDatabase

__all__ = ["RedisKeyValueStore"]

logger: logging.Logger = logging.getLogger(__name__)

_POLL = 0.1  # seconds between two looks at a lock that another holds, at most
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


@methods_clear_frames()
@raises_store_errors
class RedisKeyValueStore:
    """Keeps named texts in a Redis of version 6.2 or later, or in a Redis Cluster.

    Args:
        redis: Connections or a redis-py asyncio client, which stay open, or a URL for a pool of
            its own.
        lock_ttl: after how many seconds a lock ends whose holder died. Others wait twice as long,
            but 10 seconds at most.
    """

    def __init__(self, redis: AnyRedis, *, lock_ttl: float = LOCK_TTL) -> None:
        self._database = RedisDatabase(redis)
        self._lock_ttl = lock_ttl

    async def get(self, key: str) -> str | None:
        """Read a record; None when there is none, or its time is over."""
        value: bytes | str | None = await self._database.command(_key(key), "GET", _key(key))
        # A UnicodeDecodeError would quote the record; with U+FFFD it does not decrypt.
        return value.decode(errors="replace") if isinstance(value, bytes) else value

    async def save(self, key: str, text: str, ttl: float) -> None:
        """Write a record, in place of an earlier one, for `ttl` seconds."""
        words = "SET", _key(key), text, "PX", _milliseconds(ttl)
        await self._database.command(_key(key), *words)

    async def delete(self, key: str) -> None:
        """Delete a record, if there is one."""
        await self._database.command(_key(key), "DEL", _key(key))

    async def add(self, key: str, text: str, ttl: float) -> bool:
        """Write a record for `ttl` seconds if there is none; of all who try one gets True."""
        return await self._add(_key(key), text, ttl)

    @asynccontextmanager
    async def lock(self, key: str) -> AsyncIterator[None]:
        """Keep all others out, in any process, while `async with` lasts."""
        name, holder = _lock_key(key), secrets.token_hex(16)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + min(2 * self._lock_ttl, LONGEST_LOCK_WAIT)
        while not await self._add(name, holder, self._lock_ttl):
            if loop.time() > deadline:
                raise StoreError("Another process holds a lock in Redis for too long; call again.")
            await asyncio.sleep(random.uniform(0, _POLL))  # noqa: S311 (jitter, no secret)
        try:
            yield
        finally:
            try:
                await self._database.command(name, "EVAL", _RELEASE, 1, name, holder)
            except MPAuthXError as error:
                # What was done under it is done, so this is no failure of it.
                logger.warning("A lock in Redis was not released, and ends by itself: %s", error)

    async def check(self) -> None:
        """Check that Redis answers, is a primary, and is of a version that serves.

        Raises:
            StoreError, ConfigurationError: if it does not.
        """
        await self._database.check()

    async def close(self) -> None:
        """Close the pool if it was opened here, after what is in progress; may be called again."""
        await self._database.close()

    async def _add(self, name: str, text: str, ttl: float) -> bool:
        words = "SET", name, text, "PX", _milliseconds(ttl), "NX"
        if await self._database.command(name, *words):
            return True
        # A write whose answer was lost is repeated: then what is there is ours.
        value: bytes | str | None = await self._database.command(name, "GET", name)
        return value in (text, text.encode())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _key(key: str) -> str:
    return f"mpauthx:r:{{{key}}}"


def _lock_key(key: str) -> str:
    return f"mpauthx:r:lock:{{{key}}}"


def _milliseconds(ttl: float) -> int:
    return max(1, int(ttl * 1000))
