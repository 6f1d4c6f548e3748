"""A process of Python that answers lines with lines."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]
_PATIENCE = 90  # seconds, in which any process says what it has to say


class LineProcess:
    """Runs `python …` in the project's folder; ends with its input, and with exit code 0.

    A test that fails kills it.
    """

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, *self._arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self._process.returncode is None:
            self._process.kill()
        await self._process.communicate(b"")  # closes its stdin
        assert kind is not None or self._process.returncode == 0

    async def read(self) -> str:
        """Its next line; an empty one if it has ended."""
        assert self._process.stdout is not None
        async with asyncio.timeout(_PATIENCE):
            return (await self._process.stdout.readline()).decode().strip()

    def write(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())

    async def ask(self, line: str) -> str:
        self.write(line)
        return await self.read()
