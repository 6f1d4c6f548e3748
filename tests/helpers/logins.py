"""What tests of logins share."""

import asyncio
from typing import Any

from mpauthx_async import ComponentExchange, WeChatSimulator
from tests.helpers.outages import PATIENCE


def login(wx: WeChatSimulator, open_id: str = "bob", **more: Any) -> tuple[str, str, str]:
    """What a client sends after wx.login and wx.getUserInfo."""
    code = wx.login(open_id, **more)
    info = wx.get_user_info(open_id)
    return code, info.encrypted_data, info.iv


class Gated:
    """A real store whose writes wait at a gate."""

    def __init__(self, store: Any, *gated: str) -> None:
        self._store = store
        self._gated = gated
        self.reached = asyncio.Event()
        self.gate = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if name not in self._gated:
            return method

        async def wait_and_do(*args: Any, **options: Any) -> Any:
            self.reached.set()
            await self.gate.wait()
            return await method(*args, **options)

        return wait_and_do


async def requests_at(wx: WeChatSimulator, count: int) -> None:
    """Wait until that many requests have come to WeChat."""
    while len(wx.requests) < count:  # noqa: ASYNC110 (the simulator has no event for it)
        await asyncio.sleep(0)


def requests_to(wx: WeChatSimulator, path: str) -> list[Any]:
    """The requests that came to a path of WeChat's."""
    return [request for request in wx.requests if request.path == path]


class Gate:
    """An exchange whose logins stop, each with its connection, until the gate is opened."""

    def __init__(self, wx: WeChatSimulator) -> None:
        self.exchange = ComponentExchange(wx.component_app_id, self._token)
        self.at_gate = self.most = 0
        self._token_of_wechat = wx.component_access_token
        self._opened = asyncio.Event()
        self._changed = asyncio.Condition()

    async def _token(self) -> str:
        self.at_gate += 1
        self.most = max(self.most, self.at_gate)
        async with self._changed:
            self._changed.notify_all()
        await self._opened.wait()
        self.at_gate -= 1
        return self._token_of_wechat

    async def reached_by(self, logins: int) -> None:
        async with asyncio.timeout(PATIENCE), self._changed:
            await self._changed.wait_for(lambda: self.at_gate >= logins)

    def open(self) -> None:
        self._opened.set()
