"""What the tests of user stores on several databases share."""

import asyncio
from collections.abc import Sequence

from mpauthx_async import MPAuthX, User, WeChatSimulator
from mpauthx_async.stores import UserStore


async def only_user(store: UserStore, user_id: str) -> User:
    (user,) = await store.get([user_id])
    assert user is not None
    return user


async def link_the_same_persons_at_once(stores: Sequence[UserStore]) -> None:
    """Link six persons through three stores at once; all of them end as one."""
    ids = [f"o-{i}" for i in range(6)]
    await stores[0].save([User(open_id, app_id=open_id) for open_id in ids])
    await asyncio.gather(
        *(stores[i % 3].save([User(open_id, f"u-{i % 2}")]) for i, open_id in enumerate(ids)),
        *(stores[i % 3].save([User(open_id, "u-0")]) for i, open_id in enumerate(ids)),
    )
    await stores[0].save([User("o-1", "u-0"), User("o-0", "u-0")])
    found = await stores[1].get([*ids, "u-0", "u-1"])
    assert {user and user.id for user in found} == {"u-0"}
    assert {user and frozenset(user.ids) for user in found} == {frozenset([*ids, "u-0", "u-1"])}


async def log_in_and_be_forgotten(auth: MPAuthX, wx: WeChatSimulator) -> None:
    """All that a service asks of its user store."""
    await auth.check()
    first = await auth.authorize(wx.login("bob", "u-bob"))
    second = await auth.authorize(wx.login("bob", "u-bob"))
    assert (first.is_new_user, second.is_new_user) == (True, False)
    assert second.user.id == "u-bob"
    await auth.refresh_token("bob")
    assert await auth.clear_profile("bob", ["nick_name"])
    assert await auth.forget_user("u-bob")
    assert (await auth.authorize(wx.login("bob", "u-bob"))).is_new_user
