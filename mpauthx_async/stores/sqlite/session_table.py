"""The tables of SqliteTokenStore, and what is done to them, with a cursor and inside a transaction.

A session that died keeps its row, to tell why, until it would have ended. What is alive has no
`ended`, and is in the two indexes of the living: neither the dead nor other skus slow it down.
"""

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ...constants import TokenStatus
from ...errors import StoreError
from ...models import Ban, NewSession, Session, SessionRef, Subject
from .database import transaction

__all__ = [
    "ALIVE",
    "SessionRow",
    "bans_of",
    "begin",
    "clear",
    "create_tables",
    "end_sessions",
    "find",
    "forget",
    "select_rows",
]

_REMEMBERED = 30 * 24 * 3_600_000  # milliseconds for which a session that died is remembered

_COLUMNS = {
    "nonce": "TEXT PRIMARY KEY",
    "sku": "TEXT NOT NULL",
    "user_id": "TEXT NOT NULL",
    "issued_at": "INTEGER NOT NULL",
    "expires_at": "INTEGER NOT NULL",  # of one that died: until when it is remembered
    "sealed_key": "TEXT",
    "generation": "INTEGER NOT NULL DEFAULT 0",
    "grace_until": "INTEGER NOT NULL DEFAULT 0",  # for the generation before
    "device": "TEXT",
    "device_kind": "TEXT",
    "absolute_end": "INTEGER",
    "last_seen": "INTEGER",
    "online_since": "INTEGER NOT NULL DEFAULT 0",  # the same in all that are alive of a subject
    "ended": "INTEGER",  # the TokenStatus of one that died
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
    " (sku, online_since, user_id, expires_at, ended) WHERE ended IS NULL",  # all that is asked
    "CREATE INDEX IF NOT EXISTS mpauthx_ban_until ON mpauthx_ban (until)",
)

ALIVE = "ended IS NULL AND expires_at > :now"
_OF_SUBJECT = f"sku = :sku AND user_id = :user_id AND {ALIVE}"
_NEWEST = f"FROM mpauthx_session WHERE {_OF_SUBJECT} ORDER BY issued_at DESC LIMIT 1"
_BANNED = (
    "FROM mpauthx_ban WHERE sku = :sku AND user_id = :user_id AND (until IS NULL OR until > :now)"
)


class SessionRow(NamedTuple):
    """A row of the table of sessions, but for what only SQL needs."""

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

    @property
    def ref(self) -> SessionRef:
        return SessionRef(self.sku, self.user_id, self.nonce, self.generation)

    def session(self) -> Session:
        return Session(
            self.ref,
            self.issued_at,
            self.expires_at,
            self.device,
            self.device_kind,
            self.last_seen,
        )

    def answer(self, ref: SessionRef) -> int | None:
        """What `lookup` says of a ref that names this session; why it died says more than all."""
        if ref.generation > self.generation:
            return None
        if self.ended is not None:
            return self.ended
        return self.expires_at if ref.generation == self.generation else TokenStatus.rotated

    def end_of_life(self, now: int, ttl: int, absolute_ttl: int | None = None) -> int:
        """When it ends if its life begins anew, in Unix milliseconds."""
        absolute_end = self.absolute_end
        if absolute_end is None and absolute_ttl is not None:
            absolute_end = max(self.issued_at + absolute_ttl, self.expires_at)
        return now + ttl if absolute_end is None else min(now + ttl, absolute_end)

    def is_repeated_by(self, ref: SessionRef, now: int) -> bool:
        """Whether a ref is of the generation before, within its grace."""
        return ref.generation == self.generation - 1 and now < self.grace_until


