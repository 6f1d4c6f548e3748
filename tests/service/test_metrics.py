"""What Prometheus is given to read."""

import asyncio
import subprocess
import sys

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from mpauthx_async import (
    ConnectionFailedError,
    InvalidTokenError,
    Session,
    SessionRef,
    User,
    WeChatAPIError,
)
from mpauthx_async.concurrency.event_bus import EventBus
from mpauthx_async.events import (
    Banned,
    BatchFinished,
    Event,
    LoggedIn,
    LoginFailed,
    Refreshed,
    Replaced,
    Revoked,
    Rotated,
    StoreFailed,
    TokenReuseDetected,
    TokensValidated,
    Unbanned,
    WeChatFailed,
)
from mpauthx_async.metrics import Metrics
from mpauthx_async.models import Ban

REF = SessionRef("shop", "o-1", "nonce")
SESSION = Session(REF, issued_at=0, expires_at=1)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> Metrics:
    return Metrics(registry)


def samples(registry: CollectorRegistry) -> dict[str, float]:
    """What the exposition says, but for when each metric was made."""
    found = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sample.labels.items())
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return {name: value for name, value in found.items() if "_created" not in name}


def changes(registry: CollectorRegistry, metrics: Metrics, *events: Event) -> dict[str, float]:
    """What these events change, without buckets."""
    before = samples(registry)
    for event in events:
        metrics(event)
    after = samples(registry).items()
    return {
        name: value
        for name, value in after
        if value != before.get(name, 0) and "_bucket" not in name
    }


def test_logins_are_counted_by_their_status(registry: CollectorRegistry, metrics: Metrics):
    assert changes(
        registry,
        metrics,
        LoggedIn(SESSION, User("o-1"), is_new_user=True, seconds=0.25),
        LoggedIn(SESSION, User("o-1"), is_new_user=False, seconds=0.25),
        LoginFailed(WeChatAPIError(40029, "invalid code"), seconds=0.5),
        LoginFailed(ConnectionFailedError("no route"), seconds=2),
        LoginFailed(ZeroDivisionError(), seconds=0),
    ) == {
        'mpauthx_logins_total{outcome="ok"}': 2,
        'mpauthx_logins_total{outcome="session_key_and_open_id_request_error"}': 1,
        'mpauthx_logins_total{outcome="http_request_error_event"}': 1,
        'mpauthx_logins_total{outcome="unknown_error"}': 1,
        "mpauthx_login_seconds_count": 5,
        "mpauthx_login_seconds_sum": 3,
    }


def test_validations_are_counted_by_their_result_and_only_trips_are_timed(
    registry: CollectorRegistry, metrics: Metrics
):
    assert changes(
        registry,
        metrics,
        TokensValidated(valid=3, refused=1, seconds=0.25),
        TokensValidated(valid=0, refused=5, seconds=0),
    ) == {
        'mpauthx_validations_total{result="valid"}': 3,
        'mpauthx_validations_total{result="refused"}': 6,
        "mpauthx_validation_seconds_count": 1,
        "mpauthx_validation_seconds_sum": 0.25,
    }


def test_batches_are_measured_by_their_name(registry: CollectorRegistry, metrics: Metrics):
    metrics(BatchFinished("validate", size=3, seconds=0.25))
    metrics(BatchFinished("validate", size=500, seconds=0.25))
    metrics(BatchFinished("login", size=1, seconds=0.5))
    found = samples(registry)
    assert found['mpauthx_batch_size_sum{batch="validate"}'] == 503
    assert found['mpauthx_batch_seconds_sum{batch="validate"}'] == 0.5
    assert found['mpauthx_batch_seconds_count{batch="login"}'] == 1
    name = "mpauthx_batch_size_bucket"
    buckets = {
        key.split('le="')[1].rstrip('"}'): value
        for key, value in found.items()
        if key.startswith(name) and 'batch="validate"' in key
    }
    assert list(buckets) == [f"{2.0**power}" for power in range(10)] + ["+Inf"]
    assert list(buckets.values()) == [0, 0] + [1] * 7 + [2, 2]


