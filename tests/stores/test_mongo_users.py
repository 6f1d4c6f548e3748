"""What every user store promises, over MongoDB."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from pymongo.asynchronous.database import AsyncDatabase

from mpauthx_async.stores import MongoUserStore, open_user_store
from mpauthx_async.stores.conformance import UserStoreConformance

FIELDS = {"open_id": "openId", "union_id": "unionId", "nick_name": "name", "gender": "sex"}


class TestCollectionOfTheScaffold(UserStoreConformance):
    @pytest.fixture
    async def store(self, mongo_url: str) -> AsyncIterator[MongoUserStore]:
        store = open_user_store(mongo_url)
        assert isinstance(store, MongoUserStore)
        async with store:
            yield store


class TestOtherFieldsAndAUniqueIndex(UserStoreConformance):
    @pytest.fixture
    async def store(self, mongo: AsyncDatabase[dict[str, Any]]) -> AsyncIterator[MongoUserStore]:
        await mongo.people.create_index("openId", unique=True)
        async with MongoUserStore(mongo, "people", fields=FIELDS) as store:
            yield store
