"""NearCache: good tokens that this process knows, until they end or their session changes."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from ..concurrency.forks import watch
from ..tokens.format import nonce_of

__all__ = ["LONGEST_SILENCE", "ChangeListener", "NearCache", "NearCaching"]

LONGEST_SILENCE = 1.5  # seconds for which a cache is trusted after its store was last heard of


class ChangeListener(Protocol):
    """What is told of the changes of sessions in a store.

    Times of the store are Unix seconds by its clock; `at` is when it was asked for that, by
    `time.monotonic()`.
    """

    def open(self, store_time: float, at: float) -> None:
        """No change is missed from now on."""

    def synchronize(self, store_time: float, at: float) -> None:
        """No change was missed until then."""

    def forget(self, nonce: str) -> None:
        """The session of this nonce has changed."""

    def forget_all(self) -> None:
        """Any session may have changed."""

    def shut(self) -> None:
        """Changes may be missed from now on."""


@runtime_checkable
class NearCaching(Protocol):
    """What a TokenStore does beside, if it can keep near caches current."""

    def open_near_cache(self) -> "NearCache | None":
        """A near cache for one service; None when this store is to have none."""


class NearCache:
    """Remembers good tokens, so that the store need not be asked about them again.

    It is of use only while it hears of every change in the store. Whoever tells it calls `open`
    when no change can be missed from now on, `forget` or `forget_all` for what has changed, and
    `shut` when changes may be missed: until it is opened again it is empty, and keeps nothing.

    Nor is it of use when nobody has called `synchronize` for LONGEST_SILENCE, though its process
    be so busy, or stopped, that nobody came to call `shut` either.

    An answer that was on its way when its session changed is not kept: `expect` is called before
    the store is asked, and `keep` with the answer.

    Args:
        size: how many tokens to remember; the least recently used leave first.
        clock: tells the time in seconds since whenever; it must not be set back.
    """

    def __init__(self, size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._size = size
        # When tokens end by the store's clock, in seconds; the least used first.
        self._ends: OrderedDict[str, float] = OrderedDict()
        self._tokens: dict[str, str] = {}  # of sessions, by nonce
        self._expected: dict[str, object] = {}  # what `expect` gave, by nonce
        self._is_open = False
        self._ahead = 0.0  # how far the store's clock is ahead of ours, in seconds
        self._trusted_until = 0.0  # by our clock

    def __len__(self) -> int:
        return len(self._ends)

    def knows(self, token: Any) -> bool:
        """Tell whether a token, whatever it is, is known to be good. The hottest path of all."""
        try:
            end, now = self._ends[token], self.clock()
            if end > now + self._ahead and now < self._trusted_until:
                self._ends.move_to_end(token)
                return True
        except (KeyError, TypeError):  # not known; or of a type that no token has
            pass
        return False

    def expect(self, nonce: str) -> object:
        """Say that the store is asked about a session; returns what `keep` wants to have."""
        return self._expected.setdefault(nonce, object()) if self._is_open else None

    def keep(self, expected: object, nonce: str, token: str, end: int | None) -> None:
        """Remember the token that the store was asked about.

        Args:
            expected: what `expect` gave. If the session has changed since, nothing is kept.
            nonce: the session's.
            token: its token.
            end: when that ends, in Unix milliseconds by the store's clock; None or not above zero
                when it is not good, or there was no answer.
        """
        if expected is None or self._expected.get(nonce) is not expected:
            return
        self.forget(nonce)  # what was expected, and an earlier token
        if end is None or end <= 0:
            return
        self._ends[token] = end / 1000
        self._tokens[nonce] = token
        if len(self._ends) > self._size:
            least_used, _ = self._ends.popitem(last=False)
            del self._tokens[nonce_of(least_used)]

    def open(self, store_time: float, at: float) -> None:
        """Keep what is asked about from now on. For the arguments see `synchronize`."""
        self.shut()
        watch(self)
        self._is_open = True
        self.synchronize(store_time, at)

    def synchronize(self, store_time: float, at: float) -> None:
        """Learn how far the store's clock is ahead, and that no change was missed till then.

        Args:
            store_time: what it said, in Unix seconds.
            at: when it was asked, by the clock of this cache: so tokens end early, if anything.
        """
        self._ahead = store_time - at
        self._trusted_until = at + LONGEST_SILENCE

    def forget(self, nonce: str) -> None:
        """The session of this nonce has changed."""
        self._expected.pop(nonce, None)
        token = self._tokens.pop(nonce, None)
        if token is not None:
            del self._ends[token]

    def forget_all(self) -> None:
        """Any session may have changed."""
        self._expected.clear()
        self._tokens.clear()
        self._ends.clear()

    def shut(self) -> None:
        """Changes may be missed from now on."""
        self._is_open = False
        self.forget_all()

    def leave_to_parent(self) -> None:
        """In a forked child process nobody hears of changes."""
        self.shut()
