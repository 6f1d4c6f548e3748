"""Authenticator: whose request it is, for every framework."""

from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any

from ..concurrency.frames import clear_frames
from ..errors import ConfigurationError, MPAuthXError
from ..models import Identity
from ..service import MPAuthX
from .answers import Answer, Render, envelope, refusal
from .credentials import Headers, token_of
from .errors import NoTokenError

__all__ = ["Authenticator", "Service"]

Service = MPAuthX | Callable[[Any], MPAuthX | Awaitable[MPAuthX]]
"""A service, or a function that picks one for a connection, as its framework has it."""


class Authenticator:
    """Authenticates requests by a service.

    Args:
        auth: the service, or a function that picks one.
        cookies: whether the cookie `__Host-mpauthx` may hold the token, for web pages.
        render: makes the body of an answer of its status code, status message and response.

    Raises:
        ConfigurationError: auth is neither.
    """

    def __init__(self, auth: Service, *, cookies: bool = False, render: Render = envelope) -> None:
        if not isinstance(auth, MPAuthX) and not callable(auth):
            raise ConfigurationError("auth must be an MPAuthX, or a function that returns one.")
        self.one: MPAuthX | None = auth if isinstance(auth, MPAuthX) else None
        self._pick = auth
        self.cookies = cookies
        self.render = render

    async def identity(self, connection: object, method: str, headers: Headers) -> Identity:
        """Tell whose request it is; this is asked first of every request.

        Args:
            connection: the request, as its framework has it.
            method: its method, or WEBSOCKET.
            headers: its headers.

        Raises:
            NoTokenError: it has no token.
            CredentialsError, CrossSiteError: see `token_of`.
            And as `MPAuthX.authenticate`.
        """
        try:
            auth = self.one or await self.service(connection)
            return await auth.authenticate(token_of(method, headers, cookies=self.cookies))
        except BaseException as error:
            del connection, headers
            clear_frames(error)
            raise

    async def optional_identity(
        self, connection: object, method: str, headers: Headers
    ) -> Identity | None:
        """Tell whose request it is; None if it has no token. Raises as `identity`."""
        try:
            return await self.identity(connection, method, headers)
        except NoTokenError:
            return None
        except BaseException as error:
            del connection, headers
            clear_frames(error)
            raise

    async def service(self, connection: object) -> MPAuthX:
        """The service for a connection."""
        if self.one is not None:
            return self.one
        picked: Any = self._pick(connection)  # type: ignore[operator]
        return await picked if isawaitable(picked) else picked  # type: ignore[no-any-return]

    def refusal(self, error: MPAuthXError) -> Answer:
        """The answer that an error gets."""
        return refusal(error, self.render)

    async def close(self) -> None:
        """Close the service. What a function picks is closed by whoever made it."""
        if self.one is not None:
            await self.one.close()
