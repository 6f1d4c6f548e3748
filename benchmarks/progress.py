"""Progress: tells on stderr what is going on."""

import shutil
import sys
from types import TracebackType
from typing import Self, TextIO

__all__ = ["Progress"]

_CLEAR = "\r\x1b[K"


class Progress:
    """One line that changes where stderr is a terminal, else a line for each thing said.

    Args:
        topic: stands before everything that is said.
    """

    def __init__(self, topic: str, stream: TextIO | None = None) -> None:
        self._topic = topic
        self._stream = sys.stderr if stream is None else stream
        self._is_terminal = self._stream.isatty()

    def say(self, text: str) -> None:
        line = f"{self._topic}: {text}"
        if self._is_terminal:
            width = shutil.get_terminal_size().columns - 1
            print(f"{_CLEAR}{line[:width]}", end="", file=self._stream, flush=True)
        else:
            print(line, file=self._stream, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._is_terminal:
            print(_CLEAR, end="", file=self._stream, flush=True)
