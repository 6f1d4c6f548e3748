"""The access token of a service's own app: where it comes from, or why there is no such token."""

from collections.abc import Awaitable, Callable
from typing import NoReturn, TypeVar

from ..errors import ConfigurationError
from ..service_parts import Parts
from ..tokens.sealing import RecordSealer
from .access_token import AccessToken, AppAccessToken, AuthorizerAccessToken
from .api import WeChatAPI
from .exchanges import CodeExchange, ComponentExchange

__all__ = ["create_access_token", "no_records"]

Result = TypeVar("Result")


def create_access_token(parts: Parts, api: WeChatAPI, exchange: CodeExchange | None) -> AccessToken:
    """Create the access token of a service's app; it is closed with the service."""
    if isinstance(exchange, ComponentExchange):
        if exchange.authorizer_access_token:
            return AuthorizerAccessToken(exchange.authorizer_access_token)
        return _NoAccessToken(
            ConfigurationError(
                "This call needs the app's access token: give ComponentExchange, which is the "
                "`exchange`, an authorizer_access_token, an async function that returns it."
            )
        )
    if exchange is not None or parts.records is None:
        return _NoAccessToken(no_records("The app's access token needs"))
    app_id = parts.settings.app_id
    access_token = AppAccessToken(
        lambda force: api.get_stable_token(force_refresh=force),
        parts.records,
        f"access_token|{app_id}",
        RecordSealer(b"mpauthx access", app_id=app_id, keys=parts.settings.keys),
        parts.settings.clock,
    )
    parts.calls.on_close(access_token.close, access_token.cut_off)
    return access_token


def no_records(what: str) -> ConfigurationError:
    """The error of a service that lacks the app's own secret, or a place that processes share."""
    return ConfigurationError(
        f"{what} the app's own secret, so no `exchange`, and a place that all processes share: "
        "give `tokens` as a URL or as a store of Redis or of a SQLite file, or `connections` with "
        "a Redis."
    )


class _NoAccessToken:
    """Stands for an access token in a service that cannot have one."""

    def __init__(self, error: ConfigurationError) -> None:
        self._message = str(error)

    async def get(self) -> NoReturn:
        raise ConfigurationError(self._message)

    async def call(self, ask: Callable[[str], Awaitable[Result]]) -> Result:
        return await ask(await self.get())
