"""The names of RedisTokenStore's keys, and what the values under them say.

`scripts/prelude.lua` has the layout at a glance.
"""

import json
import re
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any
from zlib import crc32

from ...constants import TokenStatus
from ...models import Ban, LoginPolicy, NewSession, Session, SessionRef, Subject
from ..online_cursor import OnlineCursor

__all__ = [
    "SESSION_PREFIX",
    "SessionTerms",
    "absent_keys",
    "bucket_keys",
    "bucket_of",
    "parse_ban",
    "parse_end",
    "parse_sealed_key",
    "parse_session",
    "parse_users",
    "session_head",
    "session_keys",
    "text_of",
    "user_keys",
]

SESSION_PREFIX = "mpauthx:t:"
_BUCKETS = 256
_BINDING = 6  # bytes: 8 characters of base64url
_HEADS = 32_768  # users whose session keys are remembered, some 400 bytes each

_POSITION = re.compile(r"[0-9]{1,16}")
_VALUE = re.compile(r"(-?[0-9]+):?([0-9]*):?([0-9]*):?[0-9]*")  # as the scripts parse it

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def bucket_of(sku: str, user_id: str) -> str:
    """The bucket of a user, as the hash tag of its keys: a Redis Cluster keeps it in one slot."""
    return f"{{{sku}:{crc32(user_id.encode()) & (_BUCKETS - 1)}}}"


@lru_cache(_HEADS)
def session_head(sku: str, user_id: str) -> str:
    """What the keys of a user's sessions begin with; the nonce follows. The hot path.

    It ends in a keyed hash of the user id, which binds each session to its user. Without it,
    whoever has the signing key and a living session of their own could mint
    `victim|sku|<own nonce>`, and the store would know that session for every user of the bucket.
    """
    binding = blake2b(
        user_id.encode(), digest_size=_BINDING, key=sku.encode(), person=b"mpauthx binding"
    )
    text = urlsafe_b64encode(binding.digest()).decode()
    return f"{SESSION_PREFIX}{bucket_of(sku, user_id)}:{text}:"


def session_keys(ref: SessionRef) -> list[str]:
    """The KEYS of a session in a script: session, user, online, ends, ban."""
    sku, user_id, nonce, _ = ref
    return [session_head(sku, user_id) + nonce, *user_keys(sku, user_id)]


def user_keys(sku: str, user_id: str) -> list[str]:
    """The KEYS of a user in a script: user, online, ends, ban."""
    bucket = bucket_of(sku, user_id)
    return [
        f"mpauthx:u:{bucket}:{user_id}",
        f"mpauthx:o:{bucket}",
        f"mpauthx:e:{bucket}",
        f"mpauthx:b:{bucket}:{user_id}",
    ]


def absent_keys(key: str) -> list[str]:
    """Two KEYS that never exist, in the slot of a key.

    A script also uses keys that it cannot declare: those of a user's other sessions. While a Redis
    Cluster moves the slot, a node reads what the other node has as empty, or fails amid the script.
    Of several declared keys all must exist on the node that is asked, or it refuses the script
    before it begins (ASK, TRYAGAIN). So no script with these runs until the slot has moved.
    """
    tag = key[key.index("{") : key.index("}") + 1]
    return [f"mpauthx:n:{tag}:1", f"mpauthx:n:{tag}:2"]


def bucket_keys(sku: str) -> Iterator[tuple[str, str]]:
    """Online and ends of each bucket of a sku."""
    for bucket in range(_BUCKETS):
        yield f"mpauthx:o:{{{sku}:{bucket}}}", f"mpauthx:e:{{{sku}:{bucket}}}"


class SessionTerms:
    """Writes new sessions as the script `issue` takes them.

    Sessions of a batch mostly have the same lives and policy, so those are written once.
    """

    def __init__(self) -> None:
        self._rules: tuple[LoginPolicy, int, int | None] | None = None
        self._text = ""

    def of(self, session: NewSession) -> str:
        """A JSON array of the session's details and terms."""
        policy, ttl, absolute_ttl = rules = session.policy, session.ttl, session.absolute_ttl
        if rules != self._rules:
            life = ttl if absolute_ttl is None else min(ttl, absolute_ttl)
            terms = (policy.max_sessions, policy.one_per_kind, policy.shared_token)
            self._rules, self._text = rules, _encode([life, absolute_ttl or 0, *terms])[1:]
        details = session.sealed_key or "", session.device or "", session.device_kind or ""
        return f"{_encode(details)[:-1]},{self._text}"


def parse_end(ref: SessionRef, value: bytes | str | None) -> int | None:
    """What `lookup` says of a session; ValueError for a damaged value."""
    if value is None:
        return None
    end, generation, _ = _parse_value(value)
    if ref.generation > generation:
        return None
    return end if end < 0 or ref.generation == generation else TokenStatus.rotated


def parse_session(
    subject: Subject, nonce: str, value: bytes | str, details: bytes | str
) -> Session:
    """Read a session; ValueError for a damaged one."""
    end, generation, last_seen = _parse_value(value)
    issued_at, _, device, device_kind, _ = _parse_details(details)
    ref = SessionRef(*subject, nonce, generation)
    return Session(ref, issued_at, end, device or None, device_kind or None, last_seen or None)


def parse_sealed_key(details: bytes | str) -> str | None:
    """The sealed session key in a session's details; None if it has none or they are damaged."""
    try:
        return str(_parse_details(details)[1]) or None
    except ValueError:
        return None


def parse_ban(user_id: str, text: bytes | str) -> Ban:
    """Read a ban; ValueError for a damaged one."""
    banned_at, reason, until = _parts(text, (int, str, int))
    return Ban(user_id, reason, banned_at, until or None)


def parse_users(flat: Sequence[bytes | str]) -> list[OnlineCursor]:
    """Parse a flat list of user ids, each followed by its position.

    A position that was not written here makes that user the last.
    """
    return [
        OnlineCursor(_position(position), text_of(user_id))
        for user_id, position in zip(flat[::2], flat[1::2], strict=True)
    ]


def _position(text: bytes | str) -> int:
    return int(text) if _POSITION.fullmatch(text_of(text)) else 0


def text_of(value: bytes | str) -> str:
    # Damaged bytes become U+FFFD, so the rest of the batch is still parsed.
    return value if isinstance(value, str) else value.decode(errors="replace")


def _parse_value(value: bytes | str) -> tuple[int, int, int]:
    """A session's end, generation and when it was last seen, 0 for never."""
    form = _VALUE.fullmatch(text_of(value))
    if form is None:
        raise ValueError("This is not the value of a session.")
    end, generation, last_seen = form.groups()
    return int(end), int(generation or 0), int(last_seen or 0)


def _parse_details(text: bytes | str) -> list[Any]:
    """issued_at, sealed key, device, kind of device and absolute end."""
    return _parts(text, (int, str, str, str, int))


def _parts(text: bytes | str, types: Sequence[type]) -> list[Any]:
    """Read a JSON array; parts left out at its end get the empty value of their type."""
    parts = json.loads(text_of(text))
    if type(parts) is not list or not 1 <= len(parts) <= len(types):
        raise ValueError("This is not a JSON array of the form that is written here.")
    parts += [kind() for kind in types[len(parts) :]]
    if any(type(part) is not kind for part, kind in zip(parts, types, strict=True)):
        raise ValueError("A part of this JSON array has another type than is written here.")
    return parts
