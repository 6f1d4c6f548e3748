"""No secret is in a frame, text or log record of a failure, whichever call fails, and how."""

import asyncio
import inspect
import logging
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from mpauthx_async import (
    AppAccessToken,
    ClosedError,
    ConfigurationError,
    ConnectionFailedError,
    Connections,
    InvalidResponseError,
    InvalidTokenError,
    MPAuthX,
    MPAuthXError,
    ParameterError,
    RedisKeyValueStore,
    RedisTokenStore,
    StoreError,
    WeChatAPI,
    WeChatOAuth,
    WeChatSimulator,
)
from mpauthx_async.events import LoggedIn, LoginFailed, Rotated
from mpauthx_async.simulator import Fault
from mpauthx_async.stores import open_key_value_store, open_token_store
from tests.helpers.clock import Clock
from tests.helpers.outages import until_true
from tests.helpers.redis_cluster import ask, wait_for_cluster
from tests.helpers.redis_server import RedisServer
from tests.helpers.scripted_server import Act, Server
from tests.helpers.secret_search import everything_logged, local_variables
from tests.helpers.secret_world import (
    PASSWORD,
    PHONE,
    ROWS,
    SESSION_KEY,
    SIGNING_KEY,
    TABLE,
    Row,
    World,
    add_user,
    check,
    failure_of,
    redis_url,
)
from tests.helpers.service_calls import forged, hear, of_kind


def rows(asks: str) -> list[Any]:
    return [pytest.param(row, id=name) for name, row in ROWS.items() if asks in row.asks.split()]


@pytest.mark.parametrize("kind", TABLE)
def test_the_table_has_every_public_method_that_is_awaited(kind: type) -> None:
    public = {name for name, method in vars(kind).items() if not name.startswith("_")}
    awaited = {name for name in public if inspect.iscoroutinefunction(getattr(kind, name))}
    assert awaited - {"close"} == TABLE[kind].keys()


@pytest.fixture(scope="session")
def guarded_redis() -> Iterator[RedisServer]:
    """A Redis with a password."""
    with RedisServer() as server:
        add_user(server)
        yield server


@pytest.fixture
async def wx(clock: Clock) -> AsyncIterator[WeChatSimulator]:
    async with WeChatSimulator(clock=clock, calls_a_minute=None) as simulator:
        yield simulator


@pytest.fixture
async def make(
    wx: WeChatSimulator, clock: Clock, guarded_redis: RedisServer, tmp_path: Path
) -> AsyncIterator[Callable[..., World]]:
    """Make a world, which ends with the test."""
    made: list[World] = []

    def make_one(**changes: Any) -> World:
        names: dict[str, Any] = {
            "app_id": wx.app_id,
            "app_secret": wx.app_secret,
            "api_base": wx.url,
            "connections": Connections(),
            "users": f"sqlite:///{tmp_path}/users.db",
            "tokens": redis_url(guarded_redis),
            **changes,
        }
        made.append(World(wx, clock, names))
        return made[-1]

    yield make_one
    for world in made:
        await world.close()


@pytest.fixture
async def world(make: Callable[..., World]) -> World:
    made = make()
    await made.begin()
    return made


# The search itself


async def test_the_search_finds_what_a_method_would_leave_without_its_decorator(
    world: World,
) -> None:
    world.wx.fail_next(Fault.TOO_FREQUENT, 4)
    code, phone_code = world.code(), world.phone_code()
    for method, arguments in (
        (MPAuthX.authorize_web, (world.auth, code)),
        (WeChatAPI.code_to_session, (world.api, code)),
        (WeChatAPI.get_phone_number, (world.api, phone_code, world.access_token)),
        (AppAccessToken.get, (world.access, world.access_token)),
    ):
        bare: Any = inspect.unwrap(method)
        told = local_variables(await failure_of(bare(*arguments)))
        assert str(arguments[-1]) in told


# What succeeds


