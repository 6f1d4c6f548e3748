"""Rows that SQLite refuses or cannot read: each fails alone, and the rest of its batch succeeds."""

import re
import sqlite3
from collections.abc import Callable, Sequence
from typing import TypeVar

from ...errors import StoreError
from ...store_errors import all_or_partial
from .database import transaction

__all__ = ["do_each", "is_bad_row"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_ERRORS = (sqlite3.Error, StoreError, ArithmeticError, TypeError, ValueError)
_PRIMARY_CODE = 0xFF  # the lower byte of an extended result code
_BAD_ROW_CODES = frozenset(
    (
        sqlite3.SQLITE_ERROR,  # raised by functions that a CHECK or a trigger calls
        sqlite3.SQLITE_TOOBIG,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_RANGE,
    )
)
_QUOTED_TEXT = re.compile(r" with text '.*", re.DOTALL)  # Python quotes text that is not UTF-8


def do_each(
    cursor: sqlite3.Cursor,
    items: Sequence[Item],
    work: Callable[[Sequence[Item]], Sequence[Result]],
) -> Sequence[Result]:
    """Read or write a batch, or each item alone if the batch fails for a bad row.

    Items that are written alone have a savepoint each in one transaction, so all cost one sync to
    disk. All writes of a refused item are undone: `work` writes inside `transaction(cursor)`.

    Raises:
        PartialStoreError: if some items fail; the others are written.
        StoreError: if the only item fails.
    """
    try:
        return work(items)
    except _ERRORS as error:
        if not is_bad_row(error):
            raise
        refusal = _refusal(error)
    if len(items) < 2:
        raise refusal
    answers = list[Result | StoreError]()
    try:
        with transaction(cursor):
            for item in items:
                answers.append(_alone(work, item))
                _check_in_transaction(cursor)
    except sqlite3.IntegrityError:
        # A trigger's RAISE(ROLLBACK) ended the transaction, or COMMIT found a deferred foreign key
        # violated. Both undo all items, so each gets a transaction of its own.
        answers = [_alone(work, item) for item in items]
    return all_or_partial(answers)


def is_bad_row(error: Exception) -> bool:
    """Whether an error concerns one row: the file was there, unlocked and whole."""
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", None)
        if code is None:  # Python could not convert a value, or the connection is closed
            return "closed" not in str(error)
        return code & _PRIMARY_CODE in _BAD_ROW_CODES
    return isinstance(error, _ERRORS)


def _check_in_transaction(cursor: sqlite3.Cursor) -> None:
    if not cursor.connection.in_transaction:
        raise sqlite3.IntegrityError("A trigger rolled back the transaction.")


def _alone(work: Callable[[Sequence[Item]], Sequence[Result]], item: Item) -> Result | StoreError:
    try:
        (answer,) = work([item])
    except _ERRORS as error:
        if not is_bad_row(error):
            raise
        return _refusal(error)
    return answer


def _refusal(error: Exception) -> StoreError:
    if isinstance(error, StoreError):
        return error
    reason = _QUOTED_TEXT.sub("", str(error))
    refused = StoreError(
        f"SQLite refused a row or could not read it ({reason}). Correct the row, the value, or the "
        "table's constraint or trigger; other rows are not affected."
    )
    refused.__cause__ = error
    refused.retryable = False
    return refused
