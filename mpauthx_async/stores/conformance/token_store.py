"""The tests that every TokenStore passes."""

import asyncio

from ...models import NewSession, Session, SessionRef, Subject
from .. import TokenStore
from .examples import HOUR, UNUSUAL_IDS, end_of, is_alive, mixed_batch, new_session

__all__ = ["TokenStoreConformance"]


class TokenStoreConformance:
    """What a TokenStore promises."""

    async def test_a_session_is_alive_once_it_was_issued(self, store: TokenStore) -> None:
        new = new_session()
        assert await is_alive(store, new) == [False]
        await store.issue([new])
        assert list(await store.lookup([new.ref])) == [new.issued_at + new.ttl]

    async def test_issue_answers_with_each_session_in_order(self, store: TokenStore) -> None:
        batch = mixed_batch()
        begun = await store.issue(batch)
        assert list(begun) == [
            Session(new.ref, new.issued_at, new.issued_at + new.ttl) for new in batch
        ]

    async def test_lookup_answers_in_the_order_of_the_question(self, store: TokenStore) -> None:
        batch = mixed_batch()
        await store.issue(batch)
        refs = [new.ref for new in batch]
        ends = [new.issued_at + new.ttl for new in batch]
        asked = [refs[4], refs[1], new_session("stranger").ref, refs[0], refs[3], refs[6]]
        answers = [ends[4], ends[1], None, ends[0], ends[3], ends[6]]
        assert list(await store.lookup(asked)) == answers

    async def test_empty_questions_have_empty_answers(self, store: TokenStore) -> None:
        assert list(await store.issue([])) == []
        assert list(await store.lookup([])) == []
        assert list(await store.revoke([])) == []

    async def test_what_was_never_issued_is_unknown(self, store: TokenStore) -> None:
        await store.issue([new_session("bob")])
        stranger = new_session("stranger").ref
        assert list(await store.lookup([stranger])) == [None]
        assert list(await store.revoke([stranger])) == [False]
        assert list(await store.sessions(stranger.subject)) == []
        assert await store.revoke_subject(stranger.subject) == 0

    async def test_a_session_asked_for_twice_is_answered_twice(self, store: TokenStore) -> None:
        new, unknown = new_session(), new_session()
        await store.issue([new])
        end = new.issued_at + new.ttl
        asked = [new.ref, unknown.ref, new.ref, unknown.ref]
        assert list(await store.lookup(asked)) == [end, None, end, None]

    async def test_a_revoked_session_is_over_and_no_other_is(self, store: TokenStore) -> None:
        batch = mixed_batch()
        await store.issue(batch)
        assert list(await store.revoke([batch[1].ref])) == [True]
        assert await is_alive(store, *batch) == [new is not batch[1] for new in batch]

    async def test_revoke_tells_which_were_alive_in_order(self, store: TokenStore) -> None:
        batch = mixed_batch()
        await store.issue(batch)
        asked = [batch[3].ref, new_session("stranger").ref, batch[0].ref, batch[5].ref]
        assert list(await store.revoke(asked)) == [True, False, True, True]
        assert await is_alive(store, *batch) == [i not in (0, 3, 5) for i in range(len(batch))]

    async def test_a_session_is_revoked_once(self, store: TokenStore) -> None:
        twice_at_once, one_by_one = new_session(), new_session()
        await store.issue([twice_at_once, one_by_one])
        assert list(await store.revoke([twice_at_once.ref] * 2)) == [True, False]
        assert list(await store.revoke([one_by_one.ref])) == [True]
        assert list(await store.revoke([one_by_one.ref])) == [False]

    async def test_sessions_are_listed_in_full_and_newest_first(self, store: TokenStore) -> None:
        now = new_session().issued_at
        ages = [30, 10, 50, 20, 40]
        batch = [new_session(issued_at=now - age * 1000, ttl=HOUR + age) for age in ages]
        await store.issue(batch[:3])
        await store.issue(batch[3:])
        newest_first = sorted(batch, key=lambda new: new.issued_at, reverse=True)
        assert list(await store.sessions(Subject("shop", "alice"))) == [
            Session(new.ref, new.issued_at, new.issued_at + new.ttl) for new in newest_first
        ]

    async def test_a_listed_session_tells_whose_it_is(self, store: TokenStore) -> None:
        await store.issue([new_session("alice", sku="shop")])
        (listed,) = await store.sessions(Subject("shop", "alice"))
        assert (listed.sku, listed.user_id) == ("shop", "alice")

    async def test_a_revoked_session_is_neither_listed_nor_counted(self, store: TokenStore) -> None:
        gone, kept = new_session(), new_session()
        await store.issue([gone, kept])
        await store.revoke([gone.ref])
        assert await _listed(store, kept) == {kept.ref}
        assert await store.revoke_subject(kept.ref.subject) == 1

    async def test_revoking_a_subject_ends_all_its_sessions_and_no_other(
        self, store: TokenStore
    ) -> None:
        batch = mixed_batch()
        await store.issue(batch)
        subject = batch[0].ref.subject
        own = [new.ref.subject == subject for new in batch]
        assert await store.revoke_subject(subject) == own.count(True)
        assert await is_alive(store, *batch) == [not is_own for is_own in own]
        assert list(await store.sessions(subject)) == []
        assert await store.revoke_subject(subject) == 0

    async def test_a_subject_that_was_revoked_can_begin_anew(self, store: TokenStore) -> None:
        old, new = new_session(), new_session()
        await store.issue([old])
        await store.revoke_subject(old.ref.subject)
        await store.issue([new])
        assert await is_alive(store, old, new) == [False, True]
        assert await _listed(store, new) == {new.ref}

    async def test_a_session_of_one_sku_is_invisible_to_another(self, store: TokenStore) -> None:
        new = new_session(sku="shop")
        await store.issue([new])
        other = new.ref._replace(sku="shop-debug")
        assert list(await store.lookup([other, new.ref])) == [None, new.issued_at + new.ttl]
        assert list(await store.revoke([other])) == [False]
        assert list(await store.sessions(other.subject)) == []
        assert await store.revoke_subject(other.subject) == 0
        assert await is_alive(store, new) == [True]
        assert await _listed(store, new) == {new.ref}

    async def test_skus_that_look_alike_are_apart(self, store: TokenStore) -> None:
        batch = [new_session(sku=sku) for sku in ("a", "A", "a.", "a-", "a_", "a" * 63, "a" * 64)]
        await store.issue(batch)
        for new in batch:
            assert await _listed(store, new) == {new.ref}
        assert await store.revoke_subject(batch[0].ref.subject) == 1
        assert await is_alive(store, *batch) == [False, *[True] * 6]

    async def test_a_sole_session_ends_every_earlier_one_of_its_subject(
        self, store: TokenStore
    ) -> None:
        earlier = [new_session() for _ in range(12)]
        other_user, other_sku = new_session("bob"), new_session(sku="shop-debug")
        await store.issue([*earlier, other_user, other_sku])
        sole = new_session(sole=True)
        await store.issue([sole])
        assert await is_alive(store, *earlier) == [False] * 12
        assert await is_alive(store, other_user, other_sku, sole) == [True] * 3
        assert await _listed(store, sole) == {sole.ref}

    async def test_a_sole_session_may_be_the_first(self, store: TokenStore) -> None:
        sole = new_session(sole=True)
        await store.issue([sole])
        assert await _listed(store, sole) == {sole.ref}

    async def test_a_later_session_lives_beside_a_sole_one(self, store: TokenStore) -> None:
        sole, later = new_session(sole=True), new_session()
        await store.issue([sole])
        await store.issue([later])
        assert await _listed(store, sole) == {sole.ref, later.ref}

    async def test_sessions_of_a_batch_begin_in_order(self, store: TokenStore) -> None:
        before, first, between, last, after = (
            new_session(sole=sole) for sole in (False, True, False, True, False)
        )
        bob = new_session("bob", sole=True)
        await store.issue([before, first, bob, between, last, after])
        assert await is_alive(store, before, first, between) == [False] * 3
        assert await _listed(store, last) == {last.ref, after.ref}
        assert await _listed(store, bob) == {bob.ref}

    async def test_issuing_again_changes_nothing(self, store: TokenStore) -> None:
        batch = mixed_batch()
        begun = await store.issue(batch)
        assert list(await store.issue(batch)) == list(begun)
        assert await is_alive(store, *batch) == [True] * len(batch)
        subject = batch[0].ref.subject
        own = [new.ref for new in batch if new.ref.subject == subject]
        assert sorted(session.ref for session in await store.sessions(subject)) == sorted(own)
        assert await store.revoke_subject(subject) == len(own)

    async def test_a_session_twice_in_a_batch_begins_once(self, store: TokenStore) -> None:
        new = new_session()
        first, second = await store.issue([new, new])
        assert first == second == new.begun()
        assert list(await store.sessions(new.ref.subject)) == [first]
        assert await store.revoke_subject(new.ref.subject) == 1

    async def test_issuing_a_sole_session_again_spares_what_began_since(
        self, store: TokenStore
    ) -> None:
        sole, later = new_session(sole=True), new_session()
        await store.issue([sole])
        await store.issue([later])
        await store.issue([sole])
        assert await _listed(store, sole) == {sole.ref, later.ref}
        assert await is_alive(store, sole, later) == [True, True]

    async def test_issuing_sole_sessions_of_one_subject_again_leaves_the_last(
        self, store: TokenStore
    ) -> None:
        batch = [new_session(sole=True) for _ in range(3)]
        await store.issue(batch)
        await store.issue(batch)
        assert await is_alive(store, *batch) == [False, False, True]
        assert await _listed(store, batch[2]) == {batch[2].ref}

    async def test_each_session_of_a_batch_has_its_own_end(self, store: TokenStore) -> None:
        batch = [new_session(ttl=ttl) for ttl in (HOUR, 30 * 24 * HOUR, 2 * HOUR, 1_234_567)]
        await store.issue(batch)
        ends = list(await store.lookup([new.ref for new in batch]))
        assert ends == [new.issued_at + new.ttl for new in batch]

    async def test_a_session_ends_by_itself(self, store: TokenStore) -> None:
        brief, lasting = new_session(ttl=1), new_session()
        await store.issue([brief, lasting])
        await end_of(store, brief)
        assert await is_alive(store, lasting, brief) == [True, False]

    async def test_an_ended_session_is_neither_listed_nor_revoked(self, store: TokenStore) -> None:
        brief, lasting = new_session(ttl=1), new_session()
        await store.issue([lasting, brief])
        await end_of(store, brief)
        assert await _listed(store, lasting) == {lasting.ref}
        assert list(await store.revoke([brief.ref, lasting.ref])) == [False, True]

    async def test_an_ended_session_is_not_counted(self, store: TokenStore) -> None:
        brief, lasting = new_session(ttl=1), new_session()
        await store.issue([brief, lasting])
        await end_of(store, brief)
        assert await store.revoke_subject(lasting.ref.subject) == 1

    async def test_a_subject_whose_sessions_all_ended_can_begin_anew(
        self, store: TokenStore
    ) -> None:
        brief, new = new_session(ttl=1), new_session()
        await store.issue([brief])
        await end_of(store, brief)
        assert list(await store.sessions(brief.ref.subject)) == []
        await store.issue([new])
        assert await _listed(store, new) == {new.ref}

    async def test_a_login_from_a_server_whose_clock_is_ahead_hides_no_session(
        self, store: TokenStore
    ) -> None:
        behind = new_session()
        ahead = new_session(issued_at=behind.issued_at + 2 * HOUR)
        await store.issue([behind])
        await store.issue([ahead])
        assert await is_alive(store, behind) == [True]
        assert await _listed(store, behind) == {behind.ref, ahead.ref}
        assert await store.revoke_subject(behind.ref.subject) == 2
        assert await is_alive(store, behind, ahead) == [False, False]

    async def test_a_batch_may_be_large(self, store: TokenStore) -> None:
        batch = [new_session(f"user-{i % 60}", sku=f"sku-{i % 2}") for i in range(200)]
        assert [session.ref for session in await store.issue(batch)] == [new.ref for new in batch]
        assert await is_alive(store, *batch) == [True] * 200
        subject = batch[0].ref.subject
        own = [new.ref for new in batch if new.ref.subject == subject]
        assert await _listed(store, batch[0]) == set(own)
        assert list(await store.revoke([new.ref for new in batch[:100]])) == [True] * 100
        assert await is_alive(store, *batch) == [False] * 100 + [True] * 100

    async def test_a_subject_may_have_many_sessions(self, store: TokenStore) -> None:
        batch = [new_session() for _ in range(200)]
        await store.issue(batch)
        assert await _listed(store, batch[0]) == {new.ref for new in batch}
        sole = new_session(sole=True)
        await store.issue([sole])
        assert await is_alive(store, *batch) == [False] * 200
        assert await store.revoke_subject(sole.ref.subject) == 1

    async def test_concurrent_logins_of_one_user_all_stay(self, store: TokenStore) -> None:
        batch = [new_session() for _ in range(50)]
        await asyncio.gather(*(store.issue([new]) for new in batch))
        assert await is_alive(store, *batch) == [True] * 50
        assert await _listed(store, batch[0]) == {new.ref for new in batch}
        assert await store.revoke_subject(batch[0].ref.subject) == 50

    async def test_of_concurrent_sole_sessions_one_is_left(self, store: TokenStore) -> None:
        batch = [new_session(sole=True) for _ in range(20)]
        await asyncio.gather(*(store.issue([new]) for new in batch))
        alive = await is_alive(store, *batch)
        assert alive.count(True) == 1
        assert await _listed(store, batch[0]) == {batch[alive.index(True)].ref}

    async def test_a_session_is_revoked_by_one_of_many(self, store: TokenStore) -> None:
        new = new_session()
        await store.issue([new])
        answers = await asyncio.gather(*(store.revoke([new.ref]) for _ in range(20)))
        assert sorted(answer for (answer,) in answers) == [False] * 19 + [True]

    async def test_concurrent_callers_get_their_own_answers(self, store: TokenStore) -> None:
        async def live(user_id: str) -> None:
            first, second = new_session(user_id), new_session(user_id)
            await store.issue([first])
            await store.issue([second])
            assert list(await store.revoke([first.ref])) == [True]
            assert await is_alive(store, first, second) == [False, True]
            assert await _listed(store, second) == {second.ref}

        await asyncio.gather(*(live(f"user-{i}") for i in range(30)))

    async def test_unusual_user_ids_are_harmless(self, store: TokenStore) -> None:
        batch = [new_session(user_id) for user_id in UNUSUAL_IDS for _ in range(2)]
        await store.issue(batch)
        assert await is_alive(store, *batch) == [True] * len(batch)
        for first, second in zip(batch[::2], batch[1::2], strict=True):
            assert await _listed(store, first) == {first.ref, second.ref}
            assert list(await store.revoke([first.ref])) == [True]
        assert await is_alive(store, *batch) == [False, True] * len(UNUSUAL_IDS)
        for first in batch[::2]:
            assert await store.revoke_subject(first.ref.subject) == 1
        assert await is_alive(store, *batch) == [False] * len(batch)


async def _listed(store: TokenStore, of_subject: NewSession) -> set[SessionRef]:
    return {session.ref for session in await store.sessions(of_subject.ref.subject)}
