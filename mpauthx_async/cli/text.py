"""Text from clients and times, as a terminal shows them."""

import time
from collections.abc import Callable
from datetime import datetime
from unicodedata import east_asian_width

__all__ = ["Times", "columns", "cut", "visible"]

_ELLIPSIS = "..."
_UNITS = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))  # seconds


def visible(text: str, encoding: str = "utf-8") -> str:
    """Escape control characters, bidirectional overrides and what the encoding does not have."""
    escaped = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
    return escaped.encode(encoding, "backslashreplace").decode(encoding)


def columns(text: str) -> int:
    """The columns that visible text takes at most: two for each wide character."""
    return len(text) + sum(east_asian_width(char) in "WF" for char in text)


def cut(text: str, width: int) -> str:
    """Cut visible text to a number of columns."""
    if columns(text) <= width:
        return text
    while columns(text) > width - len(_ELLIPSIS):
        text = text[:-1]
    return text + _ELLIPSIS


class Times:
    """Times in the time zone of this machine. All of them have its present offset from UTC."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        now = datetime.now().astimezone()
        offset = f"{now:%z}"
        self.zone: str = f"UTC{offset[:3]}:{offset[3:5]}"
        self._tzinfo = now.tzinfo
        self._now = clock() * 1000

    def time(self, milliseconds: int) -> str:
        """Such as 2026-11-21 14:03:22."""
        return f"{datetime.fromtimestamp(milliseconds / 1000, self._tzinfo):%Y-%m-%d %H:%M:%S}"

    def distance(self, milliseconds: int) -> str:
        """The time from now, such as `in 6d` or `3m ago`."""
        seconds = round(abs(milliseconds - self._now) / 1000)
        if seconds < 1:
            return "now"
        unit, length = next(pair for pair in _UNITS if seconds >= 2 * pair[1] or pair[1] == 1)
        amount = f"{(seconds + length // 2) // length}{unit}"
        return f"in {amount}" if milliseconds > self._now else f"{amount} ago"

    def moment(self, milliseconds: int) -> str:
        """A time and its distance from now."""
        return f"{self.time(milliseconds)} ({self.distance(milliseconds)})"
