"""validate, authorize, sessions and revoke with 0 to 5,000,000 other living sessions in Redis.

Each number of sessions has a Redis of its own, filled beforehand through the store's own `issue`,
so that they can take turns. A round logs new users in, lists the sessions of each, checks tokens
that have been there from the beginning, and revokes what it began: so the number stays what it is.
What counts is each rate divided by that of the same round with no other sessions: flat lines.

How many fit the machine's free memory is looked up first; the others are left out, with a note.
From what one process and one Redis reach, it is reckoned what a hundred million users need.
"""

import math
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from redis.asyncio import Redis

from mpauthx_async import MPAuthX
from tests.helpers.redis_server import RedisServer

from .measurement import (
    Benchmark,
    Figure,
    Lines,
    Outcome,
    Party,
    Settings,
    Spread,
    WrongAnswer,
    rate,
    ratio,
    shares,
    turns,
)
from .progress import Progress
from .sessions import begin_sessions, living_tokens, service, session_refs
from .wechat_process import Login, WeChatProcess

__all__ = ["SCALE", "hundred_million_users", "sizes_that_fit"]

_CALLERS = 1000
_CHECKED = 2_000  # tokens
_OPERATIONS = ("validate", "authorize", "sessions", "revoke")
_FLAT = 0.9

_BYTES = 750  # a session in Redis, with room to spare; `memory` measures it
_KEPT_FREE = 0.25  # of what is free now
_FILL = 40e-6  # seconds a session

_USERS = 100_000_000
_REQUESTS = 100  # of a user on a day
_PEAK = 3  # times the mean of a day
_LOGIN_EVERY = 3  # days: how long a token lives
_SHARD = 16  # GB
_FILLED = 0.75  # of a shard
_HEADROOM = 0.5  # of what a process reaches


@dataclass(frozen=True, slots=True)
class _Size:
    rounds: int
    others: tuple[int, ...]  # how many living sessions; the first is 0
    logins: int
    repeats: int  # how often a round checks each token


_FULL = _Size(9, (0, 10_000, 100_000, 1_000_000, 5_000_000), logins=2_000, repeats=20)
_QUICK = _Size(1, (0, 1_000, 10_000), logins=200, repeats=5)


async def _run(settings: Settings, progress: Progress) -> Outcome:
    size = _QUICK if settings.quick else _FULL
    others = sizes_that_fit(size.others, free_memory())
    async with AsyncExitStack() as stack:
        wechat = stack.enter_context(WeChatProcess(uvloop=settings.uvloop))
        parties = []
        bytes_each = 0.0
        for number in others:
            server = stack.enter_context(RedisServer())
            bytes_each = await _fill(server.url, number, progress) or bytes_each
            tokens = await living_tokens(server.url, _CHECKED, progress)
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mpauthx-benchmark-"))
            auth = await stack.enter_async_context(service(folder, server.url, api_base=wechat.url))
            one_round = _Round(auth, wechat, tokens, size)
            parties.append(Party(f"{number:,} other sessions", one_round.run))
        given = await turns(parties, size.rounds, progress)

    lines = {
        operation: [
            Spread(tuple(rates[operation] for rates in rounds)) for rounds in given.values()
        ]
        for operation in _OPERATIONS
    }
    notes = [
        f"Left out: {number:,} sessions need {number * _BYTES / 1e9:.1f} GB, which are not free."
        for number in size.others
        if number not in others
    ]
    return _outcome(size, others, lines, bytes_each, notes)


class _Round:
    """One round with one Redis. What it begins it ends."""

    def __init__(
        self, auth: MPAuthX, wechat: WeChatProcess, tokens: list[str], size: _Size
    ) -> None:
        self._auth = auth
        self._wechat = wechat
        self._checks = [list(share) * size.repeats for share in shares(tokens, _CALLERS)]
        self._logins = size.logins

    async def run(self) -> dict[str, float]:
        """Calls a second of each operation."""
        auth = self._auth
        begun: list[tuple[str, str]] = []  # user id and token

        async def log_in(login: Login) -> bool:
            result = await auth.authorize(*login)
            begun.append((result.user.id, result.response))
            return result.is_new_user

        async def list_sessions(one: tuple[str, str]) -> bool:
            return len(await auth.sessions(one[0])) == 1

        async def revoke(one: tuple[str, str]) -> bool:
            return await auth.revoke(one[1])

        logins = await self._wechat.logins(self._logins)
        rates = {
            "validate": await rate(auth.is_token_valid, self._checks),
            "authorize": await rate(log_in, shares(logins, _CALLERS)),
            "sessions": await rate(list_sessions, shares(begun, _CALLERS)),
            "revoke": await rate(revoke, shares(begun, _CALLERS)),
        }
        if len(begun) != self._logins:
            raise WrongAnswer("Not all logins gave a token.")
        return rates


