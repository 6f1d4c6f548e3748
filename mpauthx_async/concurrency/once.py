"""Once: work that is done before the first call, for all calls."""

import asyncio
from collections.abc import Awaitable, Callable

__all__ = ["Once"]


class Once:
    """Does a piece of work until it has succeeded once; whoever needs it meanwhile waits for it.

    Args:
        work: is called again for the next caller if it failed, or its caller was cancelled.
    """

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self._work = work
        self._turn = asyncio.Lock()
        self._is_done = False

    async def done(self) -> None:
        """Return when the work is done; raises what it raises."""
        if self._is_done:
            return
        async with self._turn:
            if not self._is_done:
                await self._work()
                self._is_done = True
