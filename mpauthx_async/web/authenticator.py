"""Authenticator: identifies the user of a request, for every framework."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from inspect import isawaitable
from typing import Any

from ..concurrency.traceback_frames import clear_frames
from ..errors import ConfigurationError, InvalidTokenError, MPAuthXError
from ..models import Identity
from ..service import MPAuthX
from .answers import Answer, Render, envelope, refusal
from .credentials import Headers, bearer_token, token_of

__all__ = ["Authenticator", "Service"]

_Picked = MPAuthX | AbstractAsyncContextManager[MPAuthX]
Service = MPAuthX | Callable[[Any], _Picked | Awaitable[_Picked]]
"""A service, or a function that picks one for a connection, as its framework has it.

The function, which may be async, may also return an async context manager that gives the service,
as `Apps.use` does.
"""


class Authenticator:
    """Authenticates requests by a service."""

    def __init__(self, auth: Service, *, cookies: bool = False, render: Render = envelope) -> None:
        if not isinstance(auth, MPAuthX) and not callable(auth):
            raise ConfigurationError("auth must be an MPAuthX, or a function that returns one.")
        self.fixed_service: MPAuthX | None = auth if isinstance(auth, MPAuthX) else None
        self._pick = auth
        self.cookies = cookies
        self.render = render

    async def identity(self, connection: object, method: str, headers: Headers) -> Identity:
        """Identify the user of a request; call this before anything else.

        Raises:
            NoTokenError: it has no token.
            CredentialsError, CrossSiteError: see `token_of`.
            And as `MPAuthX.authenticate`.
        """
        try:
            if self.fixed_service is not None:
                return await self.fixed_service.authenticate(
                    token_of(method, headers, cookies=self.cookies)
                )
            async with self.service(connection) as auth:
                return await auth.authenticate(token_of(method, headers, cookies=self.cookies))
        except BaseException as error:
            del connection, headers
            clear_frames(error)
            raise

    async def optional_identity(
        self, connection: object, method: str, headers: Headers
    ) -> Identity | None:
        """Identify the user; None without a token, or if a cookie's token is no longer valid.

        Raises as `identity`.
        """
        try:
            return await self.identity(connection, method, headers)
        except BaseException as error:
            # A browser sends an expired cookie with every request, even if no login is needed.
            if isinstance(error, InvalidTokenError) and bearer_token(headers) is None:
                return None
            del connection, headers
            clear_frames(error)
            raise

    @asynccontextmanager
    async def service(self, connection: object) -> AsyncIterator[MPAuthX]:
        """Use the service for a connection."""
        if self.fixed_service is not None:
            yield self.fixed_service
            return
        picked: Any = self._pick(connection)  # type: ignore[operator]
        if isawaitable(picked):
            picked = await picked
        if isinstance(picked, MPAuthX):  # which closes at the end of `async with`
            yield picked
        elif isinstance(picked, AbstractAsyncContextManager):
            async with picked as auth:
                yield auth
        else:
            raise ConfigurationError(
                "auth must return an MPAuthX, or raise an MPAuthXError such as ParameterError: it "
                f"returned a {type(picked).__name__}."
            )

    def refusal(self, error: MPAuthXError) -> Answer:
        """The answer that an error gets."""
        return refusal(error, self.render)

    async def close(self) -> None:
        """Close the service. What a function picks is closed by whoever made it."""
        if self.fixed_service is not None:
            await self.fixed_service.close()
