"""The arguments of the command line: their types, and a parser whose errors hide passwords."""

import argparse
import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from ..models import is_user_id
from ..sessions.bans import MAX_BAN_SECONDS, MAX_REASON
from ..untrusted_text import is_one_line
from .text import visible

__all__ = [
    "Parser",
    "duration",
    "guard_session_ids",
    "limit",
    "nearest",
    "port",
    "reason",
    "session_id",
    "user_id",
]

_UNITS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}  # milliseconds
_MAX_USERS = 10_000  # on a page
_MAX_PORT = 65_535
_DASHES = ("-", "\N{EN DASH}", "\N{EM DASH}")  # also as word processors write them
_GUARD = "\0"  # cannot be in an argument of a process


class Parser(argparse.ArgumentParser):
    """argparse's parser, whose errors show no secrets, and name the option that was meant.

    Options are not abbreviated: argparse's errors of those quote their values.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **options})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse arguments; an option that does not exist is an error, without its value."""
        parsed, unknown = super().parse_known_args(args, namespace)
        for argument in unknown:
            name = argument.partition("=")[0]
            if name.startswith(_DASHES):
                known = re.findall(r"--[\w-]+", self.format_help())
                self.error(f"there is no option {name}{nearest(name, known)}")
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message, and exit with 2."""
        super().error(visible(re.sub(r"://\S*", "://...", message)))


def nearest(name: str, known: Sequence[str]) -> str:
    """The end of an error that names what was probably meant."""
    found = get_close_matches(name, known, n=1)
    return f": did you mean {found[0]}?" if found else "."


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
    milliseconds = int(match[1]) * _UNITS[match[2]]
    if milliseconds > MAX_BAN_SECONDS * 1000:
        raise argparse.ArgumentTypeError("it is a hundred years at most")
    return milliseconds


def reason(text: str) -> str:
    """The type of a reason: a text that stores can keep."""
    text = text.removeprefix(_GUARD)
    if not is_one_line(text, MAX_REASON):
        raise argparse.ArgumentTypeError(
            f"it is one line, of at most {MAX_REASON} characters, in the encoding of this terminal"
        )
    return text


def limit(text: str) -> int:
    """The type of the number of users on a page."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= _MAX_USERS:
        raise argparse.ArgumentTypeError(f"it is a number from 1 to {_MAX_USERS}")
    return int(text)


def port(text: str) -> int:
    """The type of a TCP port; 0 takes a free one."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > _MAX_PORT:
        raise argparse.ArgumentTypeError(f"a port is a number from 0 to {_MAX_PORT}")
    return int(text)
