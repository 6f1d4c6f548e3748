"""Tests of login policies: which sessions of a user coexist."""

import asyncio

from ...constants import TokenStatus
from ...models import LoginPolicy, SessionRef
from .. import TokenStore
from .examples import (
    ALICE,
    HOUR,
    LARGEST,
    SOLE,
    UNUSUAL_IDS,
    begin,
    begin_apart,
    end_of,
    is_about,
    is_alive,
    listed,
    new_session,
    rotated,
    statuses,
)

__all__ = ["LoginPolicies"]

_ANY = LoginPolicy()
_THREE = LoginPolicy(max_sessions=3)
_ONE_PER_KIND = LoginPolicy(one_per_kind=True)
_SHARED = LoginPolicy(shared_token=True)


class LoginPolicies:
    """Tests of `TokenStore.issue` under each login policy."""

    async def test_more_than_100_sessions_replace_the_oldest_by_default(
        self, store: TokenStore
    ) -> None:
        batch = [new_session(device="d") for _ in range(110)]
        for first in range(0, len(batch), 11):
            await begin(store, *batch[first : first + 11])
        assert await statuses(store, *batch) == [TokenStatus.replaced] * 10 + [1] * 100
        assert await listed(store) == [new.ref for new in batch[:9:-1]]

    async def test_a_policy_may_keep_1_000_sessions(self, store: TokenStore) -> None:
        batch = [new_session(device="d", policy=LARGEST) for _ in range(1010)]
        for first in range(0, len(batch), 101):
            await begin(store, *batch[first : first + 101])
        assert await is_alive(store, *batch) == [False] * 10 + [True] * 1000
        assert len(await listed(store)) == 1000

    async def test_a_login_with_a_lower_limit_ends_all_sessions_beyond_it(
        self, store: TokenStore
    ) -> None:
        earlier = await begin(store, *(new_session(policy=LARGEST) for _ in range(150)))
        (begun,) = await begin(store, new_session())
        assert set(begun.replaced) == {session.ref for session in earlier[:51]}
        assert len(await listed(store)) == 100

    async def test_a_sole_session_ends_every_earlier_one_of_its_subject(
        self, store: TokenStore
    ) -> None:
        earlier = [new_session() for _ in range(12)]
        other_user, other_sku = new_session("bob"), new_session(sku="shop-debug")
        await store.issue([*earlier, other_user, other_sku])
        sole = new_session(policy=SOLE)
        await store.issue([sole])
        assert await is_alive(store, *earlier) == [False] * 12
        assert await is_alive(store, other_user, other_sku, sole) == [True] * 3
        assert set(await listed(store, sole.ref.subject)) == {sole.ref}

    async def test_a_sole_session_may_be_the_first(self, store: TokenStore) -> None:
        sole = new_session(policy=SOLE)
        await store.issue([sole])
        assert set(await listed(store, sole.ref.subject)) == {sole.ref}

    async def test_a_sole_session_does_not_end_later_ones(self, store: TokenStore) -> None:
        sole, later = new_session(policy=SOLE), new_session()
        await store.issue([sole])
        await store.issue([later])
        assert set(await listed(store, sole.ref.subject)) == {sole.ref, later.ref}

    async def test_sessions_of_a_batch_begin_in_order(self, store: TokenStore) -> None:
        before, first, between, last, after = (
            new_session(policy=policy) for policy in (_ANY, SOLE, _ANY, SOLE, _ANY)
        )
        bob = new_session("bob", policy=SOLE)
        await store.issue([before, first, bob, between, last, after])
        assert await is_alive(store, before, first, between) == [False] * 3
        assert set(await listed(store, last.ref.subject)) == {last.ref, after.ref}
        assert set(await listed(store, bob.ref.subject)) == {bob.ref}

    async def test_repeating_a_sole_session_spares_later_ones(self, store: TokenStore) -> None:
        sole, later = new_session(policy=SOLE), new_session()
        await store.issue([sole])
        await store.issue([later])
        await store.issue([sole])
        assert set(await listed(store, sole.ref.subject)) == {sole.ref, later.ref}
        assert await is_alive(store, sole, later) == [True, True]

    async def test_repeating_sole_sessions_of_one_subject_leaves_the_last(
        self, store: TokenStore
    ) -> None:
        batch = [new_session(policy=SOLE) for _ in range(3)]
        await store.issue(batch)
        await store.issue(batch)
        assert await is_alive(store, *batch) == [False, False, True]
        assert set(await listed(store, batch[2].ref.subject)) == {batch[2].ref}

    async def test_concurrent_sole_sessions_leave_one(self, store: TokenStore) -> None:
        batch = [new_session(policy=SOLE) for _ in range(20)]
        await asyncio.gather(*(store.issue([new]) for new in batch))
        alive = await is_alive(store, *batch)
        assert alive.count(True) == 1
        assert set(await listed(store, batch[0].ref.subject)) == {batch[alive.index(True)].ref}

    async def test_each_login_over_the_limit_replaces_the_oldest_session(
        self, store: TokenStore
    ) -> None:
        refs: list[SessionRef] = []
        for _ in range(8):
            (begun,) = await begin(store, new_session(policy=_THREE))
            assert list(begun.replaced) == refs[-3:-2]
            refs.append(begun.ref)
            assert await listed(store) == refs[:-4:-1]
        answers = await store.lookup(refs)
        assert list(answers[:5]) == [TokenStatus.replaced] * 5
        assert all(end is not None and end > 0 for end in answers[5:])

    async def test_a_batch_over_the_limit_leaves_the_newest(self, store: TokenStore) -> None:
        batch = [new_session(policy=_THREE) for _ in range(8)]
        begun = await begin(store, *batch)
        assert await listed(store) == [new.ref for new in batch[:4:-1]]
        assert await is_alive(store, *batch) == [False] * 5 + [True] * 3
        replaced = [ref for session in begun for ref in session.replaced]
        assert replaced == [new.ref for new in batch[:5]]

    async def test_one_login_may_replace_several_sessions(self, store: TokenStore) -> None:
        earlier = await begin(store, *(new_session() for _ in range(10)))
        (begun,) = await begin(store, new_session(policy=_THREE))
        assert set(begun.replaced) == {session.ref for session in earlier[:8]}
        assert len(begun.replaced) == 8
        assert await listed(store) == [begun.ref, earlier[9].ref, earlier[8].ref]

    async def test_logins_below_the_limit_replace_nothing(self, store: TokenStore) -> None:
        begun = await begin_apart(store, *(new_session(policy=_THREE) for _ in range(3)))
        assert [session.replaced for session in begun] == [()] * 3
        assert await is_alive(store, *begun) == [True] * 3

    async def test_ended_sessions_do_not_count_against_the_limit(self, store: TokenStore) -> None:
        kept, revoked, brief = await begin(store, new_session(), new_session(), new_session(ttl=1))
        await store.revoke([revoked.ref])
        await end_of(store, brief)
        begun = await begin_apart(store, *(new_session(policy=_THREE) for _ in range(2)))
        assert [session.replaced for session in begun] == [(), ()]
        assert await is_alive(store, kept, *begun) == [True] * 3
        assert await statuses(store, revoked) == [TokenStatus.revoked]

    async def test_a_replaced_session_is_named_with_its_generation(self, store: TokenStore) -> None:
        (earlier,) = await begin(store, new_session())
        ref = await rotated(store, await rotated(store, earlier.ref))
        (begun,) = await begin(store, new_session(policy=SOLE))
        assert begun.replaced == (ref,)
        assert ref.generation == 2

    async def test_a_policy_affects_one_subject(self, store: TokenStore) -> None:
        others = [
            new_session(user_id, sku=sku, device="phone")
            for user_id, sku in [("bob", "shop"), ("alice", "game"), ("alic", "shop")]
            for _ in range(3)
        ]
        await begin(store, *others)
        for policy in (SOLE, _THREE, _ONE_PER_KIND, _SHARED):
            (begun,) = await begin(store, new_session(policy=policy, device="phone"))
            assert begun.ref.subject == ALICE
            await begin(store, new_session(policy=policy, device="phone"))
        assert await is_alive(store, *others) == [True] * len(others)

    async def test_fifty_concurrent_logins_leave_as_many_as_the_limit(
        self, store: TokenStore
    ) -> None:
        batch = [new_session(policy=_THREE) for _ in range(50)]
        answers = await asyncio.gather(*(begin(store, new) for new in batch))
        alive = {
            new.ref
            for new, lives in zip(batch, await is_alive(store, *batch), strict=True)
            if lives
        }
        assert len(alive) == 3
        assert set(await listed(store)) == alive
        replaced = [ref for (session,) in answers for ref in session.replaced]
        assert len(replaced) == 47
        assert set(replaced) == {new.ref for new in batch} - alive
        assert await store.revoke_subject(ALICE) == 3

    async def test_one_session_per_kind_stays(self, store: TokenStore) -> None:
        phone, tablet, phone_2 = (
            new_session(policy=_ONE_PER_KIND, device=device, device_kind=kind)
            for device, kind in [("A", "phone"), ("B", "tablet"), ("C", "phone")]
        )
        begun = await begin_apart(store, phone, tablet, phone_2)
        assert [session.replaced for session in begun] == [(), (), (phone.ref,)]
        assert await listed(store) == [phone_2.ref, tablet.ref]
        assert await statuses(store, phone) == [TokenStatus.replaced]

    async def test_a_device_without_a_kind_is_a_kind_of_its_own(self, store: TokenStore) -> None:
        anna, bea, anna_2 = (
            new_session(policy=_ONE_PER_KIND, device=device) for device in ("Anna", "Bea", "Anna")
        )
        begun = await begin_apart(store, anna, bea, anna_2)
        assert [session.replaced for session in begun] == [(), (), (anna.ref,)]
        assert await listed(store) == [anna_2.ref, bea.ref]

    async def test_sessions_without_a_device_are_one_kind(self, store: TokenStore) -> None:
        phone = new_session(policy=_ONE_PER_KIND, device_kind="phone")
        bare, bare_2 = new_session(policy=_ONE_PER_KIND), new_session(policy=_ONE_PER_KIND)
        begun = await begin_apart(store, phone, bare, bare_2)
        assert [session.replaced for session in begun] == [(), (), (bare.ref,)]
        assert await listed(store) == [bare_2.ref, phone.ref]

    async def test_kinds_are_compared_exactly(self, store: TokenStore) -> None:
        kinds = [*UNUSUAL_IDS, "phone", "Phone", "phone ", "phone.", "ph%", "ph*", "pho"]
        batch = [new_session(policy=_ONE_PER_KIND, device_kind=kind) for kind in kinds]
        await begin_apart(store, *batch)
        assert await is_alive(store, *batch) == [True] * len(batch)
        again = [new_session(policy=_ONE_PER_KIND, device_kind=kind) for kind in kinds]
        begun = await begin(store, *again)
        assert [session.replaced for session in begun] == [(new.ref,) for new in batch]

    async def test_a_login_replaces_all_sessions_of_its_kind(self, store: TokenStore) -> None:
        earlier = await begin(store, *(new_session(device_kind="phone") for _ in range(5)))
        (begun,) = await begin(store, new_session(policy=_ONE_PER_KIND, device_kind="phone"))
        assert set(begun.replaced) == {session.ref for session in earlier}
        assert await listed(store) == [begun.ref]

    async def test_one_per_kind_and_a_limit_apply_together(self, store: TokenStore) -> None:
        policy = LoginPolicy(max_sessions=2, one_per_kind=True)
        batch = [new_session(policy=policy, device_kind=kind) for kind in ("a", "b", "b", "c")]
        begun = await begin_apart(store, *batch)
        refs = [new.ref for new in batch]
        assert [session.replaced for session in begun] == [(), (), (refs[1],), (refs[0],)]
        assert await listed(store) == [refs[3], refs[2]]

    async def test_concurrent_logins_leave_one_session_per_kind(self, store: TokenStore) -> None:
        kinds = ["phone", "tablet", None]
        batch = [new_session(policy=_ONE_PER_KIND, device_kind=kinds[i % 3]) for i in range(30)]
        await asyncio.gather(*(begin(store, new) for new in batch))
        alive = await is_alive(store, *batch)
        assert [alive[i::3].count(True) for i in range(3)] == [1, 1, 1]
        assert len(await listed(store)) == 3

    async def test_a_second_login_gets_the_shared_session(self, store: TokenStore) -> None:
        first = new_session(policy=_SHARED, device="Anna's phone", device_kind="phone")
        (begun,) = await begin(store, first)
        assert begun.ref == first.ref
        second = new_session(policy=_SHARED, device="tablet")
        (shared,) = await begin(store, second)
        assert (shared.ref, shared.issued_at) == (first.ref, begun.issued_at)
        assert (shared.device, shared.device_kind) == ("Anna's phone", "phone")
        assert shared.replaced == ()
        assert await listed(store) == [first.ref]
        assert list(await store.lookup([second.ref])) == [None]

    async def test_a_second_login_renews_the_shared_session(self, store: TokenStore) -> None:
        (begun,) = await begin(store, new_session(policy=_SHARED, ttl=HOUR))
        (shared,) = await begin(store, new_session(policy=_SHARED, ttl=3 * HOUR))
        assert is_about(shared.expires_at, begun.expires_at + 2 * HOUR)
        assert list(await store.lookup([begun.ref])) == [shared.expires_at]
        assert list(await store.sessions(ALICE)) == [shared]

    async def test_a_shared_session_keeps_its_absolute_end(self, store: TokenStore) -> None:
        first = new_session(policy=_SHARED, ttl=HOUR, absolute_ttl=2 * HOUR)
        (begun,) = await begin(store, first)
        second = new_session(policy=_SHARED, ttl=9 * HOUR, absolute_ttl=9 * HOUR)
        (shared,) = await begin(store, second)
        assert shared.expires_at == begun.expires_at + HOUR

    async def test_the_newest_session_is_shared_in_its_generation(self, store: TokenStore) -> None:
        _, newest = await begin(store, new_session(), new_session())
        ref = await rotated(store, newest.ref)
        (shared,) = await begin(store, new_session(policy=_SHARED))
        assert shared.ref == ref
        assert len(await listed(store)) == 2

    async def test_an_ended_session_is_not_shared(self, store: TokenStore) -> None:
        (revoked,) = await begin(store, new_session(policy=_SHARED))
        await store.revoke([revoked.ref])
        brief = new_session(policy=_SHARED, ttl=1)
        assert (await begin(store, brief))[0].ref == brief.ref
        await end_of(store, brief)
        new = new_session(policy=_SHARED)
        assert (await begin(store, new))[0].ref == new.ref
        assert await statuses(store, revoked, brief, new) == [
            TokenStatus.revoked,
            None,
            TokenStatus.active,
        ]

    async def test_concurrent_logins_share_one_token(self, store: TokenStore) -> None:
        batch = [new_session(policy=_SHARED) for _ in range(30)]
        answers = await asyncio.gather(*(begin(store, new) for new in batch))
        refs = {session.ref for (session,) in answers}
        assert len(refs) == 1
        assert await listed(store) == list(refs)

    async def test_logins_of_a_batch_share_one_token(self, store: TokenStore) -> None:
        batch = [new_session(user_id, policy=_SHARED) for user_id in ("alice", "bob") * 3]
        begun = await begin(store, *batch)
        assert [session.ref for session in begun] == [batch[0].ref, batch[1].ref] * 3

    async def test_repeating_a_shared_session_changes_nothing(self, store: TokenStore) -> None:
        new = new_session(policy=_SHARED)
        (begun,) = await begin(store, new)
        assert await begin(store, new) == [begun]
        assert list(await store.sessions(ALICE)) == [begun]

    async def test_repeating_an_ended_session_does_not_revive_it(self, store: TokenStore) -> None:
        for policy in (_ANY, SOLE, _ONE_PER_KIND, _SHARED):
            new = new_session(policy=policy)
            (begun,) = await begin(store, new)
            await store.revoke([new.ref])
            (again,) = await begin(store, new)
            assert again.ref == begun.ref
            assert await statuses(store, new) == [TokenStatus.revoked]
            assert await listed(store) == []

    async def test_repeating_a_replaced_session_ends_nothing(self, store: TokenStore) -> None:
        for policy in (SOLE, _THREE, _ONE_PER_KIND):
            batch = [new_session("bob", policy=policy) for _ in range(5)]
            await begin_apart(store, *batch)
            before = await statuses(store, *batch)
            refs = await listed(store, batch[0].ref.subject)
            await begin_apart(store, *batch)
            assert await statuses(store, *batch) == before
            assert await listed(store, batch[0].ref.subject) == refs
            await store.revoke_subject(batch[0].ref.subject)
