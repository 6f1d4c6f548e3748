"""The tables of sessions and bans, and the queries that the token store and login policies share.

An ended session keeps its row, to tell why it ended, until it would have expired. Only sessions
that have not ended are in the indexes `living` and `online`, so ended ones do not slow them down.
"""

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ...constants import TokenStatus
from ...models import Ban, Session, SessionRef, Subject
from .database import transaction

__all__ = [
    "ALIVE",
    "OF_SUBJECT",
    "SessionRow",
    "bans_of",
    "create_tables",
    "delete_expired",
    "end_sessions",
    "find_rows",
    "lookup_answer",
    "select_rows",
]

_REMEMBERED = 30 * 24 * 3_600_000  # milliseconds; how long an ended session keeps its row at most

_COLUMNS = {
    "nonce": "TEXT PRIMARY KEY",
    "sku": "TEXT NOT NULL",
    "user_id": "TEXT NOT NULL",
    "issued_at": "INTEGER NOT NULL",
    "expires_at": "INTEGER NOT NULL",  # of an ended session: when its row goes
    "sealed_key": "TEXT",
    "generation": "INTEGER NOT NULL DEFAULT 0",
    "grace_until": "INTEGER NOT NULL DEFAULT 0",  # for the previous generation
    "device": "TEXT",
    "device_kind": "TEXT",
    "absolute_end": "INTEGER",
    "last_seen": "INTEGER",
    "online_since": "INTEGER NOT NULL DEFAULT 0",  # the same in all live sessions of a subject
    "ended": "INTEGER",  # its TokenStatus; NULL if it has not ended
}
_TABLES = (
    "CREATE TABLE IF NOT EXISTS mpauthx_session"
    f" ({', '.join(' '.join(column) for column in _COLUMNS.items())}) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS mpauthx_ban (sku TEXT NOT NULL, user_id TEXT NOT NULL,"
    " reason TEXT NOT NULL, banned_at INTEGER NOT NULL, until INTEGER,"
    " PRIMARY KEY (sku, user_id)) WITHOUT ROWID",
)
_INDEXES = (
    "CREATE INDEX IF NOT EXISTS mpauthx_session_expires_at ON mpauthx_session (expires_at)",
    "CREATE INDEX IF NOT EXISTS mpauthx_session_living ON mpauthx_session"
    " (sku, user_id, issued_at) WHERE ended IS NULL",
    "CREATE INDEX IF NOT EXISTS mpauthx_session_dead ON mpauthx_session"
    " (sku, user_id) WHERE ended IS NOT NULL",
    "CREATE INDEX IF NOT EXISTS mpauthx_session_online ON mpauthx_session"
    " (sku, online_since, user_id, expires_at, ended) WHERE ended IS NULL",  # covers the queries
    "CREATE INDEX IF NOT EXISTS mpauthx_ban_until ON mpauthx_ban (until)",
)

ALIVE = "ended IS NULL AND expires_at > :now"
OF_SUBJECT = f"sku = :sku AND user_id = :user_id AND {ALIVE}"


class SessionRow(NamedTuple):
    """A row of mpauthx_session, without the columns that only SQL uses; begins as a Session."""

    sku: str
    user_id: str
    nonce: str
    generation: int
    issued_at: int
    expires_at: int
    device: str | None
    device_kind: str | None
    last_seen: int | None
    absolute_end: int | None
    grace_until: int
    ended: int | None

    def session(self) -> Session:
        return Session(SessionRef(*self[:4]), *self[4:9])

    def renewed_end(self, now: int, ttl: int, absolute_ttl: int | None) -> int:
        """When the session ends if it is renewed now, in Unix milliseconds."""
        absolute_end = self.absolute_end
        if absolute_end is None and absolute_ttl is not None:
            absolute_end = max(self.issued_at + absolute_ttl, self.expires_at)
        return now + ttl if absolute_end is None else min(now + ttl, absolute_end)

    def is_in_grace(self, ref: SessionRef, now: int) -> bool:
        """Whether a ref names the previous generation, within its grace."""
        return ref.generation == self.generation - 1 and now < self.grace_until


_ROW = ", ".join(SessionRow._fields)


