"""The doors to a mini-program's login: how the code of `wx.login` is traded for a session."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from .errors import ConfigurationError, InvalidResponseError
from .models import CodeSession
from .wechat_http import API_HOSTS, WeChatHTTP
from .wechat_text import is_credential, is_user_id, union_id_of

__all__ = ["CodeExchange", "ComponentExchange", "MiniProgramExchange", "WeComExchange"]


class CodeExchange(Protocol):
    """One way to trade a code."""

    @property
    def hosts(self) -> Sequence[str]:
        """The servers to ask, in the order in which to try them."""

    def code_to_session(self, http: WeChatHTTP, app_id: str, code: str) -> Awaitable[CodeSession]:
        """Trade a code of the app; raises as `WeChatHTTP.get`.

        It has to end, sooner or later: until then, one of the places at WeChat is taken.
        """

    def is_of(self, session: CodeSession, payload: Mapping[str, Any]) -> bool:
        """Whether decrypted user data names the user of the session."""


@dataclass(frozen=True, slots=True)
class MiniProgramExchange:
    """The door of an app that knows its own secret.

    Source: https://developers.weixin.qq.com/miniprogram/en/dev/OpenApiDoc/user-login/code2Session.html
    """

    app_secret: str = field(repr=False)
    hosts: ClassVar[Sequence[str]] = API_HOSTS

    async def code_to_session(self, http: WeChatHTTP, app_id: str, code: str) -> CodeSession:
        """Trade a code of the app."""
        return _session(
            await http.get(
                "/sns/jscode2session",
                {
                    "appid": app_id,
                    "secret": self.app_secret,
                    "js_code": code,
                    "grant_type": "authorization_code",
                },
            )
        )

    def is_of(self, session: CodeSession, payload: Mapping[str, Any]) -> bool:
        """Whether decrypted user data names the user of the session."""
        return _names_open_id(session, payload)


@dataclass(frozen=True, slots=True)
class ComponentExchange:
    """The door of a third-party platform that acts for the app.

    Args:
        component_app_id: the platform's own AppID.
        access_token: gives the platform's component_access_token, which it keeps. What it raises
            reaches the caller of `authorize` as it is.

    Source: https://developers.weixin.qq.com/doc/oplatform/openApi/miniprogram-management/login/api_thirdpartycode2session.html
    """

    component_app_id: str
    access_token: Callable[[], Awaitable[str]] = field(repr=False)
    hosts: ClassVar[Sequence[str]] = API_HOSTS

    async def code_to_session(self, http: WeChatHTTP, app_id: str, code: str) -> CodeSession:
        """Trade a code of the app."""
        query = {
            "appid": app_id,
            "js_code": code,
            "grant_type": "authorization_code",
            "component_appid": self.component_app_id,
            "component_access_token": await _token(self.access_token),
        }
        return _session(await http.get("/sns/component/jscode2session", query))

    def is_of(self, session: CodeSession, payload: Mapping[str, Any]) -> bool:
        """Whether decrypted user data names the user of the session."""
        return _names_open_id(session, payload)


@dataclass(frozen=True, slots=True)
class WeComExchange:
    """The door of a mini-program inside WeCom, where the members of a company log in.

    A member's openId is `userid@corpid`.

    Args:
        access_token: gives the access token of the company's application, which it keeps. What it
            raises reaches the caller of `authorize` as it is.

    Source: https://developer.work.weixin.qq.com/document/path/96959
    """

    access_token: Callable[[], Awaitable[str]] = field(repr=False)
    hosts: ClassVar[Sequence[str]] = ("https://qyapi.weixin.qq.com",)

    async def code_to_session(self, http: WeChatHTTP, app_id: str, code: str) -> CodeSession:
        """Trade a code of the app."""
        query = {
            "access_token": await _token(self.access_token),
            "js_code": code,
            "grant_type": "authorization_code",
        }
        answer = await http.get("/cgi-bin/miniprogram/jscode2session", query)
        return _session({**answer, "openid": _member(answer), "unionid": None})

    def is_of(self, session: CodeSession, payload: Mapping[str, Any]) -> bool:
        """Whether decrypted user data names the user of the session."""
        return _member(payload) == session.open_id


async def _token(access_token: Callable[[], Awaitable[str]]) -> str:
    token: object = await access_token()
    if not isinstance(token, str):
        raise ConfigurationError("The exchange's access_token must return WeChat's token, a text.")
    return token


def _member(names: Mapping[str, Any]) -> str | None:
    user_id, corp_id = names.get("userid"), names.get("corpid")
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
        raise InvalidResponseError("WeChat's answer has no well-formed openid and session_key.")
    return CodeSession(str(open_id), session_key, union_id_of(answer))
