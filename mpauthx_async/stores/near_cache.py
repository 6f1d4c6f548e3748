"""NearCache: valid tokens that this process remembers until their sessions change or end."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from ..concurrency.forks import watch
from ..tokens.format import nonce_of

__all__ = ["MAX_SILENCE_SECONDS", "ChangeListener", "NearCache", "NearCaching"]

MAX_SILENCE_SECONDS = 1.5  # for which a cache is trusted after its store was last heard of


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
    """What a TokenStore also does if it can keep near caches current."""

    def open_near_cache(self) -> "NearCache | None":
        """Open a near cache for one service; None if this store is configured without."""


class NearCache:
    """Remembers valid tokens, so that the store need not be asked about them again.

    The store reports every change: it calls `open` when no change can be missed from now on,
    `forget` or `forget_all` for what has changed, and `shut` when changes may be missed. A shut
    cache is empty and keeps nothing. A cache for which `synchronize` was not called for
    MAX_SILENCE_SECONDS knows nothing, in case the process was too busy to call `shut`.

    An answer that was on its way when its session changed is not kept: `expect` is called before
    the store is asked, and `keep` with the answer.

    Args:
        size: how many tokens to remember; the least recently used are dropped first.
        clock: returns the time in seconds from any start; it must not be set back.
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
        """Tell whether a token, of any type, is known to be valid. The hottest path."""
        try:
            end, now = self._ends[token], self.clock()
            if end > now + self._ahead and now < self._trusted_until:
                self._ends.move_to_end(token)
                return True
        except (KeyError, TypeError):  # unknown, or not hashable
            pass
        return False

    def expect(self, nonce: str) -> object:
        """Announce that the store is asked about a session; returns an argument for `keep`."""
        return self._expected.setdefault(nonce, object()) if self._is_open else None

    def keep(self, expected: object, nonce: str, token: str, end: int | None) -> None:
        """Remember the token that the store was asked about.

        Args:
            expected: what `expect` returned. If the session has changed since, nothing is kept.
            nonce: the session's.
            token: its token.
            end: when that ends, in Unix milliseconds by the store's clock; None or not above zero
                if it is not valid, or there was no answer.
        """
        if expected is None or self._expected.get(nonce) is not expected:
            return
        self.forget(nonce)  # the expectation, and an earlier token
        if end is None or end <= 0:
            return
        self._ends[token] = end / 1000
        self._tokens[nonce] = token
        if len(self._ends) > self._size:
            least_used, _ = self._ends.popitem(last=False)
            del self._tokens[nonce_of(least_used)]

    def open(self, store_time: float, at: float) -> None:
        """Keep answers from now on; the arguments are those of `synchronize`."""
        self.shut()
        watch(self)
        self._is_open = True
        self.synchronize(store_time, at)

    def synchronize(self, store_time: float, at: float) -> None:
        """Learn how far the store's clock is ahead, and that no change was missed until then.

        Args:
            store_time: the store's time, in Unix seconds.
            at: when it was asked, by the clock of this cache, so that tokens never end late.
        """
        self._ahead = store_time - at
        self._trusted_until = at + MAX_SILENCE_SECONDS

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
        """A forked child process does not hear of changes."""
        self.shut()