async def test_no_success_is_shown_or_logged_with_a_secret(
    world: World, debugging: pytest.LogCaptureFixture
) -> None:
    auth, oauth, api = world.auth, world.oauth, world.api
    heard = hear(auth)
    result = await auth.authorize(world.code(), *world.sealed())
    rotated = await auth.rotate(world.token)
    refreshed = await oauth.refresh_access_token(world.web.refresh_token)
    world.secrets |= {result.response, rotated.response, refreshed.access_token}
    shown: list[object] = [result, rotated, refreshed, await auth.session(rotated.response)]
    shown += [await oauth.get_session_key(world.code()), await api.code_to_session(world.code())]
    assert await auth.decrypt(result.response, *world.sealed())
    await auth.reset_session_key(result.response)
    await world.close()
    assert {LoggedIn, Rotated} <= {type(event) for event in heard}
    shown += [*heard, auth, oauth, api, world.access, world.connections, auth._api._exchange]
    shown += [vars(each) for each in (auth, oauth, world.access, auth._session_keys)]
    told = "\n".join(f"{each} {each!r}" for each in shown)
    told += everything_logged(debugging.records)
    assert not [secret for secret in world.secrets if secret in told]


# What fails


@pytest.mark.parametrize("row", rows("wechat"))
async def test_no_fault_of_wechats_leaves_a_secret(
    row: Row, world: World, debugging: pytest.LogCaptureFixture
) -> None:
    failures: dict[Fault, BaseException] = {}
    for fault in set(Fault) - {Fault.NO_FIELDS}:  # which is success for some
        world.wx.fail_next(fault, 3 if fault is Fault.SYSTEM_BUSY else 1)
        failures[fault] = await failure_of(row.call(world))
        world.wx.clear_faults()
    check(world, *failures.values(), logged=debugging.records)
    assert len(set(map(type, failures.values()))) >= 5


async def test_no_answer_without_fields_leaves_a_secret(world: World) -> None:
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: world.auth.authorize(world.code()),
        lambda: world.auth.authorize_web(world.web_code()),
        lambda: world.auth.get_phone_number(world.phone_code()),
        lambda: world.auth.reset_session_key(world.token),
        lambda: world.access.get(refused=world.access_token),
    ]
    for call in calls:
        world.wx.fail_next(Fault.NO_FIELDS)
        error = await failure_of(call())
        assert type(error) is InvalidResponseError
        check(world, error)


async def test_no_refused_connection_leaves_a_secret(
    world: World, debugging: pytest.LogCaptureFixture
) -> None:
    calls = [row.call(world) for row in ROWS.values() if "wechat" in row.asks]
    await world.wx.close()
    errors = [await failure_of(call) for call in calls]
    assert {type(error) for error in errors} == {ConnectionFailedError}
    check(world, *errors, logged=debugging.records)
    assert "No connection" in debugging.text


async def test_no_timeout_leaves_a_secret(
    world: World, make: Callable[..., World], debugging: pytest.LogCaptureFixture
) -> None:
    timeout = aiohttp.ClientTimeout(sock_read=0.05)
    async with Server(Act.HANG) as server, aiohttp.ClientSession(timeout=timeout) as http:
        late = make(connections=Connections(http=http), api_base=server.url)
        late.go_on_with(world)
        errors = []
        for row in (each for each in ROWS.values() if "wechat" in each.asks):
            server.asked.clear()
            errors.append(await failure_of(row.call(late)))
            await server.asked.wait()
        assert {type(error) for error in errors} == {ConnectionFailedError}
        check(late, *errors, logged=debugging.records)


@pytest.fixture(params=["redis", "near cache", "sqlite"])
async def outage(
    request: pytest.FixtureRequest, make: Callable[..., World], tmp_path: Path
) -> AsyncIterator[tuple[World, Callable[[], None]]]:
    """A world, and what makes its store of tokens fail."""
    with RedisServer() as server:
        add_user(server)
        file = tmp_path / "tokens.db"
        tokens = {
            "redis": redis_url(server),
            "near cache": f"{redis_url(server)}?near_cache=10",
            "sqlite": f"sqlite:///{file}",
        }
        world = make(tokens=tokens[request.param])
        await world.begin()
        yield world, partial(damage, file) if request.param == "sqlite" else server.stop


