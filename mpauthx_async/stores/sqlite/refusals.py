"""Which failures of SQLite are about the data of one row, and what is said of them."""

import re
import sqlite3

from ...errors import StoreError

__all__ = ["DATA_ERRORS", "is_about_data", "refusal"]

DATA_ERRORS = (sqlite3.Error, StoreError, ArithmeticError, TypeError, ValueError)
"""What reading or writing a row raises; of sqlite3's, `is_about_data` tells which are meant."""

_PRIMARY_CODE = 0xFF  # the lower byte of an extended result code
# SQLITE_ERROR is what functions raise that a CHECK or a trigger calls, such as json_extract().
_CODES = frozenset(
    (
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_TOOBIG,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_RANGE,
    )
)
_TEXT = re.compile(r" with text '.*", re.DOTALL)  # Python quotes text that is not UTF-8


def is_about_data(error: Exception) -> bool:
    """Whether another row might not have failed: the file was there, unlocked and whole."""
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", None)
        if code is None:  # Python could not convert a value, or the connection is closed
            return "closed" not in str(error)
        return code & _PRIMARY_CODE in _CODES
    return isinstance(error, DATA_ERRORS)


def refusal(error: Exception) -> StoreError:
    """The StoreError of the row that caused an error about data."""
    if isinstance(error, StoreError):
        return error
    reason = _TEXT.sub("", str(error))
    refused = StoreError(
        f"SQLite does not accept or return a row ({reason}). Correct the row, the value, or the "
        "table's constraint or trigger; other rows are not affected."
    )
    refused.__cause__ = error
    refused.retryable = False
    return refused
