"""Routes: what clients may call, the same in every framework."""

from collections.abc import Awaitable, Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..concurrency.traceback_frames import clears_frames
from ..errors import ConfigurationError, MPAuthXError, ParameterError
from ..models import Identity, Session
from ..service import MPAuthX
from ..wechat.push_events import check_push_settings, parse_push_event, verify_push_url
from .answers import Answer, ok, plain
from .authenticator import Authenticator
from .credentials import bearer_token, cleared_cookie, is_same_origin, session_cookie, token_of
from .oauth_routes import OAuthRoutes, finish_login, start_login
from .requests import WebRequest

__all__ = ["PushRoutes", "Route", "Routes", "checked_prefix"]

_PHONE, _FORGET = "phone", "forget"
_SESSION = "/sessions/{session_id}"


@dataclass(frozen=True, slots=True)
class PushRoutes:
    """Includes `GET` and `POST /wechat/push`, the URL of the app's message push settings.

    Attributes:
        token: the Token of these settings.
        aes_key: the EncodingAESKey there, for safe mode; None for plain mode.

    Raises:
        ConfigurationError: one of them is malformed.
    """

    token: str = field(repr=False)
    aes_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_push_settings(self.token, self.aes_key)


@dataclass(frozen=True, slots=True)
class Route:
    """One of the routes."""

    method: str
    path: str  # `{session_id}` stands for one segment
    summary: str
    action: Callable[[WebRequest, MPAuthX], Awaitable[Answer]] = field(repr=False)
    requires_token: bool = True  # for which the route itself asks
    body: tuple[tuple[str, bool], ...] = ()  # the fields of its JSON, and whether they are required

    @property
    def name(self) -> str:
        """A name that is unique among the routes."""
        words = self.path.replace("{session_id}", "one").strip("/").replace("/", "_")
        return f"mpauthx_{self.method.lower()}_{words}"


