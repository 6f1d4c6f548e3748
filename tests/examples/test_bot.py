"""docs/examples/bot.py, run as the process that it is."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from mpauthx_async import StatusCode, WeChatSimulator
from tests.helpers.serve_process import environment_of

BOT = Path(__file__).parents[2] / "docs" / "examples" / "bot.py"

Ask = Callable[[str], Awaitable[Any]]


@pytest.fixture
async def ask(wx: WeChatSimulator, tmp_path: Path) -> AsyncIterator[Ask]:
    environment = {**os.environ, **environment_of(wx)}
    pipes = {"stdin": asyncio.subprocess.PIPE, "stdout": asyncio.subprocess.PIPE}
    command = (sys.executable, str(BOT))
    bot = await asyncio.create_subprocess_exec(*command, cwd=tmp_path, env=environment, **pipes)

    async def ask(line: str) -> Any:
        bot.stdin.write(f"{line}\n".encode())
        await bot.stdin.drain()
        return json.loads(await bot.stdout.readline())

    yield ask
    bot.stdin.close()
    assert await bot.wait() == 0


async def test_logs_a_user_in_and_knows_them_again(ask: Ask, wx: WeChatSimulator) -> None:
    token = (await ask(f"login {wx.login('bob')}"))["response"]
    assert await ask(f"whoami {token}") == {"user_id": "bob"}


async def test_tells_why_it_refuses(ask: Ask) -> None:
    refused = await ask("login used-up")
    assert refused["status_code"] == StatusCode.session_key_and_open_id_request_error
    refused = await ask("whoami nobody|bot|x")
    assert refused == {"status_code": StatusCode.invalid_token, "retryable": False}
    assert "error" in await ask("what")
