"""Connections: one aiohttp session, one Redis pool and one thread pool for all services."""

import asyncio
import logging
import sys
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import cached_property, partial
from typing import Self
from urllib.request import getproxies

import aiohttp
from redis.asyncio.sentinel import SentinelConnectionPool

from ._compat import MarkingPool, connections_of
from .concurrency.in_flight import InFlight
from .concurrency.login_limit import LoginLimit
from .concurrency.traceback_frames import methods_clear_frames
from .errors import ClosedError, ConfigurationError
from .redis_sentinels import PrimaryWatch
from .redis_urls import RedisClient, close_redis, open_redis

if sys.platform != "win32":
    import resource

__all__ = ["Connections", "RedisClient"]

logger: logging.Logger = logging.getLogger(__name__)

_MAX_HTTP_CONNECTIONS = 4096
_HTTP_KEEPALIVE = 15  # seconds that an idle connection stays open
_RESERVED_ONE_IN = 8  # of the connections: 1/8 is for calls that exchange no code
_HTTP_TIMEOUT = aiohttp.ClientTimeout(total=10, connect=5, sock_connect=3)  # seconds
_DNS_CACHE = 300  # seconds
_EXECUTOR_THREADS = 4


@methods_clear_frames()
class Connections:
    """The connections of a process to WeChat and Redis, shared by any number of services.

    Everything opens when it is first used, so this can be created anywhere, without an event loop.
    From then on it belongs to that event loop and process, and raises ConfigurationError in others.
    Ready-made parts are used as they are and never closed here.

    The aiohttp session opens as many connections as WeChat's latency takes: up to 4,096, but at
    most half of the file descriptors that the process may open (RLIMIT_NOFILE). Idle ones are
    closed after 15 seconds. An eighth of them is reserved for calls that exchange no code. A
    ready-made session keeps the limit of its own connector. HTTPS_PROXY is ignored.

    Args:
        redis_url: `redis://host`, `rediss://host` (TLS) or `unix://path` for a single Redis;
            `redis+sentinel://host,host/primary/db`, with the Sentinels' hosts and the name by which
            they know the primary; `redis+cluster://host,host`, with any nodes of a Redis Cluster.
            `rediss+sentinel://` and `rediss+cluster://` use TLS, and `valkey` stands for `redis` in
            all of them. For the options in its query see redis-py; `sentinel_username` and
            `sentinel_password` are those of the Sentinels.
        http: a ready-made aiohttp session. Give it a total timeout.
        redis: a ready-made redis-py asyncio client, of a single Redis, of a primary behind
            Sentinels or of a Redis Cluster.
        executor: a ready-made thread pool for work that would block the event loop.

    Attributes:
        redis_epoch: how often the connections to Redis were replaced because they were stale.
        is_eviction_known: whether Redis was asked for its eviction policy.

    Raises:
        ConfigurationError: both `redis_url` and `redis` are given, or redis-py refuses the URL.
    """

    def __init__(
        self,
        redis_url: str | None = None,
        *,
        http: aiohttp.ClientSession | None = None,
        redis: RedisClient | None = None,
        executor: Executor | None = None,
    ) -> None:
        if redis_url is not None and redis is not None:
            raise ConfigurationError("Give Connections either redis_url or redis, not both.")
        self._http = http
        self._executor = executor
        self._calls = InFlight(self, "This Connections object")
        self.redis_epoch: int = 0
        self.is_eviction_known: bool = False
        self._redis: RedisClient | None = None
        self._redis_url: str | None = None
        self._watch: PrimaryWatch | None = None
        if redis_url is not None:
            self.use_redis(redis_url)
        elif redis is not None:
            self._use(redis)

    @property
    def http(self) -> aiohttp.ClientSession:
        """The aiohttp session; the first use needs a running event loop."""
        self._calls.check_here()
        if self._http is None:
            if getproxies().get("https"):
                logger.warning(
                    "HTTPS_PROXY is set and ignored. To call WeChat through a proxy, pass "
                    "Connections(http=aiohttp.ClientSession(proxy=…, timeout=…))."
                )
            self._http = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self._max_http_connections,
                    keepalive_timeout=_HTTP_KEEPALIVE,
                    ttl_dns_cache=_DNS_CACHE,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=_HTTP_TIMEOUT,
            )
            self._calls.on_close(self._http.close)
        elif self._http.closed:
            raise ClosedError("The aiohttp session that these Connections were given is closed.")
        return self._http

    @cached_property
    def login_limit(self) -> LoginLimit:
        """The limit of the logins in progress, over all services."""
        connections = self._max_http_connections
        return LoginLimit(connections - connections // _RESERVED_ONE_IN)

    @cached_property
    def _max_http_connections(self) -> int:
        limits = [_MAX_HTTP_CONNECTIONS, *_half_of_descriptors()]
        connector = None if self._http is None else self._http.connector  # a ready-made one
        if connector is not None:
            limits += [connector.limit, connector.limit_per_host]
        return min(limit for limit in limits if limit > 0)

    @property
    def redis(self) -> RedisClient:
        """The Redis client over the one pool, for the running event loop."""
        self._calls.check_here()
        return self.configured_redis

    @property
    def configured_redis(self) -> RedisClient:
        """The Redis client, for uses that need no event loop because they do not connect."""
        self._calls.check_open()
        if self._redis is None:
            raise ConfigurationError("These Connections have no Redis: give them a redis_url.")
        return self._redis

    @property
    def knows_redis(self) -> bool:
        """Whether a Redis was configured, so that `redis` does not raise."""
        return self._redis is not None

    @property
    def executor(self) -> Executor:
        """The thread pool for work that would block the event loop."""
        self._calls.check_here()
        if self._executor is None:
            self._executor = ThreadPoolExecutor(_EXECUTOR_THREADS, thread_name_prefix="mpauthx")
            # In a thread: its own may be at work, and waiting here would block the event loop.
            self._calls.on_close(partial(asyncio.to_thread, self._executor.shutdown))
        return self._executor

    def use_redis(self, url: str) -> None:
        """Use the Redis at this URL.

        Raises:
            ConfigurationError: these Connections already use another Redis.
        """
        self._calls.check_open()
        if self._redis is None:
            client = open_redis(url)
            self._calls.on_close(partial(close_redis, client))
            self._use(client)
            self._redis_url = url
        elif self._redis_url != url:
            raise ConfigurationError(
                "These Connections already have a Redis, which this URL does not name. Pass "
                "RedisTokenStore(connections) to use theirs, or RedisTokenStore(url) for another."
            )

    def watch_primary(self) -> None:
        """Begin to ask Sentinels, if there are any, whether the connections lead to the primary.

        If they do not, they are renewed. This is cheap: call it before each trip.
        """
        if self._watch is not None:
            self._watch.look()

    async def renew_redis(self, epoch: int) -> None:
        """Replace the connections to Redis that were opened in this epoch, and begin another one.

        A connection in use is closed when it returns to the pool. The client of a Redis Cluster
        replaces its connections by itself.

        Args:
            epoch: what `redis_epoch` was before the call that failed. If another call has renewed
                them since, nothing happens.
        """
        is_first = epoch == self.redis_epoch
        self.redis_epoch += is_first
        pool = getattr(self._redis, "connection_pool", None)
        if pool is None:
            return
        # Before redis-py 6.4 those of a ready-made pool cannot be marked. Then each call that fails
        # closes those that are not in use, including its own.
        marks_itself = isinstance(pool, MarkingPool)
        can_mark = marks_itself or hasattr(pool.connection_class, "mark_for_reconnect")
        in_use, available = connections_of(pool)
        if can_mark and is_first:
            for connection in in_use:
                pool.marked.add(connection) if marks_itself else connection.mark_for_reconnect()
        # Not pool.disconnect(): while that waits for a connection to close, a call may get it.
        if is_first or not can_mark:
            for connection in available:
                await connection.disconnect(nowait=True)

    async def close(self) -> None:
        """Close what was opened here and leave ready-made parts open.

        It waits for the work in the thread pool, which cannot be cancelled. It may be called again
        and concurrently. If it is cancelled, closing goes on.

        Raises:
            ConfigurationError: in another event loop or process than the first use.
        """
        await self._calls.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _use(self, client: RedisClient) -> None:
        self._redis = client
        pool = getattr(client, "connection_pool", None)
        if isinstance(pool, SentinelConnectionPool):
            self._watch = PrimaryWatch(pool, lambda: self.renew_redis(self.redis_epoch))
            self._calls.on_close(self._watch.close)


def _half_of_descriptors() -> list[int]:
    """Half of the file descriptors that this process may open; empty if it is not limited."""
    if sys.platform == "win32":
        return []
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return [] if descriptors == resource.RLIM_INFINITY else [max(1, descriptors // 2)]
