"""What Prometheus is given to read."""

import asyncio
import gc
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from mpauthx_async import (
    Apps,
    ConnectionFailedError,
    Gauges,
    InvalidTokenError,
    Session,
    SessionRef,
    User,
    WeChatAPIError,
    WeChatSimulator,
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
from tests.helpers.logins import Gate
from tests.helpers.near_services import Make, warm, with_near_cache
from tests.helpers.outages import until_true
from tests.helpers.redis_server import RedisServer
from tests.helpers.service_calls import narrow_connections

Changes = Callable[..., dict[str, float]]
GAUGES = {f"mpauthx_{field.name}" for field in fields(Gauges)}
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


@pytest.fixture
def changes(registry: CollectorRegistry, metrics: Metrics) -> Changes:
    """Tells what events change, without buckets."""

    def changes(*events: Event) -> dict[str, float]:
        before = samples(registry)
        for event in events:
            metrics(event)
        after = samples(registry).items()
        return {
            name: value
            for name, value in after
            if value != before.get(name, 0) and "_bucket" not in name
        }

    return changes


def test_logins_are_counted_by_their_status(changes: Changes):
    assert changes(
        LoggedIn(SESSION, User("o-1"), is_new_user=True, seconds=0.25),
        LoggedIn(SESSION, User("o-1"), is_new_user=False, seconds=0.25),
        LoginFailed(WeChatAPIError(40029, "invalid code"), seconds=0.5),
        LoginFailed(ConnectionFailedError("no route"), seconds=2),
        LoginFailed(InvalidTokenError("no"), seconds=0),
        LoginFailed(ZeroDivisionError(), seconds=0),
    ) == {
        'mpauthx_logins_total{outcome="ok"}': 2,
        'mpauthx_logins_total{outcome="session_key_and_open_id_request_error"}': 1,
        'mpauthx_logins_total{outcome="http_request_error_event"}': 1,
        'mpauthx_logins_total{outcome="invalid_token"}': 1,
        'mpauthx_logins_total{outcome="unknown_error"}': 1,
        "mpauthx_login_seconds_count": 6,
        "mpauthx_login_seconds_sum": 3,
    }


def test_validations_are_counted_by_their_result_and_only_trips_are_timed(changes: Changes):
    assert changes(
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


def test_sessions_that_ended_are_counted_by_the_reason(changes: Changes):
    assert changes(
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


def test_failures_are_counted_and_strange_errcodes_are_one_label(changes: Changes):
    strange = [0, 7, -2, 10**6, 10**30, True, None, "40029", 40029.0]
    assert changes(
        *[WeChatFailed(errcode) for errcode in (-1, 40029, 40029, 301002, *strange)],
        StoreFailed("begin"),
    ) == {
        'mpauthx_wechat_errors_total{errcode="-1"}': 1,
        'mpauthx_wechat_errors_total{errcode="40029"}': 2,
        'mpauthx_wechat_errors_total{errcode="301002"}': 1,
        'mpauthx_wechat_errors_total{errcode="other"}': len(strange),
        'mpauthx_store_errors_total{operation="begin"}': 1,
    }


def test_other_events_count_nothing(changes: Changes):
    others = (Refreshed(SESSION), Rotated(SESSION), Unbanned("shop", "o-1"))
    assert changes(*others) == {}


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


async def test_one_listens_to_many_services_at_once(registry: CollectorRegistry, metrics: Metrics):
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


async def test_a_service_is_watched_until_it_is_closed(
    registry: CollectorRegistry,
    metrics: Metrics,
    make: Make,
    wx: WeChatSimulator,
    redis_server: RedisServer,
):
    async with make(tokens=with_near_cache(redis_server.url)) as auth:
        end = metrics.watch(auth)
        await warm(auth, wx)
        assert samples(registry)["mpauthx_near_caches_on"] == 1
    assert auth.gauges() == Gauges()
    for _ in range(2):
        found = samples(registry)
        assert found['mpauthx_logins_total{outcome="ok"}'] == 1
        assert {value for name, value in found.items() if name in GAUGES} == {0}
        end()


async def test_gauges_tell_what_waits_when_they_are_scraped(
    registry: CollectorRegistry, metrics: Metrics, make: Make, wx: WeChatSimulator
):
    gate = Gate(wx)
    async with (
        narrow_connections(10) as connections,
        make(exchange=gate.exchange, connections=connections) as auth,
        make(exchange=gate.exchange, connections=connections, sku="blog") as blog,
    ):
        ends = [metrics.watch(one) for one in (auth, blog)]
        logins = [
            asyncio.create_task(one.authorize(wx.login(f"user-{number}")))
            for one in (auth, blog)
            for number in range(15)
        ]
        await gate.reached_by(16)
        found = await asyncio.to_thread(samples, registry)  # as an exporter does
        assert found["mpauthx_logins_at_wechat"] == 16
        assert found["mpauthx_logins_waiting"] == 14
        ends[1]()
        assert samples(registry)["mpauthx_logins_waiting"] == auth.gauges().logins_waiting < 21
        gate.open()
        await asyncio.gather(*logins)
        assert auth.gauges() == blog.gauges() == Gauges()


async def test_a_login_that_fails_or_is_cancelled_leaves_wechat(make: Make, wx: WeChatSimulator):
    async with make() as auth:
        with pytest.raises(WeChatAPIError):
            await auth.authorize("used-up")
        assert auth.gauges().logins_at_wechat == 0
        wx.latency = 3600
        login = asyncio.create_task(auth.authorize(wx.login("bob")))
        await until_true(lambda: auth.gauges().logins_at_wechat == 1)
        await auth.close(timeout=0)
        await asyncio.wait([login])
    assert auth.gauges() == Gauges()


async def test_dropped_events_are_told(
    registry: CollectorRegistry, metrics: Metrics, make: Make, wx: WeChatSimulator
):
    async with make() as auth:
        metrics.watch(auth)
        for _ in range(1_100):  # in one tick: 1,000 wait
            auth._parts.events.emit(TokenReuseDetected(REF))
        assert samples(registry)["mpauthx_events_dropped"] == auth.gauges().events_dropped == 100


async def test_a_near_cache_is_told_to_be_off_while_redis_is_down(
    registry: CollectorRegistry,
    metrics: Metrics,
    make: Make,
    wx: WeChatSimulator,
    server: RedisServer,
):
    def near() -> list[float]:
        names = ("near_cache_tokens", "near_caches_on", "near_caches_off")
        return [samples(registry)[f"mpauthx_{name}"] for name in names]

    async with make(tokens=with_near_cache(server.url)) as auth:
        metrics.watch(auth)
        assert near() == [0, 0, 1]
        await warm(auth, wx)
        assert near() == [1, 1, 0]
        server.stop()
        await until_true(lambda: near() == [0, 0, 1])


async def test_a_service_of_apps_is_not_kept_alive_by_being_watched(
    registry: CollectorRegistry, metrics: Metrics, tmp_path: Path
):
    async def load(app_id: str) -> dict[str, Any]:
        return {"app_id": app_id, "app_secret": "s" * 32, "sku": "shop"}

    def names_of_living() -> set[str]:
        gc.collect()
        return {repr(one()) for one in services if one() is not None}

    services = []
    urls = {name: f"sqlite:///{tmp_path}/{name}.db" for name in ("users", "tokens")}
    async with Apps(load, **urls, max_idle=1) as apps:
        for number in range(3):
            async with apps.use(f"wx{number}") as auth:
                metrics.watch(auth)
                services.append(weakref.ref(auth))
        del auth
        await until_true(lambda: names_of_living() == {"<MPAuthX wx2 sku=shop>"})
        assert samples(registry)["mpauthx_logins_waiting"] == 0
    await until_true(lambda: not names_of_living())


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
