"""Work that callers share, and calls that closing waits for."""

import asyncio
import logging

import pytest

from mpauthx_async import ClosedError
from mpauthx_async.concurrency.in_flight import InFlight
from mpauthx_async.concurrency.single_flight import SingleFlight


class Work:
    """Counts how often it is begun, and ends when it is let go."""

    def __init__(self, outcome: object = "done") -> None:
        self.begun = 0
        self.reached = asyncio.Event()
        self.gate = asyncio.Event()
        self._outcome = outcome

    async def __call__(self) -> object:
        self.begun += 1
        self.reached.set()
        await self.gate.wait()
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        return self._outcome


async def test_calls_with_the_same_key_share_one_execution():
    flights, work, other = SingleFlight[str, object](), Work(), Work("other")
    callers = [asyncio.create_task(flights.join("a", work)) for _ in range(3)]
    callers.append(asyncio.create_task(flights.join("b", other)))
    await work.reached.wait()
    work.gate.set()
    other.gate.set()
    assert await asyncio.gather(*callers) == ["done"] * 3 + ["other"]
    assert (work.begun, other.begun) == (1, 1)


async def test_after_its_end_the_work_is_begun_anew():
    flights, work = SingleFlight[str, object](), Work()
    work.gate.set()
    await flights.join("a", work)
    await flights.join("a", work)
    assert work.begun == 2


async def test_a_failure_reaches_all_callers_and_a_cancelled_one_harms_nobody():
    flights, work = SingleFlight[str, object](), Work(ValueError("no"))
    leaving, *staying = [asyncio.create_task(flights.join("a", work)) for _ in range(3)]
    await work.reached.wait()
    leaving.cancel()
    work.gate.set()
    outcomes = await asyncio.gather(leaving, *staying, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] + [ValueError] * 2


async def test_work_goes_on_without_callers_and_close_awaits_it(caplog: pytest.LogCaptureFixture):
    flights, work = SingleFlight[str, object](), Work(ValueError("no answer"))
    caller = asyncio.create_task(flights.join("a", work))
    await work.reached.wait()
    caller.cancel()
    closing = asyncio.create_task(flights.close())
    done, _ = await asyncio.wait([caller, closing], return_when=asyncio.FIRST_COMPLETED)
    assert done == {caller}
    work.gate.set()
    with caplog.at_level(logging.WARNING):
        await closing
    assert "no answer" in caplog.text


async def test_closing_waits_for_the_calls_in_progress_and_refuses_more():
    work = Work()
    calls = InFlight(work, "This shop")

    async def call() -> object:
        with calls.one():
            return await work()

    caller = asyncio.create_task(call())
    await work.reached.wait()
    closing = asyncio.create_task(calls.close())
    await asyncio.sleep(0)
    assert not closing.done()
    with pytest.raises(ClosedError, match="This shop is closed"):
        await call()
    work.gate.set()
    assert await caller == "done"
    await closing
    await calls.close()
    assert work.begun == 1
