import asyncio
import traceback
from collections.abc import Awaitable, Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpauthx_async import ClosedError, PartialStoreError, StoreError, WeChatAPIError
from mpauthx_async.concurrency.coalescer import Coalescer
from tests.helpers.outages import all_fail, settled, turns

Run = Callable[[Sequence[int]], Awaitable[Sequence[int | Exception]]]


class Trips:
    """Doubles numbers and keeps the batches in which it was asked; can be held up, or slow."""

    def __init__(self, ticks: int = 0) -> None:
        self.batches: list[list[int]] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self._ticks = ticks

    async def run(self, items: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(items))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await self.gate.wait()
            await turns(self._ticks)
        finally:
            self.in_flight -= 1
        if 999 in items:
            raise ConnectionError("the trip failed")
        return [ValueError(item) if item < 0 else item * 2 for item in items]


@pytest.fixture
def trips() -> Trips:
    return Trips()


async def test_calls_of_one_tick_share_one_trip(trips: Trips) -> None:
    coalescer = Coalescer(trips.run)
    answers = await asyncio.gather(*(coalescer.submit(item) for item in range(100)))
    assert answers == [item * 2 for item in range(100)]
    assert trips.batches == [list(range(100))]


async def test_a_lone_call_is_not_delayed(trips: Trips) -> None:
    coalescer = Coalescer(trips.run)
    answer = coalescer.submit(1)
    await turns(2)
    assert trips.batches == [[1]]
    assert await answer == 2


async def test_equal_items_of_one_batch_are_asked_for_once(trips: Trips) -> None:
    coalescer = Coalescer(trips.run)
    assert await asyncio.gather(*(coalescer.submit(n % 3) for n in range(9))) == [0, 2, 4] * 3
    assert trips.batches == [[0, 1, 2]]


async def test_batches_are_bounded_and_only_a_few_are_in_flight(trips: Trips) -> None:
    coalescer = Coalescer(trips.run, max_batch=10, max_in_flight=3)
    trips.gate.clear()
    answers = [coalescer.submit(item) for item in range(95)]
    await turns(5)
    assert [len(batch) for batch in trips.batches] == [10, 10, 10]
    trips.gate.set()
    assert await asyncio.gather(*answers) == [item * 2 for item in range(95)]
    assert trips.most_in_flight == 3
    assert max(map(len, trips.batches)) == 10
    assert [item for batch in trips.batches for item in batch] == list(range(95))


async def test_calls_during_all_trips_form_one_larger_batch(trips: Trips) -> None:
    coalescer = Coalescer(trips.run, max_in_flight=1)
    trips.gate.clear()
    answers = [coalescer.submit(0)]
    for item in range(1, 6):
        await turns(2)
        answers.append(coalescer.submit(item))
    trips.gate.set()
    await asyncio.gather(*answers)
    assert trips.batches == [[0], [1, 2, 3, 4, 5]]


async def test_a_failed_trip_fails_every_waiter_of_its_batch_and_no_other(trips: Trips) -> None:
    coalescer = Coalescer(trips.run, max_batch=3)
    answers = await settled(coalescer.submit(item) for item in (1, 999, 2, 3, 4))
    assert [type(answer) for answer in answers[:3]] == [ConnectionError] * 3
    assert answers[3:] == [6, 8]
    assert await coalescer.submit(5) == 10


async def test_callers_of_one_failure_get_an_exception_each() -> None:
    async def fail(items: Sequence[str]) -> Sequence[str]:
        raise WeChatAPIError(40029, "invalid code", rid="rid", hint="A hint.") from ValueError()

    async def ask(name: str) -> WeChatAPIError:
        with pytest.raises(WeChatAPIError) as caught:
            await coalescer.submit("one item")
        return caught.value

    coalescer = Coalescer[str, str](fail)
    first, second, other = await asyncio.gather(*map(ask, ("first", "second", "other")))
    assert len({id(error) for error in (first, second, other)}) == 3
    for error in (first, second, other):
        assert (str(error), vars(error)) == (str(first), vars(first))
        assert type(error.__cause__) is ValueError
        asked = [f for f, _ in traceback.walk_tb(error.__traceback__) if f.f_code.co_name == "ask"]
        assert len(asked) == 1


async def test_a_wrong_number_of_answers_is_a_failure_and_not_a_mix_up() -> None:
    async def forgetful(items: Sequence[int]) -> list[int]:
        return list(items)[:-1]

    coalescer = Coalescer(forgetful)
    await all_fail(coalescer.submit(item) for item in range(3))


async def odd_answer(items: Sequence[int]) -> list[int | Exception]:
    """One of the answers is nothing that a future takes."""
    return [StopIteration() if item == 1 else 2 * item for item in items]


async def partial_failure(items: Sequence[int]) -> list[int]:
    raise PartialStoreError([StoreError("damaged") if i == 1 else 2 * i for i in items])


