"""Tests of the status of ended sessions, and of reading live ones."""

import asyncio

from ...constants import TokenStatus
from ...models import Ban
from .. import TokenStore
from .examples import (
    ALICE,
    HOUR,
    SOLE,
    begin,
    end_of,
    is_alive,
    listed,
    mixed_batch,
    new_session,
    rotated,
    statuses,
    until,
)

__all__ = ["SessionDeaths"]


class SessionDeaths:
    """Tests of what `TokenStore` answers for ended sessions, and of `read` and `forget_subject`."""

    async def test_users_cannot_revoke_sessions_of_others(self, store: TokenStore) -> None:
        alice = new_session()
        await begin(store, alice, *(new_session(f"user-{i}") for i in range(300)))
        others = [alice.ref._replace(user_id=f"user-{i}") for i in range(300)]
        assert list(await store.revoke(others)) == [False] * 300
        assert await is_alive(store, alice) == [True]
        assert await listed(store) == [alice.ref]

    async def test_a_session_is_alive_for_its_own_user_only(self, store: TokenStore) -> None:
        (alice,) = await begin(store, new_session(sealed_key="SEALED"))
        await begin(store, *(new_session(f"user-{i}") for i in range(300)))
        refs = [alice.ref._replace(user_id=f"user-{i}") for i in range(300)]
        assert list(await store.lookup(refs)) == [None] * 300
        assert list(await store.read(refs)) == [None] * 300
        answers = await store.rotate(refs, ttl=2 * HOUR, grace=HOUR)
        assert list(answers) == [TokenStatus.unknown] * 300
        assert list(await store.renew(refs, ttl=2 * HOUR)) == [None] * 300
        for ref in refs:
            assert len(await listed(store, ref.subject)) == 1
        assert list(await store.sessions(ALICE)) == [alice]

    async def test_lookup_tells_why_a_session_ended(self, store: TokenStore) -> None:
        replaced, sole = new_session(), new_session(policy=SOLE)
        revoked, thrown_out = new_session("bob"), new_session("bob")
        banned, reused = new_session("carol"), new_session("dave")
        await begin(store, replaced, sole, revoked, thrown_out, banned, reused)
        assert await statuses(store, sole, revoked, thrown_out, banned, reused) == [1] * 5
        await store.revoke([revoked.ref])
        await store.revoke_subject(thrown_out.ref.subject)
        await store.ban(banned.ref.subject, reason="", ttl=None)
        await rotated(store, await rotated(store, reused.ref))
        await store.end_reused([reused.ref])
        assert await statuses(store, replaced, sole, revoked, thrown_out, banned, reused) == [
            TokenStatus.replaced,
            TokenStatus.active,
            TokenStatus.revoked,
            TokenStatus.revoked,
            TokenStatus.banned,
            TokenStatus.reused,
        ]

    async def test_an_ended_session_keeps_its_first_status(self, store: TokenStore) -> None:
        revoked, replaced = new_session(), new_session("bob")
        await begin(store, revoked, replaced, new_session("bob", policy=SOLE))
        await store.revoke([revoked.ref])
        for session in (revoked, replaced):
            assert list(await store.revoke([session.ref])) == [False]
            await store.ban(session.ref.subject, reason="", ttl=None)
            assert await store.revoke_subject(session.ref.subject) == 0
        assert await statuses(store, revoked, replaced) == [
            TokenStatus.revoked,
            TokenStatus.replaced,
        ]

    async def test_an_ended_session_is_unknown_after_its_expiry(self, store: TokenStore) -> None:
        brief, lasting = new_session(ttl=2000), new_session()
        await begin(store, brief, lasting)
        assert list(await store.revoke([brief.ref, lasting.ref])) == [True, True]

        async def is_forgotten() -> bool:
            return list(await store.lookup([brief.ref])) == [None]

        await until(is_forgotten)
        assert await statuses(store, brief, lasting) == [None, TokenStatus.revoked]

    async def test_an_expired_session_is_unknown(self, store: TokenStore) -> None:
        brief = new_session(ttl=1)
        await begin(store, brief)
        await end_of(store, brief)
        assert list(await store.lookup([brief.ref])) == [None]
        assert list(await store.read([brief.ref])) == [None]

    async def test_the_status_applies_to_one_sku_and_user(self, store: TokenStore) -> None:
        new = new_session()
        await begin(store, new)
        await store.revoke([new.ref])
        others = [new.ref._replace(sku="game"), new.ref._replace(user_id="bob")]
        assert list(await store.lookup([*others, new.ref])) == [None, None, TokenStatus.revoked]

    async def test_lookup_separates_ended_from_live_sessions_of_a_batch(
        self, store: TokenStore
    ) -> None:
        batch = mixed_batch()
        begun = await begin(store, *batch)
        await store.revoke([batch[1].ref, batch[4].ref])
        assert list(await store.lookup([new.ref for new in batch])) == [
            TokenStatus.revoked if i in (1, 4) else session.expires_at
            for i, session in enumerate(begun)
        ]

    async def test_every_generation_of_an_ended_session_has_its_status(
        self, store: TokenStore
    ) -> None:
        new = new_session()
        await begin(store, new)
        ref = await rotated(store, new.ref)
        await store.revoke([ref])
        assert list(await store.lookup([new.ref, ref])) == [TokenStatus.revoked] * 2

    async def test_an_earlier_generation_has_the_status_rotated(self, store: TokenStore) -> None:
        new = new_session()
        await begin(store, new)
        first = await rotated(store, new.ref)
        (second,) = await store.rotate([first], ttl=HOUR, grace=HOUR)
        assert not isinstance(second, TokenStatus)
        assert list(await store.lookup([new.ref, first, second.ref])) == [
            TokenStatus.rotated,
            TokenStatus.rotated,
            second.expires_at,
        ]

    async def test_a_future_generation_is_unknown(self, store: TokenStore) -> None:
        new = new_session()
        await begin(store, new)
        future = new.ref._replace(generation=1)
        assert list(await store.lookup([future])) == [None]
        assert list(await store.read([future])) == [None]
        await store.revoke([new.ref])
        assert list(await store.lookup([future, new.ref])) == [None, TokenStatus.revoked]

    async def test_read_returns_the_issued_sessions_in_order(self, store: TokenStore) -> None:
        batch = mixed_batch()
        begun = await begin(store, *batch)
        unknown = new_session().ref
        asked = [batch[4].ref, unknown, batch[0].ref, batch[4].ref, batch[6].ref]
        assert list(await store.read(asked)) == [begun[4], None, begun[0], begun[4], begun[6]]

    async def test_read_returns_no_session_that_is_not_alive(self, store: TokenStore) -> None:
        brief, revoked, rotated_, lasting = (
            new_session(ttl=1),
            new_session(),
            new_session(),
            new_session(),
        )
        begun = await begin(store, brief, revoked, rotated_, lasting)
        await store.revoke([revoked.ref])
        ref = await rotated(store, rotated_.ref)
        await end_of(store, brief)
        *dead, current, alive = await store.read(
            [brief.ref, revoked.ref, rotated_.ref, ref, lasting.ref]
        )
        assert dead == [None] * 3
        assert alive == begun[3]
        assert current is not None
        assert (current.ref, current.issued_at) == (ref, begun[2].issued_at)

    async def test_read_applies_to_one_sku_and_user(self, store: TokenStore) -> None:
        new = new_session()
        await begin(store, new)
        others = [new.ref._replace(sku="game"), new.ref._replace(user_id="bob")]
        assert list(await store.read(others)) == [None, None]

    async def test_any_generation_revokes_a_session(self, store: TokenStore) -> None:
        batch = [new_session() for _ in range(3)]
        await begin(store, *batch)
        refs = [await rotated(store, new.ref, grace=0) for new in batch]
        assert list(await store.revoke([batch[0].ref, refs[1]])) == [True, True]
        assert list(await store.revoke([batch[2].ref, refs[2], batch[2].ref])) == [
            True,
            False,
            False,
        ]
        assert list(await store.lookup(refs)) == [TokenStatus.revoked] * 3
        assert await listed(store) == []

    async def test_one_session_of_a_subject_may_be_spared(self, store: TokenStore) -> None:
        batch = mixed_batch()
        await begin(store, *batch)
        own = [new.ref.subject == ALICE for new in batch]
        spared = batch[3].ref
        assert await store.revoke_subject(ALICE, spared=spared.nonce) == own.count(True) - 1
        assert await listed(store) == [spared]
        assert await is_alive(store, *batch) == [
            not is_own or new.ref == spared for new, is_own in zip(batch, own, strict=True)
        ]
        assert await store.revoke_subject(ALICE, spared=spared.nonce) == 0
        assert await store.revoke_subject(ALICE) == 1

    async def test_sparing_the_session_of_another_user_spares_nothing(
        self, store: TokenStore
    ) -> None:
        batch = [new_session() for _ in range(3)]
        others = new_session("bob")
        await begin(store, *batch, others)
        assert await store.revoke_subject(ALICE, spared=others.ref.nonce) == 3
        assert await is_alive(store, *batch, others) == [False] * 3 + [True]

    async def test_a_spared_session_keeps_its_generation(self, store: TokenStore) -> None:
        new, other = new_session(), new_session()
        await begin(store, new, other)
        ref = await rotated(store, new.ref)
        assert await store.revoke_subject(ALICE, spared=new.ref.nonce) == 1
        assert await listed(store) == [ref]

    async def test_concurrent_ends_count_each_session_once(self, store: TokenStore) -> None:
        batch = [new_session() for _ in range(20)]
        await begin(store, *batch)
        counted = await asyncio.gather(
            *(store.revoke_subject(ALICE) for _ in range(5)), store.ban(ALICE, reason="", ttl=HOUR)
        )
        revoked = await asyncio.gather(*(store.revoke([new.ref]) for new in batch))
        assert sum(counted) + sum(answer for (answer,) in revoked) == 20
        assert await is_alive(store, *batch) == [False] * 20

    async def test_a_forgotten_subject_has_no_sessions(self, store: TokenStore) -> None:
        batch = mixed_batch()
        await begin(store, *batch)
        own = [new.ref.subject == ALICE for new in batch]
        assert await store.forget_subject(ALICE) == own.count(True)
        assert await is_alive(store, *batch) == [not is_own for is_own in own]
        assert await listed(store) == []
        assert list(await store.read([batch[0].ref])) == [None]
        page = await store.online("shop", cursor=None, limit=10)
        assert list(page.user_ids) == ["bob"]
        assert await store.forget_subject(ALICE) == 0

    async def test_forget_subject_counts_the_sessions_that_were_alive(
        self, store: TokenStore
    ) -> None:
        revoked, brief, alive = new_session(), new_session(ttl=1), new_session()
        await begin(store, revoked, brief, alive)
        await store.revoke([revoked.ref])
        await end_of(store, brief)
        assert await store.forget_subject(ALICE) == 1
        assert await is_alive(store, revoked, alive) == [False, False]

    async def test_a_ban_outlives_a_forgotten_subject(self, store: TokenStore) -> None:
        await store.ban(ALICE, reason="spam", ttl=None)
        assert await store.forget_subject(ALICE) == 0
        (answer,) = await store.issue([new_session()])
        assert isinstance(answer, Ban)
        assert answer.reason == "spam"

    async def test_a_forgotten_subject_may_log_in_again(self, store: TokenStore) -> None:
        old, new = new_session(), new_session()
        await begin(store, old)
        await store.forget_subject(ALICE)
        await begin(store, new)
        assert await listed(store) == [new.ref]
        assert await is_alive(store, old, new) == [False, True]
