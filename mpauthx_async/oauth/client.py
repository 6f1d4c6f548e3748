"""WeChatOAuth: web OAuth 2.0, for pages inside WeChat and for websites that show a QR code."""

import asyncio
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, Self
from urllib.parse import quote

from ..concurrency.frames import methods_clear_frames
from ..concurrency.in_flight import InFlight
from ..concurrency.single_flight import SingleFlight
from ..connections import Connections
from ..errors import (
    ConfigurationError,
    IdentityMismatchError,
    InvalidStateError,
    MPAuthXError,
    NoOAuthTokenError,
    ParameterError,
    SnapshotUserError,
    StoreError,
    WeChatAPIError,
)
from ..failure_log import invalid_answer
from ..models import CodeSession, OAuthToken, OAuthUser, is_user_id
from ..stores import (
    FunctionOAuthTokenStore,
    KeyValueOAuthTokenStore,
    OAuthTokenFunctions,
    OAuthTokenStore,
    open_key_value_store,
)
from ..stores.key_value import within_lock
from ..stores.oauth_tokens import GuardedOAuthTokenStore
from ..wechat.api import WeChatAPI, check_lang
from ..wechat.errcodes import STALE_TOKEN
from ..wechat.exchanges import CodeExchange, WebExchange
from ..wechat.transport import API_HOSTS, is_address, waiting_for_wechat
from ..wechat.userdata import check_sealed, decrypt_user_data
from .state import MAX_STATE, StateSigner

__all__ = ["PAGE_BASE", "WeChatOAuth"]

PAGE_BASE = "https://open.weixin.qq.com"
"""The server of the pages that a browser is sent to."""

logger = logging.getLogger(__name__)

_REDIRECT_URI = re.compile(r"https?://[^\s\x00-\x1f\x7f\ud800-\udfff]+", re.IGNORECASE)
_SURROGATE = re.compile("[\ud800-\udfff]")
_UNESCAPED = "!'()*"  # by encodeURIComponent, beyond what Python leaves as it is
_WITH_PROFILE = {"snsapi_userinfo", "snsapi_login"}  # scopes
_LONGEST_STATE_TTL = 86_400  # seconds
_CLOCK_SKEW = 60  # seconds that the clocks of two servers may differ


