"""LoginQueue: the logins that wait to begin, in order, each until its deadline."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..connections import Connections
from .pending_logins import Login

__all__ = ["LoginQueue"]

_MAX_BEGUN = 4  # logins in one tick of the event loop: to begin one takes aiohttp 0.1 ms
_MAX_EXPIRED = 64  # logins in one tick: 9,000 that expire in one hold it up for 0.2 s


class LoginQueue:
    """Begins logins in order, as the limit of `connections` and the event loop allow.

    Each waits at most `timeout` seconds; one timer serves all of them. `begin` and `expire` get
    a login that was removed from the queue.
    """

    def __init__(
        self,
        connections: Connections,
        *,
        max_waiting: int,
        timeout: float,
        begin: Callable[[Login], None],
        expire: Callable[[Login], None],
    ) -> None:
        self._connections = connections
        self._max_waiting = max_waiting
        self._timeout = timeout
        self._begin = begin
        self._expire = expire
        self._deadlines: OrderedDict[Login, float] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        self._begun_in_tick = 0
        self._is_paused = False

    def __len__(self) -> int:
        return len(self._deadlines)

    def add(self, login: Login) -> bool:
        """Let a login wait behind all others; False if `max_waiting` logins wait already."""
        if len(self._deadlines) >= self._max_waiting:
            return False
        self._deadlines[login] = asyncio.get_running_loop().time() + self._timeout
        if self._timer is None:
            self._set_timer()
        self._begin_some()
        return True

    def drain(self) -> list[Login]:
        """Remove and return all logins."""
        logins = list(self._deadlines)
        self._deadlines.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return logins

    def discard(self, login: Login) -> bool:
        """Remove a login; returns whether it was waiting."""
        return self._deadlines.pop(login, None) is not None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Begin no login until left."""
        self._is_paused = True
        try:
            yield
        finally:
            self._is_paused = False
            self._begin_some()

    def release(self) -> None:
        """Give back the place of a login that is finished."""
        self._connections.login_limit.release(self._begin_some)

    def _begin_some(self) -> None:
        """Begin what may begin, but not so much in one tick that it gets long."""
        while (
            self._deadlines
            and self._begun_in_tick < _MAX_BEGUN
            and not self._is_paused
            and self._connections.login_limit.acquire(self._begin_some)
        ):
            if not self._begun_in_tick:
                asyncio.get_running_loop().call_soon(self._next_tick)
            self._begun_in_tick += 1
            self._begin(self._deadlines.popitem(last=False)[0])

    def _next_tick(self) -> None:
        self._begun_in_tick = 0
        self._begin_some()

    def _set_timer(self) -> None:
        """Wait for the first deadline. The timer stays if its login begins before."""
        deadline = next(iter(self._deadlines.values()))
        self._timer = asyncio.get_running_loop().call_at(deadline, self._expire_some)

    def _expire_some(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for _ in range(_MAX_EXPIRED):
            if not self._deadlines or next(iter(self._deadlines.values())) > now:
                break
            self._expire(self._deadlines.popitem(last=False)[0])
        if self._deadlines:
            self._set_timer()
