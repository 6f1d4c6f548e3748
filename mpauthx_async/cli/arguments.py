"""The arguments of the command line: their types, and a parser whose errors hide passwords."""

import argparse
import re
from collections.abc import Sequence
from typing import NoReturn

from ..models import is_user_id
from .text import visible

__all__ = ["Parser", "duration", "guard_session_ids", "limit", "reason", "session_id", "user_id"]

_UNITS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}  # milliseconds
_MAX_USERS = 10_000  # on a page
_GUARD = "\0"  # cannot be in an argument of a process


class Parser(argparse.ArgumentParser):
    """argparse's parser, whose error messages show no URL: it may contain a password."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message, and exit with 2."""
        super().error(visible(re.sub(r"://\S*", "://...", message)))


def guard_session_ids(arguments: Sequence[str]) -> list[str]:
    """Prefix session ids that begin with a dash, which argparse would take for options.

    The types below remove the prefix. No option is as long as a session id.
    """
    dashed_id = re.compile(r"-[A-Za-z0-9_-]{15}")
    return [f"{_GUARD}{text}" if dashed_id.fullmatch(text) else text for text in arguments]


def user_id(text: str) -> str:
    """The type of a user id."""
    text = text.removeprefix(_GUARD)
    if not is_user_id(text):
        raise argparse.ArgumentTypeError(
            "a user id is 1 to 128 characters without '|', white space or control characters"
        )
    return text


def session_id(text: str) -> str:
    """The type of a session id."""
    text = text.removeprefix(_GUARD)
    if not re.fullmatch(r"[A-Za-z0-9_-]{16}", text):
        raise argparse.ArgumentTypeError(
            "a session id is 16 letters, digits, - or _, as `sessions list` shows it"
        )
    return text


def duration(text: str) -> int:
    """The type of a duration; returns milliseconds."""
    match = re.fullmatch(r"([0-9]{1,5})([smhd])", text)
    if match is None or not int(match[1]):
        raise argparse.ArgumentTypeError("a duration is a number and a unit: 90s, 30m, 12h or 7d")
    return int(match[1]) * _UNITS[match[2]]


def reason(text: str) -> str:
    """The type of a reason: a text that stores can keep."""
    text = text.removeprefix(_GUARD)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("it is not in the encoding of this terminal") from None
    return text


def limit(text: str) -> int:
    """The type of the number of users on a page."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= _MAX_USERS:
        raise argparse.ArgumentTypeError(f"it is a number from 1 to {_MAX_USERS}")
    return int(text)
