"""WeChatHTTP: requests to WeChat's servers, with retries, fallback hosts and errors."""

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
from ..concurrency.traceback_frames import clear_frames
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
    mark_code_used,
)
from ..failure_log import failures, is_expected
from ..untrusted_text import parse_json
from .errcodes import SYSTEM_BUSY, consumes_code, wechat_error

__all__ = ["API_HOSTS", "WeChatHTTP", "is_address", "waiting_for_wechat"]

API_HOSTS = ("https://api.weixin.qq.com", "https://api2.weixin.qq.com")
"""WeChat's general API host, and its published fallback."""

MAX_WAIT_SECONDS = 10.0  # for one call, with all attempts on all hosts
_MAX_ANSWER_BYTES = 2**20
_HEADERS = {"Accept-Encoding": "gzip"}
_GZIP_WBITS = zlib.MAX_WBITS | 16
_CONNECT_SHARE = 0.9  # of the remaining time
_MIN_RETRY_SECONDS = 0.5
_MAX_ATTEMPTS = 3  # on each host
_FIRST_BACKOFF_SECONDS = 0.1  # before the first retry; doubles with each
_MAX_ERRMSG_CHARS = 500
# The end of WeChat's text: "rid: x", "hints: [ req_id: x ]", "hint: [x] rid: y", and WeCom's
# "hint: [x], from ip: y, more info at z".
_REQUEST_IDS = re.compile(
    r"(?:\bhints?:\s*\[\s*(?:req_id:\s*)?(?P<hint>[!-\\^-~]+)\s*\].*?)?"
    r"(?:\brid:\s*(?P<rid>[\w.:-]+)\s*)?\Z",
    re.DOTALL,
)
_NUMBER = re.compile(r"-?[0-9]{1,9}")
_IP = re.compile(r"\b(?:from ip|requestIP|invalid ip):? ?([0-9A-Fa-f][0-9A-Fa-f.:]{2,44})")
_SECRETS = {"access_token", "code", "component_access_token", "js_code", "refresh_token"}
_SECRETS |= {"secret", "signature"}
_MIN_SECRET_CHARS = 6  # shorter ones are in WeChat's texts by chance


