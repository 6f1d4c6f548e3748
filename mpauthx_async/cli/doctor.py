"""The doctor command: checks a server's configuration, and says what to do about each fault."""

import argparse
import asyncio
import os
import sqlite3
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote
from urllib.request import getproxies

import aiohttp

from .._compat import timeout
from ..connections import Connections
from ..errors import ConfigurationError, ConnectionFailedError, MPAuthXError, StoreError
from ..stores import RedisTokenStore, open_token_store, open_user_store
from ..stores.protocols import Checkable
from ..stores.redis.database import RedisDatabase
from ..stores.redis.server_checks import check_server
from ..stores.sqlite.user_table import UserTable
from ..wechat.api import WeChatAPI
from ..wechat.transport import API_HOSTS
from .serve.application import create_app
from .serve.options import ServerOptions, inspect_options
from .text import visible

__all__ = ["run_doctor"]

_OK, _WRONG, _SKIPPED = "ok", "wrong", "-"
_MAX_APART_SECONDS = 5.0  # of two clocks
_DATE_SECONDS = 1.0  # the resolution of an HTTP date
_STORE_SECONDS = 10.0  # for a store that bounds its check itself, or should
_HTTP_TIMEOUT = aiohttp.ClientTimeout(total=10, connect=5, sock_connect=3)  # seconds
_SQLITE_TIMEOUT = 2.0  # seconds to wait for a lock
_SQLITE_HEADER_BYTES = 20
_WAL_VERSION = 2  # byte 18 of a SQLite file: https://www.sqlite.org/fileformat2.html
_UNUSED = "mpauthx-check"  # a user id that is never in use

Clock = Callable[[], float]


@dataclass(slots=True)
class _Report:
    """The result of each check, one line each; a fault found by two checks is listed once."""

    lines: list[tuple[str, str]] = field(default_factory=list)

    def ok(self, text: str) -> None:
        self.lines.append((_OK, text))

    def wrong(self, text: str) -> None:
        if (_WRONG, text) not in self.lines:
            self.lines.append((_WRONG, text))

    def skipped(self, text: str) -> None:
        self.lines.append((_SKIPPED, text))

    @contextmanager
    def check(self) -> Iterator[None]:
        """Record the error of a check as a fault, so that the next check still runs."""
        try:
            yield
        except (MPAuthXError, ImportError, OSError) as error:
            self.wrong(str(error))

    @property
    def faults(self) -> int:
        return sum(state == _WRONG for state, _ in self.lines)


def run_doctor(
    arguments: argparse.Namespace,
    environment: Mapping[str, str] = os.environ,
    clock: Clock = time.time,
) -> int:
    """Check a configuration and print a line for each check; returns 1 if something is wrong."""
    report = _Report()
    options, faults = inspect_options(arguments, environment)
    for fault in faults:
        report.wrong(fault)
    if options is None:
        report.skipped("Nothing else was checked: the options in that file are not known.")
    else:
        asyncio.run(_examine(report, options, clock))
    encoding = sys.stdout.encoding or "ascii"
    for state, text in report.lines:
        print(visible(f"{state:<5}  {text}", encoding))
    faults_found = "1 fault" if report.faults == 1 else f"{report.faults} faults"
    print(f"\n{faults_found} found." if report.faults else "\nNothing is wrong.")
    return 1 if report.faults else 0


async def _examine(report: _Report, options: ServerOptions, clock: Clock) -> None:
    if not report.faults:
        with report.check():
            create_app(options)  # opens nothing
            report.ok("The options are complete and fit together")
    # At once, because each may wait for a server that hangs; reported in this order.
    parts = [_Report() for _ in range(3)]
    await asyncio.gather(
        _check_tokens(parts[0], options.tokens, clock),
        _check_users(parts[1], options.users),
        _check_wechat(parts[2], options, clock),
    )
    for part in parts:
        for state, text in part.lines:
            report.wrong(text) if state == _WRONG else report.lines.append((state, text))


async def _check_tokens(report: _Report, url: str, clock: Clock) -> None:
    with report.check():
        async with Connections() as connections:
            store = open_token_store(url, connections)
            if isinstance(store, RedisTokenStore):
                await _check_redis(report, RedisDatabase(connections), clock)
            else:
                await _check_sqlite(report, "tokens", url)


async def _check_redis(report: _Report, database: RedisDatabase, clock: Clock) -> None:
    info = await database.run(lambda redis: redis.info())
    faults_before = report.faults
    with report.check():
        check_server(info, None)
    if database.nodes is None and info.get("cluster_enabled"):
        report.wrong(
            "This Redis is a node of a Redis Cluster, and its URL names a single Redis, which "
            "holds only part of the users. Name a Redis that is not part of a cluster."
        )
    policy = str(info.get("maxmemory_policy", "unknown policy"))
    if info.get("maxmemory") and policy != "noeviction":
        report.wrong(
            f"Redis evicts keys when its memory is full (maxmemory-policy {policy}): users lose "
            "sessions, and bans may end. Run CONFIG SET maxmemory-policy noeviction, and write it "
            "into redis.conf."
        )
    if report.faults == faults_before:
        keeps = policy if info.get("maxmemory") else "no maxmemory"
        report.ok(f"Redis answers ({info.get('redis_version')}), and evicts no keys ({keeps})")
    begun = clock()
    seconds, microseconds = await database.run(lambda redis: redis.time())
    now = seconds + microseconds / 1_000_000
    _compare_clocks(report, "Redis", (now, now), (begun, clock()))


