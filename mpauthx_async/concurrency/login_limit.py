"""LoginLimit: how many logins are in progress at once, by what the event loop can bear."""

import asyncio
import time
from collections.abc import Callable

__all__ = ["LoginLimit"]

_FLOOR = 256  # logins: enough to keep the event loop busy when WeChat answers at once
_OWN = 8  # logins that each service may have in progress, however many others have
_HIGH_LOAD = 0.6
_LONG_WAIT = 2.5  # seconds for an answer: a quarter of what WeChat is given
_REMEMBER = 0.96  # of the answers before, in each sample
_FALL = 1 / 256  # of the limit, in each sample in which logins are refused
_FALL_UNUSED = 1 / 16  # otherwise


class LoginLimit:
    """Limits the logins in progress, over all services that share it.

    The limit starts at 256 and follows the load of the event loop. While logins are refused, the
    load is sampled every 20 ms: the CPU time of the loop's thread, plus the delay of the sample
    itself, which other threads and processes cause. Below 60 % the limit doubles, up to the
    maximum, unless answers come so slowly that those in flight take longer than 2.5 seconds, or
    most logins in progress wait for something other than WeChat.
    Otherwise it falls slowly back to 256. So the number of logins in progress grows with WeChat's
    latency, but not while the loop is busy, or WeChat overloaded.

    A service may have 8 logins in progress even beyond the limit. So it goes on while the address
    of WeChat that another service uses does not answer.

    It belongs to the event loop that first acquires.

    Args:
        max_exchanges: how many codes may be exchanged at once, but for those 8 of each service:
            each takes a connection.
        sample: how long a sample takes, in seconds.
        clock: returns the time in seconds.
        cpu_time: returns the CPU time of the calling thread in seconds.
    """

    def __init__(
        self,
        max_exchanges: int,
        *,
        sample: float = 0.02,
        clock: Callable[[], float] = time.monotonic,
        cpu_time: Callable[[], float] = time.thread_time,
    ) -> None:
        self._max_exchanges = max_exchanges
        self._sample = sample
        self._clock = clock
        self._cpu_time = cpu_time
        self._limit = float(_FLOOR)
        self.exchanges: int = 0  # codes that are being exchanged
        self._logins = 0
        self._own: dict[Callable[[], None], int] = {}  # logins of each service, by its `retry`
        self._refused: dict[Callable[[], None], None] = {}
        self._has_refused = False  # in this sample
        self._timer: asyncio.TimerHandle | None = None
        self._sampled_at = self._cpu_at = 0.0
        self._answers = 0.0  # remembered ones
        self._seconds = 0.0  # in which they came

    def acquire(self, retry: Callable[[], None]) -> bool:
        """Try to admit a login, whose owner then calls `exchanged` and `release`.

        If this returns False, `retry`, which is the same for all logins of a service, is called
        once when a login may begin.
        """
        if self._has_room_for(retry):
            self.exchanges += 1
            self._logins += 1
            self._own[retry] = self._own.get(retry, 0) + 1
            return True
        self._refused[retry] = None
        self._has_refused = True
        if self._timer is None:
            self._answers = self._seconds = 0.0
            self._start_sample()
        return False

    def exchanged(self) -> None:
        """Give back the connection of a login, whose code is exchanged."""
        self.exchanges -= 1
        self._answers += 1
        self._retry_refused()

    def release(self, retry: Callable[[], None]) -> None:
        """Give back the place of a login that is finished."""
        self._logins -= 1
        own = self._own.pop(retry) - 1
        if own:
            self._own[retry] = own
        self._retry_refused()
        if retry in self._refused and self._has_room_for(retry):
            del self._refused[retry]
            retry()

    @property
    def _has_room(self) -> bool:
        return self._logins < self._limit and self.exchanges < self._max_exchanges

    def _has_room_for(self, retry: Callable[[], None]) -> bool:
        return self._has_room or self._own.get(retry, 0) < min(_OWN, self._max_exchanges)

    def _retry_refused(self) -> None:
        """Let those who were refused begin logins, in the order of their refusals."""
        while self._refused and self._has_room:
            retry = next(iter(self._refused))
            del self._refused[retry]
            retry()

    def _start_sample(self) -> None:
        self._has_refused = bool(self._refused)
        self._sampled_at, self._cpu_at = self._clock(), self._cpu_time()
        self._timer = asyncio.get_running_loop().call_later(self._sample, self._end_sample)

    def _end_sample(self) -> None:
        elapsed = self._clock() - self._sampled_at
        self._seconds += elapsed
        if not self._has_refused:
            self._limit = max(self._limit * (1 - _FALL_UNUSED), self._logins, _FLOOR)
        elif self._load(elapsed) >= _HIGH_LOAD or self._is_slow or not self._waits_for_wechat:
            self._limit = max(self._limit * (1 - _FALL), _FLOOR)
        else:
            self._limit = min(self._limit * 2, _FLOOR + self._max_exchanges)
        self._answers *= _REMEMBER
        self._seconds *= _REMEMBER
        self._timer = None
        if self._has_refused or self._limit > _FLOOR:
            self._start_sample()
        self._retry_refused()

    def _load(self, elapsed: float) -> float:
        late = max(0.0, elapsed - self._sample)
        return (self._cpu_time() - self._cpu_at + late) / elapsed

    @property
    def _waits_for_wechat(self) -> bool:
        """Whether most logins in progress are at WeChat; else more of them would wait elsewhere."""
        return self.exchanges * 2 >= self._logins

    @property
    def _is_slow(self) -> bool:
        """Whether, at the current rate, the exchanges in flight would take over 2.5 seconds."""
        return 0 < self._answers * _LONG_WAIT < self.exchanges * self._seconds
