"""Exchanges: the code of `wx.login` for a session, and that of a web login for tokens."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from .._compat import timeout
from ..errors import ConfigurationError, ConnectionFailedError
from ..failure_log import invalid_answer
from ..models import CodeSession
from ..untrusted_text import is_credential, is_user_id, union_id_of
from .transport import API_HOSTS, WeChatHTTP, waiting_for_wechat

__all__ = [
    "CodeExchange",
    "ComponentExchange",
    "MiniProgramExchange",
    "WeComExchange",
    "WebExchange",
    "token_of",
]

_CODE_GRANT = {"grant_type": "authorization_code"}
_REFRESH_GRANT = {"grant_type": "refresh_token"}


class CodeExchange(Protocol):
    """A way to exchange the code of `wx.login` for a session."""

    @property
    def hosts(self) -> Sequence[str]:
        """The servers to ask, in the order in which to try them."""

    def code_to_session(self, http: WeChatHTTP, app_id: str, code: str) -> Awaitable[CodeSession]:
        """Exchange a code of the app; raises as `WeChatHTTP.get`.

        Must finish: until it does it holds one of the concurrent-exchange slots.
        """

    def names_same_user(self, session: CodeSession, payload: Mapping[str, Any]) -> bool:
        """Whether decrypted user data names the user of the session."""


@runtime_checkable
class WebExchange(Protocol):
    """A way to exchange the code of a web login for the user's tokens, for WeChatOAuth."""

    @property
    def page_parameters(self) -> Mapping[str, str]:
        """The additional parameters of the authorize page's URL, in this order."""

    async def web_token(self, http: WeChatHTTP, app_id: str, code: str) -> dict[str, Any]:
        """Exchange a code for the user's tokens; raises as `WeChatHTTP.get`."""

    async def refreshed_web_token(
        self, http: WeChatHTTP, app_id: str, refresh_token: str
    ) -> dict[str, Any]:
        """Exchange a refresh token for the user's new tokens; raises as `WeChatHTTP.get`."""


@dataclass(frozen=True, slots=True)
class MiniProgramExchange:
    """The exchange of an app that knows its own secret, for MPAuthX and WeChatOAuth.

    Args:
        app_secret: the app's secret.

    Sources:
        https://developers.weixin.qq.com/miniprogram/en/dev/OpenApiDoc/user-login/code2Session.html
        https://developers.weixin.qq.com/doc/offiaccount/en/OA_Web_Apps/Wechat_webpage_authorization.html
    """

    app_secret: str = field(repr=False)
    hosts: Sequence[str] = field(default=API_HOSTS, init=False, repr=False)

    @property
    def page_parameters(self) -> Mapping[str, str]:
        """The additional parameters of the authorize page's URL."""
        return {}

    async def code_to_session(self, http: WeChatHTTP, app_id: str, code: str) -> CodeSession:
        """Exchange a code of the app."""
        query = {"appid": app_id, "secret": self.app_secret, "js_code": code, **_CODE_GRANT}
        return _session(await http.get("/sns/jscode2session", query))

    def names_same_user(self, session: CodeSession, payload: Mapping[str, Any]) -> bool:
        """Whether decrypted user data names the user of the session."""
        return _names_open_id(session, payload)

    async def web_token(self, http: WeChatHTTP, app_id: str, code: str) -> dict[str, Any]:
        """Exchange a code for the user's tokens."""
        query = {"appid": app_id, "secret": self.app_secret, "code": code, **_CODE_GRANT}
        return await http.get("/sns/oauth2/access_token", query)

    async def refreshed_web_token(
        self, http: WeChatHTTP, app_id: str, refresh_token: str
    ) -> dict[str, Any]:
        """Exchange a refresh token for the user's new tokens."""
        query = {"appid": app_id, **_REFRESH_GRANT, "refresh_token": refresh_token}
        return await http.get("/sns/oauth2/refresh_token", query)


