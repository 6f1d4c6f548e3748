"""Opens redis-py clients by URL: of a single Redis, of one behind Sentinels, or of a Cluster."""

import logging
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import EqualJitterBackoff, NoBackoff
from redis.connection import HiredisRespSerializer
from redis.exceptions import ConnectionError, RedisClusterException, RedisError

from ._compat import MarkingPool
from .errors import ConfigurationError
from .redis_sentinels import SentinelPool, Sentinels

__all__ = ["RedisClient", "close_redis", "is_redis_url", "open_redis"]

RedisClient: TypeAlias = Redis | RedisCluster

logger: logging.Logger = logging.getLogger(__name__)

_MAX_REDIS_CONNECTIONS = 16  # callers share trips, so a few serve thousands of them
_REDIS_POOL_WAIT = 5  # seconds for a free connection
_REDIS_TIMEOUT = 3  # seconds for an answer
_REDIS_CONNECT_TIMEOUT = 2  # seconds
_SENTINEL_PORT = 26379
_SENTINEL_OPTIONS = ("username", "password")  # in the query after `sentinel_`
_SCHEME = re.compile(r"(?:redis|valkey)(s?)(?:\+(sentinel|cluster))?://", re.IGNORECASE)
_REDIS_URL = re.compile(r"rediss?://[^/?#]*(/\d*)?(\?[^#@]*)?|unix://.*", re.IGNORECASE)
_MANY = re.compile(  # after the scheme of Sentinels or a Cluster
    r"(?P<user>(?:[^/?#]*@)?)(?P<hosts>[^/?#@,]+(?:,[^/?#@,]+)*)"
    r"(?:/(?P<name>[\w.-]*[A-Za-z_.-][\w.-]*))?(?P<db>(?:/\d*)?)(?P<query>(?:\?[^#@]*)?)",
    re.ASCII,
)
_OPTION = re.compile(r"\w{1,40}", re.ASCII)
_SECRET_QUERY = re.compile(r"\?.*(password|[@#])", re.IGNORECASE | re.DOTALL)
# What redis-py raises for URLs that it does not take. UnboundLocalError is what it raises before
# 7.4 for a protocol that is not a number.
_REFUSALS = (
    ValueError,
    TypeError,
    AttributeError,
    UnboundLocalError,
    RedisError,
    RedisClusterException,
)


def open_redis(url: str) -> RedisClient:
    """Open a client, which connects when it is first used; for the forms see `Connections`.

    If redis-py refuses the URL, a ConfigurationError repeats no part of it but an option's name.
    """
    client = _client_of(url)
    if client is not None:
        return client
    # Not redis-py's own message, which could quote a piece of the password.
    option = _refused_option(url)
    if option == "near_cache":
        raise ConfigurationError(
            "near_cache in a URL works only in a service's tokens=. For a store, pass it as an "
            "argument: RedisTokenStore(url, near_cache=100_000)."
        )
    if option is not None:
        raise ConfigurationError(
            f"redis-py does not take the option {option!r} in a redis:// URL, or not with this "
            "value: check its spelling. For the options see redis-py."
        )
    raise ConfigurationError(
        "redis-py does not take this URL. Use redis://[[user]:password@]host[:port]/[db], rediss://"
        " or unix://, redis+sentinel://host,host/primary[/db] or redis+cluster://host,host, and "
        "percent-encode special characters of the password."
    )


def is_redis_url(url: str) -> bool:
    """Whether `open_redis` takes URLs of this scheme."""
    return _SCHEME.match(url) is not None or url.lower().startswith("unix://")


async def close_redis(client: RedisClient) -> None:
    """Close a client that was opened here."""
    clients = [client]
    pool = getattr(client, "connection_pool", None)
    if isinstance(pool, SentinelPool):
        clients += pool.sentinel_manager.clients
    for each in clients:
        try:
            await each.aclose()
        except RedisError as error:  # the connections are dropped all the same
            logger.warning("Connections to Redis did not close in time: %s", error)


class _Pool(MarkingPool, BlockingConnectionPool):
    def __repr__(self) -> str:  # before 7.4 redis-py's contains the password
        return "<mpauthx_async Redis pool>"


def _client_of(url: str) -> RedisClient | None:
    """Make the client of a URL; None if redis-py refuses it."""
    with suppress(*_REFUSALS):
        kind, urls, primary = _address_of(url)
        if kind == "cluster":
            return _cluster_client(urls)
        settings = _pool_settings()
        pool = _sentinel_pool(urls, primary) if kind else _Pool.from_url(*urls, **settings)
        pool.connection_class(**pool.connection_kwargs)  # raises if the query has other options
        pool.connection_class = _packing_in_c(pool.connection_class)
        return Redis.from_pool(pool)
    return None


