"""What tests of ways to exchange a code share."""

from collections.abc import Awaitable, Callable

import pytest

from mpauthx_async import WeChatAPIError

Token = Callable[[], Awaitable[str]]


def giving(token: str) -> Token:
    async def give() -> str:
        return token

    return give


async def errcode_of(call: Awaitable[object]) -> int:
    with pytest.raises(WeChatAPIError) as caught:
        await call
    return caught.value.errcode
