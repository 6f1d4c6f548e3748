"""What failures of redis-py mean to callers, and what to do about them."""

import re

from redis.exceptions import (
    AuthenticationError,
    NoPermissionError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

from ...errors import StoreError

__all__ = ["damaged_error", "is_replica", "store_error"]

# Before Redis 7 READONLY is inside a script's error; redis-py 5 has no class for MASTERDOWN.
_REPLICA = re.compile(r"\bREADONLY |^MASTERDOWN ")


def is_replica(answer: object) -> bool:
    """Whether a server refused a command because it is a replica."""
    if isinstance(answer, ReadOnlyError):
        return True
    return isinstance(answer, ResponseError) and _REPLICA.search(str(answer)) is not None


def store_error(error: Exception) -> StoreError:
    """Make the StoreError for a failure of redis-py or a script; its cause is that failure."""
    told = str(error)
    operator_advice = _operator_advice(error, told)
    if told.startswith("DAMAGED"):  # an error of prelude.lua
        failure = damaged_error()
    else:
        text = told.rstrip(".") or "no answer in time"
        failure = StoreError(
            f"Redis failed ({type(error).__name__}: {text}). "
            f"{operator_advice or _caller_advice(error)}"
        )
        failure.retryable = operator_advice is None
    failure.__cause__ = error
    return failure


def damaged_error() -> StoreError:
    """Make the StoreError for a session or ban in a format that this package does not write."""
    return StoreError(
        "Redis holds this session or ban in an unknown format. Delete its key; the user then logs "
        "in again."
    )


def _operator_advice(error: Exception, told: str) -> str | None:
    """Advice for a failure that only the operator can remedy; None for other failures."""
    if "NOPROTO" in told or ("HELLO" in told and "unknown command" in told):
        return "It does not speak RESP3: add ?protocol=2 to its URL."
    if isinstance(error, NoPermissionError):
        return "Allow the command to its user: the documentation has an ACL rule that is enough."
    if "certificate verify failed" in told.lower():
        return (
            "Its certificate does not verify: check the clock of this machine, and pass the "
            "certificate of its authority with ?ssl_ca_certs=FILE in the URL."
        )
    if isinstance(error, AuthenticationError):
        return "Check the user and the password in its URL."
    if "DB index is out of range" in told:
        return "It has fewer databases than the number in its URL."
    return None


def _caller_advice(error: Exception) -> str:
    if isinstance(error, TryAgainError):
        return "The Redis Cluster is moving this slot to another node: try again in a moment."
    if is_replica(error):
        return "Its address leads to a replica: it must lead to the primary."
    return "Check that it is up, reachable and writable; the call can be repeated."
