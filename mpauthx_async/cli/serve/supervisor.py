"""The supervisor: workers that serve on one socket, and are replaced when they die."""

import asyncio
import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess

from ...errors import ConfigurationError
from .application import MULTIPROCESS_FOLDER, create_app
from .options import ServerOptions
from .worker import log_to_stderr, run_worker

__all__ = ["run_server"]

_STEADY_SECONDS = 10.0  # a worker that lived longer is replaced at once
_MAX_PAUSE_SECONDS = 10.0
_BACKLOG = 1024

logger: logging.Logger = logging.getLogger(__name__)


def run_server(options: ServerOptions) -> int:
    """Run the server until it is told to end; returns the exit code."""
    if options.workers > 1 and sys.platform == "win32":
        raise ConfigurationError("On Windows, workers must be 1.")
    create_app(options)  # opens nothing, and raises before anything is begun
    log_to_stderr()
    with _listening(options) as listening:
        host, port = listening.getsockname()[:2]
        print(f"Serving at http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
        if options.workers == 1:
            run_worker(options, listening)
            return 0
        with tempfile.TemporaryDirectory(prefix="mpauthx-metrics-") as folder:
            if options.metrics:
                os.environ[MULTIPROCESS_FOLDER] = folder  # before the workers start
            return asyncio.run(_Supervisor(options, listening).run())


def _listening(options: ServerOptions) -> socket.socket:
    host, port = options.host, options.port
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        # Not its own text, in which Python repeats the address; getaddrinfo has other numbers.
        is_name = isinstance(error, socket.gaierror)
        reason = error.strerror if is_name else os.strerror(error.errno or 0)
        raise OSError(f"Cannot listen at {host}:{port}: {reason}.") from None


@dataclass(slots=True, eq=False)
class _Worker:
    process: SpawnProcess
    begun_at: float  # by the event loop's clock


class _Supervisor:
    """Keeps a number of workers alive until the server is told to end."""

    def __init__(self, options: ServerOptions, listening: socket.socket) -> None:
        self._options = options
        self._listening = listening
        self._workers: set[_Worker] = set()
        self._pause = 0.0  # seconds before the next replacement
        self._has_ended = asyncio.Event()
        self._is_ending = False

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._end)
        for _ in range(self._options.workers):
            self._begin()
        await self._has_ended.wait()
        return 0

    def _begin(self) -> None:
        if self._is_ending:
            return
        loop = asyncio.get_running_loop()
        # Not forked: a worker shares no lock, thread or connection with this process.
        process = multiprocessing.get_context("spawn").Process(
            target=run_worker, args=(self._options, self._listening)
        )
        try:
            process.start()
        except OSError as error:
            logger.error(  # noqa: TRY400 (the system has no more processes or memory)
                "A worker cannot start (%s); retrying in %.0f seconds.", error, _MAX_PAUSE_SECONDS
            )
            loop.call_later(_MAX_PAUSE_SECONDS, self._begin)
            return
        worker = _Worker(process, loop.time())
        self._workers.add(worker)
        logger.info("Worker %s started.", process.pid)
        loop.add_reader(process.sentinel, self._died, worker)

    def _died(self, worker: _Worker) -> None:
        loop, process = asyncio.get_running_loop(), worker.process
        loop.remove_reader(process.sentinel)
        process.join()
        self._workers.discard(worker)
        if self._options.metrics:
            _forget_metrics(process.pid)
        if self._is_ending:
            if not self._workers:
                self._has_ended.set()
            return
        is_steady = loop.time() > worker.begun_at + _STEADY_SECONDS
        self._pause = 0.0 if is_steady else min(_MAX_PAUSE_SECONDS, 2 * self._pause + 0.1)
        logger.error(
            "Worker %s ended (%s); starting another in %.1f seconds.",
            process.pid,
            _exit_reason(process.exitcode),
            self._pause,
        )
        loop.call_later(self._pause, self._begin)

    def _end(self) -> None:
        """Stop the workers; on the second signal kill them, even one that hangs."""
        is_second_signal, self._is_ending = self._is_ending, True
        self._listening.close()  # when the workers have closed it too, clients are refused
        for worker in self._workers:
            worker.process.kill() if is_second_signal else worker.process.terminate()
        if not self._workers:
            self._has_ended.set()


def _exit_reason(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return signal.Signals(-exit_code).name
    return f"exit code {exit_code}"


def _forget_metrics(pid: int | None) -> None:
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(pid)  # type: ignore[no-untyped-call]
