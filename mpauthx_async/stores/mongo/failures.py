"""What a failure of MongoDB or PyMongo means, and the error that it becomes."""

from collections.abc import Mapping
from typing import Any

from bson.errors import BSONError
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    DocumentTooLarge,
    InvalidName,
    InvalidURI,
    NetworkTimeout,
    OperationFailure,
    PyMongoError,
    WaitQueueTimeoutError,
)

from ...errors import ConfigurationError as SettingsError
from ...errors import MPAuthXError, StoreError

__all__ = [
    "OVERDUE",
    "held",
    "is_duplicate",
    "is_duplicate_key",
    "is_held",
    "is_lost",
    "is_overdue",
    "is_unwritable",
    "refusal",
    "store_error",
]

# Error codes of MongoDB.
_DUPLICATES = {11000, 11001, 12582}
_FORBIDDEN = {8000, 13, 18, 33}
_WRITE_CONFLICT = 112
OVERDUE = 50  # MaxTimeMSExpired
_TOO_LARGE = {10334, 17280}
_TIMEOUTS = {50, 64, 202, 262}
_MAX_REASON = 300  # characters


def is_duplicate(error: Mapping[str, Any]) -> bool:
    """Whether a write error says that a unique index has the value already."""
    return error.get("code") in _DUPLICATES


def is_duplicate_key(error: Mapping[str, Any]) -> bool:
    """Whether a write error says that a document with this _id was inserted already."""
    reason = _first_part(str(error.get("errmsg", "")))
    return is_duplicate(error) and reason.endswith(" index: _id_")


def is_held(code: object) -> bool:
    """Whether a write waited too long for a document that a transaction changes."""
    return code in (OVERDUE, _WRITE_CONFLICT)


def is_overdue(error: PyMongoError) -> bool:
    """Whether the server was asked and did not do its work in time, as far as PyMongo waited."""
    return isinstance(error, NetworkTimeout) or getattr(error, "code", None) == OVERDUE


def is_lost(error: Exception) -> bool:
    """Whether the connection or the primary was lost, so that the work may be done anew."""
    return isinstance(error, AutoReconnect) and not error.timeout


def is_unwritable(error: Exception) -> bool:
    """Whether BSON or MongoDB has no form for a value of a document or query."""
    if isinstance(error, OperationFailure) and error.code in _TOO_LARGE:
        return True
    return isinstance(error, (BSONError, DocumentTooLarge, UnicodeError, OverflowError))


def held() -> StoreError:
    """The error of the caller whose document a transaction of the application holds."""
    return StoreError(
        "A document of the user could not be written in time: a transaction of the application "
        "holds it, or the server is slow. Keep transactions short."
    )


def refusal(error: Exception | Mapping[str, Any]) -> StoreError:
    """The error of the caller whose document is refused."""
    text = error.get("errmsg", "") if isinstance(error, Mapping) else error
    refused = StoreError(
        f"MongoDB refused a document ({_first_part(str(text))}). Correct the value, or the "
        "collection's validator or unique index; other documents are not affected."
    )
    refused.retryable = False
    return refused


def store_error(name: str, error: Exception) -> MPAuthXError:
    """The error that a failure becomes; `name` is that of the database in messages."""
    code = error.code if isinstance(error, OperationFailure) else None
    is_retryable = True
    if isinstance(error, (ConfigurationError, InvalidURI, InvalidName)):
        return SettingsError(f"{name} cannot be used ({_first_part(str(error))}).")
    if code in _FORBIDDEN:
        advice = (
            "Check user, password and authSource in its URL, and that the user may read and write "
            "there."
        )
        is_retryable = False
    elif isinstance(error, WaitQueueTimeoutError):
        advice = "All connections of the pool are in use: raise maxPoolSize."
    elif code in _TIMEOUTS or (isinstance(error, PyMongoError) and error.timeout):
        advice = "It is slow or cannot be reached: check that the server runs."
    elif isinstance(error, ConnectionFailure):
        advice = "Check that the server runs and can be reached."
    else:
        advice = "Check the server and its log."
    failure = StoreError(f"{name} failed ({_reason(error)}). {advice}")
    failure.retryable = is_retryable
    return failure


def _reason(error: Exception) -> str:
    """What went wrong, without the values of documents."""
    if isinstance(error, BulkWriteError):  # whose text has the documents
        details = error.details or {}
        errors = [*details.get("writeErrors", ()), *details.get("writeConcernErrors", ())]
        return _first_part(str(errors[0].get("errmsg", ""))) if errors else type(error).__name__
    return _first_part(str(error)) or type(error).__name__


def _first_part(text: str) -> str:
    """The part of a message before the values of a document, or before details of the topology."""
    line = text.strip().partition("\n")[0]
    for mark in (" dup key:", ", full error:", ", Timeout:", " (configured timeouts:"):
        line = line.partition(mark)[0]
    return line[:_MAX_REASON]