@pytest.mark.parametrize(
    ("run", "error"), [(odd_answer, RuntimeError), (partial_failure, StoreError)]
)
async def test_a_failing_item_fails_its_callers_alone(run: Run, error: type[Exception]) -> None:
    coalescer = Coalescer(run)
    first, again, *others = await settled(coalescer.submit(item) for item in (1, 1, 2, 3))
    assert [type(first), type(again)] == [error] * 2
    assert others == [4, 6]


async def test_a_cancelled_caller_harms_nobody_who_shares_its_item(trips: Trips) -> None:
    coalescer = Coalescer(trips.run)
    trips.gate.clear()
    leaving, staying = coalescer.submit(1), coalescer.submit(1)
    await turns(2)
    leaving.cancel()
    trips.gate.set()
    assert await staying == 2
    assert leaving.cancelled()


async def test_an_item_whose_callers_have_all_left_is_not_asked_for(trips: Trips) -> None:
    coalescer = Coalescer(trips.run)
    leaving, staying = coalescer.submit(1), coalescer.submit(2)
    leaving.cancel()
    assert await staying == 4
    assert trips.batches == [[2]]
    coalescer.submit(3).cancel()
    await coalescer.close()
    assert trips.batches == [[2]]


async def test_an_item_that_is_asked_for_again_has_a_wait_of_its_own() -> None:
    gate = asyncio.Event()

    async def run(items: Sequence[int]) -> Sequence[int]:
        await gate.wait()
        return items

    coalescer = Coalescer(run, max_in_flight=1, longest_wait=60)
    first = coalescer.submit(1)
    await turns(2)
    second = coalescer.submit(2)
    coalescer._fail_overdue(60)  # notes since when it waits
    second.cancel()
    gate.set()
    await first
    await turns(2)
    assert coalescer._waiting_since == {}


async def test_close_answers_all_that_was_taken_and_takes_no_more(trips: Trips) -> None:
    coalescer = Coalescer(trips.run, max_batch=2, max_in_flight=1)
    answers = [coalescer.submit(item) for item in range(7)]
    await coalescer.close()
    assert [answer.result() for answer in answers] == [item * 2 for item in range(7)]
    with pytest.raises(ClosedError):
        coalescer.submit(8)
    await coalescer.close()


async def test_a_cancelled_trip_cancels_its_waiters_and_leaves_none_hanging(trips: Trips) -> None:
    coalescer = Coalescer(trips.run)
    trips.gate.clear()
    answer = coalescer.submit(1)
    before = asyncio.all_tasks()
    await turns(2)
    (trip,) = asyncio.all_tasks() - before
    trip.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answer
    trips.gate.set()
    assert await coalescer.submit(2) == 4


calls = st.lists(
    st.tuples(
        st.integers(0, 6),  # the tick in which the call comes
        st.one_of(st.integers(-3, 12), st.just(999)),  # the item
        st.one_of(st.none(), st.integers(0, 8)),  # the tick in which its caller leaves
    ),
    max_size=40,
)


@settings(max_examples=300)
@given(
    calls=calls,
    max_batch=st.integers(1, 8),
    max_in_flight=st.integers(1, 3),
    trip_ticks=st.integers(0, 4),
    close_at=st.integers(0, 10),
)
async def test_every_promise_holds_whatever_comes_and_goes(
    calls: list[tuple[int, int, int | None]],
    max_batch: int,
    max_in_flight: int,
    trip_ticks: int,
    close_at: int,
) -> None:
    trips = Trips(trip_ticks)
    coalescer = Coalescer(trips.run, max_batch=max_batch, max_in_flight=max_in_flight)

    async def call(item: int) -> int:
        return await coalescer.submit(item)

    tasks: list[tuple[int, int, int | None, asyncio.Task[int]]] = []
    for tick in range(11):
        for when, item, leaves_at in calls:
            if when == tick:
                tasks.append((tick, item, leaves_at, asyncio.create_task(call(item))))
        for _, _, leaves_at, task in tasks:
            if leaves_at == tick:
                task.cancel()
        if tick == close_at:
            closing = asyncio.create_task(coalescer.close())
        await turns(1)
    await closing
    answers = await asyncio.gather(*(task for *_, task in tasks), return_exceptions=True)

    for batch in trips.batches:
        assert 1 <= len(batch) <= max_batch
        assert len(set(batch)) == len(batch)
    asked = {item for batch in trips.batches for item in batch}
    with_failure = {item for batch in trips.batches if 999 in batch for item in batch}
    for (came_at, item, leaves_at, _), answer in zip(tasks, answers, strict=True):
        if isinstance(answer, asyncio.CancelledError):
            assert leaves_at is not None
        elif isinstance(answer, ClosedError):
            assert came_at >= close_at
        elif isinstance(answer, ConnectionError):
            assert item in with_failure
        elif isinstance(answer, ValueError):
            assert answer.args == (item,)
            assert item < 0
        else:
            assert answer == item * 2
            assert item in asked
    assert trips.in_flight == 0
    assert trips.most_in_flight <= max_in_flight
