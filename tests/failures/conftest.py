"""Fixtures of the tests of failures."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mpauthx_async import RedisTokenStore, WeChatSimulator
from tests.helpers.redis_server import RedisServer


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[RedisTokenStore]:
    """A store on the test's own Redis."""
    async with RedisTokenStore(server.url) as store:
        yield store


@pytest.fixture(params=["sqlite", "redis", "near cache"])
def settings(
    request: pytest.FixtureRequest, redis_server: RedisServer, wx: WeChatSimulator, tmp_path: Path
) -> dict[str, Any]:
    tokens = {
        "sqlite": f"sqlite:///{tmp_path}/tokens.db",
        "redis": redis_server.url,
        "near cache": f"{redis_server.url}?near_cache=100",
    }
    return {
        "app_id": wx.app_id,
        "app_secret": wx.app_secret,
        "users": f"sqlite:///{tmp_path}/users.db",
        "tokens": tokens[request.param],
        "api_base": wx.url,
    }
