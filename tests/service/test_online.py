"""Who is online, page by page."""

import pytest

from mpauthx_async import MPAuthX, ParameterError, WeChatSimulator
from tests.helpers.service_calls import log_in


async def pages(auth: MPAuthX, limit: int) -> list[list[str]]:
    """All pages, none of which has more than the limit."""
    found, cursor = [], None
    while not found or cursor is not None:
        page = await auth.online(cursor, limit)
        assert len(page.user_ids) <= limit
        found.append(list(page.user_ids))
        cursor = page.cursor
    return found


async def test_pages_name_each_user_once_and_the_latest_first(
    auth: MPAuthX, wx: WeChatSimulator
) -> None:
    users = [f"user-{number}" for number in range(7)]  # in one millisecond the higher id is first
    for user in users:
        await log_in(auth, wx, user)
    found = await pages(auth, limit=3)
    assert [user for page in found for user in page] == users[::-1]
    assert all(found[:-1])  # the last may be empty
    assert await auth.online_count() == 7


async def test_rejects_an_invalid_limit(auth: MPAuthX) -> None:
    for limit in (0, -1, 1001, True, "5", 1.5, None, 10**30):
        with pytest.raises(ParameterError, match="limit"):
            await auth.online(None, limit)


async def test_rejects_an_invalid_cursor(auth: MPAuthX, wx: WeChatSimulator) -> None:
    await log_in(auth, wx)
    for cursor in ("", "x", "bob", 5, b"", False, "\ud800", "é", "A" * 100_000, "MTIz", "|"):
        with pytest.raises(ParameterError, match="cursor"):
            await auth.online(cursor)
