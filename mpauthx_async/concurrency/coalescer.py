"""Coalescer: merges concurrent calls into batches."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import chain, islice, repeat
from typing import Generic, TypeVar

from ..errors import MPAuthXError, PartialStoreError, StoreError
from ..store_errors import log_store_error
from .deadlines import running_call, trip, without_call
from .in_flight import InFlight, belongs_elsewhere, closed
from .traceback_frames import clear_frames

__all__ = ["Coalescer", "answers_of", "settle"]

Item = TypeVar("Item")
Result = TypeVar("Result")
_Batch = dict[Item, list["asyncio.Future[Result]"]]

_SWEEPS = 20  # in the longest wait


class Coalescer(Generic[Item, Result]):
    """Merges the calls of one event-loop tick into batches, one trip for each batch.

    Calls submitted while the loop runs through a tick are collected and handed, in the order in
    which they came, to `run` as one sequence. While `max_in_flight` batches are in flight, new
    calls wait and make the next batch larger: the busier it gets, the fewer trips each call costs.
    A batch never waits for a timer, so a lone call is never delayed.

    Promises:
        - A caller gets the result of its own item, or its own exception.
        - Equal items in one batch are asked for once.
        - A cancelled caller harms no other; an item whose callers are all cancelled is dropped.
        - When `run` fails, every caller of that batch gets the failure, and no other batch does.
          A PartialStoreError reaches only the callers of the items that failed.
        - Callers who get the same failure get an exception each.

    Args:
        run: takes the items of a batch and returns one result for each, in the same order; a
            result that is an Exception is raised to the callers of that item alone.
        max_batch: the most items in a batch.
        max_in_flight: the most batches on their way at once.
        longest_wait: how long a caller waits at most, in seconds: then it gets a StoreError, and
            the batch goes on without it. None for as long as it takes.
        system: what `run` waits for, alone. Then a call that waits for several batches in turn,
            or makes trips to that system itself, has `longest_wait` for all of them.
        calls: those of the service, to whose event loop this belongs even if the first call came
            to another part of it.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        max_batch: int = 500,
        max_in_flight: int = 4,
        longest_wait: float | None = None,
        system: str | None = None,
        calls: InFlight | None = None,
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._max_in_flight = max_in_flight
        self._waiting: _Batch[Item, Result] = {}
        self._longest_wait = longest_wait
        self._system = system
        self._calls = calls
        self._in_flight: dict[asyncio.Task[None], tuple[float, _Batch[Item, Result]]] = {}
        self._waiting_since: dict[Item, float] = {}  # of those that were there at the last sweep
        self._sweep: asyncio.TimerHandle | None = None
        self._dispatch_scheduled = False
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None  # of the first call

    def submit(self, item: Item) -> "asyncio.Future[Result]":
        """Put an item into the next batch; await the future for its result."""
        if self._closed:
            raise closed()
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            if self._loop is not None:
                raise belongs_elsewhere("This service", "event loop")
            if self._calls is not None:
                self._calls.check_loop()
            self._loop = loop
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting.setdefault(item, []).append(future)
        if not self._dispatch_scheduled:
            self._dispatch_scheduled = True
            loop.call_soon(self._dispatch)
        if running_call.get() is not None:
            self._charge(future)
        return future

    async def wait_in_flight(self) -> None:
        """Wait for the batches that are in flight now; later ones do not count."""
        if self._in_flight:
            await asyncio.wait(set(self._in_flight))

    async def close(self) -> None:
        """Take no more calls, and return when all that were taken are answered."""
        self._closed = True
        while self._waiting or self._in_flight:
            self._dispatch()
            await self.wait_in_flight()

    def cut_off(self) -> None:
        """Take no more calls, and give those that wait for an answer a ClosedError."""
        self._closed = True
        batches = [self._waiting, *(batch for _, batch in self._in_flight.values())]
        self._waiting, self._waiting_since = {}, {}
        for task in self._in_flight:
            task.cancel()
        callers = chain.from_iterable(batch.values() for batch in batches)
        settle(chain.from_iterable(callers), closed())

    def _charge(self, future: "asyncio.Future[Result]") -> None:
        """Let the running call wait no longer than what it has left."""
        if self._system is None or self._longest_wait is None:
            return
        charged = trip(self._system, self._longest_wait)
        left = charged.__enter__()
        future.add_done_callback(charged.__exit__)
        if left < self._longest_wait:  # else the sweep is enough
            overdue = future.get_loop().call_later(left, _fail_overdue, (future,))
            future.add_done_callback(lambda _: overdue.cancel())

    def _dispatch(self) -> None:
        self._dispatch_scheduled = False
        while self._waiting and len(self._in_flight) < self._max_in_flight:
            batch = self._next_batch()
            if batch:
                loop = asyncio.get_running_loop()
                since = loop.time()
                if self._waiting_since:
                    since = min(map(self._waiting_since.pop, batch, repeat(since)))
                task = loop.create_task(self._answer(batch))
                self._in_flight[task] = since, batch
                task.add_done_callback(self._batch_done)
                if self._sweep is None and self._longest_wait is not None:
                    self._sweep_after(self._longest_wait)

    def _next_batch(self) -> "_Batch[Item, Result]":
        batch = self._waiting
        if len(batch) <= self._max_batch:
            self._waiting = {}
        else:
            batch = dict(islice(batch.items(), self._max_batch))
            for item in batch:
                del self._waiting[item]
        for item in [item for item, futures in batch.items() if futures[0].cancelled()]:
            if all(future.cancelled() for future in batch[item]):
                del batch[item]
                self._waiting_since.pop(item, None)
        return batch

    def _sweep_after(self, longest_wait: float) -> None:
        loop = asyncio.get_running_loop()
        self._sweep = loop.call_later(longest_wait / _SWEEPS, self._fail_overdue, longest_wait)

    def _fail_overdue(self, longest_wait: float) -> None:
        """Fail the callers who would wait too long by the next sweep."""
        self._sweep = None
        now = asyncio.get_running_loop().time()
        interval = longest_wait / _SWEEPS
        overdue = [
            futures
            for since, batch in self._in_flight.values()
            if now - since > longest_wait - interval
            for futures in batch.values()
        ]
        self._waiting_since = {
            item: self._waiting_since.get(item, now - interval) for item in self._waiting
        }
        for item, since in list(self._waiting_since.items()):
            if now - since > longest_wait - interval:
                del self._waiting_since[item]
                overdue.append(self._waiting.pop(item))
        _fail_overdue(chain.from_iterable(overdue))
        if self._in_flight:
            self._sweep_after(longest_wait)

    async def _answer(self, batch: "_Batch[Item, Result]") -> None:
        without_call()
        try:
            results = await self._results(list(batch))
        except BaseException as error:
            settle(chain.from_iterable(batch.values()), error)
            if not isinstance(error, Exception):
                raise
        else:
            for futures, result in zip(batch.values(), results, strict=True):
                if len(futures) == 1 and not isinstance(result, BaseException):
                    if not futures[0].done():  # by far the most frequent case
                        futures[0].set_result(result)
                else:
                    settle(futures, result)

    async def _results(self, items: Sequence[Item]) -> Sequence[Result | Exception]:
        results = await answers_of(self._run(items))
        if len(results) != len(items):
            raise StoreError(f"The store gave {len(results)} answers to {len(items)} items.")
        return results

    def _batch_done(self, task: "asyncio.Task[None]") -> None:
        del self._in_flight[task]
        if self._waiting:
            self._dispatch()


