"""A store that fails in a way of its own: the service raises StoreErrors alone, with the cause."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mpauthx_async import MPAuthX, SqliteKeyValueStore, StoreError, WeChatOAuth, WeChatSimulator
from mpauthx_async.events import StoreFailed
from mpauthx_async.failure_log import OncePerSecond, failures
from mpauthx_async.stores.conformance import new_session
from tests.helpers.memory_stores import DictOAuthTokenStore, MemoryTokens, MemoryUsers
from tests.helpers.outages import fails, settled
from tests.helpers.service_calls import hear, log_in, of_kind, store_calls
from tests.helpers.web_logins import service as web_service


class DriverError(Exception):
    """What the driver of a database raises, which nobody here knows."""


class Failing:
    """A real store that raises its driver's exception where it is out of order."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.out_of_order = ""  # the name of a method, or all

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        async def call(*args: Any, **named: Any) -> Any:
            self._check(name)
            return await method(*args, **named)

        return call

    @asynccontextmanager
    async def lock(self, open_id: str) -> AsyncIterator[None]:
        self._check("lock")
        async with self._store.lock(open_id):
            yield
        self._check("unlock")

    def _check(self, name: str) -> None:
        if self.out_of_order in (name, "all"):
            raise DriverError(name)


@pytest.fixture(params=["tokens", "users"])
def stores(request: pytest.FixtureRequest) -> tuple[Failing, dict[str, Any]]:
    """The store that is to fail, and both as arguments of a service."""
    both: dict[str, Any] = {"users": MemoryUsers(), "tokens": MemoryTokens()}
    failing = both[request.param] = Failing(both[request.param])
    return failing, both


@pytest.mark.parametrize("listens", [False, True])
async def test_what_a_driver_raises_becomes_a_store_error(
    listens: bool,
    stores: tuple[Failing, dict[str, Any]],
    make: Callable[..., MPAuthX],
    wx: WeChatSimulator,
) -> None:
    failing, both = stores
    async with make(**both) as auth:
        events = hear(auth) if listens else []
        result = await log_in(auth, wx)
        calls = store_calls(auth, result.response, result.session.id)
        calls |= {
            "authorize": lambda: log_in(auth, wx),
            "forget_user": lambda: auth.forget_user("bob"),
            "forget_user and the ban": lambda: auth.forget_user("bob", lift_ban=True),
            "clear_profile": lambda: auth.clear_profile("bob", ["city"]),
        }
        failing.out_of_order = "all"
        outcomes = [outcome for call in calls.values() for outcome in await settled([call()])]
    failures = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert len(failures) >= 8
    assert {type(failure) for failure in failures} == {StoreError}
    assert {type(failure.__cause__) for failure in failures} == {DriverError}
    assert all("DriverError" in str(failure) for failure in failures)
    assert len(of_kind(events, StoreFailed)) == (len(failures) if listens else 0)


@pytest.mark.parametrize("name", ["lookup", "sessions", "ban"])
async def test_a_store_whose_own_task_is_cancelled_cancels_nobody(
    name: str, make: Callable[..., MPAuthX], wx: WeChatSimulator
) -> None:
    class Reconnecting(MemoryTokens):
        is_lost = False

        def __getattribute__(self, asked: str) -> Any:
            return lose if asked == name and self.is_lost else super().__getattribute__(asked)

    async def lose(*_: object, **options: object) -> None:
        connection = asyncio.create_task(asyncio.sleep(60))
        asyncio.get_running_loop().call_soon(connection.cancel)
        await connection

    tokens = Reconnecting()
    async with make(users=MemoryUsers(), tokens=tokens) as auth:
        result = await log_in(auth, wx)
        tokens.is_lost = True
        calls = store_calls(auth, result.response, result.session.id)
        calls["lookup"] = lambda: auth.authenticate(result.response)
        calls["sessions"] = lambda: auth.sessions("bob")
        calls["ban"] = lambda: auth.ban("bob")
        for outcome in await settled([calls[name](), calls[name]()]):
            assert isinstance(outcome, StoreError)


