"""The tests that every store passes, for users to run on a store of their own.

Subclass the suite of the store's kind, and let a pytest fixture named `store` give an empty store
to each test (pytest-asyncio in its auto mode runs them):

    class TestMyTokenStore(TokenStoreConformance):
        @pytest.fixture
        async def store(self, tmp_path):
            async with MyTokenStore(tmp_path / "tokens.db") as store:
                yield store

A store answers a batch item by item: what it cannot save or begin fails alone (PartialStoreError).
If your store refuses other data than the suites', such as by a constraint of its table, override
`refused_user` or `refused_session`.

The store goes by the real time: some sessions last a millisecond. For asserts that
tell what they compared, put `pytest.register_assert_rewrite("mpauthx_async.stores.conformance")`
into conftest.py.
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