_ROW = ", ".join(SessionRow._fields)
_INSERT = (
    "INSERT OR IGNORE INTO mpauthx_session (nonce, sku, user_id, issued_at, expires_at,"  # noqa: S608
    " sealed_key, device, device_kind, absolute_end, online_since)"
    # Later than the newest, so that the order of sessions is theirs in a millisecond as well.
    " SELECT :nonce, :sku, :user_id, max(:now, coalesce(newest.issued_at + 1, :now)), :expires_at,"
    " :sealed_key, :device, :device_kind, :absolute_end, coalesce(newest.online_since, :now)"
    f" FROM (SELECT 1) LEFT JOIN (SELECT issued_at, online_since {_NEWEST}) AS newest"
    f" WHERE NOT EXISTS (SELECT 1 {_BANNED}) RETURNING issued_at"
)
_SHARE = (
    "UPDATE mpauthx_session SET expires_at = min(:now + :ttl, coalesce(absolute_end, :now + :ttl)),"  # noqa: S608
    " last_seen = :now"
    f" WHERE nonce = (SELECT nonce {_NEWEST}) RETURNING {_ROW}"
)
_OF_KIND = (
    "sku = :sku AND user_id = :user_id AND nonce <> :nonce"
    " AND coalesce(device_kind, device, '') = :kind"
)
_BEYOND_MOST = (
    f"nonce IN (SELECT nonce FROM mpauthx_session WHERE {_OF_SUBJECT}"  # noqa: S608
    " ORDER BY issued_at DESC LIMIT -1 OFFSET :most)"
)


def create_tables(cursor: sqlite3.Cursor) -> None:
    """Create what is missing; a table of sessions of an earlier form gets its new columns."""
    for statement in _TABLES:
        cursor.execute(statement)
    if _missing_columns(cursor):
        with transaction(cursor):
            missing = _missing_columns(cursor)  # another process may have been faster
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


def clear(cursor: sqlite3.Cursor, now: int, most: int) -> None:
    """Delete what is over: so many sessions, and so many bans."""
    cursor.execute(
        "DELETE FROM mpauthx_session WHERE nonce IN (SELECT nonce FROM mpauthx_session"
        " WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)",
        (now, most),
    )
    cursor.execute(
        "DELETE FROM mpauthx_ban WHERE (sku, user_id) IN (SELECT sku, user_id FROM mpauthx_ban"
        " WHERE until <= ? ORDER BY until LIMIT ?)",
        (now, most),
    )


def begin(cursor: sqlite3.Cursor, new: NewSession, now: int) -> Session | Ban:
    """Begin a session under its policy."""
    absolute_end = None if new.absolute_ttl is None else now + new.absolute_ttl
    end = now + new.ttl if absolute_end is None else min(now + new.ttl, absolute_end)
    values = _named(new.ref.subject, now) | {
        "nonce": new.ref.nonce,
        "expires_at": end,
        "ttl": new.ttl,
        "sealed_key": new.sealed_key,
        "device": new.device,
        "device_kind": new.device_kind,
        "absolute_end": absolute_end,
    }
    if new.policy.shared_token:
        answer = _refused(cursor, new, now) or _shared(cursor, values)
        if answer is not None:
            return answer
    rows = cursor.execute(_INSERT, values).fetchall()
    if not rows:
        answer = _refused(cursor, new, now)
        if answer is None:
            raise StoreError("The session's nonce is that of another user's; log in again.")
        return answer
    ((issued_at,),) = rows
    replaced = _replaced(cursor, new, values)
    return Session(new.ref, issued_at, end, new.device, new.device_kind, replaced=tuple(replaced))


def _refused(cursor: sqlite3.Cursor, new: NewSession, now: int) -> Session | Ban | None:
    """What forbids to begin a session: a ban, or the session, dead or alive, as it is repeated."""
    (ban,) = bans_of(cursor, [new.ref.subject], now)
    if ban is not None:
        return ban
    row = find(cursor, [new.ref], now=0).get(new.ref[:3])
    return None if row is None else row.session()


def _shared(cursor: sqlite3.Cursor, values: Mapping[str, object]) -> Session | None:
    rows = cursor.execute(_SHARE, values).fetchall()
    return SessionRow._make(rows[0]).session() if rows else None


