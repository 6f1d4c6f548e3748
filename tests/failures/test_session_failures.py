"""What becomes of sessions when Redis forgets, is full or is a replica, and when clocks differ."""

import signal
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from redis.asyncio import Redis

from mpauthx_async import (
    BannedError,
    LoginPolicy,
    MPAuthX,
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
from tests.helpers.outages import settled
from tests.helpers.redis_contents import dump, user_key
from tests.helpers.redis_server import RedisServer

DAY = 24 * HOUR
ONE_PER_KIND, SHARED = LoginPolicy(one_per_kind=True), LoginPolicy(shared_token=True)
POLICIES = [LoginPolicy(), SOLE, LoginPolicy(max_sessions=2), ONE_PER_KIND, SHARED]


class TestForgottenScripts:
    async def test_a_redis_that_forgot_the_scripts_gets_them_again_for_every_operation(
        self, store: RedisTokenStore, admin: Redis
    ) -> None:
        async def forgetful(answer: Awaitable[Any]) -> Any:
            await admin.script_flush()
            return await answer

        (session,) = await forgetful(store.issue([new_session(sealed_key="SEALED")]))
        ref = session.ref
        assert list(await forgetful(store.lookup([ref]))) == [session.expires_at]
        assert list(await forgetful(store.read([ref]))) == [session]
        assert list(await forgetful(store.sessions(ALICE))) == [session]
        assert list(await forgetful(store.sealed_keys([ref]))) == ["SEALED"]
        assert await forgetful(store.replace_sealed_key(ref, "OTHER"))
        assert await forgetful(store.online("shop", cursor=None, limit=9)) == (["alice"], None)
        assert await forgetful(store.online_count("shop")) == 1
        (end,) = await forgetful(store.renew([ref], ttl=DAY))
        assert end > session.expires_at
        (rotated,) = await forgetful(store.rotate([ref], ttl=HOUR, grace=0))
        assert rotated.ref == ref._replace(generation=1)
        assert list(await forgetful(store.end_reused([ref]))) == [True]
        (other,) = await forgetful(store.issue([new_session(policy=SOLE)]))
        assert list(await forgetful(store.revoke([other.ref]))) == [True]
        assert await forgetful(store.revoke_subject(ALICE)) == 0
        assert await forgetful(store.ban(ALICE, reason="spam", ttl=None)) == 0
        assert (await forgetful(store.bans([ALICE])))[0].reason == "spam"
        assert await forgetful(store.unban(ALICE)) is True


class TestEmptyRedis:
    async def test_an_emptied_redis_knows_no_session_and_accepts_logins(
        self, server: RedisServer, store: RedisTokenStore
    ) -> None:
        batch = [new_session(policy=policy) for policy in POLICIES]
        begun = await begin(store, *batch)
        await store.ban(Subject("shop", "eve"), reason="spam", ttl=None)
        server.stop(signal.SIGKILL)
        server.start()
        assert list(await store.lookup([new.ref for new in batch])) == [None] * len(batch)
        await knows_nothing_of(store, begun[-1].ref)
        for new in batch:
            await begin(store, new)
        assert await listed(store) != []
        assert await store.online("shop", cursor=None, limit=9) == (["alice"], None)


Write = Callable[[RedisTokenStore, SessionRef, SessionRef], Awaitable[Any]]


async def _issue(
    policy: LoginPolicy, store: RedisTokenStore, ref: SessionRef, old: SessionRef
) -> object:
    return await store.issue(
        [new_session(ttl=DAY, policy=policy), new_session("bob", policy=policy)]
    )


GROWS: dict[str, Write] = {
    **{f"issue, {policy}": partial(_issue, policy) for policy in POLICIES},
    "rotate": lambda store, ref, old: store.rotate([ref], ttl=DAY, grace=HOUR),
    "rotate without grace": lambda store, ref, old: store.rotate([ref], ttl=1, grace=0),
    "renew": lambda store, ref, old: store.renew([ref], ttl=DAY),
    "replace_sealed_key": lambda store, ref, old: store.replace_sealed_key(ref, "OTHER"),
}
ENDS: dict[str, tuple[Write, Any]] = {
    "revoke": (lambda store, ref, old: store.revoke([ref, old]), [True, True]),
    "revoke_subject": (lambda store, ref, old: store.revoke_subject(ALICE), 2),
    "revoke_subject but one": (
        lambda store, ref, old: store.revoke_subject(ALICE, spared=ref.nonce),
        1,
    ),
    "ban": (lambda store, ref, old: store.ban(ALICE, reason="spam", ttl=None), 2),
    "ban for an hour": (lambda store, ref, old: store.ban(ALICE, reason="", ttl=HOUR), 2),
    "end_reused": (lambda store, ref, old: store.end_reused([old]), [True]),
    "unban": (lambda store, ref, old: store.unban(Subject("shop", "eve")), True),
}


class TestRefusedWrites:
    @pytest.fixture
    async def refs(self, store: RedisTokenStore) -> tuple[SessionRef, SessionRef]:
        """Of Alice's two sessions one as it is, and one of an earlier generation."""
        first, second = await begin(store, new_session(sealed_key="SEALED"), new_session())
        await store.rotate([second.ref], ttl=HOUR, grace=0)
        await store.ban(Subject("shop", "eve"), reason="spam", ttl=None)
        return first.ref, second.ref

    @pytest.fixture
    async def full(self, refs: Any, admin: Redis) -> None:
        await admin.config_set("maxmemory-policy", "noeviction")
        await admin.config_set("maxmemory", "1")

    @pytest.fixture
    async def replica(self, refs: Any, admin: Redis) -> None:
        await admin.replicaof("127.0.0.1", "1")

    @pytest.mark.parametrize("write", GROWS)
    async def test_a_write_refused_by_a_full_redis_changes_nothing(
        self, write: str, store: RedisTokenStore, admin: Redis, refs: Any, full: None
    ) -> None:
        before = await dump(admin)
        with pytest.raises(StoreError, match="maxmemory"):
            await GROWS[write](store, *refs)
        assert await dump(admin) == before
        await can_be_read(store, *refs)
        await admin.config_set("maxmemory", "0")
        await GROWS[write](store, *refs)

    @pytest.mark.parametrize("write", ENDS)
    async def test_sessions_end_and_users_are_banned_in_a_full_redis(
        self, write: str, store: RedisTokenStore, refs: Any, full: None
    ) -> None:
        await can_be_read(store, *refs)
        end, answer = ENDS[write]
        assert await end(store, *refs) == answer
        (ban,) = await store.bans([ALICE])
        assert (ban is not None) == write.startswith("ban")

    async def test_sparing_the_only_session_changes_nothing_in_a_full_redis(
        self, store: RedisTokenStore, admin: Redis, refs: Any, full: None
    ) -> None:
        assert await store.revoke_subject(ALICE, spared=refs[0].nonce) == 1
        before = await dump(admin)
        assert await store.revoke_subject(ALICE, spared=refs[0].nonce) == 0
        assert await dump(admin) == before

    async def test_a_replica_changes_nothing(
        self, store: RedisTokenStore, admin: Redis, refs: Any, replica: None
    ) -> None:
        before = await dump(admin)
        writes = {**GROWS, **{name: write for name, (write, _) in ENDS.items()}}
        answers = await settled(write(store, *refs) for write in writes.values())
        for name, answer in zip(writes, answers, strict=True):
            assert isinstance(answer, StoreError), name
            assert "must lead to the primary" in str(answer), name
        assert await dump(admin) == before
        await can_be_read(store, *refs)
        await admin.replicaof("NO", "ONE")
        assert await store.revoke_subject(ALICE) == 2


class TestDifferentClocks:
    """One service is a minute ahead of Redis and another a minute behind it."""

    @pytest.fixture
    def make(self, make: Callable[..., MPAuthX]) -> Callable[..., MPAuthX]:
        def make_ahead(ahead: float, **settings: Any) -> MPAuthX:
            return make(token_ttl=30, clock=lambda: time.time() + ahead, **settings)

        return make_ahead

    @pytest.mark.parametrize("settings", [{}, {"absolute_ttl": 40}], ids=["fixed", "sliding"])
    async def test_tokens_of_30_seconds_are_valid_in_both_services(
        self, make: Callable[..., MPAuthX], wx: WeChatSimulator, settings: dict[str, Any]
    ) -> None:
        async with make(60, **settings) as fast, make(-60, **settings) as slow:
            for giver, other in ((fast, slow), (slow, fast)):
                token = (await giver.authorize(wx.login("bob"))).response
                assert await giver.is_token_valid(token)
                assert await other.is_token_valid(token)
                assert await other.token_status(token) == TokenStatus.active
                assert (await other.session(token)) in await giver.sessions("bob")

    async def test_sessions_are_listed_in_the_order_in_which_they_began(
        self, make: Callable[..., MPAuthX], wx: WeChatSimulator
    ) -> None:
        async with make(60) as fast, make(-60) as slow:
            begun: list[Session] = []
            for auth in (fast, slow) * 4:
                begun.insert(0, (await auth.authorize(wx.login("bob"))).session)
            for auth in (fast, slow):
                assert await auth.sessions("bob") == begun

    async def test_the_oldest_session_is_replaced_whichever_service_began_it(
        self, make: Callable[..., MPAuthX], wx: WeChatSimulator
    ) -> None:
        policy = LoginPolicy(max_sessions=2)
        async with make(60, policy=policy) as fast, make(-60, policy=policy) as slow:
            begun = [(await auth.authorize(wx.login("bob"))).session for auth in (fast, slow) * 3]
            refs = [session.ref for session in begun]
            assert [session.replaced for session in begun[2:]] == [(ref,) for ref in refs[:4]]
            assert [session.ref for session in await slow.sessions("bob")] == refs[:3:-1]

    async def test_a_rotation_in_one_service_is_repeated_in_the_other(
        self, make: Callable[..., MPAuthX], wx: WeChatSimulator
    ) -> None:
        async with make(60) as fast, make(-60) as slow:
            for one, other in ((fast, slow), (slow, fast)):
                token = (await one.authorize(wx.login("bob"))).response
                rotated = (await one.rotate(token)).response
                assert (await other.rotate(token)).response == rotated
                assert await other.is_token_valid(rotated)

    async def test_a_ban_of_30_seconds_holds_in_both_services(
        self, make: Callable[..., MPAuthX], wx: WeChatSimulator
    ) -> None:
        async with make(60) as fast, make(-60) as slow:
            for one, other in ((fast, slow), (slow, fast)):
                token = (await other.authorize(wx.login("bob"))).response
                assert await one.ban("bob", seconds=30, reason="spam") == 1
                for auth in (fast, slow):
                    assert await auth.ban_of("bob") is not None
                    assert await auth.token_status(token) == TokenStatus.banned
                    with pytest.raises(BannedError):
                        await auth.authorize(wx.login("bob"))
                assert await other.unban("bob") is True


class TestUnknown:
    async def test_a_stranger_is_unknown(self, store: RedisTokenStore, admin: Redis) -> None:
        await begin(store, new_session("bob"))
        before = await dump(admin)
        ref = new_session().ref
        await knows_nothing_of(store, ref)
        await knows_nothing_of(store, ref._replace(generation=2**32 - 1))
        assert await dump(admin) == before

    async def test_another_session_is_unknown(self, store: RedisTokenStore, admin: Redis) -> None:
        (session,) = await begin(store, new_session())
        before = await dump(admin)
        ref = new_session().ref
        assert list(await store.lookup([ref])) == list(await store.read([ref])) == [None]
        assert list(await store.revoke([ref])) == list(await store.end_reused([ref])) == [False]
        assert list(await store.rotate([ref], ttl=HOUR, grace=0)) == [TokenStatus.unknown]
        assert list(await store.renew([ref], ttl=HOUR)) == [None]
        assert await dump(admin) == before
        assert await store.revoke_subject(ALICE, spared=session.id) == 0
        assert await dump(admin) == before


class TestLostUsers:
    """Redis lost the hash with the details of a user's sessions."""

    async def test_tokens_stay_valid_and_can_be_revoked(
        self, store: RedisTokenStore, admin: Redis
    ) -> None:
        begun = await begin(store, *(new_session(sealed_key="SEALED") for _ in range(6)))
        read, renewed, rotated, replaced, revoked, reused = (session.ref for session in begun)
        await store.rotate([reused], ttl=HOUR, grace=0)
        for use in (
            lambda: store.read([read]),
            lambda: store.sealed_keys([read]),
            lambda: store.sessions(ALICE),
            lambda: store.renew([renewed], ttl=DAY),
            lambda: store.rotate([rotated], ttl=HOUR, grace=HOUR),
            lambda: store.rotate([rotated], ttl=HOUR, grace=HOUR),
            lambda: store.online("shop", cursor=None, limit=9),
            lambda: store.online_count("shop"),
        ):
            await admin.delete(user_key("u", ALICE))
            await use()
        assert await store.replace_sealed_key(replaced, "OTHER") is False
        assert await is_alive(store, *begun) == [True, True, False, True, True, False]
        for end, ref in ((store.revoke, revoked), (store.end_reused, reused)):
            await admin.delete(user_key("u", ALICE))
            assert list(await end([ref])) == [True]
        alive = [read, renewed, rotated._replace(generation=1), replaced]
        assert list(await store.revoke(alive)) == [True] * 4

    async def test_a_user_whose_details_are_lost_can_log_in_and_be_banned(
        self, store: RedisTokenStore, admin: Redis
    ) -> None:
        for policy in POLICIES:
            (lost,) = await begin(store, new_session("bob", policy=SOLE))
            await admin.delete(user_key("u", lost.ref.subject))
            (new,) = await begin(store, new_session("bob", policy=policy))
            assert await listed(store, lost.ref.subject) == [new.ref]
            assert await statuses(store, lost, new) == [TokenStatus.active] * 2
            await admin.delete(user_key("u", lost.ref.subject))
            assert await store.revoke_subject(lost.ref.subject) == 0
            assert await store.ban(lost.ref.subject, reason="", ttl=None) == 0
            assert await store.unban(lost.ref.subject)
            assert list(await store.revoke([lost.ref, new.ref])) == [True, True]


async def can_be_read(store: RedisTokenStore, ref: SessionRef, old: SessionRef) -> None:
    now = old._replace(generation=1)
    (end,) = await store.lookup([ref])
    assert end is not None
    assert end > 0
    assert list(await store.lookup([old])) == [TokenStatus.rotated]
    assert [session and session.ref for session in await store.read([ref, now])] == [ref, now]
    assert await listed(store) == [now, ref]
    assert list(await store.sealed_keys([ref])) == ["SEALED"]
    assert await store.online("shop", cursor=None, limit=9) == (["alice"], None)
    assert await store.online_count("shop") == 1
    assert await store.bans([Subject("shop", "eve")]) != [None]


async def knows_nothing_of(store: RedisTokenStore, ref: SessionRef) -> None:
    """Every operation has an answer for what it does not know."""
    assert list(await store.lookup([ref])) == [None]
    assert list(await store.read([ref])) == [None]
    assert list(await store.sealed_keys([ref])) == [None]
    assert await store.replace_sealed_key(ref, "SEALED") is False
    assert list(await store.sessions(ref.subject)) == []
    assert list(await store.rotate([ref], ttl=HOUR, grace=HOUR)) == [TokenStatus.unknown]
    assert list(await store.end_reused([ref])) == [False]
    assert list(await store.renew([ref], ttl=HOUR)) == [None]
    assert list(await store.revoke([ref])) == [False]
    assert await store.revoke_subject(ref.subject) == 0
    assert await store.revoke_subject(ref.subject, spared=ref.nonce) == 0
    assert await store.bans([ref.subject]) == [None]
    assert await store.unban(ref.subject) is False
    nobody = await store.online(ref.sku + "-of-nobody", cursor=None, limit=1)
    assert nobody == ([], None)
    assert await store.online_count(ref.sku + "-of-nobody") == 0
