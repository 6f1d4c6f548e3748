"""Clock: the time as tests tell it."""

import asyncio

__all__ = ["Clock"]


class Clock:
    """A clock that stands still until it is told to move.

    Attributes:
        now: what it says, in Unix seconds.
        read: set whenever somebody asks it.
    """

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now
        self.read = asyncio.Event()

    def __call__(self) -> float:
        self.read.set()
        return self.now