@dataclass(frozen=True, slots=True)
class ComponentExchange:
    """The exchange of a third-party platform that acts for the app, for MPAuthX and WeChatOAuth.

    The caller gets the exceptions of its functions unchanged.

    Args:
        component_app_id: the platform's own AppID.
        access_token: an async function that returns the platform's component_access_token, which
            the platform keeps.
        authorizer_access_token: an async function that returns the app's authorizer_access_token,
            which the platform keeps. Without it phone numbers, checks of session keys, encryption
            keys and `access_token` raise ConfigurationError. When WeChat refuses the token, the
            function is called once more and the call repeated.

    Sources:
        https://developers.weixin.qq.com/doc/oplatform/openApi/miniprogram-management/login/api_thirdpartycode2session.html
        https://developers.weixin.qq.com/doc/oplatform/Third-party_Platforms/2.0/api/Before_Develop/Official_Accounts/official_account_website_authorization.html
    """

    component_app_id: str
    access_token: Callable[[], Awaitable[str]] = field(repr=False)
    authorizer_access_token: Callable[[], Awaitable[str]] | None = field(
        default=None, repr=False, kw_only=True
    )
    hosts: Sequence[str] = field(default=API_HOSTS, init=False, repr=False)

    async def code_to_session(self, http: WeChatHTTP, app_id: str, code: str) -> CodeSession:
        """Exchange a code of the app."""
        query = {"appid": app_id, "js_code": code, **_CODE_GRANT, **await self._credentials()}
        return _session(await http.get("/sns/component/jscode2session", query))

    def names_same_user(self, session: CodeSession, payload: Mapping[str, Any]) -> bool:
        """Whether decrypted user data names the user of the session."""
        return _names_open_id(session, payload)

    @property
    def page_parameters(self) -> Mapping[str, str]:
        """The additional parameters of the authorize page's URL."""
        return {"component_appid": self.component_app_id}

    async def web_token(self, http: WeChatHTTP, app_id: str, code: str) -> dict[str, Any]:
        """Exchange a code for the user's tokens."""
        query = {"appid": app_id, "code": code, **_CODE_GRANT, **await self._credentials()}
        return await http.get("/sns/oauth2/component/access_token", query)

    async def refreshed_web_token(
        self, http: WeChatHTTP, app_id: str, refresh_token: str
    ) -> dict[str, Any]:
        """Exchange a refresh token for the user's new tokens."""
        query = {
            "appid": app_id,
            **_REFRESH_GRANT,
            **await self._credentials(),
            "refresh_token": refresh_token,
        }
        return await http.get("/sns/oauth2/component/refresh_token", query)

    async def _credentials(self) -> Mapping[str, str]:
        token = await token_of(self.access_token, "ComponentExchange's access_token")
        return {"component_appid": self.component_app_id, "component_access_token": token}


@dataclass(frozen=True, slots=True)
class WeComExchange:
    """The exchange of a mini-program in WeCom, where the members of a company log in.

    A member's openId is `userid@corpid`.

    Args:
        access_token: an async function that returns the access token of the company's application,
            which the application keeps. The caller gets its exceptions unchanged.

    Source: https://developer.work.weixin.qq.com/document/path/96959
    """

    access_token: Callable[[], Awaitable[str]] = field(repr=False)
    hosts: Sequence[str] = field(default=("https://qyapi.weixin.qq.com",), init=False, repr=False)

    async def code_to_session(self, http: WeChatHTTP, app_id: str, code: str) -> CodeSession:
        """Exchange a code of the app."""
        token = await token_of(self.access_token, "WeComExchange's access_token")
        query = {"access_token": token, "js_code": code, **_CODE_GRANT}
        answer = await http.get("/cgi-bin/miniprogram/jscode2session", query)
        return _session({**answer, "openid": _member(answer), "unionid": None})

    def names_same_user(self, session: CodeSession, payload: Mapping[str, Any]) -> bool:
        """Whether decrypted user data names the user of the session."""
        return _member(payload) == session.open_id


async def token_of(give: Callable[[], Awaitable[str]], name: str) -> str:
    """The token that a function of the application returns, whose exceptions stay as they are."""
    with waiting_for_wechat() as seconds:
        try:
            async with timeout(seconds) as limit:
                token: object = await give()
        except TimeoutError:
            if not limit.expired():
                raise
            raise ConnectionFailedError(f"{name} did not return in time.", sent=False) from None
    if not is_credential(token):
        raise ConfigurationError(
            f"{name} must return WeChat's token: a text of up to 1,024 ASCII characters, not empty."
        )
    return token


def _member(fields: Mapping[str, Any]) -> str | None:
    user_id, corp_id = fields.get("userid"), fields.get("corpid")
    if not isinstance(user_id, str) or not isinstance(corp_id, str) or not user_id or not corp_id:
        return None
    return f"{user_id}@{corp_id}"


def _names_open_id(session: CodeSession, payload: Mapping[str, Any]) -> bool:
    union_id = payload.get("unionId")
    return payload.get("openId") == session.open_id and (
        not session.union_id or not union_id or union_id == session.union_id
    )


def _session(answer: Mapping[str, Any]) -> CodeSession:
    open_id, session_key = answer.get("openid"), answer.get("session_key")
    if not is_user_id(open_id) or not is_credential(session_key):
        raise invalid_answer("WeChat's answer has no well-formed openid and session_key.")
    return CodeSession(str(open_id), session_key, union_id_of(answer))
