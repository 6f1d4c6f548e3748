"""A round of chaos: services under load, faults drawn from a seed, and the verdict."""

import asyncio
import gc
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from random import Random

from tests.chaos.faults import TAKEOVERS, Fault
from tests.chaos.oracle import Call, Oracle, Row
from tests.chaos.takeovers import Takeovers
from tests.chaos.workload import Service, Workload
from tests.chaos.worlds import GRACE, OTHER_APP, World, service
from tests.helpers.sql_servers import execute

__all__ = ["Verdict", "play_round"]

_PATIENCE = 60  # seconds for everything to work again
_CALLS_BETWEEN_FAULTS = 100


@dataclass(frozen=True)
class Verdict:
    """What a round found."""

    violations: list[str]
    outcomes: Counter[str]  # how many calls of each kind had which outcome
    calls: list[Call]


async def play_round(world: World, seed: int, faults: Sequence[Fault]) -> Verdict:
    """Play a round of these faults with services, users and a sku of its own."""
    random = Random(f"{seed} faults")  # apart, because the clients' turns are not repeatable
    world.windows.clear()
    await world.empty_users()
    with _loose_ends() as loose_ends:
        async with AsyncExitStack() as stack:
            services = [
                Service(
                    name,
                    await stack.enter_async_context(
                        service(world, f"chaos-{seed}", is_other_app=name.startswith("B"))
                    ),
                    OTHER_APP if name.startswith("B") else world.wx.app_id,
                )
                for name in ("A1", "A2", "B1")
            ]
            takeovers = Takeovers(world)
            await takeovers.note()
            workload = Workload(services, world.wx, Random(seed))
            work = asyncio.create_task(workload.run())
            await workload.until_calls(_CALLS_BETWEEN_FAULTS)
            for fault in faults:
                await takeovers.note()
                await fault(world, random)
                await takeovers.note(meant=fault in TAKEOVERS)
                await workload.until_calls(_CALLS_BETWEEN_FAULTS)
            workload.stop()
            await work
            await workload.finish(_PATIENCE)
            await takeovers.note()
        gc.collect()
        await asyncio.sleep(0)
    oracle = Oracle(workload.calls, world.windows, bound=world.bound, grace=GRACE)
    violations = oracle.judge(await _rows(world, workload))
    outcomes = Counter(f"{call.kind.value} {call.outcome.value}" for call in workload.calls)
    return Verdict([*workload.errors, *loose_ends, *violations], outcomes, workload.calls)


async def _rows(world: World, workload: Workload) -> dict[int, Row]:
    """The rows of each person: those of their openIds and of their unionId."""
    if world.sql is None:
        query = "SELECT openId, unionId, nickName FROM user"
    else:
        query = "SELECT open_id, union_id, nick_name FROM mpauthx_user"
    found = await execute(world.users_engine_url, query)
    rows: dict[int, list[str | None]] = {}
    for open_id, union_id, nick_name in found:
        rows.setdefault(int((union_id or open_id).rpartition("-")[2]), []).append(nick_name)
    return {
        number: Row(len(names), max((int(name[1:]) for name in names if name), default=None))
        for number, names in rows.items()
    }


@contextmanager
def _loose_ends() -> Iterator[list[str]]:
    """Collect what tasks raised that nobody awaited, and resources that nobody closed."""
    loose_ends: list[str] = []
    loop, hook = asyncio.get_running_loop(), sys.unraisablehook
    loop.set_exception_handler(
        lambda _, context: loose_ends.append(f"{context['message']}: {context.get('exception')!r}")
    )
    sys.unraisablehook = lambda args: loose_ends.append(f"{args.err_msg}: {args.exc_value!r}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ResourceWarning)
            yield loose_ends
    finally:
        loop.set_exception_handler(None)
        sys.unraisablehook = hook
