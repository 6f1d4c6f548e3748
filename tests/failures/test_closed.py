"""Whatever is closed refuses each of its public methods, whether it was used or not."""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from mpauthx_async import (
    AppAccessToken,
    ClosedError,
    Connections,
    MPAuthX,
    RedisKeyValueStore,
    RedisTokenStore,
    SqliteKeyValueStore,
    SqliteTokenStore,
    SqliteUserStore,
    WeChatAPI,
    WeChatOAuth,
    WeChatSimulator,
)
from mpauthx_async.stores.near_cache import SharedNearCache
from tests.helpers.clock import Clock
from tests.helpers.outages import ASKED_OF_RECORDS, ASKED_OF_TOKENS, ASKED_OF_USERS
from tests.helpers.redis_server import RedisServer
from tests.helpers.secret_world import TABLE, World


def call(use: Callable[[Any], object]) -> Callable[[Any], Awaitable[object]]:
    """A row of a table for what is not awaited."""

    async def call_it(owner: Any) -> object:
        return use(owner)

    return call_it


async def enter_block(world: World) -> None:
    async with world.auth.until_revoked(world.token):
        raise AssertionError


SERVICES: dict[type, dict[str, Callable[[World], Awaitable[object]]]] = {
    kind: {name: row.call for name, row in rows.items()} for kind, rows in TABLE.items()
}
SERVICES[MPAuthX] |= {
    "subscribe": call(lambda world: world.auth.subscribe(print)),
    "until_revoked": enter_block,
}
SERVICES[WeChatAPI] |= {"exchange_code": lambda world: world.api.exchange_code(world.code())}
# What needs nothing that could be closed.
ALWAYS_THERE: dict[type, set[str]] = {
    MPAuthX: {"constants", "extract_open_id", "extract_sku", "gauges"},
    WeChatOAuth: {
        *("app_id", "create_state", "decrypt_mini_program_user"),
        *("get_authorize_url", "get_authorize_url_for_website"),
    },
    WeChatAPI: {"names_same_user"},
    AppAccessToken: {"cut_off"},
    Connections: {"configured_redis", "knows_redis", "login_limit", "renew_redis", "watch_primary"},
    RedisTokenStore: {*("longest_wait", "open_near_cache", "sharding", "system")},
    SqliteTokenStore: {"longest_wait", "system"},
    SqliteUserStore: {"longest_wait", "system"},
    RedisKeyValueStore: set(),
    SqliteKeyValueStore: {"longest_wait", "system"},
}
CHECK = {"check": lambda store: store.check()}
RESOURCES: dict[type, dict[str, Callable[[Any], Awaitable[object]]]] = {
    Connections: {
        "http": call(lambda connections: connections.http),
        "redis": call(lambda connections: connections.redis),
        "executor": call(lambda connections: connections.executor),
        "use_redis": call(lambda connections: connections.use_redis("redis://localhost:6379/0")),
    },
    RedisTokenStore: {
        **ASKED_OF_TOKENS,
        **CHECK,
        "push_changes_to": call(lambda store: store.push_changes_to(SharedNearCache(1))),
    },
    SqliteTokenStore: ASKED_OF_TOKENS,
    SqliteUserStore: ASKED_OF_USERS,
    RedisKeyValueStore: ASKED_OF_RECORDS | CHECK,
    SqliteKeyValueStore: ASKED_OF_RECORDS,
}


@pytest.mark.parametrize(("kind", "rows"), [*SERVICES.items(), *RESOURCES.items()])
def test_the_tables_have_every_public_name(kind: type, rows: dict[str, object]) -> None:
    public = {name for name, _ in inspect.getmembers(kind) if not name.startswith("_")}
    assert rows.keys() | ALWAYS_THERE[kind] == public - {"close"}


@pytest.fixture
async def wx(clock: Clock) -> AsyncIterator[WeChatSimulator]:
    async with WeChatSimulator(clock=clock, calls_a_minute=None) as simulator:
        yield simulator


@pytest.fixture
def make_world(wx: WeChatSimulator, clock: Clock, tmp_path: Path) -> Callable[[], World]:
    def make() -> World:
        names = {"app_id": wx.app_id, "app_secret": wx.app_secret, "api_base": wx.url}
        stores = {"users": f"sqlite:///{tmp_path}/u.db", "tokens": f"sqlite:///{tmp_path}/t.db"}
        return World(wx, clock, {**names, **stores, "connections": Connections()})

    return make


@pytest.mark.parametrize("is_used", [True, False])
@pytest.mark.parametrize("kind", SERVICES)
async def test_every_method_of_a_closed_service_raises(
    make_world: Callable[[], World], wx: WeChatSimulator, kind: type, is_used: bool
) -> None:
    used, unused = make_world(), make_world()
    await used.begin()
    unused.go_on_with(used)
    world = used if is_used else unused
    for each in (used, used, unused, unused):
        await each.close()
    requests = len(wx.requests)
    for ask in SERVICES[kind].values():
        with pytest.raises(ClosedError, match=r"is closed\. Create a new one") as caught:
            await ask(world)
        assert caught.value.code == 6100
    assert len(wx.requests) == requests


@pytest.mark.parametrize("token", [None, "", "bob|shop|" + "A" * 43])
async def test_a_closed_service_raises_whatever_the_token(
    make_world: Callable[[], World], token: str | None
) -> None:
    world = make_world()
    await world.begin()
    await world.close()
    for method in (world.auth.is_token_valid, world.auth.authenticate, world.auth.rotate):
        with pytest.raises(ClosedError):
            await method(token)
    assert world.auth.extract_open_id(world.token) == "bob"


@pytest.mark.parametrize("kind", RESOURCES)
async def test_every_method_of_a_closed_resource_raises(
    tmp_path: Path, redis_server: RedisServer, kind: type
) -> None:
    place = tmp_path / "store.db" if kind.__name__.startswith("Sqlite") else redis_server.url
    used, unused = kind(place), kind(place)
    for name, ask in RESOURCES[kind].items():
        if name != "use_redis":
            await ask(used)
    for one in (used, unused):
        await one.close()
        await one.close()
        for ask in RESOURCES[kind].values():
            with pytest.raises(ClosedError, match="closed"):
                await ask(one)


@pytest.mark.parametrize("kind", [RedisTokenStore, SqliteTokenStore])
async def test_a_closed_store_refuses_an_empty_batch(
    tmp_path: Path, redis_server: RedisServer, kind: type[Any]
) -> None:
    store = kind(redis_server.url if kind is RedisTokenStore else tmp_path / "store.db")
    await store.issue([])
    await store.close()
    for ask in (store.issue, store.read, store.revoke):
        with pytest.raises(ClosedError):
            await ask([])
