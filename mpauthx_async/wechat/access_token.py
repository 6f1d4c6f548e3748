"""The app's access token: its own, one for all processes, or one that a platform keeps."""

import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

from ..concurrency.frames import methods_clear_frames
from ..concurrency.single_flight import SingleFlight
from ..errors import ClosedError, MPAuthXError, WeChatAPIError
from ..failure_log import mending
from ..stores import KeyValueStore
from ..stores.key_value import within_lock
from ..tokens.sealing import RecordSealer
from ..untrusted_text import is_credential
from .errcodes import STALE_TOKEN
from .exchanges import token_of
from .transport import waiting_for_wechat

__all__ = ["AccessToken", "AppAccessToken", "AuthorizerAccessToken"]

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_FORCED_EVERY = 7200  # seconds: WeChat allows 20 forced refreshes a day, in all processes
_AHEAD = 240  # seconds before its end; WeChat gives a new one from 300 on, and both are good


class AccessToken(Protocol):
    """Gives the access token of an app."""

    async def get(self) -> str:
        """The token."""

    async def call(self, ask: Callable[[str], Awaitable[Result]]) -> Result:
        """Make a call that needs the token; when WeChat refuses it, once more with another one."""


@dataclass(frozen=True, slots=True)
class _Kept:
    token: str = field(repr=False)
    until: int  # Unix milliseconds


@methods_clear_frames()
class AppAccessToken:
    """Keeps the app's access token, which one process fetches for all, a little before its end.

    Args:
        fetch: asks WeChat for the token; given True, for another one than it gave before. Returns
            it and the seconds that it lives.
        records: where all processes find it.
        key: names it there.
        sealer: encrypts it there.
        clock: tells the time in Unix seconds.
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
        """The token, fetched if there is none that is good for a while.

        Args:
            refused: a token that WeChat no longer takes: then another one.

        Raises:
            StoreError: the records could not answer.
            ClosedError: the service is closed.
            And as `WeChatHTTP.post`.
        """
        if self._closed:
            raise ClosedError("This service is closed. Create a new one to go on.")
        known = self._known
        if known is not None and known.token != refused and self._is_good(known):
            return known.token
        # Not of the text: in debug mode asyncio logs the results of futures.
        with waiting_for_wechat():
            kept = await self._renewals.join(refused, partial(self._renew, refused))
        return kept.token

    async def call(self, ask: Callable[[str], Awaitable[Result]]) -> Result:
        """Make a call that needs the token; when WeChat refuses it, once more with another one."""
        return await _call(ask, self.get)

    async def close(self) -> None:
        """Let what is in flight finish; the records stay open."""
        self._closed = True
        await self._renewals.close()

    def _is_good(self, kept: _Kept, grace: int = 0) -> bool:
        return self._clock() < kept.until / 1000 + grace

    async def _renew(self, refused: str | None) -> _Kept:
        known = self._known
        try:
            self._known = await self._find_or_fetch(refused)
        except MPAuthXError as error:
            if known is None or known.token == refused or not self._is_good(known, _AHEAD):
                raise
            logger.warning("The access token was not renewed, and is good for a while: %s", error)
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
                # WeChat gives the same one for as long as it believes in it.
                self._may_force_at = now + _FORCED_EVERY
                token, expires_in = await self._fetch(True)
            good_for = max(expires_in - _AHEAD, expires_in // 2)
            kept = _Kept(token, int((self._clock() + good_for) * 1000))
            sealed = self._sealer.seal(self._key, json.dumps([kept.token, kept.until]))
            await self._records.save(self._key, sealed, max(good_for, 1))
            return kept

    async def _read(self) -> _Kept | None:
        sealed = await self._records.get(self._key)
        if sealed is None:
            return None
        kept = _decode(self._sealer.open(self._key, sealed))
        if kept is None:
            logger.warning(
                "The record %r, the app's access token, does not open: it was sealed under other "
                "signing keys, or is damaged. A new token is fetched.",
                self._key,
            )
            return None
        return kept if self._is_good(kept) else None


@methods_clear_frames()
class AuthorizerAccessToken:
    """The access token of an app that a third-party platform acts for.

    Args:
        give: the platform's function, which keeps the token and renews it.
    """

    def __init__(self, give: Callable[[], Awaitable[str]]) -> None:
        self._give = give

    async def get(self, refused: str | None = None) -> str:
        """The token.

        Raises:
            ConfigurationError: the function returned something else.
            And what it raises.
        """
        return await token_of(self._give, "authorizer_access_token")

    async def call(self, ask: Callable[[str], Awaitable[Result]]) -> Result:
        """Make a call that needs the token; when WeChat refuses it, once more with another one."""
        return await _call(ask, self.get)


async def _call(
    ask: Callable[[str], Awaitable[Result]], get: Callable[[str | None], Awaitable[str]]
) -> Result:
    token = await get(None)
    try:
        with mending(STALE_TOKEN):
            return await ask(token)
    except WeChatAPIError as error:
        if error.errcode not in STALE_TOKEN:
            raise
    return await ask(await get(token))


def _decode(text: str | None) -> _Kept | None:
    """The token that an opened record holds; None if it holds something else."""
    try:
        token, until = json.loads(text or "")
    except (ValueError, TypeError, RecursionError):
        return None
    if not is_credential(token) or type(until) is not int:
        return None
    return _Kept(token, until)
