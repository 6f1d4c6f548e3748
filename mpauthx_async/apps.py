"""Apps: the services of many mini-programs in one process."""

import asyncio
import inspect
import logging
import math
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from functools import partial
from traceback import format_tb
from typing import Any, Self

from ._compat import timeout
from .concurrency.in_flight import InFlight
from .concurrency.single_flight import SingleFlight
from .concurrency.traceback_frames import clears_frames
from .connections import Connections
from .errors import (
    ClosedError,
    ConfigurationError,
    MPAuthXError,
    ParameterError,
    StoreError,
    UnknownAppError,
)
from .events import Listener
from .gauges import Gauges
from .service import MPAuthX
from .settings import Settings
from .store_errors import log_store_error
from .stores import TokenStore, UserStore, open_token_store, open_user_store
from .untrusted_text import is_number

__all__ = ["AppOptions", "Apps"]

logger: logging.Logger = logging.getLogger(__name__)

AppOptions = Settings | Mapping[str, Any]
"""What an app's service is made of: Settings, or keyword arguments of MPAuthX."""

_APP_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
_MAX_LOAD_SECONDS = 10.0
_SHARED = ("users", "tokens", "connections")
_OPTIONS = {
    name: option.default is option.empty
    for name, option in inspect.signature(MPAuthX).parameters.items()
    if name not in _SHARED
}
"""What `load` may return of an app, and whether it is required."""


