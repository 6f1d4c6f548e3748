"""A short run of the chaos in each world; `python -m tests.chaos` is the long one."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.chaos.faults import (
    Fault,
    fail_wechat,
    kill_cluster_primary,
    kill_connections,
    kill_redis,
    kill_sql,
    lock_sqlite,
    lose_sentinels_primary,
    move_slot,
    provoke_deadlocks,
)
from tests.chaos.oracle import Kind, Outcome
from tests.chaos.rounds import play_round
from tests.chaos.worlds import open_world

SEED = 1
FAULTS: dict[tuple[str, str], Sequence[Fault]] = {
    ("single", "postgresql"): [
        kill_redis,
        kill_connections,
        kill_sql,
        provoke_deadlocks,
        fail_wechat,
    ],
    ("single", "mariadb"): [kill_sql, provoke_deadlocks],
    ("single", "sqlite"): [lock_sqlite],
    ("sentinel", "postgresql"): [lose_sentinels_primary],
    ("cluster", "postgresql"): [move_slot, kill_cluster_primary],
}


@pytest.mark.parametrize(("kind", "database"), FAULTS)
async def test_survives_chaos(kind: str, database: str, tmp_path: Path) -> None:
    async with open_world(kind, database, tmp_path) as world:
        verdict = await play_round(world, SEED, FAULTS[kind, database])
    assert verdict.violations == []
    assert {"login done", "use done", "use invalid", "rotate done"} <= verdict.outcomes.keys()


@pytest.mark.parametrize("database", ["mariadb", "sqlite"])
async def test_each_round_has_users_of_its_own(database: str, tmp_path: Path) -> None:
    async with open_world("single", database, tmp_path) as world:
        for _ in range(2):
            verdict = await play_round(world, SEED, [])
            logins = [call for call in verdict.calls if call.kind is Kind.LOGIN]
            unknown = {call.person for call in logins if call.outcome is not Outcome.DONE}
            new = {call.person for call in logins if call.issued and call.issued.is_new}
            assert new >= {call.person for call in logins} - unknown
            assert new
