"""What fastapi-users makes of a token in Redis: its RedisStrategy, with a user manager of no cost.

The package is an extra: without it the parties that need it are left out.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from redis.asyncio import Redis

__all__ = [
    "LEFT_OUT",
    "TrivialUserManager",
    "is_installed",
    "strategy",
    "token_writer",
    "write_tokens",
]

LEFT_OUT = "Left out: fastapi-users is not installed (pip install '.[benchmark]')."

_LIFETIME = 259_200  # seconds, as ours


@dataclass(frozen=True, slots=True)
class _User:
    id: str
    is_active: bool = True
    is_verified: bool = True
    is_superuser: bool = False


class TrivialUserManager:
    """Knows every user at once, where a real one would ask a database."""

    def parse_id(self, value: Any) -> str:
        return str(value)

    async def get(self, user_id: str) -> _User:
        return _User(user_id)


def is_installed() -> bool:
    """Whether there is fastapi-users."""
    return find_spec("fastapi_users") is not None


def strategy(redis: Redis) -> Any:
    """A RedisStrategy as an app has it.

    Args:
        redis: a client that decodes responses, as its documentation says.
    """
    return import_module("fastapi_users.authentication").RedisStrategy(redis, _LIFETIME)


def token_writer(redis: Redis) -> Callable[[str], Awaitable[str]]:
    """What has it give out a token of a user, by their id."""
    writes = strategy(redis)

    async def write(user_id: str) -> str:
        return str(await writes.write_token(_User(user_id)))

    return write


async def write_tokens(redis: Redis, count: int) -> list[str]:
    """Have it give out tokens, each of another user."""
    write = token_writer(redis)
    return [await write(f"t{number:027}") for number in range(count)]
