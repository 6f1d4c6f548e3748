"""ChildProcess: what a benchmark runs in a process of its own, which ends with ours."""

import asyncio
import multiprocessing
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self, TypeAlias

__all__ = ["ChildProcess", "Pipe"]

_END_TIMEOUT = 5  # seconds

Pipe: TypeAlias = "Connection[Any, Any]"


class ChildProcess:
    """A process that runs an async function, until that returns or this process lets go of it.

    The function's end of the pipe has no more to give when this process has ended, however it did:
    then `recv` raises EOFError there, which ends it quietly.

    Args:
        main: a function of a module, which takes its end of a pipe and the arguments. It says
            something once it is ready.
        arguments: what can be pickled.
        uvloop: whether its event loop is uvloop's.
    """

    def __init__(
        self, main: Callable[..., Awaitable[None]], *arguments: object, uvloop: bool = False
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, self._far_end = context.Pipe()
        self._process = context.Process(
            target=_serve,
            args=(main, self._far_end, arguments, uvloop),
            daemon=True,
            name=main.__name__,
        )
        self.said: Any = None  # what it said first

    def send(self, message: object) -> None:
        """Say something to it."""
        self._pipe.send(message)

    async def receive(self) -> Any:
        """Wait for what it says; EOFError when it has ended."""
        return await asyncio.to_thread(self._pipe.recv)

    def __enter__(self) -> Self:
        try:
            self._process.start()
            self._far_end.close()  # so that a pipe whose child has died has an end
            self.said = self._pipe.recv()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._far_end.close()
        self._pipe.close()
        if self._process.pid is not None:
            self._process.join(_END_TIMEOUT)
            self._process.kill()
            self._process.join()
        self._process.close()


def _serve(
    main: Callable[..., Awaitable[None]], pipe: Pipe, arguments: tuple[object, ...], uvloop: bool
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which closes the pipe
    loop_factory = import_module("uvloop").new_event_loop if uvloop else None
    with asyncio.Runner(loop_factory=loop_factory) as runner, suppress(EOFError, OSError):
        runner.run(_run(main, pipe, arguments))


async def _run(
    main: Callable[..., Awaitable[None]], pipe: Pipe, arguments: tuple[object, ...]
) -> None:
    await main(pipe, *arguments)
