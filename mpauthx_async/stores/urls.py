"""Opens stores by URL."""

import re
import time
from collections.abc import Callable

from ..concurrency.frames import clears_frames
from ..connections import Connections
from ..errors import ConfigurationError
from .redis.key_value import RedisKeyValueStore
from .redis.token_store import RedisTokenStore
from .sqlite.key_value import SqliteKeyValueStore
from .sqlite.token_store import SqliteTokenStore
from .sqlite.user_store import SqliteUserStore

__all__ = ["open_key_value_store", "open_token_store", "open_user_store"]


@clears_frames
def open_token_store(
    url: str, connections: Connections, clock: Callable[[], float] = time.time
) -> RedisTokenStore | SqliteTokenStore:
    """Open a token store by URL; Redis is reached through the connections' pool.

    Args:
        url: `redis://…`, `rediss://…`, `unix://…`, or `sqlite:///relative.db`,
            `sqlite:////absolute.db`. To that of a Redis `near_cache=100000` may be appended, in its
            query: see RedisTokenStore.
        connections: whose Redis pool to use.
        clock: tells a SQLite store the time, in Unix seconds.

    Raises:
        ConfigurationError: for a URL that names no token store.
    """
    scheme = _scheme(url)
    if scheme in _REDIS_SCHEMES:
        url, near_cache = _without_near_cache(url)
        connections.use_redis(url)
        return RedisTokenStore(connections, near_cache=near_cache)
    if scheme == "sqlite":
        return SqliteTokenStore(_sqlite_path(url), clock=clock)
    raise _no_store("token store", url, "redis://, rediss://, unix:// or sqlite:///")


@clears_frames
def open_key_value_store(
    url: str, connections: Connections, clock: Callable[[], float] = time.time
) -> RedisKeyValueStore | SqliteKeyValueStore:
    """Open a key-value store by URL, in all as `open_token_store`."""
    scheme = _scheme(url)
    if scheme in _REDIS_SCHEMES:
        connections.use_redis(_without_near_cache(url)[0])
        return RedisKeyValueStore(connections)
    if scheme == "sqlite":
        return SqliteKeyValueStore(_sqlite_path(url), clock=clock)
    raise _no_store("store of OAuth tokens", url, "redis://, rediss://, unix:// or sqlite:///")


def open_user_store(url: str, clock: Callable[[], float] = time.time) -> SqliteUserStore:
    """Open a user store by URL.

    Args:
        url: `sqlite:///relative.db` or `sqlite:////absolute.db`.

    Raises:
        ConfigurationError: for a URL that names no user store.
    """
    scheme = _scheme(url)
    if scheme == "sqlite":
        return SqliteUserStore(_sqlite_path(url), clock=clock)
    raise _no_store("user store", url, "sqlite:///")


_REDIS_SCHEMES = ("redis", "rediss", "unix")
_FILE = re.compile(r"[\w./-]+\.(db|sqlite3?)", re.ASCII)
_OPTION = re.compile(r"\w{1,40}", re.ASCII)


def _no_store(kind: str, url: str, forms: str) -> ConfigurationError:
    if _FILE.fullmatch(url):  # nothing else is repeated, for it may hold a password
        return ConfigurationError(f"The URL of a {kind} in the file {url} is sqlite:///{url}.")
    scheme = _scheme(url)
    found = f"not with {scheme}://" if scheme else "and this one has no scheme"
    return ConfigurationError(f"The URL of a {kind} begins with {forms}, {found}.")


def _without_near_cache(url: str) -> tuple[str, int]:
    """A Redis URL as redis-py takes it, and how large a near cache it asks for."""
    base, mark, query = url.partition("?")
    options = query.split("&") if mark else []
    sizes = [option.partition("=")[2] for option in options if option.startswith("near_cache=")]
    if any(not re.fullmatch(r"\d{1,9}", size) for size in sizes):
        raise ConfigurationError("near_cache must be a whole number of tokens.")
    others = "&".join(option for option in options if not option.startswith("near_cache="))
    return base + (f"?{others}" if others else ""), int(sizes[-1]) if sizes else 0


def _scheme(url: str) -> str:
    scheme, separator, _ = url.partition("://")
    return scheme.lower() if separator else ""  # without one it may be a password


def _sqlite_path(url: str) -> str:
    path = url.partition("://")[2]
    if not path.startswith("/") or path == "/":
        raise ConfigurationError("A SQLite URL is sqlite:///relative.db or sqlite:////absolute.db.")
    path, _, query = path.partition("?")
    if query:
        name = query.partition("=")[0]
        option = f"the option {name!r}" if _OPTION.fullmatch(name) else "options"
        raise ConfigurationError(f"A SQLite URL takes no options, and this one has {option}.")
    return path[1:]
