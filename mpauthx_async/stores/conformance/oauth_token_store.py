"""The test suite for stores of web OAuth tokens."""

import asyncio
import time
from contextlib import suppress
from dataclasses import replace

from ...models import OAuthToken
from .. import OAuthTokenStore
from .examples import UNUSUAL_IDS

__all__ = ["OAuthTokenStoreConformance", "new_oauth_token"]

_MINUTE = 60  # seconds


def new_oauth_token(open_id: str = "alice") -> OAuthToken:
    """Make a token of a user, as issued just now."""
    return OAuthToken(
        open_id=open_id,
        access_token="access-token",
        refresh_token="refresh-token",
        expires_in=7200,
        scope="snsapi_userinfo",
        created_at=time.time_ns() // 1_000_000,
        union_id="union-of-alice",
    )


class OAuthTokenStoreConformance:
    """Tests of the contract of `OAuthTokenStore`."""

    async def test_an_unknown_user_has_no_token(self, store: OAuthTokenStore) -> None:
        assert await store.get("alice") is None
        await store.save("alice", new_oauth_token("alice"))
        assert await store.get("bob") is None

    async def test_a_saved_token_is_read_unchanged(self, store: OAuthTokenStore) -> None:
        token = new_oauth_token()
        await store.save("alice", token)
        assert await store.get("alice") == token
        without = replace(token, union_id=None, scope="", access_token="+/=\"'\\%_{}")
        await store.save("alice", without)
        assert await store.get("alice") == without

    async def test_a_newer_token_replaces_an_older_one(self, store: OAuthTokenStore) -> None:
        token = new_oauth_token()
        newer = replace(token, access_token="newer", created_at=token.created_at + 7_200_000)
        await store.save("alice", token)
        await store.save("alice", newer)
        assert await store.get("alice") == newer

    async def test_an_expired_access_token_is_kept(self, store: OAuthTokenStore) -> None:
        token = new_oauth_token()
        expired = replace(token, created_at=token.created_at - 7_200_000)
        await store.save("alice", expired)
        assert await store.get("alice") == expired

    async def test_a_deleted_token_is_gone(self, store: OAuthTokenStore) -> None:
        await store.save("alice", new_oauth_token())
        await store.save("bob", new_oauth_token("bob"))
        for _ in range(2):
            await store.delete("alice")
            assert await store.get("alice") is None
        assert await store.get("bob") is not None
        await store.save("alice", new_oauth_token())
        assert await store.get("alice") is not None

    async def test_tokens_of_unusual_users_are_kept_apart(self, store: OAuthTokenStore) -> None:
        tokens = {
            open_id: replace(new_oauth_token(open_id), access_token=f"access-{i}")
            for i, open_id in enumerate(UNUSUAL_IDS)
        }
        for open_id, token in tokens.items():
            assert await store.get(open_id) is None
            await store.save(open_id, token)
        assert {open_id: await store.get(open_id) for open_id in tokens} == tokens
        for open_id in UNUSUAL_IDS[::2]:
            await store.delete(open_id)
        kept = [open_id for open_id in tokens if await store.get(open_id)]
        assert kept == UNUSUAL_IDS[1::2]

    async def test_a_lock_has_one_holder_at_a_time(self, store: OAuthTokenStore) -> None:
        holders = 0
        turns = []

        async def take_a_turn(i: int) -> None:
            nonlocal holders
            async with store.lock("alice"):
                holders += 1
                assert holders == 1
                token = new_oauth_token()
                await store.save("alice", replace(token, scope=str(i)))
                kept = await store.get("alice")
                assert kept is not None
                assert kept.scope == str(i)
                turns.append(i)
                holders -= 1

        await asyncio.gather(*map(take_a_turn, range(8)))
        assert sorted(turns) == list(range(8))

    async def test_each_user_has_a_lock(self, store: OAuthTokenStore) -> None:
        async with store.lock("alice"), store.lock("bob"):
            await store.save("alice", new_oauth_token("alice"))
            await store.save("bob", new_oauth_token("bob"))

    async def test_a_lock_is_free_after_a_failure(self, store: OAuthTokenStore) -> None:
        for _ in range(2):
            with suppress(ZeroDivisionError):
                async with store.lock("alice"):
                    raise ZeroDivisionError

    async def test_a_lock_is_free_after_a_cancellation(self, store: OAuthTokenStore) -> None:
        locked = asyncio.Event()

        async def hold() -> None:
            async with store.lock("alice"):
                locked.set()
                await asyncio.Event().wait()

        holder = asyncio.ensure_future(hold())
        await locked.wait()
        holder.cancel()
        await asyncio.wait([holder])
        async with store.lock("alice"):
            pass

    async def test_a_state_is_accepted_once(self, store: OAuthTokenStore) -> None:
        assert await store.spend_state("0123456789abcdef", _MINUTE)
        assert not await store.spend_state("0123456789abcdef", _MINUTE)
        assert await store.spend_state("fedcba9876543210", _MINUTE)
        assert not await store.spend_state("0123456789abcdef", _MINUTE)

    async def test_one_of_many_concurrent_uses_of_a_state_is_accepted(
        self, store: OAuthTokenStore
    ) -> None:
        nonces = ["0123456789abcdef", "fedcba9876543210"] * 20
        answers = await asyncio.gather(*(store.spend_state(nonce, _MINUTE) for nonce in nonces))
        assert sum(answers[::2]) == 1
        assert sum(answers[1::2]) == 1

    async def test_states_and_tokens_are_kept_apart(self, store: OAuthTokenStore) -> None:
        assert await store.spend_state("alice", _MINUTE)
        assert await store.get("alice") is None
        await store.save("bob", new_oauth_token("bob"))
        assert await store.spend_state("bob", _MINUTE)
