"""An endpoint under load while Redis is stopped and started again."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from mpauthx_async import MPAuthX, StatusCode, WeChatSimulator
from tests.helpers.redis_server import RedisServer
from tests.web.apps import World, serving

CLIENTS = 20
REQUESTS = 300  # of each phase


@pytest.fixture
def persistent() -> AsyncIterator[RedisServer]:
    """A Redis that still has its sessions after a restart."""
    with RedisServer(appendonly="yes", appendfsync="always") as server:
        yield server


@pytest.mark.parametrize("near_cache", ["", "?near_cache=1000"], ids=["without", "near cache"])
@pytest.mark.parametrize("framework", ["fastapi", "aiohttp", "starlette"])
async def test_answers_503_while_redis_is_down_and_200_before_and_after(
    framework: str,
    near_cache: str,
    persistent: RedisServer,
    wx: WeChatSimulator,
    tmp_path: Path,
) -> None:
    async with (
        MPAuthX(
            app_id=wx.app_id,
            app_secret=wx.app_secret,
            api_base=wx.url,
            sku="shop",
            users=f"sqlite:///{tmp_path}/users.db",
            tokens=persistent.url + near_cache,
        ) as auth,
        serving(framework, World(auth)) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http,
    ):
        good = (await auth.authorize(wx.login("bob"))).token
        dead = (await auth.authorize(wx.login("bob"))).token
        await auth.revoke(dead)
        seen: Counter[tuple[str, int]] = Counter()
        answered = asyncio.Event()

        async def ask(kind: str, token: str) -> None:
            headers = {"Authorization": f"Bearer {token}"}
            while True:
                async with http.get("/hello", headers=headers) as answer:
                    body = await answer.json()
                    if answer.status == 503:
                        assert body["status_code"] == StatusCode.database_related_error
                        assert answer.headers["Retry-After"] == "1"
                    seen[kind, answer.status] += 1
                    answered.set()

        async def until(kind: str, status: int, count: int) -> None:
            while seen[kind, status] < count:
                answered.clear()
                await answered.wait()

        clients = [
            asyncio.create_task(ask(kind, token))
            for kind, token in (("good", good), ("dead", dead))
            for _ in range(CLIENTS)
        ]
        watch = asyncio.gather(*clients)
        try:
            async with asyncio.timeout(120):
                await until("good", 200, REQUESTS)
                assert set(seen) == {("good", 200), ("dead", 401)}
                await asyncio.to_thread(persistent.stop)
                # Answers that were under way have arrived when each client has gone on.
                await until("good", 503, 5 * CLIENTS)
                await until("dead", 503, 5 * CLIENTS)
                seen.clear()
                await until("good", 503, REQUESTS)
                assert set(seen) <= {("good", 503), ("dead", 503)}
                await asyncio.to_thread(persistent.start)
                await until("good", 200, 1)
                await until("dead", 401, 1)
                seen.clear()
                await until("good", 200, REQUESTS)
                assert seen["good", 401] == seen["dead", 200] == 0
                assert {status for _, status in seen} <= {200, 401, 503}
        finally:
            watch.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
