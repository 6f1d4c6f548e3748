"""InFlight: the calls in progress on something that one event loop uses and that can be closed."""

import asyncio
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import ClosedError, ConfigurationError, MPAuthXError
from .forks import never_free, unwatch, watch

__all__ = ["InFlight", "belongs_elsewhere"]


class InFlight:
    """Counts the calls in progress, so that closing can wait for them.

    The first call binds the owner to its event loop and process. Calls in another loop, or in a
    forked child process, raise ConfigurationError; before the first call both are free.

    Attributes:
        is_open: whether a first call was made and calls are still taken; else `check_here` tells.

    Args:
        owner: what is called and closed.
        what: names it in errors.
        name: names it in the ResourceWarning that is given if it is never closed; by default there
            is none.
    """

    def __init__(self, owner: object, what: str, name: str | None = None) -> None:
        self._owner = weakref.ref(owner)
        self._what = what
        self._name = name
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_inherited = False
        self._warning: weakref.finalize[..., object] | None = None
        self._is_closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self.is_open: bool = False

    def check_open(self) -> None:
        """Raise ClosedError after `close()`, and ConfigurationError in a forked child process."""
        if self._is_closed:
            raise self._refusal()

    def check_here(self) -> None:
        """Check that a call may be made in the running event loop, which the first call binds."""
        self.check_open()
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._bind(loop)
        elif loop is not self._loop:
            raise belongs_elsewhere(self._what, "event loop")

    def check_loop(self) -> None:
        """Check that this is the event loop of the first call, if there was one; closed or not."""
        if self._loop is not None and asyncio.get_running_loop() is not self._loop:
            raise belongs_elsewhere(self._what, "event loop")

    @contextmanager
    def one(self) -> Iterator[None]:
        """One call, for the end of which `close()` waits; raises as `check_here`."""
        self.check_here()
        self._count += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._count -= 1
            if not self._count:
                self._idle.set()

    def refuse_more(self) -> None:
        """Take no more calls.

        Raises:
            ConfigurationError: in another event loop or process than the first call's.
        """
        if self._is_closed:
            if self._is_inherited:
                raise self._refusal()
            return
        self.check_loop()
        self._is_closed, self.is_open = True, False
        unwatch(self)
        if self._warning is not None:
            self._warning.detach()

    async def close(self) -> None:
        """Take no more calls, and return when those in progress are done; as `refuse_more`."""
        self.refuse_more()
        await self._idle.wait()

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

    def _bind(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self.is_open = loop, True
        watch(self)
        owner = self._owner()
        if self._name is not None and owner is not None:
            self._warning = weakref.finalize(owner, _warn, self._name)

    def _refusal(self) -> MPAuthXError:
        if self._is_inherited:
            return belongs_elsewhere(self._what, "process")
        return ClosedError(f"{self._what} is closed. Create a new one to go on.")


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
