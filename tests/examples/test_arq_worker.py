"""docs/examples/arq_worker.py, run by arq on a real Redis."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from arq import create_pool
from arq.connections import ArqRedis, RedisSettings

from mpauthx_async import MPAuthX, WeChatSimulator
from tests.helpers.redis_server import RedisServer
from tests.helpers.serve_process import environment_of

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture
async def web_app(make: Callable[..., MPAuthX], server: RedisServer) -> AsyncIterator[MPAuthX]:
    async with make(tokens=server.url) as auth:
        yield auth


@pytest.fixture
async def pool(server: RedisServer) -> AsyncIterator[ArqRedis]:
    pool = await create_pool(RedisSettings.from_dsn(server.url))
    yield pool
    await pool.aclose()


async def test_a_job_is_done_for_a_living_session_only(
    web_app: MPAuthX, pool: ArqRedis, server: RedisServer, wx: WeChatSimulator, tmp_path: Path
) -> None:
    tokens = [(await web_app.authorize(wx.login(user))).token for user in ("bob", "ann")]
    await web_app.revoke(tokens[1])
    jobs = [await pool.enqueue_job("export_orders", token) for token in tokens]
    path = os.pathsep.join([str(EXAMPLES), os.environ.get("PYTHONPATH", "")])
    settings = {**environment_of(wx), "REDIS_URL": server.url, "PYTHONPATH": path}
    command = [sys.executable, "-m", "arq", "arq_worker.WorkerSettings", "--burst"]
    worker = await asyncio.create_subprocess_exec(
        *command, cwd=tmp_path, env={**os.environ, **settings}
    )
    assert await worker.wait() == 0
    results = [await job.result(timeout=10) for job in jobs]
    assert results == ["orders of bob", "not done: the session is revoked"]