def create_tables(cursor: sqlite3.Cursor) -> None:
    """Create missing tables and indexes; add missing columns to an older table of sessions."""
    for statement in _TABLES:
        cursor.execute(statement)
    if _missing_columns(cursor):
        with transaction(cursor):
            missing = _missing_columns(cursor)  # another process may have added them
            for name in missing:
                cursor.execute(f"ALTER TABLE mpauthx_session ADD COLUMN {name} {_COLUMNS[name]}")
            if "online_since" in missing:
                cursor.execute(
                    "UPDATE mpauthx_session SET online_since = (SELECT min(issued_at)"
                    " FROM mpauthx_session AS other WHERE other.sku = mpauthx_session.sku"
                    " AND other.user_id = mpauthx_session.user_id)"
                )
            cursor.execute("DROP INDEX IF EXISTS mpauthx_session_subject")
    for statement in _INDEXES:
        cursor.execute(statement)


def _missing_columns(cursor: sqlite3.Cursor) -> list[str]:
    names = cursor.execute("SELECT name FROM pragma_table_info('mpauthx_session')").fetchall()
    return [name for name in _COLUMNS if (name,) not in names]


def delete_expired(cursor: sqlite3.Cursor, now: int, limit: int) -> None:
    """Delete at most `limit` sessions and `limit` bans that are over."""
    cursor.execute(
        "DELETE FROM mpauthx_session WHERE nonce IN (SELECT nonce FROM mpauthx_session"
        " WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)",
        (now, limit),
    )
    cursor.execute(
        "DELETE FROM mpauthx_ban WHERE (sku, user_id) IN (SELECT sku, user_id FROM mpauthx_ban"
        " WHERE until <= ? ORDER BY until LIMIT ?)",
        (now, limit),
    )


def end_sessions(
    cursor: sqlite3.Cursor, status: TokenStatus, condition: str, values: Mapping[str, object]
) -> list[SessionRef]:
    """End the live sessions that meet a condition in SQL; returns them, oldest first.

    `values` are those of the condition, and `now` in Unix milliseconds.
    """
    rows = cursor.execute(
        "UPDATE mpauthx_session SET ended = :status, sealed_key = NULL,"  # noqa: S608
        f" expires_at = min(expires_at, :now + :remembered) WHERE {condition} AND {ALIVE}"
        " RETURNING issued_at, sku, user_id, nonce, generation",
        {**values, "status": int(status), "remembered": _REMEMBERED},
    ).fetchall()
    return [SessionRef(*ref) for _, *ref in sorted(rows)]


def find_rows(
    cursor: sqlite3.Cursor, refs: Iterable[SessionRef], now: int
) -> dict[str, SessionRow]:
    """Read the rows with the nonces of some refs, by nonce; ended sessions too."""
    rows = select_rows(
        cursor,
        "nonce IN (SELECT value FROM json_each(:nonces)) AND expires_at > :now",
        {"nonces": json.dumps([ref.nonce for ref in refs]), "now": now},
    )
    return {row.nonce: row for row in rows}


def lookup_answer(row: SessionRow | None, ref: SessionRef) -> int | None:
    """What `lookup` answers for a ref, given the row with its nonce."""
    if row is None or row[:3] != ref[:3] or ref.generation > row.generation:
        return None
    if row.ended is not None:
        return row.ended  # before `rotated`, because it says more
    return row.expires_at if ref.generation == row.generation else TokenStatus.rotated


def select_rows(
    cursor: sqlite3.Cursor, condition: str, values: Mapping[str, object]
) -> Sequence[SessionRow]:
    """Read the rows that meet a condition in SQL."""
    rows = cursor.execute(f"SELECT {_ROW} FROM mpauthx_session WHERE {condition}", values)  # noqa: S608
    return [_checked(SessionRow._make(row)) for row in rows.fetchall()]


def _checked(row: SessionRow) -> SessionRow:
    """Check the numbers of a row, which are text or NULL in a damaged file."""
    required = row.generation, row.issued_at, row.expires_at, row.grace_until
    optional = row.last_seen, row.absolute_end, row.ended
    numbers = (*required, *(number for number in optional if number is not None))
    if any(type(number) is not int for number in numbers):
        raise ValueError("a session's row has text where a number belongs")
    return row


def bans_of(cursor: sqlite3.Cursor, subjects: Sequence[Subject], now: int) -> list[Ban | None]:
    """Read the bans of subjects; None for a subject that is not banned now."""
    rows = cursor.execute(
        "SELECT sku, user_id, reason, banned_at, until FROM mpauthx_ban WHERE (sku, user_id) IN"
        " (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?))"
        " AND (until IS NULL OR until > ?)",
        (json.dumps(subjects), now),
    ).fetchall()
    found = {Subject(sku, user_id): Ban(user_id, *ban) for sku, user_id, *ban in rows}
    return [found.get(subject) for subject in subjects]
