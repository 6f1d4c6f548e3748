"""The tests that every store passes, for users to run on a store of their own.

Subclass the suite of the store's kind, and let a pytest fixture named `store` give an empty store
to each test (pytest-asyncio in its auto mode runs them):

    class TestMyTokenStore(TokenStoreConformance):
        @pytest.fixture
        async def store(self, tmp_path):
            async with MyTokenStore(tmp_path / "tokens.db") as store:
                yield store

The store goes by the real time: sessions begin now, and some last a millisecond. For asserts that
tell what they compared, put `pytest.register_assert_rewrite("mpauthx_async.stores.conformance")`
into conftest.py.
"""

import asyncio
import time
from dataclasses import replace
from typing import ClassVar, Protocol

from ..models import NewSession, Session, SessionRef, Subject, User, is_user_id
from ..tokens import new_nonce
from . import SessionKeyStore, TokenStore, UserStore

__all__ = [
    "UNUSUAL_IDS",
    "SessionKeyStoreConformance",
    "TokenStoreConformance",
    "UserStoreConformance",
    "new_session",
]

_HOUR = 3_600_000  # milliseconds
_SEALED, _OTHER_SEALED = "-_" + 57 * "A", "z9" + 57 * "A"  # of the length of a real one
_PATIENCE = 10  # seconds in which a session of a millisecond has to end

UNUSUAL_IDS = [
    "*",
    "?",
    "[a-z]",
    "%",
    "_",
    "%s",
    "{}",
    "{shop:1}",
    "}{",
    "'",
    '"',
    "`",
    "' OR '1'='1",
    "\\",
    "\\u0041",
    "$1",
    ":1",
    "null",
    "0",
    "00",
    "0.0",
    "[]",
    "oabc",
    "OABC",
    "\u00fc",  # ü in one code point, then in two
    "u\u0308",
    "微信用户",
    "😀",
    "\u202eoid",
    "x" * 127,
    "x" * 128,
    "😀" * 128,
]
"""User ids with a meaning in SQL, in Redis's globs or hash tags, in JSON or in a format string.

No two of them are one user, whatever a collation says.
"""


def new_session(
    user_id: str = "alice",
    *,
    sku: str = "shop",
    issued_at: int | None = None,
    ttl: int = _HOUR,
    sole: bool = False,
    sealed_key: str | None = None,
) -> NewSession:
    """A session that is to begin, by default now, under a nonce of its own.

    Args:
        user_id: whose it is.
        sku: of which sku.
        issued_at: when it begins, in Unix milliseconds.
        ttl: how long it lives, in milliseconds.
        sole: whether every earlier session of the subject ends in the same step.
        sealed_key: WeChat's session key, encrypted.
    """
    if issued_at is None:
        issued_at = time.time_ns() // 1_000_000
    return NewSession(SessionRef(sku, user_id, new_nonce()), issued_at, ttl, sole, sealed_key)


