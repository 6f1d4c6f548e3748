"""SqliteTokenStore: keeps sessions in a SQLite file, for one machine and for bots."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from pathlib import Path
from sqlite3 import Cursor
from typing import TypeAlias

from ...constants import TokenStatus
from ...models import Ban, NewSession, OnlinePage, Session, SessionRef, Subject
from ...store_errors import raises_store_errors
from ..online_cursor import OnlineCursor
from .database import Database, transaction
from .key_value import SqliteKeyValueStore
from .login_policy import begin_session
from .session_tables import (
    ALIVE,
    OF_SUBJECT,
    SessionRow,
    bans_of,
    create_tables,
    delete_expired,
    end_sessions,
    find_rows,
    lookup_answer,
    select_rows,
)
from .store import SqliteStore

__all__ = ["SqliteTokenStore"]

_Refs: TypeAlias = Sequence[SessionRef]

_ABOVE_ALL = OnlineCursor(2**62, "")
_ENDS = (
    "SELECT sku, user_id, nonce, generation, expires_at FROM mpauthx_session"
    " WHERE nonce IN (SELECT value FROM json_each(?)) AND expires_at > ? AND ended IS NULL"
)
_SEALED_KEYS = (
    # sqlite3's exception quotes text that is not UTF-8, so the key is read as a blob.
    "SELECT sku, user_id, nonce, generation, CAST(sealed_key AS BLOB) FROM mpauthx_session"  # noqa: S608
    f" WHERE nonce IN (SELECT value FROM json_each(:nonces)) AND {ALIVE}"
)
# In this index the rows of a user are adjacent, and those of a sku in the order of the pages.
_ONLINE = (
    "SELECT DISTINCT online_since, user_id FROM mpauthx_session"  # noqa: S608
    f" INDEXED BY mpauthx_session_online WHERE sku = :sku AND {ALIVE}"
)
_RENEW = (
    "UPDATE mpauthx_session SET generation = :generation, expires_at = :expires_at,"
    " last_seen = :last_seen, grace_until = :grace_until WHERE nonce = :nonce"
)
_ANY_OF_SUBJECT = "sku = :sku AND user_id = :user_id"


@raises_store_errors
class SqliteTokenStore(SqliteStore):
    """Keeps sessions in a SQLite database, in tables named mpauthx_session and mpauthx_ban.

    Args:
        database: the file's path, or an open aiosqlite connection that nothing else writes
            through; the connection stays open.
        busy_timeout: how long to wait for a file that another process has locked, in seconds.
        clock: returns the time in Unix seconds; called in the database's thread.

    Attributes:
        records: keeps other records in the same file, and is closed with this store; None for a
            ready-made connection.
    """

    records: SqliteKeyValueStore | None

    def __init__(
        self,
        database: Database,
        *,
        busy_timeout: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(database, busy_timeout=busy_timeout, clock=clock)
        self.records = None
        if isinstance(database, (str, Path)):
            self.records = SqliteKeyValueStore(database, busy_timeout=busy_timeout, clock=clock)

    async def close(self) -> None:
        """Close the database if it was opened here; may be called again."""
        if self.records is not None:
            await self.records.close()
        await super().close()

    async def issue(self, sessions: Sequence[NewSession]) -> Sequence[Session | Ban]:
        """Begin sessions, all of them in one transaction."""

        def issue(cursor: Cursor, some: Sequence[NewSession], now: int) -> list[Session | Ban]:
            # More than the sessions that begin, so that expired rows do not pile up.
            delete_expired(cursor, now, 2 * len(some))
            return [begin_session(cursor, new, now) for new in some]

        return await self._write_each(sessions, issue)

    async def lookup(self, refs: Sequence[SessionRef]) -> Sequence[int | None]:
        """Tell when sessions end, with one query."""

        def lookup(cursor: Cursor, some: _Refs, now: int) -> list[int | None]:
            # Most are alive, and their end is enough: whole rows take nearly twice as long, and a
            # column that is damaged would fail them.
            nonces = json.dumps([ref.nonce for ref in some])
            rows = cursor.execute(_ENDS, (nonces, now)).fetchall()
            ends = {tuple(ref): end for *ref, end in rows}
            answers = [ends.get(ref) for ref in some]
            if all(type(end) is int for end in answers):
                return answers
            found = find_rows(cursor, some, now)
            return [lookup_answer(found.get(ref.nonce), ref) for ref in some]

        return await self._read_each(refs, lookup)

    async def read(self, refs: Sequence[SessionRef]) -> Sequence[Session | None]:
        """Read live sessions, with one query."""

        def read(cursor: Cursor, some: _Refs, now: int) -> list[Session | None]:
            rows = find_rows(cursor, some, now)
            return [
                rows[ref.nonce].session() if _is_alive(rows.get(ref.nonce), ref) else None
                for ref in some
            ]

        return await self._read_each(refs, read)

    async def revoke(self, refs: Sequence[SessionRef]) -> Sequence[bool]:
        """End sessions, all of them in one transaction."""
        return await self._write_each(
            refs, lambda cursor, some, now: _end(cursor, TokenStatus.revoked, some, now)
        )

    async def sessions(self, subject: Subject) -> Sequence[Session]:
        """List the live sessions of a subject, newest first."""
        condition = f"{OF_SUBJECT} ORDER BY issued_at DESC"
        rows = await self._read(
            lambda cursor, now: select_rows(cursor, condition, subject._asdict() | {"now": now})
        )
        return [row.session() for row in rows]

    async def revoke_subject(self, subject: Subject, *, spared: str | None = None) -> int:
        """End all sessions of a subject but one, in one transaction; returns how many."""
        condition = f"{_ANY_OF_SUBJECT} AND nonce IS NOT :spared"
        values = {**subject._asdict(), "spared": spared}
        return await self._write(
            lambda cursor, now: len(
                end_sessions(cursor, TokenStatus.revoked, condition, {**values, "now": now})
            )
        )

    async def forget_subject(self, subject: Subject) -> int:
        """Delete all sessions of a subject, in one transaction; returns how many were alive."""
        # Two statements, because ended and other sessions are in separate indexes.
        delete = f"DELETE FROM mpauthx_session WHERE {_ANY_OF_SUBJECT} AND ended"  # noqa: S608

        def forget(cursor: Cursor, now: int) -> int:
            values = {**subject._asdict(), "now": now}
            cursor.execute(f"{delete} IS NOT NULL", values)
            rows = cursor.execute(f"{delete} IS NULL RETURNING expires_at > :now", values)
            return sum(was_alive for (was_alive,) in rows.fetchall())

        return await self._write(forget)

    async def rotate(
        self, refs: Sequence[SessionRef], *, ttl: int, grace: int, absolute_ttl: int | None = None
    ) -> Sequence[Session | TokenStatus]:
        """Replace the generation of each by the next, all of them in one transaction."""

        def rotate(cursor: Cursor, some: _Refs, now: int) -> list[Session | TokenStatus]:
            rows = find_rows(cursor, some, now)
            answers: dict[SessionRef, Session | TokenStatus] = {}
            for ref in dict.fromkeys(
                some
            ):  # a repeated ref gets the same answer, even without grace
                row = rows.get(ref.nonce)
                answer = lookup_answer(row, ref)
                if row is None or answer is None:
                    answers[ref] = TokenStatus.unknown
                elif answer > 0:
                    row = row._replace(generation=row.generation + 1, grace_until=now + grace)
                    end = row.renewed_end(now, ttl, absolute_ttl)
                    rows[ref.nonce] = row = _renew(cursor, row, now, end)
                    answers[ref] = row.session()
                elif answer == TokenStatus.rotated and row.is_in_grace(ref, now):
                    answers[ref] = row.session()
                else:
                    answers[ref] = TokenStatus(answer)
            return [answers[ref] for ref in some]

        return await self._write_each(refs, rotate)

    async def end_reused(self, refs: Sequence[SessionRef]) -> Sequence[bool]:
        """End the sessions whose earlier tokens were used, all of them in one transaction."""

        def end_reused(cursor: Cursor, some: _Refs, now: int) -> list[bool]:
            rows = find_rows(cursor, some, now)
            is_reused = [
                lookup_answer(rows.get(ref.nonce), ref) == TokenStatus.rotated
                and not rows[ref.nonce].is_in_grace(ref, now)
                for ref in some
            ]
            reused = list(compress(some, is_reused))
            ended = iter(_end(cursor, TokenStatus.reused, reused, now))
            return [each and next(ended) for each in is_reused]

        return await self._write_each(refs, end_reused)

    async def renew(
        self, refs: Sequence[SessionRef], *, ttl: int, absolute_ttl: int | None = None
    ) -> Sequence[int | None]:
        """Restart the lives of sessions; one query, and a transaction only if one is due."""

        def renew(cursor: Cursor, some: _Refs) -> list[int | None]:
            now = self._now()
            rows = find_rows(cursor, some, now)
            if _due(rows, some, now, ttl, absolute_ttl):
                with transaction(cursor):
                    now = self._now()
                    rows = find_rows(cursor, some, now)  # another process may have changed them
                    for nonce, end in _due(rows, some, now, ttl, absolute_ttl).items():
                        rows[nonce] = _renew(cursor, rows[nonce], now, end)
            return [lookup_answer(rows.get(ref.nonce), ref) for ref in some]

        return await self._do_each(refs, renew)

    async def ban(self, subject: Subject, *, reason: str, ttl: int | None) -> int:
        """Ban a subject and end all its sessions, in one transaction."""

        def ban(cursor: Cursor, now: int) -> int:
            cursor.execute(
                "INSERT OR REPLACE INTO mpauthx_ban (sku, user_id, reason, banned_at, until)"
                " VALUES (?, ?, ?, ?, ?)",
                (*subject, reason, now, None if ttl is None else now + ttl),
            )
            values = {**subject._asdict(), "now": now}
            return len(end_sessions(cursor, TokenStatus.banned, _ANY_OF_SUBJECT, values))

        return await self._write(ban)

    async def unban(self, subject: Subject) -> bool:
        """Let a subject log in again; False if it was not banned."""

        def unban(cursor: Cursor, now: int) -> bool:
            was_banned = bans_of(cursor, [subject], now) != [None]
            cursor.execute("DELETE FROM mpauthx_ban WHERE sku = ? AND user_id = ?", subject)
            return was_banned

        return await self._write(unban)

    async def bans(self, subjects: Sequence[Subject]) -> Sequence[Ban | None]:
        """Read the bans of subjects, with one query."""
        return await self._read_each(subjects, bans_of)

    async def online(self, sku: str, *, cursor: str | None, limit: int) -> OnlinePage:
        """Page through the users with a live session, with one query."""
        after = _ABOVE_ALL if cursor is None else OnlineCursor.parse(cursor)
        values = {"sku": sku, **after._asdict(), "limit": limit + 1}
        rows = await self._read(
            lambda cursor, now: cursor.execute(
                f"{_ONLINE} AND (online_since, user_id) < (:position, :user_id)"
                " ORDER BY online_since DESC, user_id DESC LIMIT :limit",
                {**values, "now": now},
            ).fetchall()
        )
        page = [OnlineCursor(*row) for row in rows[:limit]]
        return OnlinePage(
            [user.user_id for user in page], page[-1].text() if len(rows) > limit else None
        )

    async def online_count(self, sku: str) -> int:
        """Count the users with a live session, in an index of the sku's live sessions."""
        sql = f"SELECT count(*) FROM ({_ONLINE})"  # noqa: S608
        (count,) = await self._read(
            lambda cursor, now: cursor.execute(sql, {"sku": sku, "now": now}).fetchone()
        )
        return int(count)

    async def sealed_keys(self, refs: Sequence[SessionRef]) -> Sequence[str | None]:
        """Read the sealed session keys of live sessions, with one query."""

        def sealed_keys(cursor: Cursor, some: _Refs, now: int) -> list[str | None]:
            nonces = json.dumps([ref.nonce for ref in some])
            rows = cursor.execute(_SEALED_KEYS, {"nonces": nonces, "now": now}).fetchall()
            found = {
                SessionRef(*ref): sealed_key.decode(errors="replace")
                for *ref, sealed_key in rows
                if sealed_key is not None
            }
            return [found.get(ref) for ref in some]

        return await self._read_each(refs, sealed_keys)

    async def replace_sealed_key(self, ref: SessionRef, sealed_key: str) -> bool:
        """Replace a sealed session key; False if the session is no longer alive."""
        sql = (
            "UPDATE mpauthx_session SET sealed_key = :sealed_key"  # noqa: S608
            f" WHERE nonce = :nonce AND {OF_SUBJECT}"
        )
        values = {**ref._asdict(), "sealed_key": sealed_key}
        return await self._write(
            lambda cursor, now: cursor.execute(sql, {**values, "now": now}).rowcount > 0
        )

    def _prepare(self, cursor: Cursor) -> None:
        create_tables(cursor)


