"""Deadlines: how long one call waits for each external system, over all its round trips."""

import math
import time
from contextvars import ContextVar

__all__ = ["one_call", "running_call", "trip", "without_call"]


class _Budget:
    """The time that a call may still wait for a system. Concurrent trips count once."""

    __slots__ = ("_left", "_since", "_trips")

    def __init__(self, seconds: float) -> None:
        self._left = seconds
        self._trips = 0
        self._since = 0.0

    def begin(self) -> float:
        """Begin a trip; returns how many seconds are left for it."""
        now = time.monotonic()
        if not self._trips:
            self._since = now
        self._trips += 1
        return max(0.0, self._left - (now - self._since))

    def end(self) -> None:
        self._trips -= 1
        if not self._trips:
            self._left -= time.monotonic() - self._since


class _Call:
    """A call, and its time budgets by the names of the systems. For the arguments see `one_call`.

    Once it is over, tasks that it began may go on, and then are on their own.
    """

    __slots__ = ("_budgets", "_longest", "_waited", "is_over")

    def __init__(self, begun_at: float | None, longest: float) -> None:
        self._longest = longest
        self._waited = 0.0 if begun_at is None else time.monotonic() - begun_at
        self._budgets: dict[str, _Budget] = {}
        self.is_over = False

    def budget(self, system: str, longest: float) -> _Budget:
        """What it may still wait for a system."""
        budget = self._budgets.get(system)
        if budget is None:
            budget = self._budgets[system] = _Budget(min(longest, self._longest) - self._waited)
        return budget


running_call: ContextVar[_Call | None] = ContextVar("mpauthx_call", default=None)


# The two are classes, not generators with @contextmanager: each login has them while it waits for
# WeChat, and a garbage collection visits the five objects of each of those.
class one_call:  # noqa: N801 (it is called as a function)
    """Count all trips made inside as one call, unless they are part of an outer call.

    Args:
        begun_at: when the call began, by `time.monotonic()`, if it has waited since.
        longest: how long it may wait for each system at most, in seconds. With this it is a call
            of its own.
    """

    __slots__ = ("_begun", "_begun_at", "_longest", "_token")

    def __init__(self, begun_at: float | None = None, *, longest: float = math.inf) -> None:
        self._begun_at = begun_at
        self._longest = longest
        self._begun: _Call | None = None

    def __enter__(self) -> None:
        if _running() is None or self._longest < math.inf:
            self._begun = _Call(self._begun_at, self._longest)
            self._token = running_call.set(self._begun)

    def __exit__(self, *_: object) -> None:
        if self._begun is not None:
            self._begun.is_over = True
            running_call.reset(self._token)


def without_call() -> None:
    """Charge the further trips of this task to no call, because it works for many callers."""
    running_call.set(None)


def _running() -> _Call | None:
    call = running_call.get()
    return None if call is None or call.is_over else call


class trip:  # noqa: N801 (it is called as a function)
    """A trip to a system, which counts for the running call; gives how many seconds are left."""

    __slots__ = ("_budget", "_longest", "_system")

    def __init__(self, system: str, longest: float) -> None:
        self._system = system
        self._longest = longest
        self._budget: _Budget | None = None

    def __enter__(self) -> float:
        call = _running()
        if call is None:
            return self._longest
        self._budget = call.budget(self._system, self._longest)
        return self._budget.begin()

    def __exit__(self, *_: object) -> None:
        if self._budget is not None:
            self._budget.end()
