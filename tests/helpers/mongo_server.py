"""A MongoDB on a free port of the loopback, for tests: mongod, or nx-27017 in its place."""

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from tests.helpers.server_process import ServerProcess, free_port

_START_TIMEOUT = 90  # seconds


class MongoServer(ServerProcess):
    """A MongoDB.

    It is mongod if PATH has it. nx-27017 speaks the same protocol, without validators, users and
    passwords.

    Attributes:
        is_mongod: whether it is MongoDB itself.
    """

    usual_stop = signal.SIGKILL

    def __init__(self, *options: str) -> None:
        super().__init__()
        self._options = options
        self.is_mongod = shutil.which("mongod") is not None
        self.port = free_port()
        self.url = f"mongodb://127.0.0.1:{self.port}/koa2Wechat"

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + _START_TIMEOUT
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                end = (self.folder / "log").read_text()[-3000:]
                raise RuntimeError(
                    f"No MongoDB started. Install mongod, or pip install nx-27017:\n{end}"
                )
            time.sleep(0.05)

    def _command(self) -> list[str]:
        folder = self.folder
        (folder / "data").mkdir(exist_ok=True)
        if self.is_mongod:
            where = ["--dbpath", f"{folder}/data", "--bind_ip", "127.0.0.1"]
            return ["mongod", *where, "--port", str(self.port), *self._options]
        where = ["--data-dir", f"{folder}/data", "--pid-file", f"{folder}/pid"]
        files = [*where, "--log-file", f"{folder}/nx-log"]
        return [sys.executable, "-m", "nx_27017.nx_27017", *files, "-p", str(self.port)]

    def _answers(self) -> bool:
        client: MongoClient[dict[str, Any]] = MongoClient(self.url, serverSelectionTimeoutMS=100)
        with contextlib.closing(client), contextlib.suppress(PyMongoError):
            return bool(client.admin.command("ping")["ok"])
        return False
