"""The access token of a service's own app: where it comes from, or why there is no such token."""

from typing import NoReturn

from ..errors import ConfigurationError
from ..shared_parts import Parts
from ..tokens.sealing import RecordSealer
from .access_token import AccessToken, AppAccessToken, AuthorizerAccessToken
from .api import WeChatAPI
from .exchanges import CodeExchange, ComponentExchange

__all__ = ["create_access_token", "no_records"]


def create_access_token(parts: Parts, api: WeChatAPI, exchange: CodeExchange | None) -> AccessToken:
    """Create the access token of a service's app; it is closed with the service."""
    if isinstance(exchange, ComponentExchange):
        if exchange.authorizer_access_token:
            return AuthorizerAccessToken(exchange.authorizer_access_token)
        return _no_access_token(
            ConfigurationError(
                "This call needs the app's access token: give ComponentExchange, which is the "
                "`exchange`, an authorizer_access_token, an async function that returns it."
            )
        )
    if exchange is not None or parts.records is None:
        return _no_access_token(no_records("The app's access token needs"))
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
    """The error of a service with an `exchange`, or without a store that processes share."""
    return ConfigurationError(
        f"{what} the app's own secret (no `exchange`), and a store that all processes share: pass "
        "`tokens` as a URL, a RedisTokenStore or a SqliteTokenStore with a path, or `connections` "
        "with a Redis."
    )


def _no_access_token(error: ConfigurationError) -> AccessToken:
    message = str(error)  # each caller gets an exception of their own

    async def give() -> NoReturn:
        raise ConfigurationError(message)

    return AuthorizerAccessToken(give)
