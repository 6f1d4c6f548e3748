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

_REDIS_SCHEMES = ("redis", "rediss", "unix")
_SQLITE_FORM = "sqlite:///"
_ALL_FORMS = f"redis://, rediss://, unix:// or {_SQLITE_FORM}"
_FILE = re.compile(r"[\w./-]+\.(db|sqlite3?)", re.ASCII)
_OPTION = re.compile(r"\w{1,40}", re.ASCII)


@clears_frames
def open_token_store(
    url: str, connections: Connections, clock: Callable[[], float] = time.time
) -> RedisTokenStore | SqliteTokenStore:
    """Open a token store by URL; Redis is reached through the connections' pool.

    Args:
        url: `redis://…`, `rediss://…`, `unix://…`, `sqlite:///relative.db` or
            `sqlite:////absolute.db`. The query of a Redis URL may contain `near_cache=100000`: see
            RedisTokenStore.
        connections: their Redis pool is used.
        clock: returns the time of a SQLite store, in Unix seconds.

    Raises:
        ConfigurationError: the URL does not name a token store.
    """
    if _scheme(url) in _REDIS_SCHEMES:
        url, near_cache = _without_near_cache(url)
        connections.use_redis(url)
        return RedisTokenStore(connections, near_cache=near_cache)
    return SqliteTokenStore(_sqlite_path("token store", url, _ALL_FORMS), clock=clock)


@clears_frames
def open_key_value_store(
    url: str, connections: Connections, clock: Callable[[], float] = time.time
) -> RedisKeyValueStore | SqliteKeyValueStore:
    """Open a key-value store by URL. For the arguments see `open_token_store`.

    Raises:
        ConfigurationError: the URL does not name a key-value store.
    """
    if _scheme(url) in _REDIS_SCHEMES:
        connections.use_redis(_without_near_cache(url)[0])
        return RedisKeyValueStore(connections)
    return SqliteKeyValueStore(_sqlite_path("store of OAuth tokens", url, _ALL_FORMS), clock=clock)


def open_user_store(url: str, clock: Callable[[], float] = time.time) -> SqliteUserStore:
    """Open a user store by URL.

    Args:
        url: `sqlite:///relative.db` or `sqlite:////absolute.db`.
        clock: returns the time in Unix seconds.

    Raises:
        ConfigurationError: the URL does not name a user store.
    """
    return SqliteUserStore(_sqlite_path("user store", url, _SQLITE_FORM), clock=clock)


def _without_near_cache(url: str) -> tuple[str, int]:
    """Split a Redis URL into redis-py's URL and the size of the near cache."""
    base, mark, query = url.partition("?")
    options = query.split("&") if mark else []
    sizes = [option.partition("=")[2] for option in options if option.startswith("near_cache=")]
    if any(not re.fullmatch(r"\d{1,9}", size) for size in sizes):
        raise ConfigurationError("near_cache must be a whole number of tokens.")
    others = "&".join(option for option in options if not option.startswith("near_cache="))
    return base + (f"?{others}" if others else ""), int(sizes[-1]) if sizes else 0


def _scheme(url: str) -> str:
    scheme, separator, _ = url.partition("://")
    return scheme.lower() if separator else ""  # without a separator it may be a password


def _sqlite_path(kind: str, url: str, forms: str) -> str:
    """The path in the SQLite URL of a store of this kind. Errors repeat no passwords of URLs."""
    scheme = _scheme(url)
    if scheme != "sqlite":
        if _FILE.fullmatch(url):
            raise ConfigurationError(f"The URL of a {kind} in the file {url} is sqlite:///{url}.")
        found = f"not with {scheme}://" if scheme else "and this one has no scheme"
        raise ConfigurationError(f"The URL of a {kind} begins with {forms}, {found}.")
    path = url.partition("://")[2]
    if not path.startswith("/") or path == "/":
        raise ConfigurationError("A SQLite URL is sqlite:///relative.db or sqlite:////absolute.db.")
    path, _, query = path.partition("?")
    if query:
        name = query.partition("=")[0]
        option = f"the option {name!r}" if _OPTION.fullmatch(name) else "options"
        raise ConfigurationError(f"A SQLite URL takes no options, and this one has {option}.")
    return path[1:]
