"""Several processes on one store, as behind a load balancer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from redis.asyncio import Redis

from mpauthx_async import WeChatOAuth, WeChatSimulator
from tests.helpers.clock import Clock
from tests.helpers.line_process import LineProcess
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
    arguments = wx.app_id, wx.app_secret, wx.url, tokens, str(clock.now)
    async with AsyncExitStack() as stack:
        processes = [
            await stack.enter_async_context(LineProcess("-c", _PROCESS, *arguments))
            for _ in range(PROCESSES)
        ]
        assert [await each.read() for each in processes] == ["ready"] * PROCESSES
        wx.latency = 0.2  # so that all meet the expired token while the first refreshes it
        answers = await asyncio.gather(*(each.ask("get_user bob") for each in processes))
        assert answers == ["bob"] * PROCESSES
        paths = [request.path for request in wx.requests]
        assert paths.count("/sns/oauth2/refresh_token") == 1
        assert paths.count("/sns/userinfo") == PROCESSES * CALLERS

        # That state was made two hours ago; this one is new.
        async with WeChatOAuth(tokens=tokens, clock=clock, **names) as oauth:
            fresh = oauth.create_state("/cart", session="cookie")
        for made, used in ((state, 0), (fresh, 1)):
            outcomes = await asyncio.gather(
                *(each.ask(f"verify_state {made}") for each in processes)
            )
            assert outcomes.count("/cart") == used
            assert outcomes.count("refused") == PROCESSES - used
