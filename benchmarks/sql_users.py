"""authorize with users in PostgreSQL, against users in a SQLite file, and by four processes.

Every login is of a new user with an openId and a unionId, code and sealed data, and its token goes
to Redis. Each service has a process of its own; the simulator, PostgreSQL and Redis have theirs.
Both databases write to disk before they answer. PostgreSQL is filled by a round that does not
count, and knows its statistics then. What its tables take, it is asked at the end.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from mpauthx_async import MPAuthX
from tests.helpers.redis_server import RedisServer
from tests.helpers.sql_servers import PostgreSQLServer, execute

from .child_process import ChildProcess, Pipe
from .machine import cpu_time
from .measurement import (
    Benchmark,
    Figure,
    Outcome,
    Party,
    Settings,
    Spread,
    WrongAnswer,
    in_turn,
    rate,
    ratio,
    shares,
)
from .progress import Progress
from .sessions import APP_ID, APP_SECRET, SKU
from .wechat_process import Login, WeChatProcess

__all__ = ["SQL_USERS"]

_CALLERS = 1000  # in all processes together
_PROCESSES = 4
_ENOUGH = 2 * _PROCESSES  # cores

_SQLITE = "authorize, users in SQLite"
_ONE = "authorize, users in PostgreSQL"
_FOUR = f"the same by {_PROCESSES} processes"
_SIZES = """
    SELECT count(*), pg_table_size('mpauthx_user'), pg_indexes_size('mpauthx_user'),
        pg_total_relation_size('mpauthx_link') FROM mpauthx_user
"""
_TAKEN = ("row", "indexes", "links")


@dataclass(frozen=True, slots=True)
class _Size:
    rounds: int
    logins: int


_FULL = _Size(rounds=9, logins=8_000)
_QUICK = _Size(rounds=2, logins=400)


class _Service(ChildProcess):
    """A service in a process of its own.

    Args:
        users: the URL of its users.
        tokens: the URL of its tokens.
        api_base: the simulator's address.
        uvloop: whether its event loop is uvloop's.
    """

    def __init__(self, users: str, tokens: str, api_base: str, *, uvloop: bool) -> None:
        super().__init__(_log_in, users, tokens, api_base, uvloop=uvloop)

    async def log_in(self, logins: Sequence[Login], callers: int) -> float:
        """Log all in; returns for how many seconds its process was at work."""
        self.send((logins, callers))
        return float(await self.receive())


async def _log_in(pipe: Pipe, users: str, tokens: str, api_base: str) -> None:
    async with MPAuthX(
        app_id=APP_ID, app_secret=APP_SECRET, sku=SKU, users=users, tokens=tokens, api_base=api_base
    ) as auth:

        async def log_in(login: Login) -> bool:
            return (await auth.authorize(*login)).is_new_user

        await auth.check()
        pipe.send("ready")
        while True:
            logins, callers = await asyncio.to_thread(pipe.recv)
            before = time.process_time()
            await rate(log_in, shares(logins, callers))
            pipe.send(time.process_time() - before)


async def _run(settings: Settings, progress: Progress) -> Outcome:
    size = _QUICK if settings.quick else _FULL
    busy: dict[str, list[float]] = {}
    idle: dict[str, list[float]] = {}  # parts of all CPU time
    with ExitStack() as stack:
        wechat = stack.enter_context(WeChatProcess(uvloop=settings.uvloop))
        redis = stack.enter_context(RedisServer())
        postgresql = await asyncio.to_thread(stack.enter_context, PostgreSQLServer(fsync="on"))
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mpauthx-benchmark-"))
        url = postgresql.url("postgresql+asyncpg", postgresql.maintenance)

        def start(users: str, count: int) -> list[_Service]:
            made = [
                _Service(users, redis.url, wechat.url, uvloop=settings.uvloop) for _ in range(count)
            ]
            return [stack.enter_context(service) for service in made]

        four = start(f"{url}?create=true", _PROCESSES)
        services = {
            _SQLITE: start(f"sqlite:///{folder}/users.db", 1),
            _ONE: four[:1],
            _FOUR: four,
        }

        async def measure(party: str) -> float:
            processes = services[party]
            logins = shares(await wechat.logins(size.logins), len(processes))
            callers = _CALLERS // len(processes)
            cpu, begun = cpu_time(), time.perf_counter()
            works = [
                service.log_in(share, callers)
                for service, share in zip(processes, logins, strict=True)
            ]
            worked = await asyncio.gather(*works)
            seconds = time.perf_counter() - begun
            if not all(worked):
                raise WrongAnswer("A process did nothing.")
            busy.setdefault(party, []).append(sum(worked) / size.logins * 1e6)
            if cpu is not None and (after := cpu_time()) is not None:
                idle.setdefault(party, []).append(1 - (after[1] - cpu[1]) / (after[0] - cpu[0]))
            return size.logins / seconds

        for party in services:
            await measure(party)
        await execute(url, "ANALYZE")
        busy.clear()
        idle.clear()
        parties = [Party(party, partial(measure, party)) for party in services]
        rates = await in_turn(parties, size.rounds, progress)
        ((rows, *taken),) = await execute(url, _SIZES)

    cores = os.cpu_count() or 1
    cost = {party: sorted(each)[len(each) // 2] for party, each in busy.items()}
    notes = [
        f"CPU of a service for one login: {cost[_SQLITE]:.0f} µs with SQLite, {cost[_ONE]:.0f} µs "
        "with PostgreSQL. PostgreSQL, Redis and the simulator need theirs beside it."
    ]
    if idle:
        share = sorted(idle[_ONE])[len(idle[_ONE]) // 2]
        notes.append(
            f"With one process on PostgreSQL {share:.0%} of the CPUs' time was idle, so that no "
            f"number of processes can make it more than {1 / (1 - share):.2f} times as fast here."
        )
    if cores < _ENOUGH:
        notes.append(
            f"The {cores} cores are shared by {_PROCESSES} services, PostgreSQL, Redis and the "
            f"simulator. The bound for {_PROCESSES} processes is enforced from {_ENOUGH} cores on."
        )
    return Outcome(
        "sql_users",
        f"{_CALLERS:,} concurrent callers, {size.logins:,} new users a round, {size.rounds} rounds",
        rates,
        [
            Figure("PostgreSQL to SQLite", ratio(rates[_ONE], rates[_SQLITE]), at_least=0.8),
            Figure(
                f"{_PROCESSES} processes to one",
                ratio(rates[_FOUR], rates[_ONE]),
                at_least=2.0 if cores >= _ENOUGH else None,
            ),
            *(
                Figure(f"PostgreSQL: bytes of a user, {what}", Spread((each / rows,)))
                for what, each in zip(_TAKEN, taken, strict=True)
            ),
        ],
        notes,
    )


SQL_USERS = Benchmark("sql_users", "a whole login, users in PostgreSQL against SQLite", _run)
