"""The test suite for user stores."""

import asyncio
import time
from dataclasses import replace
from typing import ClassVar
from unittest import SkipTest

from ...concurrency.coalescer import answers_of
from ...errors import StoreError
from ...models import PROFILE_FIELDS, User
from .. import UserStore
from .examples import UNUSUAL_IDS, user_of
from .forgotten_users import ForgottenUsers
from .linked_users import LinkedUsers

__all__ = ["UserStoreConformance"]


class UserStoreConformance(LinkedUsers, ForgottenUsers):
    """Tests of the contract of `UserStore`.

    Attributes:
        keeps: the attributes of User that the store keeps. Override it if a table has fewer
            columns.
    """

    keeps: ClassVar[frozenset[str]] = frozenset(
        ("union_id", *PROFILE_FIELDS, "created_at", "updated_at")
    )

    async def refused_user(self, store: UserStore) -> User:
        """Make a user that the store may refuse: UTF-8 cannot encode their name.

        Override it if the store refuses other data, such as by a constraint of its table.
        """
        return User("o-refused", nick_name="\ud83d")

    async def test_a_user_who_cannot_be_saved_fails_alone(self, store: UserStore) -> None:
        refused = await self.refused_user(store)
        batch = [_alice(), refused, User("o-bob")]
        first, answer, last = await answers_of(store.save(batch))
        assert (first, last) == (True, True)
        is_saved = not isinstance(answer, StoreError)
        alice, kept, bob = await store.get(["o-alice", refused.id, "o-bob"])
        assert [user and user.id for user in (alice, bob)] == ["o-alice", "o-bob"]
        assert (kept is not None) == is_saved

    async def test_a_user_is_new_once(self, store: UserStore) -> None:
        assert list(await store.save([_alice()])) == [True]
        assert list(await store.save([_alice()])) == [False]
        assert list(await store.save([User("o-alice")])) == [False]

    async def test_save_answers_in_order(self, store: UserStore) -> None:
        await store.save([User("o-1"), User("o-3")])
        batch = [User(f"o-{i}") for i in range(5)]
        assert list(await store.save(batch)) == [True, False, True, False, True]

    async def test_a_person_twice_in_a_batch_is_new_once(self, store: UserStore) -> None:
        batch = [_alice(), User("o-bob"), _alice(), replace(_alice(), city="Xi'an")]
        assert list(await store.save(batch)) == [True, True, False, False]
        await self._check_kept(store, "o-alice", replace(_alice(), city="Xi'an"))

    async def test_a_known_person_twice_in_a_batch_is_not_new(self, store: UserStore) -> None:
        await store.save([_alice()])
        assert list(await store.save([_alice(), replace(_alice(), city="Xi'an")])) == [False] * 2
        await self._check_kept(store, "o-alice", replace(_alice(), city="Xi'an"))

    async def test_empty_batches_have_empty_answers(self, store: UserStore) -> None:
        assert list(await store.save([])) == []
        assert list(await store.get([])) == []

    async def test_get_answers_in_order_also_for_unknown_users(self, store: UserStore) -> None:
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
        await self._check_kept(store, "o-alice", User("o-alice"))

    async def test_a_new_value_replaces_an_old_one(self, store: UserStore) -> None:
        await store.save([_alice(), User("o-bob", city="Wuhan")])
        newer = User("o-alice", None, "Ali", 2, "Lijiang", "Yunnan", "CN", "en", "https://b.cn/2")
        await store.save([newer])
        alice, bob = await store.get(["o-alice", "o-bob"])
        assert self._profile(alice) == self._profile(newer)
        assert self._profile(bob) == self._profile(User("o-bob", city="Wuhan"))

    async def test_a_value_fills_an_empty_field(self, store: UserStore) -> None:
        await store.save([User("o-alice", city="Guangzhou")])
        await store.save([replace(_alice(), city=None)])
        await self._check_kept(store, "o-alice", _alice())

    async def test_an_empty_profile_never_replaces(self, store: UserStore) -> None:
        await store.save([_alice()])
        await store.save([User("o-alice")])
        await store.save([User("o-alice", None, "", 0, "", "", "", "", "")])
        await self._check_kept(store, "o-alice", _alice())

    async def test_an_unknown_gender_never_replaces(self, store: UserStore) -> None:
        await store.save([_alice()])
        await store.save([User("o-alice", nick_name="Ali", gender=0)])
        await self._check_kept(store, "o-alice", replace(_alice(), nick_name="Ali"))

    async def test_an_anonymous_profile_never_replaces(self, store: UserStore) -> None:
        await store.save([_alice()])
        await store.save([_anonymous("o-alice")])
        await self._check_kept(store, "o-alice", _alice())

    async def test_a_profile_replaces_an_anonymous_one(self, store: UserStore) -> None:
        assert list(await store.save([_anonymous("o-alice")])) == [True]
        await self._check_kept(store, "o-alice", _anonymous("o-alice"))
        assert list(await store.save([_alice()])) == [False]
        await self._check_kept(store, "o-alice", _alice())

    async def test_a_user_with_a_union_id_is_found_by_it(self, store: UserStore) -> None:
        user = replace(_alice(), union_id="u-alice")
        assert list(await store.save([user])) == [True]
        assert list(await store.save([user])) == [False]
        await self._check_kept(store, "u-alice", user)

    async def test_a_union_id_known_later_makes_no_new_user(self, store: UserStore) -> None:
        await store.save([_alice()])
        assert list(await store.save([User("o-alice", "u-alice")])) == [False]
        assert list(await store.save([User("o-alice", "u-alice")])) == [False]
        await self._check_kept(store, "u-alice", replace(_alice(), union_id="u-alice"))

    async def test_a_union_id_known_later_in_one_batch_makes_one_user(
        self, store: UserStore
    ) -> None:
        batch = [_alice(), User("o-alice", "u-alice"), User("o-alice", "u-alice", city="Wuhan")]
        assert list(await store.save(batch)) == [True, False, False]
        expected = replace(_alice(), union_id="u-alice", city="Wuhan")
        await self._check_kept(store, "u-alice", expected)

    async def test_a_user_is_found_under_both_ids(self, store: UserStore) -> None:
        if "union_id" not in self.keeps:
            raise SkipTest("The store keeps no unionId.")
        await store.save([User("o-alice"), User("o-bob", "u-bob")])
        await store.save([User("o-alice", "u-alice")])
        found = await store.get(["o-alice", "u-alice", "o-bob", "u-bob"])
        assert [user and (user.open_id, user.union_id) for user in found] == [
            ("o-alice", "u-alice"),
            ("o-alice", "u-alice"),
            ("o-bob", "u-bob"),
            ("o-bob", "u-bob"),
        ]

    async def test_a_login_without_the_union_id_keeps_it(self, store: UserStore) -> None:
        if "union_id" not in self.keeps:
            raise SkipTest("The store keeps no unionId.")
        await store.save([User("o-alice", "u-alice")])
        assert list(await store.save([User("o-alice", city="Wuhan")])) == [False]
        assert (await user_of(store, "o-alice")).id == "u-alice"

    async def test_a_login_without_the_union_id_in_one_batch_makes_one_user(
        self, store: UserStore
    ) -> None:
        batch = [User("o-alice", "u-alice"), User("o-alice", city="Wuhan")]
        assert list(await store.save(batch)) == [True, False]
        await self._check_kept(store, "u-alice", User("o-alice", "u-alice", city="Wuhan"))

    async def test_one_union_id_in_two_apps_is_one_person(self, store: UserStore) -> None:
        in_shop, in_game = User("o-shop", "u-alice"), User("o-game", "u-alice", city="Wuhan")
        assert list(await store.save([in_shop, in_game])) == [True, False]
        assert list(await store.save([in_game, in_shop])) == [False, False]
        await self._check_kept(store, "u-alice", replace(in_shop, city="Wuhan"))

    async def test_the_times_of_the_first_login_and_the_last_change_are_kept(
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

    async def test_any_text_is_read_unchanged(self, store: UserStore) -> None:
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

    async def test_one_of_concurrent_first_logins_is_new(self, store: UserStore) -> None:
        answers = await asyncio.gather(*(store.save([_alice()]) for _ in range(20)))
        assert sorted(answer for (answer,) in answers) == [False] * 19 + [True]
        await self._check_kept(store, "o-alice", _alice())

    async def test_concurrent_saves_lose_no_user(self, store: UserStore) -> None:
        batches = [[User(f"o-{i}"), User("o-alice"), User(f"o-{i + 1}")] for i in range(30)]
        answers = await asyncio.gather(*(store.save(batch) for batch in batches))
        assert sum(answer for batch in answers for answer in batch) == 32
        kept = await store.get([f"o-{i}" for i in range(31)])
        assert [user and user.id for user in kept] == [f"o-{i}" for i in range(31)]

    async def _check_kept(self, store: UserStore, user_id: str, expected: User) -> None:
        """Check that an id finds a user who has all that the store has to keep."""
        assert self._profile(await user_of(store, user_id)) == self._profile(expected)

    def _profile(self, user: User | None) -> dict[str, object]:
        """The attributes that the store has to keep, with None for empty values and 0."""
        assert user is not None
        names = self.keeps - {"created_at", "updated_at"}
        return {"id": user.id} | {name: getattr(user, name) or None for name in names}


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
    """Make the anonymous profile that WeChat gives for all users since 2022."""
    return User(open_id, None, "微信用户", 0, "", "", "", "", "https://thirdwx.qlogo.cn/grey/132")
