"""What every user store promises, over SQLAlchemy on each driver and on tables of applications."""

from collections.abc import AsyncIterator
from datetime import datetime
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Boolean, Column, DateTime, Integer, MetaData, String, Table, Text
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from mpauthx_async.stores import SQLAlchemyUserStore, WeChatUserMixin, open_user_store
from mpauthx_async.stores.conformance import UserStoreConformance
from tests.helpers.outages import PATIENCE
from tests.helpers.sql_servers import MariaDBServer, PostgreSQLServer

# As on a machine where nothing is slow.
open_store = partial(SQLAlchemyUserStore, timeout=PATIENCE)

DRIVERS = ["sqlite+aiosqlite", *PostgreSQLServer.drivers, *MariaDBServer.drivers]
EVERYTHING = frozenset(
    ("nick_name", "gender", "city", "province", "country", "language", "avatar_url")
)
_ID = String(128).with_variant(mysql.VARCHAR(128, collation="utf8mb4_bin"), "mysql")


class Base(DeclarativeBase):
    pass


class Member(WeChatUserMixin, Base):
    """A model of an application, by the mixin."""

    __tablename__ = "user"

    id: Mapped[int] = mapped_column(primary_key=True)
    points: Mapped[int] = mapped_column(default=7)
    created_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))  # type: ignore[assignment]


MPAUTHX = Table(
    "user",
    MetaData(),
    Column("openId", _ID, primary_key=True),
    *(Column(name, Text) for name in ("city", "country", "language", "nickName", "province")),
    Column("gender", Integer),
)
SEQUELIZE = Table(
    "Users",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("openId", _ID, unique=True),
    Column("unionId", _ID, index=True),
    *(Column(name, Text) for name in ("nickName", "city", "province", "country", "language")),
    Column("avatarUrl", Text),
    Column("gender", Integer),
    Column("createdAt", DateTime(timezone=True), nullable=False),
    Column("updatedAt", DateTime(timezone=True), nullable=False),
)
DJANGO = Table(
    "accounts_user",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("password", String(128), nullable=False, default="!"),
    Column("is_active", Boolean, nullable=False, default=True),
    Column("openid", _ID, nullable=False, unique=True),
    Column("unionid", _ID, nullable=False, index=True),
    Column("nickname", Text, nullable=False),
    Column("sex", String(1), nullable=False),
    Column("date_joined", DateTime(timezone=True), nullable=False),
)
DJANGO_COLUMNS = {
    "open_id": "openid",
    "union_id": "unionid",
    "nick_name": "nickname",
    "gender": "sex",
    "created_at": "date_joined",
}


@pytest.mark.parametrize("sql_driver", DRIVERS)
class TestDefaultTable(UserStoreConformance):
    @pytest.fixture
    async def store(self, sql_url: str) -> AsyncIterator[SQLAlchemyUserStore]:
        store = open_user_store(f"{sql_url}?create=true")
        assert isinstance(store, SQLAlchemyUserStore)
        async with store:
            yield store


@pytest.fixture
async def engine(sql_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(sql_url)
    yield engine
    await engine.dispose()


class TestDatabaseInMemory(UserStoreConformance):
    @pytest.fixture
    async def store(self) -> AsyncIterator[SQLAlchemyUserStore]:
        async with open_store("sqlite+aiosqlite://", create=True) as store:
            yield store


class ConformanceOnAModel(UserStoreConformance):
    """The conformance suite on a model of an application."""

    model: Any
    columns: dict[str, str] | None = None

    @pytest.fixture
    async def store(self, engine: AsyncEngine) -> AsyncIterator[SQLAlchemyUserStore]:
        async with open_store(engine, self.model, columns=self.columns, create=True) as store:
            yield store


@pytest.mark.parametrize("sql_driver", ["postgresql+asyncpg"])
class TestModelByTheMixin(ConformanceOnAModel):
    model = Member
    keeps = EVERYTHING | {"union_id", "created_at", "updated_at"}


@pytest.mark.parametrize("sql_driver", ["mysql+asyncmy"])
class TestTableOfSequelize(ConformanceOnAModel):
    model = SEQUELIZE
    keeps = EVERYTHING | {"union_id"}  # MySQL rounds times to seconds


@pytest.mark.parametrize("sql_driver", ["sqlite+aiosqlite"])
class TestTableOfMpauthx(ConformanceOnAModel):
    model = MPAUTHX
    keeps = EVERYTHING - {"avatar_url"}


@pytest.mark.parametrize("sql_driver", ["sqlite+aiosqlite"])
class TestTableOfDjango(ConformanceOnAModel):
    model, columns = DJANGO, DJANGO_COLUMNS
    keeps = frozenset(("union_id", "nick_name", "gender", "created_at"))