class Apps:
    """The services of many mini-programs in one process.

    They share the stores and the connections, so an app costs no thread, pool or connection of its
    own. A token of one app is refused by all others. Sessions, bans and `online` belong to a sku:
    give each app its own, unless users who have one unionId in several apps are to have their
    sessions, bans and policy in common.

    A service is created when its app is first used, and kept for a time after its last use.

    Args:
        load: an async function that returns the options of an app: its Settings, or a mapping of
            MPAuthX's keyword arguments without `users`, `tokens` and `connections`. It returns
            None for an unknown app_id, and must finish within 10 seconds.
        users: as for MPAuthX.
        tokens: as for MPAuthX.
        connections: as for MPAuthX.
        max_idle: how many unused services to keep; the least recently used are closed first.
        idle_ttl: how long to keep an unused service, in seconds.

    Raises:
        ConfigurationError: if an argument cannot work.
    """

    def __init__(
        self,
        load: Callable[[str], Awaitable[AppOptions | None]],
        *,
        users: str | UserStore,
        tokens: str | TokenStore,
        connections: Connections | None = None,
        max_idle: int = 1_000,
        idle_ttl: float = 3_600,
    ) -> None:
        if not callable(load):
            raise ConfigurationError("load must be an async function of an app_id.")
        if type(max_idle) is not int or max_idle < 1:
            raise ConfigurationError("max_idle must be a whole number above zero.")
        if not is_number(idle_ttl, 0, math.inf):
            raise ConfigurationError("idle_ttl must be a number of seconds.")
        self._load = load
        self._max_idle = max_idle
        self._idle_ttl = idle_ttl
        self._calls = InFlight(self, "This Apps object", name="<Apps>")
        if connections is None:
            connections = Connections()
            self._calls.on_close(connections.close)
        if isinstance(users, str):
            users = open_user_store(users)
            self._calls.on_close(users.close)
        if isinstance(tokens, str):
            tokens = open_token_store(tokens, connections)
            self._calls.on_close(tokens.close)
        self._shared: dict[str, Any] = dict(zip(_SHARED, (users, tokens, connections), strict=True))
        self._loads: SingleFlight[object, None] = SingleFlight()
        self._newest: dict[str, object] = {}  # by app_id the load under way that is not outdated
        self._open: set[_App] = set()
        self._apps: dict[str, _App] = {}  # the one of each app that is used from now on
        self._idle: OrderedDict[str, _App] = OrderedDict()  # the least recently used first
        self._closings: set[asyncio.Task[None]] = set()
        self._listeners: dict[object, Listener] = {}  # by subscription
        self._calls.on_close(self._close_services, self._cut_off)
        self._calls.on_close(self._loads.close, self._loads.cut_off)

    @asynccontextmanager
    async def use(self, app_id: str) -> AsyncIterator[MPAuthX]:
        """Use the service of an app: `async with apps.use(app_id) as auth`.

        It stays open until the block ends, also when the app is reloaded meanwhile; `close()` does
        not wait for the block.

        Args:
            app_id: may be what a client sent.

        Raises:
            UnknownAppError: the app_id is malformed, or `load` does not know it.
            StoreError: `load` failed, or did not answer in time.
            ConfigurationError: `load` returned what cannot work, or another app's settings.
            ClosedError: these Apps are closed.
        """
        with self._calls.one():
            app = await self._find(app_id)
            app.uses += 1
            self._idle.pop(app_id, None)
        try:
            yield app.service
        finally:
            app.uses -= 1
            self._release(app_id, app)

    async def reload(self, app_id: str) -> None:
        """Create the service of an app anew, as after a change of its secret.

        Blocks that use the old one go on with it. If `load` fails, the old one is kept. Each
        process has services of its own, so call this in each.

        Args:
            app_id: the app.

        Raises:
            UnknownAppError: `load` no longer knows the app; its service is closed.
            And as `use`.
        """
        with self._calls.one():
            _check_app_id(app_id)
            self._newest[app_id] = object()
            await self._join(app_id)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Register a listener for the events of all apps, also of those that are used later.

        An async function is better here than a plain one, for which each app has a thread.

        Args:
            listener: as for `MPAuthX.subscribe`.

        Returns:
            Ends the subscription when called.

        Raises:
            ParameterError: the listener cannot be called.
        """
        if not callable(listener):
            raise ParameterError("A listener is a function that takes an event.")
        subscription = object()
        self._listeners[subscription] = listener
        for app in self._open:
            app.subscribe(subscription, listener)

        def end() -> None:
            self._listeners.pop(subscription, None)
            for app in self._open:
                app.subscriptions.pop(subscription, lambda: None)()

        return end

    def gauges(self) -> Gauges:
        """The sum of the gauges of all open services. Callable from any thread."""
        return Gauges.sum_of([app.service.gauges() for app in list(self._open)])

    async def close(self, timeout: float | None = None) -> None:
        """Close all services, and what was opened here.

        It may be called again and concurrently. If it is cancelled, closing goes on.

        Args:
            timeout: after how many seconds calls in flight are cancelled; None for no limit.

        Raises:
            ParameterError: timeout is not a number of seconds.
            ConfigurationError: in another event loop or process than the first call's.
        """
        await self._calls.close(timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _find(self, app_id: str) -> "_App":
        _check_app_id(app_id)
        self._retire_idle()
        while (app := self._apps.get(app_id)) is None:  # it may have left again before this call
            await self._join(app_id)
        return app

    async def _join(self, app_id: str) -> None:
        """Create a service, unless that is under way and was begun after the last reload."""
        load = self._newest.setdefault(app_id, object())
        await self._loads.join(load, partial(self._load_newest, app_id, load))

    @clears_frames
    async def _load_newest(self, app_id: str, load: object) -> None:
        before = self._apps.get(app_id)
        try:
            options = await self._options(app_id)
        finally:
            is_newest = self._newest.get(app_id) is load
            if is_newest:
                del self._newest[app_id]
        if is_newest:
            self._create(app_id, options)
        elif app_id in self._newest or self._apps.get(app_id) is before:
            # What was loaded may be stale, and no later load has ended well.
            await self._join(app_id)

    def _create(self, app_id: str, options: dict[str, Any] | None) -> None:
        """Create a service in place of the one that is kept; without options the app is unknown."""
        known = self._apps.get(app_id)
        app = None if options is None else _App(MPAuthX(**options))
        if known is not None:
            self._retire(app_id, known)
        if app is None:
            raise _unknown()
        self._open.add(app)
        for subscription, listener in self._listeners.items():
            app.subscribe(subscription, listener)
        self._apps[app_id] = app
        self._release(app_id, app)

    async def _options(self, app_id: str) -> dict[str, Any] | None:
        """Load the keyword arguments of an app's service; None if the app is unknown."""
        try:
            async with timeout(_MAX_LOAD_SECONDS):
                loaded = await self._load(app_id)
        except MPAuthXError:
            raise
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # by `close`; otherwise it is of something that `load` awaited
            failed = StoreError(
                f"The settings of the app {app_id} could not be loaded ({type(error).__name__})."
            )
            log_store_error(failed, _lines_of(error))
            raise failed from error
        if loaded is None:
            return None
        if isinstance(loaded, Settings):
            loaded = {field.name: getattr(loaded, field.name) for field in fields(Settings)}
        if not isinstance(loaded, Mapping):
            raise ConfigurationError("load must return Settings, a mapping or None.")
        if loaded.get("app_id") != app_id:
            raise ConfigurationError(f"For the app {app_id}, load returned another app's settings.")
        _check_names(app_id, loaded)
        return {**loaded, **self._shared}

    def _release(self, app_id: str, app: "_App") -> None:
        """Keep an app that nobody uses, or close it if another has taken its place."""
        if app.uses:
            return
        if self._apps.get(app_id) is not app:
            if app in self._open:
                self._close_soon(app)
            return
        # Before this one is idle: those who waited for it to be created may not have begun.
        self._retire_idle(room=1)
        app.idle_since = asyncio.get_running_loop().time()
        self._idle[app_id] = app

    def _retire_idle(self, room: int = 0) -> None:
        """Retire what was idle for too long, and more to have room."""
        now = asyncio.get_running_loop().time()
        while self._idle:
            app_id, app = next(iter(self._idle.items()))
            is_full = len(self._idle) + room > self._max_idle
            if not is_full and app.idle_since + self._idle_ttl >= now:
                return
            self._retire(app_id, app)

    def _retire(self, app_id: str, app: "_App") -> None:
        """Keep an app no longer; it closes when its last block has ended."""
        del self._apps[app_id]
        self._idle.pop(app_id, None)
        if not app.uses:
            self._close_soon(app)

    def _close_soon(self, app: "_App", timeout: float | None = None) -> None:
        closing = asyncio.create_task(app.service.close(timeout))
        self._closings.add(closing)
        closing.add_done_callback(partial(self._closed, app))

    def _closed(self, app: "_App", closing: "asyncio.Task[None]") -> None:
        self._open.discard(app)
        self._closings.discard(closing)
        error = None if closing.cancelled() else closing.exception()
        if error is not None:
            logger.warning("The service of an app did not close: %s", error)

    async def _close_services(self) -> None:
        self._apps.clear()
        self._idle.clear()
        for app in list(self._open):
            self._close_soon(app)
        while self._closings:
            await asyncio.wait(self._closings)

    def _cut_off(self) -> None:
        for app in list(self._open):
            self._close_soon(app, timeout=0)


