"""Replacing a session key in the store; what the service does is in test_around_login.py."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mpauthx_async import CodeSession, InvalidResponseError, SqliteTokenStore
from mpauthx_async.sessions.session_keys import replace_session_key
from mpauthx_async.stores.conformance import new_session
from mpauthx_async.tokens.sealing import SessionKeySealer

SEALER = SessionKeySealer(app_id="wx4f4bc4dec97d474b", keys=["5e4c2e7d00c0ffee5e4c2e7d00c0ffee"])
KEY = "tiihtNczf5v6AKRyjwEUhQ=="


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteTokenStore]:
    async with SqliteTokenStore(tmp_path / "tokens.db") as store:
        yield store


async def test_a_malformed_key_is_refused_and_the_old_one_stays(store: SqliteTokenStore) -> None:
    new = new_session("bob", sealed_key="A" * 43)
    await store.issue([new])
    with pytest.raises(InvalidResponseError, match="session_key in WeChat's answer is malformed"):
        await replace_session_key(SEALER, store, new.ref, CodeSession("bob", KEY[:-1]))
    assert list(await store.sealed_keys([new.ref])) == ["A" * 43]


async def test_the_key_of_a_dead_session_is_not_replaced(store: SqliteTokenStore) -> None:
    new = new_session("bob", sealed_key="A" * 43)
    await store.issue([new])
    await store.revoke([new.ref])
    assert not await replace_session_key(SEALER, store, new.ref, CodeSession("bob", KEY))
