"""SQLAlchemyUserStore on models and tables of applications: what it writes, leaves and refuses."""

import asyncio
import logging
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from mpauthx_async import ConfigurationError, StoreError, User
from mpauthx_async.failure_log import failures
from mpauthx_async.stores import SQLAlchemyUserStore, WeChatUserMixin, link_table, open_user_store
from tests.helpers.line_process import LineProcess
from tests.helpers.outages import PATIENCE, partial_answers
from tests.helpers.sql_servers import execute
from tests.helpers.user_stores import only_user

# As on a machine where nothing is slow.
open_store = partial(SQLAlchemyUserStore, timeout=PATIENCE)

NOW = 1_700_000_000.5
ALICE = User("o-alice", None, "Alice", 1, "Guangzhou", app_id="shop")


# Saves 200 persons, in the order that is given, by two openIds in turn; prints who was new.
_SAVER = """if True:
    import asyncio, sys
    from mpauthx_async import User
    from mpauthx_async.stores import open_user_store

    async def main():
        async with open_user_store(sys.argv[1]) as store:
            await store.get([])
            print("open", flush=True)
            sys.stdin.readline()
            numbers = range(200)[::int(sys.argv[2])]
            users = [User(f"o-{i % 2}-{i}", f"u-{i}", app_id="shop") for i in numbers]
            others = [User(f"o-{1 - i % 2}-{i}", f"u-{i}", app_id="game") for i in numbers]
            found = []
            for start in range(0, 200, 20):
                batch = (users if start % 40 else others)[start:start + 20]
                is_new = await store.save(batch)
                found += [user.union_id for user, new in zip(batch, is_new) if new]
            await store.save(users + others)
            print(*found)

    asyncio.run(main())
"""


class Base(DeclarativeBase):
    pass


class Member(WeChatUserMixin, Base):
    __tablename__ = "members"

    id: Mapped[int] = mapped_column(primary_key=True)
    points: Mapped[int] = mapped_column(default=7)
    email: Mapped[str | None] = mapped_column(sa.String(100), unique=True)
    seen_at: Mapped[datetime | None] = mapped_column(
        sa.DateTime, onupdate=lambda: datetime(2026, 1, 1)
    )
    orders: Mapped[list["Order"]] = relationship()


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    member_id: Mapped[int] = mapped_column(sa.ForeignKey("members.id"))


class Person(Base):
    """A model with names of its own."""

    __tablename__ = "people"

    key: Mapped[int] = mapped_column(primary_key=True)
    wechat: Mapped[str] = mapped_column("wx_openid", sa.String(128), unique=True)
    called: Mapped[str | None] = mapped_column("display_name", sa.String(20))
    city: Mapped[str | None] = mapped_column(sa.String(20), default="of the app")


def table(*columns: sa.Column[Any], name: str = "users") -> sa.Table:
    return sa.Table(name, sa.MetaData(), *columns)


