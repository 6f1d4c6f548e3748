"""Metrics: a listener that counts for Prometheus."""

from .events import (
    Banned,
    BatchFinished,
    Event,
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

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
except ImportError as error:
    raise ImportError(
        "mpauthx_async.metrics needs prometheus_client: pip install 'mpauthx-async[prometheus]'"
    ) from error

from .constants import StatusCode
from .errors import MPAuthXError

__all__ = ["Metrics"]

# A trip to a store next door takes less than a millisecond, and a login what WeChat takes.
_TRIP_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_LOGIN_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_BATCH_SIZES = tuple(2**power for power in range(10))


class Metrics:
    """Counts what happens in one service or several: `auth.subscribe(Metrics())`.

    Args:
        registry: where to; None for the registry of the whole process, which
            `prometheus_client.start_http_server` and the like give out.

    Raises:
        ValueError: the registry has such metrics already. One Metrics does for all services.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = REGISTRY if registry is None else registry

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"mpauthx_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"mpauthx_{name}", text, labels, registry=registry, buckets=buckets)

        self._logins = counter("logins_total", "Logins, by their status.", "outcome")
        self._login_seconds = histogram(
            "login_seconds", "How long logins took, failed ones too.", _LOGIN_SECONDS
        )
        self._validations = counter("validations_total", "Tokens looked at.", "result")
        self._validation_seconds = histogram(
            "validation_seconds", "How long the store took to look at tokens.", _TRIP_SECONDS
        )
        self._batch_size = histogram("batch_size", "Calls in a batch.", _BATCH_SIZES, "batch")
        self._batch_seconds = histogram(
            "batch_seconds", "How long batches took.", _TRIP_SECONDS, "batch"
        )
        self._wechat_errors = counter("wechat_errors_total", "Calls WeChat refused.", "errcode")
        self._store_errors = counter("store_errors_total", "Failures of stores.", "operation")
        self._ended = counter("sessions_ended_total", "Sessions ended before time.", "reason")
        self._reuse = counter("token_reuse_total", "Rotated tokens that were used again.")
        self._start_at_zero()

    def __call__(self, event: Event) -> None:
        """Count an event."""
        match event:
            case TokensValidated():
                self._validations.labels("valid").inc(event.valid)
                self._validations.labels("refused").inc(event.refused)
                if event.seconds:  # else the store was not asked
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

    def _start_at_zero(self) -> None:
        """Show what is known beforehand: a rate misses the first of what comes out of nothing."""
        self._logins.labels("ok")
        for result in ("valid", "refused"):
            self._validations.labels(result)
        for reason in ("replaced", "revoked", "banned", "forgotten", "reused"):
            self._ended.labels(reason)


def _outcome(error: Exception) -> str:
    code = error.code if isinstance(error, MPAuthXError) else StatusCode.unknown_error
    return code.name


def _errcode(errcode: object) -> str:
    """The label of an errcode; whatever WeChat answers, there are not too many of them."""
    if type(errcode) is int and (errcode == -1 or 40_000 <= errcode < 1_000_000):
        return str(errcode)
    return "other"
