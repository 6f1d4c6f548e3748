"""The contracts of stores, the stores of this package, and opening one by URL.

Token and user stores take batches, because a service merges concurrent calls; OAuth tokens and
key-value records, which are rare, are taken one by one. A store that cannot answer raises
StoreError. A batch is answered item by item: if a row is refused or unreadable, PartialStoreError
has a StoreError among its `answers`, and all other items are written and answered as usual. MPAuthX
turns every other exception of a store into a StoreError with that cause. A store may have
`async def check() -> None`, which raises StoreError or ConfigurationError if the store cannot
serve; without it `MPAuthX.check` reads from the store. All stores pass the tests in `conformance`.
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
