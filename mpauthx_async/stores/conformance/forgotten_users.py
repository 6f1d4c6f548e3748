"""Tests of forgetting users and clearing their profiles."""

from dataclasses import replace
from typing import ClassVar

from ...models import PROFILE_FIELDS, User
from .. import UserStore
from .examples import user_of

__all__ = ["ForgottenUsers"]

_ALICE = User("o-shop", "u-alice", "Alice", 1, "Wuhan", "Hubei", "China", "zh_CN", "https://b.cn/1")


class ForgottenUsers:
    """Tests of `UserStore.forget` and `UserStore.clear`."""

    keeps: ClassVar[frozenset[str]]

    async def test_forgetting_an_unknown_user_changes_nothing(self, store: UserStore) -> None:
        await store.save([_ALICE])
        assert await store.forget("o-bob", app_ids={"shop"}) is False
        assert await store.forget("", app_ids=set()) is False
        await user_of(store, "u-alice")

    async def test_a_forgotten_user_is_new_again(self, store: UserStore) -> None:
        for user_id in ("o-shop", "u-alice"):
            user = replace(_ALICE, app_id="shop")
            assert list(await store.save([User("o-bob"), user]))[1] is True
            assert await store.forget(user_id, app_ids={"shop"}) is True
            assert list(await store.get(["o-shop", "u-alice"])) == [None, None]
            assert await store.forget(user_id, app_ids={"shop"}) is False
            await user_of(store, "o-bob")
        assert list(await store.save([User("o-shop")])) == [True]
        kept = await user_of(store, "o-shop")
        assert kept.ids == ("o-shop",)
        assert not kept.nick_name

    async def test_all_ids_of_a_person_are_forgotten(self, store: UserStore) -> None:
        await store.save([User("o-shop", "u-old", app_id="shop"), User("o-web", app_id="web")])
        await store.save([User("o-web", "u-old", app_id="web"), User("o-shop", "u-new")])
        assert await store.forget("u-old", app_ids=["shop", "web"]) is True
        ids = ["o-shop", "o-web", "u-old", "u-new"]
        assert list(await store.get(ids)) == [None] * 4
        assert list(await store.save([User("o-web", "u-new"), User("o-shop")])) == [True, True]

    async def test_data_that_another_app_needs_stays(self, store: UserStore) -> None:
        users = [replace(_ALICE, app_id="shop"), User("o-game", "u-alice", app_id="game")]
        await store.save(users)
        assert await store.forget("u-alice", app_ids={"shop"}) is True
        by_open_id, by_union_id = await store.get(["o-game", "u-alice"])
        assert by_open_id is not None
        assert by_open_id == by_union_id
        assert by_open_id.id == "u-alice"
        if "city" in self.keeps:
            assert by_open_id.city == "Wuhan"
        assert list(await store.save([User("o-game", app_id="game")])) == [False]
        assert await store.forget("o-game", app_ids={"game"}) is True
        assert list(await store.get(["o-game", "u-alice", "o-shop"])) == [None] * 3

    async def test_earlier_union_ids_that_another_app_needs_stay(self, store: UserStore) -> None:
        shop, game = User("o-shop", "u-old", app_id="shop"), User("o-game", "u-old", app_id="game")
        await store.save([shop, game, replace(game, union_id="u-new")])
        assert await store.forget("o-shop", app_ids={"shop"}) is True
        found = await store.get(["u-old", "u-new", "o-game"])
        assert [user and user.id for user in found] == ["u-new"] * 3

    async def test_an_app_that_joined_later_is_forgotten_alone(self, store: UserStore) -> None:
        await store.save([User("o-shop", "u-alice", app_id="shop")])
        await store.save([User("o-game", "u-alice", app_id="game")])
        assert await store.forget("o-game", app_ids={"game"}) is True
        (game, shop) = await store.get(["o-game", "o-shop"])
        assert game is None
        assert shop is not None
        assert set(shop.ids) == {"o-shop", "u-alice"}
        assert list(await store.save([User("o-game", app_id="game")])) == [True]

    async def test_an_open_id_of_an_unknown_app_is_forgotten_too(self, store: UserStore) -> None:
        await store.save([User("o-shop", "u-alice"), User("o-game", "u-alice", app_id="game")])
        assert await store.forget("o-game", app_ids={"game"}) is True
        assert list(await store.get(["o-shop", "o-game", "u-alice"])) == [None] * 3

    async def test_the_app_of_an_open_id_may_be_saved_later(self, store: UserStore) -> None:
        await store.save([User("o-shop", "u-alice"), User("o-game", "u-alice", app_id="game")])
        await store.save([User("o-shop", app_id="shop")])
        found = await user_of(store, "u-alice")
        assert (found.open_id, found.app_id) in (("o-shop", "shop"), ("o-game", "game"))
        assert await store.forget("o-game", app_ids={"game"}) is True
        await user_of(store, "u-alice")

    async def test_clear_erases_fields_of_a_profile(self, store: UserStore) -> None:
        await store.save([_ALICE, User("o-bob", nick_name="Bob", gender=2)])
        assert await store.clear("o-shop", ["nick_name", "gender"]) is True
        alice, bob = await store.get(["u-alice", "o-bob"])
        assert alice is not None
        assert bob is not None
        assert not alice.nick_name
        assert not alice.gender
        for name in self.keeps & {"city", "province", "country", "language", "avatar_url"}:
            assert getattr(alice, name) == getattr(_ALICE, name)
        if {"nick_name", "gender"} <= self.keeps:
            assert (bob.nick_name, bob.gender) == ("Bob", 2)

    async def test_a_cleared_profile_may_be_saved_again(self, store: UserStore) -> None:
        await store.save([_ALICE])
        assert await store.clear("u-alice", PROFILE_FIELDS) is True
        kept = await user_of(store, "u-alice")
        assert not any(getattr(kept, name) for name in PROFILE_FIELDS)
        assert list(await store.save([_ALICE])) == [False]
        kept = await user_of(store, "u-alice")
        if "nick_name" in self.keeps:
            assert kept.nick_name == "Alice"

    async def test_a_profile_is_cleared_by_any_id(self, store: UserStore) -> None:
        await store.save([_ALICE, User("o-game", city="Xi'an")])
        await store.save([User("o-game", "u-new"), User("o-shop", "u-new")])
        assert await store.clear("u-alice", ["city"]) is True
        for user in await store.get(["o-shop", "o-game", "u-alice", "u-new"]):
            assert user is not None
            assert not user.city

    async def test_clearing_an_unknown_user_changes_nothing(self, store: UserStore) -> None:
        await store.save([_ALICE])
        assert await store.clear("o-bob", ["city"]) is False
        kept = await user_of(store, "u-alice")
        if "city" in self.keeps:
            assert kept.city == "Wuhan"
