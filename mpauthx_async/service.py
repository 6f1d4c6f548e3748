"""MPAuthX: the mini-program service."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Any, Self

from .concurrency.event_bus import EventBus
from .concurrency.frames import clear_frames, methods_clear_frames
from .concurrency.in_flight import InFlight
from .connections import Connections
from .constants import StatusCode, TokenStatus
from .errors import (
    ConfigurationError,
    DecryptionError,
    ParameterError,
)
from .events import Listener, PushEvent, WeChatFailed
from .login.device import Device
from .login.erasure import Erasure
from .login.issuing import Issuer
from .login.pipeline import Logins
from .models import (
    AuthResult,
    Ban,
    Identity,
    LoginPolicy,
    OnlinePage,
    PhoneNumber,
    Session,
    User,
    UserEncryptKey,
    is_user_id,
)
from .oauth.client import WeChatOAuth
from .parts import Parts
from .sessions.bans import Bans
from .sessions.lifecycle import Sessions, invalid_token
from .sessions.session_keys import SessionKeys
from .sessions.subjects import Subjects
from .settings import Settings
from .stores import (
    KeyValueOAuthTokenStore,
    KeyValueStore,
    RedisKeyValueStore,
    TokenStore,
    UserStore,
    open_key_value_store,
    open_token_store,
    open_user_store,
)
from .stores.readiness import check_stores
from .tokens.format import TokenSigner, new_nonce, nonce_of, parse_token
from .tokens.sealing import RecordSealer, SessionKeySealer
from .wechat.access_token import AccessToken, AppAccessToken, AuthorizerAccessToken
from .wechat.api import WeChatAPI, check_code
from .wechat.exchanges import CodeExchange, ComponentExchange
from .wechat.push_handling import PushEventHandler
from .wechat.transport import API_HOSTS
from .wechat.userdata import check_max_age, check_sealed, verify_raw_data

__all__ = ["MPAuthX"]

_LONGEST_TTL = 315_360_000  # seconds: ten years


@methods_clear_frames("authenticate", "authorize", "is_token_valid")
class MPAuthX:
    """Logs mini-program users in and answers for their tokens.

    It opens its connections when they are first used, so it can be created anywhere, and may serve
    thousands of concurrent calls. Use it as `async with`, or call `close()` at the end.

    The first call binds it to the running event loop and the process. In a forked child process
    every call raises ConfigurationError, and in another loop every call that needs more than memory
    (`is_token_valid` answers for forged tokens, and from a near cache). The connections stay as
    they are.

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
        signing_keys: what signs tokens, and encrypts the session keys, web OAuth tokens and access
            token that are kept, oldest to newest, at least 16 bytes each: the newest signs and
            encrypts, all verify and decrypt. Random keys of your own are recommended. By default
            the app_secret alone signs, which travels in the URLs of calls to WeChat.
            `[old_key, new_key]` lets earlier tokens outlive a change.
        policy: which sessions of a user live side by side; by default the 100 newest.
        absolute_ttl: how long a session lives at most, in seconds. When it is given, lives slide:
            `token_ttl` counts from a token's last use. By default they do not slide, and a session
            that is rotated ends 90 days after its login, or `token_ttl` after it if that is longer.
        rotation_grace: for how long a client that lost the answer of `rotate` gets it again, in
            seconds; so does the Redis client here, which repeats what was lost.
        login_timeout: how long a login may wait to begin, in seconds. What cannot begin in time
            raises OverloadedError.
        max_waiting_logins: how many logins may wait to begin; one more raises OverloadedError at
            once.
        web: the web logins of `authorize_web`, which stay open; by default those of this app.
        exchange: another way to exchange the codes of `authorize` than the app's own: a
            ComponentExchange or a WeComExchange. The app's secret is then sent to nobody, and
            methods that need the app's access token raise ConfigurationError, unless the
            ComponentExchange has an `authorizer_access_token`.
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
        policy: LoginPolicy | None = None,
        absolute_ttl: float | None = None,
        rotation_grace: float = 10.0,
        login_timeout: float = 30.0,
        max_waiting_logins: int = 10_000,
        web: WeChatOAuth | None = None,
        exchange: CodeExchange | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        settings = Settings(
            app_id=app_id,
            sku=sku,
            token_ttl=token_ttl,
            absolute_ttl=absolute_ttl,
            rotation_grace=rotation_grace,
            policy=LoginPolicy() if policy is None else policy,
            login_timeout=login_timeout,
            max_waiting_logins=max_waiting_logins,
            clock=clock,
        )
        _check_parts(connections, web, exchange)
        self._app_id = app_id
        self._sku = sku
        self._calls = InFlight(self, "This service", name=repr(self))
        self._clock = clock
        self._slides = absolute_ttl is not None
        self._events = EventBus()
        self._owns_connections = connections is None
        self._connections = Connections() if connections is None else connections
        self._api = WeChatAPI(
            app_id=app_id,
            app_secret=app_secret,
            connections=self._connections,
            api_base=api_base,
            exchange=exchange,
            on_refused=lambda errcode: self._events.emit(WeChatFailed(errcode)),
        )
        # Once: a bound method for each login that waits is more for the garbage collector to trace.
        self._exchange_code = self._api.exchange_code
        keys = [app_secret] if signing_keys is None else signing_keys
        self._signer = TokenSigner(app_id=app_id, sku=sku, keys=keys)
        self._opened: list[Any] = []  # the stores that were opened here
        self._users: UserStore = self._open(users, lambda url: open_user_store(url, clock))
        self._tokens: TokenStore = self._open(
            tokens, lambda url: open_token_store(url, self._connections, clock)
        )
        parts = Parts(
            settings,
            self._signer,
            SessionKeySealer(app_id=app_id, keys=keys),
            self._users,
            self._tokens,
            self._connections,
            self._events,
            self._calls,
        )
        self._subjects = Subjects(parts)
        self._bans = Bans(parts, self._subjects)
        self._logins = Logins(
            parts,
            names_same_user=self._api.names_same_user,
            issuer=Issuer(parts, self._bans),
            bans=self._bans,
        )
        self._sessions = Sessions(parts, self._subjects)
        self._near_cache = self._sessions.near_cache  # asked first; None for not at all
        self._session_keys = SessionKeys(parts, api=self._api, sessions=self._sessions)
        self._exchange = exchange
        self._access_token: AccessToken | None = None
        self._own_web: WeChatOAuth | None = None
        self._records = records = self._open_records(tokens)
        if exchange is None and records is not None:  # else the app's own secret is not known
            self._open_app(app_id, app_secret, records, api_base, keys)
        if isinstance(exchange, ComponentExchange) and exchange.authorizer_access_token:
            self._access_token = AuthorizerAccessToken(exchange.authorizer_access_token)
        self._web = web or self._own_web
        self._erasure = Erasure(
            parts, web=self._web, subjects=self._subjects, bans=self._bans, logins=self._logins
        )
        app_ids = {app_id} if web is None else {app_id, web.app_id}
        platform = {exchange.component_app_id} if isinstance(exchange, ComponentExchange) else set()
        self._push_events = PushEventHandler(
            app_ids=app_ids,
            recipients=app_ids | platform,
            purpose=f"{app_id}|{sku}",
            users=self,
            records=records,
            events=self._events,
            clock=clock,
        )

    def __repr__(self) -> str:
        return f"<MPAuthX {self._app_id} sku={self._sku}>"

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
        """Log a user in: exchange the code at WeChat, keep the user, give a token.

        Concurrent calls with one code, and the same data and device, are one login and share a
        token: revoking it ends it for all of them. encrypted_data and iv are part of the key, so
        every caller's data is verified. A user may log in on several devices; each has a token of
        its own.

        Args:
            code: what `wx.login` gave the client.
            encrypted_data: what `wx.getUserInfo` gave it, sealed in the session of this code;
                together with `iv` or not at all.
            iv: likewise.
            device: what the user would know the device by, such as "iPhone 15": one line of at
                most 64 characters and 200 bytes of UTF-8.
            device_kind: such as "phone" or "desktop", likewise; by default the device's name.
            max_age: how many seconds ago WeChat may have sealed the data; None for any time.

        Returns:
            The result, with the token in `response`.

        Raises:
            ParameterError: the code is missing, or one of encrypted_data and iv is; or they are
                too long; or for a device or max_age that is not as above.
            WeChatAPIError: WeChat refused the code.
            HTTPStatusError, EmptyResponseError, InvalidResponseError, IncompleteResponseError,
            ConnectionFailedError: WeChat did not answer as it should.
            DecryptionError: the data was not sealed in the session of this code, is damaged, or
                older than max_age.
            IdentityMismatchError: the data belongs to somebody else.
            BannedError: the user is banned.
            OverloadedError: `max_waiting_logins` others wait already, or the login could not begin
                within `login_timeout`. The code was not used.
            StoreError: the user or the token could not be stored; no token was given.
            ClosedError: the service is closed, or was while this call waited for its turn.
        """
        login = caller = None
        try:
            check_code(code)
            check_max_age(max_age)
            if encrypted_data or iv:
                check_sealed(encrypted_data, iv)
            else:
                encrypted_data = iv = None
            known_as = Device.checked(device, device_kind)
            self._calls.check_here()
            login, caller = self._logins.log_in(
                self._exchange_code, code, encrypted_data, iv, known_as, max_age=max_age
            )
            return await caller
        # Here and not in coroutines around: thousands may wait, and garbage collections visit each.
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

        A person whom WeChat gives a unionId has one id and one row, whichever door they come
        through. The profile is kept where the user has granted it (any scope but snsapi_base).

        Args:
            code: what WeChat appended to the redirect_uri. Verify the state that came with it
                first, with `WeChatOAuth.verify_state`.
            device: as for `authorize`.
            device_kind: as for `authorize`.

        Raises:
            SnapshotUserError: the page was shown to a virtual account.
            ConfigurationError: `tokens` is no URL, and no `web` was given.
            And as `authorize`.
        """
        check_code(code)
        web = self._web
        if web is None:
            raise _no_records("authorize_web needs `web`, or")
        known_as = Device.checked(device, device_kind)
        self._calls.check_here()
        identify = partial(self._identify, web)
        return await self._log_in(identify, code, known_as, on_web=True)

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
        requests with X-WX-SOURCE; anybody who reaches the server past its gateway can send these
        headers, too.

        The rest is as in `authorize`: the user is saved, bans and the policy apply, and listeners
        are told. There is no session key: `decrypt` and others raise SessionKeyLostError. Each
        call issues a session of its own.

        Args:
            open_id: the user in this app.
            union_id: the user's unionId; None or empty for a user without one.
            device: as for `authorize`.
            device_kind: as for `authorize`.

        Raises:
            ParameterError: an id is malformed, or device or device_kind is not as for `authorize`.
            BannedError: the user is banned.
            OverloadedError: as for `authorize`.
            StoreError: the user or the token could not be stored; no token was given.
            ClosedError: the service is closed, or was while this call waited for its turn.

        Source: https://developers.weixin.qq.com/miniprogram/dev/wxcloudservice/wxcloudrun/src/development/weixin/index.html
        """
        union_id = union_id or None
        if not is_user_id(open_id) or not (union_id is None or is_user_id(union_id)):
            raise ParameterError(
                "open_id must be an openId as WeChat gives it, and union_id a unionId or None."
            )
        known_as = Device.checked(device, device_kind)
        self._calls.check_here()
        now = int(self._clock() * 1000)
        user = User(open_id, union_id, created_at=now, updated_at=now, app_id=self._app_id)

        async def identify(_: str) -> User:
            return user

        # A code of its own keeps concurrent calls apart.
        return await self._log_in(identify, new_nonce(), known_as, has_code=False)

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
        near_cache = self._near_cache
        if near_cache is not None and near_cache.knows(token):
            return True
        try:
            if not self._calls.is_open:  # asked here, for to call check_here() takes its time
                self._calls.check_here()
            ref = self._signer.verify(token)
            if ref is None:
                self._sessions.count_refused()
                return False
            begun_at = time.monotonic()
            end = await self._sessions.end_of(ref, token)
            if end is not None and end > 0 and not self._slides:
                return True  # by far the most frequent case
            return await self._sessions.conclude(ref, end, begun_at) is TokenStatus.active
        except BaseException as error:  # here, because a decorator would take its time
            del token
            clear_frames(error)
            raise

    async def authenticate(self, token: object) -> Identity:
        """Tell whose request it is by its token: what a handler asks first.

        It costs what `is_token_valid` does: the ids are those in the token, which its MAC proves.

        Args:
            token: what the client sent, whatever it is.

        Raises:
            InvalidTokenError: the token is not good; its `status` tells why.
            StoreError: the store could not answer, so the token may be good or not.
            ClosedError: the service is closed.
        """
        near_cache = self._near_cache
        if near_cache is not None and near_cache.knows(token):
            user_id, sku, _ = str(token).split("|")
            return Identity(user_id, nonce_of(str(token)), sku, str(token))
        try:
            if not self._calls.is_open:  # as in is_token_valid, for it is as frequent
                self._calls.check_here()
            ref = self._signer.verify(token)
            status = TokenStatus.unknown
            if ref is None:
                self._sessions.count_refused()
            else:
                begun_at = time.monotonic()
                end = await self._sessions.end_of(ref, token)
                if end is None or end <= 0 or self._slides:
                    status = await self._sessions.conclude(ref, end, begun_at)
                else:
                    status = TokenStatus.active
                if status is TokenStatus.active:
                    return Identity(ref.user_id, ref.nonce, ref.sku, str(token))
        except BaseException as error:  # here, because a decorator would take its time
            del token
            clear_frames(error)
            raise
        del token
        raise invalid_token(status)

    async def refresh_token(self, user_id: str) -> AuthResult:
        """Give a user a new token; every earlier one of theirs for this sku dies.

        For trusted server code only: a user id is no secret, so never let a client call this. What
        a client may call is `rotate`, for which it has to show its token.

        Args:
            user_id: the user's unionId, or openId if they have none.

        Raises:
            ParameterError: the user id is missing.
            UserNotFoundError: nobody with this id has ever logged in.
            BannedError: the user is banned.
            StoreError: a store could not answer.
            ClosedError: the service is closed.
        """
        if not isinstance(user_id, str) or not user_id:
            raise ParameterError("user_id is required, as a text.")
        self._calls.check_here()
        return await self._logins.refresh(user_id)

    async def rotate(self, token: object) -> AuthResult:
        """Give a client a new token in place of its own, whose session goes on.

        The old token dies in the same step. A client that lost the answer may repeat the call for
        `rotation_grace`, unless the new token was rotated meanwhile, and gets the same new token.
        Whenever an old token is used after that, in whatever call but `token_status` and `revoke`,
        somebody has it who should not: the session ends (TokenStatus.reused). So this is what an
        endpoint for clients calls; `refresh_token` asks for nothing but a user id.

        The session then ends `token_ttl` from now, and at the latest `absolute_ttl` after its
        login, which is 90 days by default.

        Args:
            token: what the client sent.

        Raises:
            InvalidTokenError: the token is not good; its `status` tells why.
            ConfigurationError: the policy has all devices share a token.
            UserNotFoundError: the user is in the user store no more.
            StoreError: a store could not answer.
            ClosedError: the service is closed.

        Source: RFC 9700, section 4.14.2.
        """
        self._calls.check_here()
        return await self._sessions.rotate(token)

    async def token_status(self, token: object) -> TokenStatus:
        """Tell what has become of a token, for an app that wants to tell its user.

        A dead session is remembered until it would have ended, for 30 days at most.

        Returns:
            TokenStatus.active, or why it is not; unknown for what is forged or has expired.

        Raises:
            StoreError: the store could not answer.
            ClosedError: the service is closed.
        """
        self._calls.check_here()
        return await self._sessions.status(token)

    async def session(self, token: object) -> Session | None:
        """Read the session that a token stands for; None when the token is not good.

        Raises:
            StoreError: the store could not answer.
            ClosedError: the service is closed.
        """
        self._calls.check_here()
        return await self._sessions.find(token)

    async def sessions(self, user_id: str) -> list[Session]:
        """List the living sessions of a user, newest first: their devices.

        Raises:
            ParameterError: this can be no user's id.
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
            StoreError: the store could not answer; the token may be good still.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            return await self._sessions.revoke(token)

    async def revoke_session(self, user_id: str, session_id: str) -> bool:
        """Throw a device of a user out.

        Args:
            user_id: whose it is. Take it from the caller's own token, not from what they send.
            session_id: the `id` of one of the user's `sessions`.

        Returns:
            False if the user has no living session of this id; also if the store repeated the step
            because its first answer was lost.

        Raises:
            ParameterError: for a user_id or session_id that can be none.
            StoreError: a store could not answer.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            return await self._sessions.revoke_session(user_id, session_id)

    async def revoke_user(self, user_id: str, except_token: object = None) -> int:
        """End all sessions of a user.

        Args:
            user_id: whose.
            except_token: the token of the one session that goes on, such as the caller's own.

        Returns:
            How many were alive; too few if the store repeated a step whose first answer was lost.

        Raises:
            ParameterError: this can be no user's id; or except_token is no token of theirs.
            StoreError: a store could not answer.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            return await self._sessions.revoke_user(user_id, except_token)

    async def ban(self, user_id: str, seconds: float | None = None, reason: str = "") -> int:
        """Refuse the logins of a user for this sku, and end all their sessions.

        Args:
            user_id: whom; they need not have logged in before.
            seconds: for how long; None for ever.
            reason: why: one line of at most 1,000 characters. BannedError carries it.

        Returns:
            How many sessions were alive; too few if the store repeated a step whose first answer
            was lost.

        Raises:
            ParameterError: for arguments that cannot be.
            StoreError: a store could not answer.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            return await self._bans.ban(user_id, seconds, reason)

    async def unban(self, user_id: str) -> bool:
        """Let a user log in again; False when they were not banned. Raises as `ban_of`.

        It is also False if the store repeated the step because its first answer was lost.
        """
        with self._calls.one():
            return await self._bans.unban(user_id)

    async def ban_of(self, user_id: str) -> Ban | None:
        """Read the ban of a user; None when there is none, or it is over.

        Raises:
            ParameterError: this can be no user's id.
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
        logins. An openId whose app is not known, because it was stored before its user logged in
        here, counts as this app's. A ban stays, under all ids that the user had. A session that a
        login in progress in this service begins is erased, too; a login in progress in another
        process may leave one until it expires, or until a call with the user id of its token.

        After a failure, call it again: it finds whatever is left. The user may log in again, and
        is new then if the row was erased.

        Args:
            user_id: any id of the user.
            lift_ban: whether to end a ban too.

        Returns:
            False if the user store does not know the user and no session was alive; also if the
            stores repeated the steps because their first answers were lost.

        Raises:
            ParameterError: user_id is malformed.
            ConfigurationError: `web` keeps its tokens with a pair of functions, which cannot delete
                them; nothing was erased.
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
            False if the user is not known.

        Raises:
            ParameterError: user_id is malformed, or fields are empty or name something else.
            StoreError: the user store could not answer.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            return await self._erasure.clear(user_id, fields)

    async def online(self, cursor: str | None = None, limit: int = 100) -> OnlinePage:
        """Page through the users who have a living session, those who came online last first.

        Whoever stays online while all pages are read is on exactly one of them.

        Args:
            cursor: of the page before; None for the first.
            limit: how many users at most, up to 1,000. A page may have fewer before the last.

        Returns:
            `user_ids`, and the `cursor` of the next page, which is None after the last.

        Raises:
            ParameterError: for a cursor or a limit that is none.
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
        """Check that the stores can serve, for a readiness probe; WeChat is not asked.

        They are asked at once, and each gets 2 seconds.

        Raises:
            StoreError: a store cannot serve; the message names it.
            ConfigurationError: the version of a store's server does not serve.
            ClosedError: the service is closed.
        """
        self._calls.check_here()
        await check_stores(self._users, self._tokens, self._records)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Tell a listener what happens here: logins, their failures, sessions that end …

        Nothing here ever waits for a listener, nor fails with it: see `Events`.

        Args:
            listener: an async function, or a plain one, which is called in a thread. It takes an
                event, one of the classes in `mpauthx_async.events`.

        Returns:
            Ends the subscription when called.
        """
        self._near_cache = None  # what it knows is counted too from now on, behind `is_valid`
        return self._events.subscribe(listener)

    async def decrypt(
        self, token: object, encrypted_data: str, iv: str, *, max_age: float | None = None
    ) -> dict[str, Any]:
        """Decrypt what a client got sealed in the session of its login: share info, run data …

        Args:
            token: what the login gave.
            encrypted_data: the client's `encryptedData`.
            iv: the client's `iv`.
            max_age: how many seconds ago WeChat may have sealed the data, by the timestamp in its
                watermark and this service's clock; None for any time.

        Returns:
            The payload with WeChat's own field names.

        Raises:
            ParameterError: encrypted_data or iv is not a text, is empty or is too long; or max_age
                is not a positive number.
            InvalidTokenError: the token is not valid.
            SessionKeyLostError: no session key is kept for this token; the client has to log in
                again.
            DecryptionError: the data was sealed with another key, because the client has called
                wx.login since, or is damaged: the client has to log in again. Or it is older than
                max_age: the client has to get it anew.
            ConfigurationError: the token store keeps no session keys.
            StoreError: the store could not answer.
            ClosedError: the service is closed.
        """
        check_sealed(encrypted_data, iv)
        check_max_age(max_age)
        with self._calls.one():
            now = self._clock()
            return await self._session_keys.decrypt(token, encrypted_data, iv, max_age, now)

    async def decrypt_phone_number(
        self, token: object, encrypted_data: str, iv: str, *, max_age: float | None = None
    ) -> PhoneNumber:
        """Decrypt the phone number that the button gave the client; raises as `decrypt`.

        It is the old form; today's clients get a code: `get_phone_number`.
        """
        number = PhoneNumber.from_wechat(
            await self.decrypt(token, encrypted_data, iv, max_age=max_age)
        )
        if number is None:
            raise DecryptionError("The data holds no phone number.")
        return number

    async def verify_raw_data(self, token: object, raw_data: str, signature: str) -> bool:
        """Tell whether `rawData` is what WeChat signed in the session; raises as `decrypt`."""
        with self._calls.one():
            session = await self._session_keys.of(token)
            return verify_raw_data(session.session_key, raw_data, signature)

    async def get_phone_number(self, code: str) -> PhoneNumber:
        """Exchange the code that the phone number button gave the client.

        Args:
            code: works once within 5 minutes; it is not the one of wx.login.

        Raises:
            As `access_token`, and ParameterError: this can be no code.
        """
        check_code(code)
        with self._calls.one():
            return await self._app_access().call(partial(self._api.get_phone_number, code))

    async def check_session_key(self, token: object) -> bool:
        """Ask WeChat whether the session key behind a token is still the user's.

        Returns:
            False when WeChat has replaced it: data that the client gets from now on does not
            decrypt until it has logged in again.

        Raises:
            As `decrypt` for the token, and as `access_token`.
        """
        with self._calls.one():
            return await self._session_keys.check(token, self._app_access())

    async def reset_session_key(self, token: object) -> None:
        """Have WeChat replace the session key behind a token; the new one is kept.

        Concurrent calls with the same token are one. It goes on when a caller is cancelled: else
        the key that WeChat gave would be lost.

        Raises:
            SessionKeyLostError: WeChat has replaced it before; the client has to log in again.
            And as `check_session_key`.
        """
        with self._calls.one():
            await self._session_keys.reset(token, self._app_access())

    async def user_encrypt_keys(self, token: object) -> Sequence[UserEncryptKey]:
        """Ask WeChat for the keys that the client of a token encrypts with (`UserCryptoManager`).

        WeChat wants a signature with the session key, which stays in this service.

        Returns:
            The user's three newest keys, in WeChat's order. Each is valid for an hour.

        Raises:
            SessionKeyLostError: WeChat has replaced the session key; the client has to log in
                again.
            And as `check_session_key`.

        Source: https://developers.weixin.qq.com/miniprogram/dev/framework/open-ability/user-encryptkey.html
        """
        with self._calls.one():
            return await self._session_keys.encrypt_keys(token, self._app_access())

    async def access_token(self) -> str:
        """The app's own access token, for calls to WeChat of your own.

        It is kept for all processes, and fetched by one of them a little before its end. With a
        ComponentExchange it is what `authorizer_access_token` returns.

        Raises:
            WeChatAPIError: WeChat refused.
            HTTPStatusError, EmptyResponseError, InvalidResponseError, IncompleteResponseError,
            ConnectionFailedError: WeChat did not answer as it should.
            ConfigurationError: `tokens` is not a URL and the connections have no Redis; or there
                is an `exchange`, without an `authorizer_access_token`.
            StoreError: the store could not answer.
            ClosedError: the service is closed.
        """
        with self._calls.one():
            return await self._app_access().get()

    async def handle_push_event(self, event: PushEvent) -> None:
        """Handle an event that WeChat pushed: erase the user, or parts of their profile.

        user_authorization_cancellation forgets the user (a ban stays), user_authorization_revoke
        clears the fields of the profile that `revoke_info` names; any other is only told to
        listeners, as a PushEventReceived. Repeat the call when it fails with anything but
        InvalidPushEventError: what was done already does no harm.

        Args:
            event: what `parse_push_event` returned.

        Raises:
            InvalidPushEventError: it was handled before, is about another app, or would erase
                something although it came in plain mode, whose signature does not cover the body.
            ParameterError: it is not a PushEvent.
            StoreError: a store could not answer.
            ClosedError: the service is closed.
            And as `forget_user` and `clear_profile`.

        Source: https://developers.weixin.qq.com/miniprogram/dev/server/event_push/platform/authorized_user_information_changes
        """
        with self._calls.one():
            await self._push_events.handle(event)

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
        self._near_cache = None
        await self._logins.close()
        await self._calls.close()
        await self._session_keys.close()
        await self._sessions.close()
        if isinstance(self._access_token, AppAccessToken):
            await self._access_token.close()
        if self._own_web is not None:
            await self._own_web.close()
        for store in self._opened:
            await store.close()
        await self._events.close()
        if self._owns_connections:
            await self._connections.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _app_access(self) -> AccessToken:
        if self._access_token is not None:
            return self._access_token
        if isinstance(self._exchange, ComponentExchange):
            raise ConfigurationError(
                "This call needs the app's access token: give ComponentExchange, which is the "
                "`exchange`, an authorizer_access_token, an async function that returns it."
            )
        raise _no_records("The app's access token needs")

    async def _log_in(
        self,
        identify: Callable[[str], Awaitable[User]],
        code: str,
        device: Device,
        *,
        on_web: bool = False,
        has_code: bool = True,
    ) -> AuthResult:
        login, caller = self._logins.log_in(
            identify, code, device=device, on_web=on_web, has_code=has_code
        )
        try:
            return await caller
        except asyncio.CancelledError:
            self._logins.leave(login, caller)
            raise

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
            app_id=web.app_id,
        )

    def _open_app(
        self,
        app_id: str,
        app_secret: str,
        records: KeyValueStore,
        api_base: str | Sequence[str] | None,
        keys: Sequence[str | bytes],
    ) -> None:
        """Make what needs the app's own secret, and a place for what it keeps."""
        self._access_token = AppAccessToken(
            lambda force: self._api.get_stable_token(force_refresh=force),
            records,
            f"access_token|{app_id}",
            RecordSealer(b"mpauthx access", app_id=app_id, keys=keys),
            self._clock,
        )
        self._own_web = WeChatOAuth(
            app_id=app_id,
            app_secret=app_secret,
            tokens=KeyValueOAuthTokenStore(records, app_id=app_id, keys=keys),
            connections=self._connections,
            api_base=API_HOSTS if api_base is None else api_base,
            signing_keys=keys,
            clock=self._clock,
        )

    def _open_records(self, tokens: str | TokenStore) -> KeyValueStore | None:
        """Where all processes find what is kept beside the tokens; None where there is nothing."""
        if isinstance(tokens, str):
            records: KeyValueStore = self._open(
                tokens, lambda url: open_key_value_store(url, self._connections, self._clock)
            )
            return records
        return RedisKeyValueStore(self._connections) if self._connections.knows_redis else None

    def _open(self, store: Any, opener: Callable[[str], Any]) -> Any:
        if (
            not isinstance(store, str)
            and not hasattr(store, "lookup")
            and not hasattr(store, "save")
        ):
            raise ConfigurationError(
                "users and tokens must be URLs, such as sqlite:///users.db, or stores: this one is "
                f"a {type(store).__name__}."
            )
        if isinstance(store, str):
            store = opener(store)
            self._opened.append(store)
        return store


def _check_parts(connections: object, web: object, exchange: object) -> None:
    """Raise ConfigurationError for ready-made parts that are something else."""
    parts = (
        ("connections", "a Connections", connections, isinstance(connections, Connections)),
        ("web", "a WeChatOAuth", web, isinstance(web, WeChatOAuth)),
        ("exchange", "a CodeExchange", exchange, hasattr(exchange, "code_to_session")),
    )
    for name, wanted, part, fits in parts:
        if part is not None and not fits:
            raise ConfigurationError(
                f"{name} must be {wanted}, or None: this is a {type(part).__name__}."
            )


def _no_records(what: str) -> ConfigurationError:
    return ConfigurationError(
        f"{what} the app's own secret, so no `exchange`, and a place that all processes share: "
        "give `tokens` as a URL, or `connections` with a Redis."
    )
