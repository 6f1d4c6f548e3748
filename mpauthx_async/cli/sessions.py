"""The sessions command: lists and ends users' sessions, and bans users, in the token store.

It needs no secret of the app, because the store contains sessions and not tokens.
"""

import argparse
import asyncio
import json
import os
import re
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ..connections import Connections
from ..constants import TokenStatus
from ..errors import MPAuthXError, ParameterError, StoreError
from ..models import Ban, Session, SessionRef, Subject
from ..stores import TokenStore, open_token_store
from ..tokens.format import is_sku
from . import arguments
from .text import Times, cut, visible

__all__ = ["add_session_actions", "run_sessions"]

_ROW = "{:<16}  {:<16}  {:<8}  {:<8}  {}"
_MAX_DEVICE_COLUMNS = 24  # of the 80 of a row
_REASONS = {
    TokenStatus.replaced: "a newer login took its place",
    TokenStatus.revoked: "logged out, or ended by the app or an operator",
    TokenStatus.banned: "the user was banned",
    TokenStatus.rotated: "its token was rotated",
    TokenStatus.reused: "a token that had been rotated was used again, a sign of theft",
}


@dataclass(frozen=True)
class _Answer:
    document: dict[str, Any]  # for --json
    lines: Sequence[str] = ()  # for people
    error: str | None = None  # why the action failed


_Action: TypeAlias = Callable[[TokenStore, argparse.Namespace, Times], Awaitable[_Answer]]


def add_session_actions(parser: argparse.ArgumentParser) -> None:
    """Add the actions and options of `sessions` to its parser; `run_sessions` runs them."""
    _add_common_options(parser)
    parser.epilog = "An id that begins with - goes after --, as in: sessions list -- -id"
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def add(name: str, run: _Action, usage: str, summary: str) -> argparse.ArgumentParser:
        action = actions.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
        )
        action.usage = f"{action.prog} [options] {usage}".rstrip()
        _add_common_options(action)
        if "USER_ID" in usage:
            action.add_argument(
                "user_id",
                metavar="USER_ID",
                type=arguments.user_id,
                help="as tokens contain it: the unionId if the user has one, else the openId; "
                "other ids of a user are not known here",
            )
        action.set_defaults(run=run, fail=action.error)
        return action

    add("list", _list, "[--] USER_ID", "list the living sessions of a user, newest first")
    show = add("show", _show, "[--] USER_ID SESSION_ID", "show one session, or why it ended")
    show.add_argument("session_id", metavar="SESSION_ID", type=arguments.session_id)
    revoke = add(
        "revoke", _revoke, "[--] USER_ID (SESSION_ID | --all)", "end one session of a user, or all"
    )
    revoke.add_argument("session_id", metavar="SESSION_ID", nargs="?", type=arguments.session_id)
    revoke.add_argument("--all", action="store_true", help="end all sessions of the user")
    ban = add("ban", _ban, "[--] USER_ID", "refuse a user's logins and end all their sessions")
    ban.add_argument(
        "--for",
        dest="duration",
        metavar="DURATION",
        type=arguments.duration,
        help="90s, 30m, 12h or 7d; without it, for ever",
    )
    ban.add_argument("--reason", metavar="TEXT", default="", type=arguments.reason, help="why")
    add("unban", _unban, "[--] USER_ID", "let a user log in again")
    add("ban-of", _ban_of, "[--] USER_ID", "show whether a user is banned, and why")
    online = add("online", _online, "", "list the users online, newest first")
    online.add_argument(
        "--limit",
        metavar="N",
        type=arguments.limit,
        default=20,
        help="how many; default: %(default)s",
    )
    online.add_argument("--cursor", metavar="CURSOR", help="from the previous page")
    online.add_argument("--count", action="store_true", help="only count them")


def run_sessions(options: argparse.Namespace) -> int:
    """Run an action and print its result; MPAuthXError if nothing was found or ended."""
    try:
        answer = asyncio.run(_run(options))
    except ParameterError as error:
        options.fail(str(error))  # prints the usage and exits
        raise
    encoding = sys.stdout.encoding or "ascii"
    if getattr(options, "json", False):
        _write(_json(answer.document, encoding))
    else:
        _write("\n".join(visible(line, encoding) for line in answer.lines))
    if answer.error is not None:
        raise MPAuthXError(answer.error)
    return 0