def _is_alive(row: SessionRow | None, ref: SessionRef) -> bool:
    return (lookup_answer(row, ref) or 0) > 0


def _end(cursor: Cursor, status: TokenStatus, refs: _Refs, now: int) -> list[bool]:
    """End sessions; True for each that was alive, once if it is named twice."""
    condition = (
        "(sku, user_id, nonce) IN (SELECT json_extract(value, '$[0]'),"
        " json_extract(value, '$[1]'), json_extract(value, '$[2]') FROM json_each(:refs))"
    )
    values = {"refs": json.dumps(refs), "now": now}
    ended = {ref[:3] for ref in end_sessions(cursor, status, condition, values)}
    answers = []
    for ref in refs:
        answers.append(ref[:3] in ended)
        ended.discard(ref[:3])
    return answers


def _renew(cursor: Cursor, row: SessionRow, now: int, end: int) -> SessionRow:
    """Write a session's new end, and its generation."""
    row = row._replace(expires_at=end, last_seen=now)
    cursor.execute(_RENEW, row._asdict())
    return row


def _due(
    rows: Mapping[str, SessionRow], refs: _Refs, now: int, ttl: int, absolute_ttl: int | None
) -> dict[str, int]:
    """The new ends, by nonce, of live sessions of whose lives a tenth has passed."""
    ends = {}
    for ref in refs:
        row = rows.get(ref.nonce)
        if row is not None and _is_alive(row, ref) and 10 * (row.expires_at - now) < 9 * ttl:
            end = row.renewed_end(now, ttl, absolute_ttl)
            if end > row.expires_at:
                ends[ref.nonce] = end
    return ends
