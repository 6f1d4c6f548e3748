"""InFlight by itself: closing leaves nothing half open, and a cut-off harms no caller's task."""

import asyncio

import pytest

from mpauthx_async import ClosedError
from mpauthx_async.concurrency.in_flight import InFlight


class Shop:
    """Something with three parts, which notes what was closed."""

    def __init__(self) -> None:
        self.calls = InFlight(self, "This shop")
        self.closed: list[str] = []
        self.gate = asyncio.Event()
        self.calls.on_close(self.close_first)
        self.calls.on_close(self.close_second)
        self.calls.on_close(self.close_third)

    async def close_first(self) -> None:
        self.closed.append("first")

    async def close_second(self) -> None:
        self.closed.append("second")
        raise OSError("the second part fails")

    async def close_third(self) -> None:
        await self.gate.wait()
        self.closed.append("third")


async def test_a_part_that_fails_keeps_no_other_open() -> None:
    shop = Shop()
    shop.gate.set()
    with pytest.raises(OSError, match="the second part"):
        await shop.calls.close()
    assert shop.closed == ["third", "second", "first"]
    await shop.calls.close()  # there is nothing left to do
    assert shop.closed == ["third", "second", "first"]


def test_a_loop_that_ends_meanwhile_keeps_no_part_open() -> None:
    async def main() -> Shop:
        shop = Shop()
        closing = asyncio.create_task(shop.calls.close())
        await asyncio.sleep(0)
        assert not closing.done()
        return shop

    assert asyncio.run(main()).closed == ["second", "first"]


async def test_a_call_that_was_cut_off_can_be_cancelled_by_others_too() -> None:
    shop = Shop()

    async def call() -> None:
        with shop.calls.one():
            await asyncio.Event().wait()

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    task.cancel()
    shop.calls.cut_off()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_task_of_a_call_that_was_cut_off_goes_on() -> None:
    shop, reached = Shop(), asyncio.Event()

    async def wait() -> None:
        with shop.calls.one():
            reached.set()
            await asyncio.Event().wait()

    async def call() -> str:
        with pytest.raises(ClosedError):
            await wait()
        await asyncio.sleep(0)  # a cancellation that was left over would be raised here
        return "went on"

    task = asyncio.create_task(call())
    await reached.wait()
    shop.calls.cut_off()
    assert await task == "went on"