async def _run(options: argparse.Namespace) -> _Answer:
    options.sku = _setting(options, "sku", "MPAUTHX_SKU")
    if not is_sku(options.sku):
        raise ParameterError("a sku is 1 to 64 characters of A-Z a-z 0-9 . _ -")
    url = _setting(options, "tokens", "MPAUTHX_TOKENS")
    # The store's own error would quote the text, which may be a password.
    if not re.match("[a-z]+://", url, re.IGNORECASE):
        raise ParameterError("the token store is named by a URL: redis://... or sqlite:///...")
    async with Connections() as connections:
        store = open_token_store(url, connections)
        _check_that_it_exists(url)
        async with store:
            run: _Action = options.run
            return await run(store, options, Times())


async def _list(store: TokenStore, options: argparse.Namespace, times: Times) -> _Answer:
    subject = _subject(options)
    (ban,), sessions = await store.bans([subject]), await store.sessions(subject)
    document = {
        **subject._asdict(),
        "ban": _ban_document(ban),
        "sessions": [_session_document(session) for session in sessions],
    }
    lines = [*_ban_lines(ban, times), ""] if ban else []
    user = _name(subject)
    if not sessions:
        return _Answer(document, [*lines, f"No living sessions of {user}."])
    lines += [f"{_count(len(sessions))} of {user}, times in {times.zone}.", ""]
    lines.append(_ROW.format("SESSION ID", "ISSUED", "EXPIRES", "SEEN", "DEVICE"))
    encoding = sys.stdout.encoding or "ascii"
    for session in sessions:
        seen = "-" if session.last_seen is None else times.distance(session.last_seen)
        issued, expires = times.time(session.issued_at), times.distance(session.expires_at)
        device = cut(visible(_device(session), encoding), _MAX_DEVICE_COLUMNS)
        lines.append(_ROW.format(session.id, issued[:16], expires, seen, device))
    return _Answer(document, lines)


async def _show(store: TokenStore, options: argparse.Namespace, times: Times) -> _Answer:
    subject = _subject(options)
    ref = SessionRef(*subject, options.session_id)
    # `read` needs the generation of the current token, which only the store knows.
    living = {session.id: session for session in await store.sessions(subject)}
    session = living.get(ref.nonce)
    status = TokenStatus.active
    if session is None:
        (end,) = await store.lookup([ref])
        status = TokenStatus.unknown if end is None or end > 0 else TokenStatus(end)
    document = {
        **subject._asdict(),
        "session_id": ref.nonce,
        "status": status.name,
        "session": session and _session_document(session),
    }
    if status is TokenStatus.unknown:
        unknown = f"No session {ref.nonce} of {_name(subject)} is known"
        return _Answer(document, error=f"{unknown}: it expired, or never existed.")
    reason = f": {_REASONS[status]}" if status in _REASONS else ""
    fields = {
        "Session": ref.nonce,
        "User": ref.user_id,
        "Sku": ref.sku,
        "Status": f"{status.name}{reason}",
        **(_details(session, times) if session else {}),
    }
    return _Answer(document, [f"{field:<12}{text}" for field, text in fields.items()])


async def _revoke(store: TokenStore, options: argparse.Namespace, _: Times) -> _Answer:
    subject, session_id = _subject(options), options.session_id
    if bool(session_id) == options.all:
        raise ParameterError("give either a SESSION_ID, or --all to end all sessions of the user")
    if options.all:
        ended = await store.revoke_subject(subject)
    else:
        (was_alive,) = await store.revoke([SessionRef(*subject, session_id)])
        ended = int(was_alive)
    document = {**subject._asdict(), "session_id": session_id, "ended": ended}
    if not ended:
        missing = "no session" if options.all else f"no living session {session_id}"
        error = f"Nothing ended: there is {missing} of {_name(subject)}."
        return _Answer(document, error=error)
    what = _count(ended) if options.all else f"session {session_id}"
    return _Answer(document, [f"Ended {what} of {_name(subject)}."])


async def _ban(store: TokenStore, options: argparse.Namespace, times: Times) -> _Answer:
    subject = _subject(options)
    ended = await store.ban(subject, reason=options.reason, ttl=options.duration)
    (ban,) = await store.bans([subject])
    document = {**subject._asdict(), "ended": ended, "ban": _ban_document(ban)}
    done = f"Banned {_name(subject)}, and ended {_count(ended)}."
    return _Answer(document, [done, *(_ban_lines(ban, times) if ban else ())])


async def _unban(store: TokenStore, options: argparse.Namespace, _: Times) -> _Answer:
    subject = _subject(options)
    unbanned = await store.unban(subject)
    document = {**subject._asdict(), "unbanned": unbanned}
    if not unbanned:
        return _Answer(document, error=_not_banned(subject))
    return _Answer(document, [f"{subject.user_id} may log in to {subject.sku} again."])