class TokenStoreConformance:
    """What a TokenStore promises."""

    async def test_a_session_is_alive_once_it_was_issued(self, store: TokenStore) -> None:
        new = new_session()
        assert await _is_alive(store, new) == [False]
        await store.issue([new])
        assert list(await store.lookup([new.ref])) == [new.issued_at + new.ttl]

    async def test_issue_answers_with_each_session_in_order(self, store: TokenStore) -> None:
        batch = _mixed_batch()
        begun = await store.issue(batch)
        assert list(begun) == [
            Session(new.ref, new.issued_at, new.issued_at + new.ttl) for new in batch
        ]

    async def test_lookup_answers_in_the_order_of_the_question(self, store: TokenStore) -> None:
        batch = _mixed_batch()
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
        batch = _mixed_batch()
        await store.issue(batch)
        assert list(await store.revoke([batch[1].ref])) == [True]
        assert await _is_alive(store, *batch) == [new is not batch[1] for new in batch]

    async def test_revoke_tells_which_were_alive_in_order(self, store: TokenStore) -> None:
        batch = _mixed_batch()
        await store.issue(batch)
        asked = [batch[3].ref, new_session("stranger").ref, batch[0].ref, batch[5].ref]
        assert list(await store.revoke(asked)) == [True, False, True, True]
        assert await _is_alive(store, *batch) == [i not in (0, 3, 5) for i in range(len(batch))]

    async def test_a_session_is_revoked_once(self, store: TokenStore) -> None:
        twice_at_once, one_by_one = new_session(), new_session()
        await store.issue([twice_at_once, one_by_one])
        assert list(await store.revoke([twice_at_once.ref] * 2)) == [True, False]
        assert list(await store.revoke([one_by_one.ref])) == [True]
        assert list(await store.revoke([one_by_one.ref])) == [False]

    async def test_sessions_are_listed_in_full_and_newest_first(self, store: TokenStore) -> None:
        now = new_session().issued_at
        ages = [30, 10, 50, 20, 40]
        batch = [new_session(issued_at=now - age * 1000, ttl=_HOUR + age) for age in ages]
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
        batch = _mixed_batch()
        await store.issue(batch)
        subject = batch[0].ref.subject
        own = [new.ref.subject == subject for new in batch]
        assert await store.revoke_subject(subject) == own.count(True)
        assert await _is_alive(store, *batch) == [not is_own for is_own in own]
        assert list(await store.sessions(subject)) == []
        assert await store.revoke_subject(subject) == 0

    async def test_a_subject_that_was_revoked_can_begin_anew(self, store: TokenStore) -> None:
        old, new = new_session(), new_session()
        await store.issue([old])
        await store.revoke_subject(old.ref.subject)
        await store.issue([new])
        assert await _is_alive(store, old, new) == [False, True]
        assert await _listed(store, new) == {new.ref}

    async def test_a_session_of_one_sku_is_invisible_to_another(self, store: TokenStore) -> None:
        new = new_session(sku="shop")
        await store.issue([new])
        other = new.ref._replace(sku="shop-debug")
        assert list(await store.lookup([other, new.ref])) == [None, new.issued_at + new.ttl]
        assert list(await store.revoke([other])) == [False]
        assert list(await store.sessions(other.subject)) == []
        assert await store.revoke_subject(other.subject) == 0
        assert await _is_alive(store, new) == [True]
        assert await _listed(store, new) == {new.ref}

    async def test_skus_that_look_alike_are_apart(self, store: TokenStore) -> None:
        batch = [new_session(sku=sku) for sku in ("a", "A", "a.", "a-", "a_", "a" * 63, "a" * 64)]
        await store.issue(batch)
        for new in batch:
            assert await _listed(store, new) == {new.ref}
        assert await store.revoke_subject(batch[0].ref.subject) == 1
        assert await _is_alive(store, *batch) == [False, *[True] * 6]

    async def test_a_sole_session_ends_every_earlier_one_of_its_subject(
        self, store: TokenStore
    ) -> None:
        earlier = [new_session() for _ in range(12)]
        other_user, other_sku = new_session("bob"), new_session(sku="shop-debug")
        await store.issue([*earlier, other_user, other_sku])
        sole = new_session(sole=True)
        await store.issue([sole])
        assert await _is_alive(store, *earlier) == [False] * 12
        assert await _is_alive(store, other_user, other_sku, sole) == [True] * 3
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
        assert await _is_alive(store, before, first, between) == [False] * 3
        assert await _listed(store, last) == {last.ref, after.ref}
        assert await _listed(store, bob) == {bob.ref}

    async def test_issuing_again_changes_nothing(self, store: TokenStore) -> None:
        batch = _mixed_batch()
        begun = await store.issue(batch)
        assert list(await store.issue(batch)) == list(begun)
        assert await _is_alive(store, *batch) == [True] * len(batch)
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
        assert await _is_alive(store, sole, later) == [True, True]

    async def test_issuing_sole_sessions_of_one_subject_again_leaves_the_last(
        self, store: TokenStore
    ) -> None:
        batch = [new_session(sole=True) for _ in range(3)]
        await store.issue(batch)
        await store.issue(batch)
        assert await _is_alive(store, *batch) == [False, False, True]
        assert await _listed(store, batch[2]) == {batch[2].ref}

    async def test_each_session_of_a_batch_has_its_own_end(self, store: TokenStore) -> None:
        batch = [new_session(ttl=ttl) for ttl in (_HOUR, 30 * 24 * _HOUR, 2 * _HOUR, 1_234_567)]
        await store.issue(batch)
        ends = list(await store.lookup([new.ref for new in batch]))
        assert ends == [new.issued_at + new.ttl for new in batch]

    async def test_a_session_ends_by_itself(self, store: TokenStore) -> None:
        brief, lasting = new_session(ttl=1), new_session()
        await store.issue([brief, lasting])
        await _end_of(store, brief)
        assert await _is_alive(store, lasting, brief) == [True, False]

    async def test_an_ended_session_is_neither_listed_nor_revoked(self, store: TokenStore) -> None:
        brief, lasting = new_session(ttl=1), new_session()
        await store.issue([lasting, brief])
        await _end_of(store, brief)
        assert await _listed(store, lasting) == {lasting.ref}
        assert list(await store.revoke([brief.ref, lasting.ref])) == [False, True]

    async def test_an_ended_session_is_not_counted(self, store: TokenStore) -> None:
        brief, lasting = new_session(ttl=1), new_session()
        await store.issue([brief, lasting])
        await _end_of(store, brief)
        assert await store.revoke_subject(lasting.ref.subject) == 1

    async def test_a_subject_whose_sessions_all_ended_can_begin_anew(
        self, store: TokenStore
    ) -> None:
        brief, new = new_session(ttl=1), new_session()
        await store.issue([brief])
        await _end_of(store, brief)
        assert list(await store.sessions(brief.ref.subject)) == []
        await store.issue([new])
        assert await _listed(store, new) == {new.ref}

    async def test_a_login_from_a_server_whose_clock_is_ahead_hides_no_session(
        self, store: TokenStore
    ) -> None:
        behind = new_session()
        ahead = new_session(issued_at=behind.issued_at + 2 * _HOUR)
        await store.issue([behind])
        await store.issue([ahead])
        assert await _is_alive(store, behind) == [True]
        assert await _listed(store, behind) == {behind.ref, ahead.ref}
        assert await store.revoke_subject(behind.ref.subject) == 2
        assert await _is_alive(store, behind, ahead) == [False, False]

    async def test_a_batch_may_be_large(self, store: TokenStore) -> None:
        batch = [new_session(f"user-{i % 60}", sku=f"sku-{i % 2}") for i in range(200)]
        assert [session.ref for session in await store.issue(batch)] == [new.ref for new in batch]
        assert await _is_alive(store, *batch) == [True] * 200
        subject = batch[0].ref.subject
        own = [new.ref for new in batch if new.ref.subject == subject]
        assert await _listed(store, batch[0]) == set(own)
        assert list(await store.revoke([new.ref for new in batch[:100]])) == [True] * 100
        assert await _is_alive(store, *batch) == [False] * 100 + [True] * 100

    async def test_a_subject_may_have_many_sessions(self, store: TokenStore) -> None:
        batch = [new_session() for _ in range(200)]
        await store.issue(batch)
        assert await _listed(store, batch[0]) == {new.ref for new in batch}
        sole = new_session(sole=True)
        await store.issue([sole])
        assert await _is_alive(store, *batch) == [False] * 200
        assert await store.revoke_subject(sole.ref.subject) == 1

    async def test_concurrent_logins_of_one_user_all_stay(self, store: TokenStore) -> None:
        batch = [new_session() for _ in range(50)]
        await asyncio.gather(*(store.issue([new]) for new in batch))
        assert await _is_alive(store, *batch) == [True] * 50
        assert await _listed(store, batch[0]) == {new.ref for new in batch}
        assert await store.revoke_subject(batch[0].ref.subject) == 50

    async def test_of_concurrent_sole_sessions_one_is_left(self, store: TokenStore) -> None:
        batch = [new_session(sole=True) for _ in range(20)]
        await asyncio.gather(*(store.issue([new]) for new in batch))
        alive = await _is_alive(store, *batch)
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
            assert await _is_alive(store, first, second) == [False, True]
            assert await _listed(store, second) == {second.ref}

        await asyncio.gather(*(live(f"user-{i}") for i in range(30)))

    async def test_unusual_user_ids_are_harmless(self, store: TokenStore) -> None:
        batch = [new_session(user_id) for user_id in UNUSUAL_IDS for _ in range(2)]
        await store.issue(batch)
        assert await _is_alive(store, *batch) == [True] * len(batch)
        for first, second in zip(batch[::2], batch[1::2], strict=True):
            assert await _listed(store, first) == {first.ref, second.ref}
            assert list(await store.revoke([first.ref])) == [True]
        assert await _is_alive(store, *batch) == [False, True] * len(UNUSUAL_IDS)
        for first in batch[::2]:
            assert await store.revoke_subject(first.ref.subject) == 1
        assert await _is_alive(store, *batch) == [False] * len(batch)