async def _check_users(report: _Report, url: str) -> None:
    with report.check():
        if url.lower().startswith("sqlite:///"):
            await _check_sqlite(report, "users", url)
            return
        try:
            async with open_user_store(url) as store, timeout(_STORE_SECONDS):
                await (store.check() if isinstance(store, Checkable) else store.get([_UNUSED]))
        except TimeoutError:
            report.wrong("The user store does not answer: check that it is up and reachable.")
        else:
            report.ok("The user store answers")


async def _check_sqlite(report: _Report, kind: str, url: str) -> None:
    report.ok(await asyncio.to_thread(_inspect_sqlite, kind, url.partition(":///")[2]))


def _inspect_sqlite(kind: str, path: str) -> str:
    """Check a SQLite file without changing it; returns a line that says it is in order."""
    if path == ":memory:":
        return f"The {kind} are kept in memory, and end with the server"
    file = Path(path).resolve()
    name, folder = f"The file of the {kind}, {file}", file.parent
    if not folder.is_dir():
        raise StoreError(f"{name}, is in a folder that does not exist: create it.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StoreError(
            f"{name}, is in a folder that this user may not write to, where SQLite keeps files "
            "beside it: change the folder's owner or mode."
        )
    if not file.exists():
        return f"{name}, does not exist yet, and can be created"
    if not stat.S_ISREG(file.stat().st_mode):
        raise StoreError(f"{name}, is not a file: give the path of a file.")
    if not os.access(file, os.R_OK | os.W_OK):
        raise StoreError(f"{name}, cannot be written by this user: change its owner or mode.")
    try:
        with closing(_open_unchanged(file)) as database, closing(database.cursor()) as cursor:
            cursor.execute("SELECT count(*) FROM sqlite_master")
            table = UserTable.find(cursor) if kind == "users" else None
    except sqlite3.OperationalError as error:
        raise StoreError(
            f"{name}, cannot be read ({error}). Check whether another process holds its lock."
        ) from error
    except sqlite3.DatabaseError as error:
        raise StoreError(
            f"{name}, cannot be read ({error}). Give the path of a SQLite file, or of a file that "
            "does not exist yet."
        ) from error
    except ConfigurationError as error:
        raise ConfigurationError(f"{name}: {error}") from error
    return f"{name}, can be written{', and its table user takes logins' if table else ''}"


def _open_unchanged(file: Path) -> sqlite3.Connection:
    """Open a SQLite file for reading, so that no file appears beside it.

    A reader of a file in WAL mode creates the files -wal and -shm if they are missing, and leaves
    them, with an owner that a server may not have. Without them nobody has the file open.
    """
    with file.open("rb") as opened:
        header = opened.read(_SQLITE_HEADER_BYTES)
    is_wal = len(header) == _SQLITE_HEADER_BYTES and header[18] == _WAL_VERSION
    is_open = all(Path(f"{file}{end}").exists() for end in ("-wal", "-shm"))
    option = "immutable=1" if is_wal and not is_open else "mode=ro"
    return sqlite3.connect(
        f"file:{quote(os.fsencode(file))}?{option}", uri=True, timeout=_SQLITE_TIMEOUT
    )


async def _check_wechat(report: _Report, options: ServerOptions, clock: Clock) -> None:
    if not (options.app_id and options.app_secret):
        report.skipped("WeChat was not asked, for lack of app_id or app_secret.")
        return
    dates: list[tuple[float, float, float]] = []
    with report.check():
        async with (
            aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=_HTTP_TIMEOUT,
                trace_configs=[_reading_dates(dates, clock)],
            ) as http,
            Connections(http=http) as connections,
        ):
            api = WeChatAPI(
                app_id=options.app_id,
                app_secret=options.app_secret,
                connections=connections,
                api_base=API_HOSTS if options.api_base is None else options.api_base,
            )
            try:
                await api.get_stable_token()  # without force it ends no other token
            except ConnectionFailedError as error:
                if not getproxies().get("https"):
                    raise
                text = f"{error} HTTPS_PROXY is set, and the server ignores it."
                raise ConnectionFailedError(text) from error
            report.ok("WeChat answers, and accepts app_id and app_secret")
    if dates:
        date, begun, ended = dates[-1]
        _compare_clocks(report, "WeChat", (date, date + _DATE_SECONDS), (begun, ended))


def _reading_dates(dates: list[tuple[float, float, float]], clock: Clock) -> aiohttp.TraceConfig:
    """Keep the Date of each answer, and our time before and after, in Unix seconds."""
    trace = aiohttp.TraceConfig()

    async def begin(_: object, context: SimpleNamespace, __: object) -> None:
        context.begun = clock()

    async def end(
        _: object, context: SimpleNamespace, params: aiohttp.TraceRequestEndParams
    ) -> None:
        try:
            date = parsedate_to_datetime(params.response.headers.get("Date", ""))
        except ValueError:
            return
        dates.append((date.timestamp(), context.begun, clock()))

    trace.on_request_start.append(begin)
    trace.on_request_end.append(end)
    return trace


def _compare_clocks(
    report: _Report, name: str, theirs: tuple[float, float], ours: tuple[float, float]
) -> None:
    """Compare two clocks by the earliest and latest times that each may have had."""
    ahead, behind = theirs[0] - ours[1], ours[0] - theirs[1]
    apart = max(ahead, behind)
    if apart <= _MAX_APART_SECONDS:
        report.ok(f"The clocks of {name} and of this machine agree")
        return
    side = "ahead of" if ahead > 0 else "behind"
    report.wrong(
        f"The clock of {name} is {apart:.0f} seconds {side} this machine's: set the one that is "
        "wrong, and synchronize it by NTP."
    )
