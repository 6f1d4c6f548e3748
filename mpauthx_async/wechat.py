"""WeChatAPI: typed calls of WeChat's HTTP API, its errors, retries and fallback host."""

import asyncio
import json
import logging
import random
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, quote_plus, urlencode

import aiohttp
from yarl import URL

from .connections import Connections
from .errors import (
    ConfigurationError,
    ConnectionFailedError,
    EmptyResponseError,
    HTTPStatusError,
    IncompleteResponseError,
    InvalidResponseError,
    MPAuthXError,
    ParameterError,
    WeChatAPIError,
)
from .models import CodeSession, is_user_id

__all__ = ["API_HOSTS", "WeChatAPI", "check_code"]

API_HOSTS = ("https://api.weixin.qq.com", "https://api2.weixin.qq.com")
"""WeChat's general API host, and the fallback that it publishes."""

logger = logging.getLogger(__name__)

_ATTEMPTS = 3  # on each host
_BACKOFF = 0.1  # seconds before the first retry, at most; doubles with each
_SYSTEM_BUSY = -1

_HINTS = {
    -1: "WeChat is busy; the code was not consumed, so the client can send it again.",
    40001: "The access token or app secret is wrong or outdated.",
    40002: "grant_type must be authorization_code.",
    40013: "Check app_id; the client must run under the same AppID.",
    40029: "The code is unknown, older than 5 minutes or another app's. Call wx.login again and "
    "check that client and server use the same AppID.",
    40125: "Check app_secret; it may have been reset in WeChat's admin console.",
    40163: "A code works once: the client or a proxy sent it twice. Call wx.login again.",
    40226: "WeChat holds this user for high-risk and blocks the login.",
    41002: "app_id is missing.",
    41004: "app_secret is missing.",
    41008: "The code is missing.",
    45011: "Too many logins of this user (100 a minute). Keep the token instead of logging in "
    "for each request.",
}
_RID = re.compile(r"[\s,]*(?:rid:\s*([\w-]+)|hints:\s*\[\s*req_id:\s*([^\s\]]+)\s*\])\s*$")
_CODE = re.compile(r"[\x21-\x7e]{1,512}")
_CREDENTIAL = re.compile(r"[\x20-\x7e]+")


class WeChatAPI:
    """WeChat's HTTP API as one app sees it.

    A call is repeated only where that is safe: when no connection came about, and when WeChat says
    that it is busy (errcode -1). Anything else may have consumed the code.

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
        self._connections = connections
        hosts = (api_base,) if isinstance(api_base, str) else api_base
        if not isinstance(hosts, (tuple, list)) or not hosts or not all(map(_is_host, hosts)):
            raise ConfigurationError("api_base must be a URL such as https://api.weixin.qq.com.")
        self._hosts = tuple(hosts)
        # The secret as it may stand in an error that repeats the request.
        self._secret_spellings = {app_secret, quote(app_secret, safe=""), quote_plus(app_secret)}

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
        answer = await self._get(
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

    async def _get(self, path_and_query: str) -> dict[str, Any]:
        """Ask the hosts in turn; repeat only what is safe to repeat."""
        failure: MPAuthXError | None = None
        for attempt in range(len(self._hosts) * _ATTEMPTS):
            host, retry = self._hosts[attempt // _ATTEMPTS], attempt % _ATTEMPTS
            if retry:
                backoff = _BACKOFF * 2 ** (retry - 1)
                await asyncio.sleep(random.uniform(0, backoff))  # noqa: S311 (jitter, no secret)
            answer = await self._get_once(host + path_and_query)
            if not isinstance(answer, MPAuthXError):
                return answer
            failure = answer
            if not _is_repeatable(failure):
                break
            logger.warning("%s: %s", host, failure)
        # Raised outside any except clause: the exceptions of an HTTP library hold the URL, and
        # with it the secret.
        raise failure or MPAuthXError("No host was asked.")

    async def _get_once(self, url: str) -> dict[str, Any] | MPAuthXError:
        """The JSON object that WeChat answers; or what went wrong, as a value."""
        session = self._connections.http
        status = None
        try:
            async with session.get(
                URL(url, encoded=True),
                allow_redirects=False,
                raise_for_status=False,
                middlewares=(_send_once,),
            ) as response:
                status = response.status
                return self._parse(status, await response.read())
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return ConnectionFailedError(
                f"No connection to WeChat ({type(error).__name__}). Check DNS, proxy and firewall.",
                sent=False,
            )
        except TimeoutError:
            return ConnectionFailedError(
                "WeChat did not answer in time. The code may be consumed: the client has to call "
                "wx.login again.",
                sent=True,
            )
        except (aiohttp.ClientError, OSError) as error:
            if status is None:
                return _connection_lost(error)
            return IncompleteResponseError(
                f"WeChat's answer broke off ({type(error).__name__}). The code may be consumed: "
                "the client has to call wx.login again."
            )
        except MPAuthXError as error:
            return error

    def _parse(self, status: int, body: bytes) -> dict[str, Any] | MPAuthXError:
        """WeChat's answer by its content: the Content-Type says text/plain."""
        if status != 200:
            return HTTPStatusError(
                f"WeChat answered with HTTP status {status} instead of 200; a proxy may stand "
                "between.",
                status,
            )
        if not body.strip():
            return EmptyResponseError("WeChat answered with an empty body.")
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            return InvalidResponseError(
                "WeChat's answer is no JSON object; a proxy may stand between."
            )
        errcode = answer.get("errcode")
        if errcode in (None, 0):
            return answer
        if not isinstance(errcode, int):
            return InvalidResponseError("WeChat's answer has an errcode that is no number.")
        return self._api_error(errcode, str(answer.get("errmsg", "")))

    def _api_error(self, errcode: int, errmsg: str) -> WeChatAPIError:
        for spelling in self._secret_spellings:
            errmsg = errmsg.replace(spelling, "***")
        found = _RID.search(errmsg)
        return WeChatAPIError(
            errcode,
            errmsg[: found.start()] if found else errmsg,
            rid=(found[1] or found[2]) if found else None,
            hint=_HINTS.get(errcode, ""),
        )


def check_code(code: object) -> None:
    """Raise ParameterError for what can be no code of `wx.login`."""
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        raise ParameterError(
            "code is required: the text that wx.login gives the client, at most 512 characters."
        )


async def _send_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep aiohttp from repeating a GET whose connection broke: it may have consumed the code."""
    try:
        return await handler(request)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        raise  # aiohttp does not repeat these
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        lost = _connection_lost(error)
    raise lost


def _connection_lost(error: Exception) -> ConnectionFailedError:
    return ConnectionFailedError(
        f"The connection to WeChat broke before an answer came ({type(error).__name__}). The code "
        "may be consumed: the client has to call wx.login again.",
        sent=True,
    )


def _is_host(api_base: object) -> bool:
    if not isinstance(api_base, str) or re.search(r"[\s?#]", api_base):
        return False
    try:
        url = URL(api_base)
        return url.scheme in ("http", "https") and bool((url.host or "").encode("idna"))
    except ValueError:
        return False


def _is_repeatable(error: MPAuthXError) -> bool:
    if isinstance(error, ConnectionFailedError):
        return not error.sent
    return isinstance(error, WeChatAPIError) and error.errcode == _SYSTEM_BUSY
