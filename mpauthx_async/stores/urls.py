"""Opens stores by URL."""

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..concurrency.traceback_frames import clears_frames
from ..connections import Connections
from ..errors import ConfigurationError
from ..redis_urls import is_redis_url
from .redis.key_value import RedisKeyValueStore
from .redis.token_store import RedisTokenStore
from .sqlite.key_value import SqliteKeyValueStore
from .sqlite.token_store import SqliteTokenStore
from .sqlite.user_store import SqliteUserStore

if TYPE_CHECKING:
    from .mongo.user_store import MongoUserStore
    from .sqlalchemy.user_store import SQLAlchemyUserStore

__all__ = ["open_key_value_store", "open_token_store", "open_user_store"]

_SQLITE_FORM = "sqlite:///"
_ALL_FORMS = f"redis://, rediss://, redis+sentinel://, redis+cluster://, unix:// or {_SQLITE_FORM}"
_USER_FORMS = f"{_SQLITE_FORM}, postgresql+asyncpg://, mysql+asyncmy:// or mongodb://"
_MONGO_SCHEMES = ("mongodb", "mongodb+srv")
_SQLALCHEMY = re.compile(r"(postgres(ql)?|mysql|mariadb)(\+\w+)?://|sqlite\+\w+://", re.IGNORECASE)
_FILE = re.compile(r"[\w./-]+\.(db|sqlite3?)", re.ASCII)
_SCHEME = re.compile(r"[\w+.-]{1,40}", re.ASCII)
_OPTION = re.compile(r"\w{1,40}", re.ASCII)


@clears_frames
def open_token_store(
    url: str, connections: Connections, clock: Callable[[], float] = time.time
) -> RedisTokenStore | SqliteTokenStore:
    """Open a token store by URL; Redis is reached through the connections' pool.

    Args:
        url: `sqlite:///relative.db`, `sqlite:////absolute.db`, or a Redis URL: for the forms see
            Connections. Its query may contain `near_cache=100000`: see RedisTokenStore.
        connections: their Redis pool is used.
        clock: returns the time of a SQLite store, in Unix seconds.

    Raises:
        ConfigurationError: the URL does not name a token store.
    """
    if is_redis_url(url):
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
    if is_redis_url(url):
        connections.use_redis(_without_near_cache(url)[0])
        return RedisKeyValueStore(connections)
    return SqliteKeyValueStore(_sqlite_path("store of OAuth tokens", url, _ALL_FORMS), clock=clock)


@clears_frames
def open_user_store(
    url: str, clock: Callable[[], float] = time.time
) -> "SqliteUserStore | SQLAlchemyUserStore | MongoUserStore":
    """Open a user store by URL.

    Args:
        url: `sqlite:///relative.db` or `sqlite:////absolute.db`; or `mongodb://host/database` or
            `mongodb+srv://…`: see MongoUserStore; or one of SQLAlchemy with an asyncio driver, such
            as `postgresql+asyncpg://…` or `mysql+asyncmy://…`, whose query may contain
            `create=true`: see SQLAlchemyUserStore.
        clock: returns the time in Unix seconds.

    Raises:
        ConfigurationError: the URL does not name a user store.
        ImportError: SQLAlchemy or PyMongo is needed and not installed.
    """
    if _SQLALCHEMY.match(url):
        from .sqlalchemy.user_store import SQLAlchemyUserStore

        url, create = _without_option(url, "create")
        if create not in (None, "true"):
            raise ConfigurationError("create in the URL of a user store can only be true.")
        return SQLAlchemyUserStore(url, create=create is not None, clock=clock)
    if _scheme(url) in _MONGO_SCHEMES:
        from .mongo.user_store import MongoUserStore

        return MongoUserStore(url, clock=clock)
    return SqliteUserStore(_sqlite_path("user store", url, _USER_FORMS), clock=clock)


def _without_near_cache(url: str) -> tuple[str, int]:
    """Split a Redis URL into redis-py's URL and the size of the near cache."""
    base, size = _without_option(url, "near_cache")
    if size is not None and not re.fullmatch(r"\d{1,9}", size):
        raise ConfigurationError("near_cache must be a whole number of tokens.")
    return base, int(size or 0)


def _without_option(url: str, name: str) -> tuple[str, str | None]:
    """Take an option off the query of a URL; returns its value, None without it."""
    base, mark, query = url.partition("?")
    options = query.split("&") if mark else []
    values = [option.partition("=")[2] for option in options if option.startswith(f"{name}=")]
    if len(values) > 1:
        raise ConfigurationError(f"{name} appears twice in the URL.")
    others = "&".join(option for option in options if not option.startswith(f"{name}="))
    return base + (f"?{others}" if others else ""), values[-1] if values else None


def _scheme(url: str) -> str:
    scheme, separator, _ = url.partition("://")
    # Otherwise it may be a part of a password.
    return scheme.lower() if separator and _SCHEME.fullmatch(scheme) else ""


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