def damage(file: Path) -> None:
    """Make a SQLite database useless to those who have it open."""
    with closing(sqlite3.connect(file)) as database:
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            database.execute(f"DROP TABLE {table}")
        database.commit()


async def test_no_store_of_tokens_that_fails_leaves_a_secret(
    outage: tuple[World, Callable[[], None]], debugging: pytest.LogCaptureFixture
) -> None:
    world, fail = outage
    asked = [row for row in ROWS.values() if "tokens" in row.asks.split()]
    world.later()  # before there are codes, which would expire
    fail()
    errors = await asyncio.gather(*(failure_of(row.call(world)) for row in asked))
    assert {type(error) for error in errors} == {StoreError}
    assert all(error.__cause__ is not None for error in errors)
    check(world, *errors, logged=debugging.records)


async def test_no_store_of_users_that_fails_leaves_a_secret(world: World, tmp_path: Path) -> None:
    damage(tmp_path / "users.db")
    asked = [row for row in ROWS.values() if "users" in row.asks.split()]
    errors = await asyncio.gather(*(failure_of(row.call(world)) for row in asked))
    assert {type(error) for error in errors} == {StoreError}
    check(world, *errors)


async def test_no_wrong_password_of_redis_is_left(
    make: Callable[..., World], guarded_redis: RedisServer
) -> None:
    world = make(tokens=redis_url(guarded_redis).replace(PASSWORD, f"wrong-{PASSWORD}"))
    error = await failure_of(world.auth.online())
    assert "password" in str(error)
    check(world, error)


@pytest.mark.parametrize("is_cluster", [False, True])
async def test_no_password_is_left_that_redis_quotes_with_an_unknown_command(
    make: Callable[..., World], tmp_path: Path, caplog: pytest.LogCaptureFixture, is_cluster: bool
) -> None:
    caplog.set_level(logging.DEBUG, "mpauthx_async")
    settings = tmp_path / "redis.conf"
    settings.touch()
    with RedisServer(include=str(settings), cluster_enabled="yes" if is_cluster else "no") as old:
        add_user(old)
        url = f"{redis_url(old)}?protocol=3"
        if is_cluster:
            ask(old, "CLUSTER", "ADDSLOTS", *range(16_384))
            await asyncio.to_thread(wait_for_cluster, old)
            url = url.replace("redis", "redis+cluster", 1)
        world = make(tokens=url)
        await world.auth.online()
        old.stop()
        settings.write_text("rename-command HELLO GREET\n")
        old.start()
        error = await failure_of(world.auth.online())
        check(world, error)
        if is_cluster:
            await until_true(lambda: "did not send its slots" in caplog.text)
    assert "HELLO" in str(error)
    assert PASSWORD not in caplog.text


@pytest.mark.parametrize("kind", ["forged", "mangled", "rotated", "revoked"])
async def test_no_token_that_is_not_valid_is_left(kind: str, world: World) -> None:
    good = world.token
    if kind == "rotated":
        new = world.secret((await world.auth.rotate(good)).response)
        world.secret((await world.auth.rotate(new)).response)
    if kind == "revoked":
        await world.auth.revoke(good)
    world.token = {"forged": forged(good), "mangled": good + "x"}.get(kind, good)
    world.secrets.add(world.token)
    taken = [row for row in ROWS.values() if "token" in row.asks.split()]
    errors = [await failure_of(row.call(world)) for row in taken]
    errors.append(await failure_of(world.auth.revoke_user("bob", world.token + "y")))
    assert {type(error) for error in errors} == {InvalidTokenError, ParameterError}
    check(world, *errors)


async def test_no_closed_service_leaves_a_secret(world: World) -> None:
    calls = [row.call(world) for row in ROWS.values()]
    await world.close()
    errors = [await failure_of(call) for call in calls]
    assert {type(error) for error in errors} == {ClosedError}
    check(world, *errors)


async def awaited(call: Callable[[], object]) -> None:
    call()


