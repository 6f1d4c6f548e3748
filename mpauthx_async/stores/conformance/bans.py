"""Tests of bans."""

import asyncio

from ...constants import TokenStatus
from ...models import Ban, LoginPolicy, Session, Subject
from .. import TokenStore
from .examples import (
    ALICE,
    HOUR,
    SOLE,
    UNUSUAL_IDS,
    ban_of,
    begin,
    end_of,
    is_about,
    is_alive,
    listed,
    mixed_batch,
    new_session,
    statuses,
    until,
)

__all__ = ["Bans"]

_POLICIES = (LoginPolicy(), SOLE, LoginPolicy(one_per_kind=True), LoginPolicy(shared_token=True))


class Bans:
    """Tests of `ban`, `unban` and `bans`, and of logins during a ban."""

    async def test_bans_are_read_in_the_order_of_the_subjects(self, store: TokenStore) -> None:
        bob, carol = (ALICE._replace(user_id=name) for name in ("bob", "carol"))
        await store.ban(carol, reason="spam", ttl=None)
        await store.ban(ALICE, reason="theft", ttl=HOUR)
        assert list(await store.bans([])) == []
        bans = await store.bans([bob, carol, ALICE, carol])
        assert [ban and ban.reason for ban in bans] == [None, "spam", "theft", "spam"]

    async def test_a_ban_is_read_unchanged(self, store: TokenStore) -> None:
        assert await ban_of(store, ALICE) is None
        (begun,) = await begin(store, new_session("bob"))
        await store.ban(ALICE, reason="Spam 😀 'n' \"more\"\n", ttl=HOUR)
        ban = await ban_of(store, ALICE)
        assert ban is not None
        assert (ban.user_id, ban.reason) == ("alice", "Spam 😀 'n' \"more\"\n")
        assert is_about(ban.banned_at, begun.issued_at)
        assert ban.until == ban.banned_at + HOUR

    async def test_a_ban_may_last_for_ever_and_have_no_reason(self, store: TokenStore) -> None:
        await store.ban(ALICE, reason="", ttl=None)
        ban = await ban_of(store, ALICE)
        assert ban is not None
        assert (ban.reason, ban.until) == ("", None)

    async def test_a_ban_ends_all_sessions_of_its_subject_and_no_others(
        self, store: TokenStore
    ) -> None:
        batch = mixed_batch()
        await begin(store, *batch)
        own = [new.ref.subject == ALICE for new in batch]
        assert await store.ban(ALICE, reason="spam", ttl=None) == own.count(True)
        assert await statuses(store, *batch) == [
            TokenStatus.banned if is_own else TokenStatus.active for is_own in own
        ]
        assert await listed(store) == []
        assert await store.revoke_subject(ALICE) == 0
        assert list(await store.revoke([batch[0].ref])) == [False]

    async def test_ban_counts_the_sessions_that_were_alive(self, store: TokenStore) -> None:
        revoked, brief, alive = new_session(), new_session(ttl=1), new_session()
        await begin(store, revoked, brief, alive)
        await store.revoke([revoked.ref])
        await end_of(store, brief)
        assert await store.ban(ALICE, reason="", ttl=HOUR) == 1
        assert await store.ban(ALICE, reason="", ttl=HOUR) == 0
        assert await statuses(store, revoked, alive) == [TokenStatus.revoked, TokenStatus.banned]

    async def test_a_banned_user_cannot_log_in(self, store: TokenStore) -> None:
        await store.ban(ALICE, reason="spam", ttl=HOUR)
        ban = await ban_of(store, ALICE)
        for policy in _POLICIES:
            new = new_session(policy=policy)
            assert list(await store.issue([new])) == [ban]
            assert await is_alive(store, new) == [False]
            assert list(await store.lookup([new.ref])) == [None]
        assert await listed(store) == []
        assert await store.online_count("shop") == 0

    async def test_other_users_of_a_batch_log_in(self, store: TokenStore) -> None:
        await store.ban(ALICE, reason="spam", ttl=None)
        batch = mixed_batch()
        answers = await store.issue(batch)
        ban = await ban_of(store, ALICE)
        for new, answer in zip(batch, answers, strict=True):
            if new.ref.subject == ALICE:
                assert answer == ban
            else:
                assert isinstance(answer, Session)
                assert answer.ref == new.ref
        own = [new.ref.subject == ALICE for new in batch]
        assert await is_alive(store, *batch) == [not is_own for is_own in own]

    async def test_a_login_repeated_after_a_ban_is_refused(self, store: TokenStore) -> None:
        for policy in _POLICIES:
            new = new_session(policy=policy)
            await begin(store, new)
            await store.ban(ALICE, reason="spam", ttl=None)
            (answer,) = await store.issue([new])
            assert isinstance(answer, Ban)
            assert await statuses(store, new) == [TokenStatus.banned]
            await store.unban(ALICE)

    async def test_an_unbanned_user_may_log_in(self, store: TokenStore) -> None:
        old, new = new_session(), new_session()
        await begin(store, old)
        await store.ban(ALICE, reason="spam", ttl=None)
        assert await store.unban(ALICE) is True
        assert await ban_of(store, ALICE) is None
        assert await store.unban(ALICE) is False
        await begin(store, new)
        assert await statuses(store, old, new) == [TokenStatus.banned, TokenStatus.active]
        assert await listed(store) == [new.ref]

    async def test_unbanning_a_user_who_is_not_banned_changes_nothing(
        self, store: TokenStore
    ) -> None:
        new = new_session()
        await begin(store, new)
        assert await store.unban(ALICE) is False
        assert await is_alive(store, new) == [True]

    async def test_a_ban_ends_by_itself(self, store: TokenStore) -> None:
        await store.ban(ALICE, reason="spam", ttl=300)

        async def is_over() -> bool:
            return await ban_of(store, ALICE) is None

        await until(is_over)
        assert await store.unban(ALICE) is False
        new = new_session()
        await begin(store, new)
        assert await is_alive(store, new) == [True]

    async def test_a_login_succeeds_once_a_ban_has_ended(self, store: TokenStore) -> None:
        await store.ban(ALICE, reason="spam", ttl=300)
        new = new_session()

        async def is_begun() -> bool:
            (answer,) = await store.issue([new])
            return isinstance(answer, Session)

        await until(is_begun)
        assert await is_alive(store, new) == [True]
        assert await ban_of(store, ALICE) is None

    async def test_a_ban_replaces_an_earlier_one(self, store: TokenStore) -> None:
        for reason, ttl in [("one", 1), ("two", None), ("three", 2 * HOUR), ("four", HOUR)]:
            await store.ban(ALICE, reason=reason, ttl=ttl)
        ban = await ban_of(store, ALICE)
        assert ban is not None
        assert ban.reason == "four"
        assert ban.until == ban.banned_at + HOUR
        assert await store.unban(ALICE) is True
        assert await ban_of(store, ALICE) is None

    async def test_a_longer_ban_outlives_the_one_it_replaces(self, store: TokenStore) -> None:
        brief, lasting = Subject("shop", "brief"), ALICE
        await store.ban(lasting, reason="", ttl=1)
        await store.ban(lasting, reason="", ttl=None)
        await store.ban(brief, reason="", ttl=1)

        async def is_over() -> bool:
            return await ban_of(store, brief) is None

        await until(is_over)
        assert await ban_of(store, lasting) is not None
        (answer,) = await store.issue([new_session()])
        assert isinstance(answer, Ban)

    async def test_a_ban_applies_to_one_sku_and_user(self, store: TokenStore) -> None:
        others = [new_session(sku="game"), new_session("bob"), new_session("alic")]
        await begin(store, *others)
        await store.ban(ALICE, reason="spam", ttl=None)
        assert await is_alive(store, *others) == [True] * 3
        for other in others:
            assert await ban_of(store, other.ref.subject) is None
            assert await store.unban(other.ref.subject) is False
        await begin(store, *(new_session(new.ref.user_id, sku=new.ref.sku) for new in others))
        assert await ban_of(store, ALICE) is not None

    async def test_unusual_users_can_be_banned(self, store: TokenStore) -> None:
        subjects = [Subject("shop", user_id) for user_id in UNUSUAL_IDS]
        for subject in subjects[::2]:
            await store.ban(subject, reason=subject.user_id, ttl=None)
        bans = [await ban_of(store, subject) for subject in subjects]
        assert [ban and (ban.user_id, ban.reason) for ban in bans] == [
            None if i % 2 else (user_id, user_id) for i, user_id in enumerate(UNUSUAL_IDS)
        ]
        answers = await store.issue([new_session(user_id) for user_id in UNUSUAL_IDS])
        assert [isinstance(answer, Ban) for answer in answers] == [ban is not None for ban in bans]

    async def test_no_login_concurrent_with_a_ban_stays_alive(self, store: TokenStore) -> None:
        batches = [[new_session(policy=policy) for policy in _POLICIES] for _ in range(10)]
        logins = [store.issue(batch) for batch in batches]
        ban = store.ban(ALICE, reason="spam", ttl=None)
        await asyncio.gather(*logins[:5], ban, *logins[5:])
        for batch in batches:
            assert await is_alive(store, *batch) == [False] * len(batch)
        assert await listed(store) == []
        assert await store.online_count("shop") == 0