async def answers_of(batch: Awaitable[Sequence[Result]]) -> "Sequence[Result | StoreError]":
    """Await a store's answers to a batch, with a StoreError for each item that alone failed."""
    try:
        answers = await batch
    except PartialStoreError as error:
        log_store_error(error)
        return error.answers
    if not isinstance(answers, Sequence):
        raise StoreError(f"The store gave no sequence of answers: {type(answers).__name__}.")
    return answers


def settle(futures: "Iterable[asyncio.Future[Result]]", outcome: Result | BaseException) -> bool:
    """Give an outcome to all who wait for it; returns whether anybody still did.

    The first gets an exception itself and every other a copy: the frames of each caller stay in
    that caller's traceback.
    """
    anybody = False
    if isinstance(outcome, BaseException):
        clear_frames(outcome)
    for future in futures:
        if future.done():
            continue
        if not isinstance(outcome, BaseException):
            future.set_result(outcome)
        elif isinstance(outcome, asyncio.CancelledError):
            future.cancel()
        elif isinstance(outcome, StopIteration):  # which no future takes: see PEP 479
            future.set_exception(RuntimeError("The answer is a StopIteration."))
        else:
            future.set_exception(_copy(outcome) if anybody else outcome)
        anybody = True
    return anybody


def _fail_overdue(futures: "Iterable[asyncio.Future[Result]]") -> None:
    """Tell the callers of those that are not done that the store did not answer in time."""
    if late := [future for future in futures if not future.done()]:
        error = StoreError(
            "The store did not answer in time; it may yet do what it was asked. Check that it is "
            "up, and not overloaded."
        )
        log_store_error(error)
        settle(late, error)


def _copy(error: BaseException) -> BaseException:
    """Another exception with the same attributes and traceback; a foreign one itself."""
    if not isinstance(error, MPAuthXError):
        return error  # whose constructor is not known
    kind = type(error)
    copy = kind.__new__(kind, *error.args)  # its __init__ takes other arguments
    vars(copy).update(vars(error))
    copy.__cause__, copy.__context__ = error.__cause__, error.__context__
    copy.__suppress_context__ = error.__suppress_context__
    return copy.with_traceback(error.__traceback__)
