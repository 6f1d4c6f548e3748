"""WeChatProcess: the simulator in a process of its own, so that it takes none of ours."""

import asyncio
import gc
from typing import NamedTuple

from mpauthx_async import WeChatSimulator

from .child_process import ChildProcess, Pipe
from .garbage import GC_THRESHOLDS
from .sessions import APP_ID, APP_SECRET

__all__ = ["Login", "WeChatProcess"]


class Login(NamedTuple):
    """What a mini-program sends for one login."""

    code: str
    encrypted_data: str
    iv: str


class WeChatProcess(ChildProcess):
    """A WeChatSimulator without a limit of calls; it ends with this process at the latest.

    Args:
        uvloop: whether its event loop is uvloop's.
    """

    def __init__(self, *, uvloop: bool = False) -> None:
        super().__init__(_simulate, uvloop=uvloop)

    @property
    def url(self) -> str:
        return str(self.said)

    async def logins(self, count: int, latency: float = 0.0) -> list[Login]:
        """Get what that many users send, each of whom nobody has seen before.

        Args:
            count: how many.
            latency: how long each answer takes from now on, in seconds.
        """
        self.send((count, latency))
        return [Login(*login) for login in await self.receive()]


async def _simulate(pipe: Pipe) -> None:
    users = 0
    gc.set_threshold(*GC_THRESHOLDS)
    async with WeChatSimulator(
        app_id=APP_ID, app_secret=APP_SECRET, calls_a_minute=None
    ) as simulator:
        pipe.send(simulator.url)
        while True:
            count, simulator.latency = await asyncio.to_thread(pipe.recv)
            logins = [_login(simulator, users + number) for number in range(count)]
            users += count
            gc.freeze()  # collecting what it remembers of users is no part of WeChat's latency
            pipe.send(logins)


def _login(simulator: WeChatSimulator, number: int) -> tuple[str, str, str]:
    open_id = f"o{number:027}"  # as long as WeChat's
    code = simulator.login(open_id, f"u{number:027}")
    info = simulator.get_user_info(open_id)
    return code, info.encrypted_data, info.iv
