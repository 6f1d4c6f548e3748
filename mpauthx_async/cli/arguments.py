"""What the arguments of the command line may be, and a parser that keeps passwords to itself."""

import argparse
import re
from collections.abc import Sequence
from typing import NoReturn

from ..models import is_user_id
from .text import visible

__all__ = ["Parser", "duration", "guarded", "limit", "reason", "session_id", "user_id"]

_DURATION = re.compile(r"([0-9]{1,5})([smhd])")
_UNITS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}  # milliseconds
_SESSION_ID = re.compile(r"[A-Za-z0-9_-]{16}")
_MOST_USERS = 10_000  # on a page
_DASHED_ID = re.compile(r"-[A-Za-z0-9_-]{15}")
_GUARD = "\0"  # which no argument of a process can hold


class Parser(argparse.ArgumentParser):
    """argparse's parser."""

    def error(self, message: str) -> NoReturn:
        """Quote no URL that strayed from its option: it may hold a password."""
        super().error(visible(re.sub(r"://\S*", "://...", message)))


def guarded(arguments: Sequence[str]) -> list[str]:
    """Arguments in which argparse takes no session id for an option, as one in 64 begins with -.

    The types here take the guard away again. No option looks like a session id.
    """
    return [f"{_GUARD}{text}" if _DASHED_ID.fullmatch(text) else text for text in arguments]


def user_id(text: str) -> str:
    """A user id."""
    text = text.removeprefix(_GUARD)
    if not is_user_id(text):
        raise argparse.ArgumentTypeError(
            "a user id is 1 to 128 characters without '|', white space or control characters"
        )
    return text


def session_id(text: str) -> str:
    """The id of a session."""
    text = text.removeprefix(_GUARD)
    if not _SESSION_ID.fullmatch(text):
        raise argparse.ArgumentTypeError(
            "a session id is 16 letters, digits, - or _, as `sessions list` tells it"
        )
    return text


def duration(text: str) -> int:
    """How long, in milliseconds."""
    form = _DURATION.fullmatch(text)
    if form is None or not int(form[1]):
        raise argparse.ArgumentTypeError("a duration is a number and a unit: 90s, 30m, 12h or 7d")
    return int(form[1]) * _UNITS[form[2]]


def reason(text: str) -> str:
    """A text that stores can keep."""
    text = text.removeprefix(_GUARD)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError("it is not in the encoding of this terminal") from None
    return text


def limit(text: str) -> int:
    """How many users on a page."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= _MOST_USERS:
        raise argparse.ArgumentTypeError(f"it is a number from 1 to {_MOST_USERS}")
    return int(text)
