"""What listeners are told, and that nobody has to wait for them."""

import asyncio
import gc
import logging
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial

import pytest

from mpauthx_async import ClosedError
from mpauthx_async.concurrency.event_bus import EventBus
from mpauthx_async.events import Event, StoreFailed, Unbanned, WeChatFailed
from tests.helpers.outages import until_true

HELD = 1000
"""How many events wait for a listener."""


@pytest.fixture(autouse=True)
def _warnings_are_captured(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="mpauthx_async")


def numbered(count: int) -> list[Event]:
    return [WeChatFailed(number) for number in range(count)]


def emit(events: EventBus, *happened: Event) -> None:
    for event in happened:
        events.emit(event)


class Slow:
    """Holds on to each event until it is let go, in the loop."""

    def __init__(self) -> None:
        self.told: list[Event] = []
        self.reached = asyncio.Event()
        self.gate = asyncio.Event()

    async def __call__(self, event: Event) -> None:
        self.reached.set()
        await self.gate.wait()
        self.told.append(event)


class SlowInThread:
    """Holds on to each event until it is let go, in a thread."""

    def __init__(self) -> None:
        self.told: list[Event] = []
        self.gate = threading.Event()
        self._loop = asyncio.get_running_loop()
        self.reached = asyncio.Event()

    def __call__(self, event: Event) -> None:
        self._loop.call_soon_threadsafe(self.reached.set)
        self.gate.wait()
        self.told.append(event)


async def test_a_coroutine_listener_gets_events_one_by_one_in_the_loop():
    events, told, now = EventBus(), [], []

    async def listener(event: Event) -> None:
        now.append(event)
        await asyncio.sleep(0)
        assert now == [event]
        assert threading.current_thread() is threading.main_thread()
        told.append(now.pop())

    events.subscribe(listener)
    happened = numbered(100)
    for event in happened:
        events.emit(event)
        await asyncio.sleep(0)
    assert len(told) < len(happened)  # nobody waited for it
    await events.close()
    assert told == happened


async def test_a_plain_listener_gets_its_backlog_in_one_hop_to_its_thread():
    events, told = EventBus(), []
    hop = ContextVar[list[Event] | None]("hop", default=None)  # a hop is a context of its own

    def listener(event: Event) -> None:
        if (of_this_hop := hop.get()) is None:
            of_this_hop = []
            hop.set(of_this_hop)
            told.append((threading.current_thread().name, of_this_hop))
        of_this_hop.append(event)

    events.subscribe(listener)
    emit(events, *numbered(HELD))
    assert not told
    await events.close()
    [(thread, of_one_hop)] = told
    assert thread.startswith("mpauthx-listener")
    assert of_one_hop == numbered(HELD)


async def test_events_during_delivery_keep_their_order():
    events, listener = EventBus(), SlowInThread()
    events.subscribe(listener)
    first, *others = happened = numbered(5)
    events.emit(first)
    await listener.reached.wait()
    emit(events, *others)
    listener.gate.set()
    await events.close()
    assert listener.told == happened


async def in_the_loop(told: list[Event], event: Event) -> None:
    await asyncio.sleep(0)
    asyncio.get_running_loop()
    assert threading.current_thread() is threading.main_thread()
    told.append(event)


class InTheLoop:
    def __init__(self, told: list[Event]) -> None:
        self.told = told

    async def __call__(self, event: Event) -> None:
        await in_the_loop(self.told, event)

    async def method(self, event: Event) -> None:
        await in_the_loop(self.told, event)


@pytest.mark.parametrize(
    ("make", "needs_thread"),
    [
        (lambda told: partial(in_the_loop, told), False),
        (lambda told: InTheLoop(told), False),
        (lambda told: InTheLoop(told).method, False),
        (lambda told: partial(InTheLoop(told)), True),
        (lambda told: lambda event: in_the_loop(told, event), True),
    ],
    ids=["partial", "async __call__", "async method", "partial of async __call__", "lambda"],
)
async def test_any_awaitable_listener_runs_in_the_loop(
    make: Callable[[list[Event]], Callable[[Event], object]], needs_thread: bool
):
    events, told = EventBus(), []
    events.subscribe(make(told))
    emit(events, *numbered(3))
    await events.close()
    assert told == numbered(3)
    assert ("threads" in vars(events)) is needs_thread


