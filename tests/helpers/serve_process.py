"""The serve command as a process of its own."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from mpauthx_async import WeChatSimulator

_START_SECONDS = 60


class ServeProcess:
    """A server that was started.

    Attributes:
        url: where it serves.
        lines: what it has printed, on standard output and error.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.url = ""
        self.lines: list[str] = []
        self._process = process
        self._printed = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def printed(self, pattern: str, times: int = 1) -> re.Match[str]:
        """Wait until it has printed lines that match; returns the match in the last of these."""

        def found() -> list[re.Match[str]]:
            return [match for line in self.lines if (match := re.search(pattern, line))]

        async with asyncio.timeout(_START_SECONDS), self._printed:
            await self._printed.wait_for(lambda: len(found()) >= times)
        return found()[times - 1]

    async def ended(self) -> int:
        """Wait until it has ended; returns its exit code."""
        async with asyncio.timeout(_START_SECONDS):
            await self._reading
            return await self._process.wait()

    async def stop(self) -> int:
        """Tell it to end, unless it has; returns its exit code."""
        if self._process.returncode is None:
            self.send(signal.SIGTERM)
        return await self.ended()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            async with self._printed:
                self.lines.append(line.decode().rstrip("\n"))
                self._printed.notify_all()


def environment_of(wx: WeChatSimulator, **more: str) -> dict[str, str]:
    """The environment of a server whose WeChat this is, and more of its options."""
    options = {"app_id": wx.app_id, "app_secret": wx.app_secret, "api_base": wx.url, **more}
    return {f"MPAUTHX_{name.upper()}": value for name, value in options.items()}


async def answer_to(url: str, request: str) -> str:
    """Send these bytes to a server; returns all that it says until it closes the connection."""
    reader, writer = await asyncio.open_connection(
        *url.removeprefix("http://").rstrip("/").split(":")
    )
    writer.write(request.encode())
    answer = await reader.read()
    writer.close()
    return answer.decode()


@asynccontextmanager
async def serving(
    folder: Path, *flags: str, environment: dict[str, str] | None = None
) -> AsyncIterator[ServeProcess]:
    """Run `python -m mpauthx_async serve` on a free port, in a folder.

    Args:
        folder: where its SQLite files are by default.
        flags: more of its flags.
        environment: more of its environment.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "mpauthx_async", "serve", "--port", "0", *flags),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=folder,
        start_new_session=True,  # so that a test can send a signal to the process and its workers
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **(environment or {})},
    )
    server = ServeProcess(process)
    try:
        server.url = (await server.printed(r"^Serving at (\S+)$"))[1]
        yield server
    finally:
        try:
            await server.stop()
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
            raise