@pytest.mark.parametrize("answers", [None, 5, [], [1, 2]])
async def test_a_store_that_does_not_answer_to_each_item_is_a_store_error(
    answers: Any, make: Callable[..., MPAuthX], wx: WeChatSimulator
) -> None:
    class Malformed(MemoryTokens):
        async def lookup(self, refs: object) -> Any:
            return answers

    async with make(users=MemoryUsers(), tokens=Malformed()) as auth:
        result = await log_in(auth, wx)
        with pytest.raises(StoreError, match="The store gave"):
            await auth.authenticate(result.response)


async def test_a_token_of_a_given_up_login_that_cannot_be_withdrawn_is_logged(
    make: Callable[..., MPAuthX], caplog: pytest.LogCaptureFixture
) -> None:
    tokens = Failing(MemoryTokens())
    async with make(users=MemoryUsers(), tokens=tokens) as auth:
        tokens.out_of_order = "all"
        await auth._logins._withdraw(new_session("bob").ref)
    assert "could not be revoked" in caplog.text


@pytest.fixture
def failure_lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The lines in the log of failures, none of which is left out."""
    return lambda: [one.getMessage() for one in caplog.records if one.name == failures.name]


@pytest.fixture(autouse=True)
def no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "filters", [OncePerSecond(lambda: 0.0)])


def web_calls(oauth: WeChatOAuth, wx: WeChatSimulator) -> dict[str, Callable[[], Awaitable[Any]]]:
    """Calls that ask the store of web OAuth tokens, by the method that they need."""
    state = oauth.create_state(session="a browser")
    return {
        "get": lambda: oauth.get_user("bob"),
        "save": lambda: oauth.get_access_token(wx.web_login("bob")),
        "lock": lambda: oauth.get_access_token(wx.web_login("bob")),
        "unlock": lambda: oauth.get_access_token(wx.web_login("bob")),
        "delete": lambda: oauth.forget("bob"),
        "spend_state": lambda: oauth.verify_state(state, session="a browser"),
    }


@pytest.mark.parametrize(
    ("asked", "as_functions"),
    [
        *((name, False) for name in ("get", "save", "lock", "unlock", "delete", "spend_state")),
        *((name, True) for name in ("get", "save", "delete")),
    ],
)
async def test_what_a_store_of_web_oauth_tokens_raises_becomes_a_store_error(
    wx: WeChatSimulator, failure_lines: Callable[[], list[str]], asked: str, as_functions: bool
) -> None:
    store = Failing(DictOAuthTokenStore())
    tokens: Any = (store.get, store.save, store.delete) if as_functions else store
    async with web_service(wx, tokens) as oauth:
        await oauth.get_access_token(wx.web_login("bob"))
        call = web_calls(oauth, wx)[asked]
        store.out_of_order = asked
        failure = await fails(call())
        assert type(failure.__cause__) is DriverError
        store.out_of_order = ""
        await call()
    (line,) = failure_lines()
    assert "(DriverError). See the cause of this error." in line
    assert str(failure).startswith(line)  # that of a login adds that its code is used up


async def test_a_login_that_cannot_read_the_saved_token_logs_that_once(
    wx: WeChatSimulator, failure_lines: Callable[[], list[str]]
) -> None:
    store = Failing(DictOAuthTokenStore())
    store.out_of_order = "get"
    async with web_service(wx, store) as oauth:
        await oauth.get_access_token(wx.web_login("bob"))
    (line,) = failure_lines()
    assert "DriverError" in line


async def test_an_exception_within_a_lock_is_raised_unchanged(
    wx: WeChatSimulator, failure_lines: Callable[[], list[str]]
) -> None:
    oauth = WeChatOAuth(app_id="wx0", app_secret="x" * 32, tokens=DictOAuthTokenStore())
    async with oauth:
        with pytest.raises(DriverError):
            async with oauth._tokens.lock("bob"):
                raise DriverError
        async with oauth._tokens.lock("bob"):  # it is free again
            pass
    assert failure_lines() == []


async def test_a_lock_that_is_held_for_too_long_is_logged(
    tmp_path: Path, failure_lines: Callable[[], list[str]]
) -> None:
    records = SqliteKeyValueStore(tmp_path / "records.db", lock_ttl=0.01)
    other = SqliteKeyValueStore(tmp_path / "records.db", lock_ttl=60)
    async with records, other, other.lock("key"):
        failure = await fails(entered(records.lock("key")))
    assert failure_lines() == [str(failure)]


async def entered(lock: AbstractAsyncContextManager[None]) -> None:
    async with lock:
        pass
