"""UntilRevoked: a block, such as a websocket handler, that ends when its token's session ends."""

import asyncio
import heapq
import time
from contextvars import Context
from functools import partial
from itertools import count
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

from ..concurrency.in_flight import InFlight, closed
from ..concurrency.traceback_frames import clears_frames
from ..constants import TokenStatus
from ..errors import ClosedError, MPAuthXError
from ..models import Identity, SessionRef
from ..shared_parts import Parts
from ..stores.change_feed import ChangeFeed
from ..stores.near_cache import ChangeListener
from .token_validation import TokenValidator, invalid_token

__all__ = ["PushesChanges", "SessionWatch", "UntilRevoked"]

_POLL_INTERVAL = 1.0  # seconds between two lookups of a session while no changes are pushed
_MIN_INTERVAL = 0.1  # seconds between two lookups of a session that is about to end
_CANCEL_INTERVAL = 1.0  # seconds between two cancellations of a block that goes on
_MAX_LOOKUPS = 500  # sessions that are looked up in one iteration of the event loop
_MAX_CLOCK_STEP = 0.5  # seconds that the store's clock may move before sessions are looked up


@runtime_checkable
class PushesChanges(Protocol):
    """Optional for a TokenStore that can push changes of sessions to a listener."""

    def push_changes_to(self, listener: ChangeListener) -> ChangeFeed | None:
        """Push changes to a listener, which names the sessions to the feed; None if it cannot."""


class UntilRevoked:
    """An async context manager whose block is cancelled when the session of a token ends.

    A block that swallows its cancellation is cancelled again: on Python 3.11 `asyncio.wait_for` and
    redis-py sometimes do, and the block would outlive the session.
    """

    def __init__(
        self, watch: "SessionWatch", calls: InFlight, validator: TokenValidator, token: object
    ) -> None:
        self._watch = watch
        self._calls = calls
        self._validator = validator
        self._token = token
        self._task: asyncio.Task[Any] | None = None
        self._cancelling = 0  # how often the task had been cancelled before
        self._cancelled = 0  # how often it was cancelled here
        self._next: asyncio.TimerHandle | None = None  # cancels it again
        self._error: MPAuthXError | None = None
        self._ref: SessionRef | None = None

    @clears_frames
    async def __aenter__(self) -> Identity:
        if self._task is not None:
            raise RuntimeError("until_revoked(...) can be entered once.")
        self._task = asyncio.current_task()
        if self._task is None:
            raise RuntimeError("until_revoked(...) must be entered in a task.")
        with self._calls.one():
            ref = await self._validator.session_of(self._token)
        self._cancelling = self._task.cancelling()
        self._watch.add(self, ref)
        self._ref, token, self._token = ref, str(self._token), None
        return Identity(ref.user_id, ref.nonce, ref.sku, token)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._ref is not None:
            self._watch.discard(self, self._ref)
        if self._error is None or self._task is None:
            return
        if self._next is not None:
            self._next.cancel()
        for _ in range(self._cancelled):
            self._task.uncancel()
        is_ours = self._task.cancelling() <= self._cancelling
        if is_ours and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise self._error from error

    def end(self, reason: TokenStatus | MPAuthXError) -> None:
        """Cancel the block, which then raises the reason."""
        if self._error is None:
            self._error = invalid_token(reason) if isinstance(reason, TokenStatus) else reason
            self._cancel()

    def _cancel(self) -> None:
        if self._task is None or self._task.done():
            return
        self._cancelled += 1
        self._task.cancel()
        # In a context of its own: it is part of no caller's call.
        self._next = self._task.get_loop().call_later(
            _CANCEL_INTERVAL, self._cancel, context=Context()
        )


class _Watched:
    """A session that blocks wait for."""

    def __init__(self, ref: SessionRef) -> None:
        self.ref = ref
        self.blocks: set[UntilRevoked] = set()
        self.ask_at = 0.0  # when to look it up next
        self.is_asked = False  # whether it is being looked up
        self.has_changed = False  # while it was being looked up


