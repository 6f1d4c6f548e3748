"""Tests of renewing sessions."""

import asyncio

from ...constants import TokenStatus
from ...models import Session
from .. import TokenStore
from .examples import (
    ALICE,
    HOUR,
    SOLE,
    begin,
    end_of,
    is_about,
    is_alive,
    mixed_batch,
    new_session,
    rotated,
    until,
)

__all__ = ["Renewal"]

_MINUTE = 60_000  # milliseconds


class Renewal:
    """Tests of `TokenStore.renew`."""

    async def test_renew_gives_an_absolute_end_to_a_session_without_one(
        self, store: TokenStore
    ) -> None:
        (begun,) = await begin(store, new_session())
        (end,) = await store.renew([begun.ref], ttl=9 * HOUR, absolute_ttl=5 * HOUR)
        assert end == begun.issued_at + 5 * HOUR
        assert list(await store.renew([begun.ref], ttl=9 * HOUR, absolute_ttl=5 * HOUR)) == [end]

    async def test_a_renewed_session_expires_ttl_from_now(self, store: TokenStore) -> None:
        (begun,) = await begin(store, new_session(ttl=_MINUTE, device="phone"))
        (end,) = await store.renew([begun.ref], ttl=HOUR)
        assert end is not None
        assert is_about(end, begun.expires_at - _MINUTE + HOUR)
        assert list(await store.lookup([begun.ref])) == [end]
        (renewed,) = await store.sessions(ALICE)
        assert (renewed.ref, renewed.issued_at, renewed.expires_at, renewed.device) == (
            begun.ref,
            begun.issued_at,
            end,
            "phone",
        )
        assert renewed.last_seen is not None
        assert renewed.last_seen == end - HOUR
        assert list(await store.read([begun.ref])) == [renewed]

    async def test_renew_writes_nothing_before_a_tenth_has_passed(self, store: TokenStore) -> None:
        (begun,) = await begin(store, new_session())
        for _ in range(5):
            assert list(await store.renew([begun.ref], ttl=HOUR)) == [begun.expires_at]
        assert list(await store.sessions(ALICE)) == [begun]
        assert begun.last_seen is None

    async def test_renew_writes_once_a_tenth_has_passed(self, store: TokenStore) -> None:
        ttl = 15_000
        (begun,) = await begin(store, new_session(ttl=ttl))
        ends = [begun.expires_at]

        async def is_written() -> bool:
            (end,) = await store.renew([begun.ref], ttl=ttl)
            assert end is not None
            ends.append(end)
            return end != begun.expires_at

        await until(is_written)
        assert ends[-1] >= begun.expires_at + ttl // 10
        assert list(await store.renew([begun.ref], ttl=ttl)) == ends[-1:]
        (session,) = await store.sessions(ALICE)
        assert (session.expires_at, session.last_seen) == (ends[-1], ends[-1] - ttl)

    async def test_renew_does_not_shorten_a_session(self, store: TokenStore) -> None:
        (begun,) = await begin(store, new_session(ttl=5 * HOUR))
        assert list(await store.renew([begun.ref], ttl=HOUR)) == [begun.expires_at]
        assert list(await store.sessions(ALICE)) == [begun]

    async def test_renew_respects_the_absolute_end(self, store: TokenStore) -> None:
        (begun,) = await begin(store, new_session(ttl=HOUR, absolute_ttl=2 * HOUR))
        for _ in range(3):
            assert list(await store.renew([begun.ref], ttl=9 * HOUR)) == [begun.expires_at + HOUR]
        assert list(await store.lookup([begun.ref])) == [begun.expires_at + HOUR]

    async def test_renew_does_not_extend_a_session_beyond_its_absolute_end(
        self, store: TokenStore
    ) -> None:
        (begun,) = await begin(store, new_session(ttl=HOUR, absolute_ttl=HOUR))
        assert list(await store.renew([begun.ref], ttl=9 * HOUR)) == [begun.expires_at]
        assert list(await store.sessions(ALICE)) == [begun]

    async def test_a_renewed_session_ends_by_itself(self, store: TokenStore) -> None:
        (begun,) = await begin(store, new_session(ttl=_MINUTE))
        (session,) = await store.rotate([begun.ref], ttl=200, grace=0)
        assert isinstance(session, Session)
        await end_of(store, session)
        assert list(await store.renew([session.ref], ttl=HOUR)) == [None]
        assert await is_alive(store, session) == [False]

    async def test_a_session_that_is_not_alive_is_not_renewed(self, store: TokenStore) -> None:
        unknown, brief, revoked = new_session(), new_session(ttl=1), new_session("bob")
        replaced, banned = new_session("carol"), new_session("dave")
        await begin(store, brief, revoked, replaced, new_session("carol", policy=SOLE), banned)
        await store.revoke([revoked.ref])
        await store.ban(banned.ref.subject, reason="", ttl=None)
        await end_of(store, brief)
        refs = [new.ref for new in (unknown, brief, revoked, replaced, banned)]
        answers = [None, None, TokenStatus.revoked, TokenStatus.replaced, TokenStatus.banned]
        assert list(await store.renew(refs, ttl=2 * HOUR)) == answers
        assert list(await store.lookup(refs)) == answers

    async def test_only_the_current_generation_renews_a_session(self, store: TokenStore) -> None:
        (begun,) = await begin(store, new_session())
        ref = await rotated(store, begun.ref)
        (before,) = await store.lookup([ref])
        future = ref._replace(generation=2)
        answers = await store.renew([begun.ref, future], ttl=5 * HOUR)
        assert list(answers) == [TokenStatus.rotated, None]
        assert list(await store.lookup([ref])) == [before]
        (end,) = await store.renew([ref], ttl=5 * HOUR)
        assert end is not None
        assert before is not None
        assert is_about(end, before + 4 * HOUR)

    async def test_renew_applies_to_one_sku_and_user(self, store: TokenStore) -> None:
        (begun,) = await begin(store, new_session())
        others = [begun.ref._replace(sku="game"), begun.ref._replace(user_id="bob")]
        assert list(await store.renew(others, ttl=5 * HOUR)) == [None, None]
        assert list(await store.sessions(ALICE)) == [begun]

    async def test_renew_answers_in_order(self, store: TokenStore) -> None:
        batch = mixed_batch()
        await begin(store, *batch)
        await store.revoke([batch[3].ref])
        asked = [batch[5].ref, batch[3].ref, new_session().ref, batch[0].ref, batch[5].ref]
        ends = list(await store.renew(asked, ttl=100 * HOUR))
        assert ends == list(await store.lookup(asked))
        assert ends[1:3] == [TokenStatus.revoked, None]
        assert ends[0] == ends[4]

    async def test_concurrent_renewals_agree(self, store: TokenStore) -> None:
        (begun,) = await begin(store, new_session(ttl=_MINUTE))
        answers = await asyncio.gather(*(store.renew([begun.ref], ttl=HOUR) for _ in range(20)))
        ends = {end for (end,) in answers}
        assert ends == set(await store.lookup([begun.ref]))
        assert len(ends) == 1
