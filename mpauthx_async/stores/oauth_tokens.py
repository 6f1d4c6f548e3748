"""The stores of web OAuth tokens: key-value records, functions, or the application's store."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, fields
from heapq import heappop, heappush
from typing import Any, TypeAlias, TypeVar, get_args
from weakref import WeakValueDictionary

from .._compat import timeout
from ..concurrency.traceback_frames import methods_clear_frames
from ..errors import ConfigurationError, NoOAuthTokenError, StoreError
from ..models import OAuthToken
from ..store_errors import raises_store_errors
from ..tokens.sealing import RecordSealer
from .protocols import KeyValueStore, OAuthTokenStore

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

_TYPES = {field.name: get_args(field.type) or (field.type,) for field in fields(OAuthToken)}
_TTL_SECONDS = 30 * 86_400  # as long as a refresh token is valid


@methods_clear_frames()
class KeyValueOAuthTokenStore:
    """Keeps OAuth tokens in encrypted records for 30 days after each was written.

    A token is JSON, encrypted with AES-256-GCM for its app and user: see `RecordSealer`.

    Args:
        records: keeps the records; closed together with this store.
        app_id: the app of the tokens; apps can share the records.
        keys: the keys that the encryption keys are derived from, oldest to newest, at least 16
            bytes each: the newest encrypts, all decrypt. All processes need the same.

    Raises:
        ConfigurationError: there are no keys, or one is too short.
    """

    def __init__(self, records: KeyValueStore, *, app_id: str, keys: Sequence[str | bytes]) -> None:
        self._records = records
        self._app_id = app_id
        self._sealer = RecordSealer(b"mpauthx oauth", app_id=app_id, keys=keys)

    async def get(self, open_id: str) -> OAuthToken | None:
        """Read the token of a user; None if there is no token.

        Raises:
            NoOAuthTokenError: the token does not decrypt, because it was encrypted under other keys
                or is damaged. The user has to authorize again, which replaces it.
            StoreError: the store cannot answer.
        """
        key = self._key("oauth_token", open_id)
        sealed = await self._records.get(key)
        if sealed is None:
            return None
        token = _decode(self._sealer.open(key, sealed))
        if token is None or token.open_id != open_id:
            raise NoOAuthTokenError(
                f"The record {key!r}, the OAuth token of {open_id!r}, does not decrypt: it was "
                "encrypted under other signing keys (by default the app_secret), or is damaged. "
                "Let the user authorize again, which replaces it; after a change of keys, list the "
                "old ones before the new one."
            )
        return token

    async def save(self, open_id: str, token: OAuthToken) -> None:
        """Write the token of a user, in place of an earlier one.

        Raises:
            StoreError: the store cannot answer.
        """
        key = self._key("oauth_token", open_id)
        sealed = self._sealer.seal(key, json.dumps(asdict(token)))
        await self._records.save(key, sealed, _TTL_SECONDS)

    async def delete(self, open_id: str) -> None:
        """Delete the token of a user, if there is one.

        Raises:
            StoreError: the store cannot answer.
        """
        await self._records.delete(self._key("oauth_token", open_id))

    def lock(self, open_id: str) -> AbstractAsyncContextManager[None]:
        """Lock the token of a user in all processes; entering may raise StoreError."""
        return self._records.lock(self._key("oauth_token", open_id))

    async def spend_state(self, nonce: str, ttl: float) -> bool:
        """Consume a state for `ttl` seconds; True for the first call in all processes.

        Raises:
            StoreError: the store cannot answer.
        """
        return await self._records.add(self._key("oauth_state", nonce), secrets.token_hex(8), ttl)

    async def close(self) -> None:
        """Close the records."""
        await self._records.close()

    def _key(self, kind: str, name: str) -> str:
        return f"{kind}|{self._app_id}|{name}"


Answer = TypeVar("Answer")

_MAX_FUNCTION_SECONDS = 10.0


@methods_clear_frames()
@raises_store_errors
class FunctionOAuthTokenStore:
    """Keeps OAuth tokens through functions; locks and used states are those of this process.

    Args:
        functions: async functions: `get_token(open_id)`, which returns an OAuthToken or None,
            `save_token(open_id, token)`, and optionally `delete_token(open_id)`, without which
            users cannot be forgotten. Their exceptions become the cause of a StoreError, but those
            of this package are raised as they are.
        clock: returns the time in Unix seconds.
    """

    def __init__(
        self, functions: OAuthTokenFunctions, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._get, self._save, *delete = functions
        self._delete = delete[0] if delete else None
        self._clock = clock
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._spent: set[str] = set()  # states
        self._ends: list[tuple[float, str]] = []  # a heap: when to drop each used state

    async def get(self, open_id: str) -> OAuthToken | None:
        """Read the token of a user; None if there is no token.

        Raises:
            StoreError: the function failed, or returned something else.
        """
        return _checked(await _within_time(self._get(open_id)), "The function get_token")

    async def save(self, open_id: str, token: OAuthToken) -> None:
        """Write the token of a user, in place of an earlier one.

        Raises:
            StoreError: the function failed.
        """
        await _within_time(self._save(open_id, token))

    async def delete(self, open_id: str) -> None:
        """Delete the token of a user, if there is one.

        Raises:
            ConfigurationError: there is no function delete_token.
            StoreError: the function failed.
        """
        if self._delete is None:
            raise ConfigurationError(
                "Forgetting a user deletes their OAuth token: pass a third function, (get_token, "
                "save_token, delete_token)."
            )
        await _within_time(self._delete(open_id))

    @asynccontextmanager
    async def lock(self, open_id: str) -> AsyncIterator[None]:
        """Lock the token of a user in this process."""
        async with self._locks.setdefault(open_id, asyncio.Lock()):
            yield

    async def spend_state(self, nonce: str, ttl: float) -> bool:
        """Consume a state for `ttl` seconds; True for the first call in this process."""
        now = self._clock()
        while self._ends and self._ends[0][0] <= now:
            self._spent.remove(heappop(self._ends)[1])
        if nonce in self._spent:
            return False
        self._spent.add(nonce)
        heappush(self._ends, (now + ttl, nonce))
        return True


@methods_clear_frames()
@raises_store_errors
class GuardedOAuthTokenStore:
    """An application's store; exceptions that it does not document become StoreErrors.

    Args:
        store: the application's store.
    """

    def __init__(self, store: OAuthTokenStore) -> None:
        self._store = store

    async def get(self, open_id: str) -> OAuthToken | None:
        return _checked(await self._store.get(open_id), "The store's get")

    async def save(self, open_id: str, token: OAuthToken) -> None:
        await self._store.save(open_id, token)

    async def delete(self, open_id: str) -> None:
        await self._store.delete(open_id)

    @asynccontextmanager
    async def lock(self, open_id: str) -> AsyncIterator[None]:
        async with self._store.lock(open_id):
            yield

    async def spend_state(self, nonce: str, ttl: float) -> bool:
        return await self._store.spend_state(nonce, ttl)


async def _within_time(answer: Awaitable[Answer]) -> Answer:
    """Await what an application's function returned, for at most 10 seconds."""
    try:
        async with timeout(_MAX_FUNCTION_SECONDS) as limit:
            return await answer
    except TimeoutError:
        if not limit.expired():
            raise
        raise StoreError(
            f"A function of the application's that keeps OAuth tokens took more than "
            f"{_MAX_FUNCTION_SECONDS:g} seconds. Check its database."
        ) from None


def _checked(token: object, source: str) -> OAuthToken | None:
    if token is not None and not isinstance(token, OAuthToken):
        raise StoreError(f"{source} must return an OAuthToken, or None.")
    return token


def _decode(text: str | None) -> OAuthToken | None:
    """The token of a decrypted record; None if the record holds something else."""
    try:
        values: Any = json.loads(text or "")
    except (ValueError, RecursionError):
        return None  # the exception would quote the record
    is_token = (
        isinstance(values, dict)
        and values.keys() == _TYPES.keys()
        and all(type(value) in _TYPES[name] for name, value in values.items())
    )
    return OAuthToken(**values) if is_token else None