async def test_without_listeners_nothing_is_done():
    events = EventBus()
    tasks = asyncio.all_tasks()
    assert not events.has_listeners
    emit(events, *numbered(2 * HELD))
    assert asyncio.all_tasks() == tasks
    await events.close()
    assert events.dropped == 0


async def test_has_listeners_tells_whether_anybody_listens():
    events = EventBus()
    unsubscribe = events.subscribe(print)
    assert events.has_listeners
    unsubscribe()
    assert not events.has_listeners
    events.subscribe(print)
    await events.close()
    assert not events.has_listeners


def failing_in_thread(told: list[Event], event: Event) -> None:
    told.append(event)
    raise ValueError("no room")


async def failing_in_loop(told: list[Event], event: Event) -> None:
    failing_in_thread(told, event)


@pytest.mark.parametrize("listener", [failing_in_thread, failing_in_loop])
async def test_a_failing_listener_is_logged_without_the_event_and_gets_the_next(
    listener: Callable[..., object], caplog: pytest.LogCaptureFixture
):
    events, told = EventBus(), []
    events.subscribe(partial(listener, told))
    happened = [Unbanned("shop", "o-secret"), StoreFailed("secret")]
    emit(events, *happened)
    await events.close()
    assert told == happened
    assert events.dropped == 0
    assert [record.message for record in caplog.records] == [
        f"The listener {listener.__qualname__} failed while handling Unbanned.",
        f"The listener {listener.__qualname__} failed while handling StoreFailed.",
    ]
    assert "no room" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize("way", ["cancelled", "cancelled in thread", "timed out"])
async def test_a_cancellation_of_the_listeners_own_is_a_failure_like_others(
    way: str, caplog: pytest.LogCaptureFixture
):
    events, told = EventBus(), []

    async def cancelled(event: Event) -> None:
        told.append(event)
        if way == "timed out":
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        raise asyncio.CancelledError

    def cancelled_in_thread(event: Event) -> None:
        told.append(event)
        raise asyncio.CancelledError

    events.subscribe(cancelled_in_thread if way == "cancelled in thread" else cancelled)
    emit(events, *numbered(2))
    await events.close()
    assert told == numbered(2)
    assert caplog.text.count("failed while handling WeChatFailed") == 2
    assert events.dropped == 0


@pytest.mark.parametrize("kind", [Slow, SlowInThread])
async def test_a_slow_listener_loses_excess_events_without_affecting_others(
    kind: type[Slow | SlowInThread], caplog: pytest.LogCaptureFixture
):
    events, slow, told = EventBus(), kind(), []

    async def quick(event: Event) -> None:
        told.append(event)
        if event == WeChatFailed(HELD - 1):
            first_are_told.set()
        if event == WeChatFailed(HELD + 9):
            all_are_told.set()

    first_are_told, all_are_told = asyncio.Event(), asyncio.Event()
    events.subscribe(slow)
    events.subscribe(quick)
    first, *others = happened = numbered(HELD + 10)
    events.emit(first)
    await slow.reached.wait()
    emit(events, *others[: HELD - 1])
    await first_are_told.wait()
    emit(events, *others[HELD - 1 :])
    await all_are_told.wait()
    assert told == happened
    assert events.dropped == 9
    slow.gate.set()
    await events.close()
    assert slow.told == happened[: HELD + 1]
    assert events.dropped == 9
    warnings = [record.message for record in caplog.records]
    assert len(warnings) < 9
    assert sum(int(warning.split()[-1].rstrip(".")) for warning in warnings) == 9
    assert all(f"{kind.__name__} is too slow" in warning for warning in warnings)


async def test_an_unsubscribed_listener_gets_no_more_events():
    events, leaving, staying = EventBus(), Slow(), Slow()
    unsubscribe = events.subscribe(leaving)
    events.subscribe(staying)
    emit(events, *numbered(3))
    await leaving.reached.wait()
    unsubscribe()
    unsubscribe()
    events.emit(WeChatFailed(3))
    leaving.gate.set()
    staying.gate.set()
    await events.close()
    unsubscribe()
    assert leaving.told == numbered(1)  # it was at that
    assert staying.told == numbered(4)
    assert events.dropped == 0


async def test_a_plain_function_may_unsubscribe_from_its_thread():
    events, told = EventBus(), []

    def once(event: Event) -> None:
        told.append(event)
        unsubscribe()

    unsubscribe = events.subscribe(once)
    emit(events, *numbered(3))
    await events.close()
    assert told == numbered(1)


