"""SqliteTokenStore: keeps sessions in a SQLite file, for one machine and for bots."""

import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Self, TypeVar

from ...constants import TokenStatus
from ...models import Ban, NewSession, OnlinePage, Session, SessionRef, Subject
from ...store_boundary import raises_store_errors
from ..online_cursor import OnlineCursor
from .bad_rows import read_each, write_each
from .database import Database, SqliteDatabase, transaction
from .session_table import (
    ALIVE,
    SessionRow,
    bans_of,
    begin,
    clear,
    create_tables,
    end_sessions,
    find,
    forget,
    select_rows,
)

__all__ = ["SqliteTokenStore"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_BUSY_TIMEOUT = 5.0  # seconds
_ABOVE_ALL = OnlineCursor(2**62, "")
_LIVING = (
    "SELECT sku, user_id, nonce, generation, expires_at FROM mpauthx_session"
    " WHERE nonce IN (SELECT value FROM json_each(?)) AND expires_at > ? AND ended IS NULL"
)
_SEALED_KEYS = (
    # When SQLite's text is no UTF-8, its exception quotes it: as a blob it is only damaged.
    "SELECT sku, user_id, nonce, generation, CAST(sealed_key AS BLOB) FROM mpauthx_session"  # noqa: S608
    f" WHERE nonce IN (SELECT value FROM json_each(:nonces)) AND {ALIVE}"
)
# The rows of a user stand side by side in this index, and those of a sku in the order of the pages.
_ONLINE = (
    "SELECT DISTINCT online_since, user_id FROM mpauthx_session"  # noqa: S608
    f" INDEXED BY mpauthx_session_online WHERE sku = :sku AND {ALIVE}"
)


@raises_store_errors
class SqliteTokenStore:
    """Keeps sessions in a SQLite database, in tables named mpauthx_session and mpauthx_ban.

    Args:
        database: the file's path, or an open aiosqlite connection that nothing else writes
            through; the connection stays open.
        busy_timeout: how long to wait for a file that another process has locked, in seconds.
        clock: tells the time in Unix seconds; called in the database's thread.
    """

    def __init__(
        self,
        database: Database,
        *,
        busy_timeout: float = _BUSY_TIMEOUT,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = SqliteDatabase(database, busy_timeout, create_tables)
        self._clock = clock

    async def issue(self, sessions: Sequence[NewSession]) -> Sequence[Session | Ban]:
        """Begin sessions, all of them in one transaction."""

        def issue(
            cursor: sqlite3.Cursor, some: Sequence[NewSession], now: int
        ) -> list[Session | Ban]:
            # Each login clears the remains of up to two others: the dead never pile up.
            clear(cursor, now, 2 * len(some))
            return [begin(cursor, new, now) for new in some]

        return await self._write_each(sessions, issue)

    async def lookup(self, refs: Sequence[SessionRef]) -> Sequence[int | None]:
        """Tell when sessions end, with one query."""

        def lookup(
            cursor: sqlite3.Cursor, some: Sequence[SessionRef], now: int
        ) -> list[int | None]:
            # Most are alive, and their end is enough: full rows take half as long again.
            nonces = json.dumps([ref.nonce for ref in some])
            rows = cursor.execute(_LIVING, (nonces, now)).fetchall()
            ends = {tuple(ref): end for *ref, end in rows}
            answers = [ends.get(ref) for ref in some]
            if all(type(end) is int for end in answers):
                return answers
            return _answers(some, find(cursor, some, now=now))  # a row that is damaged raises

        return await self._read_each(refs, lookup)

    async def read(self, refs: Sequence[SessionRef]) -> Sequence[Session | None]:
        """Read sessions that are alive, with one query."""

        def read(
            cursor: sqlite3.Cursor, some: Sequence[SessionRef], now: int
        ) -> list[Session | None]:
            rows = find(cursor, some, now=now)
            answers = zip(some, _answers(some, rows), strict=True)
            return [
                rows[ref[:3]].session() if answer is not None and answer > 0 else None
                for ref, answer in answers
            ]

        return await self._read_each(refs, read)

    async def revoke(self, refs: Sequence[SessionRef]) -> Sequence[bool]:
        """End sessions, all of them in one transaction."""
        return await self._write_each(
            refs, lambda cursor, some, now: _end(cursor, TokenStatus.revoked, some, now=now)
        )

    async def sessions(self, subject: Subject) -> Sequence[Session]:
        """List the sessions of a subject that are alive, newest first."""

        def sessions(cursor: sqlite3.Cursor, now: int) -> list[Session]:
            rows = select_rows(
                cursor,
                f"sku = :sku AND user_id = :user_id AND {ALIVE} ORDER BY issued_at DESC",
                {**subject._asdict(), "now": now},
            )
            return [row.session() for row in rows]

        return await self._read(sessions)

    async def revoke_subject(self, subject: Subject, *, spared: str | None = None) -> int:
        """End all sessions of a subject but one, in one transaction; returns how many lived."""
        which = "sku = :sku AND user_id = :user_id AND nonce IS NOT :spared"
        values = {**subject._asdict(), "spared": spared}
        return await self._write(
            lambda cursor, now: len(
                end_sessions(cursor, TokenStatus.revoked, which, {**values, "now": now})
            )
        )

    async def forget_subject(self, subject: Subject) -> int:
        """Delete all sessions of a subject, in one transaction; returns how many were alive."""
        return await self._write(lambda cursor, now: forget(cursor, subject, now))

    async def rotate(
        self, refs: Sequence[SessionRef], *, ttl: int, grace: int, absolute_ttl: int | None = None
    ) -> Sequence[Session | TokenStatus]:
        """Put the next generation in the place of each, all of them in one transaction."""

        def rotate(
            cursor: sqlite3.Cursor, some: Sequence[SessionRef], now: int
        ) -> list[Session | TokenStatus]:
            rows = find(cursor, some, now=now)
            answers: dict[SessionRef, Session | TokenStatus] = {}
            for ref in some:
                if ref in answers:  # a repetition gets the same answer, were there no grace
                    continue
                row = rows.get(ref[:3])
                answer = None if row is None else row.answer(ref)
                if row is None or answer is None:
                    answers[ref] = TokenStatus.unknown
                elif answer > 0:
                    row = rows[ref[:3]] = _rotated(
                        cursor, row, now, row.end_of_life(now, ttl, absolute_ttl), grace
                    )
                    answers[ref] = row.session()
                elif row.ended is None and row.is_repeated_by(ref, now):
                    answers[ref] = row.session()
                else:
                    answers[ref] = TokenStatus(answer)
            return [answers[ref] for ref in some]

        return await self._write_each(refs, rotate)

    async def end_reused(self, refs: Sequence[SessionRef]) -> Sequence[bool]:
        """End the sessions whose earlier tokens were used, all of them in one transaction."""

        def end_reused(cursor: sqlite3.Cursor, some: Sequence[SessionRef], now: int) -> list[bool]:
            rows = find(cursor, some, now=now)
            reused = [
                row is not None
                and row.answer(ref) == TokenStatus.rotated
                and not row.is_repeated_by(ref, now)
                for ref in some
                for row in [rows.get(ref[:3])]
            ]
            ended = iter(
                _end(
                    cursor,
                    TokenStatus.reused,
                    [ref for ref, is_reused in zip(some, reused, strict=True) if is_reused],
                    now=now,
                )
            )
            return [is_reused and next(ended) for is_reused in reused]

        return await self._write_each(refs, end_reused)

    async def renew(
        self, refs: Sequence[SessionRef], *, ttl: int, absolute_ttl: int | None = None
    ) -> Sequence[int | None]:
        """Let lives count from now; one query, and a transaction only where one is written."""

        def renew(cursor: sqlite3.Cursor, some: Sequence[SessionRef]) -> list[int | None]:
            rows = find(cursor, some, now=self._now())
            if _due(some, rows, self._now(), ttl, absolute_ttl):
                with transaction(cursor):
                    now = self._now()
                    rows = find(cursor, some, now=now)  # others may have written meanwhile
                    for row in _due(some, rows, now, ttl, absolute_ttl):
                        end = row.end_of_life(now, ttl, absolute_ttl)
                        cursor.execute(
                            "UPDATE mpauthx_session SET expires_at = ?, last_seen = ?"
                            " WHERE nonce = ?",
                            (end, now, row.nonce),
                        )
                        rows[row[:3]] = row._replace(expires_at=end)
            return _answers(some, rows)

        return await self._database.run(
            lambda cursor: write_each(cursor, refs, lambda some: renew(cursor, some))
        )

    async def ban(self, subject: Subject, *, reason: str, ttl: int | None) -> int:
        """Ban a subject and end all its sessions, in one transaction."""

        def ban(cursor: sqlite3.Cursor, now: int) -> int:
            cursor.execute(
                "INSERT OR REPLACE INTO mpauthx_ban (sku, user_id, reason, banned_at, until)"
                " VALUES (?, ?, ?, ?, ?)",
                (*subject, reason, now, None if ttl is None else now + ttl),
            )
            which = "sku = :sku AND user_id = :user_id"
            values = {**subject._asdict(), "now": now}
            return len(end_sessions(cursor, TokenStatus.banned, which, values))

        return await self._write(ban)

    async def unban(self, subject: Subject) -> bool:
        """Let a subject log in again; False when it was not banned."""

        def unban(cursor: sqlite3.Cursor, now: int) -> bool:
            was_banned = bans_of(cursor, [subject], now) != [None]
            cursor.execute("DELETE FROM mpauthx_ban WHERE sku = ? AND user_id = ?", subject)
            return was_banned

        return await self._write(unban)

    async def bans(self, subjects: Sequence[Subject]) -> Sequence[Ban | None]:
        """Read the bans of subjects, with one query."""
        return await self._read_each(subjects, bans_of)

    async def online(self, sku: str, *, cursor: str | None, limit: int) -> OnlinePage:
        """Page through the users with a living session, with one query."""
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
        """Count the users with a living session, in the index of the sku's."""

        def count(cursor: sqlite3.Cursor, now: int) -> int:
            ((users,),) = cursor.execute(
                f"SELECT count(*) FROM ({_ONLINE})",  # noqa: S608
                {"sku": sku, "now": now},
            ).fetchall()
            return int(users)

        return await self._read(count)

    async def sealed_keys(self, refs: Sequence[SessionRef]) -> Sequence[str | None]:
        """Read the sealed session keys of sessions that are alive, with one query."""

        def sealed_keys(
            cursor: sqlite3.Cursor, some: Sequence[SessionRef], now: int
        ) -> list[str | None]:
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
        """Keep another sealed session key; False when the session is no longer alive."""
        values = {**ref._asdict(), "sealed_key": sealed_key}

        def replace_key(cursor: sqlite3.Cursor, now: int) -> bool:
            cursor.execute(
                "UPDATE mpauthx_session SET sealed_key = :sealed_key"  # noqa: S608
                f" WHERE sku = :sku AND user_id = :user_id AND nonce = :nonce AND {ALIVE}",
                {**values, "now": now},
            )
            return cursor.rowcount > 0

        return await self._write(replace_key)

    system = "SQLite"

    @property
    def longest_wait(self) -> float:
        """How long a call waits for it at most, in seconds: `busy_timeout` and one."""
        return self._database.longest_wait

    async def close(self) -> None:
        """Close the database if it was opened here; may be called again."""
        await self._database.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _read(self, work: Callable[[sqlite3.Cursor, int], Result]) -> Result:
        """Do work that reads, with a cursor and the time in Unix milliseconds."""
        return await self._database.read(lambda cursor: work(cursor, self._now()))

    async def _write(self, work: Callable[[sqlite3.Cursor, int], Result]) -> Result:
        """As `_read`, in one transaction; the time is when that began."""

        def write(cursor: sqlite3.Cursor) -> Result:
            with transaction(cursor):
                return work(cursor, self._now())

        return await self._database.run(write)

    async def _read_each(
        self,
        items: Sequence[Item],
        work: Callable[[sqlite3.Cursor, Sequence[Item], int], Sequence[Result]],
    ) -> Sequence[Result]:
        """As `_read`, for a batch: what cannot be read fails its own item."""
        return await self._read(
            lambda cursor, now: read_each(items, lambda some: work(cursor, some, now))
        )

    async def _write_each(
        self,
        items: Sequence[Item],
        work: Callable[[sqlite3.Cursor, Sequence[Item], int], Sequence[Result]],
    ) -> Sequence[Result]:
        """As `_write`, for a batch: what cannot be written fails its own item."""

        def write(cursor: sqlite3.Cursor, some: Sequence[Item]) -> Sequence[Result]:
            with transaction(cursor):
                return work(cursor, some, self._now())

        return await self._database.run(
            lambda cursor: write_each(cursor, items, lambda some: write(cursor, some))
        )

    def _now(self) -> int:
        return int(self._clock() * 1000)


def _answers(
    refs: Sequence[SessionRef], rows: dict[tuple[object, ...], SessionRow]
) -> list[int | None]:
    """What `lookup` says of each."""
    found = [rows.get(ref[:3]) for ref in refs]
    return [None if row is None else row.answer(ref) for ref, row in zip(refs, found, strict=True)]


def _end(
    cursor: sqlite3.Cursor, status: TokenStatus, refs: Sequence[SessionRef], *, now: int
) -> list[bool]:
    """End sessions; True for each that was alive, once when it was named twice."""
    which = (
        "(sku, user_id, nonce) IN (SELECT json_extract(value, '$[0]'),"
        " json_extract(value, '$[1]'), json_extract(value, '$[2]') FROM json_each(:refs))"
    )
    values = {"refs": json.dumps(refs), "now": now}
    ended = {ref[:3] for ref in end_sessions(cursor, status, which, values)}
    answers = []
    for ref in refs:
        answers.append(ref[:3] in ended)
        ended.discard(ref[:3])
    return answers


def _rotated(cursor: sqlite3.Cursor, row: SessionRow, now: int, end: int, grace: int) -> SessionRow:
    """Write the next generation of a session."""
    row = row._replace(
        generation=row.generation + 1,
        expires_at=end,
        last_seen=now,
        grace_until=now + grace,
    )
    cursor.execute(
        "UPDATE mpauthx_session SET generation = ?, expires_at = ?, last_seen = ?, grace_until = ?"
        " WHERE nonce = ?",
        (row.generation, row.expires_at, row.last_seen, row.grace_until, row.nonce),
    )
    return row


def _due(
    refs: Sequence[SessionRef],
    rows: dict[tuple[object, ...], SessionRow],
    now: int,
    ttl: int,
    absolute_ttl: int | None,
) -> list[SessionRow]:
    """The sessions among these whose lives are to be written: a tenth of them has passed."""
    due = []
    for ref in dict.fromkeys(refs):
        row = rows.get(ref[:3])
        if row is not None and (row.answer(ref) or 0) > 0:
            has_aged = 10 * (row.expires_at - now) < 9 * ttl
            if has_aged and row.expires_at < row.end_of_life(now, ttl, absolute_ttl):
                due.append(row)
    return due
