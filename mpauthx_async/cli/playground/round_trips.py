"""RoundTripTracer: reports and times each round trip of a service to WeChat and its stores."""

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from types import SimpleNamespace
from typing import Any

import aiohttp

__all__ = ["RoundTripTracer", "Trip"]

_METHODS = {
    "users": ("save", "get", "forget"),
    "tokens": (
        *("issue", "lookup", "revoke", "revoke_subject", "forget_subject", "rotate", "end_reused"),
        *("ban", "unban", "bans"),
    ),
}


@dataclass(frozen=True, slots=True)
class Trip:
    """A trip that is over."""

    system: str  # wechat, users or tokens
    operation: str  # the path at WeChat, else the method of the store
    result: Any  # what the method returned; None for a trip to WeChat
    seconds: float


class RoundTripTracer:
    """Reports round trips that succeed; a failed one shows as the failure of its call."""

    def __init__(self, report: Callable[[Trip], None]) -> None:
        self._report = report
        self._is_paused = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Report nothing meanwhile."""
        self._is_paused = True
        try:
            yield
        finally:
            self._is_paused = False

    def http(self) -> aiohttp.ClientSession:
        """Open a session whose requests are reported; the caller closes it."""
        trace = aiohttp.TraceConfig()

        async def start(_: object, context: SimpleNamespace, __: object) -> None:
            context.started = time.perf_counter()

        async def end(
            _: object, context: SimpleNamespace, sent: aiohttp.TraceRequestEndParams
        ) -> None:
            # The query holds the app secret and the code.
            self._tell("wechat", sent.url.path, None, context.started)

        trace.on_request_start.append(start)
        trace.on_request_end.append(end)
        return aiohttp.ClientSession(
            trace_configs=[trace],
            timeout=aiohttp.ClientTimeout(total=10),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    def store(self, system: str, store: object) -> None:
        """Report the trips of a store of users or tokens."""
        # On the object itself: a store around the store would hide its optional protocols.
        for name in _METHODS[system]:
            setattr(store, name, self._timed(system, name, getattr(store, name)))

    def _timed(
        self, system: str, name: str, method: Callable[..., Awaitable[Any]]
    ) -> Callable[..., Awaitable[Any]]:
        @wraps(method)
        async def timed(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            result = await method(*arguments, **options)
            self._tell(system, name, result, started)
            return result

        return timed

    def _tell(self, system: str, operation: str, result: Any, started: float) -> None:
        if not self._is_paused:
            self._report(Trip(system, operation, result, time.perf_counter() - started))
