"""Tests of listing and counting the users online."""

import asyncio
import random

from ...errors import ParameterError
from ...models import LoginPolicy, Session
from ...tokens.format import new_nonce
from .. import TokenStore
from .examples import (
    ALICE,
    HOUR,
    SOLE,
    UNUSUAL_IDS,
    begin,
    begin_apart,
    end_of,
    new_session,
    rotated,
    until,
)

__all__ = ["OnlineUsers"]

_NAMES = [f"user-{i:02}" for i in range(20)]


class OnlineUsers:
    """Tests of `TokenStore.online` and `TokenStore.online_count`."""

    async def test_an_empty_store_has_nobody_online(self, store: TokenStore) -> None:
        assert await _online(store) == []
        assert await store.online_count("shop") == 0

    async def test_users_who_came_online_last_are_first(self, store: TokenStore) -> None:
        await _come_online(store, "alice", "carol", "bob")
        assert await _online(store) == ["bob", "carol", "alice"]
        assert await store.online_count("shop") == 3

    async def test_a_user_with_several_sessions_is_listed_once(self, store: TokenStore) -> None:
        await _come_online(store, "alice", "bob")
        await begin(store, *(new_session("alice") for _ in range(5)), new_session("bob"))
        assert await _online(store) == ["bob", "alice"]
        assert await store.online_count("shop") == 2

    async def test_a_user_without_a_live_session_is_not_online(self, store: TokenStore) -> None:
        brief, revoked, banned = new_session("brief", ttl=1), new_session("bob"), new_session("eve")
        await begin(store, brief, revoked, banned, new_session("alice"), new_session("thrown-out"))
        await store.revoke([revoked.ref])
        await store.ban(banned.ref.subject, reason="", ttl=None)
        await store.revoke_subject(ALICE._replace(user_id="thrown-out"))
        await end_of(store, brief)
        assert await _online(store) == ["alice"]
        assert await _online(store, limit=1) == ["alice"]
        assert await store.online_count("shop") == 1

    async def test_a_user_with_a_remaining_session_stays_online(self, store: TokenStore) -> None:
        first, brief, second = new_session(), new_session(ttl=1), new_session()
        await begin(store, first, brief, second)
        await store.revoke([first.ref])
        await end_of(store, brief)
        assert await _online(store) == ["alice"]
        await store.revoke([second.ref])
        assert await _online(store) == []

    async def test_a_user_who_comes_back_is_first(self, store: TokenStore) -> None:
        await _come_online(store, "alice", "bob")
        await store.revoke_subject(ALICE)
        assert await _online(store) == ["bob"]
        await _come_online(store, "alice")
        assert await _online(store) == ["alice", "bob"]

    async def test_a_user_who_stays_online_keeps_the_position(self, store: TokenStore) -> None:
        (begun,) = await begin(store, new_session("alice"))
        await _come_online(store, "bob", "carol")
        ref = await rotated(store, begun.ref)
        await store.renew([ref], ttl=5 * HOUR)
        await begin(store, new_session("alice"))
        await begin(store, new_session("alice", policy=SOLE))
        await begin(store, new_session("alice", policy=LoginPolicy(shared_token=True)))
        assert await _online(store) == ["carol", "bob", "alice"]

    async def test_skus_have_separate_users_online(self, store: TokenStore) -> None:
        await begin(store, new_session("alice", sku="shop"), new_session("bob", sku="game"))
        await begin(store, new_session("alice", sku="game"), new_session("eve", sku="sho"))
        assert await _online(store) == ["alice"]
        assert sorted(await _online(store, sku="game")) == ["alice", "bob"]
        assert await store.online_count("game") == 2
        assert await store.online_count("nowhere") == 0
        assert await _online(store, sku="nowhere") == []

    async def test_pages_of_any_size_list_all_users_in_one_order(self, store: TokenStore) -> None:
        await begin(store, *(new_session(name) for name in _NAMES[:10]))
        await begin_apart(store, *(new_session(name) for name in _NAMES[10:]))
        await begin(store, *(new_session(name) for name in _NAMES[::3]))
        everybody = await _online(store)
        assert sorted(everybody) == _NAMES
        for limit in range(1, len(_NAMES) + 2):
            assert await _online(store, limit=limit) == everybody
        assert await store.online_count("shop") == len(_NAMES)

    async def test_unusual_users_are_listed_once(self, store: TokenStore) -> None:
        await begin(store, *(new_session(name) for name in UNUSUAL_IDS))
        for limit in (1, 3, 100):
            assert sorted(await _online(store, limit=limit)) == sorted(UNUSUAL_IDS)
        assert await store.online_count("shop") == len(UNUSUAL_IDS)

    async def test_rejects_a_malformed_cursor(self, store: TokenStore) -> None:
        await _come_online(store, "alice")
        for cursor in ("", "%", "😀", "no cursor"):
            try:
                await store.online("shop", cursor=cursor, limit=1)
            except ParameterError:
                continue
            raise AssertionError(f"The store accepted the malformed cursor {cursor!r}.")

    async def test_a_login_between_two_pages_moves_no_other_user(self, store: TokenStore) -> None:
        await _come_online(store, *_NAMES)
        first = await store.online("shop", cursor=None, limit=5)
        await _come_online(store, "new-1", "new-2")
        rest = await _online(store, limit=5, cursor=first.cursor)
        assert [*first.user_ids, *rest] == _NAMES[::-1]

    async def test_a_logout_between_two_pages_moves_no_other_user(self, store: TokenStore) -> None:
        begun = await _come_online(store, *_NAMES)
        page = await store.online("shop", cursor=None, limit=5)
        assert list(page.user_ids) == _NAMES[:-6:-1]
        # Includes the last user of the page, where the next page begins.
        gone = {_NAMES[-1], _NAMES[-5], _NAMES[-6], _NAMES[0]}
        await store.revoke([session.ref for session in begun if session.user_id in gone])
        rest = await _online(store, limit=5, cursor=page.cursor)
        assert rest == [name for name in _NAMES[-6::-1] if name not in gone]

    async def test_a_user_who_logs_in_again_between_two_pages_is_listed_once(
        self, store: TokenStore
    ) -> None:
        begun = await _come_online(store, *_NAMES)
        seen: list[str] = []
        cursor: str | None = None
        for _ in range(len(_NAMES) + 1):
            user_ids, cursor = await store.online("shop", cursor=cursor, limit=3)
            seen += user_ids
            if cursor is None:
                break
            await begin(store, *(new_session(name, policy=SOLE) for name in _NAMES[::2]))
            await begin(store, *(new_session(name) for name in _NAMES[1::2]))
            await store.revoke([session.ref for session in begun[1::2]])
        assert cursor is None
        assert seen == _NAMES[::-1]

    async def test_random_changes_between_pages_leave_staying_users_listed_once(
        self, store: TokenStore
    ) -> None:
        for seed in range(8):
            await _Crowd(store, f"sku-{seed}", seed).is_seen_once()

    async def test_concurrent_logins_are_counted_by_user(self, store: TokenStore) -> None:
        batch = [new_session(_NAMES[i % 20]) for i in range(60)]
        await asyncio.gather(*(begin(store, new) for new in batch))
        assert await store.online_count("shop") == 20
        assert sorted(await _online(store, limit=7)) == _NAMES

    async def test_ended_sessions_of_many_users_hide_no_online_user(
        self, store: TokenStore
    ) -> None:
        await _come_online(store, "alice")
        brief = [new_session(f"brief-{i:03}", ttl=1) for i in range(150)]
        await begin(store, *brief)
        await _come_online(store, "bob")

        async def are_gone() -> bool:
            return await store.online_count("shop") == 2

        await until(are_gone)
        for limit in (1, 10, 1000):
            assert await _online(store, limit=limit) == ["bob", "alice"]


