"""The contracts of stores, and opening a store by URL.

A store's frequent methods for sessions and users take a sequence, because concurrent calls are
batched; all others take one subject, user or item. A store that cannot answer raises StoreError.
Each item of a batch fails alone: the `answers` of a PartialStoreError contain a StoreError for an
item that cannot be written or read, and the answers of all others. MPAuthX turns
any other exception of a store into a StoreError with that cause. A store may have
`async def check() -> None`, which raises StoreError or ConfigurationError if it cannot serve;
without it, `MPAuthX.check` reads from the store. `conformance` has the tests that every store must
pass.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .oauth_tokens import FunctionOAuthTokenStore, KeyValueOAuthTokenStore, OAuthTokenFunctions
from .profiles import complete_profile, merge_profile
from .protocols import (
    Checkable,
    KeyValueStore,
    OAuthTokenStore,
    SessionKeyStore,
    TokenStore,
    UserStore,
    longest_wait,
    system_of,
)
from .redis.key_value import RedisKeyValueStore
from .redis.token_store import RedisTokenStore
from .sqlite.key_value import SqliteKeyValueStore
from .sqlite.token_store import SqliteTokenStore
from .sqlite.user_store import SqliteUserStore
from .urls import open_key_value_store, open_token_store, open_user_store

if TYPE_CHECKING:
    from .mongo.user_store import MongoUserStore as MongoUserStore
    from .sqlalchemy.models import WeChatUserMixin as WeChatUserMixin
    from .sqlalchemy.models import link_table as link_table
    from .sqlalchemy.oauth_tokens import SQLAlchemyOAuthTokenStore as SQLAlchemyOAuthTokenStore
    from .sqlalchemy.user_store import SQLAlchemyUserStore as SQLAlchemyUserStore

__all__ = [
    "Checkable",
    "FunctionOAuthTokenStore",
    "KeyValueOAuthTokenStore",
    "KeyValueStore",
    "OAuthTokenFunctions",
    "OAuthTokenStore",
    "RedisKeyValueStore",
    "RedisTokenStore",
    "SessionKeyStore",
    "SqliteKeyValueStore",
    "SqliteTokenStore",
    "SqliteUserStore",
    "TokenStore",
    "UserStore",
    "complete_profile",
    "longest_wait",
    "merge_profile",
    "open_key_value_store",
    "open_token_store",
    "open_user_store",
    "system_of",
]


_NEEDS_AN_EXTRA = {
    "MongoUserStore": ".mongo.user_store",
    "SQLAlchemyOAuthTokenStore": ".sqlalchemy.oauth_tokens",
    "SQLAlchemyUserStore": ".sqlalchemy.user_store",
    "WeChatUserMixin": ".sqlalchemy.models",
    "link_table": ".sqlalchemy.models",
}


def __getattr__(name: str) -> Any:
    """Import what needs SQLAlchemy or PyMongo when it is first used."""
    if name not in _NEEDS_AN_EXTRA:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_NEEDS_AN_EXTRA[name], __name__), name)
