"""Tests of rotating tokens and of their reuse."""

import asyncio

from ...constants import TokenStatus
from ...models import Session, SessionRef
from .. import TokenStore
from .examples import (
    ALICE,
    HOUR,
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
    rotated,
    statuses,
    until,
)

__all__ = ["Rotation"]


class Rotation:
    """Tests of `TokenStore.rotate` and `TokenStore.end_reused`."""

    async def test_rotate_returns_the_next_generation(self, store: TokenStore) -> None:
        new = new_session(device="phone", device_kind="mobile")
        (begun,) = await begin(store, new)
        (session,) = await store.rotate([new.ref], ttl=3 * HOUR, grace=0)
        assert isinstance(session, Session)
        assert session.ref == new.ref._replace(generation=1)
        assert session.issued_at == begun.issued_at
        assert (session.device, session.device_kind) == ("phone", "mobile")
        assert is_about(session.expires_at, begun.expires_at + 2 * HOUR)
        asked = [new.ref, session.ref]
        assert list(await store.lookup(asked)) == [TokenStatus.rotated, session.expires_at]
        assert list(await store.sessions(ALICE)) == [session]
        assert list(await store.read(asked)) == [None, session]

    async def test_rotate_may_shorten_a_session(self, store: TokenStore) -> None:
        (begun,) = await begin(store, new_session(ttl=5 * HOUR))
        (session,) = await store.rotate([begun.ref], ttl=HOUR, grace=0)
        assert isinstance(session, Session)
        assert is_about(session.expires_at, begun.expires_at - 4 * HOUR)

    async def test_rotate_respects_the_absolute_end(self, store: TokenStore) -> None:
        (begun,) = await begin(store, new_session(ttl=HOUR, absolute_ttl=2 * HOUR))
        (session,) = await store.rotate([begun.ref], ttl=9 * HOUR, grace=0)
        assert isinstance(session, Session)
        assert session.expires_at == begun.expires_at + HOUR

    async def test_rotate_gives_an_absolute_end_to_a_session_without_one(
        self, store: TokenStore
    ) -> None:
        (begun,) = await begin(store, new_session(ttl=HOUR))
        ref = begun.ref
        for _ in range(3):
            (session,) = await store.rotate([ref], ttl=9 * HOUR, grace=0, absolute_ttl=2 * HOUR)
            assert isinstance(session, Session)
            assert session.expires_at == begun.issued_at + 2 * HOUR
            ref = session.ref
        assert list(await store.lookup([ref])) == [begun.issued_at + 2 * HOUR]
        (session,) = await store.rotate([ref], ttl=HOUR, grace=0, absolute_ttl=2 * HOUR)
        assert isinstance(session, Session)
        assert is_about(session.expires_at, begun.expires_at)

    async def test_rotate_keeps_the_absolute_end_of_a_session(self, store: TokenStore) -> None:
        (begun,) = await begin(store, new_session(ttl=HOUR, absolute_ttl=3 * HOUR))
        (session,) = await store.rotate([begun.ref], ttl=9 * HOUR, grace=0, absolute_ttl=2 * HOUR)
        assert isinstance(session, Session)
        assert session.expires_at == begun.issued_at + 3 * HOUR

    async def test_rotate_does_not_shorten_a_session_that_ends_after_the_absolute_ttl(
        self, store: TokenStore
    ) -> None:
        (begun,) = await begin(store, new_session(ttl=5 * HOUR))
        (session,) = await store.rotate([begun.ref], ttl=9 * HOUR, grace=0, absolute_ttl=2 * HOUR)
        assert isinstance(session, Session)
        assert session.expires_at == begun.expires_at

    async def test_a_rotated_session_ends_by_itself(self, store: TokenStore) -> None:
        (begun,) = await begin(store, new_session())
        (session,) = await store.rotate([begun.ref], ttl=1, grace=HOUR)
        assert isinstance(session, Session)
        await end_of(store, session)
        assert list(await store.lookup([begun.ref, session.ref])) == [None, None]
        answers = await store.rotate([begun.ref, session.ref], ttl=HOUR, grace=HOUR)
        assert list(answers) == [TokenStatus.unknown] * 2
        assert await listed(store) == []

    async def test_rotate_answers_in_order(self, store: TokenStore) -> None:
        batch = mixed_batch()
        await begin(store, *batch)
        await store.revoke([batch[2].ref])
        asked = [batch[5].ref, new_session().ref, batch[2].ref, batch[0].ref]
        first, unknown, revoked, last = await store.rotate(asked, ttl=HOUR, grace=0)
        assert (unknown, revoked) == (TokenStatus.unknown, TokenStatus.revoked)
        assert isinstance(first, Session)
        assert isinstance(last, Session)
        assert first.ref == batch[5].ref._replace(generation=1)
        assert last.ref == batch[0].ref._replace(generation=1)
        others = [new for i, new in enumerate(batch) if i not in (0, 2, 5)]
        assert await is_alive(store, *others) == [True] * 4

    async def test_a_repetition_within_the_grace_gets_the_same_answer(
        self, store: TokenStore
    ) -> None:
        (begun,) = await begin(store, new_session())
        (first,) = await store.rotate([begun.ref], ttl=HOUR, grace=HOUR)
        (again,) = await store.rotate([begun.ref], ttl=5 * HOUR, grace=HOUR)
        assert again == first
        assert list(await store.sessions(ALICE)) == [first]

    async def test_a_ref_twice_in_a_batch_is_rotated_once(self, store: TokenStore) -> None:
        for grace in (HOUR, 0):
            (begun,) = await begin(store, new_session())
            first, second = await store.rotate([begun.ref] * 2, ttl=HOUR, grace=grace)
            assert first == second
            assert isinstance(first, Session)
            assert first.ref.generation == 1
            assert await statuses(store, first) == [TokenStatus.active]

    async def test_without_grace_a_repetition_is_refused(self, store: TokenStore) -> None:
        (begun,) = await begin(store, new_session())
        ref = await rotated(store, begun.ref, grace=0)
        answers = await store.rotate([begun.ref], ttl=HOUR, grace=HOUR)
        assert list(answers) == [TokenStatus.rotated]
        assert await listed(store) == [ref]

    async def test_after_the_grace_a_repetition_is_refused(self, store: TokenStore) -> None:
        (begun,) = await begin(store, new_session())
        ref = await rotated(store, begun.ref, grace=50)
        await _end_of_grace(store, begun.ref)
        assert await listed(store) == [ref]
        assert (await rotated(store, ref)).generation == 2

    async def test_a_session_is_rotated_many_times(self, store: TokenStore) -> None:
        (begun,) = await begin(store, new_session())
        chain = [begun.ref]
        for generation in range(1, 12):
            chain.append(await rotated(store, chain[-1]))
            assert chain[-1] == begun.ref._replace(generation=generation)
        assert await listed(store) == [chain[-1]]
        *older, before, current = await store.rotate(chain, ttl=HOUR, grace=HOUR)
        assert older == [TokenStatus.rotated] * 10
        # `before` repeats the last rotation within its grace; `current` is rotated anew.
        assert isinstance(before, Session)
        assert isinstance(current, Session)
        assert [before.ref.generation, current.ref.generation] == [11, 12]

    async def test_only_the_previous_generation_has_a_grace(self, store: TokenStore) -> None:
        (begun,) = await begin(store, new_session())
        first = await rotated(store, begun.ref)
        second = await rotated(store, first)
        answers = await store.rotate([begun.ref], ttl=HOUR, grace=HOUR)
        assert list(answers) == [TokenStatus.rotated]
        assert await listed(store) == [second]

    async def test_an_unknown_ref_is_not_rotated(self, store: TokenStore) -> None:
        (begun,) = await begin(store, new_session())
        ref = begun.ref
        asked = [
            new_session().ref,
            ref._replace(sku="game"),
            ref._replace(user_id="bob"),
            ref._replace(generation=1),
            ref._replace(generation=2**32 - 1),
        ]
        answers = await store.rotate(asked, ttl=HOUR, grace=HOUR)
        assert list(answers) == [TokenStatus.unknown] * 5
        assert list(await store.sessions(ALICE)) == [begun]

    async def test_an_ended_session_is_not_rotated(self, store: TokenStore) -> None:
        replaced, sole = new_session(), new_session(policy=SOLE)
        revoked, banned, brief = new_session("bob"), new_session("carol"), new_session(ttl=1)
        await begin(store, replaced, sole, revoked, banned, brief)
        await store.revoke([revoked.ref])
        await store.ban(banned.ref.subject, reason="", ttl=None)
        await end_of(store, brief)
        asked = [new.ref for new in (replaced, revoked, banned, brief)]
        assert list(await store.rotate(asked, ttl=HOUR, grace=HOUR)) == [
            TokenStatus.replaced,
            TokenStatus.revoked,
            TokenStatus.banned,
            TokenStatus.unknown,
        ]
        assert await listed(store) == [sole.ref]

    async def test_a_grace_ends_with_its_session(self, store: TokenStore) -> None:
        (begun,) = await begin(store, new_session())
        ref = await rotated(store, begun.ref)
        await store.revoke([ref])
        answers = await store.rotate([begun.ref, ref], ttl=HOUR, grace=HOUR)
        assert list(answers) == [TokenStatus.revoked] * 2

    async def test_concurrent_rotations_create_one_generation(self, store: TokenStore) -> None:
        (begun,) = await begin(store, new_session())
        answers = await asyncio.gather(
            *(store.rotate([begun.ref], ttl=HOUR, grace=HOUR) for _ in range(20))
        )
        refs = {answer.ref for (answer,) in answers if isinstance(answer, Session)}
        assert refs == {begun.ref._replace(generation=1)}
        assert [len(answer) for answer in answers] == [1] * 20
        assert not any(isinstance(answer, TokenStatus) for (answer,) in answers)
        assert await listed(store) == list(refs)

    async def test_one_of_concurrent_rotations_without_grace_succeeds(
        self, store: TokenStore
    ) -> None:
        (begun,) = await begin(store, new_session())
        answers = await asyncio.gather(
            *(store.rotate([begun.ref], ttl=HOUR, grace=0) for _ in range(20))
        )
        refused = [answer for (answer,) in answers if isinstance(answer, TokenStatus)]
        assert refused == [TokenStatus.rotated] * 19
        assert await listed(store) == [begun.ref._replace(generation=1)]

    async def test_rotating_keeps_the_order_of_sessions(self, store: TokenStore) -> None:
        batch = [new_session() for _ in range(4)]
        await begin_apart(store, *batch)
        oldest = await rotated(store, batch[0].ref)
        refs = [new.ref for new in batch]
        assert await listed(store) == [refs[3], refs[2], refs[1], oldest]
        (begun,) = await begin(store, new_session(policy=SOLE))
        assert set(begun.replaced) == {oldest, *refs[1:]}

    async def test_repeating_a_rotated_session_returns_its_generation(
        self, store: TokenStore
    ) -> None:
        new = new_session()
        await begin(store, new)
        ref = await rotated(store, new.ref)
        (again,) = await begin(store, new)
        assert again.ref == ref
        assert await listed(store) == [ref]

    async def test_sessions_of_unusual_users_are_rotated(self, store: TokenStore) -> None:
        batch = [new_session(user_id) for user_id in UNUSUAL_IDS]
        await begin(store, *batch)
        answers = await store.rotate([new.ref for new in batch], ttl=HOUR, grace=0)
        refs = [answer.ref for answer in answers if isinstance(answer, Session)]
        assert refs == [new.ref._replace(generation=1) for new in batch]
        assert list(await store.end_reused([new.ref for new in batch])) == [True] * len(batch)

    async def test_a_reused_token_ends_its_session(self, store: TokenStore) -> None:
        (begun, other) = await begin(store, new_session(), new_session())
        first = await rotated(store, begun.ref)
        second = await rotated(store, first)
        assert list(await store.end_reused([begun.ref])) == [True]
        asked = [begun.ref, first, second]
        assert list(await store.lookup(asked)) == [TokenStatus.reused] * 3
        answers = await store.rotate(asked, ttl=HOUR, grace=HOUR)
        assert list(answers) == [TokenStatus.reused] * 3
        assert await listed(store) == [other.ref]
        assert list(await store.revoke([second])) == [False]

    async def test_reuse_ends_a_session_once(self, store: TokenStore) -> None:
        batch = [new_session(), new_session()]
        await begin(store, *batch)
        first, second = (new.ref for new in batch)
        refs = [await rotated(store, ref, grace=0) for ref in (first, second)]
        assert list(await store.end_reused([first, first, second])) == [True, False, True]
        assert list(await store.end_reused([first, second, *refs])) == [False] * 4

    async def test_reused_tokens_of_several_generations_end_a_session_once(
        self, store: TokenStore
    ) -> None:
        (begun,) = await begin(store, new_session())
        first = await rotated(store, begun.ref)
        await rotated(store, first, grace=0)
        assert sorted(await store.end_reused([begun.ref, first])) == [False, True]

    async def test_the_current_generation_ends_nothing(self, store: TokenStore) -> None:
        (begun,) = await begin(store, new_session())
        assert list(await store.end_reused([begun.ref])) == [False]
        ref = await rotated(store, begun.ref, grace=0)
        assert list(await store.end_reused([ref])) == [False]
        assert await listed(store) == [ref]

    async def test_the_previous_generation_ends_nothing_within_its_grace(
        self, store: TokenStore
    ) -> None:
        (begun,) = await begin(store, new_session())
        ref = await rotated(store, begun.ref)
        assert list(await store.end_reused([begun.ref])) == [False]
        assert await listed(store) == [ref]

    async def test_the_previous_generation_ends_the_session_after_its_grace(
        self, store: TokenStore
    ) -> None:
        (begun,) = await begin(store, new_session())
        ref = await rotated(store, begun.ref, grace=50)
        await _end_of_grace(store, begun.ref)
        assert list(await store.end_reused([begun.ref])) == [True]
        assert list(await store.lookup([ref])) == [TokenStatus.reused]

    async def test_an_unknown_ref_ends_nothing(self, store: TokenStore) -> None:
        (begun,) = await begin(store, new_session())
        ref = await rotated(store, begun.ref, grace=0)
        asked = [
            new_session().ref,
            begun.ref._replace(sku="game"),
            begun.ref._replace(user_id="bob"),
            ref._replace(generation=2),
        ]
        assert list(await store.end_reused(asked)) == [False] * 4
        assert await listed(store) == [ref]

    async def test_reuse_does_not_change_the_status_of_an_ended_session(
        self, store: TokenStore
    ) -> None:
        (begun,) = await begin(store, new_session())
        ref = await rotated(store, begun.ref, grace=0)
        await store.revoke([ref])
        assert list(await store.end_reused([begun.ref])) == [False]
        assert list(await store.lookup([ref])) == [TokenStatus.revoked]

    async def test_one_of_many_concurrent_calls_ends_a_reused_session(
        self, store: TokenStore
    ) -> None:
        (begun,) = await begin(store, new_session())
        await rotated(store, begun.ref, grace=0)
        answers = await asyncio.gather(*(store.end_reused([begun.ref]) for _ in range(20)))
        assert sorted(answer for (answer,) in answers) == [False] * 19 + [True]


async def _end_of_grace(store: TokenStore, ref: SessionRef) -> None:
    """Wait until the previous generation is no longer accepted."""

    async def is_over() -> bool:
        (answer,) = await store.rotate([ref], ttl=HOUR, grace=HOUR)
        return answer == TokenStatus.rotated

    await until(is_over)
