"""Test suites for stores, to run on a store of your own.

Subclass the suite of the store's kind, with a pytest fixture named `store` that gives each test an
empty store (pytest-asyncio in its auto mode runs the tests):

    class TestMyTokenStore(TokenStoreConformance):
        @pytest.fixture
        async def store(self, tmp_path):
            async with MyTokenStore(tmp_path / "tokens.db") as store:
                yield store

A store answers a batch item by item: an item that cannot be stored fails alone (PartialStoreError).
If your store refuses other data than the suites expect, such as by a constraint of its table,
override `refused_user` or `refused_session`.

The store needs a real clock: some sessions last a millisecond. For failures that show the compared
values, call `pytest.register_assert_rewrite("mpauthx_async.stores.conformance")` in conftest.py.
"""

from .examples import UNUSUAL_IDS, new_session
from .oauth_token_store import OAuthTokenStoreConformance, new_oauth_token
from .session_key_store import SessionKeyStoreConformance
from .token_store import TokenStoreConformance
from .user_store import UserStoreConformance

__all__ = [
    "UNUSUAL_IDS",
    "OAuthTokenStoreConformance",
    "SessionKeyStoreConformance",
    "TokenStoreConformance",
    "UserStoreConformance",
    "new_oauth_token",
    "new_session",
]
