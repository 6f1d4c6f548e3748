"""WeChatHTTP: asking WeChat's servers; their errors, retries and fallback hosts."""

import asyncio
import json
import logging
import random
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, urlsplit

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
    WeChatAPIError,
)

__all__ = ["API_HOSTS", "WeChatHTTP", "is_address"]

API_HOSTS = ("https://api.weixin.qq.com", "https://api2.weixin.qq.com")
"""WeChat's general API host, and the fallback that it publishes."""

logger = logging.getLogger(__name__)

_ATTEMPTS = 3  # on each host
_BACKOFF = 0.1  # seconds before the first retry, at most; doubles with each
_SYSTEM_BUSY = -1

_HINTS = {
    -1: "WeChat is busy; the code was not consumed, so the client can send it again.",
    40001: "The access token or app secret is wrong or outdated. Check app_secret; in a web login "
    "let the user authorize again.",
    40002: "grant_type must be authorization_code.",
    40003: "This openid is none of the app's, or not the one that the access token was given for. "
    "Use the open_id and the app_id that came with the token.",
    40013: "Check app_id; the client must run under the same AppID.",
    40029: "The code is unknown, older than 5 minutes or another app's. Get a new one (wx.login or "
    "the authorize page) and check that client and server use the same AppID.",
    40014: "The access token is none that WeChat gave out. Get the app's anew; in a web login let "
    "the user authorize again.",
    40030: "The refresh token is none that WeChat gave this app, or was withdrawn: the user has to "
    "authorize again.",
    40125: "Check app_secret; it may have been reset in WeChat's admin console.",
    40163: "A code works once: the client or a proxy sent it twice. Get a new one (wx.login or "
    "the authorize page).",
    40164: "This server's IP address is not on the list that WeChat's admin console keeps for the "
    "app: add it there.",
    40226: "WeChat holds this user for high-risk and blocks the login.",
    41001: "The access token is missing: pass the one that the user's code was traded for.",
    41002: "app_id is missing.",
    41003: "The refresh token is missing: pass the refresh_token that came with the access token.",
    41004: "app_secret is missing.",
    41008: "The code is missing.",
    42001: "The access token has expired: get the app's anew; in a web login refresh the "
    "user's, or let them authorize again.",
    42002: "The refresh token has expired, 30 days after the user authorized: they have to "
    "authorize again.",
    42007: "The user changed their password, which ended their tokens: they have to authorize "
    "again.",
    45009: "The day's number of calls is used up.",
    45011: "Too many logins of this user (100 a minute). Keep the token instead of logging in "
    "for each request.",
    48001: "The user has not granted this, or the app may not ask for it. Authorize with the scope "
    "snsapi_userinfo (snsapi_login on a website); an Official Account must be a verified one.",
}
_MAX_ERRMSG = 500  # characters
# What follows WeChat's text: "rid: x", "hints: [ req_id: x ]", "hint: [x] rid: y", and WeCom's
# "hint: [x], from ip: y, more info at z".
_REQUEST_IDS = re.compile(
    r"(?:\bhints?:\s*\[\s*(?:req_id:\s*)?(?P<hint>[^\s\]]+)\s*\].*?)?"
    r"(?:\brid:\s*(?P<rid>[\w.:-]+)\s*)?\Z",
    re.DOTALL,
)
# What a request carries that no error may repeat.
_SECRETS = {
    "access_token",
    "appsecret",
    "component_access_token",
    "corpsecret",
    "refresh_token",
    "secret",
    "signature",
}
_CODE_MAY_BE_CONSUMED = (
    "If a code was sent it may be consumed: the client has to get a new one, with wx.login or on "
    "the authorize page."
)


