"""EventBus: delivers events to listeners without blocking the emitter."""

import asyncio
import contextlib
import functools
import inspect
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import copy_context
from functools import cached_property, partial
from typing import TypeAlias, TypeVar

from ..errors import ParameterError, StoreError
from ..events import BatchFinished, Event, Listener, StoreFailed
from ..store_errors import only_store_errors
from .in_flight import closed

__all__ = ["EventBus"]

logger: logging.Logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

_MAX_WAITING = 1000
_MAX_THREADS = 32
_SECONDS_BETWEEN_WARNINGS = 1.0
_SECONDS_TO_CANCEL = 1.0
_FAILED = "%s failed while handling %s."

_Unfinished: TypeAlias = tuple[Event, Awaitable[object]]


class EventBus:
    """Delivers events to listeners, and never blocks the emitter.

    Each listener gets the events in their order, one after another. A coroutine function is
    awaited in the event loop; a plain function is called in a thread, for a whole backlog in one
    go, and when what it returns is awaitable, that is awaited in the loop.

    Promises:
        - A listener that is slow, fails or hangs harms neither the service nor other listeners.
        - A listener's exception is logged, with its name and the kind of event, but not the
          event's content. It gets the next event all the same.
        - Up to 1,000 events are queued for each listener. Beyond that, new ones are dropped,
          counted and logged.

    It lives in one event loop at a time. Events that were emitted where none runs wait for the
    next one, or for `close()`. When the loop ends without `close()`, what waits is dropped, counted
    and logged, and in the next loop listening goes on.

    Args:
        close_timeout: how long `close()` lets listeners take what waits for them, in seconds.

    Attributes:
        dropped: how many events did not reach a listener, or were cut short there.
        at_work: the queues whose workers were begun and have not ended.
    """

    def __init__(self, *, close_timeout: float = 5.0) -> None:
        self._close_timeout = close_timeout
        self._queues: list[_Queue] = []
        self._closed = False
        self.dropped: int = 0
        self.at_work: set[_Queue] = set()

    @property
    def has_listeners(self) -> bool:
        """Whether there are listeners; without any, callers need not create an event."""
        return bool(self._queues)

    @cached_property
    def threads(self) -> Executor:
        """A thread pool for plain functions only, so that one that hangs blocks no other work."""
        return ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="mpauthx-listener")

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Register a listener for all events from now on; needs no running event loop.

        The function that is returned ends the subscription, and drops queued events.
        """
        if self._closed:
            raise closed()
        if not callable(listener):
            raise ParameterError("A listener is a function that takes an event.")
        queue = _Queue(listener, self)
        self._queues.append(queue)

        def unsubscribe() -> None:
            with contextlib.suppress(ValueError):
                self._queues.remove(queue)
            queue.forget()

        return unsubscribe

    def emit(self, event: Event) -> None:
        """Queue an event for all listeners; never waits or raises. Call it in the loop's thread."""
        for queue in self._queues.copy():  # plain listeners may unsubscribe from their threads
            queue.put(event)

    def watched(
        self, name: str, run: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]]
    ) -> Callable[[Sequence[Item]], Awaitable[Sequence[Result]]]:
        """Tell of each batch that this runs: BatchFinished, or StoreFailed under the same name."""

        async def watched_run(items: Sequence[Item]) -> Sequence[Result]:
            started = time.perf_counter()
            with self.store_failures(name):
                results = await run(items)
            self.emit(BatchFinished(name, len(items), time.perf_counter() - started))
            return results

        return watched_run

    @contextlib.contextmanager
    def store_failures(self, operation: str) -> Iterator[None]:
        """Tell of a StoreError; what a store does not document becomes one."""
        try:
            with only_store_errors():
                yield
        except StoreError:
            self.emit(StoreFailed(operation))
            raise

    async def close(self) -> None:
        """Take no more events, and return when the listeners have had those that wait.

        After `close_timeout` they are cancelled, and what is left is dropped, counted and logged.
        A plain function that hangs cannot be cancelled: its thread stays.
        """
        self._closed = True
        queues, self._queues = self._queues, []
        for queue in queues:
            queue.wake()
        for queue in await self._still_at_work(self._close_timeout):
            queue.cut_off()
        for queue in await self._still_at_work(_SECONDS_TO_CANCEL):
            logger.warning("%s is still running after it was cancelled.", queue.name)
        if "threads" in vars(self):
            self.threads.shutdown(wait=False)

    async def _still_at_work(self, seconds: float) -> "list[_Queue]":
        """Those queues whose workers do not end within this time."""
        queues = [queue for queue in self.at_work if queue.is_at_work]
        workers = [queue.worker for queue in queues if queue.worker]
        if workers:
            await asyncio.wait(workers, timeout=seconds)
        return [queue for queue in queues if queue.is_at_work]


