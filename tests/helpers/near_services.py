"""What the tests of near caches on Redis share: their services, and how they wait."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from redis.asyncio import Redis

from mpauthx_async import AuthResult, MPAuthX, WeChatSimulator
from mpauthx_async.stores.conformance.examples import until
from mpauthx_async.stores.near_cache import NearCache
from tests.helpers.redis_server import RedisServer
from tests.helpers.service_calls import log_in

BOUND = 2.0  # seconds after which no revoked token is accepted, whatever happened
Make: TypeAlias = Callable[..., MPAuthX]


def with_near_cache(url: str, size: int = 1000) -> str:
    return f"{url}{'&' if '?' in url else '?'}near_cache={size}"


def maker(wx: WeChatSimulator, server: RedisServer, directory: Path) -> Make:
    """Makes services with near caches on one Redis, each on a pool of its own."""

    def make(**changes: Any) -> MPAuthX:
        settings: dict[str, Any] = {
            "app_id": wx.app_id,
            "app_secret": wx.app_secret,
            "sku": "shop",
            "users": f"sqlite:///{directory}/users.db",
            "tokens": with_near_cache(server.url),
            "api_base": wx.url,
        }
        return MPAuthX(**(settings | changes))

    return make


def cache_of(auth: MPAuthX) -> NearCache:
    cache = auth._validator._near
    assert cache is not None
    return cache


async def until_kept(auth: MPAuthX, *tokens: str) -> None:
    """Use valid tokens until the service answers for all of them from memory."""

    async def are_kept() -> bool:
        assert all([await auth.is_token_valid(token) for token in tokens])
        return all(map(cache_of(auth).known, tokens))

    await until(are_kept)


async def warm(auth: MPAuthX, wx: WeChatSimulator, user: str = "bob") -> AuthResult:
    """Log a user in, whose token is answered for from memory from then on."""
    result = await log_in(auth, wx, user)
    await until_kept(auth, result.response)
    return result


async def refused_in_time(auth: MPAuthX, *tokens: str) -> None:
    """Use tokens that ended just now until they are refused, which has to be soon."""
    ended = time.monotonic()

    async def are_refused() -> bool:
        asked = time.monotonic()
        answers = [await auth.is_token_valid(token) for token in tokens]
        assert not any(answers) or asked < ended + BOUND
        return not any(answers)

    await until(are_refused)
    assert not any([await auth.is_token_valid(token) for token in tokens])


async def trackers(admin: Redis) -> list[dict[str, Any]]:
    """The connections on which Redis pushes what changes."""
    clients: list[dict[str, Any]] = await admin.client_list()
    return [client for client in clients if "t" in client["flags"]]
