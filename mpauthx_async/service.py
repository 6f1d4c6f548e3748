"""MPAuthX: the mini-program service."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self, TypeVar

from .coalescer import Coalescer, settle
from .connections import Connections
from .constants import StatusCode
from .errors import (
    ClosedError,
    ConfigurationError,
    IdentityMismatchError,
    MPAuthXError,
    ParameterError,
    UserNotFoundError,
)
from .models import AuthResult, CodeSession, NewSession, SessionRef, Subject, User, is_user_id
from .stores import TokenStore, UserStore, open_token_store, open_user_store
from .tokens import TokenSigner, new_nonce, parse_token
from .userdata import decrypt_user_data
from .wechat import WeChatAPI, check_code
from .wechat_http import API_HOSTS

__all__ = ["MPAuthX"]

logger = logging.getLogger(__name__)

_LONGEST_TTL = 315_360_000  # seconds: ten years

Item = TypeVar("Item")
Result = TypeVar("Result")


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
        self._logins = Coalescer(self._finish_logins, max_in_flight=1)
        self._refreshes = Coalescer(self._finish_refreshes, max_batch=64)
        self._lookups = Coalescer(self._tokens.lookup, max_in_flight=2)
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
        refresh = _Refresh(user_id)
        return await self._fly(refresh, lambda flight: self._refresh(flight, refresh))

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
        for flight in self._flights.values():
            if flight.is_waiting:
                settle(flight.callers, _closed())
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self._logins.close()
        await self._refreshes.close()
        await self._lookups.close()
        for store in self._opened:
            await store.close()
        if self._owns_connections:
            await self._connections.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _fly(
        self, key: Hashable, work: "Callable[[_Flight], Coroutine[Any, Any, AuthResult | None]]"
    ) -> AuthResult:
        """Join the flight of this key, or start it. It goes on when a caller is cancelled."""
        if self._closed:
            raise _closed()
        caller: asyncio.Future[AuthResult] = asyncio.get_running_loop().create_future()
        flight = self._flights.get(key)
        if flight is not None:
            flight.callers.append(caller)
        else:
            flight = self._flights[key] = _Flight(caller)
            self._start(self._complete(key, flight, work(flight)))
        try:
            return await caller
        except asyncio.CancelledError:
            if flight.callers == [caller] and caller.done() and not caller.cancelled():
                # Cancelled in the tick in which the answer came.
                self._start(self._withdraw(caller.exception() or caller.result()))
            raise

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

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
        if outcome is not None and not settle(flight.callers, outcome):
            await self._withdraw(outcome)

    async def _withdraw(self, outcome: AuthResult | BaseException) -> None:
        """Take back a token that nobody got, or tell the log of a failure that nobody heard of."""
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
            if flight.is_given_up:
                return None
            flight.is_waiting = False
            session = await self._api.code_to_session(code)
            return await self._logins.submit(_Login(session, data))

    async def _refresh(self, flight: "_Flight", refresh: "_Refresh") -> AuthResult:
        flight.is_waiting = False
        return await self._refreshes.submit(refresh)

    async def _finish_logins(self, logins: "Sequence[_Login]") -> Sequence[AuthResult | Exception]:
        """What follows the trade of the code, for a batch: decrypt, save, give tokens."""
        users = await self._read_users(logins)
        kept = await _for_good(users, self._keep)
        return await _for_good(kept, self._give_tokens)

    async def _finish_refreshes(
        self, refreshes: "Sequence[_Refresh]"
    ) -> Sequence[AuthResult | Exception]:
        found = await self._users.get([refresh.user_id for refresh in refreshes])
        for user in found:
            if user is not None and user.open_id != user.id:
                # Tokens from before the unionId was known.
                await self._tokens.revoke_subject(Subject(self._sku, user.open_id))
        kept = [_not_found() if user is None else (user, False) for user in found]
        return await _for_good(kept, partial(self._give_tokens, sole=True))

    async def _read_users(self, logins: "Sequence[_Login]") -> list[User | Exception]:
        now = int(self._clock() * 1000)
        if all(login.data is None for login in logins):
            return _read_users(logins, self._app_id, now)
        return await asyncio.get_running_loop().run_in_executor(
            self._connections.executor, _read_users, logins, self._app_id, now
        )

    async def _keep(self, users: Sequence[User]) -> list[tuple[User, bool]]:
        """Save users; returns each as stored, under this app's openId, and whether it is new."""
        is_new = await self._users.save(users)
        known = [user.id for user, new in zip(users, is_new, strict=True) if not new]
        stored = iter(await self._users.get(known) if known else ())
        return [
            (user if new else _as_stored(user, next(stored)), new)
            for user, new in zip(users, is_new, strict=True)
        ]

    async def _give_tokens(
        self, kept: Sequence[tuple[User, bool]], *, sole: bool = False
    ) -> list[AuthResult]:
        now = int(self._clock() * 1000)
        begun = [
            NewSession(SessionRef(self._sku, user.id, new_nonce()), now, self._ttl, sole)
            for user, _ in kept
        ]
        sessions = await self._tokens.issue(begun)
        return [
            AuthResult(1, "OK", self._signer.mint(user.id, session.ref.nonce), user, session, new)
            for (user, new), session in zip(kept, sessions, strict=True)
        ]

    def _open(self, store: Any, opener: Callable[[str], Any]) -> Any:
        if isinstance(store, str):
            store = opener(store)
            self._opened.append(store)
        return store


