"""The sessions command: what an operator sees and does of people's sessions, in the store itself.

No secret of the app is needed: the store knows sessions, not tokens.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from ..connections import Connections
from ..constants import TokenStatus
from ..errors import MPAuthXError, ParameterError, StoreError
from ..models import Ban, Session, SessionRef, Subject
from ..stores import TokenStore, open_token_store
from ..tokens.format import is_sku
from . import arguments
from .text import Page, is_shown, visible

__all__ = ["add_session_actions", "run_sessions"]

_TOKENS_URL = re.compile(r"[a-z]+://.*", re.IGNORECASE | re.DOTALL)
_DEATHS = {
    TokenStatus.replaced: "a newer login took its place",
    TokenStatus.revoked: "logged out, or thrown out",
    TokenStatus.banned: "the user was banned",
    TokenStatus.rotated: "its token was rotated",
    TokenStatus.reused: "a token that had been rotated away was used again, a sign of theft",
}


class _NothingFound(MPAuthXError):
    """What a command is about is not there, or nothing came of it."""


def add_session_actions(parser: argparse.ArgumentParser) -> None:
    """Say what `sessions` takes; `run_sessions` does it."""
    _add_common_options(parser, default=None)
    parser.epilog = "An id that begins with - goes after --, as in: sessions list -- -id"
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def add(name: str, run: "_Action", usage: str, summary: str) -> argparse.ArgumentParser:
        action = actions.add_parser(
            name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
        )
        action.usage = f"{action.prog} [options] {usage}".rstrip()
        # Suppressed: else a default here would undo what was given before the action.
        _add_common_options(action, default=argparse.SUPPRESS)
        if "USER_ID" in usage:
            action.add_argument(
                "user_id",
                metavar="USER_ID",
                type=arguments.user_id,
                help="as tokens carry it: the unionId where there is one, else the openId; a "
                "user's other ids are not known here",
            )
        action.set_defaults(run=run, fail=action.error)
        return action

    add("list", _list, "[--] USER_ID", "list the living sessions of a user, newest first")
    show = add("show", _show, "[--] USER_ID SESSION_ID", "tell all of one session, or why it died")
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
    add("ban-of", _ban_of, "[--] USER_ID", "tell whether a user is banned, and why")
    online = add("online", _online, "", "list the users online, those who came last first")
    online.add_argument(
        "--limit",
        metavar="N",
        type=arguments.limit,
        default=20,
        help="how many; default: %(default)s",
    )
    online.add_argument("--cursor", metavar="CURSOR", help="of the page before")
    online.add_argument("--count", action="store_true", help="only count them")


def run_sessions(options: argparse.Namespace) -> int:
    """Do what was asked for and print what came of it.

    Args:
        options: as parsed by a parser that went through `add_session_actions`.

    Returns:
        The exit code.

    Raises:
        MPAuthXError: when nothing was found or ended, or the store failed.
        SystemExit: for options that do not go together.
    """
    options.sku = _setting(options, "sku", "MPAUTHX_SKU")
    if not is_sku(options.sku):
        _fail(options, "a sku is 1 to 64 characters of A-Z a-z 0-9 . _ -")
    url = _setting(options, "tokens", "MPAUTHX_TOKENS")
    if not _TOKENS_URL.fullmatch(url):  # whose error would quote what may be a password
        _fail(options, "the token store is named by a URL: redis://... or sqlite:///...")
    if options.action == "revoke" and bool(options.session_id) == options.all:
        _fail(options, "give either a SESSION_ID, or --all to end all sessions of the user")
    page = Page(sys.stdout.encoding or "ascii")
    try:
        answer = asyncio.run(_ask(url, options, page))
    except ParameterError as error:  # a cursor that is none
        _fail(options, str(error))
    _write(_json(answer.document, page.encoding) if options.json else "\n".join(answer.lines))
    if answer.missing:
        raise _NothingFound(answer.missing)
    return 0


@dataclass(frozen=True)
class _Answer:
    """What came of a command.

    Attributes:
        document: for --json.
        lines: for people.
        missing: what was not there, or did not happen; the command has failed then.
    """

    document: dict[str, Any]
    lines: Sequence[str] = field(default=())
    missing: str | None = None


_Action: TypeAlias = Callable[[TokenStore, argparse.Namespace, Page], Awaitable[_Answer]]


async def _ask(url: str, options: argparse.Namespace, page: Page) -> _Answer:
    async with Connections() as connections:
        store = open_token_store(url, connections)
        _check_that_it_exists(url)
        async with store:
            run: _Action = options.run
            return await run(store, options, page)


async def _list(store: TokenStore, options: argparse.Namespace, page: Page) -> _Answer:
    subject = _subject(options)
    (ban,), sessions = await store.bans([subject]), await store.sessions(subject)
    document = {
        **subject._asdict(),
        "ban": _ban_document(ban),
        "sessions": [_session_document(session) for session in sessions],
    }
    lines = [*_ban_lines(ban, page), ""] if ban else []
    who = f"{subject.user_id} in {subject.sku}"
    if not sessions:
        return _Answer(document, [*lines, *page.wrap(f"No living sessions of {who}.")])
    lines += page.wrap(f"{_sessions(len(sessions))} of {who}, times in {page.zone}.")
    rows = [("SESSION ID", "ISSUED", "EXPIRES", "SEEN", "DEVICE")]
    for session in sessions:
        seen = "-" if session.last_seen is None else page.distance(session.last_seen)
        issued, expires = page.minute(session.issued_at), page.distance(session.expires_at)
        rows.append((session.id, issued, expires, seen, _device(session)))
    return _Answer(document, [*lines, "", *page.table(rows)])


async def _show(store: TokenStore, options: argparse.Namespace, page: Page) -> _Answer:
    subject = _subject(options)
    ref = SessionRef(*subject, options.session_id)
    # `read` wants the generation of the token that is good now, which only the store knows.
    living = [session for session in await store.sessions(subject) if session.id == ref.nonce]
    session = living[0] if living else None
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
        unknown = f"No session {ref.nonce} of {visible(ref.user_id)} in {ref.sku} is known: "
        return _Answer(document, missing=f"{unknown}it expired, or there never was one.")
    death = f": {_DEATHS[status]}" if status in _DEATHS else ""
    lines = [
        *page.wrap(ref.nonce, name="Session"),
        *page.wrap(ref.user_id, name="User"),
        *page.wrap(ref.sku, name="Sku"),
        *page.wrap(f"{status.name}{death}", name="Status"),
    ]
    return _Answer(document, [*lines, *(_details(session, page) if session else ())])


async def _revoke(store: TokenStore, options: argparse.Namespace, page: Page) -> _Answer:
    subject = _subject(options)
    if options.all:
        ended = await store.revoke_subject(subject)
        what = _sessions(ended)
    else:
        (alive,) = await store.revoke([SessionRef(*subject, options.session_id)])
        ended = int(alive)
        what = f"session {options.session_id}"
    document = {**subject._asdict(), "session_id": options.session_id, "ended": ended}
    who = f"{subject.user_id} in {subject.sku}"
    if not ended:
        none = "no session" if options.all else f"no living session {options.session_id}"
        return _Answer(document, missing=f"Nothing ended: there is {none} of {visible(who)}.")
    return _Answer(document, page.wrap(f"Ended {what} of {who}."))


async def _ban(store: TokenStore, options: argparse.Namespace, page: Page) -> _Answer:
    subject = _subject(options)
    ended = await store.ban(subject, reason=options.reason, ttl=options.duration)
    (ban,) = await store.bans([subject])
    document = {**subject._asdict(), "ended": ended, "ban": _ban_document(ban)}
    done = f"Banned {subject.user_id} in {subject.sku}, and ended {_sessions(ended)}."
    return _Answer(document, [*page.wrap(done), *(_ban_lines(ban, page) if ban else ())])


async def _unban(store: TokenStore, options: argparse.Namespace, page: Page) -> _Answer:
    subject = _subject(options)
    unbanned = await store.unban(subject)
    document = {**subject._asdict(), "unbanned": unbanned}
    if not unbanned:
        return _Answer(document, missing=_not_banned(subject))
    return _Answer(document, page.wrap(f"{subject.user_id} may log in to {subject.sku} again."))


async def _ban_of(store: TokenStore, options: argparse.Namespace, page: Page) -> _Answer:
    subject = _subject(options)
    (ban,) = await store.bans([subject])
    document = {**subject._asdict(), "ban": _ban_document(ban)}
    if ban is None:
        return _Answer(document, missing=_not_banned(subject))
    return _Answer(document, _ban_lines(ban, page))


async def _online(store: TokenStore, options: argparse.Namespace, page: Page) -> _Answer:
    sku = options.sku
    count = await store.online_count(sku)
    if options.count:
        return _Answer({"sku": sku, "count": count}, [str(count)])
    user_ids, cursor = await store.online(sku, cursor=options.cursor, limit=options.limit)
    document = {"sku": sku, "count": count, "user_ids": list(user_ids), "cursor": cursor}
    lines = page.wrap(f"Online in {sku}: {count}, those who came last first.")
    lines += [""] if user_ids else []
    for user_id in user_ids:
        lines += page.wrap(user_id)
    if cursor:
        lines += ["", f"More: --cursor {cursor}"]
    return _Answer(document, lines)


def _details(session: Session, page: Page) -> list[str]:
    seen = session.last_seen
    return [
        *page.wrap(_device(session), name="Device"),
        *page.wrap(page.moment(session.issued_at), name="Issued"),
        *page.wrap(page.moment(session.expires_at), name="Expires"),
        *page.wrap("-" if seen is None else page.moment(seen), name="Last seen"),
        *page.wrap(f"{session.ref.generation} times", name="Rotated"),
        *page.wrap(page.zone, name="Times in"),
    ]


def _ban_lines(ban: Ban, page: Page) -> list[str]:
    until = "for ever" if ban.until is None else f"until {page.moment(ban.until)}"
    return [
        f"BANNED {until}.",
        f"Since {page.moment(ban.banned_at)}, times in {page.zone}.",
        *page.wrap(f"Reason: {ban.reason or 'none was given'}"),
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


def _sessions(count: int) -> str:
    return "1 session" if count == 1 else f"{count} sessions"


def _not_banned(subject: Subject) -> str:
    return f"{visible(subject.user_id)} is not banned in {subject.sku}."


def _subject(options: argparse.Namespace) -> Subject:
    return Subject(options.sku, options.user_id)


def _check_that_it_exists(url: str) -> None:
    """A store would begin anew where the path is mistyped, and nobody had any sessions."""
    scheme, _, path = url.partition("://")
    if scheme.lower() != "sqlite":
        return
    file = Path(path.removeprefix("/"))
    if not file.is_file():
        raise StoreError(f"There is no file {visible(str(file))}.")
    with suppress(sqlite3.Error), closing(sqlite3.connect(file)) as database:
        tables = database.execute("SELECT name FROM sqlite_master").fetchall()
        if ("mpauthx_session",) not in tables:
            raise StoreError(f"No sessions were ever kept in {visible(str(file))}.")


def _json(document: dict[str, Any], encoding: str) -> str:
    """One document, in which a terminal finds nothing to act upon either."""
    # Newlines stand between values only: those within texts are escaped already.
    return "".join(
        char if char == "\n" or is_shown(char, encoding) else json.dumps(char)[1:-1]
        for char in json.dumps(document, ensure_ascii=False, indent=2)
    )


def _write(text: str) -> None:
    if not text:
        return
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads has enough, as head has. What is left must not fail once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _add_common_options(parser: argparse.ArgumentParser, *, default: Any) -> None:
    parser.add_argument(
        "--tokens",
        metavar="URL",
        default=default,
        help="the token store, redis://... or sqlite:///...; default: $MPAUTHX_TOKENS, which "
        "keeps a password out of the list of processes",
    )
    parser.add_argument("--sku", default=default, help="whose users; default: $MPAUTHX_SKU")
    parser.add_argument(
        "--json",
        action="store_true",
        default=default or False,
        help="one JSON document, times in Unix milliseconds",
    )


def _setting(options: argparse.Namespace, name: str, variable: str) -> str:
    given: str | None = getattr(options, name)
    value = os.environ.get(variable) if given is None else given
    if not value:
        _fail(options, f"give --{name}, or set {variable}")
    return value


def _fail(options: argparse.Namespace, message: str) -> NoReturn:
    options.fail(message)
    raise AssertionError("argparse exits")
