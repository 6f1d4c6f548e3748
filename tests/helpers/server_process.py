"""What the servers have in common that tests start as processes of their own."""

import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self


class ServerProcess(ABC):
    """A server process with its files in a temporary folder.

    Attributes:
        folder: the folder.
        process: the process while it runs.
        usual_stop: the signal that ends it.
        quick_stop: the signal that ends it like a crash.
    """

    usual_stop = signal.SIGTERM
    quick_stop = signal.SIGKILL

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="mpauthx-server-")
        self.folder = Path(self._folder.name)
        self.process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def start(self) -> None:
        """Start it, on the port that it had before if it had one; returns when it answers."""

    def stop(self, signal_number: int | None = None) -> None:
        """End it, by default in the usual way; returns when it has ended."""
        if self.process is not None:
            self.process.send_signal(signal_number or self.usual_stop)
            self.process.send_signal(signal.SIGCONT)  # what hangs would not end
            self.process.wait()
            self.process = None

    def pause(self) -> None:
        """Let it hang, as a server that swaps or is cut off does."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Let it hang for a while."""
        self.pause()
        try:
            yield
        finally:
            self.resume()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(self.quick_stop)
        self._folder.cleanup()


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], bool], seconds: float = 90) -> None:
    """Wait for what servers do in their own time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
