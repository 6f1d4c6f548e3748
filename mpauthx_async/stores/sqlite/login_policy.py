"""Beginning sessions under login policies: bans, shared tokens, and which sessions end."""

import sqlite3
from collections.abc import Mapping

from ...constants import TokenStatus
from ...errors import StoreError
from ...models import Ban, NewSession, Session, SessionRef
from .session_tables import OF_SUBJECT, SessionRow, bans_of, end_sessions, find_rows

__all__ = ["begin_session"]

_NEWEST = f"FROM mpauthx_session WHERE {OF_SUBJECT} ORDER BY issued_at DESC LIMIT 1"
_INSERT = (
    "INSERT OR IGNORE INTO mpauthx_session (nonce, sku, user_id, issued_at, expires_at,"  # noqa: S608
    " sealed_key, device, device_kind, absolute_end, online_since)"
    # Later than the newest, so that sessions of one millisecond are in order as well.
    " SELECT :nonce, :sku, :user_id, max(:now, coalesce(newest.issued_at + 1, :now)), :expires_at,"
    " :sealed_key, :device, :device_kind, :absolute_end, coalesce(newest.online_since, :now)"
    f" FROM (SELECT 1) LEFT JOIN (SELECT issued_at, online_since {_NEWEST}) AS newest"
    " WHERE NOT EXISTS (SELECT 1 FROM mpauthx_ban WHERE sku = :sku AND user_id = :user_id"
    " AND (until IS NULL OR until > :now)) RETURNING issued_at"
)
_SHARE = (
    "UPDATE mpauthx_session SET expires_at = min(:now + :ttl, coalesce(absolute_end, :now + :ttl)),"  # noqa: S608
    f" last_seen = :now WHERE nonce = (SELECT nonce {_NEWEST})"
    f" RETURNING {', '.join(SessionRow._fields)}"
)
_SAME_KIND = (
    "sku = :sku AND user_id = :user_id AND nonce <> :nonce"
    " AND coalesce(device_kind, device, '') = :kind"
)
_BEYOND_MAX = (
    f"nonce IN (SELECT nonce FROM mpauthx_session WHERE {OF_SUBJECT}"  # noqa: S608
    " ORDER BY issued_at DESC LIMIT -1 OFFSET :max_sessions)"
)


def begin_session(cursor: sqlite3.Cursor, new: NewSession, now: int) -> Session | Ban:
    """Begin a session and end those that its policy replaces, as `TokenStore.issue` documents."""
    absolute_end = None if new.absolute_ttl is None else now + new.absolute_ttl
    end = now + new.ttl if absolute_end is None else min(now + new.ttl, absolute_end)
    values = {
        **new.ref._asdict(),
        "now": now,
        "expires_at": end,
        "ttl": new.ttl,
        "sealed_key": new.sealed_key,
        "device": new.device,
        "device_kind": new.device_kind,
        "absolute_end": absolute_end,
    }
    if new.policy.shared_token:
        answer = _ban_or_repetition(cursor, new, now) or _share(cursor, values)
        if answer is not None:
            return answer
    rows = cursor.execute(_INSERT, values).fetchall()
    if not rows:
        answer = _ban_or_repetition(cursor, new, now)
        if answer is None:
            raise StoreError("The session's nonce belongs to another user; log in again.")
        return answer
    ((issued_at,),) = rows
    replaced = tuple(_replace(cursor, new, values))
    return Session(new.ref, issued_at, end, new.device, new.device_kind, replaced=replaced)


def _ban_or_repetition(cursor: sqlite3.Cursor, new: NewSession, now: int) -> Session | Ban | None:
    """The subject's ban, or the session itself, live or ended, if this call repeats another."""
    (ban,) = bans_of(cursor, [new.ref.subject], now)
    if ban is not None:
        return ban
    row = find_rows(cursor, [new.ref], now=0).get(new.ref.nonce)
    return None if row is None or row[:3] != new.ref[:3] else row.session()


def _share(cursor: sqlite3.Cursor, values: Mapping[str, object]) -> Session | None:
    """Renew the newest live session of the subject and return it; None without a live session."""
    rows = cursor.execute(_SHARE, values).fetchall()
    return SessionRow._make(rows[0]).session() if rows else None


def _replace(
    cursor: sqlite3.Cursor, new: NewSession, values: Mapping[str, object]
) -> list[SessionRef]:
    """End the sessions that a new one replaces, and return them."""
    policy, replaced = new.policy, list[SessionRef]()
    if policy.one_per_kind:
        kind = new.device if new.device_kind is None else new.device_kind
        same_kind = {**values, "kind": kind or ""}
        replaced += end_sessions(cursor, TokenStatus.replaced, _SAME_KIND, same_kind)
    beyond = {**values, "max_sessions": policy.max_sessions}
    return replaced + end_sessions(cursor, TokenStatus.replaced, _BEYOND_MAX, beyond)
