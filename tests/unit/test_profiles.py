"""The merge of profiles, which all user stores share."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpauthx_async import User
from mpauthx_async.stores import complete_profile, merge_profile

PROFILE = {
    "nick_name": "Band",
    "gender": 1,
    "city": "Guangzhou",
    "province": "Guangdong",
    "country": "CN",
    "language": "zh_CN",
    "avatar_url": "https://thirdwx.qlogo.cn/band",
}
# What WeChat gives instead of a profile since 2021.
ANONYMOUS = User(
    "bob",
    nick_name="微信用户",
    gender=0,
    city="",
    province="",
    country="",
    language="",
    avatar_url="https://thirdwx.qlogo.cn/grey",
)


@pytest.mark.parametrize("name", PROFILE)
def test_each_field_is_replaced_on_its_own(name):
    newer = User("bob", **{name: 2 if name == "gender" else "new"})
    expected = User("bob", **{**PROFILE, name: getattr(newer, name)})
    assert merge_profile(User("bob", **PROFILE), newer) == expected


def test_an_anonymous_profile_never_replaces_known_values():
    known = User("bob", **PROFILE)
    assert merge_profile(known, ANONYMOUS) == known
    # Not even with values of its own.
    other = {name: "other" for name in PROFILE if name not in ("nick_name", "gender")}
    newer = dataclasses.replace(ANONYMOUS, gender=2, **other)
    assert merge_profile(known, newer) == known


def test_an_anonymous_profile_fills_what_is_unknown():
    filled = merge_profile(User("bob", city="Guangzhou"), ANONYMOUS)
    assert filled == User(
        "bob", nick_name="微信用户", city="Guangzhou", avatar_url=ANONYMOUS.avatar_url
    )


def test_an_anonymous_profile_still_brings_the_unionid():
    newer = dataclasses.replace(ANONYMOUS, union_id="union-bob")
    assert merge_profile(User("bob", **PROFILE), newer) == User("bob", "union-bob", **PROFILE)


def test_a_unionid_may_come_late_and_stays():
    with_union_id = merge_profile(User("bob"), User("bob", "union-bob"))
    assert with_union_id.id == "union-bob"
    assert merge_profile(with_union_id, User("bob")).id == "union-bob"


def test_the_first_openid_and_the_times_stay():
    known = User("bob", "union-bob", created_at=1, updated_at=2)
    newer = User("bob-in-another-app", "union-bob", created_at=3, updated_at=4)
    assert merge_profile(known, newer) == known


USERS = st.builds(
    User,
    st.just("bob"),
    st.sampled_from([None, "", "union-bob"]),
    nick_name=st.sampled_from([None, "", "微信用户", "Band"]),
    gender=st.sampled_from([None, 0, 1, 2]),
    city=st.sampled_from([None, "", "Guangzhou", "Shenzhen"]),
    avatar_url=st.sampled_from([None, "", "grey", "band"]),
)


@given(USERS, USERS)
def test_an_update_loses_nothing_and_repeating_it_changes_nothing(known, newer):
    updated = merge_profile(known, newer)
    assert merge_profile(updated, newer) == updated
    assert merge_profile(known, known) == known
    for name in ("union_id", *PROFILE):
        assert getattr(updated, name) in (getattr(known, name), getattr(newer, name))
        assert getattr(updated, name) or not getattr(known, name)
    assert updated.is_anonymous <= (known.is_anonymous or not known.nick_name)


def test_other_rows_fill_the_gaps_of_a_profile_and_the_first_takes_precedence():
    others = [User("web", city="Guangzhou"), User("old", city="Shenzhen", language="en")]
    completed = complete_profile(User("bob", "union-bob", nick_name="Band"), others)
    assert completed == User("bob", "union-bob", nick_name="Band", city="Guangzhou", language="en")


def test_a_real_profile_fills_an_anonymous_one_and_ids_and_times_stay():
    other = User("web", "union-web", **PROFILE, created_at=3, updated_at=4)
    bob = dataclasses.replace(ANONYMOUS, created_at=1, updated_at=2)
    assert complete_profile(bob, [other]) == User("bob", **PROFILE, created_at=1, updated_at=2)