async def test_close_releases_unsubscribed_listeners(caplog: pytest.LogCaptureFixture):
    events, leaving = EventBus(close_timeout=0), Slow()
    unsubscribe = events.subscribe(leaving)
    emit(events, *numbered(2))
    await leaving.reached.wait()
    unsubscribe()
    tasks = asyncio.all_tasks()
    await events.close()
    assert len(asyncio.all_tasks()) == len(tasks) - 1
    assert events.dropped == 1
    assert "Slow was stopped. Events dropped: 1." in caplog.text


def test_all_methods_but_close_work_without_a_loop():
    events, told, forgotten = EventBus(), [], []
    events.subscribe(told.append)
    unsubscribe = events.subscribe(forgotten.append)
    emit(events, *numbered(HELD + 1))
    unsubscribe()
    unsubscribe()
    assert events.dropped == 2
    asyncio.run(events.close())
    assert told == numbered(HELD)
    assert not forgotten


def test_events_before_the_loop_are_delivered_with_the_next():
    events, told = EventBus(), []
    events.subscribe(told.append)
    first, second = numbered(2)
    events.emit(first)

    async def main() -> None:
        events.emit(second)
        await events.close()

    asyncio.run(main())
    assert told == [first, second]


async def test_a_closed_bus_delivers_nothing_and_rejects_listeners():
    events, told = EventBus(), []
    events.subscribe(told.append)
    events.emit(WeChatFailed(0))
    await asyncio.gather(events.close(), events.close())
    await events.close()
    events.emit(WeChatFailed(1))
    with pytest.raises(ClosedError, match="This service is closed"):
        events.subscribe(told.append)
    await events.close()
    assert told == numbered(1)
    assert events.dropped == 0


async def test_close_cancels_hanging_listeners_and_logs_losses(caplog: pytest.LogCaptureFixture):
    events, slow, told, all_told = EventBus(close_timeout=0), Slow(), [], asyncio.Event()

    async def quick(event: Event) -> None:
        told.append(event)
        if len(told) == 3:
            all_told.set()

    events.subscribe(slow)
    events.subscribe(quick)
    emit(events, *numbered(3))
    await all_told.wait()
    await events.close()
    assert slow.told == []
    assert told == numbered(3)
    assert events.dropped == 3
    [record] = caplog.records
    assert record.message == "The listener Slow was stopped. Events dropped: 3."
    await events.close()
    assert events.dropped == 3


async def test_close_does_not_wait_for_a_hanging_thread(caplog: pytest.LogCaptureFixture):
    events, slow = EventBus(close_timeout=0), SlowInThread()
    events.subscribe(slow)
    emit(events, *numbered(3))
    await slow.reached.wait()
    await events.close()
    assert slow.told == []
    assert "SlowInThread was stopped. Events dropped: 2." in caplog.text
    slow.gate.set()
    await until_true(lambda: slow.told)  # it was at that one
    assert slow.told == numbered(1)
    assert events.dropped == 2


async def test_close_leaves_a_listener_that_swallows_cancellation(caplog: pytest.LogCaptureFixture):
    events, gate, ended = EventBus(close_timeout=0), asyncio.Event(), asyncio.Event()

    async def stubborn(event: Event) -> None:
        try:
            reached.set()
            await gate.wait()
        except asyncio.CancelledError:
            await gate.wait()
        ended.set()

    reached = asyncio.Event()
    events.subscribe(stubborn)
    emit(events, *numbered(3))
    await reached.wait()
    await events.close()
    assert events.dropped == 3
    assert "stubborn was stopped. Events dropped: 3." in caplog.text
    assert "stubborn is still running after it was cancelled." in caplog.text
    gate.set()
    await ended.wait()


async def test_a_close_that_was_cancelled_can_be_called_again():
    events, slow = EventBus(), Slow()
    events.subscribe(slow)
    emit(events, *numbered(3))
    closing = asyncio.create_task(events.close())
    await slow.reached.wait()
    closing.cancel()
    await asyncio.wait([closing])
    assert closing.cancelled()
    slow.gate.set()
    await events.close()
    assert slow.told == numbered(3)


async def end_worker(before: set["asyncio.Task[object]"]) -> None:
    [worker] = asyncio.all_tasks() - before
    worker.cancel()
    await asyncio.wait([worker])