async def test_no_argument_that_is_wrong_is_left(world: World) -> None:
    code, (encrypted_data, iv), web = world.code(), world.sealed(), world.web
    not_ours = {"encrypted_data": encrypted_data, "iv": iv, "session_key": SESSION_KEY[::-1]}
    half = SESSION_KEY + "\ud800"
    calls: list[Awaitable[object]] = [
        world.auth.authorize(code + "\n"),
        world.auth.authorize(code, encrypted_data),
        world.auth.authorize(code, encrypted_data, iv, device="\n"),
        world.auth.authorize(code, encrypted_data, iv, max_age=-1),
        world.auth.authorize(world.code("eve"), encrypted_data, iv),
        world.auth.authorize_web(world.web_code() + " "),
        world.auth.authorize(world.code(), device=world.token + "\n"),
        world.auth.revoke_session("bob|" + world.token, world.session_id),
        world.auth.sessions(world.token),
        world.auth.ban_of(world.token),
        world.auth.online(world.token),
        world.auth.decrypt(world.token, encrypted_data, iv[::-1]),
        world.auth.decrypt(world.token, encrypted_data, ""),
        world.auth.decrypt_phone_number(world.token, *world.wx.seal("bob", {"n": PHONE})),
        world.auth.get_phone_number(world.phone_code() + "\n"),
        world.oauth.verify_token("bob", web.access_token + "\n"),
        world.oauth.refresh_access_token(web.refresh_token + "\n"),
        world.oauth.get_user_by_code(world.code(), encrypted_data=encrypted_data),
        world.oauth.get_user_by_code(world.code("eve"), encrypted_data=encrypted_data, iv=iv),
        world.oauth.verify_state("state", session=code),
        world.api.get_phone_number(world.phone_code(), world.access_token + "\ud800"),
        world.api.is_session_key_valid("bob", half, world.access_token),
        world.api.reset_session_key("|", SESSION_KEY, world.access_token),
        awaited(partial(world.oauth.create_state, code, session=half)),
        awaited(partial(world.oauth.decrypt_mini_program_user, **not_ours)),
    ]
    errors = [await failure_of(call) for call in calls]
    assert all(isinstance(error, MPAuthXError) for error in errors)
    check(world, *errors)


async def test_no_setting_that_is_wrong_is_left(world: World, wx: WeChatSimulator) -> None:
    own: dict[str, Any] = {"app_id": wx.app_id, "app_secret": wx.app_secret}
    url = f"redis://:{PASSWORD}@localhost:port/0"
    service = partial(MPAuthX, **own, sku="shop", users="sqlite:///users.db")
    for make_it in (
        partial(service, tokens=url),
        partial(service, tokens=f"mysql://root:{PASSWORD}@localhost"),
        partial(service, tokens="sqlite:///t.db", signing_keys=[SIGNING_KEY, "short"]),
        partial(MPAuthX, **own, sku="|", users="sqlite:///u.db", tokens="sqlite:///t.db"),
        partial(WeChatOAuth, **own, tokens=url),
        partial(WeChatAPI, app_id="", app_secret=wx.app_secret, connections=Connections()),
        partial(Connections, url),
        partial(Connections("redis://localhost").use_redis, f"redis://:{PASSWORD}@localhost"),
        partial(RedisTokenStore, url),
        partial(RedisKeyValueStore, url),
        partial(open_token_store, url, Connections()),
        partial(open_key_value_store, url, Connections()),
    ):
        with pytest.raises(ConfigurationError) as caught:
            make_it()
        check(world, caught.value)


async def test_no_login_leaves_secrets_of_others_in_its_batch(world: World, tmp_path: Path) -> None:
    heard = hear(world.auth)
    damage(tmp_path / "users.db")
    sealed = world.sealed()
    calls = [world.auth.authorize(world.code(f"user-{number}")) for number in range(20)]
    calls.append(world.auth.authorize(world.code(), *sealed))
    errors = await asyncio.gather(*map(failure_of, calls))
    assert {type(error) for error in errors} == {StoreError}
    check(world, *errors)
    await world.auth.close()
    told = [event.error for event in of_kind(heard, LoginFailed)]
    assert len(told) == 21
    check(world, *told)
