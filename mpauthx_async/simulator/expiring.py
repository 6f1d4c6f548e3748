"""Codes and tokens that expire."""

import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil
from typing import Generic, TypeVar

from .error_answers import Refused

__all__ = ["Expiring", "OneTimeCodes", "random_text"]

_T = TypeVar("_T")
_BASE62 = (5 * b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")[:256]


class Expiring(Generic[_T]):
    """Values by key, all with the same lifetime.

    Args:
        clock: returns the time in Unix seconds.
        ttl: the lifetime in seconds.
        remembered: seconds for which a value is then known as expired; later it is unknown.
    """

    def __init__(self, clock: Callable[[], float], ttl: float, *, remembered: float = 0) -> None:
        self._clock = clock
        self._ttl = ttl
        self._remembered = remembered
        self._entries: OrderedDict[str, tuple[float, _T]] = (
            OrderedDict()
        )  # the next to expire first

    def put(self, key: str, value: _T) -> None:
        """Save a value for the whole lifetime from now on."""
        now = self._clock()
        self._entries[key] = now + self._ttl, value
        self._entries.move_to_end(key)
        while now >= self._entries[oldest := next(iter(self._entries))][0] + self._remembered:
            del self._entries[oldest]

    def get(self, key: str, *, unknown: int, expired: int) -> _T:
        """Return a valid value; raises Refused with one of the two errcodes if there is no such."""
        ends_at, value = self._entries.get(key, (None, None))
        if ends_at is None or value is None or self._clock() >= ends_at + self._remembered:
            raise Refused(unknown)
        if self._clock() >= ends_at:
            raise Refused(expired)
        return value

    def remaining(self, key: str) -> float:
        """The seconds until a value expires: 0 if it is expired or unknown."""
        return max(0.0, self._entries[key][0] - self._clock()) if key in self._entries else 0.0

    def seconds_left(self, key: str) -> int:
        """The value of `expires_in`: whole seconds, rounded up."""
        return ceil(min(self.remaining(key), self._ttl))

    def __iter__(self) -> Iterator[_T]:
        return (value for _, value in self._entries.values())


@dataclass(slots=True)
class _Code(Generic[_T]):
    app_id: str
    grants: _T
    used: bool = False


class OneTimeCodes(Generic[_T]):
    """Codes of one kind: each belongs to an app and works once within 300 seconds."""

    def __init__(self, clock: Callable[[], float], *, used: int = 40163) -> None:  # an errcode
        self._used = used
        self._codes: Expiring[_Code[_T]] = Expiring(clock, 300)

    def issue(self, app_id: str, grants: _T) -> str:
        """Create a code of 32 letters and digits."""
        code = "0" + random_text(31)
        self._codes.put(code, _Code(app_id, grants))
        return code

    def find(self, code: str | None, app_id: str) -> _Code[_T]:
        """Find a code; raises Refused: 41008 missing, 40029 invalid, or used."""
        if not code:
            raise Refused(41008)
        found = self._codes.get(code, unknown=40029, expired=40029)
        if found.app_id != app_id:
            raise Refused(40029)
        if found.used:
            raise Refused(self._used)
        return found

    def take(self, code: str | None, app_id: str) -> _T:
        """Use a code up; raises as `find`."""
        found = self.find(code, app_id)
        found.used = True
        return found.grants


def random_text(length: int) -> str:
    """Create a text of random letters and digits."""
    return secrets.token_bytes(length).translate(_BASE62).decode()
