"""Logins without a code of wx.login: of users of web pages, and of those proven elsewhere."""

from collections.abc import Sequence
from dataclasses import fields

from ..errors import ConfigurationError, ParameterError
from ..models import AuthResult, User, WeChatProfile, is_user_id
from ..oauth.client import WeChatOAuth
from ..settings import Settings
from ..shared_parts import Parts
from ..stores import KeyValueOAuthTokenStore
from ..tokens.format import new_nonce
from ..wechat.access_token import no_records
from ..wechat.exchanges import CodeExchange
from ..wechat.transport import API_HOSTS
from .device import Device
from .pipeline import Logins

__all__ = ["create_web", "log_in_on_web", "log_in_proven"]


async def log_in_on_web(
    logins: Logins, settings: Settings, web: WeChatOAuth | None, code: str, device: Device
) -> AuthResult:
    """Log a user of a web page in; raises ConfigurationError if there are no web logins."""
    if web is None:
        raise ConfigurationError(no_records("Without `web`, authorize_web needs"))

    async def identify(code: str) -> User:
        found = await web.identify(code)
        now = settings.now_ms()
        profile = {each.name: getattr(found, each.name) for each in fields(WeChatProfile)}
        return User(**profile, created_at=now, updated_at=now, app_id=web.app_id)

    return await logins.log_in_as(identify, code, device, on_web=True)


async def log_in_proven(
    logins: Logins, settings: Settings, open_id: str, union_id: str | None, device: Device
) -> AuthResult:
    """Log the user with these ids in; raises ParameterError if one is malformed."""
    union_id = union_id or None
    if not is_user_id(open_id) or not (union_id is None or is_user_id(union_id)):
        raise ParameterError(
            "open_id must be an openId as WeChat gives it, and union_id a unionId or None."
        )
    now = settings.now_ms()
    user = User(open_id, union_id, created_at=now, updated_at=now, app_id=settings.app_id)

    async def identify(_: str) -> User:
        return user

    # A code of its own keeps concurrent calls apart.
    return await logins.log_in_as(identify, new_nonce(), device, has_code=False)


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