def _address_of(url: str) -> tuple[str, Sequence[str], str]:
    """Split a URL; raises ValueError if its form is unknown.

    Returns:
        "sentinel", "cluster" or "" for a single Redis; redis-py's URL of each host; and the name by
        which Sentinels know the primary.
    """
    kind, urls, primary = "", [url], ""
    if scheme := _SCHEME.match(url):
        base, rest = f"redis{scheme[1].lower()}://", url[scheme.end() :]
        kind, urls = (scheme[2] or "").lower(), [base + rest]
        if kind:
            parts = _MANY.fullmatch(rest)
            if parts is None or (parts["name"] is None) is (kind == "sentinel"):
                raise ValueError
            user, db, query, primary = parts["user"], parts["db"], parts["query"], parts["name"]
            urls = [f"{base}{user}{host}{db}{query}" for host in parts["hosts"].split(",")]
    # redis-py takes a misplaced password for the database.
    if not all(map(_REDIS_URL.fullmatch, urls)):
        raise ValueError
    return kind, urls, primary


def _sentinel_pool(urls: Sequence[str], primary: str) -> SentinelPool:
    hosts: list[dict[str, Any]] = [dict(parse_url(url)) for url in urls]
    settings = hosts[0]
    of_sentinels = {
        name: settings.pop(f"sentinel_{name}")
        for name in _SENTINEL_OPTIONS
        if f"sentinel_{name}" in settings
    }
    is_tls = settings.pop("connection_class", None) is SSLConnection
    of_sentinels |= {name: value for name, value in settings.items() if name.startswith("ssl_")}
    pools = [
        ConnectionPool(
            connection_class=SSLConnection if is_tls else Connection,
            host=host.get("host", "localhost"),
            port=host.get("port", _SENTINEL_PORT),
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            **of_sentinels,
        )
        for host in hosts
    ]
    for name in ("host", "port"):
        settings.pop(name, None)
    open_pool: Callable[..., SentinelPool] = SentinelPool  # it has no types in redis-py
    return open_pool(primary, Sentinels(pools), **(_pool_settings() | settings | {"ssl": is_tls}))


def _cluster_client(urls: Sequence[str]) -> RedisCluster:
    hosts = [parse_url(url) for url in urls]
    client: RedisCluster = RedisCluster.from_url(
        urls[0],
        startup_nodes=[
            ClusterNode(str(host.get("host", "localhost")), int(host.get("port", 6379)))
            for host in hosts[1:]
        ],
        socket_timeout=_REDIS_TIMEOUT,
        socket_connect_timeout=_REDIS_CONNECT_TIMEOUT,
    )
    for node in client.nodes_manager.startup_nodes.values():
        node.connection_class(**node.connection_kwargs)  # raises if an option has a wrong value
    return client


def _pool_settings() -> dict[str, Any]:
    # Only lost connections are retried. A server that hangs is not asked again, because its
    # callers have waited long enough.
    backoff = EqualJitterBackoff(base=0.05, cap=0.5)
    return {
        "max_connections": _MAX_REDIS_CONNECTIONS,
        "timeout": _REDIS_POOL_WAIT,
        "socket_timeout": _REDIS_TIMEOUT,
        "socket_connect_timeout": _REDIS_CONNECT_TIMEOUT,
        "retry": Retry(backoff, retries=3, supported_errors=(ConnectionError,)),
        "retry_on_error": [ConnectionError],  # before 6.0 nothing is repeated without it
    }


def _refused_option(url: object) -> str | None:
    """Name the option that redis-py refuses; None if it may be part of a password."""
    if not isinstance(url, str) or _SECRET_QUERY.search(url):
        return None
    base, _, query = url.partition("?")
    if _client_of(base) is None:
        return None
    for option in query.split("&"):
        name = option.partition("=")[0]
        if _OPTION.fullmatch(name) and _client_of(f"{base}?{option}") is None:
            return name
    return None


def _packing_in_c(connection_class: type[AbstractConnection]) -> type[AbstractConnection]:
    """A connection class that packs commands in C, ten times faster, as the sync client does."""
    pack = staticmethod(HiredisRespSerializer().pack)
    return type(connection_class.__name__, (connection_class,), {"pack_command": pack})
