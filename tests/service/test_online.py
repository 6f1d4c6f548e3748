"""Who is online, page by page."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from mpauthx_async import MPAuthX, ParameterError, WeChatSimulator
from tests.helpers.service_calls import log_in


@pytest.fixture
async def auth(make: Callable[..., MPAuthX], tokens: str) -> AsyncIterator[MPAuthX]:
    async with make(tokens=tokens) as service:
        yield service


async def pages(auth: MPAuthX, limit: int) -> list[list[str]]:
    """All pages, none of which has more than the limit."""
    found = []
    cursor = None
    while True:
        page = await auth.online(cursor, limit)
        assert len(page.user_ids) <= limit
        found.append(list(page.user_ids))
        cursor = page.cursor
        if cursor is None:
            return found


@pytest.mark.parametrize("limit", [1, 3, 7, 1000])
async def test_pages_name_each_user_once_and_the_latest_first(
    auth: MPAuthX, wx: WeChatSimulator, limit: int
) -> None:
    users = [f"user-{number}" for number in range(7)]  # in one millisecond the higher id is first
    for user in users:
        await log_in(auth, wx, user)
    found = await pages(auth, limit)
    assert [user for page in found for user in page] == users[::-1]
    assert all(found[:-1])  # the last may be empty
    assert await auth.online_count() == 7


async def test_nobody_may_be_online(auth: MPAuthX) -> None:
    assert await auth.online() == ([], None)
    assert await auth.online_count() == 0


async def test_who_has_several_sessions_is_online_once_until_the_last_has_ended(
    auth: MPAuthX, wx: WeChatSimulator
) -> None:
    results = [await log_in(auth, wx) for _ in range(3)]
    await log_in(auth, wx, "eve")
    for result in results:
        assert sorted((await auth.online()).user_ids) == ["bob", "eve"]
        assert await auth.online_count() == 2
        await auth.revoke(result.response)
    assert (await auth.online()).user_ids == ["eve"]
    await auth.rotate((await auth.refresh_token("eve")).response)
    assert (await auth.online()).user_ids == ["eve"]
    await auth.ban("eve")
    assert await auth.online_count() == 0


async def test_each_sku_has_its_own_users_online(
    auth: MPAuthX, make: Callable[..., MPAuthX], tokens: str, wx: WeChatSimulator
) -> None:
    await log_in(auth, wx)
    async with make(tokens=tokens, sku="debug") as debug:
        assert await debug.online_count() == 0
        await log_in(debug, wx, "eve")
        assert (await debug.online()).user_ids == ["eve"]
    assert (await auth.online()).user_ids == ["bob"]


async def test_who_stays_is_on_one_page_while_others_come_and_go(
    auth: MPAuthX, wx: WeChatSimulator
) -> None:
    staying = [f"staying-{number}" for number in range(12)]
    leaving = [f"leaving-{number}" for number in range(12)]
    for pair in zip(staying, leaving, strict=True):
        for user in pair:
            await log_in(auth, wx, user)
    seen: list[str] = []
    cursor = None
    for number in range(100):
        page = await auth.online(cursor, 4)
        seen += page.user_ids
        cursor = page.cursor
        if cursor is None:
            break
        if number < 12:
            await auth.revoke_user(leaving[number])
            await log_in(auth, wx, f"coming-{number}")
            await log_in(auth, wx, staying[number])
    assert cursor is None
    assert sorted(user for user in seen if user in staying) == sorted(staying)


async def test_a_thousand_users_are_online(auth: MPAuthX, wx: WeChatSimulator) -> None:
    users = {f"用户-{number}" for number in range(1000)}
    codes = [wx.login(user) for user in users]
    await asyncio.gather(*map(auth.authorize, codes))
    found = [user for page in await pages(auth, 100) for user in page]
    assert len(found) == 1000
    assert set(found) == users
    assert await auth.online_count() == 1000


async def test_a_limit_that_is_none_is_refused(auth: MPAuthX) -> None:
    bad_ones: list[Any] = [0, -1, 1001, True, "5", 1.5, None, 10**30]
    for limit in bad_ones:
        with pytest.raises(ParameterError, match="limit"):
            await auth.online(None, limit)


async def test_a_cursor_that_is_none_is_refused(auth: MPAuthX, wx: WeChatSimulator) -> None:
    await log_in(auth, wx)
    bad_ones: list[Any] = ["", "x", "bob", 5, b"", False, "\ud800", "é", "A" * 100_000, "MTIz", "|"]
    for cursor in bad_ones:
        with pytest.raises(ParameterError, match="cursor"):
            await auth.online(cursor)
