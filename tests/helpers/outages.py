"""What the tests of outages ask of a store, how they wait for it, and how its callers leave it."""

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any

import pytest

from mpauthx_async import PartialStoreError, StoreError, User
from mpauthx_async.stores.conformance import new_session
from mpauthx_async.stores.conformance.examples import until
from mpauthx_async.tokens.format import new_nonce

Question = Callable[[Any], Awaitable[Any]]

PATIENCE = 60  # seconds that stand for ever
KNOWN = new_session("alice")
ALICE = KNOWN.ref.subject

ASKED_OF_TOKENS: dict[str, Question] = {
    "issue": lambda store: store.issue([new_session("alice")]),
    "lookup": lambda store: store.lookup([KNOWN.ref]),
    "revoke": lambda store: store.revoke([KNOWN.ref]),
    "sessions": lambda store: store.sessions(ALICE),
    "revoke_subject": lambda store: store.revoke_subject(ALICE),
    "forget_subject": lambda store: store.forget_subject(ALICE),
    "read": lambda store: store.read([KNOWN.ref]),
    "rotate": lambda store: store.rotate([KNOWN.ref], ttl=60_000, grace=0),
    "end_reused": lambda store: store.end_reused([KNOWN.ref]),
    "renew": lambda store: store.renew([KNOWN.ref], ttl=60_000),
    "ban": lambda store: store.ban(ALICE, reason="spam", ttl=None),
    "bans": lambda store: store.bans([ALICE]),
    "unban": lambda store: store.unban(ALICE),
    "online": lambda store: store.online("shop", cursor=None, limit=1),
    "online_count": lambda store: store.online_count("shop"),
    "sealed_keys": lambda store: store.sealed_keys([KNOWN.ref]),
    "replace_sealed_key": lambda store: store.replace_sealed_key(KNOWN.ref, "A" * 59),
}
WRITING = (
    *("issue", "revoke", "revoke_subject", "forget_subject", "rotate", "end_reused"),
    *("ban", "unban", "replace_sealed_key"),
)
ASKED_OF_USERS: dict[str, Question] = {
    "save": lambda store: store.save([User(new_nonce())]),
    "get": lambda store: store.get(["o-alice"]),
    "forget": lambda store: store.forget("o-bob", app_ids={"shop"}),
    "clear": lambda store: store.clear("o-bob", ["city"]),
}


async def _lock(records: Any) -> None:
    async with records.lock("alice"):
        pass


ASKED_OF_RECORDS: dict[str, Question] = {
    "get": lambda records: records.get("alice"),
    "save": lambda records: records.save("alice", "text", 60),
    "add": lambda records: records.add("bob", "text", 60),
    "delete": lambda records: records.delete("alice"),
    "lock": _lock,
}


class _CancelledAt(Coroutine[Any, Any, Any]):
    """A coroutine whose task is cancelled when it waits for the nth time."""

    def __init__(self, work: Coroutine[Any, Any, Any], wait: int) -> None:
        self._work = work
        self._left = wait

    @property
    def reached(self) -> bool:
        return self._left <= 0

    def send(self, value: Any) -> Any:
        waits_for = self._work.send(value)
        self._left -= 1
        task = asyncio.current_task()
        if self._left == 0 and task is not None:
            task.cancel()
        return waits_for

    def throw(self, *error: Any) -> Any:
        return self._work.throw(*error)

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Any:
        return self._work.__await__()


async def cancel_at(wait: int, work: Coroutine[Any, Any, Any]) -> bool:
    """Run and cancel a coroutine; returns whether it was done before it waited that often."""
    coroutine = _CancelledAt(work, wait)
    task = asyncio.ensure_future(coroutine)
    await asyncio.wait([task])
    if not task.cancelled():  # asyncio.wait_for of Python 3.11 may overlook that it was
        task.result()
    return not coroutine.reached


async def fails(question: Awaitable[Any], said: str = "") -> StoreError:
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(StoreError) as caught:
            await question
    assert said in str(caught.value)
    return caught.value


async def all_fail(questions: Iterable[Awaitable[Any]]) -> None:
    """All of them at once."""
    answers = await settled(questions)
    assert [type(answer) for answer in answers] == [StoreError] * len(answers)


async def settled(questions: Iterable[Awaitable[Any]]) -> list[Any]:
    """The answers and exceptions of all of them at once."""
    async with asyncio.timeout(PATIENCE):
        return await asyncio.gather(*questions, return_exceptions=True)


async def partial_answers(batch: Awaitable[Sequence[Any]]) -> Sequence[Any]:
    """The answers of a batch of which some items fail."""
    with pytest.raises(PartialStoreError) as caught:
        await batch
    return caught.value.answers


async def until_true(condition: Callable[[], bool]) -> None:
    """Wait for what has no event, as `until` does."""

    async def is_so() -> bool:
        return condition()

    await until(is_so)


async def turns(number: int) -> None:
    """Let the event loop turn a few times."""
    for _ in range(number):
        await asyncio.sleep(0)


def all_that_it_says(error: BaseException) -> str:
    return "".join((str(error), repr(error), *traceback.format_exception(error)))
