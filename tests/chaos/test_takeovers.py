"""Takeovers that no fault meant make a window in which acknowledged writes may be lost."""

import asyncio
import time
from pathlib import Path
from random import Random

import pytest

from tests.chaos.faults import Fault, swap_cluster_roles, swap_sentinels_roles
from tests.chaos.takeovers import Takeovers
from tests.chaos.worlds import open_world
from tests.helpers.redis_cluster import RedisClusterServers

SWAPS = {"sentinel": swap_sentinels_roles, "cluster": swap_cluster_roles}


@pytest.mark.parametrize(("kind", "swap"), SWAPS.items())
async def test_notes_an_unplanned_takeover(kind: str, swap: Fault, tmp_path: Path) -> None:
    async with open_world(kind, "sqlite", tmp_path) as world:
        takeovers = Takeovers(world)
        await takeovers.note()
        await takeovers.note()
        assert world.windows == []
        begin = time.monotonic()
        await swap(world, Random(1))
        end = time.monotonic()
        world.windows.clear()
        await takeovers.note()
        ((since, until),) = world.windows
        assert since <= begin
        assert end <= until
        await takeovers.note()
        assert len(world.windows) == 1


async def test_notes_an_unplanned_takeover_besides_a_planned_one(tmp_path: Path) -> None:
    async with open_world("cluster", "sqlite", tmp_path) as world:
        assert isinstance(world.redis, RedisClusterServers)
        fail_over = world.redis.fail_over
        takeovers = Takeovers(world)
        await takeovers.note()
        await asyncio.to_thread(fail_over, 0)
        await takeovers.note(meant=1)
        assert world.windows == []
        await asyncio.to_thread(fail_over, 1)
        await asyncio.to_thread(fail_over, 1)
        await takeovers.note(meant=1)
        assert len(world.windows) == 1
        await asyncio.to_thread(fail_over, 0)
        await asyncio.to_thread(fail_over, 2)
        await takeovers.note(meant=1)
        assert len(world.windows) == 2
