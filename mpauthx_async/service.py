"""MPAuthX: the mini-program service."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self

from .coalescer import Coalescer
from .connections import Connections
from .constants import StatusCode
from .errors import ClosedError, ConfigurationError, ParameterError
from .logins import Logins, SealedData
from .models import AuthResult
from .stores import TokenStore, UserStore, open_token_store, open_user_store
from .tokens import TokenSigner, parse_token
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
        signing_keys: what signs tokens, oldest to newest, at least 16 bytes each: the newest
            signs, all verify. By default the app_secret alone; after a change of the secret,
            `[old_secret, new_secret]` lets earlier tokens live on.
        max_concurrent_logins: how many logins are worked on at once; others wait in order.
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
        api_base: str | Sequence[str] = API_HOSTS,
        signing_keys: Sequence[str | bytes] | None = None,
        max_concurrent_logins: int = 128,
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
        )
        self._signer = TokenSigner(
            app_id=app_id, sku=sku, keys=[app_secret] if signing_keys is None else signing_keys
        )
        self._opened: list[Any] = []  # the stores that were opened here
        self._users: UserStore = self._open(users, lambda url: open_user_store(url, clock))
        self._tokens: TokenStore = self._open(
            tokens, lambda url: open_token_store(url, self._connections, clock)
        )
        self._logins = Logins(
            app_id=app_id,
            sku=sku,
            signer=self._signer,
            users=self._users,
            tokens=self._tokens,
            connections=self._connections,
            ttl=int(token_ttl * 1000),
            max_concurrent=max_concurrent_logins,
            clock=clock,
        )
        self._lookups = Coalescer(self._tokens.lookup, max_in_flight=2)
        self._closed = False

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
        if self._closed:
            raise ClosedError("This service is closed. Create a new one to go on.")
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
        self._closed = True
        await self._logins.close()
        await self._lookups.close()
        for store in self._opened:
            await store.close()
        if self._owns_connections:
            await self._connections.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _open(self, store: Any, opener: Callable[[str], Any]) -> Any:
        if isinstance(store, str):
            store = opener(store)
            self._opened.append(store)
        return store