async def _fill(redis_url: str, count: int, progress: Progress) -> float:
    """Begin that many sessions; returns what each takes of Redis's memory, in bytes."""
    if not count:
        return 0.0
    if count * _FILL > 1:
        progress.say(f"{count:,} sessions will take about {count * _FILL:,.0f} s to begin")
    async with Redis.from_url(redis_url) as redis:
        before = (await redis.info("memory"))["used_memory"]
        await begin_sessions(redis_url, session_refs(count), count, progress)
        used: int = (await redis.info("memory"))["used_memory"] - before
    return used / count


def _outcome(
    size: _Size,
    others: list[int],
    lines: dict[str, list[Spread]],
    bytes_each: float,
    notes: list[str],
) -> Outcome:
    measured = {
        f"{operation}, {number:,} other sessions": spread
        for operation, spreads in lines.items()
        for number, spread in zip(others, spreads, strict=True)
    }
    figures = [
        Figure(f"{operation}, {number:,} to none", ratio(spread, spreads[0]), at_least=_FLAT)
        for operation, spreads in lines.items()
        for number, spread in zip(others[1:], spreads[1:], strict=True)
    ]
    largest = {operation: spreads[-1].median for operation, spreads in lines.items()}
    notes += hundred_million_users(largest["validate"], largest["authorize"], bytes_each)
    return Outcome(
        "scale",
        f"{_CALLERS:,} callers, {len(others)} sizes, {size.logins:,} new users a round, "
        f"{size.rounds} rounds",
        measured,
        figures,
        notes,
        chart=Lines("other living sessions in Redis", others, lines),
    )


def hundred_million_users(validate: float, authorize: float, bytes_each: float) -> list[str]:
    """Reckon, on paper, what a hundred million users need.

    Args:
        validate: is_token_valid calls a second that one process makes.
        authorize: logins a second that one process makes.
        bytes_each: of Redis's memory, for one session.
    """
    day = 86_400
    checks = _USERS * _REQUESTS * _PEAK / day
    logins = _USERS * _PEAK / (_LOGIN_EVERY * day)
    gigabytes = _USERS * bytes_each / 1e9
    return [
        f"On paper, {_USERS:,} users with a session each, {_REQUESTS} requests a day and a login "
        f"every {_LOGIN_EVERY} days, at {_PEAK} times the mean: {checks:,.0f} checks and "
        f"{logins:,.0f} logins a second.",
        f"Redis: {gigabytes:.0f} GB at {bytes_each:.0f} bytes a session, {_shards(gigabytes)} "
        f"shards of {_SHARD} GB that are filled to {_FILLED:.0%}, without replicas.",
        f"Processes at {_HEADROOM:.0%} of what one reaches here with all of a core: "
        f"{math.ceil(checks / (validate * _HEADROOM))} for checks through Redis and "
        f"{math.ceil(logins / (authorize * _HEADROOM))} for logins, beside what serves HTTP.",
    ]


def _shards(gigabytes: float) -> int:
    return math.ceil(gigabytes / (_SHARD * _FILLED))


def sizes_that_fit(others: tuple[int, ...], free: float) -> list[int]:
    """Which numbers of sessions fit into the free memory side by side, the smallest first.

    Args:
        free: in bytes.
    """
    fitting: list[int] = []
    for number in others:
        if (sum(fitting) + number) * _BYTES <= free * (1 - _KEPT_FREE):
            fitting.append(number)
    return fitting


def free_memory() -> float:
    """Bytes that can be had without swapping; without end where that is not known (off Linux)."""
    file = Path("/proc/meminfo")
    if file.exists():
        for line in file.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return math.inf


SCALE = Benchmark("scale", "the same rates with millions of living sessions in Redis", _run)
