"""Readiness: whether stores can serve now."""

import asyncio
from collections.abc import Awaitable, Callable

from ..errors import StoreError
from ..models import SessionRef
from ..store_boundary import only_store_errors
from .protocols import Checkable, KeyValueStore, TokenStore, UserStore

__all__ = ["Checkable", "check_stores"]

_LONGEST_CHECK = 2  # seconds
_NOBODY = "mpauthx-check"  # an id, a sku and a record's key that nobody has


async def check_stores(users: UserStore, tokens: TokenStore, records: KeyValueStore | None) -> None:
    """Check at once that stores can serve, each within 2 seconds.

    Raises:
        StoreError, ConfigurationError: for the first that cannot.
    """
    nobodys = SessionRef(_NOBODY, _NOBODY, _NOBODY)
    checks = [
        _check("user store", users, lambda: users.get([_NOBODY])),
        _check("token store", tokens, lambda: tokens.lookup([nobodys])),
    ]
    if records is not None:
        checks.append(_check("store of web logins", records, lambda: records.get(_NOBODY)))
    for outcome in await asyncio.gather(*checks, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


async def _check(name: str, store: object, read: Callable[[], Awaitable[object]]) -> None:
    try:
        with only_store_errors():
            try:
                async with asyncio.timeout(_LONGEST_CHECK):
                    await (store.check() if isinstance(store, Checkable) else read())
            except TimeoutError:
                raise StoreError(f"It did not answer within {_LONGEST_CHECK} seconds.") from None
    except StoreError as error:
        raise StoreError(f"The {name} cannot serve. {error}") from error