class WeChatHTTP:
    """WeChat's servers as every call of them meets them.

    A call is repeated only where that is safe: when no connection came about, and when WeChat says
    that it is busy (errcode -1). Anything else may have consumed a code.

    Args:
        connections: whose aiohttp session to use.
        api_base: the server's address without a trailing slash, or several in the order in which
            to try them.
        on_refused: is told WeChat's errcode whenever it refuses a call.

    Raises:
        ConfigurationError: for what is no address.
    """

    def __init__(
        self,
        connections: Connections,
        api_base: str | Sequence[str] = API_HOSTS,
        on_refused: Callable[[int], None] | None = None,
    ) -> None:
        hosts = (api_base,) if isinstance(api_base, str) else api_base
        if not isinstance(hosts, (tuple, list)) or not hosts or not all(map(is_address, hosts)):
            raise ConfigurationError("api_base must be a URL such as https://api.weixin.qq.com.")
        self._hosts = tuple(hosts)
        self._connections = connections
        self._on_refused = on_refused

    def get(self, path_and_query: str) -> Awaitable[dict[str, Any]]:
        """Ask with GET.

        Args:
            path_and_query: percent-encoded, exactly as it is to be sent.

        Returns:
            The JSON object that WeChat answers.

        Raises:
            WeChatAPIError: WeChat refused; errcode and hint tell why.
            HTTPStatusError, EmptyResponseError, InvalidResponseError, IncompleteResponseError:
                the answer is none, or none of WeChat's.
            ConnectionFailedError: no connection, or no answer in time.
        """
        return self._ask("GET", path_and_query, None)

    def post(self, path_and_query: str, body: Mapping[str, Any]) -> Awaitable[dict[str, Any]]:
        """Ask with POST and a JSON body; in all else as `get`."""
        return self._ask("POST", path_and_query, body)

    async def _ask(
        self, method: str, path_and_query: str, body: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """Ask the hosts in turn; repeat only what is safe to repeat."""
        failure: MPAuthXError | None = None
        for attempt in range(len(self._hosts) * _ATTEMPTS):
            host, retry = self._hosts[attempt // _ATTEMPTS], attempt % _ATTEMPTS
            if retry:
                backoff = _BACKOFF * 2 ** (retry - 1)
                await asyncio.sleep(random.uniform(0, backoff))  # noqa: S311 (jitter, no secret)
            answer = await self._ask_once(method, host + path_and_query, body)
            if not isinstance(answer, MPAuthXError):
                return answer
            failure = answer
            if not _is_repeatable(failure):
                break
            logger.warning("%s: %s", host, failure)
        # Raised outside any except clause: the exceptions of an HTTP library hold the URL, and
        # with it the secret.
        if self._on_refused is not None and isinstance(failure, WeChatAPIError):
            self._on_refused(failure.errcode)
        raise failure or MPAuthXError("No host was asked.")

    async def _ask_once(
        self, method: str, url: str, body: Mapping[str, Any] | None
    ) -> dict[str, Any] | MPAuthXError:
        """The JSON object that WeChat answers; or what went wrong, as a value."""
        session = self._connections.http
        status = None
        try:
            # Not 'async with': read() lets go of the connection, at the end and when it fails.
            response = await session.request(
                method,
                URL(url, encoded=True),
                json=body,
                allow_redirects=False,
                raise_for_status=False,
                middlewares=_MIDDLEWARES,
            )
            status = response.status
            return _parse(status, await response.read(), url, body)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return ConnectionFailedError(
                f"No connection to WeChat ({type(error).__name__}). Check DNS, proxy and firewall.",
                sent=False,
            )
        except TimeoutError:
            return ConnectionFailedError(
                f"WeChat did not answer in time. {_CODE_MAY_BE_CONSUMED}", sent=True
            )
        except (aiohttp.ClientError, OSError) as error:
            if status is None:
                return _connection_lost(error)
            return IncompleteResponseError(
                f"WeChat's answer broke off ({type(error).__name__}). {_CODE_MAY_BE_CONSUMED}"
            )
        except MPAuthXError as error:
            return error


def _parse(
    status: int, answer: bytes, url: str, sent: Mapping[str, Any] | None
) -> dict[str, Any] | MPAuthXError:
    """WeChat's answer by its content: the Content-Type says text/plain."""
    if status != 200:
        return HTTPStatusError(
            f"WeChat answered with HTTP status {status} instead of 200; a proxy may stand between.",
            status,
        )
    if not answer.strip():
        return EmptyResponseError("WeChat answered with an empty body.")
    try:
        parsed = json.loads(answer)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        return InvalidResponseError("WeChat's answer is no JSON object; a proxy may stand between.")
    errcode = parsed.get("errcode")
    if errcode is None or errcode == 0:
        return parsed
    if not isinstance(errcode, int):
        return InvalidResponseError("WeChat's answer has an errcode that is no number.")
    errmsg = str(parsed.get("errmsg", ""))
    for secret in _secrets(url, sent):
        errmsg = errmsg.replace(secret, "***")
    text, rid = _split_errmsg(errmsg[:_MAX_ERRMSG])
    return WeChatAPIError(errcode, text, rid=rid, hint=_HINTS.get(errcode, ""))


def _split_errmsg(errmsg: str) -> tuple[str, str | None]:
    """WeChat's text, and the id of the request: the rid, or the hint where there is no rid."""
    found = _REQUEST_IDS.search(errmsg)
    if found is None or not found[0]:
        return errmsg, None
    return errmsg[: found.start()].rstrip(" ,"), found["rid"] or found["hint"]


def _secrets(url: str, body: Mapping[str, Any] | None) -> Iterator[str]:
    """What a request carries that no error may repeat, in each spelling."""
    for name, value in (*parse_qsl(urlsplit(url).query), *(body or {}).items()):
        if name in _SECRETS and isinstance(value, str) and value:
            yield from {value, quote(value, safe=""), quote_plus(value)}


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


_MIDDLEWARES = (_send_once,)


def _connection_lost(error: Exception) -> ConnectionFailedError:
    return ConnectionFailedError(
        f"The connection to WeChat broke before an answer came ({type(error).__name__}). "
        f"{_CODE_MAY_BE_CONSUMED}",
        sent=True,
    )


def is_address(api_base: object) -> bool:
    """Whether this is a server's address, such as https://api.weixin.qq.com."""
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
