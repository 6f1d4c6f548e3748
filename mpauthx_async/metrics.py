"""Metrics: exports the events of services, and what waits in them, to Prometheus."""

import weakref
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Protocol

from .constants import StatusCode
from .errors import MPAuthXError
from .events import (
    Banned,
    BatchFinished,
    Event,
    Listener,
    LoggedIn,
    LoginFailed,
    Replaced,
    Revoked,
    StoreFailed,
    TokenReuseDetected,
    TokensValidated,
    UserForgotten,
    WeChatFailed,
)
from .gauges import Gauges

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, Metric
    from prometheus_client.registry import Collector
except ImportError as _error:
    raise ImportError(
        "mpauthx_async.metrics needs prometheus_client: pip install 'mpauthx-async[prometheus]'"
    ) from _error

__all__ = ["Metrics", "Watchable"]

# A batch at a store on the same network takes under a millisecond; a login takes as long as WeChat.
_BATCH_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_LOGIN_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_BATCH_SIZES = tuple(2**power for power in range(10))


# What `Gauges` has. A process that has died counts no longer.
_GAUGES = {
    "logins_waiting": "Logins that wait to begin.",
    "logins_at_wechat": "Logins whose codes are being exchanged.",
    "near_cache_tokens": "Tokens in near caches.",
    "near_caches_on": "Services whose near cache is in use.",
    "near_caches_off": "Services whose near cache is not in use.",
    "events_dropped": "Events that did not reach a listener.",
}


class Watchable(Protocol):
    """What can be watched: an MPAuthX, or Apps. It can be referenced weakly."""

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Register a listener for events; returns what ends that."""

    def gauges(self) -> Gauges:
        """Tell what waits at this moment."""


class Metrics:
    """Counts the events of one or several services, and tells what waits in them.

    `Metrics().watch(auth)` is all that a service needs. Gauges are read when the registry is
    scraped.

    Args:
        registry: where the metrics are registered; None for the process's default registry, which
            `prometheus_client.start_http_server` exports.

    Raises:
        ValueError: the registry already has these metrics; watch all services with one Metrics.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = REGISTRY if registry is None else registry

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"mpauthx_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"mpauthx_{name}", text, labels, registry=registry, buckets=buckets)

        self._logins = counter("logins_total", "Logins by outcome.", "outcome")
        self._login_seconds = histogram(
            "login_seconds", "Duration of logins, failed ones included.", _LOGIN_SECONDS
        )
        self._validations = counter("validations_total", "Tokens validated.", "result")
        self._validation_seconds = histogram(
            "validation_seconds", "Duration of the store's batches of validations.", _BATCH_SECONDS
        )
        self._batch_size = histogram("batch_size", "Calls in a batch.", _BATCH_SIZES, "batch")
        self._batch_seconds = histogram(
            "batch_seconds", "Duration of batches.", _BATCH_SECONDS, "batch"
        )
        self._wechat_errors = counter("wechat_errors_total", "Calls WeChat refused.", "errcode")
        self._store_errors = counter("store_errors_total", "Failures of stores.", "operation")
        self._ended = counter("sessions_ended_total", "Sessions ended early.", "reason")
        self._reuse = counter("token_reuse_total", "Rotated tokens that were reused.")
        # By subscription. Weak, because nobody ends that of a service that they close.
        self._watched: dict[object, weakref.ref[Watchable]] = {}
        registry.register(_BeforeScrape(self.refresh))  # the registry keeps the order
        self._gauges = {
            name: Gauge(f"mpauthx_{name}", text, registry=registry, multiprocess_mode="livesum")
            for name, text in _GAUGES.items()
        }
        # `rate()` misses the first event of a series that is new, so known series start at 0.
        self._logins.labels("ok")
        for result in ("valid", "refused"):
            self._validations.labels(result)
        for reason in ("replaced", "revoked", "banned", "forgotten", "reused"):
            self._ended.labels(reason)

    def watch(self, source: Watchable) -> Callable[[], None]:
        """Count the events of a service, and add what waits in it to the gauges until it is closed.

        Args:
            source: an MPAuthX, or Apps for all of theirs.

        Returns:
            Ends that when called.

        Raises:
            ClosedError: the service is closed.
        """

        async def count(event: Event) -> None:  # no thread for each service
            self(event)

        unsubscribe = source.subscribe(count)
        # A new one each time, because another thread may read the one before.
        alive = {key: one for key, one in self._watched.items() if one() is not None}
        self._watched = {**alive, count: weakref.ref(source)}

        def end() -> None:
            unsubscribe()
            self._watched = {key: one for key, one in self._watched.items() if key is not count}

        return end

    def refresh(self) -> None:
        """Set the gauges to what they are now, as each scrape of the registry does.

        Where prometheus_client adds up several processes, a scrape reads their files alone: call
        this once a second in each.
        """
        sources = [source for one in self._watched.values() if (source := one()) is not None]
        gauges = Gauges.sum_of([source.gauges() for source in sources])
        for name, value in asdict(gauges).items():
            self._gauges[name].set(value)

    def __call__(self, event: Event) -> None:
        """Count an event."""
        match event:
            case TokensValidated():
                self._validations.labels("valid").inc(event.valid)
                self._validations.labels("refused").inc(event.refused)
                if event.seconds:  # 0 if the store was not asked
                    self._validation_seconds.observe(event.seconds)
            case BatchFinished():
                self._batch_size.labels(event.name).observe(event.size)
                self._batch_seconds.labels(event.name).observe(event.seconds)
            case LoggedIn():
                self._logins.labels("ok").inc()
                self._login_seconds.observe(event.seconds)
            case LoginFailed():
                self._logins.labels(_outcome(event.error)).inc()
                self._login_seconds.observe(event.seconds)
            case Replaced():
                self._ended.labels("replaced").inc()
            case Revoked():
                self._ended.labels("revoked").inc(event.ended)
            case Banned():
                self._ended.labels("banned").inc(event.ended)
            case UserForgotten():
                self._ended.labels("forgotten").inc(event.ended)
            case TokenReuseDetected():
                self._ended.labels("reused").inc()
                self._reuse.inc()
            case WeChatFailed():
                self._wechat_errors.labels(_errcode(event.errcode)).inc()
            case StoreFailed():
                self._store_errors.labels(event.operation).inc()


class _BeforeScrape(Collector):
    """Calls a function when a registry is scraped, and exports nothing itself."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call

    def describe(self) -> Iterable[Metric]:
        """Nothing; without this, registering would scrape."""
        return []

    def collect(self) -> Iterable[Metric]:
        self._call()
        return []


def _outcome(error: Exception) -> str:
    code = error.code if isinstance(error, MPAuthXError) else StatusCode.unknown_error
    return code.name


def _errcode(errcode: object) -> str:
    """The label of an errcode: one for all outside of WeChat's range, to bound their number."""
    if type(errcode) is int and (errcode == -1 or 40_000 <= errcode < 1_000_000):
        return str(errcode)
    return "other"
