"""The log of failures that are not the client's: at most a line a second of each kind."""

import logging
import time
from collections.abc import Callable

__all__ = ["OncePerSecond", "failures"]

_INTERVAL = 1.0  # seconds
_MAX_KINDS = 1_000

failures = logging.getLogger(f"{__package__}.failures")
"""The logger of these failures. Each record's `kind` is given in `extra`."""


class OncePerSecond(logging.Filter):
    """Lets one record of each kind through in a second, which tells how many were left out.

    Args:
        clock: returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._last: dict[str, tuple[float, int]] = {}  # when, and how many were left out since

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is logged."""
        now = self._clock()
        kind = str(getattr(record, "kind", record.msg))
        last, left_out = self._last.get(kind, (now - _INTERVAL, 0))
        if now - last < _INTERVAL:
            self._last[kind] = (last, left_out + 1)
            return False
        if len(self._last) >= _MAX_KINDS:
            self._last.clear()
        self._last[kind] = (now, 0)
        if left_out:
            more = f"{record.getMessage()} ({left_out} more like it since the last line)"
            record.msg, record.args = more, None
        return True


failures.addFilter(OncePerSecond())