@pytest.mark.parametrize("begun", [True, False])
async def test_events_of_a_cancelled_worker_are_counted_and_a_new_worker_starts(
    begun: bool, caplog: pytest.LogCaptureFixture
):
    events, slow, before = EventBus(), Slow(), asyncio.all_tasks()
    events.subscribe(slow)
    emit(events, *numbered(3))
    if begun:
        await slow.reached.wait()
    await end_worker(before)
    assert events.dropped == 3
    assert "Slow was stopped. Events dropped: 3." in caplog.text
    slow.gate.set()
    events.emit(WeChatFailed(3))
    await events.close()
    assert slow.told == [WeChatFailed(3)]


async def test_a_cancelled_worker_ends_even_if_its_listener_swallows_cancellation():
    events, told, reached = EventBus(), [], asyncio.Event()

    async def stubborn(event: Event) -> None:
        told.append(event)
        reached.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    before = asyncio.all_tasks()
    events.subscribe(stubborn)
    emit(events, *numbered(3))
    await reached.wait()
    await end_worker(before)
    assert told == numbered(1)
    assert events.dropped == 2


class Killed(BaseException):
    """No Exception, so nothing that a listener may fail with."""


async def test_a_worker_that_is_killed_says_so_and_does_not_lose_the_rest_silently(
    caplog: pytest.LogCaptureFixture,
):
    events, before = EventBus(), asyncio.all_tasks()

    async def deadly(event: Event) -> None:
        raise Killed

    events.subscribe(deadly)
    emit(events, *numbered(3))
    [worker] = asyncio.all_tasks() - before
    await asyncio.wait([worker])
    assert isinstance(worker.exception(), Killed)
    assert events.dropped == 3
    assert "deadly was stopped. Events dropped: 3." in caplog.text


def test_listening_continues_in_a_second_loop(caplog: pytest.LogCaptureFixture):
    events, told, hanging = EventBus(), [], True

    async def listener(event: Event) -> None:
        if hanging:
            await asyncio.Event().wait()
        told.append(event)

    async def main() -> None:
        emit(events, *numbered(3))
        await asyncio.sleep(0)

    events.subscribe(listener)
    asyncio.run(main())
    assert events.dropped == 3
    assert "Events dropped: 3." in caplog.text

    async def main_of_the_second() -> None:
        events.emit(WeChatFailed(3))
        await events.close()

    hanging = False
    asyncio.run(main_of_the_second())
    assert told == [WeChatFailed(3)]


def test_listening_survives_a_closed_loop():
    events, told, hanging = EventBus(), [], True

    async def listener(event: Event) -> None:
        if hanging:
            reached.set()
            await asyncio.Event().wait()
        told.append(event)

    async def main() -> None:
        emit(events, *numbered(3))
        await reached.wait()

    reached = asyncio.Event()
    events.subscribe(listener)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    hanging = False
    asyncio.run(events.close())
    assert told == numbered(3)[1:]
    gc.collect()  # asyncio itself tells the log of the task that never ended


def test_close_in_a_second_loop_does_not_wait_for_tasks_of_the_first():
    events, reached = EventBus(close_timeout=3600), asyncio.Event()

    async def hanging(event: Event) -> None:
        reached.set()
        await asyncio.Event().wait()

    async def main(events: EventBus) -> None:
        events.emit(WeChatFailed(0))
        await reached.wait()

    events.subscribe(hanging)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main(events))
    loop.close()
    asyncio.run(events.close())
    del events
    gc.collect()  # asyncio itself tells the log of the task that never ended


request_id = ContextVar("request_id", default="none")


@pytest.mark.parametrize("in_thread", [True, False])
async def test_listeners_run_in_the_context_in_which_they_were_subscribed(in_thread: bool):
    events, seen = EventBus(), []

    def plain(event: Event) -> None:
        seen.append(request_id.get())

    async def in_loop(event: Event) -> None:
        plain(event)

    events.subscribe(plain if in_thread else in_loop)
    request_id.set("of a request")
    events.emit(WeChatFailed(0))
    await events.close()
    assert seen == ["none"]


@pytest.mark.parametrize("eager", [False, True] if sys.version_info >= (3, 12) else [False])
async def test_a_listener_may_emit_and_emit_itself_calls_nobody(eager: bool):
    events, told, heard = EventBus(), [], asyncio.Event()
    if eager:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)

    async def listener(event: Event) -> None:
        told.append(event)
        if event == WeChatFailed(0):
            events.emit(WeChatFailed(1))
        else:
            heard.set()

    events.subscribe(listener)
    events.emit(WeChatFailed(0))
    assert not told
    await heard.wait()
    await events.close()
    assert told == numbered(2)
