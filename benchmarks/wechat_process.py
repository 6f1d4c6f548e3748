"""WeChatProcess: the simulator in a process of its own, so that it takes none of ours."""

import asyncio
import multiprocessing
import signal
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection
from types import TracebackType
from typing import NamedTuple, Self

from mpauthx_async import WeChatSimulator

from .sessions import APP_ID, APP_SECRET

__all__ = ["Login", "WeChatProcess"]

_END_TIMEOUT = 5  # seconds


class Login(NamedTuple):
    """What a mini-program sends for one login."""

    code: str
    encrypted_data: str
    iv: str


class WeChatProcess:
    """A WeChatSimulator without a limit of calls; it ends with this process at the latest.

    Args:
        uvloop: whether its event loop is uvloop's.
    """

    def __init__(self, *, uvloop: bool = False) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, self._far_end = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(self._far_end, uvloop), daemon=True, name="WeChatSimulator"
        )
        self.url = ""

    async def logins(self, count: int) -> list[Login]:
        """Get what that many users send, each of whom nobody has seen before."""
        self._pipe.send(count)
        answer: list[tuple[str, str, str]] = await asyncio.to_thread(self._pipe.recv)
        return [Login(*login) for login in answer]

    def __enter__(self) -> Self:
        try:
            self._process.start()
            self._far_end.close()  # so that a pipe whose child has died has an end
            self.url = self._pipe.recv()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._far_end.close()
        self._pipe.close()
        if self._process.pid is not None:
            self._process.join(_END_TIMEOUT)
            self._process.kill()
            self._process.join()
        self._process.close()


def _serve(pipe: "Connection[object, object]", uvloop: bool) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which closes the pipe
    loop_factory = import_module("uvloop").new_event_loop if uvloop else None
    with asyncio.Runner(loop_factory=loop_factory) as runner, suppress(EOFError, OSError):
        runner.run(_simulate(pipe))


async def _simulate(pipe: "Connection[object, object]") -> None:
    users = 0
    async with WeChatSimulator(
        app_id=APP_ID, app_secret=APP_SECRET, calls_a_minute=None
    ) as simulator:
        pipe.send(simulator.url)
        while True:
            count = await asyncio.to_thread(pipe.recv)
            assert isinstance(count, int)
            pipe.send([_login(simulator, users + number) for number in range(count)])
            users += count


def _login(simulator: WeChatSimulator, number: int) -> tuple[str, str, str]:
    open_id = f"o{number:027}"  # as long as WeChat's
    code = simulator.login(open_id, f"u{number:027}")
    info = simulator.get_user_info(open_id)
    return code, info.encrypted_data, info.iv