class Routes:
    """The routes, which answer whatever is sent.

    Promises: each answers every request, errors of this package included, with a bounded body read.
    `include` has more: "phone", "forget", an OAuthRoutes, a PushRoutes.
    """

    def __init__(
        self, authenticator: Authenticator, include: Collection[str | OAuthRoutes | PushRoutes] = ()
    ) -> None:
        self._authenticator = authenticator
        self._render = authenticator.render
        self._routes = [
            Route("POST", "/login", "Log in with the code of wx.login", self._login, False, _LOGIN),
            Route("POST", "/rotate", "Get a new token in place of this one", self._rotate),
            Route("POST", "/logout", "End the session of this token", self._logout),
            Route("GET", "/me", "Tell whose token this is", self._me),
            Route("GET", "/sessions", "List the user's sessions", self._sessions),
            Route("DELETE", _SESSION, "End one of the user's sessions", self._end_session),
        ]
        if not isinstance(include, Collection):
            raise ConfigurationError("include must be a list of routes.")
        for each in (include,) if isinstance(include, str) else include:
            self._routes += self._included(each)
        self._by_path = {(route.method, route.path): route for route in self._routes}

    def __iter__(self) -> Iterator[Route]:
        return iter(self._routes)

    def find(self, method: str, path: str) -> tuple[Route, str] | None:
        """The route of a request, and the session id in its path; None if there is no such route.

        The path is decoded, and without the prefix of the routes.
        """
        route = self._by_path.get((method, path))
        if route is not None:
            return route, ""
        beginning, _, session_id = path.rpartition("/")
        if method == "DELETE" and beginning == "/sessions" and session_id:
            return self._by_path[method, _SESSION], session_id
        return None

    async def answer(self, route: Route, request: WebRequest) -> Answer:
        """Answer a request."""
        try:
            return await self._act(route, request)
        except MPAuthXError as error:
            return self._authenticator.refusal(error)

    @clears_frames
    async def _act(self, route: Route, request: WebRequest) -> Answer:
        async with self._authenticator.service(request.connection) as auth:
            return await route.action(request, auth)

    def _included(self, what: object) -> list[Route]:
        if what == _PHONE:
            summary = "Exchange the code of the phone number button"
            return [Route("POST", "/phone", summary, self._phone, body=(("code", True),))]
        if what == _FORGET:
            return [Route("DELETE", "/me", "Erase the user", self._forget)]
        if isinstance(what, OAuthRoutes):
            start = partial(start_login, what)
            finish = partial(finish_login, what, self._authenticator)
            return [
                Route("GET", "/oauth/start", "Begin a web login", start, False),
                Route("GET", "/oauth/callback", "Finish a web login", finish, False),
            ]
        if isinstance(what, PushRoutes):

            async def verify(request: WebRequest, _: MPAuthX) -> Answer:
                return plain(verify_push_url(request.query(), token=what.token))

            async def take(request: WebRequest, auth: MPAuthX) -> Answer:
                event = parse_push_event(
                    request.query(), await request.body(), token=what.token, aes_key=what.aes_key
                )
                await auth.handle_push_event(event)
                return plain("success")

            return [
                Route("GET", "/wechat/push", "Answer WeChat's test", verify, False),
                Route("POST", "/wechat/push", "Take an event from WeChat", take, False),
            ]
        raise ConfigurationError(
            'include may have "phone", "forget", an OAuthRoutes and a PushRoutes.'
        )

    async def _identity(self, request: WebRequest, auth: MPAuthX) -> Identity:
        return await auth.authenticate(self._token(request))

    def _token(self, request: WebRequest) -> str:
        return token_of(request.method, request.headers, cookies=self._authenticator.cookies)

    async def _login(self, request: WebRequest, auth: MPAuthX) -> Answer:
        body = await request.json()
        result = await auth.authorize(
            _text(body, "code", required=True),
            _text(body, "encryptedData"),
            _text(body, "iv"),
            device=_text(body, "device") or None,
            device_kind=_text(body, "deviceKind") or None,
        )
        answer = ok(self._render, result.response)
        # A page of another site may log a browser in as somebody else, but not keep it logged in.
        if self._authenticator.cookies and is_same_origin(request.headers):
            return answer.with_headers(("Set-Cookie", session_cookie(result.token)))
        return answer

    async def _rotate(self, request: WebRequest, auth: MPAuthX) -> Answer:
        result = await auth.rotate(self._token(request))
        if bearer_token(request.headers) is not None:
            return ok(self._render, result.response)
        # The page's scripts cannot read the cookie, so they do not get its successor either.
        cookie = ("Set-Cookie", session_cookie(result.token))
        return ok(self._render, None).with_headers(cookie)

    async def _logout(self, request: WebRequest, auth: MPAuthX) -> Answer:
        # A dead token is no failure: RFC 7009, section 2.2.
        token = self._token(request)
        return self._cleared(ok(self._render, await auth.revoke(token)))

    async def _me(self, request: WebRequest, auth: MPAuthX) -> Answer:
        identity = await self._identity(request, auth)
        me = {"user_id": identity.user_id, "session_id": identity.session_id, "sku": identity.sku}
        return ok(self._render, me)

    async def _sessions(self, request: WebRequest, auth: MPAuthX) -> Answer:
        identity = await self._identity(request, auth)
        sessions = await auth.sessions(identity.user_id)
        return ok(self._render, [_session(session, identity.session_id) for session in sessions])

    async def _end_session(self, request: WebRequest, auth: MPAuthX) -> Answer:
        identity = await self._identity(request, auth)
        ended = await auth.revoke_session(identity.user_id, request.session_id)
        return ok(self._render, ended)

    async def _phone(self, request: WebRequest, auth: MPAuthX) -> Answer:
        await self._identity(request, auth)
        code = _text(await request.json(), "code", required=True)
        number = await auth.get_phone_number(code)
        phone = {
            "phone_number": number.phone_number,
            "pure_phone_number": number.pure_phone_number,
            "country_code": number.country_code,
        }
        return ok(self._render, phone)

    async def _forget(self, request: WebRequest, auth: MPAuthX) -> Answer:
        identity = await self._identity(request, auth)
        return self._cleared(ok(self._render, await auth.forget_user(identity.user_id)))

    def _cleared(self, answer: Answer) -> Answer:
        if not self._authenticator.cookies:
            return answer
        return answer.with_headers(("Set-Cookie", cleared_cookie()))


def checked_prefix(prefix: str) -> str:
    """A prefix of the routes, as it is."""
    if not isinstance(prefix, str) or (
        prefix and (not prefix.startswith("/") or prefix.endswith("/"))
    ):
        raise ConfigurationError(
            f'prefix must be empty, or a path such as "/auth": it is {prefix!r}.'
        )
    return prefix


_LOGIN = (
    ("code", True),
    ("encryptedData", False),
    ("iv", False),
    ("device", False),
    ("deviceKind", False),
)


def _text(body: Any, name: str, *, required: bool = False) -> Any:
    value = body.get(name)
    if isinstance(value, str) and (value or not required):
        return value
    if value is None and not required:
        return None
    is_missing = value is None or value == ""
    raise ParameterError(f"{name} is required." if is_missing else f"{name} must be a text.")


def _session(session: Session, current: str) -> dict[str, Any]:
    return {
        "id": session.id,
        "device": session.device,
        "device_kind": session.device_kind,
        "issued_at": session.issued_at,
        "expires_at": session.expires_at,
        "last_seen": session.last_seen,
        "is_current": session.id == current,
    }
