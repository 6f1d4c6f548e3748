"""InFlight: the calls in progress on an object that one event loop uses, and how it closes."""

import asyncio
import math
import warnings
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from ..errors import ClosedError, ConfigurationError, ParameterError
from ..untrusted_text import is_number
from .forks import never_free, unwatch, watch

__all__ = ["InFlight", "belongs_elsewhere", "closed"]


class InFlight:
    """Admits the calls on an object, and closes what the object opened once they are done.

    The first call binds the owner to its event loop and process. Calls in another loop, or in a
    forked child process, raise ConfigurationError; before the first call it is bound to neither.

    Attributes:
        is_open: True from the first call until it closes; if False, call `check_here`.

    Args:
        owner: what is called and closed.
        what: names it in errors.
        name: names it in the ResourceWarning that is given if it is never closed; by default there
            is no warning.
    """

    def __init__(self, owner: object, what: str, name: str | None = None) -> None:
        self._owner = weakref.ref(owner)
        self._what = what
        self._name = name
        self._calls: set[_Call] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._exits = AsyncExitStack()
        self._cut_offs: list[Callable[[], object]] = []
        self._closing: asyncio.Task[None] | None = None
        self._is_inherited = False
        self._warning: weakref.finalize[..., object] | None = None
        self._is_closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self.is_open: bool = False

    @property
    def has_ended(self) -> bool:
        """Whether all is closed, and no call is in progress."""
        return self._closing is not None and self._closing.done()

    def check_open(self) -> None:
        """Raise ClosedError after `close()`, and ConfigurationError in a forked child process."""
        if self._is_inherited:
            raise belongs_elsewhere(self._what, "process")
        if self._is_closed:
            raise closed(self._what)

    def check_here(self) -> None:
        """Check that a call may be made in the running event loop, which the first call binds."""
        self.check_open()
        if self._loop is None:
            self._bind(asyncio.get_running_loop())
        else:
            self.check_loop()

    def check_loop(self) -> None:
        """Check that this is the event loop of the first call, if there was one; closed or not."""
        if self._loop is not None and asyncio.get_running_loop() is not self._loop:
            raise belongs_elsewhere(self._what, "event loop")

    @contextmanager
    def one(self) -> Iterator[None]:
        """Track one call, so that `close()` waits for it; raises as `check_here`.

        A call that is cut off raises ClosedError.
        """
        self.check_here()
        task = asyncio.current_task()
        call = _Call(task, task.cancelling() if task else 0)
        self._calls.add(call)
        self._idle.clear()
        try:
            yield
        except BaseException as error:
            if self._end(call) and isinstance(error, asyncio.CancelledError):
                raise closed(self._what) from error
            raise
        self._end(call)

    def on_close(
        self, close: Callable[[], Awaitable[object]], cut_off: Callable[[], object] | None = None
    ) -> None:
        """Close a part after the calls, and before the parts that were registered earlier.

        `cut_off` cancels what the part has in flight, so that `close` returns soon.
        """
        self._exits.push_async_callback(close)
        if cut_off is not None:
            self._cut_offs.append(cut_off)

    def refuse_more(self) -> None:
        """Take no more calls."""
        if self._is_inherited:
            self.check_open()
        if self._is_closed:
            return
        self.check_loop()
        self._is_closed, self.is_open = True, False
        unwatch(self)
        if self._warning is not None:
            self._warning.detach()

    async def close(self, timeout: float | None = None) -> None:
        """Take no more calls, and close all parts once the calls in progress are done.

        All callers share one closing, which goes on when a caller is cancelled. After `timeout`
        seconds what is in flight is cut off.
        """
        check_timeout(timeout)
        self.refuse_more()
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        elif self._closing.done():
            return
        self.check_loop()
        if timeout is not None:
            seconds = max(0, min(timeout, _MAX_TIMEOUT))
            timer = asyncio.get_running_loop().call_later(seconds, self.cut_off)
            self._closing.add_done_callback(lambda _: timer.cancel())
        await asyncio.shield(self._closing)

    def cut_off(self) -> None:
        """Cancel what is in flight; its callers get a ClosedError."""
        for cut_off in reversed(self._cut_offs):
            cut_off()
        for call in self._calls:
            if call.task is not None and not call.is_cut_off:
                call.is_cut_off = True
                call.task.cancel()

    def leave_to_parent(self) -> None:
        """Refuse all calls in a forked child process, and never free what the parent uses."""
        if self._is_closed:
            return
        self._is_closed = self._is_inherited = True
        self.is_open = False
        if self._warning is not None:
            self._warning.detach()
        never_free(self._owner())
        never_free(self._loop)

    def _end(self, call: "_Call") -> bool:
        """End a call; returns whether its task was cancelled here and by nobody else."""
        self._calls.discard(call)
        if not self._calls:
            self._idle.set()
        if call.task is None or not call.is_cut_off:
            return False
        return call.task.uncancel() <= call.cancelling

    async def _close(self) -> None:
        async with self._exits:
            await self._idle.wait()

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self.is_open = loop, True
        watch(self)
        owner = self._owner()
        if self._name is not None and owner is not None:
            self._warning = weakref.finalize(owner, _warn, self._name)


_MAX_TIMEOUT = 315_360_000  # seconds: ten years


@dataclass(slots=True, eq=False)
class _Call:
    task: asyncio.Task[Any] | None
    cancelling: int  # how often the task had been cancelled before
    is_cut_off: bool = False


def check_timeout(timeout: object) -> None:
    """Check the timeout of a `close`."""
    if timeout is not None and not is_number(timeout, -math.inf, math.inf):
        raise ParameterError("timeout must be a number of seconds, or None to wait for all calls.")


def closed(what: str = "This service") -> ClosedError:
    """The error of a call on something that is closed."""
    return ClosedError(f"{what} is closed. Create a new one to go on.")


def belongs_elsewhere(what: str, where: str) -> ConfigurationError:
    """The error of a call in another event loop or process than the first one."""
    return ConfigurationError(
        f"{what} belongs to the {where} in which it was first used, and this is another one. "
        "Create one in each, and close it there."
    )


def _warn(name: str) -> None:
    warnings.warn(
        f"{name} was never closed: use it as 'async with', or await its close().",
        ResourceWarning,
        stacklevel=2,
    )