async def _ban_of(store: TokenStore, options: argparse.Namespace, times: Times) -> _Answer:
    subject = _subject(options)
    (ban,) = await store.bans([subject])
    document = {**subject._asdict(), "ban": _ban_document(ban)}
    if ban is None:
        return _Answer(document, error=_not_banned(subject))
    return _Answer(document, _ban_lines(ban, times))


async def _online(store: TokenStore, options: argparse.Namespace, _: Times) -> _Answer:
    sku = options.sku
    count = await store.online_count(sku)
    if options.count:
        return _Answer({"sku": sku, "count": count}, [str(count)])
    user_ids, cursor = await store.online(sku, cursor=options.cursor, limit=options.limit)
    document = {"sku": sku, "count": count, "user_ids": list(user_ids), "cursor": cursor}
    lines = [f"Online in {sku}: {count}, newest first."]
    if user_ids:
        lines += ["", *user_ids]
    if cursor:
        lines += ["", f"More: --cursor {cursor}"]
    return _Answer(document, lines)


def _details(session: Session, times: Times) -> dict[str, str]:
    seen = session.last_seen
    return {
        "Device": _device(session),
        "Issued": times.moment(session.issued_at),
        "Expires": times.moment(session.expires_at),
        "Last seen": "-" if seen is None else times.moment(seen),
        "Rotated": f"{session.ref.generation} times",
        "Times in": times.zone,
    }


def _ban_lines(ban: Ban, times: Times) -> list[str]:
    until = "for ever" if ban.until is None else f"until {times.moment(ban.until)}"
    return [
        f"BANNED {until}.",
        f"Since {times.moment(ban.banned_at)}, times in {times.zone}.",
        f"Reason: {ban.reason or 'not given'}",
    ]


def _device(session: Session) -> str:
    name, kind = session.device, session.device_kind
    if name and kind and name != kind:
        return f"{name} ({kind})"
    return name or kind or "-"


def _session_document(session: Session) -> dict[str, Any]:
    return {
        "id": session.id,
        "generation": session.ref.generation,
        "device": session.device,
        "device_kind": session.device_kind,
        "issued_at": session.issued_at,
        "expires_at": session.expires_at,
        "last_seen": session.last_seen,
    }


def _ban_document(ban: Ban | None) -> dict[str, Any] | None:
    if ban is None:
        return None
    return {"reason": ban.reason, "banned_at": ban.banned_at, "until": ban.until}


def _count(sessions: int) -> str:
    return "1 session" if sessions == 1 else f"{sessions} sessions"


def _name(subject: Subject) -> str:
    return f"{subject.user_id} in {subject.sku}"


def _not_banned(subject: Subject) -> str:
    return f"{subject.user_id} is not banned in {subject.sku}."


def _subject(options: argparse.Namespace) -> Subject:
    return Subject(options.sku, options.user_id)


def _check_that_it_exists(url: str) -> None:
    """Raise StoreError for a SQLite file without sessions: the store would create what is missing.

    A mistyped path would look like a store in which no user has a session.
    """
    scheme, _, path = url.partition("://")
    if scheme.lower() != "sqlite":
        return
    file = Path(path.removeprefix("/"))
    if not file.is_file():
        raise StoreError(f"There is no file {file}.")
    with suppress(sqlite3.Error), closing(sqlite3.connect(file)) as database:
        tables = database.execute("SELECT name FROM sqlite_master").fetchall()
        if ("mpauthx_session",) not in tables:
            raise StoreError(f"No sessions were ever kept in {file}.")


def _json(document: dict[str, Any], encoding: str) -> str:
    """JSON in the terminal's encoding, in which control characters are escaped, too."""
    is_unicode = encoding.lower().startswith("utf")
    return "".join(
        char if char == "\n" or char.isprintable() else json.dumps(char)[1:-1]
        for char in json.dumps(document, ensure_ascii=not is_unicode, indent=2)
    )


def _write(text: str) -> None:
    if not text:
        return
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has closed the pipe, as head does. Python flushes once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that may stand before and after the action.

    Their defaults are suppressed, else that of the action would replace a value before it.
    """
    parser.add_argument(
        "--tokens",
        metavar="URL",
        default=argparse.SUPPRESS,
        help="the token store, redis://... or sqlite:///...; default: $MPAUTHX_TOKENS, which "
        "keeps a password out of the list of processes",
    )
    parser.add_argument(
        "--sku", default=argparse.SUPPRESS, help="the users' sku; default: $MPAUTHX_SKU"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        default=argparse.SUPPRESS,
        help="print one JSON document, times in Unix milliseconds",
    )


def _setting(options: argparse.Namespace, name: str, variable: str) -> str:
    value: str | None = getattr(options, name, os.environ.get(variable))
    if not value:
        raise ParameterError(f"give --{name}, or set {variable}")
    return value
