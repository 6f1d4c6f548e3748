"""WeChatAPI: typed calls of WeChat's HTTP API."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard
from urllib.parse import quote, urlencode

from .connections import Connections
from .errors import ConfigurationError, InvalidResponseError, ParameterError, WeChatAPIError
from .models import CodeSession, OAuthToken, OAuthUser, is_user_id
from .wechat_http import API_HOSTS, WeChatHTTP

__all__ = ["WeChatAPI", "check_code", "check_lang"]

_CODE = re.compile(r"[\x21-\x7e]{1,512}")
_TOKEN = re.compile(r"[\x21-\x7e]{1,1024}")
_NOT_GOOD = (40001, 40003, 40014, 42001, 42007)  # WeChat's errcodes for an access token
_LANGUAGES = ("zh_CN", "zh_TW", "en")
_CREDENTIAL = re.compile(r"[\x20-\x7e]+")


class WeChatAPI:
    """WeChat's HTTP API as one app sees it.

    Args:
        app_id: the app's AppID.
        app_secret: the app's secret. It appears in no log line, repr or exception.
        connections: whose aiohttp session to use.
        api_base: the server's address without a trailing slash, or several in the order in which
            to try them.
    """

    def __init__(
        self,
        *,
        app_id: str,
        app_secret: str,
        connections: Connections,
        api_base: str | Sequence[str] = API_HOSTS,
    ) -> None:
        for name, value in (("app_id", app_id), ("app_secret", app_secret)):
            if not isinstance(value, str) or not _CREDENTIAL.fullmatch(value):
                raise ConfigurationError(
                    f"{name} must be a text of ASCII characters; is there a line break at its end?"
                )
        self._app_id = app_id
        self._credentials = urlencode({"appid": app_id, "secret": app_secret})
        self._http = WeChatHTTP(connections, api_base)

    def __repr__(self) -> str:
        return f"<WeChatAPI of {self._app_id}>"

    async def code_to_session(self, code: str) -> CodeSession:
        """Trade the one-time code of `wx.login` for the user's identity and session key.

        Args:
            code: what `wx.login` gave the client; it works once within 5 minutes.

        Raises:
            ParameterError: this can be no code.
            WeChatAPIError: WeChat refused; errcode and hint tell why.
            HTTPStatusError, EmptyResponseError, InvalidResponseError, IncompleteResponseError:
                the answer is none, or none of WeChat's.
            ConnectionFailedError: no connection, or no answer in time.

        Source: https://developers.weixin.qq.com/miniprogram/en/dev/OpenApiDoc/user-login/code2Session.html
        """
        check_code(code)
        answer = await self._http.get(
            f"/sns/jscode2session?{self._credentials}&js_code={quote(code, safe='')}"
            "&grant_type=authorization_code"
        )
        open_id, session_key = answer.get("openid"), answer.get("session_key")
        union_id = answer.get("unionid") or None
        if not is_user_id(open_id) or not isinstance(session_key, str) or not session_key:
            raise InvalidResponseError("WeChat's answer has no openid and session_key.")
        if union_id is not None and not is_user_id(union_id):
            raise InvalidResponseError("WeChat's answer has a unionid that is none.")
        return CodeSession(str(open_id), session_key, union_id)

    async def code_to_oauth_token(self, code: str, now: int) -> OAuthToken:
        """Trade the one-time code of a web login for the user's identity and tokens.

        Args:
            code: what WeChat appended to the redirect_uri; it works once within 5 minutes.
            now: when this is, in Unix milliseconds.

        Raises:
            As `code_to_session`.

        Source: https://developers.weixin.qq.com/doc/offiaccount/en/OA_Web_Apps/Wechat_webpage_authorization.html
        """
        check_code(code)
        answer = await self._http.get(
            f"/sns/oauth2/access_token?{self._credentials}&code={quote(code, safe='')}"
            "&grant_type=authorization_code"
        )
        return _oauth_token(answer, now)

    async def refresh_oauth_token(self, refresh_token: str, now: int) -> OAuthToken:
        """Trade a refresh token for an access token that lives; in all else as the above."""
        _check_token("refresh_token", refresh_token)
        app_id, token = quote(self._app_id, safe=""), quote(refresh_token, safe="")
        answer = await self._http.get(
            f"/sns/oauth2/refresh_token?appid={app_id}&grant_type=refresh_token"
            f"&refresh_token={token}"
        )
        return _oauth_token(answer, now)

    async def get_oauth_user(self, token: OAuthToken, lang: str = "zh_CN") -> OAuthUser:
        """Ask for the profile of the user whose token this is, in zh_CN, zh_TW or en.

        Raises:
            As `code_to_session`; WeChatAPIError with 48001 when they granted no more than
            snsapi_base.
        """
        check_lang(lang)
        answer = await self._http.get(
            f"/sns/userinfo?{_of_user(token.open_id, token.access_token)}&lang={lang}"
        )
        if answer.get("openid") != token.open_id:
            raise InvalidResponseError("WeChat's answer does not have the openid asked for.")
        return OAuthUser.from_wechat(token.open_id, token.union_id, answer)

    async def is_oauth_token_valid(self, open_id: str, access_token: str) -> bool:
        """Ask whether an access token is this user's and still good.

        Raises:
            As `code_to_session`, for anything but a token that is not good.
        """
        query = _of_user(open_id, access_token)
        try:
            await self._http.get(f"/sns/auth?{query}")
        except WeChatAPIError as error:
            if error.errcode not in _NOT_GOOD:
                raise
            return False
        return True


def check_code(code: object) -> None:
    """Raise ParameterError for what can be no code of `wx.login` or of a web login."""
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        raise ParameterError(
            "code is required: the text that wx.login gives the client, or that WeChat appends to "
            "the redirect_uri, at most 512 characters."
        )


def check_lang(lang: object) -> None:
    """Raise ParameterError for what is no language of `/sns/userinfo`."""
    if lang not in _LANGUAGES:
        raise ParameterError(f"lang must be one of {', '.join(_LANGUAGES)}.")


def _is_token(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and _TOKEN.fullmatch(value) is not None


def _check_token(name: str, value: object) -> None:
    if not _is_token(value):
        raise ParameterError(f"{name} is required, as WeChat gave it.")


def _of_user(open_id: str, access_token: str) -> str:
    """The part of a query that names a user and their token."""
    if not is_user_id(open_id):
        raise ParameterError("open_id is required, as WeChat gave it.")
    _check_token("access_token", access_token)
    return f"access_token={quote(access_token, safe='')}&openid={quote(open_id, safe='')}"


def _oauth_token(answer: Mapping[str, Any], now: int) -> OAuthToken:
    get = answer.get
    open_id, union_id, expires_in = get("openid"), get("unionid") or None, get("expires_in")
    access_token, refresh_token = get("access_token"), get("refresh_token")
    if (
        not is_user_id(open_id)
        or not _is_token(access_token)
        or not _is_token(refresh_token)
        or type(expires_in) is not int
    ):
        raise InvalidResponseError(
            "WeChat's answer has no openid, access_token, refresh_token and expires_in."
        )
    if union_id is not None and not is_user_id(union_id):
        raise InvalidResponseError("WeChat's answer has a unionid that is none.")
    return OAuthToken(
        open_id=str(open_id),
        access_token=access_token,
        refresh_token=refresh_token,
        expires_in=expires_in,
        scope=str(get("scope", "")),
        created_at=now,
        union_id=union_id,
        is_snapshot_user=get("is_snapshotuser") in (1, "1"),
    )
