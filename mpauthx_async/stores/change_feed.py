"""ChangeFeed: notifies the services on a store about changes of the sessions that they watch."""

from weakref import WeakSet

from .near_cache import ChangeListener

__all__ = ["ChangeFeed"]


class ChangeFeed:
    """One ChangeListener for all services on a store, each of which waits for some sessions.

    A change costs the same however many services there are.
    """

    def __init__(self) -> None:
        self._of_all: tuple[ChangeListener, ...] = ()  # who hear of every session
        self._listeners: WeakSet[ChangeListener] = WeakSet()  # their services may end first
        self._waiting: dict[str, tuple[ChangeListener, ...]] = {}  # by nonce
        self._time: tuple[float, float] | None = None  # as last told, while it is open

    def subscribe(self, listener: ChangeListener) -> None:
        """Notify a listener when the feed opens or shuts, and when any session may have changed."""
        self._listeners.add(listener)
        if self._time is not None:
            listener.open(*self._time)

    def subscribe_to_all(self, listener: ChangeListener) -> None:
        """Also notify a listener about changes of every session: all near caches are one."""
        self._of_all += (listener,)
        self.subscribe(listener)

    def subscribe_to(self, nonce: str, listener: ChangeListener) -> None:
        """Also notify a listener about changes of one session."""
        self._waiting[nonce] = (*self._waiting.get(nonce, ()), listener)

    def unsubscribe_from(self, nonce: str, listener: ChangeListener) -> None:
        """Stop notifying a listener about one session."""
        others = tuple(one for one in self._waiting.get(nonce, ()) if one is not listener)
        if others:
            self._waiting[nonce] = others
        else:
            self._waiting.pop(nonce, None)

    # The methods of a ChangeListener.

    def open(self, store_time: float, at: float) -> None:
        self._time = (store_time, at)
        for listener in self._listeners:
            listener.open(store_time, at)

    def synchronize(self, store_time: float, at: float) -> None:
        self._time = (store_time, at)
        for listener in self._listeners:
            listener.synchronize(store_time, at)

    def forget(self, nonce: str) -> None:
        for listener in self._of_all + self._waiting.get(nonce, ()):
            listener.forget(nonce)

    def forget_all(self) -> None:
        for listener in self._listeners:
            listener.forget_all()

    def shut(self) -> None:
        self._time = None
        for listener in self._listeners:
            listener.shut()