class WeChatHTTP:
    """Sends requests to WeChat's servers.

    A call is repeated only if that is safe: if no connection could be made, or WeChat is busy
    (errcode -1). In all other cases WeChat may have consumed the code.

    Args:
        connections: the owner of the aiohttp session.
        api_base: the server's address without a trailing slash, or several in the order in which
            to try them.
        on_refused: called with WeChat's errcode whenever it refuses a call.

    Raises:
        ConfigurationError: api_base is not a server's address.
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
        self._hosts = tuple(host.rstrip("/") for host in hosts)
        self._connections = connections
        self._on_refused = on_refused

    def get(self, path: str, query: Mapping[str, str]) -> Awaitable[dict[str, Any]]:
        """Send a GET request.

        Args:
            path: begins with a slash; percent-encoded.
            query: the parameters, not encoded, in the order in which they are sent. No repr,
                exception or trace contains them.

        Returns:
            The JSON object in WeChat's answer.

        Raises:
            WeChatAPIError: WeChat refused; errcode and hint tell why.
            UnavailableError: WeChat did not answer in time, or not as documented.
        """
        return self._ask(_Request("GET", path, query))

    def post(
        self, path: str, query: Mapping[str, str], body: Mapping[str, Any] | None = None
    ) -> Awaitable[dict[str, Any]]:
        """Send a POST request with or without a JSON body; raises as `get`."""
        return self._ask(_Request("POST", path, query, body))

    async def _ask(self, request: "_Request") -> dict[str, Any]:
        """Ask the hosts until one answers or the time is over; repeat only what is safe.

        A host that is busy is asked again. After a failed connection the next host is asked first.
        """
        host = self._hosts[0]
        failure: MPAuthXError | None = None
        attempts = dict.fromkeys(self._hosts, 0)
        hosts = deque(attempts)
        with waiting_for_wechat() as seconds:
            deadline = time.monotonic() + seconds
            while hosts:
                if attempt := attempts[hosts[0]]:
                    backoff = _FIRST_BACKOFF_SECONDS * 2 ** (attempt - 1)
                    await asyncio.sleep(random.uniform(0, backoff))  # noqa: S311 (no secret)
                left = deadline - time.monotonic()
                if left <= (_MIN_RETRY_SECONDS if failure else 0):
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
                attempts[host] += 1
                if attempts[host] == _MAX_ATTEMPTS:
                    hosts.popleft()
                elif isinstance(failure, ConnectionFailedError):
                    hosts.rotate(-1)
        if failure is None:  # there was no time to ask
            failure = _connection_failed(aiohttp.ConnectionTimeoutError())
        if isinstance(failure, WeChatAPIError):
            if self._on_refused is not None:
                self._on_refused(failure.errcode)
        else:
            was_sent = not isinstance(failure, ConnectionFailedError) or failure.sent
            if was_sent and consumes_code(request.path):
                mark_code_used(failure)
        if isinstance(failure, (OperatorError, UnavailableError)):
            _warn(host, failure)
        # Raised outside any except clause: an exception of aiohttp must not become its context.
        raise failure

    async def _ask_once(
        self, host: str, request: "_Request", seconds: float
    ) -> dict[str, Any] | MPAuthXError:
        """Ask one host; returns the JSON object in its answer, or an error to raise."""
        session = self._connections.http
        limits = session.timeout
        # Shorter than the total: it ends first, so that it is known that nothing was sent.
        connect = min(seconds * _CONNECT_SHARE, limits.connect or seconds)
        try:
            response = await session.request(
                request.method,
                URL(host + request.path, encoded=True),
                data=None if request.body is None else aiohttp.JsonPayload(request.body),
                allow_redirects=False,
                raise_for_status=False,
                headers=_HEADERS,
                auto_decompress=False,  # `_read` limits the size
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
            # Not 'async with': `_read` releases the connection, also when it fails.
            if response.status != 200:
                response.close()
                return HTTPStatusError(
                    f"WeChat answered with HTTP status {response.status} instead of 200: check "
                    "for a proxy.",
                    response.status,
                )
            return _parse(await _read(response), request)
        except TimeoutError as error:
            return _connection_failed(error)
        except (aiohttp.ClientError, OSError) as error:
            return IncompleteResponseError(f"WeChat's answer ended early ({type(error).__name__}).")


@dataclass(frozen=True, slots=True)
class _Request:
    """A request to WeChat. Its repr omits the parameters: most of them are secret."""

    method: str
    path: str
    query: Mapping[str, str] = field(repr=False)
    body: Mapping[str, Any] | None = field(default=None, repr=False)

    def secrets(self) -> Iterator[str]:
        """The secret parameters, which no error may repeat, in each encoding."""
        for name, value in (*self.query.items(), *(self.body or {}).items()):
            if name in _SECRETS and isinstance(value, str) and len(value) >= _MIN_SECRET_CHARS:
                yield from {value, quote(value, safe=""), quote_plus(value)}

    async def send(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Send the request, as a middleware of aiohttp: only here does the URL have parameters.

        aiohttp's errors are replaced here, because they may quote the URL. That also keeps aiohttp
        from repeating a GET whose connection broke, which may have consumed the code.
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
    """A trace of the aiohttp session that gets the URL without parameters and no bodies."""

    def __init__(self, trace: Trace, url: URL) -> None:
        self._trace = trace
        self._url = url

    async def send_request_headers(self, method: str, _: URL, headers: "CIMultiDict[str]") -> None:
        await self._trace.send_request_headers(method, self._url, headers)

    async def send_request_chunk_sent(self, method: str, _: URL, chunk: bytes) -> None:
        # Of the body only the size is shown.
        await self._trace.send_request_chunk_sent(method, self._url, bytes(len(chunk)))


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    """Read and decompress an answer; None if it is too long or its encoding is unknown."""
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    answer = bytearray()
    try:
        async for piece in response.content.iter_any():
            answer += piece
            if len(answer) > _MAX_ANSWER_BYTES:
                break
    except BaseException:
        response.close()
        raise
    if len(answer) > _MAX_ANSWER_BYTES:
        response.close()  # the rest is not read, so the connection cannot be used again
        return None
    if encoding in ("", "identity") or not answer:
        return bytes(answer)
    if encoding != "gzip":
        return None
    decompressor = zlib.decompressobj(_GZIP_WBITS)
    try:
        text = decompressor.decompress(answer, _MAX_ANSWER_BYTES + 1)
    except zlib.error:
        raise aiohttp.ClientPayloadError from None
    if len(text) > _MAX_ANSWER_BYTES:
        return None
    if not decompressor.eof:
        raise aiohttp.ClientPayloadError
    return text


def _parse(answer: bytes | None, request: _Request) -> dict[str, Any] | MPAuthXError:
    """Parse an answer by its content, because WeChat's Content-Type is text/plain."""
    if answer is None:
        return InvalidResponseError(
            "WeChat's answer is longer than 1 MiB, or its encoding is unknown: check for a proxy."
        )
    if not answer.strip():
        return EmptyResponseError("WeChat answered with an empty body.")
    try:
        parsed = parse_json(answer)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        return InvalidResponseError("WeChat's answer is not a JSON object: check for a proxy.")
    errcode = parsed.get("errcode")
    if isinstance(errcode, str) and _NUMBER.fullmatch(errcode):  # changed by a gateway
        errcode = int(errcode)
    if errcode is None or (errcode == 0 and errcode is not False):
        return parsed
    if type(errcode) is not int:
        return InvalidResponseError("WeChat's answer has an errcode that is not a number.")
    errmsg = str(parsed.get("errmsg") or "")
    for secret in request.secrets():
        errmsg = errmsg.replace(secret, "***")
    errmsg = errmsg[:_MAX_ERRMSG_CHARS]
    text, rid = _split_errmsg(errmsg)
    ip = _IP.search(errmsg)
    return wechat_error(errcode, text, rid=rid, path=request.path, ip=ip and ip[1])


