"""Connections: one aiohttp session, one Redis pool and one thread pool for all services."""

import asyncio
import logging
import re
import sys
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property, partial
from typing import Self, TypeAlias
from urllib.request import getproxies

import aiohttp
from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import EqualJitterBackoff
from redis.connection import HiredisRespSerializer
from redis.exceptions import ConnectionError, RedisError

from ._compat import connections_of
from .concurrency.frames import methods_clear_frames
from .concurrency.in_flight import InFlight
from .concurrency.login_limit import LoginLimit
from .errors import ClosedError, ConfigurationError

if sys.platform != "win32":
    import resource

__all__ = ["Connections", "RedisClient"]

RedisClient: TypeAlias = Redis | RedisCluster

logger: logging.Logger = logging.getLogger(__name__)

_MAX_HTTP_CONNECTIONS = 4096
_HTTP_KEEPALIVE = 15  # seconds that an idle connection stays open
_RESERVED_PART = 8  # of the connections: 1/8 is for calls that exchange no code
_HTTP_TIMEOUT = aiohttp.ClientTimeout(total=10, connect=5, sock_connect=3)  # seconds
_DNS_CACHE = 300  # seconds
_MAX_REDIS_CONNECTIONS = 16  # callers share trips, so a few serve thousands of them
_REDIS_POOL_WAIT = 5  # seconds for a free connection
_REDIS_TIMEOUT = 3  # seconds for an answer
_REDIS_CONNECT_TIMEOUT = 2  # seconds
_REDIS_URL = re.compile(r"rediss?://[^/?#]*(/\d*)?(\?[^#@]*)?|unix://.*", re.IGNORECASE)
_OPTION = re.compile(r"\w{1,40}", re.ASCII)
_SECRET_QUERY = re.compile(r"\?.*(password|[@#])", re.IGNORECASE | re.DOTALL)
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
        redis_url: `redis://`, `rediss://` or `unix://`; for the options in its query see redis-py.
        http: a ready-made aiohttp session. Give it a total timeout.
        redis: a ready-made redis-py asyncio client, of a single Redis or of a Redis Cluster.
        executor: a ready-made thread pool for work that would block the event loop.

    Attributes:
        redis_epoch: how often the connections to Redis were replaced because they were stale.
        is_eviction_known: whether Redis was asked for its eviction policy.

    Raises:
        ConfigurationError: both `redis_url` and `redis` are given, or redis-py refuses the URL.
    """

    redis_epoch: int

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
        self._redis_url = redis_url
        self._http = http
        self._executor = executor
        self._owns_http = http is None
        self._calls = InFlight(self, "This Connections object")
        self._redis = redis if redis_url is None else self._open_redis(redis_url)
        self.redis_epoch = 0
        self.is_eviction_known = False

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
        return LoginLimit(connections - connections // _RESERVED_PART)

    @cached_property
    def _max_http_connections(self) -> int:
        limits = [_MAX_HTTP_CONNECTIONS, *_half_of_descriptors()]
        connector = None if self._owns_http or self._http is None else self._http.connector
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
        """Whether there is a Redis client."""
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
            self._redis = self._open_redis(url)
            self._redis_url = url
        elif self._redis_url != url:
            raise ConfigurationError(
                "These Connections already have a Redis, which this URL does not name. Pass "
                "RedisTokenStore(connections) to use theirs, or RedisTokenStore(url) for another."
            )

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
        # Before redis-py 6.4 connections cannot be marked. Then each call that fails closes those
        # that are not in use, including its own.
        can_mark = hasattr(pool.connection_class, "mark_for_reconnect")
        in_use, available = connections_of(pool)
        if can_mark and is_first:
            for connection in in_use:
                connection.mark_for_reconnect()
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

    def _open_redis(self, url: str) -> Redis:
        client = _open_redis(url)
        self._calls.on_close(partial(_close_redis, client))
        return client


def _half_of_descriptors() -> list[int]:
    """Half of the file descriptors that this process may open; empty if it is not limited."""
    if sys.platform == "win32":
        return []
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return [] if descriptors == resource.RLIM_INFINITY else [max(1, descriptors // 2)]


class _Pool(BlockingConnectionPool):
    def __repr__(self) -> str:  # before 7.4 redis-py's contains the password
        return "<mpauthx_async Redis pool>"


def _open_redis(url: str) -> Redis:
    pool = _pool_of(url)
    if pool is not None:
        return Redis.from_pool(pool)
    # Not redis-py's own message, which could quote a piece of the password.
    option = _refused_option(url)
    if option is not None:
        raise ConfigurationError(
            f"redis-py does not take the option {option!r} in a redis:// URL, or not with this "
            "value: check its spelling. For the options see redis-py."
        )
    raise ConfigurationError(
        "redis-py does not take this URL. Use redis://[[user]:password@]host[:port]/[db], rediss://"
        " or unix://, and percent-encode special characters of the password."
    )


async def _close_redis(client: Redis) -> None:
    try:
        await client.aclose()
    except RedisError as error:  # the connections are dropped all the same
        logger.warning("Connections to Redis did not close in time: %s", error)


def _pool_of(url: str) -> BlockingConnectionPool | None:
    """Make the pool of a Redis; None if redis-py refuses the URL."""
    # Only lost connections are retried. A server that hangs is not asked again, because its
    # callers have waited long enough.
    backoff = EqualJitterBackoff(base=0.05, cap=0.5)
    retry = Retry(backoff, retries=3, supported_errors=(ConnectionError,))
    # UnboundLocalError is what redis-py before 7.4 raises for a protocol that is not a number.
    with suppress(ValueError, TypeError, AttributeError, UnboundLocalError, RedisError):
        if not _REDIS_URL.fullmatch(url):  # redis-py takes a misplaced password for the database
            raise ValueError
        pool = _Pool.from_url(
            url,
            max_connections=_MAX_REDIS_CONNECTIONS,
            timeout=_REDIS_POOL_WAIT,
            socket_timeout=_REDIS_TIMEOUT,
            socket_connect_timeout=_REDIS_CONNECT_TIMEOUT,
            retry=retry,
            retry_on_error=[ConnectionError],  # before 6.0 nothing is repeated without it
        )
        pool.connection_class(**pool.connection_kwargs)  # raises if the query has other options
        pool.connection_class = _packing_in_c(pool.connection_class)
        return pool
    return None


def _refused_option(url: object) -> str | None:
    """Name the option that redis-py refuses; None if it may be part of a password."""
    if not isinstance(url, str) or _SECRET_QUERY.search(url):
        return None
    base, _, query = url.partition("?")
    if _pool_of(base) is None:
        return None
    for option in query.split("&"):
        name = option.partition("=")[0]
        if _OPTION.fullmatch(name) and _pool_of(f"{base}?{option}") is None:
            return name
    return None


def _packing_in_c(connection_class: type[AbstractConnection]) -> type[AbstractConnection]:
    """A connection that packs commands in C, ten times as fast, as redis-py's blocking client."""
    pack = staticmethod(HiredisRespSerializer().pack)
    return type(connection_class.__name__, (connection_class,), {"pack_command": pack})
