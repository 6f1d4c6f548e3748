"""What processes leave of sessions when they are killed between any two steps."""

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from redis.asyncio import Redis

from mpauthx_async import Connections, RedisTokenStore, SqliteTokenStore, Subject
from mpauthx_async.stores import open_token_store
from mpauthx_async.stores.conformance.examples import is_alive
from tests.helpers.line_process import ROOT
from tests.helpers.redis_server import RedisServer
from tests.helpers.session_loop import USERS
from tests.helpers.sqlite_files import query

KILLS = 12
CALLS = 60  # that a process has made at most when it is killed


@pytest.mark.parametrize("kind", ["redis", "sqlite"])
async def test_processes_killed_at_any_moment_leave_sessions_that_agree(
    kind: str, redis: Redis, redis_server: RedisServer, tmp_path: Path
) -> None:
    path, users = tmp_path / "tokens.db", f"sqlite:///{tmp_path}/users.db"
    url = redis_server.url if kind == "redis" else f"sqlite:///{path}"
    chance = random.Random(20)
    found = 0
    async with Connections() as connections, open_token_store(url, connections) as store:
        for seed in range(KILLS):
            run_and_kill(url, users, seed, after=chance.randrange(CALLS))
            living = await living_in_redis(redis) if kind == "redis" else living_in_sqlite(path)
            await check(store, living)
            found += len(living)
    assert found > KILLS


async def check(store: RedisTokenStore | SqliteTokenStore, living: set[str]) -> None:
    """That each session listed is valid, each valid one listed, and that online agrees."""
    of_users = {user_id: await store.sessions(Subject("shop", user_id)) for user_id in USERS}
    sessions = [session for own in of_users.values() for session in own]
    assert {session.id for session in sessions} == living
    assert await is_alive(store, *sessions) == [True] * len(sessions)
    assert list(await store.read([session.ref for session in sessions])) == sessions
    assert max(map(len, of_users.values())) <= 3
    online = {user_id for user_id, own in of_users.items() if own}
    assert sorted((await store.online("shop", cursor=None, limit=100)).user_ids) == sorted(online)
    assert await store.online_count("shop") == len(online)


def run_and_kill(tokens: str, users: str, seed: int, *, after: int) -> None:
    """Let a process work, and kill it when it has made that many calls and is at the next ones."""
    command = [sys.executable, "-m", "tests.helpers.session_loop", tokens, users, str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(after + 1)]
        process.kill()
    assert all(line.startswith((b"done", b"refused")) for line in lines), lines


async def living_in_redis(redis: Redis) -> set[str]:
    keys = await redis.keys("mpauthx:t:*")
    values = await redis.mget(keys)
    return {
        key.decode().rpartition(":")[2]
        for key, value in zip(keys, values, strict=True)
        if value is not None and not value.startswith(b"-")
    }


def living_in_sqlite(path: Path) -> set[str]:
    living = f"ended IS NULL AND expires_at > {time.time_ns() // 1_000_000}"
    return {nonce for (nonce,) in query(path, f"SELECT nonce FROM mpauthx_session WHERE {living}")}
