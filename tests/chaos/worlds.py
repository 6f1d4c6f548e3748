"""The worlds in which chaos happens: a Redis of each kind, users in a SQL database, and WeChat."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from mpauthx_async import Connections, MPAuthX, WeChatSimulator
from tests.helpers.redis_cluster import RedisClusterServers
from tests.helpers.redis_sentinel import RedisSentinels
from tests.helpers.redis_server import RedisServer
from tests.helpers.sql_servers import MariaDBServer, PostgreSQLServer, SQLServer

__all__ = ["GRACE", "OTHER_APP", "WORLDS", "World", "open_world", "service", "until"]

GRACE = 1.0  # seconds, as the services' rotation_grace
OTHER_APP = "wxbbbbbbbbbbbbbbbb"
_NEAR_BOUND = 2.0  # seconds for which a near cache accepts a token that ended, at the most
_PATIENCE = 90  # seconds
_SECRET = "0f1e2d3c" * 4

Redis: TypeAlias = RedisServer | RedisSentinels | RedisClusterServers


@dataclass
class World:
    """What the services run on.

    Attributes:
        kind: single, sentinel or cluster.
        tokens: the URL of `redis`.
        bound: how long an ended token may be accepted, in seconds.
        sql: the server of the users; None for a SQLite file.
        users: their URL, a new database for each round.
        wx: WeChat, with a second app.
        windows: when acknowledged writes to Redis may have been lost.
        is_reduced: whether one of the servers is gone for good.
    """

    kind: str
    redis: Redis
    tokens: str
    bound: float
    sql: SQLServer | None
    users: str
    wx: WeChatSimulator
    windows: list[tuple[float, float]] = field(default_factory=list)
    is_reduced: bool = False

    @property
    def primaries(self) -> Sequence[RedisServer]:
        """Those of this moment."""
        if isinstance(self.redis, RedisServer):
            return [self.redis]
        if isinstance(self.redis, RedisSentinels):
            return [self.redis.primary]
        return self.redis.current_primaries()

    @property
    def users_engine_url(self) -> str:
        """The URL of the users for SQLAlchemy."""
        return self.users.partition("?")[0].replace("sqlite:", "sqlite+aiosqlite:")

    async def empty_users(self) -> None:
        """Let the users have a new database."""
        if self.sql is not None:
            await self.sql.empty_database(self.sql.drivers[0])
        else:
            Path(self.users.removeprefix("sqlite:///")).unlink(missing_ok=True)

    @contextmanager
    def losing(self, since: float) -> Iterator[None]:
        """Note that acknowledged writes may be lost from then to the end of this block."""
        try:
            yield
        finally:
            self.windows.append((since, time.monotonic()))


@contextmanager
def _single() -> Iterator[tuple[RedisServer, str]]:
    with RedisServer(appendonly="yes", appendfsync="always") as server:
        yield server, f"{server.url}?near_cache=1000"


@contextmanager
def _sentinel() -> Iterator[tuple[RedisSentinels, str]]:
    with RedisSentinels() as servers:
        yield servers, f"{servers.url}?near_cache=1000"


@contextmanager
def _cluster() -> Iterator[tuple[RedisClusterServers, str]]:
    with RedisClusterServers() as servers:
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in servers.primaries)
        yield servers, f"redis+cluster://{hosts}"


WORLDS: Mapping[str, Callable[[], AbstractContextManager[tuple[Redis, str]]]] = {
    "single": _single,
    "sentinel": _sentinel,
    "cluster": _cluster,
}
_SQL: dict[str, Callable[[], SQLServer]] = {
    "postgresql": lambda: PostgreSQLServer(deadlock_timeout="100ms"),
    "mariadb": MariaDBServer,
}


@asynccontextmanager
async def open_world(kind: str, database: str, folder: Path) -> AsyncIterator[World]:
    """Start the servers of a world: `database` is postgresql, mariadb or sqlite."""
    simulator = WeChatSimulator(calls_a_minute=None, other_apps={OTHER_APP: _SECRET})
    with ExitStack() as stack:
        redis, tokens = await asyncio.to_thread(stack.enter_context, WORLDS[kind]())
        sql, users = None, f"sqlite:///{folder}/users.db"
        if database in _SQL:
            sql = await asyncio.to_thread(stack.enter_context, _SQL[database]())
            users = f"{await sql.empty_database(sql.drivers[0])}?create=true"
        async with simulator as wx:
            bound = _NEAR_BOUND if "near_cache" in tokens else 0
            yield World(kind, redis, tokens, bound, sql, users, wx)


@asynccontextmanager
async def service(world: World, sku: str, *, is_other_app: bool) -> AsyncIterator[MPAuthX]:
    """A service as of a process of its own: with its own connections."""
    wx = world.wx
    async with Connections() as connections:
        auth = MPAuthX(
            app_id=OTHER_APP if is_other_app else wx.app_id,
            app_secret=_SECRET if is_other_app else wx.app_secret,
            sku=sku,
            users=world.users,
            tokens=world.tokens,
            connections=connections,
            api_base=wx.url,
            signing_keys=[_SECRET],
            rotation_grace=GRACE,
        )
        try:
            yield auth
        finally:
            async with asyncio.timeout(_PATIENCE):
                await auth.close()


async def until(is_so: Callable[[], bool]) -> None:
    """Wait until something that blocks is true."""
    async with asyncio.timeout(_PATIENCE):
        while not await asyncio.to_thread(is_so):  # noqa: ASYNC110 (servers have no event)
            await asyncio.sleep(0.02)
