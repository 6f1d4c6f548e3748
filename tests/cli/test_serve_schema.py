"""The OpenAPI schema of our routes: schemathesis asks FastAPI, and the server, what it says."""

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from mpauthx_async import MPAuthX, WeChatSimulator
from mpauthx_async.web.fastapi import MPAuthXGuard
from tests.helpers.redis_server import RedisServer
from tests.helpers.serve_process import environment_of, serving
from tests.web.apps import serve_asgi

INCLUDE = ("phone", "forget")
# A logout with a dead token is no failure: RFC 7009, section 2.2.
_CONFIGURATION = """
[warnings]
fail-on = true

[[operations]]
include-name = "POST /logout"
checks.ignored_auth.enabled = false
"""


@pytest.fixture
def app(make: Callable[..., MPAuthX]) -> FastAPI:
    guard = MPAuthXGuard(make())
    app = FastAPI(lifespan=guard.lifespan)
    guard.install(app)
    app.include_router(guard.router(include=INCLUDE))
    return app


@pytest.fixture
def check(app: FastAPI, wx: WeChatSimulator, tmp_path: Path) -> Any:
    """Has schemathesis check a server; fails with what it found."""

    async def check(server: str, *options: str) -> None:
        (tmp_path / "schemathesis.toml").write_text(_CONFIGURATION)
        schema = tmp_path / "openapi.json"
        schema.write_text(json.dumps(app.openapi()))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli", "run", str(schema), "--url", server),
            *("--seed", "1", "--generation-deterministic", "--max-examples", "5"),
            *("--phases", "coverage,fuzzing", "--no-color", *options),
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(sys.path),
                "SCHEMATHESIS_HOOKS": "tests.helpers.schemathesis_hooks",
                "SIMULATOR": wx.url,
                "SERVER": server,
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()

    return check


async def test_fastapi_answers_as_its_schema_says(app: FastAPI, check: Any) -> None:
    async with serve_asgi(app) as port:
        # Of two routes at one path, Starlette's Allow names the first.
        await check(f"http://127.0.0.1:{port}", "--exclude-checks", "allow_header_conformance")


async def test_the_server_answers_as_the_schema_says(
    check: Any, wx: WeChatSimulator, redis_server: RedisServer, tmp_path: Path
) -> None:
    environment = environment_of(wx, tokens=redis_server.url)
    async with serving(tmp_path, "--include", ",".join(INCLUDE), environment=environment) as server:
        await check(server.url)
