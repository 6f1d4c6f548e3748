"""WeChatAPI: typed calls of WeChat's HTTP API."""

import re
from collections.abc import Sequence
from urllib.parse import quote, urlencode

from .connections import Connections
from .errors import ConfigurationError, InvalidResponseError, ParameterError
from .models import CodeSession, is_user_id
from .wechat_http import API_HOSTS, WeChatHTTP

__all__ = ["WeChatAPI", "check_code"]

_CODE = re.compile(r"[\x21-\x7e]{1,512}")
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


def check_code(code: object) -> None:
    """Raise ParameterError for what can be no code of `wx.login`."""
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        raise ParameterError(
            "code is required: the text that wx.login gives the client, at most 512 characters."
        )
