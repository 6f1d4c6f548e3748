"""Batches in SQLite: if the data of one item makes a batch fail, each item is done alone."""

import sqlite3
from collections.abc import Callable, Sequence
from typing import TypeVar

from ...errors import PartialStoreError, StoreError
from .database import transaction
from .refusals import DATA_ERRORS, is_about_data, refusal

__all__ = ["read_each", "write_each"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_each(
    items: Sequence[Item], work: Callable[[Sequence[Item]], Sequence[Result]]
) -> Sequence[Result]:
    """Read a batch, or each item alone if the batch fails for its data.

    Args:
        items: what is asked for.
        work: reads some of the items; returns an answer for each, in the same order.

    Raises:
        PartialStoreError: some items failed.
        StoreError: the only item failed.
    """
    try:
        return work(items)
    except DATA_ERRORS as error:
        _check_repeatable(items, error)
    return _all_or_partial([_alone(work, item) for item in items])


def write_each(
    cursor: sqlite3.Cursor,
    items: Sequence[Item],
    work: Callable[[Sequence[Item]], Sequence[Result]],
) -> Sequence[Result]:
    """Write a batch, or each item alone if the batch fails for its data.

    Alone, each item is written under a savepoint of one transaction, which is one sync to disk for
    all. Whatever a refused item has written is undone.

    Args:
        cursor: of the database.
        items: what is to be written.
        work: writes some of the items, inside `transaction(cursor)`; returns an answer for each,
            in the same order.

    Raises:
        PartialStoreError: some items failed; the others are written.
        StoreError: the only item failed.
    """
    try:
        return work(items)
    except DATA_ERRORS as error:
        _check_repeatable(items, error)
    try:
        with transaction(cursor):
            answers = [_within(cursor, work, item) for item in items]
    except sqlite3.IntegrityError:
        # A trigger's RAISE(ROLLBACK) ended the transaction, or COMMIT found a deferred foreign key
        # violated. Both undo all items, so each gets a transaction of its own.
        answers = [_alone(work, item) for item in items]
    return _all_or_partial(answers)


def _check_repeatable(items: Sequence[object], error: Exception) -> None:
    """Raise what is not about data, and what the only item of a batch caused."""
    if not is_about_data(error):
        raise error
    if len(items) < 2:
        raise refusal(error)


def _within(
    cursor: sqlite3.Cursor, work: Callable[[Sequence[Item]], Sequence[Result]], item: Item
) -> Result | StoreError:
    answer = _alone(work, item)
    if not cursor.connection.in_transaction:
        raise sqlite3.IntegrityError("A trigger rolled back the transaction.")
    return answer


def _alone(work: Callable[[Sequence[Item]], Sequence[Result]], item: Item) -> Result | StoreError:
    try:
        (answer,) = work([item])
    except DATA_ERRORS as error:
        if not is_about_data(error):
            raise
        return refusal(error)
    return answer


def _all_or_partial(answers: Sequence[Result | StoreError]) -> Sequence[Result]:
    answered = [answer for answer in answers if not isinstance(answer, StoreError)]
    if len(answered) < len(answers):
        raise PartialStoreError(answers)
    return answered