class _Queue:
    """The queued events of one listener, and the worker that delivers them.

    A worker starts when the queue has an event and ends when it is empty, so that no worker
    outlives its loop. Plain functions are called in a thread, which reads the queue itself.
    """

    def __init__(self, listener: Listener, bus: EventBus) -> None:
        self.name = _name(listener)
        self.worker: asyncio.Task[None] | None = None
        self._listener = listener
        self._is_async = _is_async(listener)
        self._bus = bus
        # Otherwise the worker would run in the context of the first emitter, with its request id.
        self._context = copy_context()
        self._waiting: deque[Event] = deque()
        self._is_awaiting = False
        self._unreported = 0
        self._next_report = 0.0

    @property
    def is_at_work(self) -> bool:
        worker = self.worker
        return worker is not None and not (worker.done() or worker.get_loop().is_closed())

    def put(self, event: Event) -> None:
        if len(self._waiting) >= _MAX_WAITING:
            self._bus.dropped += 1
            self._unreported += 1
            if time.monotonic() >= self._next_report:
                self._report_overflow()
        else:
            self._waiting.append(event)
        self.wake()

    def wake(self) -> None:
        """Begin a worker if there is work, none at it, and a loop to do it in."""
        if not self._waiting or self.is_at_work:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        self.worker = self._context.run(loop.create_task, self._work())
        self.worker.add_done_callback(self._worker_ended)
        self._bus.at_work.add(self)

    def forget(self) -> int:
        """Drop what waits; returns how much that was."""
        count = 0
        while self._take() is not None:
            count += 1
        return count

    def cut_off(self) -> None:
        """Cancel the worker, and drop what it has not told to the end."""
        self._drop_rest()
        if self.worker:
            self.worker.cancel()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0)  # an eager task would run the listener within emit()
        while self._waiting and not _is_cancelled():
            if self._is_async:
                unfinished = self._tell_next()
            else:
                tell = partial(copy_context().run, self._tell_next)
                unfinished = await loop.run_in_executor(self._bus.threads, tell)
            if unfinished:
                await self._finish(*unfinished)

    def _tell_next(self) -> _Unfinished | None:
        """Tell what waits, up to the first event of which there is something to await."""
        while event := self._take():
            try:
                outcome = self._listener(event)
            except (Exception, asyncio.CancelledError):
                logger.exception(_FAILED, self.name, type(event).__name__)
            else:
                if inspect.isawaitable(outcome):
                    return event, outcome
        return None

    async def _finish(self, event: Event, outcome: Awaitable[object]) -> None:
        self._is_awaiting = True
        try:
            await outcome
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                raise  # any other is the listener's own, of something that it awaited
            logger.exception(_FAILED, self.name, type(event).__name__)
        self._is_awaiting = False

    def _take(self) -> Event | None:
        try:
            return self._waiting.popleft()
        except IndexError:  # loop and thread both take: to look first would be a race
            return None

    def _worker_ended(self, worker: "asyncio.Task[None]") -> None:
        if worker is not self.worker:
            return
        self._bus.at_work.discard(self)
        self._drop_rest()  # something is left only if the worker was cancelled or killed

    def _drop_rest(self) -> None:
        self._report_overflow()
        count = self.forget() + self._is_awaiting
        self._is_awaiting = False
        if count:
            self._bus.dropped += count
            logger.warning("%s was stopped. Events dropped: %d.", self.name, count)

    def _report_overflow(self) -> None:
        if self._unreported:
            logger.warning("%s is too slow. Events dropped: %d.", self.name, self._unreported)
            self._unreported = 0
            self._next_report = time.monotonic() + _SECONDS_BETWEEN_WARNINGS


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _is_async(listener: Listener) -> bool:
    return any(map(inspect.iscoroutinefunction, (listener, type(listener).__call__)))


def _name(listener: Listener) -> str:
    """The listener's name; no repr, which may hold anything."""
    function: object = listener
    while isinstance(function, functools.partial):
        function = function.func
    if not hasattr(function, "__qualname__"):
        function = type(function)
    return f"The listener {getattr(function, '__qualname__', '')}"