@dataclass(slots=True, eq=False)
class _App:
    service: MPAuthX
    uses: int = 0
    idle_since: float = 0.0  # by the event loop's clock
    subscriptions: dict[object, Callable[[], None]] = field(default_factory=dict)

    def subscribe(self, subscription: object, listener: Listener) -> None:
        with suppress(ClosedError):
            self.subscriptions[subscription] = self.service.subscribe(listener)


def _check_names(app_id: str, loaded: Mapping[Any, Any]) -> None:
    """Raise ConfigurationError for an unknown option name, or a required one that is missing."""
    for name in loaded:
        if name in _SHARED:
            raise ConfigurationError(
                f"For the app {app_id}, load returned {name!r}, which all apps share: give it to "
                "Apps(…)."
            )
        if name not in _OPTIONS:
            meant = get_close_matches(str(name), _OPTIONS, 1)
            raise ConfigurationError(
                f"For the app {app_id}, load returned {name!r:.80}, not an option of MPAuthX."
                + "".join(f" Did you mean {option!r}?" for option in meant)
            )
    for name, is_required in _OPTIONS.items():
        if is_required and name not in loaded:
            raise ConfigurationError(
                f"For the app {app_id}, load did not return {name!r}, which is required."
            )


def _lines_of(error: BaseException) -> str:
    """Where an exception and its causes were raised, for the log.

    Neither their messages nor their frames, which may hold secrets that were loaded.
    """
    told = []
    each: BaseException | None = error
    while each is not None:
        lines = "".join(format_tb(each.__traceback__)).rstrip()
        told.append(f"{type(each).__name__} was raised here:\n{lines}")
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)
    return "\n".join(told)


def _check_app_id(app_id: object) -> None:
    if not isinstance(app_id, str) or not _APP_ID.fullmatch(app_id):
        raise _unknown()


def _unknown() -> UnknownAppError:
    return UnknownAppError("There is no app with this app_id.")
