"""Near caches: valid tokens that this process remembers until their sessions change or end."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable
from weakref import WeakSet

from ..concurrency.forks import watch
from ..models import Identity
from ..tokens.format import nonce_of

__all__ = ["MAX_SILENCE_SECONDS", "ChangeListener", "NearCache", "NearCaching", "SharedNearCache"]

MAX_SILENCE_SECONDS = 1.5  # for which a cache is trusted after its store was last heard of


class ChangeListener(Protocol):
    """Receives notifications about changes of sessions in a store.

    Times of the store are Unix seconds by its clock; `at` is when it was asked for that, by
    `time.monotonic()`.
    """

    def open(self, store_time: float, at: float) -> None:
        """No change is missed from now on."""

    def synchronize(self, store_time: float, at: float) -> None:
        """No change was missed until then."""

    def forget(self, nonce: str) -> None:
        """The session of this nonce has changed; it may be one that nobody knows."""

    def forget_all(self) -> None:
        """Any session may have changed."""

    def shut(self) -> None:
        """Changes may be missed from now on."""


@runtime_checkable
class NearCaching(Protocol):
    """Optional for a TokenStore that can keep near caches current."""

    def open_near_cache(self) -> "NearCache | None":
        """Open a near cache for one service; None if this store is configured without."""


class SharedNearCache:
    """The near caches of all services on a store: how much they hold, and what they are told.

    The store reports every change: it calls `open` when no change can be missed from now on,
    `forget` or `forget_all` for what has changed, and `shut` when changes may be missed. Shut
    caches are empty and keep nothing. Caches for which `synchronize` was not called for
    MAX_SILENCE_SECONDS know nothing, in case the process was too busy to call `shut`.

    A change costs the same however many services there are. A token that one service knows is
    unknown to all others until they have asked the store themselves.

    Args:
        size: how many tokens to remember; the least recently used are dropped first.
        clock: a monotonic clock, in seconds.

    Attributes:
        is_open: whether changes are reported.
        ahead: how far the store's clock is ahead of ours, in seconds.
        trusted_until: by our clock.
    """

    def __init__(self, size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock: Callable[[], float] = clock
        self.is_open: bool = False
        self.ahead: float = 0.0
        self.trusted_until: float = 0.0
        self._size = size
        # The caches that know a token; the least used token first.
        self._owners: OrderedDict[str, tuple[NearCache, ...]] = OrderedDict()
        self._tokens: dict[str, str] = {}  # of sessions, by nonce
        self._expected: dict[str, object] = {}  # what `expect` gave, by nonce
        self._caches: WeakSet[NearCache] = WeakSet()  # their services may end first

    def __len__(self) -> int:
        return len(self._owners)

    def for_service(self) -> "NearCache":
        """A near cache for one more service."""
        cache = NearCache(self)
        self._caches.add(cache)
        return cache

    def open(self, store_time: float, at: float) -> None:
        """Keep answers from now on; the arguments are those of `synchronize`."""
        self.shut()
        watch(self)
        self.is_open = True
        self.synchronize(store_time, at)

    def synchronize(self, store_time: float, at: float) -> None:
        """Learn how far the store's clock is ahead, and that no change was missed until then."""
        self.ahead = store_time - at
        self.trusted_until = at + MAX_SILENCE_SECONDS

    def forget(self, nonce: str) -> None:
        self._expected.pop(nonce, None)
        token = self._tokens.pop(nonce, None)
        if token is not None:
            for cache in self._owners.pop(token):
                cache.kept.pop(token, None)

    def forget_all(self) -> None:
        self._expected.clear()
        self._tokens.clear()
        self._owners.clear()
        for cache in self._caches:
            cache.kept.clear()

    def shut(self) -> None:
        self.is_open = False
        self.forget_all()

    def leave_to_parent(self) -> None:
        """A forked child process does not hear of changes."""
        self.shut()


class NearCache:
    """Remembers valid tokens of one service, so that the store need not be asked about them again.

    An answer that was on its way when its session changed is not kept: `expect` is called before
    the store is asked, and `keep` with the answer.

    Attributes:
        shared: what the services on the store share.
        kept: for each token, when it ends by the store's clock, in seconds, and whose it is.
            `shared` empties it.
    """

    def __init__(self, shared: SharedNearCache) -> None:
        self.shared: SharedNearCache = shared
        self.kept: dict[str, tuple[float, Identity]] = {}
        self._alone = (self,)  # the owners of a token that no other service knows
        self._clock = shared.clock
        self._move_to_end = shared._owners.move_to_end

    def __len__(self) -> int:
        return len(self.kept)

    @property
    def is_on(self) -> bool:
        """Whether it is told of every change, so that it may be used."""
        return self.shared.is_open and self._clock() < self.shared.trusted_until

    def known(self, token: Any) -> Identity | None:
        """The Identity of a token in the cache; None for any other. The hottest path."""
        try:
            (end, identity), now, shared = self.kept[token], self._clock(), self.shared
            if end > now + shared.ahead and now < shared.trusted_until:
                self._move_to_end(token)
                return identity
        except (KeyError, TypeError):  # unknown, or not hashable
            pass
        return None

    def expect(self, nonce: str) -> object:
        """Announce that the store is asked about a session; returns an argument for `keep`."""
        shared = self.shared
        return shared._expected.setdefault(nonce, object()) if shared.is_open else None

    def keep(self, expected: object, identity: Identity, end: int | None) -> None:
        """Remember the token that the store was asked about.

        Args:
            expected: what `expect` returned. If the session has changed since, nothing is kept.
            identity: the token, and whose it is.
            end: when that ends, in Unix milliseconds by the store's clock; None or not above zero
                if it is not valid, or there was no answer.
        """
        shared, nonce, token = self.shared, identity.session_id, identity.token
        if expected is None or shared._expected.get(nonce) is not expected:
            return
        if end is None or end <= 0 or shared._tokens.get(nonce) != token:
            shared.forget(nonce)  # the expectation, and an earlier token
        if end is None or end <= 0:
            return
        shared._expected.pop(nonce, None)
        others = shared._owners.get(token)
        if others is None:
            shared._owners[token] = self._alone
            shared._tokens[nonce] = token
        else:
            if self not in others:
                shared._owners[token] = (*others, self)
            self._move_to_end(token)
        self.kept[token] = (end / 1000, identity)
        if len(shared._owners) > shared._size:
            shared.forget(nonce_of(next(iter(shared._owners))))

    def close(self) -> None:
        """Forget all tokens, because the service is closed; `shared` drops them as unused ones."""
        self.kept = {}
