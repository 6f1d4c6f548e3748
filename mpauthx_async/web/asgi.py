"""MPAuthXMiddleware: protects any ASGI app."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..concurrency.traceback_frames import clear_frames
from ..errors import MPAuthXError, ParameterError
from ..models import Identity
from .answers import Answer, Render, envelope
from .authenticator import Authenticator, Service
from .credentials import WEBSOCKET
from .excluded_paths import Exclusions
from .lifespan import serve_lifespan
from .oauth_routes import OAuthRoutes
from .requests import WebRequest
from .routes import PushRoutes, Routes, checked_prefix

__all__ = ["Authentication", "MPAuthXMiddleware", "RequestUser"]

Scope = Any
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_OWN = ("mpauthx_async",)
_KEY = "mpauthx"  # of scopes, and of their state
_DENIAL = "websocket.http.response"
_POLICY_VIOLATION = 1008


@dataclass(slots=True, eq=False, repr=False)
class RequestUser:
    """Who makes a request, in the shape of Starlette's users: `scope["user"]`.

    Attributes:
        mpauthx: the Identity; None if the path is excluded from login.
    """

    mpauthx: Identity | None

    @property
    def is_authenticated(self) -> bool:
        """Whether there is an Identity."""
        return self.mpauthx is not None

    @property
    def identity(self) -> str:
        """The user id; empty without an Identity."""
        return "" if self.mpauthx is None else self.mpauthx.user_id

    display_name = identity


@dataclass(slots=True, eq=False, repr=False)
class Authentication:
    """What a request may do, in the shape of Starlette's AuthCredentials: `scope["auth"]`.

    Attributes:
        mpauthx: the Identity; None if the path is excluded from login.
    """

    mpauthx: Identity | None

    @property
    def scopes(self) -> list[str]:
        """`authenticated`, for `@requires("authenticated")`, if there is an Identity."""
        return [] if self.mpauthx is None else ["authenticated"]


class MPAuthXMiddleware:
    """Lets only requests of logged-in users through to an ASGI app, and serves our routes.

    The app finds the Identity in `scope["state"]["mpauthx"]` (`request.state.mpauthx`), and in
    `scope["user"]` and `scope["auth"]`. Errors of this package that the app raises become answers.
    The service is closed when the server shuts down.

    Args:
        app: the app.
        auth: the service, or a function that picks one for a scope.
        exclude: paths that need no login, such as `/about` and `GET /public/*`: see `Exclusions`.
            They are matched after `root_path` is removed. OPTIONS never needs a login.
        prefix: where our routes are, such as `/auth`, or empty for the root; None for no routes.
        include: more routes: "phone", "forget", an OAuthRoutes, a PushRoutes.
        cookies: whether the cookie `__Host-mpauthx` may hold the token, for web pages.
        render: builds the body from the status code, the status message and the response.

    Raises:
        ConfigurationError: for arguments that cannot work.
    """

    def __init__(
        self,
        app: App,
        auth: Service,
        *,
        exclude: Iterable[str] = (),
        prefix: str | None = None,
        include: Collection[str | OAuthRoutes | PushRoutes] = (),
        cookies: bool = False,
        render: Render = envelope,
    ) -> None:
        self._app = app
        self._authenticator = Authenticator(auth, cookies=cookies, render=render)
        self._exclusions = Exclusions(exclude)
        self._prefix = None if prefix is None else checked_prefix(prefix)
        self._routes = Routes(self._authenticator, include)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection."""
        try:
            await self._serve(scope, receive, send)
        except BaseException as error:
            del scope, receive, send
            clear_frames(error, _OWN)  # the others may be the application's
            raise

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await serve_lifespan(self._app, self._authenticator.close, scope, receive, send)
            return
        method = method_of(scope)
        path = _route_path(scope)
        if self._prefix is not None and path.startswith(self._prefix):
            found = self._routes.find(method, path[len(self._prefix) :])
            if found is not None:
                route, session_id = found
                request = web_request(scope, scope, receive, session_id)
                await send_answer(scope, send, await self._routes.answer(route, request))
                return
        identity = refused = None
        if method != "OPTIONS" and not self._excludes(method, path, scope):
            try:
                identity = await self._authenticator.identity(
                    scope, method, partial(header_values, scope["headers"])
                )
            except MPAuthXError as error:
                refused = self._refused(error)
        if refused is not None:
            await send_answer(scope, send, refused)
        else:
            await self._let_through(identity, scope, receive, send)

    def requires_login(self, scope: Scope) -> bool:
        """Whether a path wants a login, also where a request is not asked: OPTIONS never is."""
        return not self._excludes(method_of(scope), _route_path(scope), scope)

    def refusal(self, error: MPAuthXError) -> Answer:
        """The answer that an error gets."""
        return self._authenticator.refusal(error)

    def _excludes(self, method: str, path: str, scope: Scope) -> bool:
        return self._exclusions.match(method, path, scope.get("raw_path") or b"")

    async def _let_through(
        self, identity: Identity | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        # A scope of its own, because servers may share a state between requests.
        inner = {
            **scope,
            "user": RequestUser(identity),
            "auth": Authentication(identity),
            "state": {**(scope.get("state") or {}), _KEY: identity},
            _KEY: self,  # for an adapter inside of it
        }
        has_begun = False

        def watched(message: Any) -> Awaitable[None]:
            nonlocal has_begun
            has_begun = True
            return send(message)

        try:
            await self._app(inner, receive, watched)
        except MPAuthXError as error:
            if has_begun:
                raise
            refused = self._refused(error)
        else:
            return
        await send_answer(scope, send, refused)

    def _refused(self, error: MPAuthXError) -> Answer:
        """The answer to an error that ends here."""
        answer = self._authenticator.refusal(error)
        # An application may raise one instance in several requests: its frames would be cleared
        # with those of another request, while they wait here.
        error.__traceback__ = None
        return answer


def method_of(scope: Scope) -> str:
    """The method of a request, or WEBSOCKET."""
    return WEBSOCKET if scope["type"] == "websocket" else scope["method"]


def header_values(headers: Iterable[Sequence[bytes]], name: str) -> list[str]:
    """All values of a header of an ASGI scope."""
    wanted = name.encode()
    return [value.decode("latin-1") for key, value in headers if key == wanted]


def web_request(connection: object, scope: Scope, receive: Receive, session_id: str) -> WebRequest:
    """A request of an ASGI app, for our routes."""
    return WebRequest(
        connection,
        scope["method"],
        partial(header_values, scope["headers"]),
        _chunks(receive),
        scope.get("query_string", b"").decode("latin-1"),
        session_id,
    )


async def send_answer(scope: Scope, send: Send, answer: Answer) -> None:
    """Send an answer; to a websocket, at its handshake."""
    beginning = "http.response"
    if scope["type"] == "websocket":
        beginning = _DENIAL
        if _DENIAL not in (scope.get("extensions") or {}):
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})  # HTTP 403
            return
    headers = [(name.lower().encode(), value.encode()) for name, value in answer.headers]
    headers.append((b"content-length", str(len(answer.body)).encode()))
    await send({"type": f"{beginning}.start", "status": answer.status, "headers": headers})
    await send({"type": f"{beginning}.body", "body": answer.body})


async def _chunks(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ParameterError("The request's body is incomplete.")
        yield message.get("body", b"")
        if not message.get("more_body"):
            return


def _route_path(scope: Scope) -> str:
    """The path that the app routes: behind `root_path`; empty if frameworks disagree on it.

    Where a path does not begin with its `root_path`, Starlette and Django route all of it, and
    Litestar what stands behind the `root_path` wherever that is.
    """
    path: str = scope["path"]
    root_path: str = scope.get("root_path", "")
    if path.startswith(root_path):
        rest = path[len(root_path) :]
        if not rest or rest[0] == "/":
            return rest
    return "" if root_path.strip("/") and root_path in path else path
