"""SingleFlight: work that callers share while it is under way."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from .coalescer import settle
from .deadlines import one_call, without_call

__all__ = ["SingleFlight"]

logger: logging.Logger = logging.getLogger(__name__)

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


class SingleFlight(Generic[Key, Result]):
    """Does a piece of work once for all concurrent callers.

    The work continues if its callers are cancelled; if it fails when no caller is left, the
    failure is logged.
    """

    def __init__(self) -> None:
        self._callers: dict[Key, list[asyncio.Future[Result]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def join(self, key: Key, work: Callable[[], Awaitable[Result]]) -> Result:
        """Join the work that is under way under this key, or begin it."""
        caller: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        callers = self._callers.setdefault(key, [])
        callers.append(caller)
        if len(callers) == 1:
            task = asyncio.create_task(self._do(key, work))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await caller

    async def close(self) -> None:
        """Return when all that was begun is done."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def cut_off(self) -> None:
        """Cancel all that was begun, and its callers."""
        for task in self._tasks:
            task.cancel()

    async def _do(self, key: Key, work: Callable[[], Awaitable[Result]]) -> None:
        without_call()
        try:
            with one_call():
                result = await work()
        except BaseException as error:
            anybody = settle(self._callers.pop(key), error)
            if not isinstance(error, Exception):
                raise  # this task was cancelled, or the process is told to end
            if not anybody:
                logger.warning("A call failed after its callers had left: %s", error)
        else:
            settle(self._callers.pop(key), result)
