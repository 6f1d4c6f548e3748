"""Encodes sessions for the scripts, and decodes sessions, bans and users from their answers.

All decoders raise ValueError for values in another format than this package writes.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from ...constants import TokenStatus
from ...models import Ban, NewSession, Session, SessionRef, Subject
from ..online_cursor import OnlineCursor

__all__ = [
    "decode_ban",
    "decode_end",
    "decode_issued",
    "decode_online",
    "decode_read",
    "decode_rotated",
    "decode_sealed_key",
    "decode_session",
    "decode_text",
    "encode_new_session",
]

_POSITION = re.compile(r"[0-9]{1,16}")
_SESSION = re.compile(r"(-?[0-9]+):?([0-9]*):?([0-9]*):?[0-9]*")  # as in prelude.lua

_encode_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def encode_new_session(session: NewSession) -> str:
    """Encode the details, lifetimes and login policy of a new session for issue.lua."""
    policy, ttl, absolute_ttl = session.policy, session.ttl, session.absolute_ttl
    return _encode_json(
        [
            session.sealed_key or "",
            session.device or "",
            session.device_kind or "",
            ttl if absolute_ttl is None else min(ttl, absolute_ttl),
            absolute_ttl or 0,
            policy.max_sessions,
            policy.one_per_kind,
            policy.shared_token,
        ]
    )


def decode_issued(new: NewSession, answer: Sequence[Any]) -> Session | Ban:
    """Decode the outcome of issuing a session."""
    kind, *rest = answer
    match decode_text(kind):
        case "banned":
            return _decode_ban(new.ref.subject, rest[0])
        case "known":
            return decode_session(new.ref.subject, *rest)
    issued_at, *flat = rest
    replaced = tuple(
        SessionRef(*new.ref.subject, decode_text(nonce), generation)
        for nonce, generation in zip(flat[::2], flat[1::2], strict=True)
    )
    life = new.ttl if new.absolute_ttl is None else min(new.ttl, new.absolute_ttl)
    return Session(
        new.ref, issued_at, issued_at + life, new.device, new.device_kind, None, replaced
    )


def decode_end(ref: SessionRef, value: bytes | str | None) -> int | None:
    """Decode when a session ends, or its status; None for an unknown one."""
    if value is None:
        return None
    end, generation, _ = _decode_value(value)
    if ref.generation > generation:
        return None
    return end if end < 0 or ref.generation == generation else TokenStatus.rotated


def decode_session(
    subject: Subject, nonce: bytes | str, value: bytes | str, details: bytes | str
) -> Session:
    """Decode a session from its key's value and its JSON details."""
    end, generation, last_seen = _decode_value(value)
    issued_at, _, device, device_kind, _ = _decode_details(details)
    ref = SessionRef(*subject, decode_text(nonce), generation)
    return Session(ref, issued_at, end, device or None, device_kind or None, last_seen or None)


def decode_read(ref: SessionRef, answer: Sequence[bytes | str]) -> Session | None:
    """Decode the answer of read.lua."""
    return decode_session(ref.subject, ref.nonce, *answer) if answer else None


def decode_sealed_key(answer: Sequence[bytes | str]) -> str | None:
    """Decode the sealed session key in the answer of read.lua; None if it is damaged."""
    try:
        return str(_decode_details(answer[1])[1]) or None if answer else None
    except ValueError:
        return None


def decode_rotated(ref: SessionRef, answer: Any) -> Session | TokenStatus:
    """Decode the outcome of rotating a token."""
    if isinstance(answer, list):
        return decode_session(ref.subject, ref.nonce, *answer)
    return TokenStatus(answer)


def decode_ban(subject: Subject, text: bytes | str | None) -> Ban | None:
    """Decode a ban; None for a user who is not banned."""
    return None if text is None else _decode_ban(subject, text)


def _decode_ban(subject: Subject, text: bytes | str) -> Ban:
    banned_at, reason, until = _decode_array(text, (int, str, int))
    return Ban(subject.user_id, reason, banned_at, until or None)


def decode_online(flat: Sequence[bytes | str]) -> list[OnlineCursor]:
    """Decode online users from a flat list of user ids, each followed by its position.

    A user with a malformed position becomes the last.
    """
    return [
        OnlineCursor(_decode_position(decode_text(position)), decode_text(user_id))
        for user_id, position in zip(flat[::2], flat[1::2], strict=True)
    ]


def decode_text(value: bytes | str) -> str:
    """Decode UTF-8. Damaged bytes become U+FFFD, so the rest of the batch is still decoded."""
    return value if isinstance(value, str) else value.decode(errors="replace")


def _decode_position(text: str) -> int:
    return int(text) if _POSITION.fullmatch(text) else 0


def _decode_value(value: bytes | str) -> tuple[int, int, int]:
    """A session's end, generation and when it was last seen; 0 for never."""
    match = _SESSION.fullmatch(decode_text(value))
    if match is None:
        raise ValueError("This is not the value of a session.")
    end, generation, last_seen = match.groups()
    return int(end), int(generation or 0), int(last_seen or 0)


def _decode_details(text: bytes | str) -> list[Any]:
    """A session's issued_at, sealed key, device, device_kind and absolute end."""
    return _decode_array(text, (int, str, str, str, int))


def _decode_array(text: bytes | str, types: Sequence[type]) -> list[Any]:
    """Decode a JSON array; missing fields at its end become the empty value of their type."""
    fields = json.loads(decode_text(text))
    if type(fields) is not list or not 1 <= len(fields) <= len(types):
        raise ValueError("This is not a JSON array of the expected length.")
    fields += [kind() for kind in types[len(fields) :]]
    if any(type(field) is not kind for field, kind in zip(fields, types, strict=True)):
        raise ValueError("A field of this JSON array has an unexpected type.")
    return fields
