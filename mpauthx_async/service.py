"""MPAuthX: the mini-program service."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from .coalescer import Coalescer, settle
from .connections import Connections
from .constants import StatusCode
from .errors import (
    ClosedError,
    ConfigurationError,
    DecryptionError,
    IdentityMismatchError,
    MPAuthXError,
    ParameterError,
    UserNotFoundError,
)
from .models import AuthResult, CodeSession, NewSession, SessionRef, Subject, User
from .stores import TokenStore, UserStore, open_token_store, open_user_store
from .tokens import TokenSigner, new_nonce, parse_token
from .userdata import decrypt_user_data
from .wechat import API_HOSTS, WeChatAPI, check_code

__all__ = ["MPAuthX"]

logger = logging.getLogger(__name__)


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
        if token_ttl < 0.001 or max_concurrent_logins < 1:
            raise ConfigurationError("token_ttl and max_concurrent_logins must be above zero.")
        self._app_id = app_id
        self._sku = sku
        self._ttl = int(token_ttl * 1000)
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
        # One batch at a time where a thread does the work: a trip costs, whatever it carries.
        self._decryptions = Coalescer(self._decrypt, max_in_flight=1)
        # The key: two logins of one new user are not the same question, only one of them is first.
        self._saves = Coalescer(self._save, max_in_flight=1, key=id)
        self._finds = Coalescer(self._users.get)
        self._issues = Coalescer(self._tokens.issue, max_batch=100)
        self._lookups = Coalescer(self._tokens.lookup)
        self._slots = asyncio.Semaphore(max_concurrent_logins)
        self._flights: dict[Hashable, _Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<MPAuthX {self._app_id} sku={self._sku}>"

    async def authorize(
        self, code: str, encrypted_data: str | None = None, iv: str | None = None
    ) -> AuthResult:
        """Log a user in: trade the code at WeChat, keep the user, give a token.

        Concurrent calls with the same arguments are one login and get the same token. A user may
        log in on several devices; each has a token of its own.

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
            data = _SealedData(encrypted_data, iv)
        return await self._fly((code, data), lambda flight: self._log_in(flight, code, data))

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
            raise _closed()
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
        return await self._fly(object(), lambda _: self._refresh(user_id))

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
        while self._tasks:
            await asyncio.wait(self._tasks)
        for coalescer in (
            self._decryptions,
            self._saves,
            self._finds,
            self._issues,
            self._lookups,
        ):
            await coalescer.close()
        for store in self._opened:
            await store.close()
        if self._owns_connections:
            await self._connections.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _fly(
        self, key: Hashable, work: "Callable[[_Flight], Coroutine[Any, Any, AuthResult | None]]"
    ) -> AuthResult:
        """Join the flight of this key, or start it. It goes on when a caller is cancelled."""
        if self._closed:
            raise _closed()
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight()
            task = asyncio.create_task(self._complete(key, flight, work(flight)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        caller: asyncio.Future[AuthResult] = asyncio.get_running_loop().create_future()
        flight.callers.append(caller)
        return await caller

    async def _complete(
        self, key: Hashable, flight: "_Flight", work: Coroutine[Any, Any, AuthResult | None]
    ) -> None:
        """Do a flight's work for its callers. When all have left, no token stays behind."""
        outcome: AuthResult | BaseException | None
        try:
            outcome = await work
        except BaseException as error:  # noqa: BLE001 (it goes to the callers)
            outcome = error
        del self._flights[key]  # from here on nobody can join
        if outcome is None or settle(flight.callers, outcome):
            return
        try:
            if isinstance(outcome, BaseException):
                raise outcome
            await self._tokens.revoke([outcome.session.ref])
        except MPAuthXError as error:
            logger.warning("A call that was given up failed: %s", error)

    async def _log_in(
        self, flight: "_Flight", code: str, data: "_SealedData | None"
    ) -> AuthResult | None:
        async with self._slots:
            if self._closed:
                raise _closed()
            if flight.is_given_up:
                return None
            session = await self._api.code_to_session(code)
            payload: Mapping[str, Any] = {}
            if data is not None:
                payload = await self._decryptions.submit((session, data))
                _check_identity(session, payload)
            user, is_new = await self._saves.submit(User.from_wechat(session, payload, self._now()))
            return await self._give_token(user, is_new=is_new)

    async def _refresh(self, user_id: str) -> AuthResult:
        user = await self._finds.submit(user_id)
        if user is None:
            raise UserNotFoundError("No user with this id has logged in: authorize first.")
        if user.open_id != user.id:  # tokens from before the unionId was known
            await self._tokens.revoke_subject(Subject(self._sku, user.open_id))
        return await self._give_token(user, sole=True)

    async def _give_token(
        self, user: User, *, is_new: bool = False, sole: bool = False
    ) -> AuthResult:
        ref = SessionRef(self._sku, user.id, new_nonce())
        token = self._signer.mint(user.id, ref.nonce)
        session = await self._issues.submit(NewSession(ref, self._now(), self._ttl, sole))
        return AuthResult(int(StatusCode.success), "OK", token, user, session, is_new)

    async def _decrypt(
        self, batch: "Sequence[tuple[CodeSession, _SealedData]]"
    ) -> Sequence[dict[str, Any] | Exception]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._connections.executor, _decrypt_all, batch, self._app_id
        )

    async def _save(self, users: Sequence[User]) -> Sequence[tuple[User, bool]]:
        """Save users; returns each as stored, under this app's openId, and whether it is new."""
        is_new = await self._users.save(users)
        known = [user.id for user, new in zip(users, is_new, strict=True) if not new]
        stored = iter(await self._users.get(known) if known else ())
        return [
            (user, True) if new else (_as_stored(user, next(stored)), False)
            for user, new in zip(users, is_new, strict=True)
        ]

    def _now(self) -> int:
        return int(self._clock() * 1000)

    def _open(self, store: Any, opener: Callable[[str], Any]) -> Any:
        if isinstance(store, str):
            store = opener(store)
            self._opened.append(store)
        return store


@dataclass(frozen=True, slots=True)
class _SealedData:
    encrypted_data: str
    iv: str


class _Flight:
    """One call's work, which others may have joined."""

    __slots__ = ("callers",)

    def __init__(self) -> None:
        self.callers: list[asyncio.Future[AuthResult]] = []

    @property
    def is_given_up(self) -> bool:
        return all(caller.cancelled() for caller in self.callers)


def _decrypt_all(
    batch: Sequence[tuple[CodeSession, _SealedData]], app_id: str
) -> list[dict[str, Any] | Exception]:
    answers: list[dict[str, Any] | Exception] = []
    for session, data in batch:
        try:
            answers.append(
                decrypt_user_data(session.session_key, data.encrypted_data, data.iv, app_id)
            )
        except DecryptionError as error:
            answers.append(error)
    return answers


def _as_stored(user: User, stored: User | None) -> User:
    """The user as stored, under the ids of this login; `stored` is None if deleted meanwhile."""
    if stored is None:
        return user
    return replace(stored, open_id=user.open_id, union_id=user.union_id or stored.union_id)


def _check_identity(session: CodeSession, payload: Mapping[str, Any]) -> None:
    union_id = payload.get("unionId")
    if payload.get("openId") != session.open_id or (
        session.union_id and union_id and union_id != session.union_id
    ):
        raise IdentityMismatchError(
            "The user data does not name the user of this code. Send the code and the data of one "
            "wx.login together; data without an openId (wx.getUserProfile) proves nobody's "
            "identity, so send the code alone."
        )


def _closed() -> ClosedError:
    return ClosedError("This service is closed. Create a new one to go on.")
