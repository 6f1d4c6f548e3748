"""MPAuthXBackend: for Starlette's own AuthenticationMiddleware."""

from functools import partial

try:
    from starlette.authentication import AuthenticationBackend, AuthenticationError
    from starlette.requests import HTTPConnection
    from starlette.responses import Response
except ImportError as _error:
    raise ImportError(
        "mpauthx_async.web.starlette needs Starlette: pip install starlette"
    ) from _error

from ..concurrency.traceback_frames import clear_frames
from ..errors import MPAuthXError
from .answers import Answer, Render, envelope, message_of
from .asgi import Authentication, RequestUser, header_values, method_of
from .authenticator import Authenticator, Service

__all__ = ["MPAuthXBackend"]


class MPAuthXBackend(AuthenticationBackend):
    """Identifies the user of a request for Starlette's AuthenticationMiddleware.

    A request without a token is anonymous, so protect endpoints with
    `@requires("authenticated")`. A request with an invalid token is refused, and so is every
    request with a token while the store cannot answer: pass `on_error=backend.on_error`.

    Args:
        auth: the service, or a function that picks one for an HTTPConnection.
        cookies: whether the cookie `__Host-mpauthx` may hold the token, for web pages.
        render: builds the body of a refusal from its status code, status message and response.

    Raises:
        ConfigurationError: for arguments that cannot work.
    """

    def __init__(self, auth: Service, *, cookies: bool = False, render: Render = envelope) -> None:
        self._authenticator = Authenticator(auth, cookies=cookies, render=render)

    async def authenticate(self, conn: HTTPConnection) -> tuple[Authentication, RequestUser] | None:  # type: ignore[override]
        """Authenticate a request; None if it has no token.

        Raises:
            AuthenticationError: it is refused; its cause tells why.
        """
        try:
            identity = await self._authenticator.optional_identity(
                conn, method_of(conn.scope), partial(header_values, conn.scope["headers"])
            )
        except BaseException as error:
            del conn
            clear_frames(error)
            if isinstance(error, MPAuthXError):
                raise AuthenticationError(message_of(error)) from error
            raise
        return None if identity is None else (Authentication(identity), RequestUser(identity))

    def on_error(self, conn: HTTPConnection, error: Exception) -> Response:
        """Make the answer that a refused request gets."""
        refused = error.__cause__
        if not isinstance(refused, MPAuthXError):
            raise error
        return response_of(self._authenticator.refusal(refused))


def response_of(answer: Answer) -> Response:
    """An answer as Starlette sends it."""
    response = Response(answer.body, answer.status)
    for name, value in answer.headers:
        response.headers.append(name, value)
    return response