class _Crowd:
    """Users who log in and out at random while the pages of online users are read."""

    def __init__(self, store: TokenStore, sku: str, seed: int) -> None:
        self._store = store
        self._sku = sku
        self._random = random.Random(seed)  # noqa: S311
        self._sessions: dict[str, list[Session]] = {name: [] for name in _NAMES}

    async def is_seen_once(self) -> None:
        for name in self._random.sample(_NAMES, 15):
            await self._log_in(name)
        staying = {name for name, sessions in self._sessions.items() if sessions}
        seen: list[str] = []
        cursor: str | None = None
        for _ in range(200):
            limit = self._random.randint(1, 4)
            user_ids, cursor = await self._store.online(self._sku, cursor=cursor, limit=limit)
            assert len(user_ids) <= limit
            seen += user_ids
            if cursor is None:
                break
            for _ in range(self._random.randint(0, 6)):
                await self._change()
                staying &= {name for name, sessions in self._sessions.items() if sessions}
        assert cursor is None
        assert [name for name in sorted(seen) if name in staying] == sorted(staying)
        online = {name for name, sessions in self._sessions.items() if sessions}
        assert await self._store.online_count(self._sku) == len(online)
        assert set(await _online(self._store, sku=self._sku)) == online

    async def _change(self) -> None:
        name = self._random.choice(_NAMES)
        sessions = self._sessions[name]
        change = self._random.choice(["log in", "log in alone", "leave", "rotate", "rotate"])
        if change == "log in" or (change == "log in alone" and not sessions):
            await self._log_in(name)
        elif change == "log in alone":
            (begun,) = await begin(self._store, new_session(name, sku=self._sku, policy=SOLE))
            self._sessions[name] = [begun]
        elif sessions and change == "leave":
            gone = sessions.pop(self._random.randrange(len(sessions)))
            assert list(await self._store.revoke([gone.ref])) == [True]
        elif sessions:
            (session,) = await self._store.rotate([sessions[0].ref], ttl=HOUR, grace=0)
            assert isinstance(session, Session)
            sessions[0] = session

    async def _log_in(self, name: str) -> None:
        self._sessions[name] += await begin(self._store, new_session(name, sku=self._sku))


async def _come_online(store: TokenStore, *user_ids: str) -> list[Session]:
    """Log users in, each at another time of the store's clock."""
    begun: list[Session] = []
    for user_id in user_ids:
        await _next_moment(store)
        begun += await begin(store, new_session(user_id))
    return begun


async def _next_moment(store: TokenStore) -> None:
    """Wait until the store's clock advances."""
    (session,) = await begin(store, new_session(sku="elsewhere"))

    async def has_come() -> bool:
        (later,) = await begin(store, new_session(new_nonce(), sku="elsewhere"))
        return later.issued_at > session.issued_at

    await until(has_come)


async def _online(
    store: TokenStore, *, sku: str = "shop", limit: int = 1000, cursor: str | None = None
) -> list[str]:
    """Read all users online, page by page."""
    found: list[str] = []
    for _ in range(10_000):
        page = await store.online(sku, cursor=cursor, limit=limit)
        assert len(page.user_ids) <= limit
        found += page.user_ids
        cursor = page.cursor
        if cursor is None:
            return found
    raise AssertionError("The store returned more than 10,000 pages.")
