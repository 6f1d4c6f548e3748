"""Logins of users whose identity is proven elsewhere, without a code of WeChat's."""

from ..errors import ParameterError
from ..models import AuthResult, User, is_user_id
from ..settings import Settings
from ..tokens.format import new_nonce
from .device import Device
from .pipeline import Logins

__all__ = ["log_in_proven", "proven_user"]


def proven_user(settings: Settings, open_id: str, union_id: str | None) -> User:
    """The user with these ids, as of now.

    Raises:
        ParameterError: an id is malformed.
    """
    union_id = union_id or None
    if not is_user_id(open_id) or not (union_id is None or is_user_id(union_id)):
        raise ParameterError(
            "open_id must be an openId as WeChat gives it, and union_id a unionId or None."
        )
    now = settings.now_ms()
    return User(open_id, union_id, created_at=now, updated_at=now, app_id=settings.app_id)


async def log_in_proven(logins: Logins, user: User, device: Device) -> AuthResult:
    """Log a user in; each call is a login of its own."""

    async def identify(_: str) -> User:
        return user

    # A code of its own keeps concurrent calls apart.
    return await logins.log_in_as(identify, new_nonce(), device, has_code=False)