def _replaced(
    cursor: sqlite3.Cursor, new: NewSession, values: dict[str, object]
) -> list[SessionRef]:
    """End what a session that has just begun replaces, and tell what that was."""
    policy, replaced = new.policy, list[SessionRef]()
    if policy.one_per_kind:
        kind = new.device if new.device_kind is None else new.device_kind
        of_kind = values | {"kind": kind or ""}
        replaced += end_sessions(cursor, TokenStatus.replaced, _OF_KIND, of_kind)
    beyond = values | {"most": policy.max_sessions}
    return replaced + end_sessions(cursor, TokenStatus.replaced, _BEYOND_MOST, beyond)


def end_sessions(
    cursor: sqlite3.Cursor, status: TokenStatus, which: str, values: Mapping[str, object]
) -> list[SessionRef]:
    """End those of some sessions that are alive.

    Args:
        cursor: of the database.
        status: what has become of them.
        which: a condition in SQL.
        values: what to bind to it, and `now` in Unix milliseconds.

    Returns:
        The sessions that this ended, oldest first.
    """
    rows = cursor.execute(
        "UPDATE mpauthx_session SET ended = :status, sealed_key = NULL,"  # noqa: S608
        f" expires_at = min(expires_at, :now + :remembered) WHERE {which} AND {ALIVE}"
        " RETURNING issued_at, sku, user_id, nonce, generation",
        {**values, "status": int(status), "remembered": _REMEMBERED},
    ).fetchall()
    return [SessionRef(*ref) for _, *ref in sorted(rows)]


def forget(cursor: sqlite3.Cursor, subject: Subject, now: int) -> int:
    """Delete all sessions of a subject, dead ones too; returns how many were alive."""
    which = "sku = :sku AND user_id = :user_id"
    values = _named(subject, now)
    cursor.execute(f"DELETE FROM mpauthx_session WHERE {which} AND ended IS NOT NULL", values)  # noqa: S608
    rows = cursor.execute(
        f"DELETE FROM mpauthx_session WHERE {which} AND ended IS NULL"  # noqa: S608
        " RETURNING expires_at > :now",
        values,
    )
    return sum(is_alive for (is_alive,) in rows.fetchall())


def find(
    cursor: sqlite3.Cursor, refs: Iterable[SessionRef], *, now: int
) -> dict[tuple[object, ...], SessionRow]:
    """Find the rows of sessions, of whatever generation, that are not over; by `ref[:3]`."""
    nonces = json.dumps([ref.nonce for ref in refs])
    rows = select_rows(
        cursor,
        "nonce IN (SELECT value FROM json_each(:nonces)) AND expires_at > :now",
        {"nonces": nonces, "now": now},
    )
    return {row[:3]: row for row in rows}


def select_rows(
    cursor: sqlite3.Cursor, which: str, values: Mapping[str, object]
) -> Sequence[SessionRow]:
    """Read the rows for which a condition in SQL holds, of dead sessions too."""
    rows = cursor.execute(f"SELECT {_ROW} FROM mpauthx_session WHERE {which}", values)  # noqa: S608
    return [_checked(SessionRow._make(row)) for row in rows.fetchall()]


def _checked(row: SessionRow) -> SessionRow:
    """A row, for a damaged file may have texts in place of numbers."""
    numbers = row.generation, row.issued_at, row.expires_at, row.grace_until
    optional = row.last_seen, row.absolute_end, row.ended
    if {type(number) for number in numbers} == {int} and all(
        number is None or type(number) is int for number in optional
    ):
        return row
    raise ValueError("a session's row has a text where a number belongs")


def bans_of(cursor: sqlite3.Cursor, subjects: Sequence[Subject], now: int) -> list[Ban | None]:
    """Read the bans of subjects; None where there is none, or it is over."""
    rows = cursor.execute(
        "SELECT sku, user_id, reason, banned_at, until FROM mpauthx_ban WHERE (sku, user_id) IN"
        " (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?))"
        " AND (until IS NULL OR until > ?)",
        (json.dumps(subjects), now),
    ).fetchall()
    found = {Subject(sku, user_id): Ban(user_id, *ban) for sku, user_id, *ban in rows}
    return [found.get(subject) for subject in subjects]


def _named(subject: Subject, now: int) -> dict[str, object]:
    return {"sku": subject.sku, "user_id": subject.user_id, "now": now}
