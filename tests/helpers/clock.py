"""Clock: the time as tests tell it."""

import asyncio


class Clock:
    """A clock that stands still until it is told to move.

    Attributes:
        now: what it says, in Unix seconds.
        milliseconds: the same in whole Unix milliseconds.
        read: set whenever somebody asks it.
    """

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now
        self.read = asyncio.Event()

    def __call__(self) -> float:
        self.read.set()
        return self.now

    @property
    def milliseconds(self) -> int:
        return int(self.now * 1000)

    @milliseconds.setter
    def milliseconds(self, milliseconds: int) -> None:
        # Half a millisecond more, lest a division by 1000 and back loses one.
        self.now = (milliseconds + 0.5) / 1000
