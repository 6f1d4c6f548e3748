"""MPAuthX: the mini-program service."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self

from .access_token import AppAccessToken
from .coalescer import Coalescer
from .code_exchange import CodeExchange
from .connections import Connections
from .constants import StatusCode
from .errors import (
    ConfigurationError,
    DecryptionError,
    ParameterError,
)
from .logins import Logins, SealedData
from .models import AuthResult, PhoneNumber, User
from .oauth import WeChatOAuth
from .open_calls import OpenCalls
from .session_keys import SessionKeys, SessionKeySealer
from .stores import (
    RecordOAuthTokenStore,
    Records,
    RedisRecords,
    TokenStore,
    UserStore,
    open_records,
    open_token_store,
    open_user_store,
)
from .tokens import TokenSigner, parse_token
from .userdata import verify_raw_data
from .wechat import WeChatAPI, check_code
from .wechat_http import API_HOSTS

__all__ = ["MPAuthX"]

_LONGEST_TTL = 315_360_000  # seconds: ten years


class MPAuthX:
    """Logs mini-program users in and answers for their tokens.

    It opens its connections when they are first used, so it can be created anywhere, and may serve
    thousands of concurrent calls. Use it as `async with`, or call `close()` at the end.

    Args:
        app_id: the mini-program's AppID.
        app_secret: its secret. It appears in no log line, repr or exception.
        sku: one project or build, 1 to 64 characters of `[A-Za-z0-9._-]`: tokens of one sku are
            not valid for another, so that debug and production may share a Redis.
        users: a URL (`sqlite:///users.db`) or any UserStore, which stays open.
        tokens: a URL (`redis://localhost:6379/0`, `sqlite:///tokens.db`) or any TokenStore, which
            stays open.
        token_ttl: how long a token lives, in seconds.
        connections: shared with other services, and closed by whoever made them.
        api_base: WeChat's address, or several in the order in which to try them.
        signing_keys: what signs tokens, and encrypts the session keys that are kept, oldest to
            newest, at least 16 bytes each: the newest signs, all verify. By default the app_secret
            alone; after a change of the secret, `[old_secret, new_secret]` lets earlier tokens live
            on.
        max_concurrent_logins: how many logins are worked on at once; others wait in order.
        web: the web logins of `authorize_web`, which stay open; by default those of this app.
        exchange: another way to trade the codes of `authorize` than the app's own: a
            ComponentExchange or a WeComExchange. The app's secret is then sent to nobody, and calls
            that need its own access token are not to be had.
        clock: tells the time in Unix seconds.

    Raises:
        ConfigurationError: for arguments that cannot work.
    """

    constants = StatusCode

    def __init__(
        self,
        *,
        app_id: str,
        app_secret: str,
        sku: str,
        users: str | UserStore,
        tokens: str | TokenStore,
        token_ttl: float = 259_200,
        connections: Connections | None = None,
        api_base: str | Sequence[str] | None = None,
        signing_keys: Sequence[str | bytes] | None = None,
        max_concurrent_logins: int = 128,
        web: WeChatOAuth | None = None,
        exchange: CodeExchange | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not isinstance(token_ttl, (int, float)) or not 0.001 <= token_ttl <= _LONGEST_TTL:
            raise ConfigurationError("token_ttl must be a number of seconds, up to ten years.")
        if not isinstance(max_concurrent_logins, int) or max_concurrent_logins < 1:
            raise ConfigurationError("max_concurrent_logins must be a whole number above zero.")
        self._app_id = app_id
        self._sku = sku
        self._clock = clock
        self._owns_connections = connections is None
        self._connections = Connections() if connections is None else connections
        self._api = WeChatAPI(
            app_id=app_id,
            app_secret=app_secret,
            connections=self._connections,
            api_base=api_base,
            exchange=exchange,
        )
        keys = [app_secret] if signing_keys is None else signing_keys
        self._signer = TokenSigner(app_id=app_id, sku=sku, keys=keys)
        sealer = SessionKeySealer(app_id=app_id, keys=keys)
        self._opened: list[Any] = []  # the stores that were opened here
        self._users: UserStore = self._open(users, lambda url: open_user_store(url, clock))
        self._tokens: TokenStore = self._open(
            tokens, lambda url: open_token_store(url, self._connections, clock)
        )
        self._logins = Logins(
            app_id=app_id,
            sku=sku,
            is_of=self._api.is_of,
            signer=self._signer,
            sealer=sealer,
            users=self._users,
            tokens=self._tokens,
            connections=self._connections,
            ttl=int(token_ttl * 1000),
            max_concurrent=max_concurrent_logins,
            clock=clock,
        )
        self._lookups = Coalescer(self._tokens.lookup, max_in_flight=2)
        self._session_keys = SessionKeys(
            app_id=app_id,
            api=self._api,
            signer=self._signer,
            sealer=sealer,
            tokens=self._tokens,
            connections=self._connections,
            clock=clock,
        )
        self._access_token: AppAccessToken | None = None
        self._own_web: WeChatOAuth | None = None
        if exchange is None:  # else the app's own secret is not known
            self._open_app(app_id, app_secret, tokens, api_base, keys)
        self._web = web or self._own_web
        self._calls = OpenCalls("This service")

    def __repr__(self) -> str:
        return f"<MPAuthX {self._app_id} sku={self._sku}>"

    async def authorize(
        self, code: str, encrypted_data: str | None = None, iv: str | None = None
    ) -> AuthResult:
        """Log a user in: trade the code at WeChat, keep the user, give a token.

        Concurrent calls with the same arguments are one login and get the same token; the data
        counts too, so that nobody's data goes unchecked. A user may log in on several devices;
        each has a token of its own.

        Args:
            code: what `wx.login` gave the client.
            encrypted_data: what `wx.getUserInfo` gave it, sealed in the session of this code;
                together with `iv` or not at all.
            iv: likewise.

        Returns:
            The result, with the token in `response`.

        Raises:
            ParameterError: the code is missing, or one of encrypted_data and iv is.
            WeChatAPIError: WeChat refused the code.
            HTTPStatusError, EmptyResponseError, InvalidResponseError, IncompleteResponseError,
            ConnectionFailedError: WeChat did not answer as it should.
            DecryptionError: the data was not sealed in the session of this code, or is damaged.
            IdentityMismatchError: the data belongs to somebody else.
            StoreError: the user or the token could not be stored; no token was given.
            ClosedError: the service is closed, or was while this call waited for its turn.
        """
        check_code(code)
        data = None
        if encrypted_data or iv:
            if not (
                isinstance(encrypted_data, str) and isinstance(iv, str) and encrypted_data and iv
            ):
                raise ParameterError(
                    "encrypted_data and iv come together, both texts from wx.getUserInfo, or not "
                    "at all."
                )
            data = SealedData(encrypted_data, iv)
        return await self._logins.log_in(
            (code, data), partial(self._api.code_to_session, code), data
        )

    async def authorize_web(self, code: str) -> AuthResult:
        """Log a user of an Official Account page or a website in, with the same kind of token.

        A person whom WeChat gives a unionId has one id and one row, whichever door they come
        through. The profile is kept where the user has granted it (any scope but snsapi_base).

        Args:
            code: what WeChat appended to the redirect_uri. Verify the state that came with it
                first, with `WeChatOAuth.verify_state`.

        Raises:
            SnapshotUserError: the page was shown to a virtual account.
            ConfigurationError: `tokens` is no URL, and no `web` was given.
            And as `authorize`.
        """
        check_code(code)
        web = self._web
        if web is None:
            raise _no_records("authorize_web needs `web`, or")
        return await self._logins.log_in(("web", code), partial(self._identify, web, code))

    async def is_token_valid(self, token: object) -> bool:
        """Tell whether a token is good: given out by this app and sku, and still alive.

        Args:
            token: what the client sent, whatever it is.

        Returns:
            False for anything that is no living token, of any type or form. A forged or malformed
            one is refused without asking the store.

        Raises:
            StoreError: the store could not answer, so the token may be good or not.
            ClosedError: the service is closed.
        """
        self._calls.check_open()
        ref = self._signer.verify(token)
        if ref is None:
            return False
        expires_at = await self._lookups.submit(ref)
        return expires_at is not None and expires_at > self._clock() * 1000

    async def refresh_token(self, user_id: str) -> AuthResult:
        """Give a user a new token; every earlier one of theirs for this sku dies.

        For trusted server code only: a user id is no secret, so never let a client call this.

        Args:
            user_id: the user's unionId, or openId if they have none.

        Raises:
            ParameterError: the user id is missing.
            UserNotFoundError: nobody with this id has ever logged in.
            StoreError: a store could not answer.
            ClosedError: the service is closed.
        """
        if not isinstance(user_id, str) or not user_id:
            raise ParameterError("user_id is required, as a text.")
        return await self._logins.refresh(user_id)

    async def decrypt(self, token: object, encrypted_data: str, iv: str) -> dict[str, Any]:
        """Decrypt what a client got sealed in the session of its login: share info, run data …

        Args:
            token: what the login gave.
            encrypted_data: the client's `encryptedData`.
            iv: the client's `iv`.

        Returns:
            The payload with WeChat's own field names.

        Raises:
            ParameterError: encrypted_data or iv is no text.
            InvalidTokenError: the token is not valid.
            SessionKeyLostError: no session key is kept for this token; the client has to log in
                again.
            DecryptionError: the data was sealed with another key, because the client has called
                wx.login since, or is damaged; the client has to log in again.
            ConfigurationError: the token store keeps no session keys.
            StoreError: the store could not answer.
            ClosedError: the service is closed.
        """
        if not isinstance(encrypted_data, str) or not isinstance(iv, str):
            raise ParameterError("encrypted_data and iv are required, both texts from the client.")
        with self._calls.one():
            return await self._session_keys.decrypt(token, encrypted_data, iv)

    async def decrypt_phone_number(
        self, token: object, encrypted_data: str, iv: str
    ) -> PhoneNumber:
        """Decrypt the phone number that the button gave the client; raises as `decrypt`.

        It is the old form; today's clients get a code: `get_phone_number`.
        """
        number = PhoneNumber.from_wechat(await self.decrypt(token, encrypted_data, iv))
        if number is None:
            raise DecryptionError("The data holds no phone number.")
        return number

    async def verify_raw_data(self, token: object, raw_data: str, signature: str) -> bool:
        """Tell whether `rawData` is what WeChat signed in the session; raises as `decrypt`."""
        with self._calls.one():
            _, session = await self._session_keys.of(token)
            return verify_raw_data(session.session_key, raw_data, signature)

    async def get_phone_number(self, code: str) -> PhoneNumber:
        """Trade the code that the phone number button gave the client.

        Args:
            code: works once within 5 minutes; it is not the one of wx.login.

        Raises:
            As `access_token`, and ParameterError: this can be no code.
        """
        check_code(code)
        with self._calls.one():
            return await self._app_access().call(partial(self._api.get_phone_number, code))

    async def check_session(self, token: object) -> bool:
        """Ask WeChat whether the session key behind a token is still the user's.

        Returns:
            False when WeChat has replaced it: data that the client gets from now on does not
            decrypt until it has logged in again.

        Raises:
            As `decrypt` for the token, and as `access_token`.
        """
        with self._calls.one():
            return await self._session_keys.check(token, self._app_access())

    async def reset_session(self, token: object) -> None:
        """Have WeChat replace the session key behind a token; the new one is kept.

        Concurrent calls with the same token are one. It goes on when a caller is cancelled: else
        the key that WeChat gave would be lost.

        Raises:
            SessionKeyLostError: WeChat has replaced it before; the client has to log in again.
            And as `check_session`.
        """
        with self._calls.one():
            await self._session_keys.reset(token, self._app_access())

    async def access_token(self) -> str:
        """The app's own access token, for calls to WeChat of your own.

        It is kept for all processes, and fetched by one of them a little before its end.

        Raises:
            WeChatAPIError: WeChat refused.
            HTTPStatusError, EmptyResponseError, InvalidResponseError, IncompleteResponseError,
            ConnectionFailedError: WeChat did not answer as it should.
            ConfigurationError: `tokens` is no URL and the connections know no Redis, or there is
                an `exchange`.
            StoreError: the store could not answer.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            return await self._app_access().get()

    @staticmethod
    def extract_open_id(token: object) -> str | None:
        """The user id that a token names; proven only once `is_token_valid` says True.

        Returns:
            The unionId where WeChat gave one, else the openId; None without three parts.
        """
        parts = parse_token(token)
        return parts and parts.open_id

    @staticmethod
    def extract_sku(token: object) -> str | None:
        """The sku that a token names; None for one without three parts."""
        parts = parse_token(token)
        return parts and parts.sku

    async def close(self) -> None:
        """Let what is in flight finish, refuse what waits, close what was opened here.

        May be called again.
        """
        self._calls.refuse_more()
        await self._logins.close()
        await self._calls.close()
        await self._lookups.close()
        await self._session_keys.close()
        if self._access_token is not None:
            await self._access_token.close()
        if self._own_web is not None:
            await self._own_web.close()
        for store in self._opened:
            await store.close()
        if self._owns_connections:
            await self._connections.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _app_access(self) -> AppAccessToken:
        if self._access_token is None:
            raise _no_records("The app's access token needs")
        return self._access_token

    async def _identify(self, web: WeChatOAuth, code: str) -> User:
        found = await web.identify(code)
        now = int(self._clock() * 1000)
        return User(
            found.open_id,
            found.union_id,
            found.nick_name,
            found.gender,
            found.city,
            found.province,
            found.country,
            found.language,
            found.avatar_url,
            created_at=now,
            updated_at=now,
        )

    def _open_app(
        self,
        app_id: str,
        app_secret: str,
        tokens: str | TokenStore,
        api_base: str | Sequence[str] | None,
        keys: Sequence[str | bytes],
    ) -> None:
        """Make what needs the app's own secret, if there is a place for what it keeps."""
        records = self._open_records(tokens)
        if records is None:
            return
        self._access_token = AppAccessToken(
            lambda force: self._api.get_stable_token(force_refresh=force),
            records,
            f"access_token|{app_id}",
            self._clock,
        )
        self._own_web = WeChatOAuth(
            app_id=app_id,
            app_secret=app_secret,
            tokens=RecordOAuthTokenStore(records, app_id=app_id),
            connections=self._connections,
            api_base=API_HOSTS if api_base is None else api_base,
            signing_keys=keys,
            clock=self._clock,
        )

    def _open_records(self, tokens: str | TokenStore) -> Records | None:
        """Where all processes find what is kept beside the tokens; None where there is nothing."""
        if isinstance(tokens, str):
            records: Records = self._open(
                tokens, lambda url: open_records(url, self._connections, self._clock)
            )
            return records
        return RedisRecords(self._connections) if self._connections.knows_redis else None

    def _open(self, store: Any, opener: Callable[[str], Any]) -> Any:
        if isinstance(store, str):
            store = opener(store)
            self._opened.append(store)
        return store


def _no_records(what: str) -> ConfigurationError:
    return ConfigurationError(
        f"{what} the app's own secret, so no `exchange`, and a place that all processes share: "
        "give `tokens` as a URL, or `connections` with a Redis."
    )
