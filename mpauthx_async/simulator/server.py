"""WeChatSimulator: the server, and the actions of phones and browsers."""

from __future__ import annotations

import base64
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Self

from .encrypt_keys import EncryptKey
from .faults import Fault
from .listener import Listener
from .push import PushedEvent, Pusher
from .routes import Request
from .sealing import PhoneNumber, SealedData, SealedUserInfo, new_session_key, seal, seal_user_info
from .state import ANONYMOUS_PROFILE, State, User
from .web_oauth import SCOPES, Visitor
from .wechat import WeChat
from .wecom import CORP_SECRET

__all__ = ["WeChatSimulator"]


class WeChatSimulator:
    """An HTTP server that answers as WeChat's do, with the phones of any number of users.

    Args:
        app_id: its own app; others are answered with errcode 40013.
        app_secret: the app's secret; others are answered with errcode 40125.
        host: the address to listen on.
        port: the TCP port; 0 takes a free one, which is in `url`.
        clock: returns the time in Unix seconds, by which codes expire and minutes pass.
        calls_a_minute: code exchanges for one user before errcode 45011; None: no limit.
        other_apps: AppIDs and secrets of further apps of the same Open Platform account: Official
            Accounts, websites, other mini-programs. Codes, tokens, session keys and openids belong
            to one app: a code of another app is answered with errcode 40029.
        component_app_id: the third-party platform, which all these apps have authorized.
        corp_id: the company at WeCom.
        corp_secret: the secret of the company's application.
        strict_methods: whether to answer POST with errcode 43001 where WeChat documents GET. By
            default, like WeChat, `/sns/…` and `/cgi-bin/token` also accept a POST request with a
            form, and getuserencryptkey one with a query.

    Methods with an `app_id` use the simulator's own app by default, and raise LookupError for an
    unknown one.
    """

    def __init__(
        self,
        *,
        app_id: str = "wx4f4bc4dec97d474b",
        app_secret: str = "5e4c2e7d00c0ffee5e4c2e7d00c0ffee",  # noqa: S107
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Callable[[], float] = time.time,
        calls_a_minute: int | None = 100,
        other_apps: Mapping[str, str] | None = None,
        component_app_id: str = "wxc0c0c0c0c0c0c0c0",
        corp_id: str = "ww5ca1ab1e5ca1ab1e",
        corp_secret: str = CORP_SECRET,
        strict_methods: bool = False,
    ) -> None:
        self._clock = clock
        self._listener = Listener(host, port)
        apps = {app_id: app_secret, **(other_apps or {})}
        # Not a partial, whose repr holds the secrets.
        self._new_wechat: Callable[[], WeChat] = lambda: WeChat(
            apps,
            clock,
            calls_a_minute=float("inf") if calls_a_minute is None else calls_a_minute,
            component_app_id=component_app_id,
            corp_id=corp_id,
            corp_secret=corp_secret,
            strict_methods=strict_methods,
        )
        self._wechat = self._new_wechat()

    def __repr__(self) -> str:
        return f"WeChatSimulator(app_id={self.app_id!r}, url={self._listener.url!r})"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def app_id(self) -> str:
        """The AppID of the simulator's own app."""
        return self._state.app_id(None)

    @property
    def app_secret(self) -> str:
        """The secret of the simulator's own app; a new one is required at once."""
        return self._state.apps[self.app_id]

    @app_secret.setter
    def app_secret(self, app_secret: str) -> None:
        self._state.apps[self.app_id] = app_secret

    @property
    def component_app_id(self) -> str:
        """The AppID of the third-party platform."""
        return self._wechat.component.app_id

    @property
    def component_access_token(self) -> str:
        """The platform's current token: the same one for two hours, then a new one."""
        return self._wechat.component.access_token()

    def authorizer_access_token(self, app_id: str | None = None) -> str:
        """The platform's current access token of an app: the same one for two hours.

        `expire_access_tokens` ends it, too.
        """
        return self._wechat.access.authorizer_token(self._state.app_id(app_id))

    @property
    def corp_id(self) -> str:
        """The company at WeCom."""
        return self._wechat.wecom.corp_id

    @property
    def corp_secret(self) -> str:
        """The secret of the company's application."""
        return self._wechat.wecom.corp_secret

    @property
    def latency(self) -> float:
        """Seconds to wait before every answer of WeChat's API and pages; 0 by default.

        The request takes effect before the wait: a client that gives up meanwhile has used up
        its code.
        """
        return self._wechat.latency

    @latency.setter
    def latency(self, seconds: float) -> None:
        self._wechat.latency = seconds

    @property
    def requests(self) -> deque[Request]:
        """The last 1,000 requests to WeChat's API and pages, oldest first."""
        return self._wechat.requests

    @property
    def push(self) -> Pusher:
        """Creates the requests that WeChat posts to an app's own URL."""
        return self._wechat.push

    @property
    def push_event(self) -> Callable[..., PushedEvent]:
        """`push.event`: creates the request for an event."""
        return self._wechat.push.event

    @property
    def url(self) -> str:
        """The `api_base` to pass: `http://127.0.0.1:<port>`; RuntimeError if it is not running.

        The pages for browsers are under it, too; WeChat's are at open.weixin.qq.com.
        """
        if self._listener.url is None:
            raise RuntimeError("The simulator is not running: use 'async with', or await start().")
        return self._listener.url

    async def start(self) -> None:
        """Listen, as `async with` does.

        Raises:
            RuntimeError: it runs already.
            OSError: the port is taken.
        """
        await self._listener.start(self, lambda: self._wechat)

    async def close(self) -> None:
        """Finish requests within half a second, and free the port; may be called again."""
        await self._listener.close()

    def reset(self) -> None:
        """Forget all users, codes, tokens, faults and requests; the URL stays the same.

        Latency, visitor and secrets are those of the start. Requests in progress finish.
        """
        self._wechat = self._new_wechat()

    def login(
        self,
        open_id: str,
        union_id: str | None = None,
        *,
        session_key: str | None = None,
        app_id: str | None = None,
    ) -> str:
        """Log a user in, as `wx.login()` does, and return the code for the server.

        Every login replaces the user's session key (at WeChat it may): a user has one valid key.
        The exchange of a code returns the current key. So data from before a login does not decrypt
        with the key of the new code.

        Args:
            open_id: the user's openId; an unknown one becomes a new user.
            union_id: the user's unionId; None keeps an earlier one.
            session_key: base64 of 16 bytes, to replay recorded data; None: a random one.
            app_id: the mini-program.

        Returns:
            The code: 32 letters and digits, for one exchange within 300 seconds.

        Raises:
            ValueError: open_id is empty, or session_key is not base64 of 16 bytes.
            LookupError: the app is unknown.

        Source: https://developers.weixin.qq.com/miniprogram/dev/api/open-api/login/wx.login.html
        """
        if session_key is None:
            session_key = new_session_key()
        elif len(base64.b64decode(session_key, validate=True)) != 16:
            raise ValueError("session_key must be the base64 of 16 bytes.")
        user = self._user(open_id, app_id, union_id)
        user.session_key = session_key
        return self._wechat.mini_program.issue_code(user)

    def get_user_info(self, open_id: str, *, app_id: str | None = None) -> SealedUserInfo:
        """The result of `wx.getUserInfo()`, encrypted with the user's current session key.

        Raises:
            LookupError: the user has not logged in, or the app is unknown.

        Source: https://developers.weixin.qq.com/miniprogram/dev/framework/open-ability/signature.html
        """
        user = self._known_user(open_id, app_id)
        union = {} if user.union_id is None else {"unionId": user.union_id}
        ids = {"openId": open_id, **union}
        return seal_user_info(user, ids, user.profile, app_id=user.app_id, now=self._clock())

    def get_phone_number(
        self,
        open_id: str,
        phone_number: str = "13800138000",
        *,
        country_code: str = "86",
        app_id: str | None = None,
    ) -> PhoneNumber:
        """The result of the phone number button, in its new form and its old one.

        Args:
            open_id: the user, who has logged in.
            phone_number: the number without the country's code.
            country_code: digits; that of another country than China (86) precedes `phoneNumber`.
            app_id: the mini-program.

        Returns:
            `code`, `encrypted_data` and `iv`.

        Raises:
            LookupError: the user has not logged in, or the app is unknown.

        Source: https://developers.weixin.qq.com/miniprogram/dev/framework/open-ability/getPhoneNumber.html
        """
        user, now = self._known_user(open_id, app_id), self._clock()
        full_number = phone_number if country_code == "86" else f"+{country_code}{phone_number}"
        phone_info = {
            "phoneNumber": full_number,
            "purePhoneNumber": phone_number,
            "countryCode": country_code,
            "watermark": {"timestamp": int(now), "appid": user.app_id},
        }
        sealed = seal(user, phone_info, app_id=user.app_id, now=now)
        code = self._wechat.mini_program.issue_phone_code(user.app_id, phone_info)
        return PhoneNumber(code, *sealed)

    def get_latest_user_key(self, open_id: str, *, app_id: str | None = None) -> EncryptKey:
        """The result of `UserCryptoManager.getLatestUserKey()`: a key is valid for 3,600 seconds.

        Raises:
            LookupError: the user has not logged in, or the app is unknown.

        Source: https://developers.weixin.qq.com/miniprogram/dev/framework/open-ability/user-encryptkey.html
        """
        user = self._state.known_user(open_id, self._state.app_id(app_id))
        if user is None or user.session_key is None:
            raise LookupError(f"{open_id!r} has not logged in: call login({open_id!r}) first.")
        return self._wechat.mini_program.encrypt_keys.latest(user)

    def seal(
        self, open_id: str, payload: Mapping[str, object], *, app_id: str | None = None
    ) -> SealedData:
        """Encrypt any payload as WeChat does: AES-128-CBC with the user's current key, PKCS#7.

        Args:
            open_id: the user, who has logged in.
            payload: the fields. A correct `watermark` is added unless there is one.
            app_id: the mini-program.

        Returns:
            `encrypted_data` and `iv`, both base64.

        Raises:
            LookupError: the user has not logged in, or the app is unknown.
        """
        user = self._known_user(open_id, app_id)
        return seal(user, payload, app_id=user.app_id, now=self._clock())

    def web_login(
        self,
        open_id: str,
        union_id: str | None = None,
        *,
        scope: str = "snsapi_userinfo",
        app_id: str | None = None,
        snapshot: bool = False,
    ) -> str:
        """Log a user of a web page in, and return the code with which WeChat redirects them.

        Args:
            open_id: the user's openid; an unknown one becomes a new user.
            union_id: the user's unionid; None keeps an earlier one.
            scope: snsapi_base, snsapi_userinfo or snsapi_login.
            app_id: the Official Account or website.
            snapshot: whether this is a snapshot (virtual) account that represents no real user.

        Returns:
            The code, for one exchange within 300 seconds.

        Raises:
            ValueError: open_id is empty, or the scope is unknown.
            LookupError: the app is unknown.

        Source: https://developers.weixin.qq.com/doc/offiaccount/OA_Web_Apps/Wechat_webpage_authorization.html
        """
        if scope not in (known := [scope for scopes in SCOPES.values() for scope in scopes]):
            raise ValueError(f"'scope' must be one of {', '.join(known)}.")
        user = self._user(open_id, app_id, union_id)
        return self._wechat.web_oauth.issue_code(user, scope, snapshot=snapshot)

    def visit_as(
        self, open_id: str, union_id: str | None = None, *, declines: bool = False
    ) -> None:
        """Set the visitor of the pages `/connect/…`.

        Args:
            open_id: the openid that each app gets.
            union_id: the user's unionid; None keeps an earlier one.
            declines: whether the user refuses what a page asks for. The page for websites then
                redirects with the state and without a code, as in WeChat's English document (in
                its Chinese one the user stays); an Official Account's page does not redirect.
                snsapi_base asks for nothing, so it cannot be declined.

        Raises:
            ValueError: open_id is empty.
        """
        if not open_id:
            raise ValueError("open_id must not be empty.")
        self._wechat.web_oauth.visitor = Visitor(open_id, union_id, declines)

    def expire_access_tokens(self, app_id: str | None = None) -> None:
        """End all access tokens of an app, as a forced refresh elsewhere does.

        Calls with one of them are answered with errcode 40001. Users' web tokens stay valid.
        """
        self._wechat.access.expire(self._state.app_id(app_id))

    def wecom_login(self, user_id: str, corp_id: str | None = None) -> str:
        """Log a member of a company in, as `wx.qy.login()` does, and return the code.

        Args:
            user_id: the member's userid; an unknown one becomes a new member.
            corp_id: the member's company; None: the simulator's.

        Returns:
            The code, for one exchange within 300 seconds.

        Raises:
            ValueError: user_id is empty.

        Source: https://developer.work.weixin.qq.com/document/path/96959
        """
        if not user_id:
            raise ValueError("user_id must not be empty.")
        member = self._state.user(user_id, corp_id or self.corp_id)
        member.session_key = new_session_key()
        return self._wechat.wecom.issue_code(member)

    def get_wecom_user_info(self, user_id: str, corp_id: str | None = None) -> SealedUserInfo:
        """The result of `wx.qy.getEnterpriseUserInfo()`: userid, corpid and name.

        The name is the user_id.

        Raises:
            LookupError: the member has not logged in.

        Source: https://developer.work.weixin.qq.com/document/path/92426
        """
        corp_id = corp_id or self.corp_id
        member = self._state.known_user(user_id, corp_id)
        if member is None:
            raise LookupError(f"{user_id!r} has no session key: call wecom_login() first.")
        ids = {"userid": user_id, "corpid": corp_id}
        raw = {"name": user_id}
        return seal_user_info(member, ids, raw, app_id=self.app_id, now=self._clock())

    def set_profile(
        self, open_id: str, *, app_id: str | None = None, **profile: str | bytes | int
    ) -> None:
        """Change a user's profile, which is at first WeChat's anonymous one.

        Args:
            open_id: the user's openId; an unknown one becomes a new user.
            app_id: the app that gets this profile.
            profile: nickName, gender (0 unknown, 1 male, 2 female), language, city, province,
                country, avatarUrl; fields that are left out stay. As at WeChat, control characters
                are sent unescaped, and so are bytes, which need not be UTF-8; half a surrogate pair
                is sent as JSON's escape.

        Raises:
            TypeError: a field is unknown.
            ValueError: open_id is empty.
            LookupError: the app is unknown.
        """
        if unknown := profile.keys() - ANONYMOUS_PROFILE.keys():
            known = ", ".join(ANONYMOUS_PROFILE)
            raise TypeError(f"A profile has no {', '.join(sorted(unknown))}; it has {known}.")
        user = self._user(open_id, app_id)
        sent = {
            name: value.decode(errors="surrogateescape") if isinstance(value, bytes) else value
            for name, value in profile.items()
        }
        user.profile = {**user.profile, **sent}

    def block(self, open_id: str, *, app_id: str | None = None) -> None:
        """Make this a high-risk user, whose codes are answered with errcode 40226."""
        self._user(open_id, app_id).blocked = True

    def fail_next(self, fault: Fault, times: int = 1) -> None:
        """Let the next requests to WeChat's API fail, after those of earlier calls.

        Args:
            fault: how they fail.
            times: how many of them, 1 to 10,000.

        Raises:
            ValueError: times is not 1 to 10,000.
        """
        if not 1 <= times <= 10_000:
            raise ValueError(f"'times' must be 1 to 10,000, and is {times}.")
        self._wechat.faults.extend([fault] * times)

    def clear_faults(self) -> None:
        """Cancel all faults of `fail_next`."""
        self._wechat.faults.clear()

    @property
    def _state(self) -> State:
        return self._wechat.state

    def _user(self, open_id: str, app_id: str | None, union_id: str | None = None) -> User:
        return self._state.user(open_id, self._state.app_id(app_id), union_id)

    def _known_user(self, open_id: str, app_id: str | None) -> User:
        """Return a user without saving an unknown one, who has no session key."""
        app_id = self._state.app_id(app_id)
        return self._state.known_user(open_id, app_id) or User(app_id, open_id)