class _KeyingTokenStore(TokenStore, SessionKeyStore, Protocol):
    """A TokenStore that is a SessionKeyStore beside."""


class SessionKeyStoreConformance:
    """What a TokenStore promises that is a SessionKeyStore beside."""

    async def test_it_is_known_for_a_session_key_store(self, store: _KeyingTokenStore) -> None:
        assert isinstance(store, SessionKeyStore)

    async def test_a_sealed_key_comes_with_its_session(self, store: _KeyingTokenStore) -> None:
        new = new_session(sealed_key=_SEALED)
        assert list(await store.sealed_keys([new.ref])) == [None]
        assert list(await store.issue([new])) == [new.begun()]
        assert list(await store.sealed_keys([new.ref])) == [_SEALED]

    async def test_a_session_may_have_no_sealed_key(self, store: _KeyingTokenStore) -> None:
        without = new_session()
        await store.issue([without])
        assert list(await store.sealed_keys([without.ref])) == [None]
        assert await _is_alive(store, without) == [True]

    async def test_sealed_keys_come_in_the_order_of_the_question(
        self, store: _KeyingTokenStore
    ) -> None:
        batch = _with_keys(_mixed_batch())
        without, unknown = new_session(), new_session(sealed_key=_SEALED)
        await store.issue([*batch, without])
        asked = [batch[4], unknown, batch[0], batch[4], without, batch[6], unknown, batch[0]]
        answers = [batch[4], None, batch[0], batch[4], None, batch[6], None, batch[0]]
        assert list(await store.sealed_keys([new.ref for new in asked])) == [
            new and new.sealed_key for new in answers
        ]

    async def test_an_empty_question_has_an_empty_answer(self, store: _KeyingTokenStore) -> None:
        assert list(await store.sealed_keys([])) == []

    async def test_a_sealed_key_is_of_one_sku_and_user(self, store: _KeyingTokenStore) -> None:
        new = new_session(sealed_key=_SEALED)
        await store.issue([new])
        for other in (new.ref._replace(sku="game"), new.ref._replace(user_id="bob")):
            assert list(await store.sealed_keys([other])) == [None]
            assert await store.replace_sealed_key(other, _OTHER_SEALED) is False
        assert list(await store.sealed_keys([new.ref])) == [_SEALED]

    async def test_sessions_are_listed_whether_they_have_a_sealed_key_or_not(
        self, store: _KeyingTokenStore
    ) -> None:
        now = new_session().issued_at
        older = new_session(issued_at=now - 1000, sealed_key=_SEALED)
        newer = new_session(issued_at=now)
        await store.issue([older, newer])
        assert list(await store.sessions(older.ref.subject)) == [newer.begun(), older.begun()]

    async def test_a_replaced_key_is_the_one_that_is_read(self, store: _KeyingTokenStore) -> None:
        new, other = new_session(sealed_key=_SEALED), new_session(sealed_key=_SEALED)
        await store.issue([new, other])
        assert await store.replace_sealed_key(new.ref, _OTHER_SEALED) is True
        assert list(await store.sealed_keys([new.ref, other.ref])) == [_OTHER_SEALED, _SEALED]

    async def test_a_session_without_a_key_may_get_one(self, store: _KeyingTokenStore) -> None:
        new = new_session()
        await store.issue([new])
        assert await store.replace_sealed_key(new.ref, _SEALED) is True
        assert list(await store.sealed_keys([new.ref])) == [_SEALED]

    async def test_replacing_a_key_changes_nothing_of_the_session(
        self, store: _KeyingTokenStore
    ) -> None:
        new = new_session(sealed_key=_SEALED)
        await store.issue([new])
        await store.replace_sealed_key(new.ref, _OTHER_SEALED)
        assert list(await store.lookup([new.ref])) == [new.issued_at + new.ttl]
        assert list(await store.sessions(new.ref.subject)) == [new.begun()]

    async def test_a_session_that_is_not_alive_gets_no_key(self, store: _KeyingTokenStore) -> None:
        unknown, revoked, brief = new_session(), new_session(), new_session(ttl=1)
        await store.issue([revoked, brief])
        await store.revoke([revoked.ref])
        await _end_of(store, brief)
        for new in (unknown, revoked, brief):
            assert await store.replace_sealed_key(new.ref, _SEALED) is False
            assert list(await store.sealed_keys([new.ref])) == [None]
        assert await _is_alive(store, unknown, revoked, brief) == [False] * 3

    async def test_issuing_again_keeps_the_key_that_is_there(
        self, store: _KeyingTokenStore
    ) -> None:
        new = new_session(sealed_key=_SEALED)
        await store.issue([new])
        await store.replace_sealed_key(new.ref, _OTHER_SEALED)
        await store.issue([new])
        assert list(await store.sealed_keys([new.ref])) == [_OTHER_SEALED]

    async def test_a_key_leaves_with_its_revoked_session(self, store: _KeyingTokenStore) -> None:
        batch = _with_keys(_mixed_batch())
        await store.issue(batch)
        await store.revoke([batch[1].ref, batch[3].ref])
        assert await _keys(store, batch) == [
            None if i in (1, 3) else new.sealed_key for i, new in enumerate(batch)
        ]

    async def test_keys_leave_with_their_revoked_subject(self, store: _KeyingTokenStore) -> None:
        batch = _with_keys(_mixed_batch())
        await store.issue(batch)
        subject = batch[0].ref.subject
        await store.revoke_subject(subject)
        assert await _keys(store, batch) == [
            None if new.ref.subject == subject else new.sealed_key for new in batch
        ]

    async def test_keys_leave_when_a_sole_session_begins(self, store: _KeyingTokenStore) -> None:
        earlier = _with_keys([new_session(), new_session()])
        bob = new_session("bob", sealed_key=_SEALED)
        without = new_session(sole=True)
        await store.issue([*earlier, bob])
        await store.issue([without])
        assert await _keys(store, [*earlier, without, bob]) == [None, None, None, _SEALED]
        sole = new_session(sole=True, sealed_key=_OTHER_SEALED)
        await store.issue([sole])
        assert await _keys(store, [sole, without]) == [_OTHER_SEALED, None]

    async def test_a_key_leaves_when_its_session_ends(self, store: _KeyingTokenStore) -> None:
        brief = new_session(ttl=1, sealed_key=_SEALED)
        lasting = new_session(sealed_key=_OTHER_SEALED)
        await store.issue([brief, lasting])
        await _end_of(store, brief)
        assert await _keys(store, [brief, lasting]) == [None, _OTHER_SEALED]

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

    async def test_of_concurrent_replacements_one_is_kept(self, store: _KeyingTokenStore) -> None:
        new = new_session(sealed_key=_SEALED)
        await store.issue([new])
        keys = [f"{i:A>59}" for i in range(20)]
        answers = await asyncio.gather(*(store.replace_sealed_key(new.ref, key) for key in keys))
        assert answers == [True] * 20
        assert (await _keys(store, [new]))[0] in keys


