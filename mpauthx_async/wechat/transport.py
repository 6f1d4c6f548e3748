"""WeChatHTTP: asking WeChat's servers; their errors, retries and fallback hosts."""

import asyncio
import random
import re
import time
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, quote_plus

import aiohttp
from aiohttp.tracing import Trace
from multidict import CIMultiDict
from yarl import URL

from .._compat import hide_url, traces_of
from ..concurrency.deadlines import trip
from ..concurrency.frames import clear_frames
from ..connections import Connections
from ..errors import (
    ConfigurationError,
    ConnectionFailedError,
    EmptyResponseError,
    HTTPStatusError,
    IncompleteResponseError,
    InvalidResponseError,
    MPAuthXError,
    OperatorError,
    UnavailableError,
    WeChatAPIError,
)
from ..failure_log import failures, is_expected
from ..untrusted_text import parse_json
from .errcodes import SYSTEM_BUSY, consumes_code, wechat_error

__all__ = ["API_HOSTS", "WeChatHTTP", "is_address", "waiting_for_wechat"]

API_HOSTS = ("https://api.weixin.qq.com", "https://api2.weixin.qq.com")
"""WeChat's general API host, and the fallback that it publishes."""

LONGEST_WAIT = 10.0  # seconds for one call, with all attempts on all hosts
_MAX_ANSWER = 2**20  # bytes
_HEADERS = {"Accept-Encoding": "gzip"}
_GZIP = 16  # see zlib: the format
_CONNECTING = 0.9  # this part of the time that is left may be spent on a connection
_REPETITION = 0.5  # seconds that a repetition needs at least
_ATTEMPTS = 3  # on each host
_BACKOFF = 0.1  # seconds before the first retry, at most; doubles with each
_MAX_ERRMSG = 500  # characters
# What follows WeChat's text: "rid: x", "hints: [ req_id: x ]", "hint: [x] rid: y", and WeCom's
# "hint: [x], from ip: y, more info at z".
_REQUEST_IDS = re.compile(
    r"(?:\bhints?:\s*\[\s*(?:req_id:\s*)?(?P<hint>[!-\\^-~]+)\s*\].*?)?"
    r"(?:\brid:\s*(?P<rid>[\w.:-]+)\s*)?\Z",
    re.DOTALL,
)
_NUMBER = re.compile(r"-?[0-9]{1,9}")
_IP = re.compile(r"\b(?:from ip|requestIP|invalid ip):? ?([0-9A-Fa-f][0-9A-Fa-f.:]{2,44})")
_SECRETS = {
    "access_token",
    "code",
    "component_access_token",
    "js_code",
    "refresh_token",
    "secret",
    "signature",
}
_MIN_SECRET = 6  # characters: shorter ones stand in WeChat's texts by chance
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

    def get(self, path: str, query: Mapping[str, str]) -> Awaitable[dict[str, Any]]:
        """Ask with GET.

        Args:
            path: begins with a slash; percent-encoded.
            query: the parameters in the order in which they are sent, not encoded. They are in no
                repr, exception or trace.

        Returns:
            The JSON object that WeChat answers.

        Raises:
            WeChatAPIError: WeChat refused; errcode and hint tell why.
            HTTPStatusError, EmptyResponseError, InvalidResponseError, IncompleteResponseError:
                there is no answer, or it is not from WeChat.
            ConnectionFailedError: no connection, or no answer in time.
        """
        return self._ask(_Request("GET", path, query))

    def post(
        self, path: str, query: Mapping[str, str], body: Mapping[str, Any] | None = None
    ) -> Awaitable[dict[str, Any]]:
        """Ask with POST and a JSON body, or without a body; in all else as `get`."""
        return self._ask(_Request("POST", path, query, body))

    async def _ask(self, request: "_Request") -> dict[str, Any]:
        """Ask the hosts while there is time; repeat only what is safe to repeat.

        A host that is busy is asked again. One that cannot be connected to waits until the others
        were asked, for the time is short.
        """
        host = self._hosts[0]  # the last that was asked
        failure: MPAuthXError | None = None
        asked = dict.fromkeys(self._hosts, 0)
        hosts = deque(asked)
        with waiting_for_wechat() as seconds:
            deadline = time.monotonic() + seconds
            while hosts:
                if asked[hosts[0]]:
                    backoff = _BACKOFF * 2 ** (asked[hosts[0]] - 1)
                    await asyncio.sleep(random.uniform(0, backoff))  # noqa: S311 (no secret)
                left = deadline - time.monotonic()
                if left <= (_REPETITION if failure else 0):
                    failure = failure or _connection_failed(aiohttp.ConnectionTimeoutError())
                    break
                if failure is not None:
                    _warn(host, failure)
                host = hosts[0]
                answer = await self._ask_once(host, request, left)
                if not isinstance(answer, MPAuthXError):
                    return answer
                failure = answer
                if not _is_repeatable(failure):
                    break
                asked[host] += 1
                if asked[host] == _ATTEMPTS:
                    hosts.popleft()
                elif isinstance(failure, ConnectionFailedError):
                    hosts.rotate(-1)
        if isinstance(failure, WeChatAPIError):
            if self._on_refused is not None:
                self._on_refused(failure.errcode)
        elif failure is not None:
            was_sent = not isinstance(failure, ConnectionFailedError) or failure.sent
            failure.retryable &= not (was_sent and consumes_code(request.path))
        if isinstance(failure, (OperatorError, UnavailableError)):
            _warn(host, failure)
        # Raised outside any except clause: an exception of aiohttp must not become its context.
        raise failure or MPAuthXError("No host was asked.")

    async def _ask_once(
        self, host: str, request: "_Request", seconds: float
    ) -> dict[str, Any] | MPAuthXError:
        """The JSON object that WeChat answers in time; or what went wrong, as a value."""
        session = self._connections.http
        limits = session.timeout
        # Shorter, so that it is known that nothing was sent.
        connect = min(seconds * _CONNECTING, limits.connect or seconds)
        try:
            response = await session.request(
                request.method,
                URL(host + request.path, encoded=True),
                data=None if request.body is None else aiohttp.JsonPayload(request.body),
                allow_redirects=False,
                raise_for_status=False,
                headers=_HEADERS,
                auto_decompress=False,  # its size is bounded here
                timeout=aiohttp.ClientTimeout(
                    total=min(seconds, limits.total or seconds),
                    connect=connect,
                    sock_connect=limits.sock_connect,
                    sock_read=limits.sock_read,
                ),
                middlewares=(request.send,),
            )
        except ConnectionFailedError as error:
            return error.with_traceback(None)
        except (aiohttp.ClientError, OSError) as error:
            return _connection_failed(error)
        try:
            # Not 'async with': reading releases the connection, at the end and when it fails.
            if response.status != 200:  # its body is of no use, and may be anything
                response.close()
                return HTTPStatusError(
                    f"WeChat answered with HTTP status {response.status} instead of 200; a proxy "
                    "may stand between.",
                    response.status,
                )
            return _parse(await _read(response), request)
        except TimeoutError as error:
            return _connection_failed(error)
        except (aiohttp.ClientError, OSError) as error:
            return IncompleteResponseError(
                f"WeChat's answer broke off ({type(error).__name__}). {_CODE_MAY_BE_CONSUMED}"
            )


