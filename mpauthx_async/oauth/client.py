"""WeChatOAuth: web OAuth 2.0, for pages inside WeChat and for websites that show a QR code."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

from ..concurrency.in_flight import InFlight
from ..concurrency.traceback_frames import methods_clear_frames
from ..connections import Connections
from ..errors import (
    ConfigurationError,
    IdentityMismatchError,
    InvalidStateError,
    ParameterError,
    SnapshotUserError,
    WeChatAPIError,
)
from ..models import CodeSession, OAuthToken, OAuthUser
from ..stores import (
    FunctionOAuthTokenStore,
    KeyValueOAuthTokenStore,
    OAuthTokenFunctions,
    OAuthTokenStore,
    open_key_value_store,
)
from ..stores.oauth_tokens import GuardedOAuthTokenStore
from ..untrusted_text import is_number
from ..wechat.api import WeChatAPI, check_lang
from ..wechat.errcodes import STALE_TOKEN
from ..wechat.exchanges import CodeExchange, WebExchange
from ..wechat.transport import API_HOSTS, is_address
from ..wechat.userdata import check_sealed, decrypt_user_data
from .authorize_url import PAGE_BASE, authorize_url
from .state import StateSigner
from .user_tokens import UserTokens, code_used, has_profile

__all__ = ["WeChatOAuth"]

_MAX_STATE_TTL_SECONDS = 86_400
_CLOCK_SKEW_SECONDS = 60  # between the clocks of two servers


@methods_clear_frames()
class WeChatOAuth:
    """Logs users of web pages in and keeps their tokens, for all processes that share a store.

    It opens its connections when they are first used, so it can be created anywhere, and
    `get_authorize_url` and `create_state` need no event loop. Use it as `async with`, or call
    `close()` at the end.

    The first call binds it to the running event loop and the process. In another loop, or in a
    forked child process, every call raises ConfigurationError.

    Args:
        app_id: the AppID of the Official Account, or of the website on the Open Platform.
        app_secret: its secret. It appears in no log line, repr or exception.
        tokens: where the users' tokens are stored: a URL (`redis://localhost:6379/0`,
            `sqlite:///oauth.db`); or an OAuthTokenStore, which `close` leaves open; or async
            functions `(get_token, save_token)` or `(get_token, save_token, delete_token)`, called
            with `(open_id)`, `(open_id, token)` and `(open_id)`. With functions, refreshes and used
            states are known to one process only.
        connections: connections shared with other services, which `close` leaves open. To use your
            own aiohttp session, pass `Connections(http=session)`.
        api_base: WeChat's address, or several in the order in which to try them.
        page_base: the address of WeChat's authorize pages.
        signing_keys: the keys that sign states, and encrypt tokens stored at a URL, oldest to
            newest, at least 16 bytes each: the newest signs and encrypts, all verify and decrypt.
            Random keys of your own are recommended. The default is the app_secret, which WeChat's
            API takes in URLs; after a change of the secret pass `[old_secret, new_secret]`. A user
            whose token does not decrypt has to authorize again.
        exchange: a ComponentExchange, for a third-party platform that acts for an Official
            Account; then app_secret is never sent.
        clock: returns the time in Unix seconds.

    Raises:
        ConfigurationError: an argument is malformed, or arguments conflict.

    Source: https://developers.weixin.qq.com/doc/offiaccount/en/OA_Web_Apps/Wechat_webpage_authorization.html
    """

    def __init__(
        self,
        *,
        app_id: str,
        app_secret: str,
        tokens: str | OAuthTokenStore | OAuthTokenFunctions,
        connections: Connections | None = None,
        api_base: str | Sequence[str] = API_HOSTS,
        page_base: str = PAGE_BASE,
        signing_keys: Sequence[str | bytes] | None = None,
        exchange: CodeExchange | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if exchange is not None and not isinstance(exchange, WebExchange):
            raise ConfigurationError(
                f"{type(exchange).__name__} has no web logins: pass a ComponentExchange, or omit "
                "`exchange`."
            )
        if not is_address(page_base):
            raise ConfigurationError(f"page_base must be a URL such as {PAGE_BASE}.")
        if connections is not None and not isinstance(connections, Connections):
            raise ConfigurationError("connections must be a Connections, or None.")
        if not callable(clock):
            raise ConfigurationError("clock must be a function that returns Unix seconds.")
        self._app_id = app_id
        self._page_base = page_base
        self._clock = clock
        self._calls = InFlight(self, "This service", name=repr(self))
        if connections is None:
            connections = Connections()
            self._calls.on_close(connections.close)
        self._connections = connections
        self._api = WeChatAPI(
            app_id=app_id,
            app_secret=app_secret,
            connections=connections,
            api_base=api_base,
            exchange=exchange,
        )
        self._page_parameters = {} if exchange is None else exchange.page_parameters
        keys = [app_secret] if signing_keys is None else signing_keys
        self._states = StateSigner(app_id=app_id, keys=keys)
        self._tokens = self._open(tokens, keys)
        self._user_tokens = UserTokens(self._api, self._tokens, self._now, self._calls)

    def __repr__(self) -> str:
        return f"<WeChatOAuth {self._app_id}>"

    @property
    def app_id(self) -> str:
        """The AppID of the Official Account or website."""
        return self._app_id

    def get_authorize_url(
        self, redirect_uri: str, state: str = "", scope: str = "snsapi_base"
    ) -> str:
        """Build the URL of the authorize page for browsers inside WeChat.

        Args:
            redirect_uri: where WeChat sends the browser back to, with `code` and `state` appended;
                its domain has to be registered with WeChat.
            state: returned unchanged, up to 128 bytes; see `create_state`. WeChat documents letters
                and digits only.
            scope: `snsapi_base` for the openid, without asking the user; `snsapi_userinfo` for the
                profile, which asks them.

        Raises:
            ParameterError: an argument is one that WeChat's page refuses.
        """
        page = f"{self._page_base}/connect/oauth2/authorize"
        scopes, more = ("snsapi_base", "snsapi_userinfo"), self._page_parameters
        return authorize_url(page, self._app_id, redirect_uri, state, scope, scopes, more)

    def get_authorize_url_for_website(
        self, redirect_uri: str, state: str = "", scope: str = "snsapi_login"
    ) -> str:
        """Build the URL of the page with a QR code, for a website in any browser.

        Args:
            redirect_uri: as for `get_authorize_url`.
            state: as for `get_authorize_url`.
            scope: `snsapi_login`.

        Raises:
            ParameterError: an argument is one that WeChat's page refuses.
            ConfigurationError: there is an `exchange`; websites log in with their own secret only.

        Source: https://developers.weixin.qq.com/doc/oplatform/en/Website_App/WeChat_Login/Wechat_Login.html
        """
        if self._page_parameters:
            raise ConfigurationError(
                "Websites log in with their own app_secret only: omit `exchange`."
            )
        page = f"{self._page_base}/connect/qrconnect"
        return authorize_url(page, self._app_id, redirect_uri, state, scope, ("snsapi_login",), {})

    def create_state(self, payload: str = "", ttl: float = 600, *, session: str) -> str:
        """Create the state of a new login: signed, single-use, and valid for `ttl` seconds.

        The state is bound to `session`, which prevents login CSRF: set a random text as a cookie
        where the login begins, and pass it here and to `verify_state`.

        Args:
            payload: the text that `verify_state` returns, such as the path to return to; up to 50
                bytes in UTF-8. It is signed, not encrypted.
            ttl: how many seconds the user has, up to a day.
            session: a text that only this browser sends, not empty. The state does not contain it.

        Returns:
            Up to 128 letters and digits.

        Raises:
            ParameterError: an argument is malformed or out of range.
        """
        if not is_number(ttl, 0.001, _MAX_STATE_TTL_SECONDS):
            raise ParameterError("A state's ttl must be a number of seconds, up to a day.")
        return self._states.sign(payload, int((self._clock() + ttl) * 1000), session)

    async def verify_state(self, state: object, *, session: object) -> str:
        """Verify and consume the state that WeChat returned; do this first in the callback.

        A state is valid once in all processes that share the token store.

        Args:
            state: the `state` parameter; untrusted.
            session: the text passed to `create_state`, as this browser sends it; untrusted.

        Returns:
            The payload.

        Raises:
            ParameterError: session is empty or not a text, so the browser sent no cookie.
            InvalidStateError: the state is forged, expired, used, or from another browser.
            StoreError: the store could not answer.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            now = self._now()
            verified = self._states.verify(state, now, session)
            seconds = (verified.ends_at - now) / 1000 + _CLOCK_SKEW_SECONDS
            if not await self._tokens.spend_state(verified.nonce, seconds):
                raise InvalidStateError("This state was used before: let the user log in again.")
            return verified.payload

    async def get_access_token(self, code: str) -> OAuthToken:
        """Exchange the code of a login for the user's openid and tokens, and store these.

        The token of a snapshot (virtual) account (`is_snapshot_user`) is returned and not stored:
        WeChat uses such an account for pages that authorize before the user touched them.

        Args:
            code: the `code` parameter that WeChat appended to the redirect_uri; valid once, within
                5 minutes.

        Raises:
            ParameterError: code is malformed.
            WeChatAPIError: WeChat refused; errcode and hint tell why.
            UnavailableError: WeChat did not answer in time, or not as documented.
            StoreError: the token could not be stored; the code is used.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            return await self._user_tokens.exchange(code)

    async def refresh_access_token(self, refresh_token: str) -> OAuthToken:
        """Exchange a refresh token for an access token that is valid for another two hours.

        It is stored if a token of this user is stored. `get_user` refreshes by itself.

        Args:
            refresh_token: the refresh token.

        Raises:
            ParameterError: refresh_token is malformed.
            WeChatAPIError: WeChat refused; the user has to authorize again if the errcode is 42002
                (expired) or 40030 (invalid).
            UnavailableError: WeChat did not answer in time, or not as documented.
            StoreError: the token could not be stored.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            return await self._user_tokens.refresh(refresh_token)

    async def get_user(self, open_id: str, lang: str = "zh_CN") -> OAuthUser:
        """Get the profile of a user who has logged in, with their stored token.

        An expired token is refreshed first, once for all concurrent callers in all processes.

        Args:
            open_id: the user's openId in this app.
            lang: the language of place names: `zh_CN`, `zh_TW` or `en`.

        Raises:
            ParameterError: open_id or lang is malformed.
            NoOAuthTokenError: no token is stored, or it does not decrypt, because it was encrypted
                under other signing_keys or is damaged; the user has to authorize again.
            WeChatAPIError: WeChat refused; the errcode is 48001 if the user granted snsapi_base
                only, and 42002 or 40030 if they have to authorize again.
            UnavailableError: WeChat did not answer in time, or not as documented.
            StoreError: the store could not answer.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            token = await self._user_tokens.valid(open_id)
            try:
                return await self._api.get_oauth_user(token, lang)
            except WeChatAPIError as error:
                if error.errcode not in STALE_TOKEN:
                    raise
            # It has expired by WeChat's clock, or was revoked.
            return await self._api.get_oauth_user(await self._user_tokens.refreshed(token), lang)

    async def get_user_by_code(
        self,
        code: str,
        lang: str = "zh_CN",
        *,
        encrypted_data: str | None = None,
        iv: str | None = None,
    ) -> OAuthUser:
        """Exchange the code of a login and get the profile, in one step.

        With `encrypted_data` and `iv`, the code is one of a mini-program's `wx.login`, whose
        session key decrypts the data.

        Args:
            code: the code of the login; valid once, within 5 minutes.
            lang: the language of place names: `zh_CN`, `zh_TW` or `en`.
            encrypted_data: the `encryptedData` of `wx.getUserInfo`.
            iv: its `iv`.

        Raises:
            ParameterError: an argument is malformed, or encrypted_data and iv do not come together.
            SnapshotUserError: WeChat showed the page to a snapshot account.
            DecryptionError: the data was not encrypted in the session of this code.
            IdentityMismatchError: the data belongs to another user.
            WeChatAPIError: WeChat refused; errcode and hint tell why.
            UnavailableError: WeChat did not answer in time, or not as documented.
            StoreError: the token could not be stored; the code is used.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            if encrypted_data is not None or iv is not None:
                sealed = check_sealed(encrypted_data, iv)  # before the code is used up
                return await self._get_mini_program_user(code, *sealed)
            check_lang(lang)  # before the code is used up
            token = await self._exchange_for_real_user(code)
            with code_used():
                return await self._api.get_oauth_user(token, lang)

    async def identify(self, code: str) -> OAuthUser:
        """Exchange the code of a login for its user, whatever scope they granted.

        Args:
            code: the code of the login; valid once, within 5 minutes.

        Returns:
            The user with the profile, if they granted it; else with the ids only.

        Raises:
            ParameterError: code is malformed.
            SnapshotUserError: WeChat showed the page to a snapshot account.
            WeChatAPIError: WeChat refused; errcode and hint tell why.
            UnavailableError: WeChat did not answer in time, or not as documented.
            StoreError: the token could not be stored; the code is used.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            token = await self._exchange_for_real_user(code)
            if has_profile(token):
                with code_used():
                    return await self._api.get_oauth_user(token)
            return OAuthUser(token.open_id, token.union_id)

    async def verify_token(self, open_id: str, access_token: str) -> bool:
        """Ask WeChat whether an access token belongs to this user and is valid.

        WeChat does not tell which app the token was issued to: never log a user in by this alone.

        Args:
            open_id: the user's openId in this app.
            access_token: the access token.

        Raises:
            ParameterError: open_id or access_token is malformed.
            WeChatAPIError: WeChat refused for another reason than the token.
            UnavailableError: WeChat did not answer in time, or not as documented.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            return await self._api.is_oauth_token_valid(open_id, access_token)

    async def forget(self, open_id: str) -> None:
        """Delete the stored token of a user, if there is one.

        It waits for a refresh in progress, which would otherwise store the token again.

        Args:
            open_id: the user's openId in this app.

        Raises:
            ParameterError: open_id is malformed.
            ConfigurationError: `tokens` is a pair of functions without delete_token.
            StoreError: the store could not answer; the token may still be stored.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            await self._user_tokens.delete(open_id)

    async def get_session_key(self, code: str) -> CodeSession:
        """Exchange the code of a mini-program's `wx.login` for the session key and ids.

        Args:
            code: what `wx.login` gave the client; valid once, within 5 minutes.

        Raises:
            ParameterError: code is malformed.
            WeChatAPIError: WeChat refused; errcode and hint tell why.
            UnavailableError: WeChat did not answer in time, or not as documented.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            return await self._api.code_to_session(code)

    def decrypt_mini_program_user(
        self, *, session_key: str, encrypted_data: str, iv: str
    ) -> dict[str, Any]:
        """Decrypt the data that `wx.getUserInfo` gave a mini-program: see `decrypt_user_data`.

        Args:
            session_key: the session key that `get_session_key` gave.
            encrypted_data: the `encryptedData` of `wx.getUserInfo`.
            iv: its `iv`.

        Raises:
            ParameterError: an argument is malformed.
            DecryptionError: the data was not encrypted under this key, or for another app.
        """
        return decrypt_user_data(session_key, encrypted_data, iv, self._app_id)

    async def close(self, timeout: float | None = None) -> None:
        """Let calls in flight finish, and close what was opened here.

        It may be called again and concurrently. If it is cancelled, closing goes on.

        Args:
            timeout: after how many seconds calls in flight are cancelled and raise ClosedError.
                None lets them take as long as they need.

        Raises:
            ParameterError: timeout is not a number of seconds.
            ConfigurationError: in another event loop or process than the first call's.
        """
        await self._calls.close(timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _exchange_for_real_user(self, code: str) -> OAuthToken:
        token = await self._user_tokens.exchange(code)
        if token.is_snapshot_user:
            raise SnapshotUserError(
                "WeChat showed this page to a snapshot account, because it authorizes before the "
                "user touched anything. Authorize when they press a button."
            )
        return token

    async def _get_mini_program_user(self, code: str, encrypted_data: str, iv: str) -> OAuthUser:
        session = await self._api.code_to_session(code)
        payload = await asyncio.get_running_loop().run_in_executor(
            self._connections.executor,
            lambda: decrypt_user_data(session.session_key, encrypted_data, iv, self._app_id),
        )
        if not self._api.names_same_user(session, payload):
            raise IdentityMismatchError("The user data does not name the user of this code.")
        return OAuthUser.from_wechat(session.open_id, session.union_id, payload)

    def _open(
        self, tokens: str | OAuthTokenStore | OAuthTokenFunctions, keys: Sequence[str | bytes]
    ) -> OAuthTokenStore:
        if isinstance(tokens, str):
            records = open_key_value_store(tokens, self._connections, self._clock)
            store = KeyValueOAuthTokenStore(records, app_id=self._app_id, keys=keys)
            self._calls.on_close(store.close)
            return store
        functions: Any = tokens
        if not isinstance(tokens, (tuple, list)):
            if hasattr(tokens, "lock") and hasattr(tokens, "spend_state"):
                return GuardedOAuthTokenStore(tokens)
            # The storage of other libraries: get, save and perhaps delete.
            methods = [getattr(tokens, name, None) for name in ("get", "save", "delete")]
            functions = methods if methods[2] else methods[:2]
        if len(functions) not in (2, 3) or not all(map(callable, functions)):
            raise ConfigurationError(
                "tokens must be a URL, an OAuthTokenStore, a pair of functions (get_token, "
                "save_token), or three with delete_token; all of them async."
            )
        return FunctionOAuthTokenStore(functions, clock=self._clock)

    def _now(self) -> int:
        """The time in Unix milliseconds."""
        return int(self._clock() * 1000)