class UserStoreConformance:
    """What a UserStore promises.

    Attributes:
        keeps: the attributes of User, beside the user's id, that the store keeps. A subclass says
            so when its table has fewer columns.
    """

    keeps: ClassVar[frozenset[str]] = frozenset(
        (
            "union_id",
            "nick_name",
            "gender",
            "city",
            "province",
            "country",
            "language",
            "avatar_url",
            "created_at",
            "updated_at",
        )
    )

    async def test_a_user_is_new_once(self, store: UserStore) -> None:
        assert list(await store.save([_alice()])) == [True]
        assert list(await store.save([_alice()])) == [False]
        assert list(await store.save([User("o-alice")])) == [False]

    async def test_save_tells_who_is_new_in_order(self, store: UserStore) -> None:
        await store.save([User("o-1"), User("o-3")])
        batch = [User(f"o-{i}") for i in range(5)]
        assert list(await store.save(batch)) == [True, False, True, False, True]

    async def test_a_person_twice_in_a_batch_is_new_once(self, store: UserStore) -> None:
        batch = [_alice(), User("o-bob"), _alice(), replace(_alice(), city="Xi'an")]
        assert list(await store.save(batch)) == [True, True, False, False]
        (kept,) = await store.get(["o-alice"])
        assert self._profile(kept) == self._profile(replace(_alice(), city="Xi'an"))

    async def test_a_known_person_twice_in_a_batch_is_not_new(self, store: UserStore) -> None:
        await store.save([_alice()])
        assert list(await store.save([_alice(), replace(_alice(), city="Xi'an")])) == [False] * 2
        (kept,) = await store.get(["o-alice"])
        assert self._profile(kept) == self._profile(replace(_alice(), city="Xi'an"))

    async def test_empty_questions_have_empty_answers(self, store: UserStore) -> None:
        assert list(await store.save([])) == []
        assert list(await store.get([])) == []

    async def test_get_answers_in_order_and_none_for_strangers(self, store: UserStore) -> None:
        await store.save([User("o-1"), User("o-2"), User("o-3")])
        asked = ["o-3", "stranger", "o-1", "o-3", "", "o-2"]
        found = [user and user.id for user in await store.get(asked)]
        assert found == ["o-3", None, "o-1", "o-3", None, "o-2"]

    async def test_the_whole_profile_is_kept(self, store: UserStore) -> None:
        await store.save([_alice(), User("o-bob", nick_name="Bob")])
        alice, bob = await store.get(["o-alice", "o-bob"])
        assert self._profile(alice) == self._profile(_alice())
        assert self._profile(bob) == self._profile(User("o-bob", nick_name="Bob"))

    async def test_a_user_may_have_no_profile_at_all(self, store: UserStore) -> None:
        await store.save([User("o-alice")])
        (kept,) = await store.get(["o-alice"])
        assert self._profile(kept) == self._profile(User("o-alice"))

    async def test_a_new_value_replaces_an_old_one(self, store: UserStore) -> None:
        await store.save([_alice(), User("o-bob", city="Wuhan")])
        newer = User("o-alice", None, "Ali", 2, "Lijiang", "Yunnan", "CN", "en", "https://b.cn/2")
        await store.save([newer])
        alice, bob = await store.get(["o-alice", "o-bob"])
        assert self._profile(alice) == self._profile(newer)
        assert self._profile(bob) == self._profile(User("o-bob", city="Wuhan"))

    async def test_what_was_unknown_is_filled_in(self, store: UserStore) -> None:
        await store.save([User("o-alice", city="Guangzhou")])
        await store.save([replace(_alice(), city=None)])
        (kept,) = await store.get(["o-alice"])
        assert self._profile(kept) == self._profile(_alice())

    async def test_an_empty_profile_never_replaces(self, store: UserStore) -> None:
        await store.save([_alice()])
        await store.save([User("o-alice")])
        await store.save([User("o-alice", None, "", 0, "", "", "", "", "")])
        (kept,) = await store.get(["o-alice"])
        assert self._profile(kept) == self._profile(_alice())

    async def test_an_unknown_gender_never_replaces(self, store: UserStore) -> None:
        await store.save([_alice()])
        await store.save([User("o-alice", nick_name="Ali", gender=0)])
        (kept,) = await store.get(["o-alice"])
        assert self._profile(kept) == self._profile(replace(_alice(), nick_name="Ali"))

    async def test_an_anonymous_profile_never_replaces(self, store: UserStore) -> None:
        await store.save([_alice()])
        await store.save([_anonymous("o-alice")])
        (kept,) = await store.get(["o-alice"])
        assert self._profile(kept) == self._profile(_alice())

    async def test_a_profile_replaces_an_anonymous_one(self, store: UserStore) -> None:
        assert list(await store.save([_anonymous("o-alice")])) == [True]
        (kept,) = await store.get(["o-alice"])
        assert self._profile(kept) == self._profile(_anonymous("o-alice"))
        assert list(await store.save([_alice()])) == [False]
        (kept,) = await store.get(["o-alice"])
        assert self._profile(kept) == self._profile(_alice())

    async def test_a_user_with_a_union_id_is_found_by_it(self, store: UserStore) -> None:
        user = replace(_alice(), union_id="u-alice")
        assert list(await store.save([user])) == [True]
        assert list(await store.save([user])) == [False]
        (kept,) = await store.get(["u-alice"])
        assert kept is not None
        assert kept.id == "u-alice"
        assert self._profile(kept) == self._profile(user)

    async def test_a_union_id_known_later_makes_no_new_user(self, store: UserStore) -> None:
        await store.save([_alice()])
        assert list(await store.save([User("o-alice", "u-alice")])) == [False]
        assert list(await store.save([User("o-alice", "u-alice")])) == [False]
        (kept,) = await store.get(["u-alice"])
        assert kept is not None
        assert kept.id == "u-alice"
        assert self._profile(kept) == self._profile(replace(_alice(), union_id="u-alice"))

    async def test_a_union_id_known_later_in_one_batch_makes_one_user(
        self, store: UserStore
    ) -> None:
        batch = [_alice(), User("o-alice", "u-alice"), User("o-alice", "u-alice", city="Wuhan")]
        assert list(await store.save(batch)) == [True, False, False]
        (kept,) = await store.get(["u-alice"])
        expected = replace(_alice(), union_id="u-alice", city="Wuhan")
        assert self._profile(kept) == self._profile(expected)

    async def test_a_user_is_found_under_both_ids(self, store: UserStore) -> None:
        if "union_id" not in self.keeps:
            return
        await store.save([User("o-alice"), User("o-bob", "u-bob")])
        await store.save([User("o-alice", "u-alice")])
        found = await store.get(["o-alice", "u-alice", "o-bob", "u-bob"])
        assert [user and (user.open_id, user.union_id) for user in found] == [
            ("o-alice", "u-alice"),
            ("o-alice", "u-alice"),
            ("o-bob", "u-bob"),
            ("o-bob", "u-bob"),
        ]

    async def test_a_login_without_the_union_id_forgets_it_not(self, store: UserStore) -> None:
        if "union_id" not in self.keeps:
            return
        await store.save([User("o-alice", "u-alice")])
        assert list(await store.save([User("o-alice", city="Wuhan")])) == [False]
        (kept,) = await store.get(["o-alice"])
        assert kept is not None
        assert kept.id == "u-alice"

    async def test_a_login_without_the_union_id_in_one_batch_makes_one_user(
        self, store: UserStore
    ) -> None:
        batch = [User("o-alice", "u-alice"), User("o-alice", city="Wuhan")]
        assert list(await store.save(batch)) == [True, False]
        (kept,) = await store.get(["u-alice"])
        assert self._profile(kept) == self._profile(User("o-alice", "u-alice", city="Wuhan"))

    async def test_one_union_id_in_two_apps_is_one_person(self, store: UserStore) -> None:
        in_shop, in_game = User("o-shop", "u-alice"), User("o-game", "u-alice", city="Wuhan")
        assert list(await store.save([in_shop, in_game])) == [True, False]
        assert list(await store.save([in_game, in_shop])) == [False, False]
        (kept,) = await store.get(["u-alice"])
        assert self._profile(kept) == self._profile(replace(in_shop, city="Wuhan"))

    async def test_the_first_login_is_remembered_and_the_last_change(
        self, store: UserStore
    ) -> None:
        before = time.time_ns() // 1_000_000
        await store.save([User("o-alice")])
        (first,) = await store.get(["o-alice"])
        await store.save([User("o-alice", city="Wuhan")])
        (second,) = await store.get(["o-alice"])
        after = time.time_ns() // 1_000_000
        assert first is not None
        assert second is not None
        if "created_at" in self.keeps:
            assert before <= (first.created_at or 0) <= after
            assert second.created_at == first.created_at
        if "updated_at" in self.keeps:
            assert before <= (first.updated_at or 0) <= (second.updated_at or 0) <= after

    async def test_any_text_survives(self, store: UserStore) -> None:
        names = [
            "😀👨‍👩‍👧‍👦",
            "O'Brien",
            '"; DROP TABLE user; --',
            "%s {} \\ \n\t",
            "微" * 10_000,
            " ",
        ]
        users = [User(f"o-{i}", None, name, city=name) for i, name in enumerate(names)]
        await store.save(users)
        kept = await store.get([user.id for user in users])
        assert [self._profile(user) for user in kept] == [self._profile(user) for user in users]

    async def test_unusual_ids_are_harmless(self, store: UserStore) -> None:
        users = [User(name, city=str(i)) for i, name in enumerate(UNUSUAL_IDS)]
        assert list(await store.save(users)) == [True] * len(users)
        assert list(await store.save(users)) == [False] * len(users)
        kept = await store.get(UNUSUAL_IDS)
        assert [user and user.id for user in kept] == UNUSUAL_IDS
        assert [self._profile(user) for user in kept] == [self._profile(user) for user in users]

    async def test_unusual_union_ids_are_harmless(self, store: UserStore) -> None:
        users = [User(f"o-{i}", name, city=str(i)) for i, name in enumerate(UNUSUAL_IDS)]
        assert list(await store.save(users)) == [True] * len(users)
        kept = await store.get(UNUSUAL_IDS)
        assert [user and user.id for user in kept] == UNUSUAL_IDS
        assert [self._profile(user) for user in kept] == [self._profile(user) for user in users]

    async def test_a_batch_may_be_large(self, store: UserStore) -> None:
        users = [User(f"o-{i}", city=str(i)) for i in range(500)]
        assert list(await store.save(users[::2])) == [True] * 250
        assert list(await store.save(users)) == [False, True] * 250
        kept = await store.get([user.id for user in reversed(users)])
        assert [user and user.id for user in kept] == [user.id for user in reversed(users)]

    async def test_of_concurrent_first_logins_one_is_new(self, store: UserStore) -> None:
        answers = await asyncio.gather(*(store.save([_alice()]) for _ in range(20)))
        assert sorted(answer for (answer,) in answers) == [False] * 19 + [True]
        (kept,) = await store.get(["o-alice"])
        assert self._profile(kept) == self._profile(_alice())

    async def test_concurrent_saves_of_many_users_lose_none(self, store: UserStore) -> None:
        batches = [[User(f"o-{i}"), User("o-alice"), User(f"o-{i + 1}")] for i in range(30)]
        answers = await asyncio.gather(*(store.save(batch) for batch in batches))
        assert sum(answer for batch in answers for answer in batch) == 32
        kept = await store.get([f"o-{i}" for i in range(31)])
        assert [user and user.id for user in kept] == [f"o-{i}" for i in range(31)]

    def _profile(self, user: User | None) -> dict[str, object]:
        """What of a user the store has to keep; no difference between None, empty and 0."""
        assert user is not None
        names = self.keeps - {"created_at", "updated_at"}
        return {"id": user.id} | {name: getattr(user, name) or None for name in names}


