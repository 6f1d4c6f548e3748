"""Many mini-programs in one process."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from mpauthx_async import (
    Apps,
    BannedError,
    ClosedError,
    ConfigurationError,
    Connections,
    Gauges,
    LoginPolicy,
    MPAuthX,
    ParameterError,
    RedisTokenStore,
    Settings,
    SqliteUserStore,
    StoreError,
    UnknownAppError,
    WeChatSimulator,
)
from mpauthx_async.events import Event, LoggedIn
from tests.helpers.many_apps import NAMES, SECRETS, Shop
from tests.helpers.outages import turns, until_true
from tests.helpers.redis_server import RedisServer


@pytest.fixture
async def wx() -> AsyncIterator[WeChatSimulator]:
    async with WeChatSimulator(other_apps=SECRETS, calls_a_minute=None) as simulator:
        yield simulator


@pytest.fixture
async def shop(wx: WeChatSimulator) -> Shop:
    return Shop(wx)


@pytest.fixture
async def make(
    shop: Shop, redis: Redis, redis_server: RedisServer, tmp_path: Path
) -> AsyncIterator[Callable[..., Apps]]:
    made: list[Apps] = []

    def apps(**options: Any) -> Apps:
        stores = {"users": f"sqlite:///{tmp_path}/users.db", "tokens": redis_server.url}
        made.append(Apps(shop.load, **stores | options))
        return made[-1]

    yield apps
    for one in made:
        await one.close()


@pytest.fixture
def apps(make: Callable[..., Apps]) -> Apps:
    return make()


async def used(apps: Apps, app_id: Any = "wxaaaa") -> MPAuthX:
    """Use an app for a moment; returns its service."""
    async with apps.use(app_id) as auth:
        return auth


async def token_of(apps: Apps, wx: WeChatSimulator, app_id: str, *ids: str) -> str:
    async with apps.use(app_id) as auth:
        return (await auth.authorize(wx.login(*ids, app_id=app_id))).token


class HeldLoads:
    """Loads that end when the test says so.

    Attributes:
        begun: what each of them returns.
    """

    def __init__(self, apps: Apps) -> None:
        self.begun: list[asyncio.Future[Mapping[str, Any] | None]] = []
        apps._load = self

    async def __call__(self, _: str) -> Mapping[str, Any] | None:
        self.begun.append(asyncio.get_running_loop().create_future())
        return await self.begun[-1]

    async def reached(self, count: int) -> None:
        await until_true(lambda: len(self.begun) == count)


async def is_valid(apps: Apps, app_id: str, token: str) -> bool:
    async with apps.use(app_id) as auth:
        return await auth.is_token_valid(token)


async def test_an_app_is_loaded_when_it_is_first_used(apps: Apps, shop: Shop) -> None:
    assert not shop.loaded
    async with apps.use("wxaaaa") as first, apps.use("wxaaaa") as second:
        assert first is second
        assert repr(first) == "<MPAuthX wxaaaa sku=shop>"
    assert await used(apps) is first
    assert shop.loaded == ["wxaaaa"]


async def test_concurrent_uses_share_one_load(apps: Apps, shop: Shop) -> None:
    shop.gate.clear()
    uses = [asyncio.create_task(used(apps)) for _ in range(50)]
    await asyncio.sleep(0)
    uses[0].cancel()
    shop.gate.set()
    outcomes = await asyncio.gather(*uses, return_exceptions=True)
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert len(set(outcomes[1:])) == 1
    assert shop.loaded == ["wxaaaa"]


async def test_settings_can_be_loaded_as_well(apps: Apps, shop: Shop) -> None:
    shop.apps["wxaaaa"] = Settings(
        app_id="wxaaaa", app_secret="a" * 32, sku="books", policy=LoginPolicy()
    )
    async with apps.use("wxaaaa") as auth:
        token = (await auth.issue_session(open_id="bob")).token
        assert auth.extract_sku(token) == "books"


async def test_a_user_of_two_apps_is_one_person_of_one_sku(
    apps: Apps, wx: WeChatSimulator, shop: Shop
) -> None:
    token = await token_of(apps, wx, "wxaaaa", "bob-a", "union-bob")
    other = await token_of(apps, wx, "wxbbbb", "bob-b", "union-bob")
    shop.apps["wxcccc"]["sku"] = "books"
    book = await token_of(apps, wx, "wxcccc", "bob-c", "union-bob")
    async with apps.use("wxaaaa") as auth:
        assert len(await auth.sessions("union-bob")) == 2
        await auth.ban("union-bob", reason="spam")
    assert not await is_valid(apps, "wxaaaa", token)
    assert not await is_valid(apps, "wxbbbb", other)
    assert await is_valid(apps, "wxcccc", book)
    with pytest.raises(BannedError):
        await token_of(apps, wx, "wxbbbb", "bob-b", "union-bob")


async def test_each_app_has_its_own_access_token(apps: Apps, wx: WeChatSimulator) -> None:
    kept = []
    for name in NAMES:
        async with apps.use(name) as auth:
            kept.append(await auth.access_token())
    assert len(set(kept)) == 3


class TestReload:
    async def test_the_service_is_new(self, apps: Apps, wx: WeChatSimulator, shop: Shop) -> None:
        token = await token_of(apps, wx, "wxaaaa", "bob")
        async with apps.use("wxaaaa") as old:
            shop.apps["wxaaaa"]["app_secret"] = "A" * 32
            await apps.reload("wxaaaa")
            async with apps.use("wxaaaa") as new:
                assert new is not old
                assert not await new.is_token_valid(token)  # the secret signs
            assert await old.is_token_valid(token)  # this block goes on with it
        await until_true(lambda: is_closed(old))

    async def test_a_failed_reload_keeps_the_old_service(self, apps: Apps, shop: Shop) -> None:
        old = await used(apps)
        shop.failure = OSError("the database is gone")
        with pytest.raises(StoreError, match=r"wxaaaa could not be loaded \(OSError\)"):
            await apps.reload("wxaaaa")
        shop.failure = None
        shop.apps["wxaaaa"]["token_ttl"] = -1
        with pytest.raises(ConfigurationError, match="token_ttl"):
            await apps.reload("wxaaaa")
        assert await used(apps) is old

    async def test_a_reload_removes_an_app_that_is_gone(self, apps: Apps, shop: Shop) -> None:
        async with apps.use("wxaaaa") as old:
            del shop.apps["wxaaaa"]
            with pytest.raises(UnknownAppError):
                await apps.reload("wxaaaa")
            with pytest.raises(UnknownAppError):
                await used(apps)
            assert not is_closed(old)
        await until_true(lambda: is_closed(old))

    async def test_an_older_load_ending_later_changes_nothing(self, apps: Apps, shop: Shop) -> None:
        loads = HeldLoads(apps)
        first = asyncio.create_task(used(apps))
        await loads.reached(1)
        reload = asyncio.create_task(apps.reload("wxaaaa"))
        await loads.reached(2)
        loads.begun[1].set_result(dict(shop.apps["wxaaaa"], sku="new"))
        await reload
        loads.begun[0].set_result(shop.apps["wxaaaa"])
        assert repr(await first) == repr(await used(apps)) == "<MPAuthX wxaaaa sku=new>"

    @pytest.mark.parametrize("later_fails", [False, True])
    async def test_a_reload_ends_with_a_new_service_though_a_later_one_began(
        self, apps: Apps, shop: Shop, later_fails: bool
    ) -> None:
        old = await used(apps)
        loads = HeldLoads(apps)
        first = asyncio.create_task(apps.reload("wxaaaa"))
        await loads.reached(1)
        later = asyncio.create_task(apps.reload("wxaaaa"))
        await loads.reached(2)
        if later_fails:
            loads.begun[1].set_exception(OSError("the database is gone"))
            with pytest.raises(StoreError):
                await later
        loads.begun[0].set_result(shop.apps["wxaaaa"])
        await turns(20)
        assert not first.done()  # what it loaded may be from before the change
        loads.begun[-1].set_result(shop.apps["wxaaaa"])
        await first
        assert await used(apps) is not old
        if not later_fails:
            await later
        assert len(loads.begun) == 2 + later_fails

    async def test_an_earlier_load_brings_no_removed_app_back(self, apps: Apps, shop: Shop) -> None:
        loads = HeldLoads(apps)
        first = asyncio.create_task(used(apps))
        await loads.reached(1)
        reload = asyncio.create_task(apps.reload("wxaaaa"))
        await loads.reached(2)
        removed = shop.apps.pop("wxaaaa")
        apps._load = shop.load
        loads.begun[1].set_result(None)
        with pytest.raises(UnknownAppError):
            await reload
        loads.begun[0].set_result(removed)
        for use in (first, used(apps)):
            with pytest.raises(UnknownAppError):
                await use

    async def test_a_malformed_app_id_is_not_loaded(self, apps: Apps, shop: Shop) -> None:
        with pytest.raises(UnknownAppError):
            await apps.reload("../wxaaaa")
        assert not shop.loaded


class TestKeeping:
    async def test_the_least_recently_used_service_is_closed(
        self, make: Callable[..., Apps], shop: Shop
    ) -> None:
        apps = make(max_idle=2)
        a, b, *_ = [await used(apps, name) for name in ("wxaaaa", "wxbbbb", "wxaaaa", "wxcccc")]
        await until_true(lambda: is_closed(b))
        assert not is_closed(a)
        await used(apps, "wxbbbb")
        assert shop.loaded == ["wxaaaa", "wxbbbb", "wxcccc", "wxbbbb"]

    async def test_a_service_in_use_stays_open(self, make: Callable[..., Apps], shop: Shop) -> None:
        apps = make(max_idle=1, idle_ttl=0)
        async with apps.use("wxaaaa") as auth:
            for name in ("wxbbbb", "wxcccc"):
                await used(apps, name)
            assert not is_closed(auth)
            assert await used(apps) is auth

    async def test_an_idle_service_is_closed_after_idle_ttl(
        self, make: Callable[..., Apps], shop: Shop
    ) -> None:
        apps = make(idle_ttl=0)
        auth = await used(apps)
        await asyncio.sleep(0.001)
        async with apps.use("wxbbbb"):
            await until_true(lambda: is_closed(auth))


class TestBadLuck:
    @pytest.mark.parametrize(
        "app_id", ["wxdddd", "", "wx" * 40, "wx aaaa", "wxaaaa\n", "../wxaaaa", "微信", None, 7]
    )
    async def test_an_unknown_app_raises_and_may_be_added_later(
        self, apps: Apps, shop: Shop, app_id: Any
    ) -> None:
        with pytest.raises(UnknownAppError) as caught:
            await used(apps, app_id)
        assert (caught.value.code, caught.value.http_status) == (6109, 404)
        assert shop.loaded == (["wxdddd"] if app_id == "wxdddd" else [])
        shop.apps["wxdddd"] = dict(shop.apps["wxaaaa"], app_id="wxdddd")
        await used(apps, "wxdddd")

    async def test_a_load_that_fails_is_tried_again(self, apps: Apps, shop: Shop) -> None:
        shop.failure = RuntimeError("hunter2 is the password")
        with pytest.raises(StoreError, match=r"wxaaaa could not be loaded") as caught:
            await used(apps)
        assert "hunter2" not in str(caught.value)
        shop.failure = None
        await used(apps)

    async def test_the_log_tells_the_line_of_a_load_that_failed_and_no_secret(
        self, apps: Apps, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def load(app_id: str) -> Mapping[str, Any]:
            row = {"app_id": app_id, "app_secret": "hunter2" * 5}
            try:
                return shop.apps[row["app_secret"]]
            except KeyError as error:
                raise ValueError(f"{row} is wrong") from error

        apps._load = load
        with pytest.raises(StoreError):
            await used(apps)
        (record,) = [one for one in caplog.records if "could not be loaded" in one.getMessage()]
        told = record.getMessage()
        assert "wxaaaa could not be loaded (ValueError)" in told
        for kind, line in (("ValueError", "raise ValueError(f"), ("KeyError", "return shop.apps[")):
            raised = told.partition(f"{kind} was raised here:")[2]
            assert f'File "{__file__}", line ' in raised
            assert line in raised
        assert "hunter2" not in told
        assert record.exc_info is None  # whose frames have the row

    async def test_an_error_of_this_package_is_raised_as_is(self, apps: Apps, shop: Shop) -> None:
        shop.failure = ParameterError("no")
        with pytest.raises(ParameterError):
            await used(apps)

    async def test_a_load_whose_own_work_was_cancelled_cancels_no_caller(
        self, apps: Apps, shop: Shop
    ) -> None:
        async def load(_: str) -> Mapping[str, Any]:
            query = asyncio.ensure_future(asyncio.Event().wait())
            asyncio.get_running_loop().call_soon(query.cancel)
            await query
            raise AssertionError

        apps._load = load
        with pytest.raises(StoreError, match=r"could not be loaded \(CancelledError\)"):
            await used(apps)
        apps._load = shop.load
        await used(apps)

    async def test_apps_that_nobody_knows_leave_nothing(self, apps: Apps, shop: Shop) -> None:
        asked = [f"wx{number}" for number in range(200)]
        calls = [used(apps, app_id) for app_id in asked] + [apps.reload(app_id) for app_id in asked]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(answer) for answer in answers} == {UnknownAppError}
        shop.failure = OSError("the database is gone")
        for app_id in asked[:5]:
            with pytest.raises(StoreError):
                await apps.reload(app_id)
        sizes = {name: len(value) for name, value in vars(apps).items() if isinstance(value, dict)}
        assert {name: size for name, size in sizes.items() if size} == {"_shared": 3}
        assert not apps._loads._callers

    async def test_a_load_that_hangs_times_out_and_is_tried_again(
        self, apps: Apps, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("mpauthx_async.apps._MAX_LOAD_SECONDS", 0.05)
        shop.gate.clear()
        with pytest.raises(StoreError, match=r"could not be loaded \(TimeoutError\)"):
            await used(apps)
        shop.gate.set()
        await used(apps)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"app_id": "wxbbbb"}, "another app's settings"),
            ({"app_secert": "s"}, r"'app_secert', not an option .* mean 'app_secret'\?"),
            ({"colour": "red"}, r"'colour', not an option of MPAuthX\.$"),
            ({7: "seven"}, r"wxaaaa, load returned 7, not an option"),
            ({"users": "sqlite:///users.db"}, r"'users', which all apps share: give it to Apps"),
            ({"tokens": "sqlite:///t.db"}, r"'tokens', which all apps share: give it to Apps"),
            ({"connections": None}, r"'connections', which all apps share: give it to Apps"),
            ({"sku": "a b"}, "sku"),
        ],
    )
    async def test_rejects_invalid_options(
        self, apps: Apps, shop: Shop, change: dict[str, Any], message: str
    ) -> None:
        shop.apps["wxaaaa"] |= change
        with pytest.raises(ConfigurationError, match=message) as caught:
            await used(apps)
        assert "a" * 32 not in repr(caught.value)

    async def test_rejects_missing_options(self, apps: Apps, shop: Shop) -> None:
        del shop.apps["wxaaaa"]["app_secret"]
        with pytest.raises(ConfigurationError, match="wxaaaa, load did not return 'app_secret'"):
            await used(apps)

    async def test_rejects_a_result_that_has_no_options(self, apps: Apps, shop: Shop) -> None:
        shop.apps["wxaaaa"] = "wxaaaa"
        with pytest.raises(ConfigurationError, match="Settings, a mapping or None"):
            await used(apps)

    @pytest.mark.parametrize(
        "options",
        [
            *({"max_idle": wrong} for wrong in (0, True)),
            *({"idle_ttl": wrong} for wrong in (-1, "1", float("nan"))),
            {"users": "x"},
        ],
    )
    async def test_rejects_invalid_arguments(
        self, make: Callable[..., Apps], options: dict[str, Any]
    ) -> None:
        with pytest.raises(ConfigurationError):
            make(**options)
        with pytest.raises(ConfigurationError, match="load"):
            Apps("wxaaaa", users="sqlite:///u.db", tokens="sqlite:///t.db")  # type: ignore[arg-type]


class TestClosing:
    async def test_all_services_are_closed(self, apps: Apps) -> None:
        idle = await used(apps, "wxbbbb")
        async with apps.use("wxaaaa") as old:
            await apps.reload("wxaaaa")
            async with apps.use("wxaaaa") as new:
                await apps.close()
                await apps.close()
        assert all(map(is_closed, (old, new, idle)))
        with pytest.raises(ClosedError):
            await used(apps)
        with pytest.raises(ClosedError):
            await apps.reload("wxaaaa")

    async def test_calls_in_flight_end_at_a_timeout(self, apps: Apps, wx: WeChatSimulator) -> None:
        wx.latency = 3600
        async with apps.use("wxaaaa") as auth:
            login = asyncio.create_task(auth.authorize(wx.login("bob", app_id="wxaaaa")))
            await asyncio.sleep(0)
            await apps.close(timeout=0.01)
            with pytest.raises(ClosedError):
                await login

    async def test_ready_made_parts_stay_open(
        self, make: Callable[..., Apps], redis_server: RedisServer, tmp_path: Path
    ) -> None:
        async with (
            Connections(redis_server.url) as connections,
            SqliteUserStore(tmp_path / "u.db") as users,
            RedisTokenStore(connections) as tokens,
        ):
            shared = {"users": users, "tokens": tokens, "connections": connections}
            async with make(**shared) as apps, apps.use("wxaaaa") as auth:
                token = (await auth.issue_session(open_id="bob")).token
            assert await users.get(["bob"])
            async with make(**shared) as apps:
                assert await is_valid(apps, "wxaaaa", token)


async def test_many_apps_share_threads_and_connections(
    make: Callable[..., Apps], shop: Shop, redis: Redis
) -> None:
    apps = make()
    for number in range(200):
        name = f"wx{number}"
        shop.apps[name] = dict(shop.apps["wxaaaa"], app_id=name, app_secret=f"{number:032}")
        async with apps.use(name) as auth:
            assert await auth.is_token_valid((await auth.issue_session(open_id="bob")).token)
        if number == 0:
            threads = threading.active_count()
            clients = len(await redis.client_list())
    assert threading.active_count() < threads + 20
    assert len(await redis.client_list()) == clients


class TestListening:
    async def test_a_listener_hears_of_all_apps_also_of_later_and_reloaded_ones(
        self, apps: Apps, wx: WeChatSimulator
    ) -> None:
        heard: list[str] = []

        async def listener(event: Event) -> None:
            if isinstance(event, LoggedIn):
                heard.append(event.user.open_id or "")

        await token_of(apps, wx, "wxaaaa", "unheard")
        end = apps.subscribe(listener)
        await token_of(apps, wx, "wxaaaa", "ann")
        await token_of(apps, wx, "wxbbbb", "bob")
        await apps.reload("wxaaaa")
        await token_of(apps, wx, "wxaaaa", "cid")
        await until_true(lambda: len(heard) == 3)
        end()
        end()
        await token_of(apps, wx, "wxaaaa", "unheard")
        await token_of(apps, wx, "wxcccc", "unheard")
        await apps.close()  # which waits for listeners
        assert heard == ["ann", "bob", "cid"]

    def test_rejects_a_listener_that_cannot_be_called(self, apps: Apps) -> None:
        with pytest.raises(ParameterError, match="function"):
            apps.subscribe("print")  # type: ignore[arg-type]

    async def test_gauges_are_the_sum_of_all_apps(
        self, make: Callable[..., Apps], wx: WeChatSimulator, redis_server: RedisServer
    ) -> None:
        apps = make(tokens=f"{redis_server.url}?near_cache=100")
        assert apps.gauges() == Gauges()
        tokens = {name: await token_of(apps, wx, name, "bob") for name in NAMES[:2]}
        assert apps.gauges() == Gauges(near_caches_off=2)
        while apps.gauges().near_cache_tokens < 2:
            for name, token in tokens.items():
                assert await is_valid(apps, name, token)
        assert apps.gauges() == Gauges(near_cache_tokens=2, near_caches_on=2)
        wx.latency = 3600
        async with apps.use("wxaaaa") as ours, apps.use("wxbbbb") as theirs:
            logins = [
                asyncio.create_task(auth.authorize(wx.login("bob", app_id=name)))
                for auth, name in ((ours, "wxaaaa"), (theirs, "wxbbbb"))
            ]
            await until_true(lambda: apps.gauges().logins_at_wechat == 2)
        await apps.close(timeout=0)
        await asyncio.wait(logins)
        assert apps.gauges() == Gauges()


def is_closed(auth: MPAuthX) -> bool:
    return auth._calls._is_closed
