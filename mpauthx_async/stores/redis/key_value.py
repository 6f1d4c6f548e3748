"""RedisKeyValueStore: named texts with a lifetime, in Redis."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self

from ...concurrency.traceback_frames import methods_clear_frames
from ...store_errors import raises_store_errors
from ..key_value import LOCK_TTL, expiring_lock
from .commands import Command
from .database import AnyRedis, RedisDatabase
from .keys import lock_key, record_key

__all__ = ["RedisKeyValueStore"]

_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


@methods_clear_frames()
@raises_store_errors
class RedisKeyValueStore:
    """Keeps named texts in a Redis of version 6.2 or later, or in a Redis Cluster.

    Args:
        redis: Connections or a redis-py asyncio client, which stay open, or a URL for a pool of
            its own.
        lock_ttl: seconds after which a lock expires if its holder died. Others wait twice as long,
            but 10 seconds at most.
    """

    def __init__(self, redis: AnyRedis, *, lock_ttl: float = LOCK_TTL) -> None:
        self._database = RedisDatabase(redis)
        self._lock_ttl = lock_ttl

    async def get(self, key: str) -> str | None:
        """Read a record; None if it does not exist or has expired."""
        value: bytes | str | None = await self._command("GET", record_key(key))
        # A UnicodeDecodeError would quote the record; with U+FFFD it does not decrypt.
        return value.decode(errors="replace") if isinstance(value, bytes) else value

    async def save(self, key: str, text: str, ttl: float) -> None:
        """Write a record for `ttl` seconds, in place of an earlier one."""
        await self._command("SET", record_key(key), text, "PX", _milliseconds(ttl))

    async def delete(self, key: str) -> None:
        """Delete a record, if it exists."""
        await self._command("DEL", record_key(key))

    async def add(self, key: str, text: str, ttl: float) -> bool:
        """Write a record for `ttl` seconds if it does not exist; True for one of all callers."""
        return await self._add(record_key(key), text, ttl)

    @asynccontextmanager
    async def lock(self, key: str) -> AsyncIterator[None]:
        """Exclude all other holders, in any process, during `async with`."""
        name, holder = lock_key(key), secrets.token_hex(16)
        async with expiring_lock(
            lambda: self._add(name, holder, self._lock_ttl),
            lambda: self._database.command(Command(name, ("EVAL", _RELEASE, 1, name, holder))),
            self._lock_ttl,
        ):
            yield

    async def check(self) -> None:
        """Check that Redis answers, is a primary, and is of a supported version.

        Raises:
            StoreError, ConfigurationError: if it does not.
        """
        await self._database.check()

    async def close(self) -> None:
        """Wait for the calls in progress and close the pool if it was opened here; repeatable."""
        await self._database.calls.close()

    async def _add(self, name: str, text: str, ttl: float) -> bool:
        if await self._command("SET", name, text, "PX", _milliseconds(ttl), "NX"):
            return True
        # A write whose answer was lost is repeated, so the record may be this caller's.
        value: bytes | str | None = await self._command("GET", name)
        return value in (text, text.encode())

    async def _command(self, name: str, key: str, *args: str | int) -> Any:
        return await self._database.command(Command(key, (name, key, *args)))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _milliseconds(ttl: float) -> int:
    return max(1, int(ttl * 1000))
