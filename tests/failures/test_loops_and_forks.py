"""A service belongs to the event loop and process that first use it."""

import asyncio
import inspect
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mpauthx_async import (
    ConfigurationError,
    Connections,
    MPAuthX,
    RedisKeyValueStore,
    RedisTokenStore,
    SqliteKeyValueStore,
    SqliteTokenStore,
    SqliteUserStore,
    WeChatOAuth,
    WeChatSimulator,
)
from mpauthx_async.stores.conformance import new_session
from tests.helpers.line_process import ROOT, LineProcess
from tests.helpers.outages import ASKED_OF_RECORDS, ASKED_OF_TOKENS, ASKED_OF_USERS, Question
from tests.helpers.redis_server import RedisServer
from tests.helpers.service_calls import every_call, every_web_call

SECRET = "0123456789abcdef0123456789abcdef"
Owner = Any
Call = Callable[[], Awaitable[object]]


class _Used:
    """Something that is used in one event loop, and what is then called in another."""

    def __init__(self, owner: Owner, use: Call, calls: dict[str, Call]) -> None:
        self.owner = owner
        self.use = use
        self.calls = {**calls, "close": owner.close}


def _service(tokens: str, path: Path) -> _Used:
    auth = MPAuthX(
        app_id="wx4f4bc4dec97d474b",
        app_secret=SECRET,
        sku="shop",
        users=f"sqlite:///{path}/users.db",
        tokens=tokens,
    )
    ref = new_session("bob").ref
    token = auth._parts.signer.mint(ref.user_id, ref.nonce, 0)
    return _Used(auth, lambda: auth.is_token_valid(token), every_call(auth, token))


def _web(url: str) -> _Used:
    oauth = WeChatOAuth(app_id="wx4f4bc4dec97d474b", app_secret=SECRET, tokens=url)

    async def verify() -> object:
        return await oauth.verify_state(oauth.create_state(session="browser"), session="browser")

    return _Used(oauth, verify, every_web_call(oauth))


def _connections(url: str) -> _Used:
    connections = Connections(url)

    async def get(name: str) -> object:
        return getattr(connections, name)

    calls: dict[str, Call] = {name: partial(get, name) for name in ("http", "redis", "executor")}
    return _Used(connections, lambda: connections.redis.ping(), calls)


def _store(store: Any, asked: dict[str, Question]) -> _Used:
    calls: dict[str, Call] = {name: partial(ask, store) for name, ask in asked.items()}
    return _Used(store, next(iter(calls.values())), calls)


CHECK: dict[str, Question] = {"check": lambda store: store.check()}
KINDS: dict[str, Callable[[str, Path], _Used]] = {
    "service on Redis": _service,
    "service with a near cache": lambda url, path: _service(f"{url}?near_cache=10", path),
    "service on SQLite": lambda url, path: _service(f"sqlite:///{path}/tokens.db", path),
    "WeChatOAuth": lambda url, path: _web(url),
    "Connections": lambda url, path: _connections(url),
    "RedisTokenStore": lambda url, path: _store(RedisTokenStore(url), ASKED_OF_TOKENS | CHECK),
    "RedisTokenStore with a near cache": lambda url, path: _store(
        RedisTokenStore(url, near_cache=10), ASKED_OF_TOKENS | CHECK
    ),
    "SqliteTokenStore": lambda url, path: _store(SqliteTokenStore(path / "t.db"), ASKED_OF_TOKENS),
    "SqliteUserStore": lambda url, path: _store(SqliteUserStore(path / "u.db"), ASKED_OF_USERS),
    "RedisKeyValueStore": lambda url, path: _store(
        RedisKeyValueStore(url), ASKED_OF_RECORDS | CHECK
    ),
    "SqliteKeyValueStore": lambda url, path: _store(
        SqliteKeyValueStore(path / "r.db"), ASKED_OF_RECORDS
    ),
}


Loops = tuple[asyncio.Runner, asyncio.Runner]


@pytest.fixture
def loops() -> Iterator[Loops]:
    with asyncio.Runner() as first, asyncio.Runner() as second:
        yield first, second


