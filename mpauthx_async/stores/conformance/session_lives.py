"""Tests of issuing, finding, listing and revoking sessions."""

import asyncio

from ...concurrency.coalescer import answers_of
from ...errors import StoreError
from ...models import NewSession, Session, SessionRef, Subject
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
    mixed_batch,
    new_session,
)

__all__ = ["SessionLives"]


class SessionLives:
    """Tests of sessions from `TokenStore.issue` until they expire or are revoked."""

    async def refused_session(self, store: TokenStore) -> NewSession:
        """Make a session that the store may refuse: its nonce belongs to another user.

        Override it if the store refuses other data, such as by a constraint of its table.
        """
        (carols,) = await begin(store, new_session("carol"))
        return NewSession(SessionRef("shop", "mallory", carols.id), HOUR)

    async def test_a_session_that_cannot_begin_fails_alone(self, store: TokenStore) -> None:
        refused = await self.refused_session(store)
        batch = [new_session(), refused, new_session("bob")]
        first, answer, last = await answers_of(store.issue(batch))
        assert isinstance(answer, (Session, StoreError))
        begun = isinstance(answer, Session)
        assert (isinstance(first, Session), isinstance(last, Session)) == (True, True)
        assert await is_alive(store, *batch) == [True, begun, True]
        refs = [new.ref for new in batch]
        assert list(await answers_of(store.revoke(refs))) == [True, begun, True]

    async def test_a_session_is_alive_once_it_was_issued(self, store: TokenStore) -> None:
        new = new_session()
        assert await is_alive(store, new) == [False]
        (begun,) = await begin(store, new)
        assert list(await store.lookup([new.ref])) == [begun.expires_at]

    async def test_issue_answers_with_each_session_in_order(self, store: TokenStore) -> None:
        batch = mixed_batch()
        assert [session.ref for session in await begin(store, *batch)] == [new.ref for new in batch]

    async def test_a_session_begins_now_and_expires_after_its_ttl(self, store: TokenStore) -> None:
        batch = mixed_batch()
        for new, begun in zip(batch, await begin(store, *batch), strict=True):
            # In a batch the times of sessions may differ by milliseconds, to keep their order.
            assert is_about(begun.expires_at, begun.issued_at - 1000 + new.ttl)
            assert (begun.last_seen, begun.replaced) == (None, ())

    async def test_a_session_keeps_its_device(self, store: TokenStore) -> None:
        phone, bare = new_session(device="Anna's phone", device_kind="phone"), new_session()
        unkind, nameless = new_session(device="iPad"), new_session(device_kind="tablet")
        batch = [phone, bare, unkind, nameless]
        begun = await begin(store, *batch)
        devices = [(new.device, new.device_kind) for new in batch]
        assert [(session.device, session.device_kind) for session in begun] == devices
        assert list(await store.sessions(ALICE)) == begun[::-1]
        assert list(await store.read([new.ref for new in batch])) == begun

    async def test_any_device_name_is_read_unchanged(self, store: TokenStore) -> None:
        names = [*UNUSUAL_IDS, "Anna's  phone 😀", "x y" * 21, "-1", "None", " ", "a|b|c", "|", ","]
        batch = [new_session(device=name, device_kind=name) for name in names]
        batch += [new_session(device=name) for name in names]
        await begin(store, *batch)
        read = await store.read([new.ref for new in batch])
        assert [(session and session.device) for session in read] == names * 2
        kinds = [session and session.device_kind for session in read]
        assert kinds == [*names, *[None] * len(names)]

    async def test_lookup_answers_in_the_order_of_its_refs(self, store: TokenStore) -> None:
        batch = mixed_batch()
        refs = [new.ref for new in batch]
        ends = [session.expires_at for session in await begin(store, *batch)]
        asked = [refs[4], refs[1], new_session("stranger").ref, refs[0], refs[3], refs[6]]
        answers = [ends[4], ends[1], None, ends[0], ends[3], ends[6]]
        assert list(await store.lookup(asked)) == answers

    async def test_empty_batches_have_empty_answers(self, store: TokenStore) -> None:
        assert list(await store.issue([])) == []
        assert list(await store.lookup([])) == []
        assert list(await store.read([])) == []
        assert list(await store.revoke([])) == []
        assert list(await store.rotate([], ttl=HOUR, grace=0)) == []
        assert list(await store.end_reused([])) == []
        assert list(await store.renew([], ttl=HOUR)) == []

    async def test_a_session_that_was_never_issued_is_unknown(self, store: TokenStore) -> None:
        await store.issue([new_session("bob")])
        stranger = new_session("stranger").ref
        assert list(await store.lookup([stranger])) == [None]
        assert list(await store.revoke([stranger])) == [False]
        assert list(await store.read([stranger])) == [None]
        assert list(await store.sessions(stranger.subject)) == []
        assert await store.revoke_subject(stranger.subject) == 0

    async def test_a_ref_named_twice_is_answered_twice(self, store: TokenStore) -> None:
        new, unknown = new_session(), new_session()
        end = (await begin(store, new))[0].expires_at
        asked = [new.ref, unknown.ref, new.ref, unknown.ref]
        assert list(await store.lookup(asked)) == [end, None, end, None]

    async def test_revoking_a_session_ends_no_other(self, store: TokenStore) -> None:
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
        begun = await begin(store, *(new_session(ttl=HOUR + i) for i in range(5)))
        begun += await begin_apart(store, *(new_session(ttl=HOUR - i) for i in range(20)))
        assert list(await store.sessions(ALICE)) == begun[::-1]

    async def test_a_listed_session_names_its_user_and_sku(self, store: TokenStore) -> None:
        await store.issue([new_session("alice", sku="shop")])
        (listed,) = await store.sessions(Subject("shop", "alice"))
        assert (listed.sku, listed.user_id) == ("shop", "alice")

    async def test_a_revoked_session_is_neither_listed_nor_counted(self, store: TokenStore) -> None:
        gone, kept = new_session(), new_session()
        await store.issue([gone, kept])
        await store.revoke([gone.ref])
        assert set(await listed(store, kept.ref.subject)) == {kept.ref}
        assert await store.revoke_subject(kept.ref.subject) == 1

    async def test_revoking_a_subject_ends_all_its_sessions_and_no_others(
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

    async def test_a_revoked_subject_may_log_in_again(self, store: TokenStore) -> None:
        old, new = new_session(), new_session()
        await store.issue([old])
        await store.revoke_subject(old.ref.subject)
        await store.issue([new])
        assert await is_alive(store, old, new) == [False, True]
        assert set(await listed(store, new.ref.subject)) == {new.ref}

    async def test_a_session_of_one_sku_is_invisible_to_another(self, store: TokenStore) -> None:
        new = new_session(sku="shop")
        (begun,) = await begin(store, new)
        other = new.ref._replace(sku="shop-debug")
        assert list(await store.lookup([other, new.ref])) == [None, begun.expires_at]
        assert list(await store.revoke([other])) == [False]
        assert list(await store.sessions(other.subject)) == []
        assert await store.revoke_subject(other.subject) == 0
        assert await is_alive(store, new) == [True]
        assert set(await listed(store, new.ref.subject)) == {new.ref}

    async def test_similar_skus_are_separate(self, store: TokenStore) -> None:
        batch = [new_session(sku=sku) for sku in ("a", "A", "a.", "a-", "a_", "a" * 63, "a" * 64)]
        await store.issue(batch)
        for new in batch:
            assert set(await listed(store, new.ref.subject)) == {new.ref}
        assert await store.revoke_subject(batch[0].ref.subject) == 1
        assert await is_alive(store, *batch) == [False, *[True] * 6]

    async def test_repeating_a_session_changes_nothing(self, store: TokenStore) -> None:
        batch = mixed_batch()
        begun = await begin(store, *batch)
        assert await begin(store, *batch) == begun
        assert await is_alive(store, *batch) == [True] * len(batch)
        subject = batch[0].ref.subject
        own = [new.ref for new in batch if new.ref.subject == subject]
        assert sorted(session.ref for session in await store.sessions(subject)) == sorted(own)
        assert await store.revoke_subject(subject) == len(own)

    async def test_a_session_twice_in_a_batch_begins_once(self, store: TokenStore) -> None:
        new = new_session()
        first, second = await begin(store, new, new)
        assert first == second
        assert list(await store.sessions(new.ref.subject)) == [first]
        assert await store.revoke_subject(new.ref.subject) == 1

    async def test_each_session_of_a_batch_has_its_own_end(self, store: TokenStore) -> None:
        batch = [new_session(ttl=ttl) for ttl in (HOUR, 30 * 24 * HOUR, 2 * HOUR, 1_234_567)]
        begun = await begin(store, *batch)
        ends = list(await store.lookup([new.ref for new in batch]))
        assert ends == [session.expires_at for session in begun]
        for new, session in zip(batch, begun, strict=True):
            assert is_about(session.expires_at, begun[0].expires_at - HOUR + new.ttl)

    async def test_no_session_outlives_its_absolute_end(self, store: TokenStore) -> None:
        brief, lasting = new_session(absolute_ttl=1), new_session(absolute_ttl=2 * HOUR)
        begun = await begin(store, brief, lasting)
        assert is_about(begun[1].expires_at, begun[0].expires_at - 1 + HOUR)
        await end_of(store, brief)
        assert await is_alive(store, lasting) == [True]
        assert list(await store.sessions(ALICE)) == [begun[1]]

    async def test_a_session_ends_by_itself(self, store: TokenStore) -> None:
        brief, lasting = new_session(ttl=1), new_session()
        await store.issue([brief, lasting])
        await end_of(store, brief)
        assert await is_alive(store, lasting, brief) == [True, False]

    async def test_an_ended_session_is_neither_listed_nor_revoked(self, store: TokenStore) -> None:
        brief, lasting = new_session(ttl=1), new_session()
        await store.issue([lasting, brief])
        await end_of(store, brief)
        assert set(await listed(store, lasting.ref.subject)) == {lasting.ref}
        assert list(await store.revoke([brief.ref, lasting.ref])) == [False, True]

    async def test_an_ended_session_is_not_counted(self, store: TokenStore) -> None:
        brief, lasting = new_session(ttl=1), new_session()
        await store.issue([brief, lasting])
        await end_of(store, brief)
        assert await store.revoke_subject(lasting.ref.subject) == 1

    async def test_a_subject_whose_sessions_have_expired_may_log_in_again(
        self, store: TokenStore
    ) -> None:
        brief, new = new_session(ttl=1), new_session()
        await store.issue([brief])
        await end_of(store, brief)
        assert list(await store.sessions(brief.ref.subject)) == []
        await store.issue([new])
        assert set(await listed(store, new.ref.subject)) == {new.ref}

    async def test_a_batch_may_be_large(self, store: TokenStore) -> None:
        batch = [new_session(f"user-{i % 60}", sku=f"sku-{i % 2}") for i in range(200)]
        assert [session.ref for session in await begin(store, *batch)] == [new.ref for new in batch]
        assert await is_alive(store, *batch) == [True] * 200
        subject = batch[0].ref.subject
        own = [new.ref for new in batch if new.ref.subject == subject]
        assert set(await listed(store, batch[0].ref.subject)) == set(own)
        assert list(await store.revoke([new.ref for new in batch[:100]])) == [True] * 100
        assert await is_alive(store, *batch) == [False] * 100 + [True] * 100

    async def test_a_subject_may_have_many_sessions(self, store: TokenStore) -> None:
        batch = [new_session(policy=LARGEST) for _ in range(200)]
        await store.issue(batch)
        assert set(await listed(store, batch[0].ref.subject)) == {new.ref for new in batch}
        sole = new_session(policy=SOLE)
        await store.issue([sole])
        assert await is_alive(store, *batch) == [False] * 200
        assert await store.revoke_subject(sole.ref.subject) == 1

    async def test_concurrent_logins_of_one_user_all_stay(self, store: TokenStore) -> None:
        batch = [new_session() for _ in range(50)]
        await asyncio.gather(*(store.issue([new]) for new in batch))
        assert await is_alive(store, *batch) == [True] * 50
        assert set(await listed(store, batch[0].ref.subject)) == {new.ref for new in batch}
        assert await store.revoke_subject(batch[0].ref.subject) == 50

    async def test_one_of_many_concurrent_calls_revokes_a_session(self, store: TokenStore) -> None:
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
            assert set(await listed(store, second.ref.subject)) == {second.ref}

        await asyncio.gather(*(live(f"user-{i}") for i in range(30)))

    async def test_unusual_user_ids_are_harmless(self, store: TokenStore) -> None:
        batch = [new_session(user_id) for user_id in UNUSUAL_IDS for _ in range(2)]
        await store.issue(batch)
        assert await is_alive(store, *batch) == [True] * len(batch)
        for first, second in zip(batch[::2], batch[1::2], strict=True):
            assert set(await listed(store, first.ref.subject)) == {first.ref, second.ref}
            assert list(await store.revoke([first.ref])) == [True]
        assert await is_alive(store, *batch) == [False, True] * len(UNUSUAL_IDS)
        for first in batch[::2]:
            assert await store.revoke_subject(first.ref.subject) == 1
        assert await is_alive(store, *batch) == [False] * len(batch)
