"""MPAuthXGuard: protects FastAPI's endpoints, and has a router with our routes."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Generic, TypeVar

try:
    from fastapi import APIRouter, FastAPI, Request, Response, Security, WebSocket
    from fastapi.openapi.models import HTTPBearer
    from fastapi.openapi.models import SecurityBase as SecurityModel
    from fastapi.params import Depends
    from fastapi.security.base import SecurityBase
    from pydantic import BaseModel
    from starlette.requests import HTTPConnection
    from starlette.websockets import WebSocketState
except ImportError as _error:
    raise ImportError(
        "mpauthx_async.web.fastapi needs FastAPI: pip install 'mpauthx-async[fastapi]'"
    ) from _error

from ..concurrency.traceback_frames import clear_frames
from ..errors import MPAuthXError, RefusedError
from ..models import Identity
from .answers import Render, envelope
from .asgi import header_values, method_of, web_request
from .authenticator import Authenticator, Service
from .credentials import Headers
from .oauth_routes import OAuthRoutes
from .routes import PushRoutes, Route, Routes, checked_prefix
from .starlette import response_of

__all__ = ["MPAuthXGuard"]

T = TypeVar("T")

_DENIAL = "websocket.http.response"
_POLICY_VIOLATION, _INTERNAL_ERROR, _TRY_AGAIN_LATER = 1008, 1011, 1013


class _Scheme(SecurityBase):
    """How FastAPI's schema shows what wants a token."""

    def __init__(self) -> None:
        self.model: SecurityModel = HTTPBearer(description="The token that POST /login gave.")
        self.scheme_name: str = "MPAuthX"


class _Guard(_Scheme, Generic[T]):
    def __init__(self, ask: Callable[[object, str, Headers], Awaitable[T]]) -> None:
        super().__init__()
        self._ask = ask

    async def __call__(self, connection: HTTPConnection) -> T:
        """Authenticate a request.

        Raises:
            NoTokenError: it has no token.
            CredentialsError, CrossSiteError: it shows its token in a way that is refused.
            And as `MPAuthX.authenticate`.
        """
        scope = connection.scope
        headers = partial(header_values, scope["headers"])
        try:
            return await self._ask(connection, method_of(scope), headers)
        except BaseException as error:
            del connection, scope, headers
            clear_frames(error)
            raise


class MPAuthXGuard(_Guard[Identity]):
    """A dependency that gives an endpoint the Identity of whoever calls it.

    `CurrentUser = Annotated[Identity, Security(guard)]` is the type of an endpoint's parameter, of
    HTTP requests and websockets. `guard.optional` gives None to requests without a token,
    or with a cookie whose token is no longer valid.

    Args:
        auth: the service, or a function that picks one for an HTTPConnection.
        cookies: whether the cookie `__Host-mpauthx` may hold the token, for web pages.
        render: builds the body from the status code, the status message and the response.

    Raises:
        ConfigurationError: for arguments that cannot work.
    """

    def __init__(self, auth: Service, *, cookies: bool = False, render: Render = envelope) -> None:
        self._authenticator = Authenticator(auth, cookies=cookies, render=render)
        super().__init__(self._authenticator.identity)
        self.optional: _Guard[Identity | None] = _Guard(self._authenticator.optional_identity)

    @asynccontextmanager
    async def lifespan(self, app: object) -> AsyncIterator[None]:
        """Close the service at the app's end: `FastAPI(lifespan=guard.lifespan)`."""
        try:
            yield
        finally:
            await self._authenticator.close()

    def install(self, app: FastAPI) -> None:
        """Turn this package's errors into HTTP responses, whichever endpoint raises them."""
        app.add_exception_handler(MPAuthXError, self._refuse)  # type: ignore[arg-type]

    def router(
        self,
        *,
        prefix: str = "",
        dependencies: Sequence[Depends] | None = None,
        include: Collection[str | OAuthRoutes | PushRoutes] = (),
    ) -> APIRouter:
        """Make a router with our routes.

        Args:
            prefix: where they are, such as `/auth`.
            dependencies: of all of them, such as a rate limit.
            include: more routes: "phone", "forget", an OAuthRoutes, a PushRoutes.

        Raises:
            ConfigurationError: prefix is not a path, or include has something else.
        """
        router = APIRouter(prefix=checked_prefix(prefix), dependencies=dependencies, tags=["login"])
        routes = Routes(self._authenticator, include)
        documented = _Documented()
        has_envelope = self._authenticator.render is envelope
        for route in routes:
            model = _MODELS.get((route.method, route.path)) if has_envelope else None
            router.add_api_route(
                route.path,
                _endpoint(routes, route),
                methods=[route.method],
                name=route.name,
                summary=route.summary,
                dependencies=[Security(documented)] if route.requires_token else None,
                response_model=model,
                responses=_refusals(route) if model else None,
                openapi_extra=_request(route, prefix + route.path),
            )
        return router

    async def _refuse(self, connection: HTTPConnection, error: MPAuthXError) -> Response | None:
        answer = self._authenticator.refusal(error)  # this also logs what is the operator's
        if isinstance(connection, WebSocket) and not _can_be_answered(connection):
            await connection.close(_close_code(error))
            return None
        return response_of(answer)