@methods_clear_frames()
class WeChatOAuth:
    """Logs users of web pages in, and keeps their tokens for all processes.

    It opens its connections when they are first used, so it can be created anywhere, and URLs can
    be made without an event loop. Use it as `async with`, or call `close()` at the end.

    The first call binds it to the running event loop and the process. In another loop, or in a
    forked child process, every call raises ConfigurationError and leaves the connections alone.

    Args:
        app_id: the AppID of the Official Account, or of the website on the Open Platform.
        app_secret: its secret. It appears in no log line, repr or exception.
        tokens: where the users' tokens are kept: a URL (`redis://localhost:6379/0`,
            `sqlite:///oauth.db`); or any OAuthTokenStore, which stays open; or async functions
            `(get_token, save_token)` or `(get_token, save_token, delete_token)`, called with
            `(open_id)`, `(open_id, token)` and `(open_id)`. With functions each process refreshes,
            and uses states up, for itself alone.
        connections: shared with other services, and closed by whoever made them. An aiohttp session
            of your own, with its timeouts and proxies, is passed as `Connections(http=session)`.
        api_base: WeChat's address, or several in the order in which to try them.
        page_base: the address of the pages that a browser is sent to.
        signing_keys: what signs states, and encrypts the tokens that are kept at a URL, oldest to
            newest, at least 16 bytes each: the newest signs and encrypts, all verify and decrypt.
            Random keys of your own are recommended. By default the app_secret alone, which travels
            in the URLs of calls to WeChat; after a change of the secret, `[old_secret,
            new_secret]`. A user whose token does not decrypt has to authorize again.
        exchange: a ComponentExchange, for a third-party platform that acts for an Official
            Account. The app's secret is then sent to nobody.
        clock: tells the time in Unix seconds.

    Raises:
        ConfigurationError: for arguments that cannot work.

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
                f"{type(exchange).__name__} has no web logins: pass a ComponentExchange, or leave "
                "`exchange` out."
            )
        if not is_address(page_base):
            raise ConfigurationError(f"page_base must be a URL such as {PAGE_BASE}.")
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
        self._refreshes: SingleFlight[OAuthToken, OAuthToken] = SingleFlight()
        self._calls.on_close(self._refreshes.close, self._refreshes.cut_off)

    def __repr__(self) -> str:
        return f"<WeChatOAuth {self._app_id}>"

    @property
    def app_id(self) -> str:
        """The AppID of the Official Account or website."""
        return self._app_id

    def get_authorize_url(
        self, redirect_uri: str, state: str = "", scope: str = "snsapi_base"
    ) -> str:
        """Make the URL that logs a user in on a page inside WeChat.

        Args:
            redirect_uri: where WeChat sends the browser back to, with `code` and `state` appended;
                its domain has to be registered with WeChat.
            state: comes back unchanged, up to 128 bytes; see `create_state`. WeChat documents
                letters and digits only.
            scope: `snsapi_base`, silent, for the openid alone, or `snsapi_userinfo`, which asks the
                user, for the profile.

        Raises:
            ParameterError: for what WeChat's page would refuse.
        """
        scopes = ("snsapi_base", "snsapi_userinfo")
        return self._page_url(
            "/connect/oauth2/authorize",
            redirect_uri,
            state,
            scope,
            scopes,
            self._page_parameters,
        )

    def get_authorize_url_for_website(
        self, redirect_uri: str, state: str = "", scope: str = "snsapi_login"
    ) -> str:
        """Make the URL of the page with a QR code, for a website in any browser.

        Args and raises: as `get_authorize_url`; the one scope is `snsapi_login`. Websites have
        logins with their own secret only, so with a ComponentExchange this raises
        ConfigurationError.

        Source: https://developers.weixin.qq.com/doc/oplatform/en/Website_App/WeChat_Login/Wechat_Login.html
        """
        if self._page_parameters:
            raise ConfigurationError(
                "Websites have logins with their own app_secret only: leave `exchange` out."
            )
        return self._page_url("/connect/qrconnect", redirect_uri, state, scope, ("snsapi_login",))

    def create_state(self, payload: str = "", ttl: float = 600, *, session: str) -> str:
        """Make the state of a login that begins: signed, for one use, and for `ttl` seconds.

        The signature keeps the payload from being changed. `session` prevents login CSRF: set a
        random text as a cookie where the login begins, and pass it here and to `verify_state`.

        Args:
            payload: what comes back with it, such as the path to go on to; up to 50 bytes in UTF-8.
                Everybody can read it.
            ttl: how long the user may take, in seconds, up to a day.
            session: a text that only this browser sends, not empty. It is not part of the state.

        Returns:
            Up to 128 letters and digits.

        Raises:
            ParameterError: for arguments that cannot work.
        """
        if not isinstance(ttl, (int, float)) or not 0.001 <= ttl <= _LONGEST_STATE_TTL:
            raise ParameterError("A state's ttl must be a number of seconds, up to a day.")
        return self._states.sign(payload, int((self._clock() + ttl) * 1000), session)

    async def verify_state(self, state: object, *, session: object) -> str:
        """Use up the state that came back; await it before anything else is done with the login.

        A state is good once, in all processes that share the token store: hence asynchronous.

        Args:
            state: what came back, whatever it is.
            session: the text that was given to `create_state`, as the browser sends it now.

        Returns:
            The payload.

        Raises:
            ParameterError: session is empty or no text: the browser sent no cookie.
            InvalidStateError: it was forged, has expired, was used, or is another browser's.
            StoreError: the store could not tell whether it was used.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            now = self._now()
            verified = self._states.verify(state, now, session)
            remember = (verified.ends_at - now) / 1000 + _CLOCK_SKEW
            if not await self._tokens.spend_state(verified.nonce, remember):
                raise InvalidStateError("This state was used before: let the user begin anew.")
            return verified.payload

    async def get_access_token(self, code: str) -> OAuthToken:
        """Exchange the code of a login for the user's openid and tokens, and save these.

        Those of a virtual account (`is_snapshot_user`) are returned and not saved: WeChat shows
        pages to it that ask before the user touched them, and it must not become a user.

        Args:
            code: what WeChat appended to the redirect_uri; it works once within 5 minutes.

        Raises:
            ParameterError: this can be no code.
            WeChatAPIError: WeChat refused; errcode and hint tell why.
            HTTPStatusError, EmptyResponseError, InvalidResponseError, IncompleteResponseError,
            ConnectionFailedError: WeChat did not answer as it should.
            StoreError: the token could not be saved; the code is used up.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            return await self._exchange_for(code)

    async def refresh_access_token(self, refresh_token: str) -> OAuthToken:
        """Exchange a refresh token for an access token that lives for another two hours.

        It is saved if a token of this user is: one of a virtual account never is.
        `get_user` does so by itself, once for all callers. Raises as `get_access_token`; when the
        refresh token has expired (42002) or was refused (40030) the user has to authorize again.
        """
        with self._calls.one():
            token = await self._api.refresh_oauth_token(refresh_token, self._now())
            async with self._tokens.lock(token.open_id):
                saved = await self._saved_before(token.open_id)
                return token if saved is None else await self._save(_knowing(token, saved))

    async def get_user(self, open_id: str, lang: str = "zh_CN") -> OAuthUser:
        """Ask for the profile of a user who has logged in, with the token that was saved then.

        A token that has expired is refreshed first: once, however many callers in however many
        processes meet it.

        Args:
            open_id: the user in this app.
            lang: of the place names: `zh_CN`, `zh_TW` or `en`.

        Raises:
            NoOAuthTokenError: no token is saved, or it does not decrypt, because it was encrypted
                under other signing_keys or is damaged; the user has to authorize (again).
            WeChatAPIError: 48001 when they granted no more than snsapi_base; 42002 or 40030 when
                they have to authorize again.
            StoreError: the store could not answer.
            And as `get_access_token`.
        """
        with self._calls.one():
            token = await self._saved(open_id)
            if not token.is_valid(self._now()):
                token = await self._refreshed(token)
            try:
                return await self._api.get_oauth_user(token, lang)
            except WeChatAPIError as error:
                if error.errcode not in STALE_TOKEN:
                    raise
            # By WeChat's clock it has expired, or it was withdrawn.
            return await self._api.get_oauth_user(await self._refreshed(token), lang)

    async def get_user_by_code(
        self,
        code: str,
        lang: str = "zh_CN",
        *,
        encrypted_data: str | None = None,
        iv: str | None = None,
    ) -> OAuthUser:
        """Exchange the code of a login and ask for the profile, in one step.

        With `encrypted_data` and `iv` the code is one of a mini-program's `wx.login`, and gives the
        session key that opens the data.

        Raises:
            ParameterError: encrypted_data and iv do not come together, or are too long.
            SnapshotUserError: the page was shown to a virtual account.
            DecryptionError, IdentityMismatchError: the data was not sealed in the session of this
                code, or belongs to somebody else.
            And as `get_access_token` and `get_user`.
        """
        with self._calls.one():
            if encrypted_data is not None or iv is not None:
                sealed = check_sealed(encrypted_data, iv)  # before the code is used up
                return await self._get_mini_program_user(code, *sealed)
            check_lang(lang)  # before the code is used up
            token = await self._exchange_of_person(code)
            with _code_used_up():
                return await self._api.get_oauth_user(token, lang)

    async def identify(self, code: str) -> OAuthUser:
        """Exchange the code of a login for its user, whatever scope they granted.

        Returns:
            The ids, and the profile where the user has granted that.

        Raises:
            SnapshotUserError: the page was shown to a virtual account.
            And as `get_access_token`.
        """
        with self._calls.one():
            token = await self._exchange_of_person(code)
            if _has_profile(token):
                with _code_used_up():
                    return await self._api.get_oauth_user(token)
            return OAuthUser(token.open_id, token.union_id)

    async def verify_token(self, open_id: str, access_token: str) -> bool:
        """Ask WeChat whether an access token is this user's and still good.

        It may have been given to another app: never log anybody in by this alone.

        Raises:
            As `get_access_token`, for anything but a token that is not good.
        """
        with self._calls.one():
            return await self._api.is_oauth_token_valid(open_id, access_token)

    async def forget(self, open_id: str) -> None:
        """Delete the saved token of a user, if there is one.

        It waits for a refresh of the token in progress, so that this does not save it again.

        Args:
            open_id: the user in this app.

        Raises:
            ParameterError: open_id is malformed.
            ConfigurationError: `tokens` is a pair of functions, without `delete_token`.
            StoreError: the store could not answer; the token may still be there.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            _check_open_id(open_id)
            async with self._tokens.lock(open_id):
                await self._tokens.delete(open_id)

    async def get_session_key(self, code: str) -> CodeSession:
        """Exchange the code of a mini-program's `wx.login`; raises as `get_access_token`."""
        with self._calls.one():
            return await self._api.code_to_session(code)

    def decrypt_mini_program_user(
        self, *, session_key: str, encrypted_data: str, iv: str
    ) -> dict[str, Any]:
        """Decrypt what `wx.getUserInfo` gave a mini-program's client: see `decrypt_user_data`."""
        return decrypt_user_data(session_key, encrypted_data, iv, self._app_id)

    async def close(self, timeout: float | None = None) -> None:
        """Let calls in flight finish, and close what was opened here.

        It may be called again and concurrently. If it is cancelled, closing goes on.

        Args:
            timeout: after how many seconds calls in flight are cancelled and raise ClosedError.
                None lets them take as long as they need.

        Raises:
            ConfigurationError: in another event loop or process than the first call's.
        """
        await self._calls.close(timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _page_url(
        self,
        path: str,
        redirect_uri: str,
        state: str,
        scope: str,
        scopes: Sequence[str],
        more: Mapping[str, str] = MappingProxyType({}),
    ) -> str:
        if isinstance(redirect_uri, str) and re.search(r"\s", redirect_uri):
            raise ParameterError(
                "redirect_uri contains white space: remove what is around the URL, and "
                "percent-encode what is inside it."
            )
        if not isinstance(redirect_uri, str) or not _REDIRECT_URI.fullmatch(redirect_uri):
            raise ParameterError("redirect_uri must be a URL that begins with http:// or https://.")
        if (
            not isinstance(state, str)
            or _SURROGATE.search(state)
            or len(state.encode()) > MAX_STATE
        ):
            raise ParameterError(f"state must be a text of at most {MAX_STATE} bytes.")
        if scope not in scopes:
            raise ParameterError(f"The scope of this page must be {' or '.join(scopes)}.")
        # WeChat refuses another order.
        parameters = {
            "appid": self._app_id,
            "redirect_uri": redirect_uri,
            "response_type": "code",
            "scope": scope,
            "state": state,
            **more,
        }
        query = "&".join(f"{name}={_escape(value)}" for name, value in parameters.items())
        return f"{self._page_base}{path}?{query}#wechat_redirect"

    async def _exchange_for(self, code: str) -> OAuthToken:
        token = await self._api.code_to_oauth_token(code, self._now())
        if token.is_snapshot_user:
            return token
        with _code_used_up():
            return await self._save_exchanged(token)

    async def _save_exchanged(self, token: OAuthToken) -> OAuthToken:
        async with self._tokens.lock(token.open_id):
            saved = await self._saved_before(token.open_id)
            if saved is not None:
                token = _knowing(token, saved)
                if _has_profile(saved) and not _has_profile(token):
                    return token  # the wider one is good for more, and for as long
            return await self._save(token)

    async def _exchange_of_person(self, code: str) -> OAuthToken:
        token = await self._exchange_for(code)
        if token.is_snapshot_user:
            raise SnapshotUserError(
                "WeChat showed this page to a virtual account, because it asked to authorize "
                "before the user touched anything. Ask when they press a button."
            )
        return token

    async def _save(self, token: OAuthToken) -> OAuthToken:
        await self._tokens.save(token.open_id, token)
        return token

    async def _saved(self, open_id: str) -> OAuthToken:
        _check_open_id(open_id)
        token = await self._tokens.get(open_id)
        if token is None:
            raise NoOAuthTokenError(f"No token of {open_id!r} is saved: authorize first.")
        return token

    async def _saved_before(self, open_id: str) -> OAuthToken | None:
        """What is there before a login replaces it."""
        try:
            return await self._tokens.get(open_id)
        except NoOAuthTokenError as error:  # it is replaced now
            logger.warning("A saved OAuth token could not be read: %s", error)
        except StoreError:  # which is logged; when the store is down, saving fails as well
            pass
        return None

    async def _refreshed(self, stale: OAuthToken) -> OAuthToken:
        with waiting_for_wechat():
            return await self._refreshes.join(stale, partial(self._refresh, stale))

    async def _refresh(self, stale: OAuthToken) -> OAuthToken:
        """Refresh a token while all other processes are kept out, unless one of them has."""
        async with within_lock(self._tokens.lock(stale.open_id)):
            saved = await self._saved(stale.open_id)
            if saved != stale and saved.is_valid(self._now()):
                return saved
            token = await self._api.refresh_oauth_token(saved.refresh_token, self._now())
            if token.open_id != saved.open_id:
                raise invalid_answer("WeChat's answer has another openid than the token.")
            return await self._save(_knowing(token, saved))

    async def _get_mini_program_user(self, code: str, encrypted_data: str, iv: str) -> OAuthUser:
        session = await self._api.code_to_session(code)
        payload = await asyncio.get_running_loop().run_in_executor(
            self._connections.executor,
            decrypt_user_data,
            session.session_key,
            encrypted_data,
            iv,
            self._app_id,
        )
        if not self._api.names_same_user(session, payload):
            raise IdentityMismatchError("The user data does not name the user of this code.")
        return OAuthUser.from_wechat(session.open_id, session.union_id, payload)

    def _open(
        self,
        tokens: str | OAuthTokenStore | OAuthTokenFunctions,
        keys: Sequence[str | bytes],
    ) -> OAuthTokenStore:
        if isinstance(tokens, str):
            records = open_key_value_store(tokens, self._connections, self._clock)
            store = KeyValueOAuthTokenStore(records, app_id=self._app_id, keys=keys)
            self._calls.on_close(store.close)
            return store
        functions: Any
        if isinstance(tokens, (tuple, list)):
            functions = tokens
        elif hasattr(tokens, "lock") and hasattr(tokens, "spend_state"):
            return GuardedOAuthTokenStore(tokens)
        else:  # a store that can do no more than functions could
            functions = getattr(tokens, "get", None), getattr(tokens, "save", None)
            if hasattr(tokens, "delete"):
                functions = *functions, tokens.delete
        if len(functions) not in (2, 3) or not all(map(callable, functions)):
            raise ConfigurationError(
                "tokens must be a URL, an OAuthTokenStore, a pair of functions, get_token and "
                "save_token, or three with delete_token; all of them async."
            )
        return FunctionOAuthTokenStore(functions, clock=self._clock)

    def _now(self) -> int:
        """The time in Unix milliseconds."""
        return int(self._clock() * 1000)


@contextmanager
def _code_used_up() -> Iterator[None]:
    """What follows the exchange of a code: the same call cannot succeed later."""
    try:
        yield
    except MPAuthXError as error:
        error.retryable = False
        raise


def _check_open_id(open_id: object) -> None:
    if not is_user_id(open_id):
        raise ParameterError("open_id is required, as WeChat gave it.")


def _knowing(token: OAuthToken, saved: OAuthToken) -> OAuthToken:
    """A newer token of the same user: WeChat gives the unionid for some codes, and not again."""
    return replace(token, union_id=token.union_id or saved.union_id)


def _has_profile(token: OAuthToken) -> bool:
    """Whether the user has granted their profile."""
    return not _WITH_PROFILE.isdisjoint(token.scope.split(","))


def _escape(text: str) -> str:
    """Percent-encode as JavaScript's encodeURIComponent does."""
    return quote(text, safe=_UNESCAPED)
