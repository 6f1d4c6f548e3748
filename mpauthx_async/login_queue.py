"""LoginQueue: the logins that wait to begin, in order, each until its deadline."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["LoginQueue"]

Login = TypeVar("Login")

_MAX_EXPIRED = 64  # in one tick of the event loop


class LoginQueue(Generic[Login]):
    """Keeps logins in order. Each waits at most `timeout`; one timer serves all of them.

    Args:
        max_waiting: how many may wait.
        timeout: how long each may wait, in seconds.
        expired: is told of each login that has waited too long and was removed.
    """

    def __init__(
        self, *, max_waiting: int, timeout: float, expired: Callable[[Login], None]
    ) -> None:
        self._max_waiting = max_waiting
        self._timeout = timeout
        self._expired = expired
        self._deadlines: OrderedDict[Login, float] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._deadlines)

    @property
    def is_full(self) -> bool:
        """Whether `max_waiting` logins wait."""
        return len(self._deadlines) >= self._max_waiting

    def add(self, login: Login) -> None:
        """Let a login wait, behind all others."""
        self._deadlines[login] = asyncio.get_running_loop().time() + self._timeout
        if self._timer is None:
            self._set_timer()

    def pop(self) -> Login:
        """Remove and return the login that has waited longest; KeyError if there is none."""
        return self._deadlines.popitem(last=False)[0]

    def discard(self, login: Login) -> bool:
        """Remove a login; returns whether it was waiting."""
        return self._deadlines.pop(login, None) is not None

    def _set_timer(self) -> None:
        """Wait for the first deadline. The timer outlasts its login, if that begins in time."""
        deadline = next(iter(self._deadlines.values()))
        self._timer = asyncio.get_running_loop().call_at(deadline, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for _ in range(_MAX_EXPIRED):
            if not self._deadlines or next(iter(self._deadlines.values())) > now:
                break
            self._expired(self.pop())
        if self._deadlines:
            self._set_timer()
