"""What a tab knows at one moment: its user, their sessions, and the parts of its tokens."""

import time
from collections.abc import Iterable
from typing import Any

from ...constants import TokenStatus
from ...models import Ban, Session, User
from ...tokens.base64url import decode
from ...tokens.format import parse_token
from .steps import WHY

__all__ = ["describe_ban", "describe_sessions", "describe_token", "describe_user"]

_NONCE = 16  # characters
_SIGNED = slice(12, 16)  # the bytes of the generation
_GENERATION = 5  # characters that hold bits of the generation alone


def describe_token(token: str, status: TokenStatus, session: Session | None) -> dict[str, Any]:
    """Describe a token of this service."""
    parts = parse_token(token)
    raw = b"" if parts is None else decode(parts.session) or b""
    if parts is None or not raw:
        raise ValueError("Only tokens that this service issued are described.")
    rest = parts.session[_NONCE:]
    return {
        "status": status.name,
        "why": WHY[status],
        "expires_in": None if session is None else _left(session.expires_at),
        "text": [
            ["openid", parts.open_id],
            ["sku", parts.sku],
            ["nonce", parts.session[:_NONCE]],
            ["generation", rest[:_GENERATION]],
            ["mac", rest[_GENERATION:]],
        ],
        "generation": int.from_bytes(raw[_SIGNED]),
        "mac": raw[_SIGNED.stop :].hex(),
    }


def describe_user(user: User | None) -> dict[str, Any] | None:
    """Describe a row of the user store; None if there is no row."""
    if user is None:
        return None
    return {"open_id": user.open_id, "app_id": user.app_id, "created_at": user.created_at}


def describe_sessions(sessions: Iterable[Session]) -> list[dict[str, Any]]:
    """Describe living sessions."""
    return [
        {
            "id": session.id,
            "device": session.device,
            "generation": session.ref.generation,
            "expires_in": _left(session.expires_at),
        }
        for session in sessions
    ]


def describe_ban(ban: Ban | None) -> dict[str, Any] | None:
    """Describe a ban; None if there is no ban."""
    if ban is None:
        return None
    return {"reason": ban.reason, "ends_in": None if ban.until is None else _left(ban.until)}


def _left(end: int) -> int:
    """Milliseconds until a time in Unix milliseconds."""
    return max(0, end - int(time.time() * 1000))
