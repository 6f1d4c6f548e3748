"""Tests of ids that belong to one person."""

import asyncio
from typing import ClassVar
from unittest import SkipTest

from ...models import User
from .. import UserStore
from .examples import user_of

__all__ = ["LinkedUsers"]


class LinkedUsers:
    """Tests of how `UserStore.save` links ids."""

    keeps: ClassVar[frozenset[str]]

    async def test_an_open_id_is_not_compared_with_union_ids(self, store: UserStore) -> None:
        if "union_id" not in self.keeps:
            raise SkipTest("A table without unionIds cannot tell them from openIds.")
        await store.save([User("o-alice", "same-text", city="Wuhan")])
        assert list(await store.save([User("same-text", city="Xi'an")])) == [True]
        assert list(await store.save([User("o-carol", "o-alice")])) == [True]
        batch = [User("same-text"), User("o-carol"), User("o-alice")]
        assert list(await store.save(batch)) == [False] * 3
        alice, carol = await store.get(["same-text", "o-carol"])
        assert _ids(alice) == {"o-alice", "same-text"}
        assert _ids(carol) == {"o-carol", "o-alice"}

    async def test_an_id_of_both_kinds_is_looked_up_as_the_union_id(self, store: UserStore) -> None:
        if "union_id" not in self.keeps:
            raise SkipTest("The store keeps no unionId.")
        await store.save([User("same-text"), User("o-alice", "same-text")])
        found = await user_of(store, "same-text")
        assert (found.open_id, found.union_id) == ("o-alice", "same-text")

    async def test_a_person_is_found_by_the_open_id_of_each_app(self, store: UserStore) -> None:
        await store.save([User("o-shop", "u-alice", app_id="shop")])
        assert list(await store.save([User("o-game", "u-alice", app_id="game")])) == [False]
        await self._are_one(store, "u-alice", {"o-shop", "o-game", "u-alice"})
        assert list(await store.save([User("o-game"), User("o-shop")])) == [False, False]

    async def test_two_users_become_one_when_a_login_links_their_ids(
        self, store: UserStore
    ) -> None:
        await store.save([User("o-shop", "u-alice", nick_name="Alice")])
        await store.save([User("o-game", city="Wuhan")])
        assert list(await store.save([User("o-game", "u-alice")])) == [False]
        await self._are_one(store, "u-alice", {"o-shop", "o-game", "u-alice"})
        found = await user_of(store, "o-game")
        if {"nick_name", "city"} <= self.keeps:
            assert (found.nick_name, found.city) == ("Alice", "Wuhan")

    async def test_a_profile_given_with_a_link_is_the_newest(self, store: UserStore) -> None:
        if "city" not in self.keeps:
            raise SkipTest("The store keeps no city.")
        await store.save([User("o-shop", "u-alice", city="Wuhan"), User("o-game", city="Xi'an")])
        await store.save([User("o-game", "u-alice")])
        found = await user_of(store, "o-game")
        assert found.city == "Wuhan"
        await store.save([User("o-game", city="Lijiang")])
        found = await user_of(store, "o-shop")
        assert found.city == "Lijiang"

    async def test_a_new_union_id_keeps_all_linked_ids(self, store: UserStore) -> None:
        await store.save([User("o-shop", "u-old"), User("o-game", "u-old"), User("o-bob", "u-bob")])
        assert list(await store.save([User("o-game", "u-new")])) == [False]
        await self._are_one(store, "u-new", {"o-shop", "o-game", "u-old", "u-new"})
        assert list(await store.save([User("o-shop"), User("o-web", "u-new")])) == [False, False]
        await self._are_one(store, "u-new", {"o-shop", "o-game", "o-web", "u-old", "u-new"})
        await self._are_one(store, "u-bob", {"o-bob", "u-bob"})

    async def test_a_union_id_may_come_back(self, store: UserStore) -> None:
        for union_id in ("u-1", "u-2", "u-1", "u-3", "u-2"):
            await store.save([User("o-shop", union_id)])
            found = await user_of(store, "o-shop")
            assert found.id == union_id
        await self._are_one(store, "u-2", {"o-shop", "u-1", "u-2", "u-3"})

    async def test_a_union_id_may_be_replaced_by_that_of_another_person(
        self, store: UserStore
    ) -> None:
        await store.save([User("o-shop", "u-old"), User("o-game", "u-new")])
        assert list(await store.save([User("o-shop", "u-new")])) == [False]
        await self._are_one(store, "u-new", {"o-shop", "o-game", "u-old", "u-new"})
        assert list(await store.save([User("o-game", "u-old")])) == [False]
        await self._are_one(store, "u-old", {"o-shop", "o-game", "u-old", "u-new"})

    async def test_the_links_of_one_batch_are_made_in_order(self, store: UserStore) -> None:
        batch = [
            User("o-shop", app_id="shop"),
            User("o-game", app_id="game"),
            User("o-game", "u-old", app_id="game"),
            User("o-shop", "u-old", app_id="shop"),
            User("o-bob", "u-bob"),
            User("o-game", "u-new"),
        ]
        new = [True, True, False, False, True, False]
        assert list(await store.save(batch)) == new
        assert list(await store.save(batch[:1])) == [False]
        await self._are_one(store, "u-new", {"o-shop", "o-game", "u-old", "u-new"})

    async def test_one_of_concurrent_first_logins_through_two_apps_is_new(
        self, store: UserStore
    ) -> None:
        users = [User("o-shop", "u-alice"), User("o-game", "u-alice")] * 10
        answers = await asyncio.gather(*(store.save([user]) for user in users))
        assert sorted(answer for (answer,) in answers) == [False] * 19 + [True]
        await self._are_one(store, "u-alice", {"o-shop", "o-game", "u-alice"})

    async def test_users_without_a_common_id_are_not_linked(self, store: UserStore) -> None:
        await store.save([User("o-shop", "u-alice"), User("o-game"), User("o-bob", "u-bob")])
        for user_id, ids in (
            ("o-shop", {"o-shop", "u-alice"}),
            ("o-game", {"o-game"}),
            ("o-bob", {"o-bob", "u-bob"}),
        ):
            (found,) = await store.get([user_id])
            assert _ids(found) == ids

    async def _are_one(self, store: UserStore, user_id: str, ids: set[str]) -> None:
        """Check that some ids find one person, who has exactly these ids."""
        found = await store.get(sorted(ids))
        assert [user and user.id for user in found] == [user_id] * len(ids)
        assert [_ids(user) for user in found] == [ids] * len(ids)
        assert len(set(found)) == 1


def _ids(user: User | None) -> set[str]:
    assert user is not None
    assert len(user.ids) == len(set(user.ids))
    assert user.ids[0] == user.id
    return set(user.ids)
