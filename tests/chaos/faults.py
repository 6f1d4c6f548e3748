"""What goes wrong. Each fault ends when the world is whole again."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random
from typing import TypeAlias

from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from mpauthx_async.simulator import Fault as WeChatFault
from tests.chaos.takeovers import caught_up, until_whole
from tests.chaos.worlds import World, until
from tests.helpers.redis_cluster import MovingSlot, RedisClusterServers, ask
from tests.helpers.redis_sentinel import RedisSentinels
from tests.helpers.redis_server import RedisServer

__all__ = ["TAKEOVERS", "Fault", "draw"]

Fault: TypeAlias = Callable[[World, Random], Awaitable[None]]


def draw(world: World, random: Random, number: int) -> list[Fault]:
    """Draw so many faults: each one of the world in any order, and then again."""
    drawn: list[Fault] = []
    while len(drawn) < number:
        faults = _faults_of(world)
        random.shuffle(faults)
        drawn += faults
    return drawn[:number]


def _faults_of(world: World) -> list[Fault]:
    faults: list[Fault] = [fail_wechat, kill_connections, pause_redis]
    if world.kind == "single":
        faults += [kill_redis]
    elif world.kind == "sentinel":
        faults += [kill_sentinels_primary, hang_sentinels_primary, swap_sentinels_roles]
    else:
        faults += [kill_cluster_primary, swap_cluster_roles, move_slot]
    faults += [lock_sqlite] if world.sql is None else [kill_sql, provoke_deadlocks]
    return faults


async def fail_wechat(world: World, random: Random) -> None:
    for _ in range(random.randint(1, 10)):
        world.wx.fail_next(random.choice(list(WeChatFault)))
    await asyncio.sleep(random.uniform(0, 0.5))
    world.wx.clear_faults()


async def kill_connections(world: World, random: Random) -> None:
    """Those of near caches, or all."""
    only_near = random.random() < 0.5
    for _ in range(random.randint(1, 5)):
        for node in await asyncio.to_thread(lambda: world.primaries):
            await asyncio.to_thread(_kill_clients, node, only_near=only_near)
        await asyncio.sleep(random.uniform(0, 0.2))


async def pause_redis(world: World, random: Random) -> None:
    """Let a primary hang, but not for so long that another Redis takes over."""
    node = random.choice(await asyncio.to_thread(lambda: world.primaries))
    seconds = random.choice([0.3, 3, 6]) if world.kind == "single" else 0.3
    # On a slow machine another Redis may take over all the same.
    with world.losing(await caught_up(world)):
        with node.hanging():
            await asyncio.sleep(seconds)
        await until_whole(world)


async def kill_redis(world: World, random: Random) -> None:
    """Kill the only Redis, which has all on disk that it acknowledged."""
    assert isinstance(world.redis, RedisServer)
    world.redis.stop(signal.SIGKILL)
    await asyncio.sleep(random.uniform(0, 1.5))
    await asyncio.to_thread(world.redis.start)


async def lose_sentinels_primary(world: World, random: Random) -> None:
    """Kill the primary. What it acknowledged is lost if its replica did not have it."""
    assert isinstance(world.redis, RedisSentinels)
    primary = world.redis.primary
    with world.losing(await caught_up(world)):
        primary.stop(signal.SIGKILL)
    world.is_reduced = True
    await asyncio.to_thread(world.redis.wait_for_failover, primary)


async def kill_sentinels_primary(world: World, random: Random) -> None:
    """It comes back empty, as a replica."""
    assert isinstance(world.redis, RedisSentinels)
    primary = world.redis.primary
    await lose_sentinels_primary(world, random)
    await asyncio.sleep(random.uniform(0, 1))
    await asyncio.to_thread(primary.start)
    # Until a Sentinel makes it a replica, which takes ten seconds, it is an empty primary, and if
    # the other one is taken for down it takes over. Then all is lost.
    await asyncio.to_thread(ask, primary, "REPLICAOF", "127.0.0.1", world.redis.primary.port)
    world.is_reduced = False
    await until_whole(world)


async def hang_sentinels_primary(world: World, random: Random) -> None:
    """It comes back, and goes on as a primary until a Sentinel tells it otherwise."""
    assert isinstance(world.redis, RedisSentinels)
    primary = world.redis.primary
    with world.losing(await caught_up(world)):
        with primary.hanging():
            await asyncio.to_thread(world.redis.wait_for_failover, primary)
            await asyncio.sleep(random.uniform(0, 1))
        await until_whole(world)


async def swap_sentinels_roles(world: World, random: Random) -> None:
    assert isinstance(world.redis, RedisSentinels)
    primary = world.redis.primary
    with world.losing(await caught_up(world)):
        with suppress(RedisError):  # too soon after the last failover
            await asyncio.to_thread(world.redis.fail_over)
            await asyncio.to_thread(world.redis.wait_for_failover, primary)
        await until_whole(world)


async def kill_cluster_primary(world: World, random: Random) -> None:
    """Its replica takes over. It comes back empty, as the replica."""
    assert isinstance(world.redis, RedisClusterServers)
    place = random.randrange(len(world.redis.primaries))
    with world.losing(await caught_up(world)):
        primary = (await asyncio.to_thread(world.redis.current_primaries))[place]
        primary.stop(signal.SIGKILL)
    pair = (world.redis.primaries[place], world.redis.replicas[place])
    (successor,) = (node for node in pair if node is not primary)
    await until(lambda: ask(successor, "ROLE")[0] == "master")
    await asyncio.to_thread(primary.start)
    await until_whole(world)


async def swap_cluster_roles(world: World, random: Random) -> None:
    """In an orderly way, which loses nothing."""
    assert isinstance(world.redis, RedisClusterServers)
    place = random.randrange(len(world.redis.primaries))
    since, before = await caught_up(world), await asyncio.to_thread(lambda: world.primaries)
    await asyncio.to_thread(world.redis.fail_over, place)
    # Redis counts the votes for a replica's election of the last seconds for the next one, too. The
    # others do not accept it then, and what it has acknowledged as a primary is lost.
    if (await asyncio.to_thread(lambda: world.primaries))[place] is before[place]:
        world.windows.append((since, time.monotonic()))


async def move_slot(world: World, random: Random) -> None:
    assert isinstance(world.redis, RedisClusterServers)
    nodes = await asyncio.to_thread(world.redis.current_primaries)
    keys = [ask(node, "RANDOMKEY") for node in nodes]
    key = random.choice([key for key in keys if key is not None] or [None])
    if key is not None:
        slot = MovingSlot(world.redis, key)
        await asyncio.sleep(random.uniform(0, 0.3))
        await asyncio.to_thread(slot.finish)
        await asyncio.to_thread(world.redis.wait_until_whole)


async def kill_sql(world: World, random: Random) -> None:
    assert world.sql is not None
    await asyncio.to_thread(world.sql.stop, world.sql.quick_stop)
    await asyncio.sleep(random.uniform(0, 1))
    await asyncio.to_thread(world.sql.start)


async def provoke_deadlocks(world: World, random: Random) -> None:
    """Lock rows in the order opposite to that of the services."""
    engine = create_async_engine(world.users_engine_url, poolclass=NullPool)
    for _ in range(random.randint(2, 6)):
        with suppress(SQLAlchemyError):  # this connection may be the one that gives way
            async with engine.begin() as connection:
                for table in random.sample(["mpauthx_user", "mpauthx_link"], 2):
                    key = "open_id" if table == "mpauthx_user" else "id"
                    rows = await connection.execute(
                        text(f"SELECT {key} FROM {table} ORDER BY {key} DESC LIMIT 30")
                    )
                    for (value,) in rows.all():
                        await connection.execute(
                            text(f"SELECT 1 FROM {table} WHERE {key} = :key FOR UPDATE"),
                            {"key": value},
                        )
                await asyncio.sleep(random.uniform(0, 0.2))
    await engine.dispose()


async def lock_sqlite(world: World, random: Random) -> None:
    """Hold the write lock of the users' file, also for longer than a call waits."""
    engine = create_async_engine(world.users_engine_url, poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.exec_driver_sql("BEGIN IMMEDIATE")
        await asyncio.sleep(random.choice([0.3, 3, 7]))
    await engine.dispose()


def _kill_clients(node: RedisServer, *, only_near: bool) -> None:
    with Redis(port=node.port) as client, suppress(RedisError):
        for one in client.client_list():
            is_replication = set(one["flags"]) & {"M", "S"} or one["name"].startswith("sentinel-")
            if not is_replication and (not only_near or "t" in one["flags"]):
                client.client_kill_filter(_id=one["id"])


TAKEOVERS: frozenset[Fault] = frozenset(
    {
        lose_sentinels_primary,
        kill_sentinels_primary,
        hang_sentinels_primary,
        swap_sentinels_roles,
        kill_cluster_primary,
        swap_cluster_roles,
    }
)
"""The faults in which a replica takes over from its primary, once."""
