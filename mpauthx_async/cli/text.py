"""Text from clients as a terminal can show it: whatever it holds, it stays in its place."""

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from unicodedata import category, east_asian_width

__all__ = ["Page", "columns", "cut", "is_shown", "table", "visible", "wrap"]

_WIDTH = 80  # columns of a terminal
_NAME = 12  # of these for a name before its text
_GAP = "  "
_CUT = "..."
_MOST_MARKS = 2  # Thai and Vietnamese need two on a letter; a heap of them covers other lines
_EMOJI_STYLE = "\ufe0f"  # makes a narrow sign an emoji of two columns
_COLUMN = 20  # columns at most, of a table's column that is not the last


class Page:
    """What a terminal is to show: texts within its width, and times by one clock.

    Args:
        encoding: the terminal's.
        clock: tells the time in Unix seconds.
    """

    def __init__(self, encoding: str, clock: Callable[[], float] = time.time) -> None:
        self.encoding = encoding
        # One offset for all times, also for those beyond a change of the clocks.
        now = datetime.now().astimezone()
        self._zone = now.tzinfo
        self._now = clock() * 1000
        offset = f"{now:%z}"
        self.zone = f"UTC{offset[:3]}:{offset[3:5]}"

    def time(self, milliseconds: int, form: str = "%Y-%m-%d %H:%M:%S") -> str:
        """Such as 2026-11-21 14:03:22."""
        try:
            return datetime.fromtimestamp(milliseconds / 1000, self._zone).strftime(form)
        except (ValueError, OverflowError, OSError):  # beyond the calendar
            return str(milliseconds)

    def minute(self, milliseconds: int) -> str:
        """Such as 2026-11-21 14:03."""
        return self.time(milliseconds, "%Y-%m-%d %H:%M")

    def distance(self, milliseconds: int) -> str:
        """Such as `in 6d` or `3m ago`."""
        seconds = round(abs(milliseconds - self._now) / 1000)
        if seconds < 1:
            return "now"
        for unit, length in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
            if seconds >= 2 * length or unit == "s":
                break
        amount = f"{(seconds + length // 2) // length}{unit}"
        return f"in {amount}" if milliseconds > self._now else f"{amount} ago"

    def moment(self, milliseconds: int) -> str:
        """A time and how far it is from now."""
        return f"{self.time(milliseconds)} ({self.distance(milliseconds)})"

    def wrap(self, text: str, *, name: str = "") -> list[str]:
        """A text, which may have a name that stands before it."""
        indent = _NAME if name else 2
        first, *others = wrap(text, _WIDTH - indent, self.encoding)
        return [f"{name:<{indent}}{first}" if name else first, *(" " * indent + o for o in others)]

    def table(self, rows: Sequence[Sequence[str]]) -> list[str]:
        """Rows of raw text as a table."""
        return table(rows, self.encoding)


def visible(text: str, encoding: str = "utf-8") -> str:
    """Text on one line: what a terminal would act upon, or cannot show, is escaped.

    Args:
        text: any text.
        encoding: the terminal's.
    """
    return "".join(_units(text, encoding))


def columns(shown: str) -> int:
    """How many columns of a terminal visible text takes: two for wide characters and emoji."""
    total = width = 0
    for char in shown:
        if char == _EMOJI_STYLE:
            total += 2 - width
            width = 2
        elif not _is_mark(char):
            width = 2 if east_asian_width(char) in "WF" else 1
            total += width
    return total


def cut(text: str, width: int, encoding: str = "utf-8") -> str:
    """Visible text in at most so many columns; from a longer one the middle is missing."""
    units = _units(text, encoding)
    if columns("".join(units)) <= width:
        return "".join(units)
    room = width - len(_CUT)
    if room < 2:
        return _CUT[:width]
    tail = _fitting(units[::-1], room // 2)[::-1]
    head = _fitting(units, room - columns("".join(tail)))
    return "".join([*head, _CUT, *tail])


def wrap(text: str, width: int = _WIDTH, encoding: str = "utf-8") -> list[str]:
    """Visible text in lines of at most so many columns, 20 or more; nothing but spaces is lost."""
    lines: list[str] = []
    line: list[str] = []
    for unit in _units(text, encoding):
        if columns("".join(line)) + columns(unit) > width:
            # After the last space, unless that leaves most of the line empty.
            half = line[: len(line) // 2 : -1]
            end = len(line) - half.index(" ") if " " in half else len(line)
            lines.append("".join(line[:end]).rstrip(" "))
            line = line[end:]
        line.append(unit)
    return [*lines, "".join(line)]


def table(rows: Sequence[Sequence[str]], encoding: str = "utf-8") -> list[str]:
    """Rows as lines of at most 80 columns, the first is the header.

    The last column gets the room that the others leave, and there is nothing to its right that
    letters which run from right to left could move.
    """
    cells = [[cut(text, _COLUMN, encoding) for text in row[:-1]] for row in rows]
    widths = [max(map(columns, column)) for column in zip(*cells, strict=True)]
    rest = _WIDTH - sum(widths) - len(_GAP) * len(widths)
    lines = []
    for row, texts in zip(rows, cells, strict=True):
        padded = [
            text + " " * (width - columns(text)) for text, width in zip(texts, widths, strict=True)
        ]
        lines.append(_GAP.join([*padded, cut(row[-1], rest, encoding)]).rstrip(" "))
    return lines


def is_shown(char: str, encoding: str) -> bool:
    """Whether a terminal of this encoding shows the character, and does nothing else with it.

    It does not so with controls, bidirectional overrides and other invisible characters, nor with
    those that are newer than Python's Unicode.
    """
    if not char.isprintable():
        return False
    try:
        char.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _units(text: str, encoding: str) -> list[str]:
    """What is never torn apart: characters with their combining marks, and escapes."""
    units: list[str] = []
    marks = _MOST_MARKS  # there is nothing yet for one to stand on
    for char in text:
        if char == "\\" or not is_shown(char, encoding):
            units.append(_escaped(char))
            marks = _MOST_MARKS
        elif not _is_mark(char):
            units.append(char)
            marks = 0
        elif marks < _MOST_MARKS:
            units[-1] += char
            marks += 1
        else:
            units.append(_escaped(char))
    return units


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()


def _is_mark(char: str) -> bool:
    return category(char) in ("Mn", "Me")


def _fitting(units: Sequence[str], width: int) -> list[str]:
    """The first units that have room in so many columns."""
    fitting: list[str] = []
    for unit in units:
        width -= columns(unit)
        if width < 0:
            break
        fitting.append(unit)
    return fitting
