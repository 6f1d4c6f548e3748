"""Where web OAuth tokens are kept: in records, or by two functions of the application."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict
from heapq import heappop, heappush
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakValueDictionary

from ..concurrency.frames import methods_clear_frames
from ..errors import ConfigurationError, NoOAuthTokenError, StoreError
from ..models import OAuthToken
from ..store_boundary import GuardedLock, only_store_errors, raises_store_errors
from ..tokens.sealing import RecordSealer
from .protocols import KeyValueStore

if TYPE_CHECKING:
    from . import OAuthTokenStore

__all__ = [
    "FunctionOAuthTokenStore",
    "GuardedOAuthTokenStore",
    "KeyValueOAuthTokenStore",
    "OAuthTokenFunctions",
]

_Get: TypeAlias = Callable[[str], Awaitable[OAuthToken | None]]
_Save: TypeAlias = Callable[[str, OAuthToken], Awaitable[object]]
_Delete: TypeAlias = Callable[[str], Awaitable[object]]
OAuthTokenFunctions: TypeAlias = tuple[_Get, _Save] | tuple[_Get, _Save, _Delete]

_TEXTS = ("open_id", "access_token", "refresh_token", "scope")
_LIFE = 30 * 86_400  # seconds: what WeChat gives a refresh token


@methods_clear_frames()
class KeyValueOAuthTokenStore:
    """Keeps OAuth tokens encrypted in records, each for 30 days after it was written.

    A token is JSON, sealed by AES-256-GCM for its app and user: see `RecordSealer`.

    Args:
        records: where. They are closed together with this store.
        app_id: whose tokens: those of different apps never mix.
        keys: what the encryption keys are derived from, oldest to newest, at least 16 bytes each:
            the newest encrypts, all decrypt. All processes that share the records need the same.

    Raises:
        ConfigurationError: for keys that are too few or too short.
    """

    def __init__(self, records: KeyValueStore, *, app_id: str, keys: Sequence[str | bytes]) -> None:
        self._records = records
        self._app_id = app_id
        self._sealer = RecordSealer(b"mpauthx oauth", app_id=app_id, keys=keys)

    async def get(self, open_id: str) -> OAuthToken | None:
        """Read the token of a user; None when no token is kept.

        Raises:
            NoOAuthTokenError: the token does not open: it was sealed under other keys, or is
                damaged. The user has to authorize again, which replaces it.
            StoreError: the store cannot answer.
        """
        key = self._key("oauth_token", open_id)
        sealed = await self._records.get(key)
        if sealed is None:
            return None
        token = _decode(self._sealer.open(key, sealed))
        if token is None or token.open_id != open_id:
            raise NoOAuthTokenError(
                f"The record {key!r}, the OAuth token of {open_id!r}, does not open: it was sealed "
                "under other signing keys (by default the app_secret), or is damaged. Let the user "
                "authorize again, which replaces it; after a change of keys, list the old ones "
                "before the new one."
            )
        return token

    async def save(self, open_id: str, token: OAuthToken) -> None:
        """Keep the token of a user, in place of an earlier one."""
        key = self._key("oauth_token", open_id)
        await self._records.save(key, self._sealer.seal(key, json.dumps(asdict(token))), _LIFE)

    async def delete(self, open_id: str) -> None:
        """Delete the token of a user, if there is one."""
        await self._records.delete(self._key("oauth_token", open_id))

    def lock(self, open_id: str) -> AbstractAsyncContextManager[None]:
        """Keep all others who would refresh this user's token out, in any process."""
        return self._records.lock(self._key("oauth_token", open_id))

    async def spend_state(self, nonce: str, ttl: float) -> bool:
        """Use a state up; True for the first who does, in any process."""
        return await self._records.add(self._key("oauth_state", nonce), secrets.token_hex(8), ttl)

    async def close(self) -> None:
        """Close the records."""
        await self._records.close()

    def _key(self, kind: str, name: str) -> str:
        return f"{kind}|{self._app_id}|{name}"


