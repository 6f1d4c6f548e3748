from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from mpauthx_async import MPAuthX, WeChatSimulator
from tests.helpers.redis_server import RedisServer
from tests.web.apps import FRAMEWORKS, World, serving


@pytest.fixture
def make(
    wx: WeChatSimulator, redis: Redis, redis_server: RedisServer, tmp_path: Path
) -> Callable[..., MPAuthX]:
    """Makes a service."""

    def service(**options: Any) -> MPAuthX:
        settings: dict[str, Any] = {
            "app_id": wx.app_id,
            "app_secret": wx.app_secret,
            "api_base": wx.url,
            "sku": "shop",
            "users": f"sqlite:///{tmp_path}/users.db",
            "tokens": redis_server.url,
        }
        return MPAuthX(**settings | options)

    return service


@pytest.fixture
async def auth(make: Callable[..., MPAuthX]) -> AsyncIterator[MPAuthX]:
    async with make() as service:
        yield service


@pytest.fixture
async def token(auth: MPAuthX, wx: WeChatSimulator) -> str:
    """A token of bob's."""
    return (await auth.authorize(wx.login("bob"))).token


@pytest.fixture
def world(auth: MPAuthX) -> World:
    return World(auth)


@pytest.fixture(params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def port(framework: str, world: World) -> AsyncIterator[int]:
    """Where the app of each framework is served."""
    async with serving(framework, world) as port:
        yield port
