"""MPAuthX: the mini-program service."""

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Self

from .concurrency.in_flight import InFlight, check_timeout
from .concurrency.traceback_frames import clear_frames, methods_clear_frames
from .connections import Connections
from .constants import StatusCode, TokenStatus
from .errors import ParameterError
from .events import Listener, PushEvent, WeChatFailed
from .gauges import Gauges
from .login.device import Device
from .login.erasure import Erasure
from .login.other_logins import create_web, log_in_on_web, log_in_proven
from .login.pipeline import Logins
from .models import (
    AuthResult,
    Ban,
    Identity,
    LoginPolicy,
    OnlinePage,
    PhoneNumber,
    Session,
    UserEncryptKey,
)
from .oauth.client import WeChatOAuth
from .sessions.active_sessions import ActiveSessions
from .sessions.bans import Bans
from .sessions.linked_ids import LinkedIds
from .sessions.rotation_and_reuse import Rotations
from .sessions.session_keys import SessionKeys
from .sessions.token_validation import TokenValidator, invalid_token
from .sessions.until_revoked import SessionWatch, UntilRevoked
from .settings import Settings
from .shared_parts import Parts, check_part
from .stores import TokenStore, UserStore
from .stores.readiness import check_stores
from .tokens.format import parse_token
from .wechat.access_token import create_access_token
from .wechat.api import WeChatAPI, check_code
from .wechat.exchanges import CodeExchange
from .wechat.push_events import PushEventHandler
from .wechat.userdata import check_max_age, check_sealed

__all__ = ["MPAuthX"]

_ACTIVE, _UNKNOWN = TokenStatus.active, TokenStatus.unknown  # looked up once, for speed


