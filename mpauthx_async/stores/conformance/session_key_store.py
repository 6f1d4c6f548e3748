"""The test suite for token stores that keep session keys."""

import asyncio
from dataclasses import replace
from typing import Protocol

from ...models import NewSession, is_user_id
from .. import SessionKeyStore, TokenStore
from .examples import HOUR, SOLE, UNUSUAL_IDS, begin, end_of, is_alive, mixed_batch, new_session

__all__ = ["SessionKeyStoreConformance"]

_SEALED, _OTHER_SEALED = "-_" + 57 * "A", "z9" + 57 * "A"  # as long as real ones


class _KeyingTokenStore(TokenStore, SessionKeyStore, Protocol):
    """A TokenStore that is also a SessionKeyStore."""


class SessionKeyStoreConformance:
    """Tests of the contract of `SessionKeyStore`, for a TokenStore that is one."""

    async def test_the_store_is_a_session_key_store(self, store: _KeyingTokenStore) -> None:
        assert isinstance(store, SessionKeyStore)

    async def test_a_sealed_key_is_issued_with_its_session(self, store: _KeyingTokenStore) -> None:
        new = new_session(sealed_key=_SEALED)
        assert list(await store.sealed_keys([new.ref])) == [None]
        await begin(store, new)
        assert list(await store.sealed_keys([new.ref])) == [_SEALED]

    async def test_a_session_may_have_no_sealed_key(self, store: _KeyingTokenStore) -> None:
        without = new_session()
        await store.issue([without])
        assert list(await store.sealed_keys([without.ref])) == [None]
        assert await is_alive(store, without) == [True]

    async def test_sealed_keys_are_read_in_the_order_of_the_refs(
        self, store: _KeyingTokenStore
    ) -> None:
        batch = _with_keys(mixed_batch())
        without, unknown = new_session(), new_session(sealed_key=_SEALED)
        await store.issue([*batch, without])
        asked = [batch[4], unknown, batch[0], batch[4], without, batch[6], unknown, batch[0]]
        answers = [batch[4], None, batch[0], batch[4], None, batch[6], None, batch[0]]
        assert list(await store.sealed_keys([new.ref for new in asked])) == [
            new and new.sealed_key for new in answers
        ]

    async def test_an_empty_batch_has_an_empty_answer(self, store: _KeyingTokenStore) -> None:
        assert list(await store.sealed_keys([])) == []

    async def test_a_sealed_key_belongs_to_one_sku_and_user(self, store: _KeyingTokenStore) -> None:
        new = new_session(sealed_key=_SEALED)
        await store.issue([new])
        for other in (new.ref._replace(sku="game"), new.ref._replace(user_id="bob")):
            assert list(await store.sealed_keys([other])) == [None]
            assert await store.replace_sealed_key(other, _OTHER_SEALED) is False
        assert list(await store.sealed_keys([new.ref])) == [_SEALED]

    async def test_sessions_are_listed_whether_they_have_a_sealed_key_or_not(
        self, store: _KeyingTokenStore
    ) -> None:
        older, newer = await begin(store, new_session(sealed_key=_SEALED), new_session())
        assert list(await store.sessions(older.ref.subject)) == [newer, older]

    async def test_the_replacement_of_a_key_is_read(self, store: _KeyingTokenStore) -> None:
        new, other = new_session(sealed_key=_SEALED), new_session(sealed_key=_SEALED)
        await store.issue([new, other])
        assert await store.replace_sealed_key(new.ref, _OTHER_SEALED) is True
        assert list(await store.sealed_keys([new.ref, other.ref])) == [_OTHER_SEALED, _SEALED]

    async def test_a_session_without_a_key_may_get_one(self, store: _KeyingTokenStore) -> None:
        new = new_session()
        await store.issue([new])
        assert await store.replace_sealed_key(new.ref, _SEALED) is True
        assert list(await store.sealed_keys([new.ref])) == [_SEALED]

    async def test_replacing_a_key_does_not_change_the_session(
        self, store: _KeyingTokenStore
    ) -> None:
        (begun,) = await begin(store, new_session(sealed_key=_SEALED))
        await store.replace_sealed_key(begun.ref, _OTHER_SEALED)
        assert list(await store.lookup([begun.ref])) == [begun.expires_at]
        assert list(await store.sessions(begun.ref.subject)) == [begun]

    async def test_a_session_that_is_not_alive_gets_no_key(self, store: _KeyingTokenStore) -> None:
        unknown, revoked, brief = new_session(), new_session(), new_session(ttl=1)
        await store.issue([revoked, brief])
        await store.revoke([revoked.ref])
        await end_of(store, brief)
        for new in (unknown, revoked, brief):
            assert await store.replace_sealed_key(new.ref, _SEALED) is False
            assert list(await store.sealed_keys([new.ref])) == [None]
        assert await is_alive(store, unknown, revoked, brief) == [False] * 3

    async def test_repeating_a_session_keeps_its_key(self, store: _KeyingTokenStore) -> None:
        new = new_session(sealed_key=_SEALED)
        await store.issue([new])
        await store.replace_sealed_key(new.ref, _OTHER_SEALED)
        await store.issue([new])
        assert list(await store.sealed_keys([new.ref])) == [_OTHER_SEALED]

    async def test_revoking_a_session_deletes_its_key(self, store: _KeyingTokenStore) -> None:
        batch = _with_keys(mixed_batch())
        await store.issue(batch)
        await store.revoke([batch[1].ref, batch[3].ref])
        assert await _keys(store, batch) == [
            None if i in (1, 3) else new.sealed_key for i, new in enumerate(batch)
        ]

    async def test_revoking_a_subject_deletes_its_keys(self, store: _KeyingTokenStore) -> None:
        batch = _with_keys(mixed_batch())
        await store.issue(batch)
        subject = batch[0].ref.subject
        await store.revoke_subject(subject)
        assert await _keys(store, batch) == [
            None if new.ref.subject == subject else new.sealed_key for new in batch
        ]

    async def test_a_sole_session_deletes_the_keys_of_those_it_replaces(
        self, store: _KeyingTokenStore
    ) -> None:
        earlier = _with_keys([new_session(), new_session()])
        bob = new_session("bob", sealed_key=_SEALED)
        without = new_session(policy=SOLE)
        await store.issue([*earlier, bob])
        await store.issue([without])
        assert await _keys(store, [*earlier, without, bob]) == [None, None, None, _SEALED]
        sole = new_session(policy=SOLE, sealed_key=_OTHER_SEALED)
        await store.issue([sole])
        assert await _keys(store, [sole, without]) == [_OTHER_SEALED, None]

    async def test_a_key_is_gone_when_its_session_expires(self, store: _KeyingTokenStore) -> None:
        brief = new_session(ttl=1, sealed_key=_SEALED)
        lasting = new_session(sealed_key=_OTHER_SEALED)
        await store.issue([brief, lasting])
        await end_of(store, brief)
        assert await _keys(store, [brief, lasting]) == [None, _OTHER_SEALED]

    async def test_a_key_belongs_to_the_current_generation(self, store: _KeyingTokenStore) -> None:
        new = new_session(sealed_key=_SEALED)
        await store.issue([new])
        await store.rotate([new.ref], ttl=HOUR, grace=HOUR)
        refs = [new.ref._replace(generation=generation) for generation in range(3)]
        assert list(await store.sealed_keys(refs)) == [None, _SEALED, None]

    async def test_a_batch_of_keys_may_be_large(self, store: _KeyingTokenStore) -> None:
        batch = _with_keys([new_session(f"user-{i % 60}", sku=f"sku-{i % 2}") for i in range(200)])
        await store.issue(batch)
        assert await _keys(store, batch) == [new.sealed_key for new in batch]
        assert await _keys(store, batch[::-1]) == [new.sealed_key for new in batch[::-1]]

    async def test_keys_of_unusual_users_are_kept_with_their_open_ids(
        self, store: _KeyingTokenStore
    ) -> None:
        ids = [name for name in UNUSUAL_IDS if is_user_id(name)]
        batch = [new_session(user_id, sealed_key=f"{_SEALED}|{user_id}") for user_id in ids]
        await store.issue(batch)
        assert await _keys(store, batch) == [new.sealed_key for new in batch]
        for new in batch:
            assert await store.replace_sealed_key(new.ref, f"{_OTHER_SEALED}|{new.ref.user_id}")
        assert await _keys(store, batch) == [f"{_OTHER_SEALED}|{name}" for name in ids]

    async def test_concurrent_replacements_keep_one_key(self, store: _KeyingTokenStore) -> None:
        new = new_session(sealed_key=_SEALED)
        await store.issue([new])
        keys = [f"{i:A>59}" for i in range(20)]
        answers = await asyncio.gather(*(store.replace_sealed_key(new.ref, key) for key in keys))
        assert answers == [True] * 20
        assert (await _keys(store, [new]))[0] in keys


def _with_keys(sessions: list[NewSession]) -> list[NewSession]:
    """Give each session a sealed key of its own."""
    return [replace(new, sealed_key=f"{i:A>59}") for i, new in enumerate(sessions)]


async def _keys(store: SessionKeyStore, sessions: list[NewSession]) -> list[str | None]:
    return list(await store.sealed_keys([new.ref for new in sessions]))
