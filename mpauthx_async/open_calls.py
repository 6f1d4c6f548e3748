"""OpenCalls: the calls in progress on something that can be closed."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import ClosedError

__all__ = ["OpenCalls"]


class OpenCalls:
    """Counts the calls in progress, so that closing can wait for them.

    Attributes:
        is_closed: whether no more calls are taken.

    Args:
        what: is closed, as its error says it.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.is_closed = False

    def check_open(self) -> None:
        """Raise ClosedError after `close()`."""
        if self.is_closed:
            raise ClosedError(f"{self._what} is closed. Create a new one to go on.")

    @contextmanager
    def one(self) -> Iterator[None]:
        """One call, for the end of which `close()` waits; ClosedError after it."""
        self.check_open()
        self._count += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._count -= 1
            if not self._count:
                self._idle.set()

    def refuse_more(self) -> None:
        """Take no more calls."""
        self.is_closed = True

    async def close(self) -> None:
        """Take no more calls, and return when those in progress are done."""
        self.refuse_more()
        await self._idle.wait()
