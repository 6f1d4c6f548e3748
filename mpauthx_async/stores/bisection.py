"""Bisection: splits a batch until an item that the database refuses fails alone."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from ..errors import StoreError
from ..store_errors import all_or_partial

__all__ = ["run_bisected"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_MAX_BATCH = 500


async def run_bisected(
    items: Sequence[Item],
    work: Callable[[Sequence[Item]], Awaitable[Sequence[Result | StoreError]]],
    refusal_of: Callable[[Exception], StoreError | None],
) -> Sequence[Result]:
    """Do work for a batch; if the database refuses an item, repeat it for each half.

    Args:
        items: in parts of at most 500.
        work: returns for each item a result, or the error of an item that failed alone.
        refusal_of: the error of the refused item, for an exception of `work`; None for a failure of
            the whole batch.

    Raises:
        PartialStoreError: if some items are refused.
        StoreError: if the only item is refused.
    """

    async def halves(some: Sequence[Item]) -> list[Result | StoreError]:
        try:
            return [*await work(some)]
        except Exception as error:
            refused = refusal_of(error)
            if refused is None:
                raise
        if len(some) == 1:
            return [refused.with_traceback(None)]
        half = len(some) // 2
        return [*await halves(some[:half]), *await halves(some[half:])]

    answers: list[Result | StoreError] = []
    for start in range(0, len(items), _MAX_BATCH):
        answers += await halves(items[start : start + _MAX_BATCH])
    return all_or_partial(answers)