class SessionWatch:
    """Looks sessions up for the blocks that wait for their end.

    While the store pushes changes, a session is looked up when it has changed and when it should
    have expired. While it does not, every session is looked up once a second. A store that cannot
    answer ends no block: the lookup is repeated.
    """

    def __init__(self, parts: Parts) -> None:
        self._lookups = parts.batched(parts.tokens.lookup)
        self._store = parts.tokens
        self._sessions: dict[str, _Watched] = {}  # by nonce
        self._schedule: list[tuple[float, int, _Watched]] = []  # a heap; outdated ones are skipped
        self._numbers = count()  # so that the heap never compares sessions
        self._timer: asyncio.TimerHandle | None = None
        self._ahead: float | None = None  # of the store's clock, in seconds, while it pushes
        self._has_subscribed = False
        self._feed: ChangeFeed | None = None  # of a store that pushes changes
        parts.calls.on_close(self.close)

    def add(self, block: UntilRevoked, ref: SessionRef) -> None:
        """Cancel a block when a session ends."""
        if not self._has_subscribed:
            self._has_subscribed = True
            if isinstance(self._store, PushesChanges):
                self._feed = self._store.push_changes_to(self)
        watched = self._sessions.get(ref.nonce)
        if watched is None:
            watched = self._sessions[ref.nonce] = _Watched(ref)
            if self._feed is not None:
                self._feed.subscribe_to(ref.nonce, self)
            # At once: the session may have changed after the token was checked.
            self._ask_at(watched, time.monotonic())
        watched.blocks.add(block)

    def discard(self, block: UntilRevoked, ref: SessionRef) -> None:
        """Forget a block."""
        watched = self._sessions.get(ref.nonce)
        if watched is not None:
            watched.blocks.discard(block)
            if not watched.blocks:
                self._remove(watched)
        if not self._sessions:
            self._schedule.clear()
            self._set_timer()

    async def close(self) -> None:
        """End all blocks with a ClosedError; may be called again."""
        for watched in list(self._sessions.values()):
            self._end(watched, closed())

    # The methods of a ChangeListener, for a store that pushes changes.

    def open(self, store_time: float, at: float) -> None:
        """Changes are pushed from now on; earlier ones may have been missed."""
        self._ahead = store_time - at
        self.forget_all()

    def synchronize(self, store_time: float, at: float) -> None:
        """Learn how far the store's clock is ahead."""
        before, self._ahead = self._ahead, store_time - at
        if before is None or abs(self._ahead - before) > _MAX_CLOCK_STEP:
            self.forget_all()

    def forget(self, nonce: str) -> None:
        """The session of this nonce has changed."""
        watched = self._sessions.get(nonce)
        if watched is not None:
            self._ask_at(watched, time.monotonic())

    def forget_all(self) -> None:
        """Any session may have changed."""
        now = time.monotonic()
        self._schedule.clear()
        for watched in self._sessions.values():
            self._ask_at(watched, now)

    def shut(self) -> None:
        """Changes may be missed from now on."""
        if self._ahead is not None:
            self._ahead = None
            self.forget_all()

    def _ask_at(self, watched: _Watched, moment: float) -> None:
        """Reschedule the next lookup of a session, by `time.monotonic()`."""
        if watched.is_asked:
            watched.has_changed = True
            return
        watched.ask_at = moment
        if len(self._schedule) > 2 * len(self._sessions) + 64:  # most are outdated
            self._schedule = [entry for entry in self._schedule if self._is_current(entry)]
            heapq.heapify(self._schedule)
        heapq.heappush(self._schedule, (moment, next(self._numbers), watched))
        if self._schedule[0][2] is watched:
            self._set_timer()

    def _is_current(self, entry: tuple[float, int, _Watched]) -> bool:
        moment, _, watched = entry
        is_waited_for = self._sessions.get(watched.ref.nonce) is watched
        return is_waited_for and not watched.is_asked and watched.ask_at == moment

    def _set_timer(self) -> None:
        """Wake up for the first of the schedule."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._schedule:
            delay = max(0.0, self._schedule[0][0] - time.monotonic())
            # In a context of its own: it is part of no caller's call.
            self._timer = asyncio.get_running_loop().call_later(
                delay, self._look_up, context=Context()
            )

    def _look_up(self) -> None:
        """Look up the sessions that are due."""
        self._timer = None
        now = time.monotonic()
        asked = 0
        while self._schedule and self._schedule[0][0] <= now and asked < _MAX_LOOKUPS:
            entry = heapq.heappop(self._schedule)
            if self._is_current(entry):
                self._ask(entry[2])
                asked += 1
        self._set_timer()

    def _ask(self, watched: _Watched) -> None:
        try:
            answer = self._lookups.submit(watched.ref)
        except MPAuthXError as error:
            self._end(watched, error)
            return
        watched.is_asked = True
        answer.add_done_callback(partial(self._take, watched))

    def _take(self, watched: _Watched, answer: "asyncio.Future[int | None]") -> None:
        """Take the answer for a session, and look it up again later if it is alive."""
        has_changed, watched.is_asked, watched.has_changed = watched.has_changed, False, False
        now = time.monotonic()
        error = None if answer.cancelled() else answer.exception()
        if self._sessions.get(watched.ref.nonce) is not watched:
            return
        if answer.cancelled() or error is not None:
            if isinstance(error, ClosedError):
                self._end(watched, error)
            else:
                self._ask_at(watched, now + _POLL_INTERVAL)
            return
        end = answer.result()
        if end == TokenStatus.rotated:
            watched.ref = watched.ref._replace(generation=watched.ref.generation + 1)
            self._ask_at(watched, now)
        elif end is None or end <= 0:
            self._end(watched, TokenStatus(end or 0))
        elif has_changed:
            self._ask_at(watched, now)
        elif self._ahead is None:
            self._ask_at(watched, now + _POLL_INTERVAL)
        else:
            self._ask_at(watched, max(end / 1000 - self._ahead, now + _MIN_INTERVAL))

    def _end(self, watched: _Watched, reason: TokenStatus | MPAuthXError) -> None:
        self._remove(watched)
        for block in watched.blocks:
            block.end(reason)

    def _remove(self, watched: _Watched) -> None:
        del self._sessions[watched.ref.nonce]
        if self._feed is not None:
            self._feed.unsubscribe_from(watched.ref.nonce, self)