@dataclass(frozen=True, slots=True)
class _SealedData:
    encrypted_data: str
    iv: str


@dataclass(slots=True, eq=False)
class _Login:
    """A login whose code has been traded. No two are equal: each is answered for itself."""

    session: CodeSession
    data: _SealedData | None


@dataclass(slots=True, eq=False)
class _Refresh:
    """A refresh that was asked for. No two are equal: each is answered for itself."""

    user_id: str


class _Flight:
    """One call's work, which others may have joined."""

    __slots__ = ("callers", "is_waiting")

    def __init__(self, caller: "asyncio.Future[AuthResult]") -> None:
        self.callers = [caller]
        self.is_waiting = True  # for its turn

    @property
    def is_given_up(self) -> bool:
        return all(caller.done() for caller in self.callers)


async def _for_good(
    items: Sequence[Item | Exception], step: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]]
) -> list[Result | Exception]:
    """Take a step with the items that have not failed; those that have keep their places."""
    good = [item for item in items if not isinstance(item, Exception)]
    results = iter(await step(good) if good else ())
    return [item if isinstance(item, Exception) else next(results) for item in items]


def _read_users(logins: Sequence[_Login], app_id: str, now: int) -> list[User | Exception]:
    """Make the users of logins, decrypting what the clients sent."""
    users: list[User | Exception] = []
    for login in logins:
        try:
            payload = {} if login.data is None else _payload(login.session, login.data, app_id)
            users.append(User.from_wechat(login.session, payload, now))
        except MPAuthXError as error:
            users.append(error)
    return users


def _payload(session: CodeSession, data: _SealedData, app_id: str) -> dict[str, Any]:
    payload = decrypt_user_data(session.session_key, data.encrypted_data, data.iv, app_id)
    _check_identity(session, payload)
    return payload


def _as_stored(user: User, stored: User | None) -> User:
    """The user as stored, under the ids of this login; `stored` is None if deleted meanwhile."""
    if stored is None:
        return user
    union_id = user.union_id or (stored.union_id if is_user_id(stored.union_id) else None)
    return replace(stored, open_id=user.open_id, union_id=union_id)


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


def _not_found() -> UserNotFoundError:
    return UserNotFoundError("No user with this id has logged in: authorize first.")


def _closed() -> ClosedError:
    return ClosedError("This service is closed. Create a new one to go on.")
