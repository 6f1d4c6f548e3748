"""A store that fails in a way of its own: the service raises StoreErrors alone, with the cause."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiosqlite
import pytest

from mpauthx_async import MPAuthX, SqliteTokenStore, SqliteUserStore, StoreError, WeChatSimulator
from mpauthx_async.events import StoreFailed
from mpauthx_async.stores.conformance import new_session

from .memory_stores import MemoryTokens, MemoryUsers
from .outages import ASKED_OF_TOKENS, ASKED_OF_USERS, fails, settled
from .service_calls import hear, log_in, of_kind, store_calls


class DriverError(Exception):
    """What the driver of a database raises, which nobody here knows."""


class Failing:
    """A real store that raises its driver's exception once it is out of order."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.is_out_of_order = False

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        async def call(*args: Any, **named: Any) -> Any:
            if self.is_out_of_order:
                raise DriverError(name)
            return await method(*args, **named)

        return call


@pytest.fixture(params=["tokens", "users"])
def stores(request: pytest.FixtureRequest) -> tuple[Failing, dict[str, Any]]:
    """The store that is to fail, and both as arguments of a service."""
    both: dict[str, Any] = {"users": MemoryUsers(), "tokens": MemoryTokens()}
    failing = both[request.param] = Failing(both[request.param])
    return failing, both


@pytest.fixture
def make(wx: WeChatSimulator) -> Callable[..., MPAuthX]:
    def make(**stores: Any) -> MPAuthX:
        return MPAuthX(
            app_id=wx.app_id, app_secret=wx.app_secret, sku="shop", api_base=wx.url, **stores
        )

    return make


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
        failing.is_out_of_order = True
        outcomes = [await settled([asyncio.ensure_future(call())]) for call in calls.values()]
    failures = [outcome for (outcome,) in outcomes if isinstance(outcome, Exception)]
    assert len(failures) >= 8
    assert {type(failure) for failure in failures} == {StoreError}
    assert {type(failure.__cause__) for failure in failures} == {DriverError}
    assert all("DriverError" in str(failure) for failure in failures)
    assert len(of_kind(events, StoreFailed)) == (len(failures) if listens else 0)


async def test_a_token_of_a_given_up_login_that_cannot_be_withdrawn_is_logged(
    make: Callable[..., MPAuthX], caplog: pytest.LogCaptureFixture
) -> None:
    tokens = Failing(MemoryTokens())
    async with make(users=MemoryUsers(), tokens=tokens) as auth:
        tokens.is_out_of_order = True
        await auth._logins._withdraw(new_session("bob").ref)
    assert "stays until it ends" in caplog.text


@pytest.mark.parametrize("asked", [*ASKED_OF_TOKENS, *ASKED_OF_USERS])
async def test_a_ready_made_connection_that_is_closed_is_a_store_error(
    asked: str, tmp_path: Path
) -> None:
    connection = await aiosqlite.connect(tmp_path / "own.db")
    tokens, users = SqliteTokenStore(connection), SqliteUserStore(connection)
    await tokens.issue([new_session("alice")])
    await users.get(["alice"])
    await connection.close()
    if asked in ASKED_OF_TOKENS:
        await fails(ASKED_OF_TOKENS[asked](tokens))
    else:
        await fails(ASKED_OF_USERS[asked](users))