@pytest.fixture
async def engine(sql_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(sql_url, hide_parameters=True)
    yield engine
    await engine.dispose()


async def create(engine: AsyncEngine, *tables: Any) -> None:
    """Create tables as an application's migration does, with that of links."""
    metadata = sa.MetaData()
    link_table(metadata)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
        for table in tables:
            await connection.run_sync(table.create)


async def rows(engine: AsyncEngine, statement: Any) -> list[tuple[Any, ...]]:
    async with engine.connect() as connection:
        return [tuple(row) for row in await connection.execute(statement)]


class TestModelByTheMixin:
    async def test_the_apps_columns_and_foreign_keys_stay(self, engine: AsyncEngine) -> None:
        await create(engine, Member.__table__, Order.__table__)
        async with open_store(engine, Member, clock=lambda: NOW) as store:
            assert list(await store.save([ALICE])) == [True]
            async with engine.begin() as connection:
                await connection.execute(sa.insert(Order).values(member_id=1))
                await connection.execute(sa.update(Member).values(points=99, email="a@b"))
            assert list(await store.save([User("o-alice", "u-alice", city="Wuhan")])) == [False]
        found = sa.select(
            Member.id, Member.open_id, Member.union_id, Member.city, Member.points, Member.email
        )
        assert await rows(engine, found) == [(1, "o-alice", "u-alice", "Wuhan", 99, "a@b")]
        assert await rows(engine, sa.select(Order.member_id)) == [(1,)]
        assert await rows(engine, sa.select(Member.created_at, Member.seen_at)) == [
            (1_700_000_000_500, datetime(2026, 1, 1))
        ]

    async def test_a_user_to_whom_rows_refer_is_not_forgotten(self, engine: AsyncEngine) -> None:
        await create(engine, Member.__table__, Order.__table__)
        async with open_store(engine, Member) as store:
            await store.save([ALICE, User("o-bob")])
            async with engine.begin() as connection:
                await connection.execute(sa.insert(Order).values(member_id=1))
            with pytest.raises(StoreError, match="foreign key") as caught:
                await store.forget("o-alice", app_ids={"shop"})
            assert not caught.value.retryable
            assert await store.get(["o-alice"]) != [None]
            assert await store.forget("o-bob", app_ids={"shop"}) is True

    async def test_a_row_that_a_constraint_refuses_fails_alone(self, engine: AsyncEngine) -> None:
        strict = table(
            sa.Column("open_id", sa.String(128), primary_key=True),
            sa.Column("city", sa.String(20), sa.CheckConstraint("city <> 'Atlantis'")),
            sa.Column("nick_name", sa.String(10)),
        )
        await create(engine, strict)
        async with open_store(engine, strict) as store:
            users = [User(f"o-{i}", city="Wuhan") for i in range(20)]
            users[3] = User("o-3", city="Atlantis")
            users[17] = User("o-17", nick_name="x" * 11)
            answers = await partial_answers(store.save(users))
            refused = [i for i, answer in enumerate(answers) if isinstance(answer, StoreError)]
            assert refused == [3, 17]
            assert [answers[i].retryable for i in refused] == [False, False]
            assert [answer for answer in answers if answer is True] == [True] * 18
            found = await store.get([user.open_id for user in users])
            assert [i for i, user in enumerate(found) if user is None] == [3, 17]


class TestNames:
    async def test_a_mapped_class_may_have_other_names(self, engine: AsyncEngine) -> None:
        await create(engine, Person.__table__)
        columns = {"open_id": "wechat", "nick_name": "called"}
        async with open_store(engine, Person, columns=columns) as store:
            assert list(await store.save([ALICE])) == [True]
            assert list(await store.save([User("o-alice", nick_name="Ali")])) == [False]
            (alice,) = await store.get(["o-alice"])
        assert alice == User("o-alice", nick_name="Ali", app_id="shop")
        assert await rows(engine, sa.select(Person.wechat, Person.called, Person.city)) == [
            ("o-alice", "Ali", "of the app")
        ]

    async def test_rows_that_another_application_wrote_are_known(self, engine: AsyncEngine) -> None:
        users = table(
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("openId", sa.String(128), unique=True),
            sa.Column("unionId", sa.String(128), index=True),
            *(sa.Column(name, sa.DateTime, nullable=False) for name in ("createdAt", "updatedAt")),
            name="Users",
        )
        await create(engine, users)
        values = dict.fromkeys(("createdAt", "updatedAt"), datetime(2020, 2, 2, 12))
        async with engine.begin() as connection:
            await connection.execute(sa.insert(users), [{"openId": "o-alice", **values}])
            await connection.execute(sa.insert(users), [{"unionId": "u-bob", **values}])
        async with open_store(engine, users) as store:
            known = [User("o-alice", "u-alice"), User("o-bob", "u-bob"), User("o-carol")]
            assert list(await store.save(known)) == [False, False, True]
            alice = await only_user(store, "u-alice")
        at_noon = datetime(2020, 2, 2, 12, tzinfo=UTC)
        assert alice.created_at == int(at_noon.timestamp() * 1000)
        assert await rows(engine, sa.select(users.c.openId, users.c.unionId).order_by("id")) == [
            ("o-alice", "u-alice"),
            (None, "u-bob"),
            ("o-carol", None),
        ]

    @pytest.mark.parametrize("time", ["1e300", "1556699400000000000", "yesterday", "-5"])
    async def test_an_invalid_time_fails_no_login(self, engine: AsyncEngine, time: str) -> None:
        users = table(
            sa.Column("openId", sa.String(128), primary_key=True),
            sa.Column("unionId", sa.String(128), index=True),
            sa.Column("createdAt", sa.String(64)),
        )
        await create(engine, users)
        async with engine.begin() as connection:
            await connection.execute(sa.insert(users), {"openId": "o-alice", "createdAt": time})
        async with open_store(engine, users) as store:
            assert list(await store.save([User("o-alice", "u-alice")])) == [False]
            assert (await only_user(store, "u-alice")).created_at is None

    @pytest.mark.parametrize(
        ("model", "columns", "said"),
        [
            (Person, None, "model Person has no column for the openId"),
            (Person, {"open_id": "wx_openid"}, "has no column 'wx_openid' for open_id"),
            (Person, {"open_id": "wechat", "name": "called"}, "'name', which is no field"),
            (Person, {"open_id": "wechat", "city": "wechat"}, "one column for several"),
            (table(sa.Column("id", sa.Integer), name="t"), None, "The table t has no column"),
            (dict, None, "must be a mapped class with a table, or a Table"),
        ],
    )
    def test_rejects_an_invalid_model(
        self, model: Any, columns: dict[str, str] | None, said: str
    ) -> None:
        with pytest.raises(ConfigurationError) as caught:
            SQLAlchemyUserStore("sqlite+aiosqlite://", model, columns=columns)
        assert said in str(caught.value)


class TestTablesOfTheDatabase:
    @pytest.fixture
    def every_warning(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> pytest.LogCaptureFixture:
        """The log, also of a warning that another test has logged in the same second."""
        monkeypatch.setattr(failures, "filters", [])
        caplog.set_level(logging.WARNING, failures.name)
        return caplog

    async def test_nothing_is_created_without_create(self, sql_url: str) -> None:
        async with open_user_store(sql_url) as store:
            with pytest.raises(ConfigurationError, match=r"no table mpauthx_user.*create=true"):
                await store.get(["o-alice"])
            async with open_user_store(f"{sql_url}?create=true") as other:
                await other.save([ALICE])
            assert list(await store.save([ALICE])) == [False]  # it looks again

    @pytest.mark.parametrize(
        ("columns", "said"),
        [
            ("open_id VARCHAR(99)", "members.nick_name for nick_name is missing"),
            ("nick_name VARCHAR(99)", "members.open_id for open_id is missing"),
            (
                "open_id VARCHAR(99), nick_name VARCHAR(9), phone VARCHAR(9) NOT NULL",
                "members.phone is NOT NULL without a default",
            ),
            (
                "open_id VARCHAR(99), nick_name VARCHAR(9), created_at INTEGER",
                "members.created_at is too small for Unix milliseconds",
            ),
        ],
    )
    async def test_a_table_that_takes_no_logins_is_refused(
        self, engine: AsyncEngine, sql_url: str, columns: str, said: str
    ) -> None:
        await create(engine)
        await execute(sql_url, f"CREATE TABLE members ({columns})")
        texts = sa.Column("open_id", sa.String(99)), sa.Column("nick_name", sa.String(9))
        times = [sa.Column("created_at", sa.BigInteger)] if "created_at" in columns else []
        async with open_store(engine, table(*texts, *times, name="members")) as store:
            for ask in (store.get(["o-alice"]), store.save([ALICE])):
                with pytest.raises(ConfigurationError) as caught:
                    await ask
                assert said in str(caught.value)

    async def test_a_link_table_that_takes_an_id_twice_is_refused(
        self, sql_url: str, every_warning: pytest.LogCaptureFixture
    ) -> None:
        async with open_store(sql_url, create=True) as store:
            await execute(
                sql_url,
                "CREATE TABLE mpauthx_link (id VARCHAR(99) NOT NULL, is_union_id SMALLINT NOT NULL,"
                " app_id VARCHAR(99), union_id VARCHAR(99))",
            )
            with pytest.raises(ConfigurationError, match=r"must be \(id, is_union_id\)"):
                await store.save([ALICE])
            await execute(sql_url, "CREATE UNIQUE INDEX ids ON mpauthx_link (is_union_id, id)")
            assert list(await store.save([ALICE])) == [True]
            assert "There is no index on mpauthx_link (union_id)" in every_warning.text

    async def test_ids_without_an_index_are_warned_of_once(
        self, engine: AsyncEngine, every_warning: pytest.LogCaptureFixture
    ) -> None:
        for open_id, union_id, expected in [
            ({}, {}, ["openId", "unionId"]),
            ({"unique": True}, {}, ["unionId"]),
            ({"index": True}, {"unique": True}, []),
            ({"primary_key": True}, {"index": True}, []),
        ]:
            users = table(
                sa.Column("openId", sa.String(99), **open_id),
                sa.Column("unionId", sa.String(99), **union_id),
            )
            async with open_store(engine, users, create=True) as store:
                for _ in range(2):
                    assert list(await store.get(["o-alice"])) == [None]
            quoted = map(engine.dialect.identifier_preparer.quote, expected)
            warnings = [one for one in every_warning.records if one.name == failures.name]
            assert [one.args for one in warnings] == [(f"users ({name})",) * 2 for name in quoted]
            every_warning.clear()
            async with engine.begin() as connection:
                await connection.run_sync(users.drop)

    async def test_a_view_needs_no_index(
        self, sql_url: str, every_warning: pytest.LogCaptureFixture
    ) -> None:
        await execute(
            sql_url,
            "CREATE TABLE members (number SERIAL PRIMARY KEY, wechat VARCHAR(99) UNIQUE)",
            "CREATE VIEW users AS SELECT wechat FROM members",
        )
        users = table(sa.Column("wechat", sa.String(99)))
        columns = {"open_id": "wechat"}
        async with open_store(sql_url, users, columns=columns, create=True) as store:
            assert list(await store.save([ALICE])) == [True]
        assert failures.name not in every_warning.text

    async def test_a_table_without_a_unique_index_gets_one_row_per_user(self, sql_url: str) -> None:
        users = table(sa.Column("openId", sa.String(99)), sa.Column("city", sa.Text))
        stores = [open_store(sql_url, users, create=True) for _ in range(3)]
        await asyncio.gather(*(store.get([]) for store in stores))
        batch = [User(f"o-{i}", city="Wuhan") for i in range(40)]
        answers = await asyncio.gather(*(store.save(batch) for store in stores))
        for store in stores:
            await store.close()
        assert [sum(each) for each in zip(*answers, strict=True)] == [1] * 40
        assert await execute(sql_url, "SELECT count(*) FROM users") == [(40,)]

    @pytest.mark.parametrize(
        "sql_driver", ["postgresql+asyncpg", "mysql+asyncmy", "sqlite+aiosqlite"]
    )
    async def test_of_first_logins_in_two_processes_one_is_new(self, sql_url: str) -> None:
        command = ("-c", _SAVER, f"{sql_url}?create=true")
        async with LineProcess(*command, "1") as one, LineProcess(*command, "-1") as other:
            assert [await one.read(), await other.read()] == ["open", "open"]  # with the tables
            said = await asyncio.gather(one.ask("go"), other.ask("go"))
        new = [name for names in said for name in names.split()]
        assert sorted(new) == sorted(f"u-{i}" for i in range(200))
        for table, count in (("mpauthx_user", 200), ("mpauthx_link", 600)):
            assert await execute(sql_url, f"SELECT count(*) FROM {table}") == [(count,)]


class TestTexts:
    @pytest.fixture
    async def store(self, sql_url: str) -> AsyncIterator[SQLAlchemyUserStore]:
        async with open_store(sql_url, create=True) as store:
            yield store

    async def test_an_id_with_trailing_blanks_is_never_taken_for_one_without(
        self, store: SQLAlchemyUserStore, sql_url: str
    ) -> None:
        await store.save([User("o-alice", city="Wuhan")])
        assert list(await store.get(["o-alice "])) == [None]
        other = User("o-alice ", city="Xi'an")
        if "mysql" in sql_url:  # whose utf8mb4_bin ignores them in a key
            with pytest.raises(StoreError, match="refused a row"):
                await store.save([other])
        else:
            assert list(await store.save([other])) == [True]
        assert (await only_user(store, "o-alice")).city == "Wuhan"

    async def test_nul_is_stripped_from_a_profile(self, store: SQLAlchemyUserStore) -> None:
        await store.save([User("o-alice", nick_name="A\0lice\0")])
        assert (await only_user(store, "o-alice")).nick_name == "Alice"

    async def test_an_id_with_nul_fails_alone(self, store: SQLAlchemyUserStore) -> None:
        batch = [User("o-alice"), User("o-\0bob"), User("o-carol")]
        answers = await partial_answers(store.save(batch))
        assert [type(answer) for answer in answers] == [bool, StoreError, bool]
        assert list(await store.get(["o-\0bob"])) == [None]

    async def test_an_import_may_take_many_statements(self, store: SQLAlchemyUserStore) -> None:
        users = [User(f"o-{i}") for i in range(1500)]
        assert list(await store.save(users)) == [True] * 1500
        found = await store.get([user.open_id for user in users])
        assert [user and user.open_id for user in found] == [user.open_id for user in users]


def test_a_missing_sqlalchemy_is_named() -> None:
    program = """if True:
        import sys
        sys.modules["sqlalchemy"] = None
        import mpauthx_async.stores as stores
        for name in stores._NEEDS_AN_EXTRA.keys() - {"MongoUserStore"}:
            try:
                getattr(stores, name)
            except ImportError as error:
                assert "pip install 'mpauthx-async[sqlalchemy]'" in str(error), error
            else:
                raise AssertionError("It was imported.")
    """
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_stores_do_not_import_sqlalchemy() -> None:
    program = "import sys, mpauthx_async.stores; assert 'sqlalchemy' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


async def test_an_unreadable_value_is_cleared(engine: AsyncEngine) -> None:
    users = table(
        sa.Column("openId", sa.String(64), primary_key=True), sa.Column("gender", sa.String(64))
    )
    await create(engine, users)
    async with engine.begin() as connection:
        await connection.execute(sa.insert(users).values(openId="o-bob", gender="female"))
    async with open_store(engine, users) as store:
        assert await store.clear("o-bob", ["gender"]) is True
    assert await rows(engine, sa.select(users.c.gender)) == [(None,)]
