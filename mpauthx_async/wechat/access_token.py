"""The app's access token: shared by all processes, or kept by a third-party platform."""

import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NoReturn, TypeAlias, TypeVar

from ..concurrency.in_flight import closed
from ..concurrency.single_flight import SingleFlight
from ..concurrency.traceback_frames import methods_clear_frames
from ..errors import ConfigurationError, MPAuthXError, WeChatAPIError
from ..failure_log import retrying_on
from ..shared_parts import Parts
from ..stores import KeyValueStore
from ..stores.key_value import within_lock
from ..tokens.sealing import RecordSealer
from ..untrusted_text import is_credential
from .api import WeChatAPI
from .errcodes import STALE_TOKEN
from .exchanges import CodeExchange, ComponentExchange, token_of
from .transport import waiting_for_wechat

__all__ = ["AccessToken", "AppAccessToken", "create_access_token", "no_records"]

logger: logging.Logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_MIN_FORCED_INTERVAL_SECONDS = 7200  # WeChat allows 20 forced refreshes a day, in all processes
# Renew before the end: WeChat gives a new token 300 seconds before, and both are valid then.
_RENEWAL_SECONDS = 240


@dataclass(frozen=True, slots=True)
class _Kept:
    token: str = field(repr=False)
    until: int  # Unix milliseconds


