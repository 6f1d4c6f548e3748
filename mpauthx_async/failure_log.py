"""The log of failures that are not the client's: at most a line a second of each kind."""

import logging
import math
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from .errors import InvalidResponseError

__all__ = ["OncePerSecond", "failures", "is_expected", "retrying_on"]

_INTERVAL = 1.0  # seconds
_MAX_KINDS = 1_000
_OTHERS = ""

failures: logging.Logger = logging.getLogger(f"{__package__}.failures")
"""The logger of these failures. Each record's `kind` is given in `extra`."""


class OncePerSecond(logging.Filter):
    """Passes at most one record of each kind per second, with a count of those suppressed since.

    If a thousand kinds have suppressed records, all further kinds are counted as one.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._last: dict[str, tuple[float, int]] = {}  # when, and how many were left out since

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is logged."""
        now = self._clock()
        kind = str(getattr(record, "kind", record.msg))
        if kind not in self._last and len(self._last) >= _MAX_KINDS:
            kind = self._room_for(kind, now)
        last, left_out = self._last.get(kind, (-math.inf, 0))
        if now - last < _INTERVAL:
            self._last[kind] = (last, left_out + 1)
            return False
        self._last[kind] = (now, 0)
        if left_out:
            more = f"{record.getMessage()} ({left_out} more like it since the last line)"
            record.msg, record.args = more, None
        return True

    def _room_for(self, kind: str, now: float) -> str:
        """Drop the kinds without suppressed records; returns the kind to count under."""
        for known, (last, left_out) in list(self._last.items()):
            if not left_out and now - last >= _INTERVAL:
                del self._last[known]
        return kind if len(self._last) < _MAX_KINDS else _OTHERS


failures.addFilter(OncePerSecond())

_expected: ContextVar[Collection[int]] = ContextVar("mpauthx_expected", default=())


@contextmanager
def retrying_on(errcodes: Collection[int]) -> Iterator[None]:
    """Do not log these errcodes of WeChat: the caller handles them by repeating the call."""
    token = _expected.set(errcodes)
    try:
        yield
    finally:
        _expected.reset(token)


def is_expected(errcode: int) -> bool:
    """Whether the caller repeats a call that WeChat refused with this errcode."""
    return errcode in _expected.get()


def invalid_answer(text: str) -> InvalidResponseError:
    """Log that an answer of WeChat's is not what it documents; returns the error to raise."""
    failures.warning("%s", text, extra={"kind": text})
    return InvalidResponseError(text)
