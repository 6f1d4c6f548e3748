"""A session is good for its own user only, even to whoever has the signing key."""

from itertools import count
from zlib import crc32

import pytest

from mpauthx_async import InvalidTokenError, TokenStatus, WeChatSimulator
from mpauthx_async.tokens.format import TokenSigner
from tests.helpers.near_services import Make, with_near_cache
from tests.helpers.redis_server import RedisServer
from tests.helpers.service_calls import log_in


def same_bucket(user_id: str) -> str:
    """Another user whose sessions stand in the same bucket of Redis."""
    bucket = crc32(user_id.encode()) & 255
    names = (f"victim-{number}" for number in count())
    return next(name for name in names if crc32(name.encode()) & 255 == bucket)


async def test_a_session_is_worth_nothing_under_the_name_of_another_user(
    make: Make, tokens: str, wx: WeChatSimulator
) -> None:
    await is_bound(make, tokens, wx)


async def test_a_near_cache_answers_for_nobody_else(
    make: Make, redis_server: RedisServer, wx: WeChatSimulator
) -> None:
    await is_bound(make, with_near_cache(redis_server.url), wx)


async def is_bound(make: Make, tokens: str, wx: WeChatSimulator) -> None:
    victim = same_bucket("mallory")
    async with make(tokens=tokens) as auth:
        hers = await log_in(auth, wx, victim)
        own = await log_in(auth, wx, "mallory")
        signer = TokenSigner(app_id=wx.app_id, sku="shop", keys=[wx.app_secret])
        minted = signer.mint(victim, own.session.id)
        for _ in range(2):  # when her own token is known as well
            assert await auth.is_token_valid(minted) is False
            assert await auth.is_token_valid(own.response) is True
        assert await auth.token_status(minted) is TokenStatus.unknown
        assert await auth.session(minted) is None
        with pytest.raises(InvalidTokenError):
            await auth.rotate(minted)
        with pytest.raises(InvalidTokenError):
            await auth.decrypt(minted, "data", "iv")
        assert await auth.revoke(minted) is False
        assert await auth.revoke_session(victim, own.session.id) is False
        assert await auth.sessions(victim) == [hers.session]
        assert await auth.sessions("mallory") == [own.session]
        assert await auth.is_token_valid(own.response) is True