@methods_clear_frames()
@raises_store_errors
class FunctionOAuthTokenStore:
    """Keeps OAuth tokens by functions; its locks and used states are this process's alone.

    Args:
        functions: `get_token(open_id)`, which returns an OAuthToken or None,
            `save_token(open_id, token)`, and optionally `delete_token(open_id)`, without which no
            user can be forgotten. What they raise becomes a StoreError with its cause, unless it
            is an exception of this package.
        clock: tells the time in Unix seconds.
    """

    def __init__(
        self, functions: OAuthTokenFunctions, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._get, self._save, *delete = functions
        self._delete = delete[0] if delete else None
        self._clock = clock
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._spent: set[str] = set()
        self._ends: list[tuple[float, str]] = []  # a heap: until when each is remembered

    async def get(self, open_id: str) -> OAuthToken | None:
        """Read the token of a user; None when no token is kept."""
        token: object = await self._get(open_id)
        if token is not None and not isinstance(token, OAuthToken):
            raise StoreError("The function get_token must return an OAuthToken, or None.")
        return token

    async def save(self, open_id: str, token: OAuthToken) -> None:
        """Keep the token of a user, in place of an earlier one."""
        await self._save(open_id, token)

    async def delete(self, open_id: str) -> None:
        """Delete the token of a user, if there is one.

        Raises:
            ConfigurationError: there is no function for it.
        """
        if self._delete is None:
            raise ConfigurationError(
                "To forget a user, their OAuth token has to be deleted: give a third function, "
                "(get_token, save_token, delete_token)."
            )
        await self._delete(open_id)

    @asynccontextmanager
    async def lock(self, open_id: str) -> AsyncIterator[None]:
        """Keep all others who would refresh this user's token out, in this process."""
        lock = self._locks.get(open_id)
        if lock is None:
            lock = self._locks[open_id] = asyncio.Lock()
        async with lock:
            yield

    async def spend_state(self, nonce: str, ttl: float) -> bool:
        """Use a state up; True for the first who does, in this process."""
        now = self._clock()
        while self._ends and self._ends[0][0] <= now:
            self._spent.remove(heappop(self._ends)[1])
        if nonce in self._spent:
            return False
        self._spent.add(nonce)
        heappush(self._ends, (now + ttl, nonce))
        return True


@methods_clear_frames()
class GuardedOAuthTokenStore:
    """An application's store, of which only exceptions of this package come, each logged once.

    Args:
        store: the application's.
    """

    def __init__(self, store: "OAuthTokenStore") -> None:
        self._store = store

    async def get(self, open_id: str) -> OAuthToken | None:
        """Read the token of a user; None when no token is kept."""
        with only_store_errors():
            token: object = await self._store.get(open_id)
            if token is not None and not isinstance(token, OAuthToken):
                raise StoreError("The store's get must return an OAuthToken, or None.")
            return token

    async def save(self, open_id: str, token: OAuthToken) -> None:
        """Keep the token of a user, in place of an earlier one."""
        with only_store_errors():
            await self._store.save(open_id, token)

    async def delete(self, open_id: str) -> None:
        """Delete the token of a user, if there is one."""
        with only_store_errors():
            await self._store.delete(open_id)

    def lock(self, open_id: str) -> AbstractAsyncContextManager[None]:
        """Keep all others who would refresh this user's token out."""
        with only_store_errors():
            return GuardedLock(self._store.lock(open_id))

    async def spend_state(self, nonce: str, ttl: float) -> bool:
        """Use a state up; True for the first who does."""
        with only_store_errors():
            return await self._store.spend_state(nonce, ttl)


def _decode(text: str | None) -> OAuthToken | None:
    """The token that an opened record holds; None if it holds something else."""
    try:
        fields: Any = json.loads(text or "")
        return OAuthToken(**fields) if _is_token(fields) else None
    except (ValueError, RecursionError):
        return None  # the exception would quote the record


def _is_token(fields: Any) -> bool:
    return (
        isinstance(fields, dict)
        and fields.keys() == OAuthToken.__dataclass_fields__.keys()
        and all(type(fields[name]) is str for name in _TEXTS)
        and all(type(fields[name]) is int for name in ("expires_in", "created_at"))
        and type(fields["union_id"]) in (str, NoneType)
        and type(fields["is_snapshot_user"]) is bool
    )
