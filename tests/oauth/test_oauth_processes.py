"""Several processes on one store, as behind a load balancer."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from redis.asyncio import Redis

from mpauthx_async import WeChatOAuth, WeChatSimulator
from tests.helpers.clock import Clock
from tests.helpers.redis_server import RedisServer

PROCESSES = 4
CALLERS = 5  # in each process

_PROCESS = f"""
import asyncio, sys
from mpauthx_async import InvalidStateError, WeChatOAuth

async def main(app_id, app_secret, wechat, tokens, now):
    async with WeChatOAuth(
        app_id=app_id, app_secret=app_secret, tokens=tokens, api_base=wechat,
        clock=lambda: float(now),
    ) as oauth:
        print("ready", flush=True)
        for line in sys.stdin:
            command, text = line.split()
            if command == "get_user":
                users = await asyncio.gather(*(oauth.get_user(text) for _ in range({CALLERS})))
                print(*sorted({{user.open_id for user in users}}), flush=True)
            else:
                try:
                    print(await oauth.verify_state(text, session="cookie"), flush=True)
                except InvalidStateError:
                    print("refused", flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
async def wx(clock: Clock) -> AsyncIterator[WeChatSimulator]:
    async with WeChatSimulator(clock=clock) as simulator:
        yield simulator


class Process:
    """A process with a service of its own, which does one command at a time."""

    def __init__(self, wx: WeChatSimulator, tokens: str, now: float) -> None:
        self._arguments = wx.app_id, wx.app_secret, wx.url, tokens, str(now)

    async def __aenter__(self) -> "Process":
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _PROCESS, *self._arguments, stdin=pipe, stdout=pipe
        )
        assert await self._answer() == "ready"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._process.communicate(b"")  # closes its stdin
        assert self._process.returncode == 0

    async def do(self, command: str, text: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command} {text}\n".encode())
        return await self._answer()

    async def _answer(self) -> str:
        assert self._process.stdout is not None
        return (await self._process.stdout.readline()).decode().strip()


@pytest.mark.parametrize("kind", ["redis", "sqlite"])
async def test_processes_that_meet_an_expired_token_refresh_it_once(
    kind: str,
    wx: WeChatSimulator,
    clock: Clock,
    redis: Redis,
    redis_server: RedisServer,
    tmp_path: Path,
) -> None:
    tokens = redis_server.url if kind == "redis" else f"sqlite:///{tmp_path / 'oauth.db'}"
    names = {"app_id": wx.app_id, "app_secret": wx.app_secret, "api_base": wx.url}
    async with WeChatOAuth(tokens=tokens, clock=clock, **names) as oauth:
        await oauth.get_access_token(wx.web_login("bob"))
        state = oauth.create_state("/cart", session="cookie")
    clock.now += 7200
    async with AsyncExitStack() as stack:
        processes = [
            await stack.enter_async_context(Process(wx, tokens, clock.now))
            for _ in range(PROCESSES)
        ]
        wx.latency = 0.2  # so that all meet the expired token while the first refreshes it
        answers = await asyncio.gather(*(each.do("get_user", "bob") for each in processes))
        assert answers == ["bob"] * PROCESSES
        paths = [request.path for request in wx.requests]
        assert paths.count("/sns/oauth2/refresh_token") == 1
        assert paths.count("/sns/userinfo") == PROCESSES * CALLERS

        # That state was made two hours ago; this one is new.
        async with WeChatOAuth(tokens=tokens, clock=clock, **names) as oauth:
            fresh = oauth.create_state("/cart", session="cookie")
        for made, used in ((state, 0), (fresh, 1)):
            outcomes = await asyncio.gather(*(each.do("verify_state", made) for each in processes))
            assert outcomes.count("/cart") == used
            assert outcomes.count("refused") == PROCESSES - used
