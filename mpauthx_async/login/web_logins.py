"""WebLogins: logs users of web pages in, with the same kind of token as in the mini-program."""

from collections.abc import Sequence
from dataclasses import fields

from ..models import AuthResult, User, WeChatProfile
from ..oauth.client import WeChatOAuth
from ..shared_parts import Parts
from ..stores import KeyValueOAuthTokenStore
from ..wechat.access_token_source import no_records
from ..wechat.exchanges import CodeExchange
from ..wechat.transport import API_HOSTS
from .device import Device
from .pipeline import Logins

__all__ = ["WebLogins", "create_web"]


class WebLogins:
    """Logs users of web pages in."""

    def __init__(self, parts: Parts, logins: Logins, web: WeChatOAuth | None) -> None:
        self._settings = parts.settings
        self._logins = logins
        self._web = web

    async def log_in(self, code: str, device: Device) -> AuthResult:
        """Log a user in; raises ConfigurationError if the service has no web logins."""
        web = self._web
        if web is None:
            raise no_records("Without `web`, authorize_web needs")

        async def identify(code: str) -> User:
            found = await web.identify(code)
            now = self._settings.now_ms()
            profile = {each.name: getattr(found, each.name) for each in fields(WeChatProfile)}
            return User(**profile, created_at=now, updated_at=now, app_id=web.app_id)

        return await self._logins.log_in_as(identify, code, device, on_web=True)


def create_web(
    parts: Parts, exchange: CodeExchange | None, api_base: str | Sequence[str] | None
) -> WeChatOAuth | None:
    """Create the web logins of a service's own app; None if it lacks the secret or the records."""
    settings, records = parts.settings, parts.records
    if exchange is not None or records is None:
        return None
    web = WeChatOAuth(
        app_id=settings.app_id,
        app_secret=settings.app_secret,
        tokens=KeyValueOAuthTokenStore(records, app_id=settings.app_id, keys=settings.keys),
        connections=parts.connections,
        api_base=API_HOSTS if api_base is None else api_base,
        signing_keys=settings.keys,
        clock=settings.clock,
    )
    parts.calls.on_close(web.close)
    return web
