"""What an exception of SQLAlchemy or a driver means, and the error that it becomes."""

import re

from sqlalchemy.engine import URL
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, StatementError

from ...errors import ConfigurationError, StoreError

__all__ = [
    "database_name",
    "invalid_option",
    "is_conflict",
    "is_held",
    "is_lost",
    "is_read_only",
    "is_refusal",
    "is_timeout",
    "refusal",
    "store_error",
]

# SQLSTATEs of PostgreSQL, and error numbers of MySQL and MariaDB.
_DEADLOCKS = {"40001", "40P01", 1213, 1020}
_HELD = {"55P03", 1205, 3572}
_TIMEOUTS = {"57014", 1969, 3024}
_READ_ONLY = {"25006", 1290, 1792, 1836}
_FORBIDDEN = {"28P01", "28000", "42501", "3D000", 1044, 1045, 1049, 1142, 1143}
_UNREACHABLE = {"57P01", "57P03", 2002, 2003, 2006, 2013}
_MISSING = {"42P01", "42703", 1054, 1146}
_REFUSALS = {"P0001", 1364, 1366, 1406, 1644, 3819, 4025}  # triggers, constraints and values
_REFUSED_CLASSES = ("22", "23", "44")  # the first two characters of SQLSTATEs
# psycopg gives no SQLSTATE while it connects.
_FORBIDDEN_TEXT = re.compile(r"authentication failed|database \".*\" does not exist")
_UNREACHABLE_TEXT = re.compile(
    r"connection (failed|timeout|refused)|too many clients", re.IGNORECASE
)
_UNKNOWN_OPTION = re.compile(r"unexpected keyword argument '(\w{1,40})'", re.ASCII)
_INVALID_OPTION = re.compile(r'invalid (?:connection|URI query) option "(\w{1,40})"', re.ASCII)
_CLASS_OF_ERROR = re.compile(r"^<class '[\w.]+'>: ")
_MAX_REASON = 300  # characters


def database_name(url: URL) -> str:
    """The name of a database in messages, without user, password and options."""
    where = f" at {url.host}{f':{url.port}' if url.port else ''}" if url.host else ""
    return f"The database {url.database or ''}{where} ({url.drivername})"


def is_conflict(error: Exception) -> bool:
    """Whether another process was faster, so that a new plan may succeed."""
    return isinstance(error, IntegrityError) or _code(error) in _DEADLOCKS


def is_lost(error: Exception) -> bool:
    """Whether the connection was lost. Others in the pool are dropped by SQLAlchemy then."""
    is_dropped = isinstance(error, DBAPIError) and error.connection_invalidated
    return is_dropped and not is_read_only(error)


def is_read_only(error: BaseException) -> bool:
    """Whether the server, or the transaction, is read-only."""
    return _code(error) in _READ_ONLY


def is_held(error: Exception) -> bool:
    """Whether another transaction held a row for too long."""
    return _code(error) in _HELD


def is_timeout(error: Exception) -> bool:
    """Whether a statement, which may have waited for a lock, took longer than the server allows."""
    return _code(error) in _TIMEOUTS


def is_refusal(error: Exception) -> bool:
    """Whether the database refuses one of the rows, and may take the others."""
    if isinstance(error, DBAPIError):
        code = _code(error)
        return (
            isinstance(error, (IntegrityError, DataError))
            or code in _REFUSALS
            or str(code)[:2] in _REFUSED_CLASSES
        )
    if isinstance(error, StoreError):
        return not error.retryable
    return isinstance(error, (StatementError, UnicodeError, TypeError, ArithmeticError, ValueError))


def refusal(error: Exception) -> StoreError:
    """The error of the caller whose row is refused."""
    if isinstance(error, StoreError):
        return error
    refused = StoreError(
        f"The database refused a row ({_reason(error)}). Correct the value, or the table's "
        "constraint, foreign key or trigger; other rows are not affected."
    )
    refused.__cause__ = error
    refused.retryable = False
    return refused


def invalid_option(error: Exception) -> ConfigurationError | None:
    """The error if the driver does not know an option of the URL."""
    option = _UNKNOWN_OPTION.search(str(error)) or _INVALID_OPTION.search(str(error))
    if option is None:
        return None
    return ConfigurationError(
        f"The driver does not take the option {option[1]!r} in the URL of the database: check its "
        "spelling."
    )


def store_error(name: str, error: Exception) -> StoreError:
    """The error that a failure of the database becomes; `name` is that of the database."""
    text, code = str(error), _code(error)
    is_retryable = True
    if is_conflict(error):
        advice = "Other processes kept changing the same users: try again."
    elif code in _HELD:
        advice = (
            "Another transaction, of the application or of another process, has held the user's "
            "row for too long."
        )
    elif code in _TIMEOUTS:
        advice = "A statement or a lock took longer than the server allows."
    elif code in _READ_ONLY:
        advice = (
            "The server is read-only, as after a failover. The pool's connections to it were "
            "dropped, so that the next call finds the new one."
        )
    elif code in _FORBIDDEN or _FORBIDDEN_TEXT.search(text):
        advice = "Check user, password and name of the database, and what the user may do."
        is_retryable = False
    elif code in _MISSING or "no such" in text:
        advice = "A table or column is missing: run your migrations."
        is_retryable = False
    elif _is_unreachable(error):
        advice = "Check that the server runs and can be reached."
    else:
        advice = "Check the server and its log."
    failure = StoreError(f"{name} failed ({_reason(error)}). {advice}")
    failure.retryable = is_retryable
    return failure


def _is_unreachable(error: Exception) -> bool:
    return (
        is_lost(error)
        or isinstance(error, OSError)
        or _code(error) in _UNREACHABLE
        or _UNREACHABLE_TEXT.search(str(error)) is not None
    )


def _code(error: BaseException) -> object:
    """The SQLSTATE of PostgreSQL or the error number of MySQL; None if there is neither."""
    cause: object = getattr(error, "orig", None) or error
    if isinstance(cause, Exception) and cause.args and isinstance(cause.args[0], int):
        return cause.args[0]
    return getattr(cause, "sqlstate", None)


def _reason(error: Exception) -> str:
    """The first line of the driver's message: the others have values of the row."""
    cause = getattr(error, "orig", None) or error
    line = str(cause).strip().partition("\n")[0]
    return _CLASS_OF_ERROR.sub("", line)[:_MAX_REASON] or type(cause).__name__
