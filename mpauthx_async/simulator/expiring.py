"""Things that end: codes and tokens, which are forgotten when nobody can ask for them any more."""

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
    """Things by their key, which all live equally long.

    Args:
        clock: gives the time in Unix seconds.
        ttl: seconds for which a thing lives.
        remembered: seconds after its end in which a thing is known as expired, not as unknown.
    """

    def __init__(self, clock: Callable[[], float], ttl: float, *, remembered: float = 0) -> None:
        self._clock = clock
        self._ttl = ttl
        self._remembered = remembered
        self._entries: OrderedDict[str, tuple[float, _T]] = OrderedDict()  # the next to end first

    def put(self, key: str, thing: _T) -> None:
        """Let a thing live from now on, also when it lived before."""
        now = self._clock()
        self._entries[key] = now + self._ttl, thing
        self._entries.move_to_end(key)
        while now >= self._entries[oldest := next(iter(self._entries))][0] + self._remembered:
            del self._entries[oldest]

    def get(self, key: str, *, unknown: int, expired: int) -> _T:
        """Give what lives; raises Refused with one of the two errcodes when it does not."""
        ends_at, thing = self._entries.get(key, (None, None))
        if ends_at is None or thing is None or self._clock() >= ends_at + self._remembered:
            raise Refused(unknown)
        if self._clock() >= ends_at:
            raise Refused(expired)
        return thing

    def remaining(self, key: str) -> float:
        """Seconds that a thing has to live: 0 when it is expired or unknown."""
        return max(0.0, self._entries[key][0] - self._clock()) if key in self._entries else 0.0

    def seconds_left(self, key: str) -> int:
        """What `expires_in` tells: whole seconds, rounded up, so all of them for a new thing."""
        return ceil(min(self.remaining(key), self._ttl))

    def __iter__(self) -> Iterator[_T]:
        return (thing for _, thing in self._entries.values())


@dataclass(slots=True)
class _Code(Generic[_T]):
    app_id: str
    grants: _T
    used: bool = False


class OneTimeCodes(Generic[_T]):
    """Codes of one kind: each belongs to an app and is for one exchange within 300 seconds.

    Args:
        clock: gives the time in Unix seconds.
        used: the errcode for a code that was used before.
    """

    def __init__(self, clock: Callable[[], float], *, used: int = 40163) -> None:
        self._used = used
        self._codes: Expiring[_Code[_T]] = Expiring(clock, 300)

    def issue(self, app_id: str, grants: _T) -> str:
        """Give a code of 32 letters and digits."""
        code = "0" + random_text(31)
        self._codes.put(code, _Code(app_id, grants))
        return code

    def find(self, code: str | None, app_id: str) -> _Code[_T]:
        """Give what a code stands for; raises Refused: 41008 missing, 40029 invalid, or used."""
        if not code:
            raise Refused(41008)
        found = self._codes.get(code, unknown=40029, expired=40029)
        if found.app_id != app_id:
            raise Refused(40029)
        if found.used:
            raise Refused(self._used)
        return found

    def take(self, code: str | None, app_id: str) -> _T:
        """Use a code up; raises Refused as `find` does."""
        found = self.find(code, app_id)
        found.used = True
        return found.grants


def random_text(length: int) -> str:
    """Give random letters and digits."""
    return secrets.token_bytes(length).translate(_BASE62).decode()
