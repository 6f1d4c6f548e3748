"""Sessions when a service closes, callers leave, or stores fail."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mpauthx_async import MPAuthX, StoreError, TokenStatus, WeChatSimulator
from tests.helpers.outages import turns
from tests.helpers.redis_server import RedisServer
from tests.helpers.service_calls import FORGERIES, STORE_CALLS, forged, log_in, store_calls
from tests.helpers.sqlite_files import run

OF_A_TOKEN = ("is_token_valid", "token_status", "session", "rotate", "revoke")


# Closing


@pytest.mark.parametrize("name", STORE_CALLS)
async def test_close_lets_calls_in_flight_finish(
    make: Callable[..., MPAuthX], tokens: str, wx: WeChatSimulator, name: str
) -> None:
    auth = make(tokens=tokens)
    result = await log_in(auth, wx)
    expected = await store_calls(auth, result.response, result.session.id)[name]()
    await auth.unban("bob")
    result = await log_in(auth, wx)
    call = store_calls(auth, result.response, result.session.id)[name]
    in_flight = [asyncio.ensure_future(call()) for _ in range(3)]
    await turns(1)
    await auth.close()
    assert all(each.done() for each in in_flight)
    assert {type(each.result()) for each in in_flight} == {type(expected)}


async def test_close_lets_the_end_of_a_stolen_session_be_written(
    make: Callable[..., MPAuthX], tokens: str, wx: WeChatSimulator
) -> None:
    auth = make(tokens=tokens, rotation_grace=0)
    old = (await log_in(auth, wx)).response
    new = (await auth.rotate(old)).response
    asked = asyncio.ensure_future(auth.is_token_valid(old))
    await turns(1)
    await auth.close()
    assert await asked is False
    async with make(tokens=tokens) as successor:
        assert await successor.token_status(new) is TokenStatus.reused


# Callers who leave


@pytest.mark.parametrize("ticks", range(5))
@pytest.mark.parametrize("name", OF_A_TOKEN)
async def test_a_cancelled_caller_does_not_affect_others_in_its_batch(
    auth: MPAuthX, wx: WeChatSimulator, name: str, ticks: int
) -> None:
    mine, hers = await log_in(auth, wx), await log_in(auth, wx, "eve")
    alone = await log_in(auth, wx, "mallory")
    call = getattr(auth, name)
    leaving = [asyncio.ensure_future(call(each.response)) for each in (mine, alone)]
    staying = [asyncio.ensure_future(call(each.response)) for each in (mine, mine, hers)]
    await turns(ticks)
    for task in leaving:
        task.cancel()
    answers = await asyncio.gather(*staying)
    if name == "rotate":
        assert answers[0].response == answers[1].response
        assert all([await auth.is_token_valid(answer.response) for answer in answers])
    elif name == "session":
        assert answers == [mine.session, mine.session, hers.session]
    else:  # also of a revocation: the two who stay ask for the same
        assert answers == [True] * 3
    left = await asyncio.gather(*leaving, return_exceptions=True)
    assert {type(outcome) for outcome in left} == {asyncio.CancelledError}


async def test_a_cancelled_rotation_can_be_repeated(auth: MPAuthX, wx: WeChatSimulator) -> None:
    for ticks in range(5):
        old = await log_in(auth, wx)
        leaving = asyncio.ensure_future(auth.rotate(old.response))
        await turns(ticks)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        new = await auth.rotate(old.response)
        assert await auth.is_token_valid(new.response)
        assert (new.session.id, new.session.ref.generation) == (old.session.id, 1)


# Stores that fail


@dataclass
class Store:
    url: str
    stop: Callable[[], None]


@pytest.fixture(params=["sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store of tokens that can be put out of order."""
    if request.param == "redis":
        with RedisServer() as server:
            yield Store(server.url, server.stop)
        return

    def stop() -> None:
        run(tmp_path / "t.db", "DROP TABLE mpauthx_session; DROP TABLE mpauthx_ban")

    yield Store(f"sqlite:///{tmp_path}/t.db", stop)


async def test_forged_tokens_are_refused_without_the_token_store(
    store: Store, make: Callable[..., MPAuthX], wx: WeChatSimulator
) -> None:
    async with make(tokens=store.url) as auth:
        token = (await log_in(auth, wx)).response
        store.stop()
        with pytest.raises(StoreError) as caught:
            await auth.is_token_valid(token)
        assert caught.value.code == 6000
        for bad in (*FORGERIES, forged(token)):
            assert await auth.is_token_valid(bad) is False
            assert await auth.token_status(bad) is TokenStatus.unknown
            assert await auth.session(bad) is None
            assert await auth.revoke(bad) is False


async def test_without_the_user_store_calls_that_need_it_raise(
    auth: MPAuthX, wx: WeChatSimulator, tmp_path: Path
) -> None:
    result = await log_in(auth, wx)
    run(tmp_path / "users.db", "DROP TABLE user")
    for name, call in store_calls(auth, result.response, result.session.id).items():
        if name in ("is_token_valid", "token_status", "session", "online", "online_count"):
            await call()
        elif name != "revoke":
            with pytest.raises(StoreError):
                await call()
    assert await auth.session(result.response) == result.session
    assert await auth.revoke(result.response) is True
