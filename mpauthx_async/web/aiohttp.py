"""Protects aiohttp's handlers, and serves our routes there."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from functools import wraps
from typing import Any

from aiohttp import web
from aiohttp.hdrs import METH_ANY
from multidict import CIMultiDict

from ..errors import ConfigurationError, MPAuthXError, ParameterError
from ..models import Identity
from ..service import MPAuthX
from .answers import Answer, Render, envelope
from .authenticator import Authenticator, Service
from .credentials import WEBSOCKET, Headers
from .excluded_paths import Exclusions
from .oauth_routes import OAuthRoutes
from .requests import WebRequest
from .routes import PushRoutes, Route, Routes, checked_prefix

__all__ = ["AUTH", "identity", "login_required", "routes", "setup"]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

AUTH = web.AppKey("mpauthx", MPAuthX)
"""The service of an app: `request.app[AUTH]`, unless a function picks it."""

_AUTHENTICATOR = web.AppKey("mpauthx_authenticator", Authenticator)
# aiohttp before 3.14 has no RequestKey, and no warning of texts.
_IDENTITY: Any = web.RequestKey("mpauthx", Identity) if hasattr(web, "RequestKey") else "mpauthx"
_AUTHENTICATES_ITSELF = "_mpauthx_asks_by_itself"  # marks the handlers of our routes


def setup(
    app: web.Application,
    auth: Service,
    *,
    exclude: Iterable[str] = (),
    prefix: str | None = None,
    include: Collection[str | OAuthRoutes | PushRoutes] = (),
    cookies: bool = False,
    render: Render = envelope,
) -> None:
    """Let only requests of logged-in users through to an app's handlers.

    Errors of this package that a handler raises become answers. The service is closed at the app's
    end.

    Args:
        app: the app; its sub-apps are protected as well.
        auth: the service, or a function that picks one for a request.
        exclude: paths that need no login, such as `/about` and `GET /public/*`: see `Exclusions`.
            They are matched against the whole path, even if the app is itself a sub-app. With `/*`,
            only handlers with `login_required` need a login. OPTIONS needs one only if a handler
            serves all methods.
        prefix: where our routes are, such as `/auth`, or empty for the root; None for no routes.
        include: more routes: "phone", "forget", an OAuthRoutes, a PushRoutes.
        cookies: whether the cookie `__Host-mpauthx` may hold the token, for web pages.
        render: builds the body from the status code, the status message and the response.

    Raises:
        ConfigurationError: for arguments that cannot work.
    """
    authenticator = Authenticator(auth, cookies=cookies, render=render)
    app[_AUTHENTICATOR] = authenticator
    if authenticator.fixed_service is not None:
        app[AUTH] = authenticator.fixed_service
    app.middlewares.append(_middleware(authenticator, Exclusions(exclude)))
    app.cleanup_ctx.append(_closing)
    if prefix is not None:
        app.add_routes(_routes(Routes(authenticator, include), prefix))


def routes(
    auth: Service,
    *,
    prefix: str = "",
    include: Collection[str | OAuthRoutes | PushRoutes] = (),
    cookies: bool = False,
    render: Render = envelope,
) -> list[web.RouteDef]:
    """Make our routes, for `app.add_routes`, where `setup` is not to add them.

    Args and raises: as `setup`.
    """
    authenticator = Authenticator(auth, cookies=cookies, render=render)
    return _routes(Routes(authenticator, include), prefix)


def identity(request: web.Request) -> Identity:
    """The Identity of whoever makes a request.

    Raises:
        ConfigurationError: the path is excluded, and the handler has no `login_required`.
    """
    found: Identity | None = request.get(_IDENTITY)
    if found is None:
        raise ConfigurationError(
            "This handler uses the identity, but its path is excluded: add @login_required."
        )
    return found


def login_required(handler: Handler) -> Handler:
    """Decorate a handler whose path `setup` excludes, but which needs a login.

    Raises:
        ConfigurationError: `setup` was not called for the app. And as `MPAuthX.authenticate`.
    """

    @wraps(handler)
    async def protected(request: web.Request) -> web.StreamResponse:
        if _IDENTITY not in request:
            authenticator = request.config_dict.get(_AUTHENTICATOR)
            if authenticator is None:
                raise ConfigurationError("@login_required needs setup(app, auth).")
            request[_IDENTITY] = await _authenticated(authenticator, request)
        return await handler(request)

    return protected


def _authenticated(authenticator: Authenticator, request: web.Request) -> Awaitable[Identity]:
    method = request.method
    # Of the methods only cookies want to know; here a websocket's handshake is a mere GET.
    if authenticator.cookies and request.headers.get("Upgrade", "").lower() == "websocket":
        method = WEBSOCKET
    return authenticator.identity(request, method, headers_of(request))


def _middleware(authenticator: Authenticator, exclusions: Exclusions) -> Any:
    def is_excluded(request: web.Request) -> bool:
        raw_path = request.raw_path.partition("?")[0].encode(errors="surrogateescape")
        return exclusions.match(request.method, request.path, raw_path)

    @web.middleware
    async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if not (
                hasattr(request.match_info.handler, _AUTHENTICATES_ITSELF)
                or (request.method == "OPTIONS" and not _serves_all_methods(request))
                or is_excluded(request)
            ):
                request[_IDENTITY] = await _authenticated(authenticator, request)
            return await handler(request)
        except MPAuthXError as error:
            if request.writer.output_size:  # a second response would stand inside of the first
                raise
            return response_of(authenticator.refusal(error))

    return authenticate


def _serves_all_methods(request: web.Request) -> bool:
    """Whether a handler would do for OPTIONS what it does for GET: a View has a method for each."""
    match, handler = request.match_info, request.match_info.handler
    is_view = isinstance(handler, type) and issubclass(handler, web.View)
    return match.http_exception is None and match.route.method == METH_ANY and not is_view


async def _closing(app: web.Application) -> AsyncIterator[None]:
    yield
    await app[_AUTHENTICATOR].close()


def _routes(core: Routes, prefix: str) -> list[web.RouteDef]:
    checked_prefix(prefix)
    return [web.route(route.method, prefix + route.path, _handler(core, route)) for route in core]


def _handler(core: Routes, route: Route) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        asked = WebRequest(
            request,
            request.method,
            headers_of(request),
            _chunks(request),
            request.rel_url.raw_query_string,
            request.match_info.get("session_id", ""),
        )
        return response_of(await core.answer(route, asked))

    setattr(handler, _AUTHENTICATES_ITSELF, True)
    return handler


def headers_of(request: web.Request) -> Headers:
    """The headers of a request of aiohttp's."""
    headers = request.headers
    return lambda name: headers.getall(name, ())


async def _chunks(request: web.Request) -> AsyncIterator[bytes]:
    try:
        async for chunk in request.content.iter_any():
            yield chunk
    except (ConnectionError, web.RequestPayloadError):
        raise ParameterError("The request's body is incomplete.") from None


def response_of(answer: Answer) -> web.Response:
    """An answer as aiohttp sends it."""
    return web.Response(body=answer.body, status=answer.status, headers=CIMultiDict(answer.headers))