def test_sessions_that_ended_are_counted_by_the_reason(
    registry: CollectorRegistry, metrics: Metrics
):
    assert changes(
        registry,
        metrics,
        Replaced(REF, by=SESSION),
        Revoked("shop", "o-1", None, ended=3),
        Revoked("shop", "o-1", "nonce", ended=0),
        Banned(Ban("o-1", "spam", banned_at=0), "shop", ended=2),
        TokenReuseDetected(REF),
    ) == {
        'mpauthx_sessions_ended_total{reason="replaced"}': 1,
        'mpauthx_sessions_ended_total{reason="revoked"}': 3,
        'mpauthx_sessions_ended_total{reason="banned"}': 2,
        'mpauthx_sessions_ended_total{reason="reused"}': 1,
        "mpauthx_token_reuse_total": 1,
    }


def test_failures_are_counted_and_strange_errcodes_are_one_label(
    registry: CollectorRegistry, metrics: Metrics
):
    strange = [0, 7, -2, 10**6, 10**30, True, None, "40029", 40029.0]
    assert changes(
        registry,
        metrics,
        *[WeChatFailed(errcode) for errcode in (-1, 40029, 40029, 301002, *strange)],
        StoreFailed("begin"),
    ) == {
        'mpauthx_wechat_errors_total{errcode="-1"}': 1,
        'mpauthx_wechat_errors_total{errcode="40029"}': 2,
        'mpauthx_wechat_errors_total{errcode="301002"}': 1,
        'mpauthx_wechat_errors_total{errcode="other"}': len(strange),
        'mpauthx_store_errors_total{operation="begin"}': 1,
    }


def test_other_events_count_nothing(registry: CollectorRegistry, metrics: Metrics):
    others = (Refreshed(SESSION), Rotated(SESSION), Unbanned("shop", "o-1"))
    assert changes(registry, metrics, *others) == {}


def test_what_is_known_beforehand_begins_at_zero(registry: CollectorRegistry, metrics: Metrics):
    found = samples(registry)
    for name in (
        'mpauthx_logins_total{outcome="ok"}',
        'mpauthx_validations_total{result="valid"}',
        'mpauthx_validations_total{result="refused"}',
        'mpauthx_sessions_ended_total{reason="banned"}',
        "mpauthx_token_reuse_total",
    ):
        assert found[name] == 0


def test_no_metric_tells_who_a_user_is(registry: CollectorRegistry, metrics: Metrics):
    metrics(LoggedIn(SESSION, User("o-1"), is_new_user=True, seconds=0.25))
    metrics(Revoked("shop", "o-1", "nonce", ended=1))
    metrics(Banned(Ban("o-1", "spam", banned_at=0), "shop", ended=2))
    text = generate_latest(registry).decode()
    assert "o-1" not in text
    assert "nonce" not in text


async def test_one_listens_to_several_services_at_once(
    registry: CollectorRegistry, metrics: Metrics
):
    services = [EventBus() for _ in range(3)]
    for events in services:
        events.subscribe(metrics)
    for _ in range(300):
        for events in services:
            events.emit(TokensValidated(valid=1, refused=2, seconds=0.5))
    await asyncio.gather(*(events.close() for events in services))
    found = samples(registry)
    assert found['mpauthx_validations_total{result="valid"}'] == 900
    assert found['mpauthx_validations_total{result="refused"}'] == 1800
    assert found["mpauthx_validation_seconds_count"] == 900


def test_the_registry_is_that_of_the_process_unless_told_otherwise():
    code = (
        "from prometheus_client import generate_latest\n"
        "from mpauthx_async.metrics import Metrics\n"
        "Metrics()\n"
        "assert b'mpauthx_token_reuse_total 0' in generate_latest()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert b"mpauthx" not in generate_latest(REGISTRY)  # not for being imported


def test_a_second_on_one_registry_is_refused(registry: CollectorRegistry, metrics: Metrics):
    with pytest.raises(ValueError, match="mpauthx_logins"):
        Metrics(registry)


def test_without_the_package_the_import_says_what_to_install():
    code = "import sys; sys.modules['prometheus_client'] = None; import mpauthx_async.metrics"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "ImportError: mpauthx_async.metrics needs prometheus_client" in run.stderr
    assert "pip install 'mpauthx-async[prometheus]'" in run.stderr


def test_an_error_of_ours_has_its_status_as_outcome(registry: CollectorRegistry, metrics: Metrics):
    error = InvalidTokenError("no")
    assert changes(registry, metrics, LoginFailed(error, seconds=0)) == {
        f'mpauthx_logins_total{{outcome="{error.code.name}"}}': 1,
        "mpauthx_login_seconds_count": 1,
    }
