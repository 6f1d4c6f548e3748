"""What a store has to do, and opening one by URL.

Stores speak in sequences, because the services ask for many callers at once; what is asked for
rarely, OAuth tokens and other records, goes one by one. A store that cannot answer raises
StoreError; it never guesses. A batch is answered item by item: when a row is refused or cannot be
read, its item has a StoreError among the `answers` of a PartialStoreError, and all other items are
written and answered as ever. What else a token or user store raises, MPAuthX turns into a
StoreError with that cause. A store may have `async def check() -> None` beside, which raises
StoreError or ConfigurationError when it cannot serve; by default `MPAuthX.check` reads from it.
`conformance` has the tests that every store passes.
"""

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
