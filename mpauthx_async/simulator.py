"""A stand-in for WeChat's servers: real HTTP, no account. GET / lists its routes.

async with WeChatSimulator() as wx:
    code = wx.login("open-id-of-bob")  # what wx.login() gives a mini-program
    info = wx.get_user_info("open-id-of-bob")  # what wx.getUserInfo() gives it
    ...  # call the code under test with api_base=wx.url
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import os
import secrets
import socket
import struct
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Self

from aiohttp import web
from aiohttp.http import HttpProcessingError
from Crypto.Cipher import AES
from Crypto.Util.Padding import pad

__all__ = ["Fault", "Request", "SealedUserInfo", "WeChatSimulator"]

_Answer = dict[str, Any]
_Handler = Callable[[web.Request], Awaitable[web.Response]]


class WeChatSimulator:
    """An HTTP server that answers as WeChat's do, and the phones of any number of users.

    Args:
        app_id: the app it knows; any other is answered with errcode 40013.
        app_secret: the app's secret; any other is answered with errcode 40125.
        host: the address to listen on.
        port: the TCP port; 0 takes a free one, which `url` tells.
        clock: gives the time in Unix seconds, by which codes expire and minutes pass.
        calls_a_minute: code exchanges for one user before errcode 45011; None: no limit.

    Attributes:
        latency: seconds to wait before every answer of WeChat's API. The request is carried out
            before the wait: a client that gives up meanwhile has used up its code.
        requests: the last 1,000 requests to WeChat's API, oldest first.
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
    ) -> None:
        self.app_id = app_id
        self.app_secret = app_secret
        self.latency = 0.0
        self.requests: deque[Request] = deque(maxlen=1000)
        self._address = host, port
        self._clock = clock
        self._calls_a_minute = float("inf") if calls_a_minute is None else calls_a_minute
        self._users: dict[str, _User] = {}
        self._codes: OrderedDict[str, _Code] = OrderedDict()  # oldest first
        self._faults: deque[Fault] = deque()
        self._runner: web.AppRunner | None = None
        self._url: str | None = None

    def __repr__(self) -> str:
        return f"WeChatSimulator(app_id={self.app_id!r}, url={self._url!r})"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def url(self) -> str:
        """The `api_base` to pass: `http://127.0.0.1:<port>`; RuntimeError when not running."""
        if self._url is None:
            raise RuntimeError("The simulator is not running: use 'async with', or await start().")
        return self._url

    async def start(self) -> None:
        """Listen, as `async with` does. RuntimeError: it runs already; OSError: port taken."""
        if self._runner is not None:
            raise RuntimeError(f"The simulator runs already, at {self._url}.")
        logger = logging.getLogger(__name__)
        logger.addFilter(_is_no_parse_error)
        runner = web.AppRunner(
            self._application(),
            access_log=None,  # a request line holds the app secret
            logger=logger,
            shutdown_timeout=0.5,  # seconds
            handler_cancellation=True,  # else an answer with much latency outlives its client
        )
        await runner.setup()
        await web.TCPSite(runner, *self._address, backlog=1024).start()
        self._runner = runner
        host, port = runner.addresses[0][:2]
        self._url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def close(self) -> None:
        """Give requests in progress half a second, then free the port; twice is fine."""
        runner, self._runner, self._url = self._runner, None, None
        if runner is not None:
            await runner.cleanup()

    def login(
        self, open_id: str, union_id: str | None = None, *, session_key: str | None = None
    ) -> str:
        """Log a user in, as `wx.login()` does, and give the code for the server.

        Every login replaces the user's session key at once (at WeChat it may): a user has one valid
        key. A code stands for the user, and gives the key that is current when it is exchanged.
        So data got before a new login does not decrypt with the key that the new code gives.

        Args:
            open_id: the user's openId; an unknown one becomes a new user.
            union_id: the user's unionId; None keeps what an earlier login said.
            session_key: base64 of 16 bytes, to replay recorded data; None: a random one.

        Returns the code: 32 letters and digits, for one exchange within 300 seconds.
        Raises ValueError for an empty open_id, or a session_key that is not base64 of 16 bytes.
        Source: https://developers.weixin.qq.com/miniprogram/dev/api/open-api/login/wx.login.html
        """
        if session_key is None:
            session_key = base64.b64encode(os.urandom(16)).decode()
        elif len(base64.b64decode(session_key, validate=True)) != 16:
            raise ValueError("session_key must be the base64 of 16 bytes.")
        user = self._user(open_id)
        user.session_key = session_key
        user.union_id = union_id or user.union_id
        now = self._clock()
        while self._codes and now >= self._codes[oldest := next(iter(self._codes))].expires_at:
            del self._codes[oldest]
        code = "0" + secrets.token_bytes(31).translate(_BASE62).decode()
        self._codes[code] = _Code(user, now + 300)
        return code

    def get_user_info(self, open_id: str) -> SealedUserInfo:
        """Give what `wx.getUserInfo()` gives the client, sealed with the user's current key.

        Raises LookupError for a user who has not logged in.
        Source: https://developers.weixin.qq.com/miniprogram/dev/framework/open-ability/signature.html
        """
        session_key, user = self._session_key(open_id), self._users[open_id]
        union = {} if user.union_id is None else {"unionId": user.union_id}
        encrypted_data, iv = self.seal(open_id, {"openId": open_id, **user.profile, **union})
        raw_data = _to_json(user.profile)
        signature = hashlib.sha1((raw_data + session_key).encode(), usedforsecurity=False)
        return SealedUserInfo(encrypted_data, iv, raw_data, signature.hexdigest())

    def seal(self, open_id: str, payload: Mapping[str, object]) -> tuple[str, str]:
        """Encrypt any payload as WeChat does: AES-128-CBC with the user's current key, PKCS#7.

        Args:
            open_id: the user, who has logged in.
            payload: the fields. A true `watermark` is added unless there is one.

        Returns encryptedData and iv, both base64; raises LookupError as `get_user_info` does.
        """
        key = base64.b64decode(self._session_key(open_id))
        watermark = {"timestamp": int(self._clock()), "appid": self.app_id}
        plaintext = _to_json({**payload, "watermark": payload.get("watermark", watermark)})
        iv = os.urandom(16)
        sealed = AES.new(key, AES.MODE_CBC, iv).encrypt(pad(plaintext.encode(), 16))
        return base64.b64encode(sealed).decode(), base64.b64encode(iv).decode()

    def set_profile(self, open_id: str, **profile: str | int) -> None:
        """Change a user's profile, which is at first the anonymised one that WeChat gives today.

        Args:
            open_id: the user's openId; an unknown one becomes a new user.
            profile: nickName, gender (0 unknown, 1 male, 2 female), language, city, province,
                country, avatarUrl; what is left out stays, what is unknown raises TypeError.
        """
        if unknown := profile.keys() - _ANONYMOUS_PROFILE.keys():
            known = ", ".join(_ANONYMOUS_PROFILE)
            raise TypeError(f"A profile has no {', '.join(sorted(unknown))}; it has {known}.")
        user = self._user(open_id)
        user.profile = {**user.profile, **profile}

    def block(self, open_id: str) -> None:
        """Make this a high-risk user, whose codes are answered with errcode 40226."""
        self._user(open_id).blocked = True

    def fail_next(self, fault: Fault, times: int = 1) -> None:
        """Let the next requests to WeChat's API fail, after those for which it was asked before.

        Args:
            fault: how they fail.
            times: how many of them, 1 to 10,000; anything else raises ValueError.
        """
        if not 1 <= times <= 10_000:
            raise ValueError(f"'times' must be 1 to 10,000, and is {times}.")
        self._faults.extend([fault] * times)

    def _application(self) -> web.Application:
        app = web.Application()
        for path, endpoint in {"/sns/jscode2session": self._code_to_session}.items():
            app.router.add_route("GET", path, self._as_wechat(endpoint))
            app.router.add_route("*", path, self._as_wechat(lambda _: self._error(43001)))
        app.router.add_post("/simulator/login", _as_control(self._control_login))
        app.router.add_post("/simulator/user_info", _as_control(self._control_user_info))
        app.router.add_post("/simulator/faults", _as_control(self._control_faults))
        app.router.add_route("*", "/{path:.*}", self._tell_routes)
        return app

    def _as_wechat(self, endpoint: Callable[[Mapping[str, str]], _Answer]) -> _Handler:
        async def handle(request: web.Request) -> web.Response:
            query = {name: value for name, value in request.query.items() if name != "secret"}
            self.requests.append(Request(request.path, query))
            fault = self._faults.popleft() if self._faults else None
            carried_out = fault in (None, Fault.TRUNCATED, Fault.LOST_ANSWER)
            body = _to_json(endpoint(request.query) if carried_out else {})
            if self.latency > 0:
                await asyncio.sleep(self.latency)
            return web.Response(text=body) if fault is None else self._fail(request, fault, body)

        return handle

    def _fail(self, request: web.Request, fault: Fault, body: str) -> web.Response:
        if fault in _FAULT_ERRCODES:
            return web.Response(text=_to_json(self._error(_FAULT_ERRCODES[fault])))
        if fault in _FAULT_PAGES:
            status, content_type, text = _FAULT_PAGES[fault]
            return web.Response(status=status, content_type=content_type, text=text)
        if fault is Fault.TRUNCATED:
            length = {"Content-Length": str(len(body.encode()))}
            response = web.Response(text=body[: len(body) // 2], headers=length)
            response.force_close()
            return response
        _reset_connection(request)
        return web.Response()

    def _code_to_session(self, query: Mapping[str, str]) -> _Answer:
        # https://developers.weixin.qq.com/miniprogram/dev/OpenApiDoc/user-login/code2Session.html
        if errcode := self._app_errcode(query):
            return self._error(errcode)
        if not query.get("js_code"):
            return self._error(41008)
        if query.get("grant_type") != "authorization_code":
            return self._error(40002)
        now = self._clock()
        code = self._codes.get(query["js_code"])
        if code is None or now >= code.expires_at:
            return self._error(40029)
        if code.used:
            return self._error(40163)
        if code.user.blocked:
            return self._error(40226)
        if code.user.count_call(now) > self._calls_a_minute:
            return self._error(45011)
        code.used = True
        union = {} if code.user.union_id is None else {"unionid": code.user.union_id}
        return {"session_key": code.user.session_key, "openid": code.user.open_id, **union}

    def _app_errcode(self, query: Mapping[str, str]) -> int | None:
        app_id, secret = query.get("appid"), query.get("secret", "")
        if app_id != self.app_id:
            return 40013 if app_id else 41002
        # aiohttp's pure Python parser gives bytes that are not UTF-8 as lone surrogates.
        if not hmac.compare_digest(secret.encode(errors="replace"), self.app_secret.encode()):
            return 40125 if secret else 41004
        return None

    def _error(self, errcode: int) -> _Answer:
        nonce = secrets.token_hex(8)
        rid = f"{int(self._clock()):08x}-{nonce[:8]}-{nonce[8:]}"  # WeChat's begin with the time
        return {"errcode": errcode, "errmsg": f"{_ERRMSGS[errcode]}, rid: {rid}"}

    def _control_login(self, body: Mapping[str, Any]) -> _Answer:
        union_id = None if body.get("union_id") is None else _text(body, "union_id")
        return {"code": self.login(_text(body, "open_id"), union_id)}

    def _control_user_info(self, body: Mapping[str, Any]) -> _Answer:
        info = self.get_user_info(_text(body, "open_id"))
        sealed = {"encryptedData": info.encrypted_data, "iv": info.iv}
        return {**sealed, "rawData": info.raw_data, "signature": info.signature}

    def _control_faults(self, body: Mapping[str, Any]) -> _Answer:
        name, times = _text(body, "fault"), body.get("times", 1)
        if name not in Fault.__members__:
            raise ValueError(f"'fault' must be one of {', '.join(Fault.__members__)}.")
        if type(times) is not int:
            raise ValueError("'times' must be a whole number.")
        self.fail_next(Fault[name], times)
        return {"fault": name, "times": times}

    async def _tell_routes(self, request: web.Request) -> web.Response:
        text = f"WeChatSimulator of the app {self.app_id}. Its routes:\n\n{_ROUTES}"
        return web.Response(status=200 if request.path == "/" else 404, text=text)

    def _user(self, open_id: str) -> _User:
        if not open_id:
            raise ValueError("open_id must not be empty.")
        return self._users.get(open_id) or self._users.setdefault(open_id, _User(open_id))

    def _session_key(self, open_id: str) -> str:
        user = self._users.get(open_id)
        if user is None or user.session_key is None:
            raise LookupError(f"{open_id!r} has no session key: call login({open_id!r}) first.")
        return user.session_key


class Fault(Enum):
    """How a request can fail, as the client meets it; unless it says so, no code is used up."""

    SYSTEM_BUSY = "errcode -1"
    TOO_FREQUENT = "errcode 45011"
    HTTP_500 = "status 500"
    HTML = "status 200 with an HTML page"
    EMPTY = "status 200 with an empty body"
    NOT_AN_OBJECT = "status 200 with a JSON list"
    NO_FIELDS = "status 200 with errcode 0 and nothing more"
    CONNECTION_RESET = "a TCP reset instead of an answer"
    TRUNCATED = "half an answer; the code is used up"
    LOST_ANSWER = "a TCP reset instead of an answer; the code is used up"


@dataclass(frozen=True, slots=True)
class SealedUserInfo:
    """What `wx.getUserInfo()` gives the client: two base64 texts, a JSON text, 40 hex digits."""

    encrypted_data: str
    iv: str
    raw_data: str
    signature: str


@dataclass(frozen=True, slots=True)
class Request:
    """A request to WeChat's API: its path, and its query without the secret."""

    path: str
    query: Mapping[str, str]


@dataclass(slots=True)
class _User:
    open_id: str
    union_id: str | None = None
    session_key: str | None = field(default=None, repr=False)
    profile: Mapping[str, str | int] = field(default_factory=lambda: _ANONYMOUS_PROFILE)
    blocked: bool = False
    minute_began: float = float("-inf")
    calls: int = 0

    def count_call(self, now: float) -> int:
        if not 0 <= now - self.minute_began < 60:
            self.minute_began, self.calls = now, 0
        self.calls += 1
        return self.calls


@dataclass(slots=True)
class _Code:
    user: _User
    expires_at: float
    used: bool = False


def _is_no_parse_error(record: logging.LogRecord) -> bool:
    # aiohttp logs a request line that it cannot parse, and with it the app secret.
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


def _reset_connection(request: web.Request) -> None:
    if request.transport is not None:
        no_lingering = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
        connection = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_lingering)
        request.transport.abort()


def _as_control(control: Callable[[Mapping[str, Any]], _Answer]) -> _Handler:
    async def handle(request: web.Request) -> web.Response:
        try:
            body = json.loads(await request.read())
            return web.json_response(control(body if isinstance(body, dict) else {}))
        except (ValueError, LookupError, RecursionError) as error:
            message = f"{error} Send JSON such as {_EXAMPLES[request.path]}"
            return web.json_response({"message": message}, status=400)

    return handle


def _text(body: Mapping[str, Any], name: str) -> str:
    text = body.get(name)
    if not isinstance(text, str) or not text:
        raise ValueError(f"'{name}' must be a text that is not empty.")
    return text


_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_BASE62 = (5 * b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")[:256]

_ERRMSGS = {
    -1: "system error",
    40002: "invalid grant_type",
    40013: "invalid appid",
    40029: "invalid code",
    40125: "invalid appsecret",
    40163: "code been used",
    40226: "code blocked",
    41002: "appid missing",
    41004: "appsecret missing",
    41008: "missing code",
    43001: "require GET method",
    45011: "api minute-quota reach limit, must slower, retry next minute",
}
_ANONYMOUS_PROFILE: Mapping[str, str | int] = {
    "nickName": "微信用户",
    "gender": 0,
    **dict.fromkeys(("language", "city", "province", "country"), ""),
    "avatarUrl": "https://thirdwx.qlogo.cn/mmopen/vi_32/POgEwh4mIHO4nibH0KlMECNjjGxQUq24ZEaGT4po"
    "C6icRiccVGKSyXwibcPq4BWmiaIGuG1icwxaQX6grC9VemZoJ8rg/132",
}
_FAULT_ERRCODES = {Fault.SYSTEM_BUSY: -1, Fault.TOO_FREQUENT: 45011}
_FAULT_PAGES = {
    Fault.HTTP_500: (500, "text/plain", "Internal Server Error"),
    Fault.HTML: (200, "text/html", "<html><body>Sign in to this network</body></html>"),
    Fault.EMPTY: (200, "text/plain", ""),
    Fault.NOT_AN_OBJECT: (200, "text/plain", "[]"),
    Fault.NO_FIELDS: (200, "text/plain", '{"errcode":0,"errmsg":"ok"}'),
}
_EXAMPLES = {
    "/simulator/login": '{"open_id": "…", "union_id": "… or left out"}',
    "/simulator/user_info": '{"open_id": "of a user who has logged in"}',
    "/simulator/faults": '{"fault": "SYSTEM_BUSY", "times": 1}',
}
_ROUTES = (
    "GET /sns/jscode2session?appid=…&secret=…&js_code=…&grant_type=authorization_code\n"
    + "".join(f"POST {path} {example}\n" for path, example in _EXAMPLES.items())
    + "".join(f"  {fault.name}: {fault.value}\n" for fault in Fault)
)
