"""Where an exception could hold a secret: in the frames that it passed."""

import logging
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

_APPLICATION = str(Path(__file__).parents[1])


def local_variables(error: BaseException, *, attributes: bool = True) -> str:
    """What an error tracker reads in an exception, and in whatever it came from.

    The tests are the application, whose own frames are left out. Of all others, such as those of
    this package, of redis-py and of asyncio, that is the repr of each local variable.

    Args:
        attributes: whether to look into objects that have no repr of their own, too.
    """
    return "\n".join(told for each in _chain(error) for told in _told_by(each, attributes))


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    pending: list[BaseException | None] = [error]
    while pending:
        each = pending.pop()
        if each is not None and not any(each is one for one in found):
            found.append(each)
            pending += [each.__cause__, each.__context__]
    return found


def _told_by(error: BaseException, attributes: bool) -> Iterator[str]:
    for frame, _ in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        if code.co_filename.startswith(_APPLICATION):
            continue
        for name, value in frame.f_locals.items():
            yield f"{code.co_qualname}: {name} = {value!r}"
            has_repr = type(value).__repr__ is not object.__repr__
            if attributes and not has_repr and hasattr(value, "__dict__"):
                yield f"{code.co_qualname}: {name} has {vars(value)!r}"


def everything_told(error: BaseException) -> str:
    """All that an error, and whatever it came from, could put into a log."""
    told: list[str] = []
    pending: list[object] = [error]
    seen: set[int] = set()
    while pending:
        each = pending.pop()
        if not isinstance(each, BaseException) or id(each) in seen:
            continue
        seen.add(id(each))
        told += [str(each), repr(each), repr(each.args), repr(vars(each))]
        told += traceback.format_exception(each)
        pending += [each.__cause__, each.__context__, *each.args, *vars(each).values()]
    return "\n".join(told)


def everything_logged(records: Sequence[logging.LogRecord]) -> str:
    formatter = logging.Formatter()
    return "\n".join(f"{formatter.format(record)} {vars(record)!r}" for record in records)
