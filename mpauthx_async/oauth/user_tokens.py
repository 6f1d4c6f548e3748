"""UserTokens: the web OAuth tokens of an app's users, between WeChat and the store."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from ..concurrency.in_flight import InFlight
from ..concurrency.single_flight import SingleFlight
from ..errors import MPAuthXError, NoOAuthTokenError, ParameterError, StoreError, mark_code_used
from ..failure_log import invalid_answer
from ..models import OAuthToken, is_user_id
from ..stores import OAuthTokenStore
from ..stores.key_value import within_lock
from ..wechat.api import WeChatAPI
from ..wechat.transport import waiting_for_wechat

__all__ = ["UserTokens", "code_used", "has_profile"]

logger: logging.Logger = logging.getLogger(__name__)

_PROFILE_SCOPES = {"snsapi_userinfo", "snsapi_login"}


class UserTokens:
    """Exchanges, stores and refreshes tokens, one at a time for each user in all processes."""

    def __init__(
        self, api: WeChatAPI, store: OAuthTokenStore, now: Callable[[], int], calls: InFlight
    ) -> None:
        self._api = api
        self._store = store
        self._now = now
        self._refreshes: SingleFlight[OAuthToken, OAuthToken] = SingleFlight()
        calls.on_close(self._refreshes.close, self._refreshes.cut_off)

    async def exchange(self, code: str) -> OAuthToken:
        """Exchange a code for a token, and store it unless it is a snapshot account's."""
        token = await self._api.code_to_oauth_token(code, self._now())
        if token.is_snapshot_user:
            return token
        with code_used():
            async with self._store.lock(token.open_id):
                replaced = await self._replaced(token.open_id)
                if replaced is not None:
                    token = _with_union_id(token, replaced)
                    if has_profile(replaced) and not has_profile(token):
                        return token  # the stored one grants more and is valid as long
                return await self._save(token)

    async def refresh(self, refresh_token: str) -> OAuthToken:
        """Exchange a refresh token for a token, and store it if one of the user is stored."""
        token = await self._api.refresh_oauth_token(refresh_token, self._now())
        async with self._store.lock(token.open_id):
            replaced = await self._replaced(token.open_id)
            return token if replaced is None else await self._save(_with_union_id(token, replaced))

    async def valid(self, open_id: str) -> OAuthToken:
        """The stored token of a user, refreshed if it has expired."""
        token = await self._get(open_id)
        return token if token.is_valid(self._now()) else await self.refreshed(token)

    async def refreshed(self, stale: OAuthToken) -> OAuthToken:
        """The token that replaces a stale one, refreshed once for all concurrent callers."""
        with waiting_for_wechat():
            return await self._refreshes.join(stale, partial(self._refresh, stale))

    async def delete(self, open_id: str) -> None:
        """Delete the stored token of a user, after a refresh in progress."""
        _check_open_id(open_id)
        async with self._store.lock(open_id):
            await self._store.delete(open_id)

    async def _refresh(self, stale: OAuthToken) -> OAuthToken:
        async with within_lock(self._store.lock(stale.open_id)):
            stored = await self._get(stale.open_id)
            if stored != stale and stored.is_valid(self._now()):
                return stored  # another process has refreshed it
            token = await self._api.refresh_oauth_token(stored.refresh_token, self._now())
            if token.open_id != stored.open_id:
                raise invalid_answer("WeChat's answer has another openid than the token.")
            return await self._save(_with_union_id(token, stored))

    async def _get(self, open_id: str) -> OAuthToken:
        _check_open_id(open_id)
        token = await self._store.get(open_id)
        if token is None:
            raise NoOAuthTokenError(f"No token of {open_id!r} is stored: authorize first.")
        return token

    async def _replaced(self, open_id: str) -> OAuthToken | None:
        """The stored token that a new one replaces; None if it is missing or cannot be read."""
        try:
            return await self._store.get(open_id)
        except NoOAuthTokenError as error:
            logger.warning("A stored OAuth token could not be read: %s", error)
        except StoreError:  # which is logged; if the store is down, saving fails as well
            pass
        return None

    async def _save(self, token: OAuthToken) -> OAuthToken:
        await self._store.save(token.open_id, token)
        return token


@contextmanager
def code_used() -> Iterator[None]:
    """Mark errors as not retryable, because the code is used."""
    try:
        yield
    except MPAuthXError as error:
        mark_code_used(error)
        raise


def has_profile(token: OAuthToken) -> bool:
    """Whether the token's scope includes the profile."""
    return not _PROFILE_SCOPES.isdisjoint(token.scope.split(","))


def _with_union_id(token: OAuthToken, replaced: OAuthToken) -> OAuthToken:
    """Keep the unionid, which WeChat gives for some codes only and not with a refresh."""
    return replace(token, union_id=token.union_id or replaced.union_id)


def _check_open_id(open_id: object) -> None:
    if not is_user_id(open_id):
        raise ParameterError("open_id is required, as WeChat gave it.")
