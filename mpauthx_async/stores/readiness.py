"""Readiness: checks that stores can serve now."""

import asyncio
from collections.abc import Awaitable, Callable

from ..errors import StoreError
from ..models import SessionRef
from ..store_boundary import only_store_errors
from .protocols import Checkable, KeyValueStore, TokenStore, UserStore

__all__ = ["Checkable", "check_stores"]

_TIMEOUT = 2  # seconds
_UNUSED = "mpauthx-check"  # an id, sku and key that are never in use


async def check_stores(users: UserStore, tokens: TokenStore, records: KeyValueStore | None) -> None:
    """Check at once that stores can serve, each within 2 seconds.

    Raises:
        StoreError: a store cannot serve; the message names it.
        ConfigurationError: the version of a store's server is not supported.
    """
    unused = SessionRef(_UNUSED, _UNUSED, _UNUSED)
    checks = [
        _check("user store", users, lambda: users.get([_UNUSED])),
        _check("token store", tokens, lambda: tokens.lookup([unused])),
    ]
    if records is not None:
        checks.append(_check("store of web logins", records, lambda: records.get(_UNUSED)))
    for outcome in await asyncio.gather(*checks, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


async def _check(name: str, store: object, read: Callable[[], Awaitable[object]]) -> None:
    try:
        with only_store_errors():
            try:
                async with asyncio.timeout(_TIMEOUT):
                    await (store.check() if isinstance(store, Checkable) else read())
            except TimeoutError:
                raise StoreError(f"It did not answer within {_TIMEOUT} seconds.") from None
    except StoreError as error:
        raise StoreError(f"The {name} cannot serve. {error}") from error