@methods_clear_frames("authenticate", "authorize", "is_token_valid")
class MPAuthX:
    """Logs mini-program users in and validates their tokens.

    It opens its connections when they are first used, so it can be created anywhere, and may serve
    thousands of concurrent calls. Use it as `async with`, or call `close()` at the end.

    The first call binds it to the running event loop and the process. In a forked child process
    every call raises ConfigurationError, and in another loop every call that needs more than memory
    (`is_token_valid` answers for forged tokens, and from a near cache). After `close()` every async
    method but `close` raises ClosedError, and `gauges` returns zeros.

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
        signing_keys: the keys that sign tokens, and encrypt the stored session keys, web OAuth
            tokens and access token; oldest to newest, at least 16 bytes each. The newest signs and
            encrypts, all verify and decrypt. Random keys of your own are recommended: the default
            is the app_secret, which travels in the URLs of calls to WeChat. `[old_key, new_key]`
            changes keys and keeps sessions.
        policy: which sessions of a user may be active at once; by default the 100 newest.
        absolute_ttl: the maximum lifetime of a session, in seconds. If given, expiration slides:
            `token_ttl` counts from a token's last use. By default it does not slide, and a rotated
            session ends 90 days after its login, or `token_ttl` after it if that is longer.
        rotation_grace: for how long a repeated `rotate` gets the same answer, in seconds. Clients
            and the Redis client repeat calls whose answer was lost.
        login_timeout: how long a login may wait to begin, in seconds; then OverloadedError.
        max_waiting_logins: how many logins may wait to begin; one more raises OverloadedError.
        web: the WeChatOAuth that `authorize_web` uses, which `close` leaves open; by default one
            for this app.
        exchange: how to exchange the codes of `authorize`, if not with the app's own secret: a
            ComponentExchange or a WeComExchange. The secret is then never sent, and methods that
            need the app's access token raise ConfigurationError, unless the exchange has one.
        clock: returns the time in Unix seconds.

    Raises:
        ConfigurationError: if an argument cannot work.
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
        token_ttl: float = Settings.token_ttl,
        connections: Connections | None = None,
        api_base: str | Sequence[str] | None = None,
        signing_keys: Sequence[str | bytes] | None = None,
        policy: LoginPolicy | None = None,
        absolute_ttl: float | None = Settings.absolute_ttl,
        rotation_grace: float = Settings.rotation_grace,
        login_timeout: float = Settings.login_timeout,
        max_waiting_logins: int = Settings.max_waiting_logins,
        web: WeChatOAuth | None = None,
        exchange: CodeExchange | None = None,
        clock: Callable[[], float] = Settings.clock,
    ) -> None:
        self._settings = Settings(
            app_id=app_id,
            app_secret=app_secret,
            sku=sku,
            policy=LoginPolicy() if policy is None else policy,
            signing_keys=signing_keys,
            token_ttl=token_ttl,
            absolute_ttl=absolute_ttl,
            rotation_grace=rotation_grace,
            login_timeout=login_timeout,
            max_waiting_logins=max_waiting_logins,
            clock=clock,
        )
        check_part("connections", "Connections", connections, isinstance(connections, Connections))
        check_part("web", "WeChatOAuth", web, isinstance(web, WeChatOAuth))
        check_part("exchange", "CodeExchange", exchange, hasattr(exchange, "code_to_session"))
        self._calls = InFlight(self, "This service", name=repr(self))
        if connections is None:
            connections = Connections()
            self._calls.on_close(connections.close)
        self._exchange = exchange
        self._api = WeChatAPI(
            app_id=app_id,
            app_secret=app_secret,
            connections=connections,
            api_base=api_base,
            exchange=exchange,
            on_refused=lambda errcode: self._parts.events.emit(WeChatFailed(errcode)),
        )
        # Bound once: the garbage collector would visit a bound method for each waiting login.
        self._exchange_code = self._api.exchange_code
        self._parts = Parts(self._settings, self._calls, users, tokens, connections)
        self._access_token = create_access_token(self._parts, self._api, exchange)
        self._web = create_web(self._parts, exchange, api_base) if web is None else web
        self._compose()

    def __repr__(self) -> str:
        return f"<MPAuthX {self._settings.app_id} sku={self._settings.sku}>"

    async def authorize(
        self,
        code: str,
        encrypted_data: str | None = None,
        iv: str | None = None,
        *,
        device: str | None = None,
        device_kind: str | None = None,
        max_age: float | None = None,
    ) -> AuthResult:
        """Log a user in: exchange the code at WeChat, save the user, issue a token.

        Concurrent calls with one code, and the same data and device, are one login and share a
        token. encrypted_data and iv are part of the key, so every caller's data is verified.

        Args:
            code: what `wx.login` gave the client.
            encrypted_data, iv: what `wx.getUserInfo` gave it in the session of this code.
            device: the user's name for the device, such as "iPhone 15": one line of at most 64
                characters and 200 bytes of UTF-8.
            device_kind: such as "phone" or "desktop", likewise; by default the device's name.
            max_age: how many seconds ago WeChat may have encrypted the data; None for no limit.

        Returns:
            The result, with the token in `response`.

        Raises:
            ParameterError: an argument is missing, malformed or too long.
            WeChatAPIError: WeChat refused the code.
            DecryptionError: the data is damaged, of another session or older than max_age.
            IdentityMismatchError: the data belongs to another user.
            BannedError: the user is banned.
            OverloadedError: the login could not begin; the code was not used.
            UnavailableError: WeChat or a store did not answer as it should; no token was issued.
            ClosedError: the service is closed, or was while this call waited for its turn.
        """
        login = caller = None
        try:
            check_code(code)
            check_max_age(max_age)
            has_data = bool(encrypted_data or iv)
            encrypted_data, iv = check_sealed(encrypted_data, iv) if has_data else (None, None)
            checked_device = Device.checked(device, device_kind)
            self._calls.check_here()
            login, caller = self._logins.log_in(
                self._exchange_code, code, encrypted_data, iv, checked_device, max_age=max_age
            )
            return await caller
        # Not in a wrapping coroutine: thousands may wait, and the garbage collector visits each.
        except BaseException as error:
            if login and caller and isinstance(error, asyncio.CancelledError):
                self._logins.leave(login, caller)
            del code, encrypted_data, iv, device, device_kind, max_age, login, caller
            clear_frames(error)
            raise

    async def authorize_web(
        self, code: str, *, device: str | None = None, device_kind: str | None = None
    ) -> AuthResult:
        """Log a user of an Official Account page or a website in, with the same kind of token.

        A user with a unionId has the same id and row for mini-program and web logins. The profile
        is kept where the user has granted it (any scope but snsapi_base).

        Args:
            code: what WeChat appended to the redirect_uri. Verify the state that came with it
                first, with `WeChatOAuth.verify_state`.
            device, device_kind: as for `authorize`.

        Raises:
            ParameterError: an argument is missing, malformed or too long.
            WeChatAPIError: WeChat refused the code.
            SnapshotUserError: the page was shown to a snapshot (virtual) account.
            BannedError: the user is banned.
            OverloadedError: the login could not begin; the code was not used.
            UnavailableError: WeChat or a store did not answer as it should; no token was issued.
            ConfigurationError: `tokens` is not a URL, and no `web` was given.
            ClosedError: the service is closed, or was while this call waited for its turn.
        """
        with self._calls.one():
            check_code(code)
            known_as = Device.checked(device, device_kind)
            return await log_in_on_web(self._logins, self._settings, self._web, code, known_as)

    async def issue_session(
        self,
        *,
        open_id: str,
        union_id: str | None = None,
        device: str | None = None,
        device_kind: str | None = None,
    ) -> AuthResult:
        """Log in a user whose identity is proven elsewhere. FOR TRUSTED SERVER CODE ONLY.

        NOTHING IS VERIFIED HERE: whoever chooses these ids is logged in as that user, so never pass
        what a client can choose. Tencent's cloud hosting proves X-WX-OPENID and X-WX-UNIONID in
        requests with X-WX-SOURCE, unless a client can reach the server past its gateway.

        Each call issues a session of its own, without a session key, so `decrypt` and others raise
        SessionKeyLostError. Bans and the policy apply as in `authorize`.

        Args:
            open_id: the user in this app.
            union_id: the user's unionId; None or empty for a user without one.
            device, device_kind: as for `authorize`.

        Raises:
            ParameterError: an argument is missing, malformed or too long.
            BannedError: the user is banned.
            OverloadedError: the login could not begin.
            StoreError: the user or the token could not be stored; no token was issued.
            ClosedError: the service is closed, or was while this call waited for its turn.

        Source: https://developers.weixin.qq.com/miniprogram/dev/wxcloudservice/wxcloudrun/src/development/weixin/index.html
        """
        with self._calls.one():
            known_as = Device.checked(device, device_kind)
            return await log_in_proven(self._logins, self._settings, open_id, union_id, known_as)

    async def is_token_valid(self, token: object) -> bool:
        """Tell whether a token is valid: issued for this app and sku, and still alive.

        Args:
            token: what the client sent, of any type.

        Returns:
            False for anything but a living token. The store is not asked about forged ones.

        Raises:
            StoreError: the store could not answer, so the token may be valid or not.
            ClosedError: the service is closed.
        """
        known = self._validator.known
        if known is not None and known(token) is not None:
            return True
        validator = self._validator
        try:
            if not self._calls.is_open:  # saves the call of check_here() on the hot path
                self._calls.check_here()
            ref = validator.verify(token)
            if ref is None:
                return False
            begun_at = time.monotonic()
            status = await validator.look_up(ref, token)
            if status is _ACTIVE:
                return True
            await validator.end_if_reused(ref, status, begun_at)
        except BaseException as error:  # inline, because a decorator would slow down each call
            del token
            clear_frames(error)
            raise
        return False

    async def authenticate(self, token: object) -> Identity:
        """Identify the user of a request by its token: the first call of a request handler.

        It costs what `is_token_valid` does: the ids are in the token, and its MAC proves them.

        Args:
            token: what the client sent, of any type.

        Raises:
            InvalidTokenError: the token is not valid; its `status` tells why.
            StoreError: the store could not answer, so the token may be valid or not.
            ClosedError: the service is closed.
        """
        known = self._validator.known
        if known is not None and (identity := known(token)) is not None:
            return identity
        validator = self._validator
        try:
            if not self._calls.is_open:  # as in is_token_valid
                self._calls.check_here()
            status = _UNKNOWN
            ref = validator.verify(token)
            if ref is not None:
                begun_at = time.monotonic()
                status = await validator.look_up(ref, token)
                if status is _ACTIVE:
                    return Identity(ref.user_id, ref.nonce, ref.sku, str(token))
                status = await validator.end_if_reused(ref, status, begun_at)
        except BaseException as error:  # inline, as in is_token_valid
            del token
            clear_frames(error)
            raise
        del token
        raise invalid_token(status)

    def until_revoked(self, token: object) -> AbstractAsyncContextManager[Identity]:
        """Run a block, such as a websocket handler, until the session of its token ends.

        The block is cancelled, as `asyncio.timeout` does, within 2 seconds of the session's end in
        any process or of its expiry; `async with` then raises InvalidTokenError. A block that goes
        on is cancelled again each second. A rotation does not end it, and waiting does not renew a
        sliding life. On a single Redis the store pushes what changes; other stores are asked once a
        second. While the store cannot answer, the block goes on.

        Args:
            token: what the client sent.

        Returns:
            An async context manager, which can be entered once and gives the Identity.

        Raises:
            InvalidTokenError: when it is entered, if the token is not valid; when the session ends,
                with its `status`.
            StoreError: when it is entered, if the store could not answer.
            ClosedError: when it is entered, if the service is closed; when the service is closed.
        """
        return UntilRevoked(self._watch, self._calls, self._validator, token)

    async def refresh_token(self, user_id: str) -> AuthResult:
        """Issue a new token to a user; every earlier one of theirs for this sku ends.

        For trusted server code only: a user id is no secret, so never let a client call this.
        Clients call `rotate`, which verifies their token.

        Args:
            user_id: the user's unionId, or openId if they have none.

        Raises:
            ParameterError: the user id is missing.
            UserNotFoundError: the user store has no user with this id.
            BannedError: the user is banned.
            StoreError: a store could not answer.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            if not isinstance(user_id, str) or not user_id:
                raise ParameterError("user_id is required, as a text.")
            return await self._logins.refresh(user_id)

    async def rotate(self, token: object) -> AuthResult:
        """Replace a client's token with a new one; the session continues.

        The old token ends in the same step. A client that lost the answer may repeat the call for
        `rotation_grace`, unless the new token was rotated meanwhile, and gets the same new token.
        Later use of an old token, except by `token_status` and `revoke`, is a sign of theft: the
        session ends (TokenStatus.reused). Otherwise it ends `token_ttl` from now, and at the latest
        `absolute_ttl` after its login, which is 90 days by default.

        Args:
            token: what the client sent.

        Raises:
            InvalidTokenError: the token is not valid; its `status` tells why.
            ConfigurationError: the policy has shared_token, and such a token is not rotated.
            UserNotFoundError: the user is no longer in the user store.
            StoreError: a store could not answer.
            ClosedError: the service is closed.

        Source: RFC 9700, section 4.14.2.
        """
        with self._calls.one():
            return await self._rotations.rotate(token)

    async def token_status(self, token: object) -> TokenStatus:
        """Tell the status of a token, for an app that explains it to its user.

        Returns:
            TokenStatus.active, or why it is not; unknown if it is forged or has expired. The reason
            is remembered until the session would have ended, for 30 days at most.

        Raises:
            StoreError: the store could not answer.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            return await self._validator.status_without_use(token)

    async def session(self, token: object) -> Session | None:
        """Read the session of a token; None if the token is not valid.

        Raises:
            StoreError: the store could not answer.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            return await self._sessions.find(token)

    async def sessions(self, user_id: str) -> list[Session]:
        """List the living sessions of a user, newest first: their devices.

        Raises:
            ParameterError: user_id is malformed.
            StoreError: a store could not answer.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            return await self._sessions.of_user(user_id)

    async def revoke(self, token: object) -> bool:
        """Log out: end the session of a token.

        Returns:
            False if it was not alive, or the token is malformed; also if the store repeated the
            step because its first answer was lost.

        Raises:
            StoreError: the store could not answer; the token may still be valid.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            return await self._sessions.revoke(token)

    async def revoke_session(self, user_id: str, session_id: str) -> bool:
        """End one of a user's sessions.

        Args:
            user_id: the session's owner. Take it from the caller's token, never from their input.
            session_id: the `id` of one of the user's `sessions`.

        Returns:
            False if the user has no living session of this id; also if the store repeated the step
            because its first answer was lost.

        Raises:
            ParameterError: user_id is malformed, or session_id is empty or not a text.
            StoreError: a store could not answer.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            return await self._sessions.revoke_session(user_id, session_id)

    async def revoke_user(self, user_id: str, except_token: object = None) -> int:
        """End all sessions of a user.

        Args:
            user_id: any id of the user.
            except_token: the token of the one session that goes on, such as the caller's own.

        Returns:
            How many were alive; too few if the store repeated a step whose first answer was lost.

        Raises:
            ParameterError: user_id is malformed, or except_token is not a token of this user.
            StoreError: a store could not answer.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            return await self._sessions.revoke_user(user_id, except_token)

    async def ban(self, user_id: str, seconds: float | None = None, reason: str = "") -> int:
        """Refuse the logins of a user for this sku, and end all their sessions.

        Args:
            user_id: any id of the user; they need not have logged in before.
            seconds: for how long; None for ever.
            reason: one line of at most 1,000 characters. BannedError carries it.

        Returns:
            How many sessions were alive; too few if the store repeated a step whose first answer
            was lost.

        Raises:
            ParameterError: an argument is malformed.
            StoreError: a store could not answer.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            return await self._bans.ban(user_id, seconds, reason)

    async def unban(self, user_id: str) -> bool:
        """Let a user log in again; one of several ids may still be refused for a minute.

        Args:
            user_id: any id of the user. After `forget_user` nothing links the ids of a user, and a
                ban stays under each: unban each of them.

        Returns:
            False if they were not banned; also if the store repeated the step because its first
            answer was lost.

        Raises:
            ParameterError: user_id is malformed.
            StoreError: a store could not answer.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            return await self._bans.unban(user_id)

    async def ban_of(self, user_id: str) -> Ban | None:
        """Read the ban of a user; None if there is no ban, or it is over.

        Raises:
            ParameterError: user_id is malformed.
            StoreError: a store could not answer.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            return await self._bans.find(user_id)

    async def forget_user(self, user_id: str, lift_ban: bool = False) -> bool:
        """Erase a user for this service's sku and app, as WeChat demands when they leave.

        Erases their sessions for this sku under all their ids, with the session keys; the saved
        tokens of their web logins; and their row in the user store with all that links it, unless
        it also holds the openId of an app that is neither this service's nor that of its web
        logins. An openId whose app is not known counts as this app's. A ban stays, under all ids
        that the user had. A session that a login in progress begins is erased, too, but for one in
        another process, which stays until it expires or this is called with its token's user id.

        After a failure, call it again: it finds what is left. The user may log in again, and is
        new if the row was erased.

        Args:
            user_id: any id of the user.
            lift_ban: whether to end a ban too.

        Returns:
            False if the user store does not know the user and no session was alive; also if the
            stores repeated the steps because their first answers were lost.

        Raises:
            ParameterError: user_id is malformed.
            ConfigurationError: `web` cannot delete its tokens; nothing was erased.
            StoreError: a store could not answer; some of it may be erased.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            return await self._erasure.forget(user_id, lift_ban)

    async def clear_profile(self, user_id: str, fields: Collection[str]) -> bool:
        """Erase fields of a user's profile, for all apps that share the user store.

        Args:
            user_id: any id of the user.
            fields: which: nick_name, avatar_url, gender, city, province, country, language. A later
                login with sealed data, or on the web, fills them again.

        Returns:
            False if the user store does not know the user.

        Raises:
            ParameterError: user_id is malformed, or fields are empty or name something else.
            StoreError: the user store could not answer.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            return await self._erasure.clear(user_id, fields)

    async def online(self, cursor: str | None = None, limit: int = 100) -> OnlinePage:
        """Page through the users who have a living session, the newest first.

        A user who stays online while all pages are read is on exactly one of them.

        Args:
            cursor: that of the page before; None for the first page.
            limit: how many users at most, up to 1,000. A page may have fewer before the last.

        Returns:
            `user_ids`, and the `cursor` of the next page, which is None after the last.

        Raises:
            ParameterError: cursor or limit is malformed.
            StoreError: the store could not answer.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            return await self._sessions.online(cursor, limit)

    async def online_count(self) -> int:
        """Count the users who have a living session.

        Raises:
            StoreError: the store could not answer.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            return await self._sessions.online_count()

    async def check(self) -> None:
        """Check within 2 seconds that the stores can serve, for a probe; WeChat is not asked.

        Raises:
            StoreError: a store cannot serve; the message names it.
            ConfigurationError: the version of a store's server is not supported.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            await check_stores(self._parts.users, self._parts.tokens, self._parts.records)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Register a listener for events: logins, their failures, sessions that end …

        Listeners never delay or fail a call. The function that is returned ends the subscription.

        Args:
            listener: an async function, or a plain one, which is called in a thread. It takes an
                event, one of the classes in `mpauthx_async.events`.

        Raises:
            ParameterError: the listener cannot be called.
            ClosedError: the service is closed.
        """
        return self._validator.subscribe(listener)

    def gauges(self) -> Gauges:
        """Get the queue lengths and the state of the near cache. Callable from any thread.

        All are zero once the service is closed. `Metrics.watch` exports them to Prometheus.
        """
        if self._calls.has_ended:
            return Gauges()
        near = self._validator.near_cache
        return Gauges(
            logins_waiting=self._logins.waiting,
            logins_at_wechat=self._logins.at_wechat,
            near_cache_tokens=0 if near is None else len(near),
            near_caches_on=int(near is not None and near.is_on),
            near_caches_off=int(near is not None and not near.is_on),
            events_dropped=self._parts.events.dropped,
        )

    async def decrypt(
        self, token: object, encrypted_data: str, iv: str, *, max_age: float | None = None
    ) -> dict[str, Any]:
        """Decrypt what WeChat encrypted for a client in the session of its login, such as run data.

        Args:
            token: the token of that login.
            encrypted_data, iv: the client's `encryptedData` and `iv`.
            max_age: how many seconds ago WeChat may have encrypted it, by the timestamp in its
                watermark; None for no limit.

        Returns:
            The payload with WeChat's own field names.

        Raises:
            ParameterError: an argument is malformed.
            InvalidTokenError: the token is not valid.
            SessionKeyLostError: no session key is kept for this token.
            DecryptionError: the data is damaged, or encrypted with another key, because the client
                has called wx.login since: it has to log in again. Or it is older than max_age.
            ConfigurationError: the token store keeps no session keys.
            StoreError: the store could not answer.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            return await self._session_keys.decrypt(token, encrypted_data, iv, max_age)

    async def decrypt_phone_number(
        self, token: object, encrypted_data: str, iv: str, *, max_age: float | None = None
    ) -> PhoneNumber:
        """Decrypt the phone number that the phone number button gave an old client.

        Newer clients get a code for `get_phone_number`. The arguments are those of `decrypt`.

        Raises:
            ParameterError: an argument is malformed.
            InvalidTokenError: the token is not valid.
            SessionKeyLostError: no session key is kept for this token.
            DecryptionError: the data does not decrypt, is too old, or holds no phone number.
            ConfigurationError: the token store keeps no session keys.
            StoreError: the store could not answer.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            return await self._session_keys.decrypt_phone_number(token, encrypted_data, iv, max_age)

    async def verify_raw_data(self, token: object, raw_data: str, signature: str) -> bool:
        """Tell whether `rawData` is what WeChat signed in the session of a token.

        Raises:
            InvalidTokenError: the token is not valid.
            SessionKeyLostError: no session key is kept for this token.
            ConfigurationError: the token store keeps no session keys.
            StoreError: the store could not answer.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            return await self._session_keys.verify_raw_data(token, raw_data, signature)

    async def get_phone_number(self, code: str) -> PhoneNumber:
        """Exchange the code that the phone number button gave the client.

        Args:
            code: works once within 5 minutes; it is not the one of wx.login.

        Raises:
            ParameterError: the code is malformed.
            WeChatAPIError: WeChat refused.
            UnavailableError: WeChat or the store did not answer as it should.
            ConfigurationError: there is no access token.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            check_code(code)
            return await self._access_token.call(partial(self._api.get_phone_number, code))

    async def check_session_key(self, token: object) -> bool:
        """Ask WeChat whether the session key of a token is still the user's.

        Returns:
            False if WeChat has replaced it: data that the client gets from now on does not
            decrypt until it has logged in again.

        Raises:
            InvalidTokenError: the token is not valid.
            SessionKeyLostError: no session key is kept for this token.
            WeChatAPIError: WeChat refused.
            UnavailableError: WeChat or a store did not answer as it should.
            ConfigurationError: the store keeps no session keys, or there is no access token.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            return await self._session_keys.check(token)

    async def reset_session_key(self, token: object) -> None:
        """Have WeChat replace the session key of a token; the new one is kept.

        Concurrent calls with the same token are one. It goes on when a caller is cancelled, because
        the new key would be lost.

        Raises:
            InvalidTokenError: the token is not valid.
            SessionKeyLostError: no session key is kept for this token, or WeChat has replaced it.
            WeChatAPIError: WeChat refused.
            UnavailableError: WeChat or a store did not answer as it should.
            ConfigurationError: the store keeps no session keys, or there is no access token.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            await self._session_keys.reset(token)

    async def user_encrypt_keys(self, token: object) -> Sequence[UserEncryptKey]:
        """Ask WeChat for the keys that the client of a token encrypts with (`UserCryptoManager`).

        Returns:
            The user's three newest keys, in WeChat's order. Each is valid for an hour.

        Raises:
            InvalidTokenError: the token is not valid.
            SessionKeyLostError: no session key is kept for this token, or WeChat has replaced it.
            WeChatAPIError: WeChat refused.
            UnavailableError: WeChat or a store did not answer as it should.
            ConfigurationError: the store keeps no session keys, or there is no access token.
            ClosedError: the service is closed.

        Source: https://developers.weixin.qq.com/miniprogram/dev/framework/open-ability/user-encryptkey.html
        """
        with self._calls.one():
            return await self._session_keys.encrypt_keys(token)

    async def access_token(self) -> str:
        """Get the app's access token, for calls to WeChat of your own.

        One process fetches it for all. With a ComponentExchange it is what
        `authorizer_access_token` returns.

        Raises:
            WeChatAPIError: WeChat refused.
            UnavailableError: WeChat or the store did not answer as it should.
            ConfigurationError: `tokens` is not a URL and the connections have no Redis; or there
                is an `exchange`, without an `authorizer_access_token`.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            return await self._access_token.get()

    async def handle_push_event(self, event: PushEvent) -> None:
        """Handle an event that WeChat pushed: erase the user, or parts of their profile.

        user_authorization_cancellation forgets the user (a ban stays), user_authorization_revoke
        clears the fields of the profile that `revoke_info` names; any other only becomes a
        PushEventReceived for listeners. Repeat the call when it fails with anything but
        InvalidPushEventError: repeating what was done does no harm.

        Args:
            event: what `parse_push_event` returned.

        Raises:
            InvalidPushEventError: it was handled before, is about another app, or would erase
                something although it came in plain mode, whose signature does not cover the body.
            ParameterError: it is not a PushEvent, or its user id is malformed.
            ConfigurationError: `web` cannot delete its tokens; nothing was erased.
            StoreError: a store could not answer; some of it may be erased.
            ClosedError: the service is closed.

        Source: https://developers.weixin.qq.com/miniprogram/dev/server/event_push/platform/authorized_user_information_changes
        """
        with self._calls.one():
            await self._push_events.handle(event)

    @staticmethod
    def extract_open_id(token: object) -> str | None:
        """The user id in a token, unverified; None if the token does not have three parts."""
        parts = parse_token(token)
        return parts and parts.open_id

    @staticmethod
    def extract_sku(token: object) -> str | None:
        """The sku in a token, unverified; None if the token does not have three parts."""
        parts = parse_token(token)
        return parts and parts.sku

    async def close(self, timeout: float | None = None) -> None:
        """Let calls in flight finish, refuse waiting logins, and close what was opened here.

        It may be called again and concurrently. If it is cancelled, closing goes on.

        Args:
            timeout: after how many seconds calls in flight are cancelled and raise ClosedError; a
                store may still do what it was asked. None lets them finish. Listeners then have 5
                seconds for the events that wait.

        Raises:
            ParameterError: timeout is not a number of seconds.
            ConfigurationError: in another event loop or process than the first call's.
        """
        check_timeout(timeout)
        self._calls.refuse_more()
        self._validator.refuse_more()
        self._logins.refuse_waiting()
        await self._calls.close(timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _compose(self) -> None:
        """Create what the calls are delegated to. It is closed in the reverse order."""
        parts, web = self._parts, self._web
        linked_ids = LinkedIds(parts)
        self._bans = bans = Bans(parts, linked_ids)
        self._rotations = Rotations(parts)
        self._validator = TokenValidator(parts, self._rotations.end_reused)
        self._watch = SessionWatch(parts)
        self._sessions = ActiveSessions(parts, linked_ids, self._validator)
        self._session_keys = SessionKeys(parts, self._api, self._access_token, self._validator)
        self._logins = logins = Logins(parts, bans, names_same_user=self._api.names_same_user)
        self._calls.on_close(logins.close, logins.cut_off)
        self._erasure = Erasure(parts, web, linked_ids, bans, logins)
        web_app_id = None if web is None else web.app_id
        self._push_events = PushEventHandler(parts, self, web_app_id, self._exchange)