@dataclass(frozen=True, slots=True)
class _Request:
    """A request to WeChat. Its repr holds no parameters: most of them are secret."""

    method: str
    path: str
    query: Mapping[str, str] = field(repr=False)
    body: Mapping[str, Any] | None = field(default=None, repr=False)

    def secrets(self) -> Iterator[str]:
        """What it carries that no error may repeat, in each spelling."""
        for name, value in (*self.query.items(), *(self.body or {}).items()):
            if name in _SECRETS and isinstance(value, str) and len(value) >= _MIN_SECRET:
                yield from {value, quote(value, safe=""), quote_plus(value)}

    async def send(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Send it, as a middleware of aiohttp: the URL has its parameters only in here.

        aiohttp's errors, which may quote the URL, are replaced here. That also keeps aiohttp from
        repeating a GET whose connection broke, which may have consumed the code.
        """
        public, lost = request.url, None
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in self.query.items())
        request.url = URL(f"{public}?{query}", encoded=True)
        del query
        traces = [_PublicTrace(trace, public) for trace in traces_of(request)]
        hide_in = hide_url(request, traces)
        try:
            response = await handler(request)
        except (aiohttp.ClientError, OSError) as error:
            lost = _connection_failed(error)
        except BaseException as error:
            clear_frames(error)
            raise
        finally:
            request.url = public
        if lost is not None:
            raise lost
        hide_in(response)
        return response


class _PublicTrace:
    """What a trace of the aiohttp session is told while a request is sent and answered.

    Args:
        trace: the session's.
        url: what it may know: the URL without parameters. Of bodies it is told the size alone.
    """

    def __init__(self, trace: Trace, url: URL) -> None:
        self._trace = trace
        self._url = url

    async def send_request_headers(self, method: str, _: URL, headers: "CIMultiDict[str]") -> None:
        await self._trace.send_request_headers(method, self._url, headers)

    async def send_request_chunk_sent(self, method: str, _: URL, chunk: bytes) -> None:
        await self._trace.send_request_chunk_sent(method, self._url, bytes(len(chunk)))


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    """An answer, decompressed; None if it is too long or compressed in an unknown way."""
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    answer = bytearray()
    try:
        async for piece in response.content.iter_any():
            answer += piece
            if len(answer) > _MAX_ANSWER:
                break
    except BaseException:
        response.close()
        raise
    if len(answer) > _MAX_ANSWER:
        response.close()  # the rest is not read, so the connection cannot be used again
        return None
    if encoding in ("", "identity") or not answer:
        return bytes(answer)
    if encoding != "gzip":
        return None
    inflating = zlib.decompressobj(zlib.MAX_WBITS | _GZIP)
    try:
        inflated = inflating.decompress(answer, _MAX_ANSWER + 1)
    except zlib.error:
        raise aiohttp.ClientPayloadError from None
    if len(inflated) > _MAX_ANSWER:
        return None
    if not inflating.eof:
        raise aiohttp.ClientPayloadError
    return inflated


def _parse(answer: bytes | None, request: _Request) -> dict[str, Any] | MPAuthXError:
    """WeChat's answer by its content: the Content-Type says text/plain."""
    if answer is None:
        return InvalidResponseError(
            "WeChat's answer is longer than 1 MiB, or compressed in an unknown way; a proxy may "
            "stand between."
        )
    if not answer.strip():
        return EmptyResponseError("WeChat answered with an empty body.")
    try:
        parsed = parse_json(answer)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        return InvalidResponseError("WeChat's answer is no JSON object; a proxy may stand between.")
    errcode = parsed.get("errcode")
    if isinstance(errcode, str) and _NUMBER.fullmatch(errcode):  # a gateway may have put it so
        errcode = int(errcode)
    if errcode is None or (errcode == 0 and errcode is not False):
        return parsed
    if type(errcode) is not int:
        return InvalidResponseError("WeChat's answer has an errcode that is no number.")
    errmsg = str(parsed.get("errmsg") or "")
    for secret in request.secrets():
        errmsg = errmsg.replace(secret, "***")
    errmsg = errmsg[:_MAX_ERRMSG]
    text, rid = _split_errmsg(errmsg)
    ip = _IP.search(errmsg)
    return wechat_error(errcode, text, rid=rid, path=request.path, ip=ip and ip[1])


def _split_errmsg(errmsg: str) -> tuple[str, str | None]:
    """WeChat's text, and the id of the request: the rid, or the hint where there is no rid."""
    found = _REQUEST_IDS.search(errmsg)
    if found is None or not found[0]:
        return errmsg, None
    return errmsg[: found.start()].rstrip(" ,"), found["rid"] or found["hint"]


def _connection_failed(error: Exception) -> ConnectionFailedError:
    """What became of a request that was not answered."""
    name = type(error).__name__
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return ConnectionFailedError(
            f"WeChat's certificate does not verify ({name}). Check the clock of this machine, its "
            "list of certificate authorities, and for a proxy that opens TLS.",
            sent=False,
        )
    if isinstance(error, aiohttp.ClientSSLError):
        return ConnectionFailedError(
            f"The TLS handshake with WeChat failed ({name}). Check api_base, and for a proxy or "
            "firewall that does not speak TLS.",
            sent=False,
        )
    if isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)):
        return ConnectionFailedError(
            f"No connection to WeChat ({name}). Check DNS, proxy and firewall.", sent=False
        )
    if isinstance(error, TimeoutError):
        return ConnectionFailedError(f"WeChat did not answer in time. {_CODE_MAY_BE_CONSUMED}")
    return ConnectionFailedError(
        f"The connection to WeChat broke before an answer came ({name}). {_CODE_MAY_BE_CONSUMED}"
    )


def waiting_for_wechat() -> AbstractContextManager[float]:
    """What is awaited inside counts as waiting for WeChat; gives the seconds that are left."""
    return trip("WeChat", LONGEST_WAIT)


def is_address(api_base: object) -> bool:
    """Whether this is a server's address, such as https://api.weixin.qq.com."""
    if not isinstance(api_base, str) or re.search(r"[\s?#]", api_base):
        return False
    try:
        url = URL(api_base)
        return url.scheme in ("http", "https") and bool((url.host or "").encode("idna"))
    except ValueError:
        return False


def _warn(host: str, failure: MPAuthXError) -> None:
    errcode = failure.errcode if isinstance(failure, WeChatAPIError) else None
    if errcode is not None and is_expected(errcode):
        return
    public = URL(host).with_user(None)  # without the password for a gateway, too
    kind = f"{public} {type(failure).__name__} {errcode}"
    failures.warning("%s: %s", public, failure, extra={"kind": kind})


def _is_repeatable(error: MPAuthXError) -> bool:
    if isinstance(error, ConnectionFailedError):
        return not error.sent
    return isinstance(error, WeChatAPIError) and error.errcode == SYSTEM_BUSY