def _mixed_batch() -> list[NewSession]:
    """Sessions of several skus and users, the first subject's in between the others'."""
    return [
        new_session("alice", sku="shop"),
        new_session("bob", sku="shop", ttl=2 * _HOUR),
        new_session("alice", sku="game"),
        new_session("alice", sku="shop", ttl=3 * _HOUR),
        new_session("carol", sku="game", ttl=24 * _HOUR),
        new_session("bob", sku="game"),
        new_session("alice", sku="shop"),
    ]


def _with_keys(sessions: list[NewSession]) -> list[NewSession]:
    """The sessions, each with a sealed key of its own."""
    return [replace(new, sealed_key=f"{i:A>59}") for i, new in enumerate(sessions)]


async def _keys(store: SessionKeyStore, sessions: list[NewSession]) -> list[str | None]:
    return list(await store.sealed_keys([new.ref for new in sessions]))


async def _is_alive(store: TokenStore, *sessions: NewSession) -> list[bool]:
    return [end is not None for end in await store.lookup([new.ref for new in sessions])]


async def _listed(store: TokenStore, of_subject: NewSession) -> set[SessionRef]:
    return {session.ref for session in await store.sessions(of_subject.ref.subject)}


async def _end_of(store: TokenStore, brief: NewSession) -> None:
    """Wait until the store says itself that a session ended; what tells the time is its own."""
    deadline = time.monotonic() + _PATIENCE
    while await _is_alive(store, brief) != [False]:
        assert time.monotonic() < deadline, "The session does not end."
        await asyncio.sleep(0.001)


def _alice() -> User:
    return User(
        open_id="o-alice",
        nick_name="Alice 😀",
        gender=1,
        city="Guangzhou",
        province="Guangdong",
        country="China",
        language="zh_CN",
        avatar_url="https://thirdwx.qlogo.cn/mmopen/alice/132",
    )


def _anonymous(open_id: str) -> User:
    """The profile that WeChat gives for everybody since 2022."""
    return User(open_id, None, "微信用户", 0, "", "", "", "", "https://thirdwx.qlogo.cn/grey/132")