def _split_errmsg(errmsg: str) -> tuple[str, str | None]:
    """Split an errmsg into WeChat's text and the request's id: the rid, or else the hint."""
    found = _REQUEST_IDS.search(errmsg)
    if found is None or not found[0]:
        return errmsg, None
    return errmsg[: found.start()].rstrip(" ,"), found["rid"] or found["hint"]


def _connection_failed(error: Exception) -> ConnectionFailedError:
    name = type(error).__name__
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return ConnectionFailedError(
            f"WeChat's certificate does not verify ({name}). Check the clock of this machine, its "
            "list of certificate authorities, and for a proxy that terminates TLS.",
            sent=False,
        )
    if isinstance(error, aiohttp.ClientSSLError):
        return ConnectionFailedError(
            f"The TLS handshake with WeChat failed ({name}). Check api_base, and for a proxy or "
            "firewall without TLS.",
            sent=False,
        )
    if isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)):
        return ConnectionFailedError(
            f"No connection to WeChat ({name}). Check DNS, proxy and firewall.", sent=False
        )
    if isinstance(error, TimeoutError):
        return ConnectionFailedError(
            "WeChat did not answer in time. Check the network on the way to it."
        )
    return ConnectionFailedError(f"The connection to WeChat was lost before it answered ({name}).")


def waiting_for_wechat() -> AbstractContextManager[float]:
    """Count what is awaited inside as waiting for WeChat; gives the seconds that are left."""
    return trip("WeChat", MAX_WAIT_SECONDS)


def is_address(api_base: object) -> bool:
    """Whether a value is a server's address, such as https://api.weixin.qq.com."""
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
    public = URL(host).with_user(None)  # a gateway's URL may contain a password
    kind = f"{public} {type(failure).__name__} {errcode}"
    failures.warning("%s: %s", public, failure, extra={"kind": kind})


def _is_repeatable(error: MPAuthXError) -> bool:
    if isinstance(error, ConnectionFailedError):
        return not error.sent
    return isinstance(error, WeChatAPIError) and error.errcode == SYSTEM_BUSY