class TestAnotherEventLoop:
    @pytest.mark.parametrize("kind", KINDS)
    async def test_the_table_of_calls_has_every_method(
        self, kind: str, redis_server: RedisServer, tmp_path: Path
    ) -> None:
        used = KINDS[kind](redis_server.url, tmp_path)
        methods = inspect.getmembers(type(used.owner), inspect.iscoroutinefunction)
        public = {name for name, _ in methods if not name.startswith("_")}
        assert public - {"renew_redis"} <= used.calls.keys()

    @pytest.mark.parametrize("kind", KINDS)
    def test_every_call_from_another_loop_raises(
        self, kind: str, loops: Loops, redis_server: RedisServer, tmp_path: Path
    ) -> None:
        first, second = loops
        used = KINDS[kind](redis_server.url, tmp_path)
        first.run(_await(used.use))
        for _ in range(2):
            for call in used.calls.values():
                with pytest.raises(ConfigurationError, match="event loop"):
                    second.run(_await(call))
        first.run(_await(used.use))
        first.run(used.owner.close())
        second.run(used.owner.close())  # there is nothing left to do

    @pytest.mark.parametrize("kind", KINDS)
    def test_an_unused_object_may_be_used_in_any_loop(
        self, kind: str, loops: Loops, redis_server: RedisServer, tmp_path: Path
    ) -> None:
        first, second = loops

        async def make() -> _Used:
            return KINDS[kind](redis_server.url, tmp_path)

        used = first.run(make())
        second.run(_await(used.use))
        second.run(used.owner.close())

    def test_connections_belong_to_one_loop(self, loops: Loops, redis_server: RedisServer) -> None:
        first, second = loops
        connections = Connections(redis_server.url)
        one, other = RedisTokenStore(connections), RedisTokenStore(connections)
        first.run(_await(lambda: one.lookup([new_session().ref])))
        with pytest.raises(ConfigurationError, match="Connections"):
            second.run(_await(lambda: other.lookup([new_session().ref])))
        first.run(connections.close())

    @pytest.mark.parametrize("kind", ["service with a near cache", "service on SQLite"])
    def test_a_second_asyncio_run_is_refused_and_the_process_ends(
        self, kind: str, redis_server: RedisServer, tmp_path: Path
    ) -> None:
        program = (
            "import asyncio, pathlib, sys\n"
            "from mpauthx_async import ConfigurationError\n"
            "from tests.failures.test_loops_and_forks import KINDS, _await\n"
            "used = KINDS[sys.argv[1]](sys.argv[2], pathlib.Path(sys.argv[3]))\n"
            "asyncio.run(_await(used.use))\n"
            "try:\n"
            "    asyncio.run(_await(used.use))\n"
            "except ConfigurationError:\n"
            "    print('refused')\n"
        )
        command = [sys.executable, "-c", program, kind, redis_server.url, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, cwd=ROOT, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (0, b"refused\n"), done.stderr


async def _await(call: Call) -> object:
    return await call()


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="Windows has no fork")
class TestForkedProcess:
    async def test_a_child_is_refused_and_its_parent_undisturbed(
        self, settings: dict[str, Any], wx: WeChatSimulator
    ) -> None:
        async with (
            _Process("used", settings, [wx.login("bob") for _ in range(3)]) as process,
            MPAuthX(sku="shop", **settings) as auth,
        ):
            revoked, _ = await process.told()
            assert await auth.revoke(revoked)
            process.write("")
            found = await process.told()
        for call, outcome in found["child"].items():
            assert outcome.startswith("ConfigurationError: "), (call, outcome)
            assert "process" in outcome
        assert (found["revoked"], found["alive"], found["kept"]) == (True, True, True)

    async def test_an_unused_service_serves_in_parent_and_child(
        self, settings: dict[str, Any], wx: WeChatSimulator
    ) -> None:
        async with _Process("unused", settings, [wx.login("bob"), wx.login("alice")]) as process:
            assert await process.told() == []
            assert await process.told() == {"child": True, "parent": True}

    async def test_a_sqlite_file_is_opened_again_when_the_parent_has_closed_it(
        self, settings: dict[str, Any], wx: WeChatSimulator
    ) -> None:
        async with _Process("another", settings, [wx.login("bob")]) as process:
            assert await process.told() == []
            found = await process.told()
        (refused,), (answered,) = found["child"].values(), found["later"].values()
        assert refused.startswith("ConfigurationError: The parent process had")
        assert answered.startswith("answered")


class _Process(LineProcess):
    """A process of `tests.helpers.forking_service`."""

    def __init__(self, scenario: str, settings: dict[str, Any], codes: list[str]) -> None:
        given = json.dumps({"settings": settings, "codes": codes})
        super().__init__("-m", "tests.helpers.forking_service", scenario, given)

    async def told(self) -> Any:
        return json.loads(await self.read())
