"""The limit of logins in progress, with a clock and a CPU time of the test's own."""

import asyncio

import pytest

from mpauthx_async.concurrency.login_limit import LoginLimit
from tests.helpers.outages import PATIENCE

FLOOR = 256
OWN = 8
SAMPLE = 0.0001  # seconds


class Loop:
    """An event loop as a limit sees it.

    Args:
        busy: the part of each sample in which it has the CPU.
        late: how much later than due each sample ends, in samples.
    """

    def __init__(self, busy: float = 0.0, late: float = 0.0) -> None:
        self.busy = busy
        self.late = late
        self._now = self._cpu = 0.0
        self._samples = self._awaited = 0
        self._done = asyncio.Event()

    def clock(self) -> float:
        self._now += SAMPLE * (1 + self.late)
        return self._now

    def cpu_time(self) -> float:
        self._cpu += SAMPLE * self.busy
        self._samples += 1
        if self._samples == self._awaited:
            self._done.set()
        return self._cpu

    async def samples(self, count: int) -> None:
        self._awaited = self._samples + 2 * count  # looked at when each begins and when it ends
        self._done.clear()
        async with asyncio.timeout(PATIENCE):
            await self._done.wait()


class Service:
    """Begins logins up to `wanted`, as many as a limit allows."""

    def __init__(self, limit: LoginLimit, wanted: int = 1_000_000) -> None:
        self._limit = limit
        self._wanted = wanted
        self.begun = 0
        self._changed = asyncio.Event()

    def begin(self) -> None:
        while self.begun < self._wanted and self._limit.acquire(self.begin):
            self.begun += 1
        self._changed.set()

    def exchange(self, logins: int) -> None:
        for _ in range(logins):
            self._limit.exchanged()

    def release(self, logins: int) -> None:
        for _ in range(logins):
            self._limit.release(self.begin)

    def end(self, logins: int) -> None:
        for _ in range(logins):
            self.exchange(1)
            self.release(1)

    async def has_begun(self, logins: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while self.begun < logins:
                self._changed.clear()
                await self._changed.wait()


def limit_of(loop: Loop, max_exchanges: int = 10_000) -> LoginLimit:
    return LoginLimit(max_exchanges, sample=SAMPLE, clock=loop.clock, cpu_time=loop.cpu_time)


async def test_an_idle_loop_doubles_the_limit_while_logins_are_refused() -> None:
    service = Service(limit_of(Loop()))
    service.begin()
    assert service.begun == FLOOR
    for doubled in (2, 4, 8):
        await service.has_begun(doubled * FLOOR)


@pytest.mark.parametrize("loop", [Loop(busy=0.9), Loop(late=2), Loop(busy=0.5, late=0.5)])
async def test_a_busy_or_late_loop_does_not_raise_the_limit(loop: Loop) -> None:
    service = Service(limit_of(loop))
    service.begin()
    await loop.samples(20)
    assert service.begun == FLOOR
    loop.busy = loop.late = 0
    await service.has_begun(2 * FLOOR)


async def test_the_limit_does_not_grow_while_wechat_answers_too_slowly() -> None:
    loop = Loop(busy=1)
    service = Service(limit_of(loop))
    service.begin()
    service.end(1)
    await loop.samples(60)
    loop.busy = 0
    await loop.samples(20)
    assert service.begun == FLOOR + 1
    service.end(FLOOR)
    await service.has_begun(3 * FLOOR)


async def test_the_limit_does_not_grow_while_most_logins_wait_for_a_store() -> None:
    loop = Loop(busy=1)
    service = Service(limit_of(loop))
    service.begin()
    await loop.samples(20)
    service.exchange(FLOOR - 1)
    loop.busy = 0
    await loop.samples(20)
    assert service.begun == FLOOR
    service.release(FLOOR - 1)
    await service.has_begun(3 * FLOOR)


async def test_the_limit_never_allows_more_exchanges_than_there_are_connections() -> None:
    loop = Loop()
    limit = limit_of(loop, max_exchanges=1500)
    service = Service(limit)
    service.begin()
    await service.has_begun(1500)
    await loop.samples(20)
    assert service.begun == limit.exchanges == 1500
    limit.exchanged()
    assert service.begun == 1501


async def test_the_limit_falls_back_when_it_is_not_needed() -> None:
    loop = Loop()
    limit = limit_of(loop)
    service = Service(limit, wanted=8 * FLOOR)
    service.begin()
    await service.has_begun(8 * FLOOR)
    service.end(8 * FLOOR)
    loop.busy = 1
    while limit._timer is not None:  # noqa: ASYNC110 (it samples no more once it is down)
        await asyncio.sleep(0)
    later = Service(limit)
    later.begin()
    assert later.begun == FLOOR


async def test_services_that_were_refused_take_turns() -> None:
    limit = limit_of(Loop(busy=1))
    services = [Service(limit) for _ in range(3)]
    for service in services:
        service.begin()
    assert [service.begun for service in services] == [FLOOR, OWN, OWN]
    services[0].end(2 * OWN + 6)
    assert [service.begun for service in services] == [FLOOR + 2, OWN + 2, OWN + 2]


async def test_a_service_that_needs_no_slot_leaves_it_to_the_next() -> None:
    limit = limit_of(Loop(busy=1))
    first, second = Service(limit), Service(limit)
    first.begin()
    second.begin()
    first._wanted = 0
    first.end(OWN + 1)
    assert (first.begun, second.begun) == (FLOOR, OWN + 1)


async def test_a_service_goes_on_while_all_logins_of_another_hang() -> None:
    limit = limit_of(Loop(busy=1))
    hung, well = Service(limit), Service(limit)
    hung.begin()
    well.begin()
    well.end(5)
    assert (hung.begun, well.begun) == (FLOOR, OWN + 5)


async def test_a_service_goes_on_while_another_has_all_exchanges() -> None:
    limit = limit_of(Loop(busy=1), max_exchanges=FLOOR - 10)
    hung, well = Service(limit), Service(limit)
    hung.begin()
    well.begin()
    well.end(5)
    assert (hung.begun, well.begun) == (FLOOR - 10, OWN + 5)


async def test_one_connection_is_never_shared_out_twice_to_a_service() -> None:
    service = Service(limit_of(Loop(busy=1), max_exchanges=1))
    service.begin()
    assert service.begun == 1