class _Documented(_Scheme):
    """Shows in the schema that a route wants a token, for which the route itself asks."""

    async def __call__(self) -> None:
        return


class _Envelope(BaseModel, Generic[T]):
    status_code: int
    status_message: str
    response: T


class _Me(BaseModel):
    user_id: str
    session_id: str
    sku: str


class _Session(BaseModel):
    id: str
    device: str | None
    device_kind: str | None
    issued_at: int
    expires_at: int
    last_seen: int | None
    is_current: bool


class _Phone(BaseModel):
    phone_number: str
    pure_phone_number: str
    country_code: str


# The service itself checks what it is sent; this tells clients what it takes.
_LINE = {
    "type": ["string", "null"],
    "description": "One line of at most 200 bytes of UTF-8.",
    "maxLength": 64,
    "pattern": r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$",
}
_FIELDS: dict[str, Any] = {
    "code": {"type": "string", "minLength": 1},
    "encryptedData": {"type": ["string", "null"], "description": "Needs iv."},
    "iv": {"type": ["string", "null"], "description": "Needs encryptedData."},
    "device": _LINE,
    "deviceKind": _LINE,
}
_Refusal = _Envelope[dict[str, Any] | None]
_MODELS: dict[tuple[str, str], Any] = {
    ("POST", "/login"): _Envelope[str],
    ("POST", "/rotate"): _Envelope[str | None],
    ("POST", "/logout"): _Envelope[bool],
    ("GET", "/me"): _Envelope[_Me],
    ("GET", "/sessions"): _Envelope[list[_Session]],
    ("DELETE", "/sessions/{session_id}"): _Envelope[bool],
    ("POST", "/phone"): _Envelope[_Phone],
    ("DELETE", "/me"): _Envelope[bool],
}


def _endpoint(routes: Routes, route: Route) -> Any:
    async def endpoint(request: Request) -> Response:
        session_id = request.path_params.get("session_id", "")
        asked = web_request(request, request.scope, request.receive, session_id)
        return response_of(await routes.answer(route, asked))

    return endpoint


def _refusals(route: Route) -> dict[int | str, dict[str, Any]]:
    statuses = {
        400: "The request is malformed",
        401: "Log in again" if route.requires_token else "WeChat refused the code",
        403: "The user is banned",
        503: "Try again later",
    }
    if route.body:  # these ask WeChat
        statuses |= {
            408: "The body did not arrive in time",
            413: "The body is too long",
            429: "WeChat limits this user: try again later",
            502: "WeChat did not answer as it should",
        }
    return {status: {"model": _Refusal, "description": text} for status, text in statuses.items()}


def _request(route: Route, path: str) -> dict[str, Any]:
    """What the schema tells of a request, which the route reads by itself."""
    extra: dict[str, Any] = {}
    if names := re.findall(r"{(\w+)", path):
        extra["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
        ]
    if not route.body:
        return extra
    schema = {
        "type": "object",
        "properties": {name: _FIELDS[name] for name, _ in route.body},
        "required": [name for name, is_required in route.body if is_required],
    }
    content = {"application/json": {"schema": schema}}
    return {**extra, "requestBody": {"required": True, "content": content}}


def _can_be_answered(websocket: WebSocket) -> bool:
    """Whether a websocket's handshake is not over, and the server lets it be answered."""
    is_connecting = websocket.application_state is WebSocketState.CONNECTING
    return is_connecting and _DENIAL in (websocket.scope.get("extensions") or {})


def _close_code(error: MPAuthXError) -> int:
    if isinstance(error, RefusedError):
        return _POLICY_VIOLATION
    return _TRY_AGAIN_LATER if error.retryable else _INTERNAL_ERROR
