"""Once: work that is done before the first call."""

import asyncio

from mpauthx_async.concurrency.once import Once
from tests.helpers.outages import turns


class Work:
    """Waits at a gate, and fails as often as it is told."""

    def __init__(self, failures: int = 0) -> None:
        self.calls = 0
        self.gate = asyncio.Event()
        self._failures = failures

    async def __call__(self) -> None:
        self.calls += 1
        await self.gate.wait()
        if self.calls <= self._failures:
            raise LookupError


async def test_concurrent_callers_share_the_work() -> None:
    work = Work()
    once = Once(work)
    waiting = [asyncio.create_task(once.done()) for _ in range(3)]
    await turns(5)
    assert not any(task.done() for task in waiting)
    work.gate.set()
    await asyncio.gather(*waiting)
    await once.done()
    assert work.calls == 1


async def test_a_failure_reaches_one_caller_and_the_next_repeats_the_work() -> None:
    work = Work(failures=1)
    once = Once(work)
    work.gate.set()
    answers = await asyncio.gather(once.done(), once.done(), once.done(), return_exceptions=True)
    assert [type(answer) for answer in answers] == [LookupError, type(None), type(None)]
    assert work.calls == 2


async def test_the_next_caller_does_the_work_if_one_is_cancelled() -> None:
    work = Work()
    once = Once(work)
    leaving, waiting = (asyncio.create_task(once.done()) for _ in range(2))
    await turns(5)
    leaving.cancel()
    await asyncio.wait([leaving])
    work.gate.set()
    await waiting
    assert work.calls == 2
