"""Readiness: checks that stores can serve now."""

import asyncio
from collections.abc import Awaitable, Callable

from .._compat import timeout
from ..concurrency.deadlines import one_call
from ..errors import StoreError
from ..models import SessionRef
from ..store_errors import only_store_errors
from .protocols import Checkable, KeyValueStore, TokenStore, UserStore

__all__ = ["Checkable", "check_stores"]

_TIMEOUT = 2.0  # seconds
_OWN_TIMEOUT = 1.5  # seconds, after which a store of ours itself tells what did not answer
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
                with one_call(longest=_OWN_TIMEOUT):
                    async with timeout(_TIMEOUT):
                        await (store.check() if isinstance(store, Checkable) else read())
            except TimeoutError:
                raise StoreError(
                    f"{type(store).__name__} did not answer within {_TIMEOUT:g} seconds. Check "
                    "that its server is up and can be reached."
                ) from None
    except StoreError as error:
        failure = StoreError(f"The {name} cannot serve. {error}")
        failure.retryable = error.retryable
        raise failure from error
