"""What failures of redis-py mean to callers, and what to do about them."""

import re

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ReadOnlyError,
    RedisClusterException,
    ResponseError,
    TryAgainError,
)

from ...errors import StoreError
from ...redis_sentinels import SentinelRefusedError

__all__ = ["damaged_error", "is_replica", "redacted_text", "store_error"]

# Before Redis 7 READONLY is inside a script's error; redis-py 5 has no class for MASTERDOWN.
_REPLICA = re.compile(r"\bREADONLY |^MASTERDOWN ")

# Redis repeats the arguments of a command that it does not know: those of HELLO are a password.
_ARGUMENTS = re.compile(r",? with args beginning with:.*", re.DOTALL)
_UNKNOWN = re.compile(r"unknown command ['`]([\w|-]+)", re.IGNORECASE)
_FORBIDDEN = re.compile(r"no permissions to run the '([\w|-]+)' command", re.IGNORECASE)
# What is forbidden without the name of the command: keys, and the commands of a script, before and
# since Redis 7.2. Valkey begins with a capital.
_FORBIDDEN_UNNAMED = re.compile(
    r"no permissions to|executing the script can't|ACL failure in script", re.IGNORECASE
)


def is_replica(answer: object) -> bool:
    """Whether a server refused a command because it is a replica."""
    if isinstance(answer, ReadOnlyError):
        return True
    return isinstance(answer, ResponseError) and _REPLICA.search(str(answer)) is not None


def redacted_text(error: BaseException) -> str:
    """Remove the arguments of commands from a failure and its causes; returns its text."""
    if _ARGUMENTS.search(str(error)):
        error.args = (_ARGUMENTS.sub("", str(error)),)
    for cause in {error.__cause__, error.__context__}:
        if cause is not None:
            redacted_text(cause)
    return str(error)


def store_error(error: Exception) -> StoreError:
    """Make the StoreError for a failure of redis-py or a script; its cause is that failure."""
    told = redacted_text(error)
    operator_advice = _operator_advice(_root_of(error), told)
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
    failure = StoreError(
        "Redis holds this session or ban in an unknown format. Delete its key; the user then logs "
        "in again."
    )
    failure.retryable = False
    return failure


def _root_of(error: BaseException) -> BaseException:
    """The failure of a node, if it kept a cluster's slots from being learned."""
    while isinstance(error, RedisClusterException) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _operator_advice(error: BaseException, told: str) -> str | None:
    """Advice for a failure that only the operator can remedy; None for other failures."""
    if "NOPROTO" in told or ("HELLO" in told and "unknown command" in told):
        return "It does not speak RESP3: add ?protocol=2 to its URL."
    if isinstance(error, SentinelRefusedError):
        return "The Redis itself was not asked."
    if refused := _UNKNOWN.search(told) or _FORBIDDEN.search(told):
        return _refusal_advice(refused[1].lower(), is_unknown="unknown" in refused[0].lower())
    if _FORBIDDEN_UNNAMED.search(told):
        return (
            "Its ACL forbids this user a command or key: ACL LOG shows which, and the "
            "documentation has an ACL rule that is enough."
        )
    if "certificate verify failed" in told.lower():
        return (
            "Its certificate does not verify: check the clock of this machine, and pass the "
            "certificate of its authority with ?ssl_ca_certs=FILE in the URL."
        )
    if isinstance(error, AuthenticationError):
        return "Check the user and the password in its URL."
    if "DB index is out of range" in told:
        return "It has fewer databases than the number in its URL."
    if "SELECT is not allowed in cluster mode" in told:
        return "It is a Redis Cluster: its URL is redis+cluster://host, without a database."
    return None


def _refusal_advice(command: str, *, is_unknown: bool) -> str:
    """Advice if a command is refused; `command` is as in an ACL rule, such as client|setname."""
    name = command.upper().replace("|", " ")
    less = " Or take client_name off its URL." if command in ("client", "client|setname") else ""
    if is_unknown:
        return (
            f"It has no command {name}, or its provider forbids it: use one that allows it.{less}"
        )
    return (
        f"Allow its user to run {name}, with +{command}: the documentation has an ACL rule that "
        f"is enough.{less}"
    )


def _caller_advice(error: Exception) -> str:
    if isinstance(error, TryAgainError):
        return "The Redis Cluster is moving this slot to another node: try again in a moment."
    if is_replica(error):
        return "Its address leads to a replica: it must lead to the primary."
    if isinstance(error, (ResponseError, BusyLoadingError)):
        return "Check that it is up, reachable and writable."
    return (
        "Check that it is up and can be reached, and whether it speaks TLS: then its URL begins "
        "with rediss."
    )
