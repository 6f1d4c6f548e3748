"""What the scripts' answers mean. All raise ValueError for what was not written here."""

from collections.abc import Sequence
from typing import Any

from ...constants import TokenStatus
from ...models import Ban, NewSession, Session, SessionRef, Subject
from ..online_cursor import OnlineCursor
from .keys import parse_ban, parse_sealed_key, parse_session, text_of

__all__ = [
    "order_of",
    "parse_issued",
    "parse_read",
    "parse_read_ban",
    "parse_read_key",
    "parse_rotated",
]


def parse_issued(new: NewSession, answer: Sequence[Any]) -> Session | Ban:
    """What became of a session that was to begin."""
    kind, *rest = answer
    match text_of(kind):
        case "banned":
            return parse_ban(new.ref.user_id, rest[0])
        case "known":
            return parse_session(new.ref.subject, text_of(rest[0]), *rest[1:])
    issued_at, *flat = rest
    replaced = tuple(
        SessionRef(new.ref.sku, new.ref.user_id, text_of(nonce), generation)
        for nonce, generation in zip(flat[::2], flat[1::2], strict=True)
    )
    life = new.ttl if new.absolute_ttl is None else min(new.ttl, new.absolute_ttl)
    return Session(
        new.ref, issued_at, issued_at + life, new.device, new.device_kind, None, replaced
    )


def parse_read(ref: SessionRef, answer: Sequence[bytes | str]) -> Session | None:
    """A session as `read` tells it; None if it is over."""
    return parse_session(ref.subject, ref.nonce, *answer) if answer else None


def parse_read_key(answer: Sequence[bytes | str]) -> str | None:
    """The sealed session key of a session that was read."""
    return parse_sealed_key(answer[1]) if answer else None


def parse_rotated(ref: SessionRef, answer: Any) -> Session | TokenStatus:
    """What became of a rotation."""
    if isinstance(answer, list):
        return parse_session(ref.subject, ref.nonce, *answer)
    return TokenStatus(answer)


def parse_read_ban(subject: Subject, text: bytes | str | None) -> Ban | None:
    """A ban as it was read; None for a user who is not banned."""
    return None if text is None else parse_ban(subject.user_id, text)


def order_of(user: OnlineCursor) -> tuple[int, bytes]:
    """By what users who are online are sorted."""
    return user.position, user.user_id.encode()