@methods_clear_frames()
class AppAccessToken:
    """The access token that one process fetches for all, shortly before the last one ends.

    Args:
        fetch: gets the token from WeChat, and given True a new one; returns it and its lifetime in
            seconds.
        records: where all processes find the token.
        key: the token's key there.
        sealer: encrypts it there.
        clock: returns the time in Unix seconds.
    """

    def __init__(
        self,
        fetch: Callable[[bool], Awaitable[tuple[str, int]]],
        records: KeyValueStore,
        key: str,
        sealer: RecordSealer,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._fetch = fetch
        self._records = records
        self._key = key
        self._sealer = sealer
        self._clock = clock
        self._known: _Kept | None = None
        self._renewals: SingleFlight[str | None, _Kept] = SingleFlight()
        self._may_force_at = 0.0  # Unix seconds
        self._closed = False

    async def get(self, refused: str | None = None) -> str:
        """Get the token; fetch it if it is unknown or ends soon.

        Args:
            refused: a token that WeChat refused, to get a new one.

        Raises:
            StoreError: the records cannot answer.
            ClosedError: the service is closed.
            WeChatAPIError: WeChat refused; errcode and hint tell why.
            UnavailableError: WeChat did not answer in time, or not as documented.
        """
        if self._closed:
            raise closed()
        known = self._known
        if known is not None and known.token != refused and self._is_valid(known):
            return known.token
        # In debug mode asyncio logs the results of futures: the repr of `_Kept` omits the token.
        with waiting_for_wechat():
            kept = await self._renewals.join(refused, partial(self._renew, refused))
        return kept.token

    async def call(self, ask: Callable[[str], Awaitable[Result]]) -> Result:
        """Make a call that needs the token; repeat it once with a new one if WeChat refuses it."""
        return await _call(ask, self.get)

    async def close(self) -> None:
        """Wait for a renewal in progress; the records stay open."""
        self._closed = True
        await self._renewals.close()

    def cut_off(self) -> None:
        """Cancel what is in flight."""
        self._renewals.cut_off()

    def _is_valid(self, kept: _Kept, grace: int = 0) -> bool:
        return self._clock() < kept.until / 1000 + grace

    async def _renew(self, refused: str | None) -> _Kept:
        known = self._known
        try:
            self._known = await self._find_or_fetch(refused)
        except MPAuthXError as error:
            if (
                known is None
                or known.token == refused
                or not self._is_valid(known, _RENEWAL_SECONDS)
            ):
                raise
            logger.warning("The access token was not renewed, but is still valid: %s", error)
            return known
        return self._known

    async def _find_or_fetch(self, refused: str | None) -> _Kept:
        kept = await self._read()
        if kept is not None and kept.token != refused:
            return kept
        async with within_lock(self._records.lock(self._key)):
            kept = await self._read()  # another process may have been faster
            if kept is not None and kept.token != refused:
                return kept
            token, expires_in = await self._fetch(False)
            now = self._clock()
            if token == refused and now >= self._may_force_at:
                # WeChat returns the same token as long as it considers it valid.
                self._may_force_at = now + _MIN_FORCED_INTERVAL_SECONDS
                token, expires_in = await self._fetch(True)
            ttl = max(expires_in - _RENEWAL_SECONDS, expires_in // 2)
            kept = _Kept(token, int((self._clock() + ttl) * 1000))
            sealed = self._sealer.seal(self._key, json.dumps([kept.token, kept.until]))
            await self._records.save(self._key, sealed, max(ttl, 1))
            return kept

    async def _read(self) -> _Kept | None:
        sealed = await self._records.get(self._key)
        if sealed is None:
            return None
        kept = _decode(self._sealer.open(self._key, sealed))
        if kept is None:
            logger.warning(
                "The record %r with the app's access token cannot be decrypted: it was encrypted "
                "under other signing keys, or is damaged. A new token is fetched.",
                self._key,
            )
            return None
        return kept if self._is_valid(kept) else None


@methods_clear_frames()
class AuthorizerAccessToken:
    """The access token of an app that a third-party platform acts for; `give` renews it."""

    def __init__(self, give: Callable[[], Awaitable[str]]) -> None:
        self._give = give

    async def get(self, refused: str | None = None) -> str:
        """Get the token; raises as `token_of`."""
        return await token_of(self._give, "authorizer_access_token")

    async def call(self, ask: Callable[[str], Awaitable[Result]]) -> Result:
        """Make a call that needs the token; repeat it once with a new one if WeChat refuses it."""
        return await _call(ask, self.get)


AccessToken: TypeAlias = AppAccessToken | AuthorizerAccessToken


def create_access_token(parts: Parts, api: WeChatAPI, exchange: CodeExchange | None) -> AccessToken:
    """Create the access token of a service's app; it is closed with the service."""
    if isinstance(exchange, ComponentExchange):
        if exchange.authorizer_access_token:
            return AuthorizerAccessToken(exchange.authorizer_access_token)
        return _no_access_token(
            "This call needs the app's access token: give ComponentExchange, which is the "
            "`exchange`, an authorizer_access_token, an async function that returns it."
        )
    if exchange is not None or parts.records is None:
        return _no_access_token(no_records("The app's access token needs"))
    app_id = parts.settings.app_id
    access_token = AppAccessToken(
        lambda force: api.get_stable_token(force_refresh=force),
        parts.records,
        f"access_token|{app_id}",
        RecordSealer(b"mpauthx access", app_id=app_id, keys=parts.settings.keys),
        parts.settings.clock,
    )
    parts.calls.on_close(access_token.close, access_token.cut_off)
    return access_token


def no_records(what: str) -> str:
    """What a service lacks that has an `exchange`, or without a store that processes share."""
    return (
        f"{what} the app's own secret (no `exchange`), and a store that all processes share: pass "
        "`tokens` as a URL, a RedisTokenStore or a SqliteTokenStore with a path, or `connections` "
        "with a Redis."
    )


def _no_access_token(why: str) -> AccessToken:
    async def give() -> NoReturn:
        raise ConfigurationError(why)

    return AuthorizerAccessToken(give)


async def _call(
    ask: Callable[[str], Awaitable[Result]], get: Callable[[str | None], Awaitable[str]]
) -> Result:
    token = await get(None)
    try:
        with retrying_on(STALE_TOKEN):
            return await ask(token)
    except WeChatAPIError as error:
        if error.errcode not in STALE_TOKEN:
            raise
    return await ask(await get(token))


def _decode(text: str | None) -> _Kept | None:
    """Parse a decrypted record; None if it is malformed."""
    try:
        token, until = json.loads(text or "")
    except (ValueError, TypeError, RecursionError):
        return None
    if not is_credential(token) or type(until) is not int:
        return None
    return _Kept(token, until)
