"""Data of an unknown format in Redis fails only the calls that need it."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from redis.asyncio import Redis

from mpauthx_async import (
    AuthResult,
    LoginPolicy,
    MPAuthX,
    PartialStoreError,
    RedisTokenStore,
    Session,
    SessionRef,
    StoreError,
    Subject,
    TokenStatus,
    WeChatSimulator,
)
from mpauthx_async.stores.conformance import new_session
from mpauthx_async.stores.conformance.examples import (
    ALICE,
    HOUR,
    SOLE,
    begin,
    is_alive,
    listed,
    statuses,
)
from tests.helpers.outages import partial_answers, settled
from tests.helpers.redis_contents import session_key, user_key

DAY = 24 * HOUR
ONE_PER_KIND = LoginPolicy(one_per_kind=True)
DAMAGED_DETAILS = [
    *(b"", b"one", b"[", b"[]", b"{}", b'["1"]', b"[1,2]", b"[true]", b"\xff"),
    *(b'[1,"","","",2,3]', b'[1,"","",""," "]', b"null", b'[1,null,"phone"]'),
]
DAMAGED_VALUES = [b"", b"x", b"\xff", b"1:2:3:4:5", b"1.5", b"-", b"1:-1", b"+1:1"]


@pytest.mark.parametrize("details", DAMAGED_DETAILS)
async def test_damaged_details_are_a_store_error_and_their_session_can_be_ended(
    store: RedisTokenStore, admin: Redis, details: bytes
) -> None:
    (session,) = await begin(store, new_session())
    await admin.hset(user_key("u", ALICE), session.id, details)
    for read in (store.sessions(ALICE), store.read([session.ref])):
        with pytest.raises(StoreError, match="unknown format"):
            await read
    assert await is_alive(store, session) == [True]
    (other,) = await begin(store, new_session(policy=ONE_PER_KIND, device="tablet"))
    with pytest.raises(StoreError, match="unknown format"):
        await store.sessions(ALICE)
    assert await store.revoke_subject(ALICE, spared=other.id) == 1
    assert await listed(store) == [other.ref]


@pytest.mark.parametrize("value", DAMAGED_VALUES)
async def test_a_damaged_session_fails_its_own_caller_alone(
    store: RedisTokenStore, admin: Redis, value: bytes
) -> None:
    damaged, whole = await begin(store, new_session(sealed_key="S"), new_session("bob"))
    await store.rotate([whole.ref], ttl=HOUR, grace=0)
    old, new = whole.ref, whole.ref._replace(generation=1)
    await admin.set(session_key(damaged.ref), value)
    asked: list[tuple[SessionRef, Callable[[Sequence[SessionRef]], Awaitable[Any]]]] = [
        (new, store.lookup),
        (new, store.read),
        (new, store.sealed_keys),
        (new, lambda refs: store.renew(refs, ttl=DAY)),
        (new, lambda refs: store.rotate(refs, ttl=DAY, grace=0)),
        (old, store.end_reused),
        (new, store.revoke),
    ]
    for ref, ask in asked:
        failure, answer = await partial_answers(ask([damaged.ref, ref]))
        assert isinstance(failure, StoreError)
        assert not isinstance(answer, StoreError)
        with pytest.raises(StoreError, match="unknown format") as alone:
            await ask([damaged.ref])
        assert type(alone.value) is StoreError
    assert await statuses(store, whole) == [TokenStatus.reused]


async def test_logins_and_lists_skip_damaged_sessions(store: RedisTokenStore, admin: Redis) -> None:
    damaged, whole = await begin(store, new_session(), new_session())
    await admin.set(session_key(damaged.ref), "damaged")
    assert await listed(store) == [whole.ref]
    await admin.hset(user_key("u", ALICE), damaged.id, "damaged")
    assert await listed(store) == [whole.ref]
    (begun,) = await begin(store, new_session(policy=SOLE))
    assert begun.replaced == (whole.ref,)
    assert await store.revoke_subject(ALICE) == 1


async def test_a_damaged_user_fails_no_other_login(store: RedisTokenStore, admin: Redis) -> None:
    await admin.set(user_key("u", ALICE), "not a hash")
    failure, session = await partial_answers(store.issue([new_session(), new_session("bob")]))
    assert isinstance(failure, StoreError)
    assert isinstance(session, Session)
    assert await is_alive(store, session) == [True]


async def test_a_damaged_ban_fails_its_caller_alone(store: RedisTokenStore, admin: Redis) -> None:
    bob = Subject("shop", "bob")
    await store.ban(bob, reason="spam", ttl=None)
    await admin.set(user_key("b", ALICE), "[]")
    failure, ban = await partial_answers(store.bans([ALICE, bob]))
    assert isinstance(failure, StoreError)
    assert ban.reason == "spam"
    with pytest.raises(StoreError, match="unknown format"):
        await store.issue([new_session()])


async def test_a_damaged_ban_of_another_id_fails_its_own_login_alone(
    make: Callable[..., MPAuthX], redis: Redis, wx: WeChatSimulator
) -> None:
    async with make() as auth:
        await redis.set(user_key("b", Subject("shop", "bob")), "[]")
        logins = [auth.authorize(wx.login(*ids)) for ids in (("bob", "union-bob"), ("eve",))]
        failure, result = await settled(logins)
        assert isinstance(failure, StoreError)
        assert not isinstance(failure, PartialStoreError)
        assert isinstance(result, AuthResult)
        assert await auth.is_token_valid(result.response)
        assert await auth.sessions("union-bob") == []
