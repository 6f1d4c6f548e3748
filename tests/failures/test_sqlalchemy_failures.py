"""What SQLAlchemyUserStore does when its database fails, hangs, refuses or is misconfigured."""

import asyncio
import gc
import socket
import sys
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, Table, event, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.schema import CreateTable

from mpauthx_async import (
    ClosedError,
    ConfigurationError,
    MPAuthX,
    PartialStoreError,
    StoreError,
    User,
    WeChatSimulator,
)
from mpauthx_async.stores import SQLAlchemyUserStore, open_user_store
from mpauthx_async.stores.conformance.examples import until
from mpauthx_async.stores.sqlalchemy.database import SQLDatabase
from tests.helpers.outages import ASKED_OF_USERS, PATIENCE, all_that_it_says, fails, settled, turns
from tests.helpers.secret_search import local_variables
from tests.helpers.sql_servers import MariaDBServer, PostgreSQLServer, SQLServer, execute
from tests.helpers.user_stores import (
    link_the_same_persons_at_once,
    log_in_and_be_forgotten,
    only_user,
)

ALICE = User("o-alice", app_id="shop")
of_each_driver = pytest.mark.parametrize(
    "sql_driver", [*PostgreSQLServer.drivers, *MariaDBServer.drivers]
)
# Of a whole key, so that MariaDB locks no gap beside the row.
LOCKED = "SELECT * FROM mpauthx_link WHERE id = 'o-alice' AND is_union_id = 0 FOR UPDATE"


@pytest.fixture
async def store(sql_url: str) -> AsyncIterator[SQLAlchemyUserStore]:
    """A store with one known user."""
    async with SQLAlchemyUserStore(sql_url, create=True, timeout=PATIENCE) as store:
        await store.save([ALICE])
        yield store


@asynccontextmanager
async def transaction(url: str, *statements: str) -> AsyncIterator[AsyncConnection]:
    """Another process's transaction, which stays open."""
    engine = create_async_engine(url)
    async with engine.connect() as connection:
        for statement in statements:
            await connection.execute(text(statement))
        yield connection
        await connection.rollback()
    await engine.dispose()


@asynccontextmanager
async def read_only(url: str) -> AsyncIterator[str]:
    """The URL of a user who cannot write until this ends, as on a replica."""
    if "postgresql" in url:
        setting = "default_transaction_read_only"
        await execute(url, f"ALTER SYSTEM SET {setting} = on", "SELECT pg_reload_conf()")
        await until(lambda: answers(url, f"SHOW {setting}", [("on",)]))
        try:
            yield url
        finally:
            await execute(url, f"ALTER SYSTEM RESET {setting}", "SELECT pg_reload_conf()")
            await until(lambda: answers(url, f"SHOW {setting}", [("off",)]))
        return
    clerk = "clerk@'127.0.0.1'"  # root may write to a read-only server
    await execute(url, f"CREATE OR REPLACE USER {clerk} IDENTIFIED BY 'geheim'")
    await execute(url, f"GRANT ALL ON shop.* TO {clerk}", "SET GLOBAL read_only = 1")
    try:
        yield url.replace("root:", "clerk:")
    finally:
        await execute(url, "SET GLOBAL read_only = 0", f"DROP USER {clerk}")


async def sessions(engine: AsyncEngine) -> set[object]:
    """The server's numbers of two connections of a pool."""
    number = "pg_backend_pid()" if engine.dialect.name == "postgresql" else "CONNECTION_ID()"
    async with engine.connect() as one, engine.connect() as other:
        return {await each.scalar(text(f"SELECT {number}")) for each in (one, other)}


async def answers(url: str, question: str, expected: list[Any]) -> bool:
    return await execute(url, question) == expected


class TestServerDown:
    @pytest.mark.parametrize("kind", [PostgreSQLServer, MariaDBServer])
    async def test_a_store_serves_once_its_server_does(self, kind: Callable[[], SQLServer]) -> None:
        server = kind()
        url = server.url(server.drivers[0], server.maintenance)
        async with SQLAlchemyUserStore(url, create=True) as store:
            for ask in ASKED_OF_USERS.values():  # down at the start
                assert (await fails(ask(store), "Check that the server runs")).retryable
            with server:
                assert list(await store.save([ALICE])) == [True]
                saves = [store.save([User(f"o-{i}")]) for i in range(8)]
                assert [list(answer) for answer in await asyncio.gather(*saves)] == [[True]] * 8
                await asyncio.to_thread(server.stop, server.quick_stop)
                for ask in ASKED_OF_USERS.values():
                    assert (await fails(ask(store))).retryable
                await asyncio.to_thread(server.start)
                # No call meets one of the connections that were lost.
                gets = [store.get(["o-alice", f"o-{i}"]) for i in range(8)]
                assert [user and user.id for users in await asyncio.gather(*gets) for user in users]
                assert list(await store.save([ALICE, User("o-new")])) == [False, True]

    @of_each_driver
    async def test_a_silent_server_costs_no_more_than_the_timeout(self, sql_driver: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            url = f"{sql_driver}://root:geheim@127.0.0.1:{port}/shop"
            async with SQLAlchemyUserStore(url, timeout=0.2) as store:
                for ask in ASKED_OF_USERS.values():
                    assert "did not answer in time" in str(await fails(ask(store)))

    @of_each_driver
    @pytest.mark.parametrize("has_engine", [False, True])
    async def test_ended_connections_are_replaced(self, sql_url: str, has_engine: bool) -> None:
        engine = create_async_engine(sql_url)
        async with SQLAlchemyUserStore(
            engine if has_engine else sql_url, create=True, timeout=PATIENCE
        ) as store:
            await asyncio.gather(*(store.save([User(f"o-{i}")]) for i in range(5)))
            await self.end_connections(sql_url)
            for name in ("bob", "carol"):
                assert list(await store.save([User("o-1"), User(f"o-{name}")])) == [False, True]
        await engine.dispose()

    async def end_connections(self, sql_url: str) -> None:
        if "postgresql" in sql_url:
            ending = (
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
            await execute(sql_url, ending)
        else:
            await execute(
                sql_url,
                "CREATE USER other@'127.0.0.1' IDENTIFIED BY 'geheim'",
                "GRANT ALL ON *.* TO other@'127.0.0.1'",
            )
            other = sql_url.replace("root:", "other:")
            await execute(other, "KILL USER root@'127.0.0.1'", "DROP USER other@'127.0.0.1'")

    async def test_a_hung_server_leaves_no_connection_to_the_garbage_collector(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with MariaDBServer() as server:
            engine = create_async_engine(server.url(server.drivers[0], server.maintenance))
            async with SQLAlchemyUserStore(engine, create=True, timeout=PATIENCE) as store:
                await store.save([ALICE])
                with server.hanging():
                    async with SQLAlchemyUserStore(engine, timeout=0.2) as hasty:
                        await fails(hasty.get(["o-alice"]))
                    gc.collect()
                assert list(await store.save([ALICE, User("o-bob")])) == [False, True]
            await engine.dispose()
        assert "garbage collector" not in caplog.text


@of_each_driver
class TestReadOnlyServer:
    async def test_the_pools_connections_to_it_are_replaced(
        self, store: SQLAlchemyUserStore, sql_url: str
    ) -> None:
        async with read_only(sql_url) as url:
            engine = create_async_engine(url, pool_size=2)
            async with SQLAlchemyUserStore(engine, timeout=PATIENCE) as replica:
                before = await sessions(engine)
                assert list(await replica.save([ALICE])) == [False]  # there is nothing to write
                assert await sessions(engine) == before
                error = await fails(replica.save([ALICE, User("o-bob")]))
                assert error.retryable
                assert "The server is read-only, as after a failover" in str(error)
                assert not before & await sessions(engine)
            await engine.dispose()
        assert list(await store.save([ALICE, User("o-bob")])) == [False, True]

    async def test_errors_of_the_application_leave_its_connections(self, sql_url: str) -> None:
        engine = create_async_engine(sql_url, pool_size=2)
        async with SQLAlchemyUserStore(engine, create=True, timeout=PATIENCE) as store:
            await store.save([ALICE])
            before = await sessions(engine)
            async with engine.connect() as connection:
                await connection.rollback()
                await connection.execute(text("START TRANSACTION READ ONLY"))
                with pytest.raises(DBAPIError, match=r"read-only|READ ONLY"):
                    await connection.execute(text("DELETE FROM mpauthx_user"))
            assert await sessions(engine) == before
        await engine.dispose()

    async def test_check_tells_it_and_writes_nothing(
        self, store: SQLAlchemyUserStore, make: Callable[..., MPAuthX], sql_url: str
    ) -> None:
        async with read_only(sql_url) as url, make(users=url) as auth:
            with pytest.raises(StoreError, match=r"user store cannot serve.*read-only") as caught:
                await auth.check()
            assert caught.value.retryable
        tables = "SELECT * FROM mpauthx_link, mpauthx_user"
        before = await execute(sql_url, tables)
        async with make(users=sql_url) as auth:
            await auth.check()
        assert await execute(sql_url, tables) == before


class TestLostAnswers:
    async def test_a_login_whose_commit_was_not_answered_is_saved_once(
        self, store: SQLAlchemyUserStore, sql_url: str
    ) -> None:
        server = make_url(sql_url)
        lost: list[bytes] = []
        loses = asyncio.Event()

        async def forward(client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
            reader, writer = await asyncio.open_connection(server.host, server.port)

            async def answer() -> None:
                while said := await reader.read(65536):
                    if lost == [b"COMMIT"]:
                        lost.append(said)
                        break
                    answers.write(said)
                answers.close()

            answering = asyncio.create_task(answer())
            while asked := await client.read(65536):
                is_commit = b"COMMIT" in asked and b"COMMITTED" not in asked
                if is_commit and loses.is_set() and not lost:
                    lost.append(b"COMMIT")
                writer.write(asked)
            writer.close()
            await answering

        async with await asyncio.start_server(forward, "127.0.0.1", 0) as proxy:
            port = proxy.sockets[0].getsockname()[1]
            url = server.set(port=port).render_as_string(hide_password=False)
            async with SQLAlchemyUserStore(url, timeout=PATIENCE) as other:
                assert list(await other.save([ALICE])) == [False]
                loses.set()
                (is_new,) = await other.save([User("o-bob", city="Wuhan")])
        assert len(lost) == 2
        assert not is_new  # as the class documents
        assert await execute(sql_url, "SELECT count(*) FROM mpauthx_user") == [(2,)]


class TestWaiting:
    async def test_a_locked_row_costs_no_more_than_the_timeout(
        self, store: SQLAlchemyUserStore, sql_url: str
    ) -> None:
        async with SQLAlchemyUserStore(sql_url, timeout=1) as hasty, transaction(sql_url, LOCKED):
            assert (await fails(hasty.save([User("o-alice", city="Wuhan")]))).retryable
            assert await store.get(["o-alice"]) != [None]
            assert list(await store.save([ALICE])) == [False]  # there is nothing to write
        users = [User("o-bob"), User("o-alice", city="Xi'an")]
        assert list(await store.save(users)) == [True, False]
        alice = await only_user(store, "o-alice")
        assert alice.city == "Xi'an"  # the call that failed does not write later

    @of_each_driver
    async def test_a_row_the_application_locked_fails_its_user_alone(self, sql_url: str) -> None:
        await self._locked(sql_url, "SELECT * FROM mpauthx_user WHERE open_id = 'o-3' FOR UPDATE")

    @pytest.mark.parametrize(
        "statement",
        [
            "SELECT * FROM mpauthx_link WHERE id = 'o-3' AND is_union_id = 0 FOR UPDATE",
            "DELETE FROM mpauthx_user WHERE open_id = 'o-3'",
            "INSERT INTO mpauthx_user (open_id) VALUES ('o-33')",
        ],
    )
    async def test_a_row_that_the_application_is_writing_fails_its_user_alone(
        self, sql_url: str, statement: str
    ) -> None:
        await self._locked(sql_url, statement)

    async def _locked(self, url: str, statement: str) -> None:
        """Log in 20 known users, of which o-3 may be locked, and 20 new ones, of which o-33 may."""
        locked = 33 if "'o-33'" in statement else 3
        known = [User(f"o-{i}", city="Wuhan") for i in range(20)]
        users = [*(User(user.open_id, city="Xi'an") for user in known)]
        users += [User(f"o-{i}") for i in range(20, 40)]
        async with SQLAlchemyUserStore(url, create=True, timeout=10) as store:
            await store.save(known)
            async with transaction(url, statement):
                error = await fails(store.save(users))
                assert isinstance(error, PartialStoreError)
                refusal = error.answers[locked]
                alone = await fails(store.save([users[locked]]))
            expected: list[Any] = [False] * 20 + [True] * 20
            expected[locked] = refusal
            assert error.answers == expected
            for held in (refusal, alone):
                assert held.retryable
                assert "has held the user's row for too long." in str(held)
            assert list(await store.save([users[locked]])) == [locked == 33]
            found = await store.get([user.open_id for user in users])
            assert [user and user.city for user in found] == ["Xi'an"] * 20 + [None] * 20

    async def test_the_lock_wait_of_the_applications_connections_stays(self, sql_url: str) -> None:
        engine = create_async_engine(sql_url, pool_size=1, max_overflow=0)
        shown = "SELECT @@SESSION.innodb_lock_wait_timeout"
        if "postgresql" in sql_url:
            shown = "SHOW lock_timeout"

        async def limit() -> object:
            async with engine.connect() as connection:
                return (await connection.execute(text(shown))).scalar()

        usual = await limit()
        async with SQLAlchemyUserStore(engine, create=True, timeout=10) as store:
            await store.save([ALICE])
            assert await limit() == usual
            async with transaction(sql_url, LOCKED):
                await fails(store.save([User("o-alice", city="Wuhan")]))
            assert await limit() == usual
        await engine.dispose()

    async def test_a_statement_timeout_fails_the_locked_user_alone(self, sql_url: str) -> None:
        limits: dict[str, Any] = {"init_command": "SET max_statement_time = 0.1"}
        if "postgresql" in sql_url:
            limits = {"server_settings": {"statement_timeout": "100"}}
        async with SQLAlchemyUserStore(sql_url, create=True) as store:
            await store.save([ALICE])
        engine = create_async_engine(sql_url, connect_args=limits)
        async with SQLAlchemyUserStore(engine, timeout=PATIENCE) as store:
            async with transaction(sql_url, LOCKED):
                users = [User("o-alice", city="Wuhan"), User("o-bob")]
                error = await fails(store.save(users))
                assert isinstance(error, PartialStoreError)
                assert error.answers[1] is True
                alone = await fails(store.save(users[:1]))
            assert "has held the user's row" in str(error.answers[0])
            assert "took longer than the server allows" in str(alone)
            assert error.answers[0].retryable
            assert alone.retryable
        await engine.dispose()

    async def test_an_exhausted_pool_costs_no_more_than_the_timeout(self, sql_url: str) -> None:
        engine = create_async_engine(sql_url, pool_size=1, max_overflow=0)
        store = SQLAlchemyUserStore(engine, create=True, timeout=PATIENCE)
        assert list(await store.save([ALICE])) == [True]
        async with engine.connect(), SQLAlchemyUserStore(engine, timeout=0.2) as hasty:
            for ask in ASKED_OF_USERS.values():
                await fails(ask(hasty), "all connections of the pool are in use")
        assert list(await store.save([ALICE])) == [False]
        await store.close()
        await engine.dispose()

    if sys.version_info < (3, 12):  # which loses cancellations in asyncio.wait_for

        async def test_a_lost_cancellation_leaves_nothing_running(self) -> None:
            loop = asyncio.get_running_loop()
            ended = asyncio.Event()

            async def work() -> None:
                try:
                    await asyncio.sleep(PATIENCE)
                except asyncio.CancelledError:  # as asyncio.wait_for overlooks one
                    try:
                        await loop.create_future()
                    finally:
                        ended.set()

            async def prepare() -> None:
                pass

            database = SQLDatabase("sqlite+aiosqlite://", 0.01, prepare)
            with pytest.raises(StoreError, match="did not answer in time"):
                await database.run(work)
            async with asyncio.timeout(PATIENCE):
                await ended.wait()
            await database.close()

    async def test_a_cancelled_caller_harms_nobody(
        self, store: SQLAlchemyUserStore, sql_url: str
    ) -> None:
        async with transaction(sql_url, LOCKED):
            save = asyncio.ensure_future(store.save([User("o-alice", city="Wuhan")]))
            await turns(20)
            save.cancel()
            (answer,) = await settled([save])
            assert isinstance(answer, asyncio.CancelledError)
        assert list(await store.save([User("o-alice", nick_name="Alice")])) == [False]

        async def is_saved() -> bool:
            return (await only_user(store, "o-alice")).city == "Wuhan"

        await until(is_saved)


class TestFasterProcesses:
    async def test_logins_survive_deadlocks(self, store: SQLAlchemyUserStore, sql_url: str) -> None:
        await store.save([User(f"o-{name}", app_id="shop") for name in ("1", "2")])
        if "postgresql" in sql_url:
            deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'"
            heavy = ["SET deadlock_timeout = '1h'"]  # so that it is the store's that is ended
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        else:
            status = (
                "SELECT CAST(variable_value AS INTEGER) FROM information_schema.global_status"
                " WHERE variable_name = 'Innodb_{}'"
            )
            deadlocks = status.format("deadlocks")
            # innodb_trx shows nothing new while it is read more than ten times a second.
            waiting = status.format("row_lock_current_waits")
            heavy = [f"INSERT INTO mpauthx_user (open_id) VALUES ('h-{i}')" for i in range(20)]
        ((before,),) = await execute(sql_url, deadlocks)
        lock = "SELECT * FROM mpauthx_link WHERE id = '{}' FOR UPDATE"
        async with transaction(sql_url, *heavy, lock.format("o-2")) as other:
            users = [User("o-1", city="Wuhan"), User("o-2", city="Xi'an")]
            save = asyncio.ensure_future(store.save(users))  # locks o-1, and waits for o-2
            await until(lambda: answers(sql_url, waiting, [(1,)]))
            await other.execute(text(lock.format("o-1")))
            assert not save.done()
        async with asyncio.timeout(PATIENCE):
            assert list(await save) == [False, False]
        await until(lambda: answers(sql_url, deadlocks, [(int(before) + 1,)]))
        found = await store.get(["o-1", "o-2"])
        assert [user and user.city for user in found] == ["Wuhan", "Xi'an"]

    async def test_tables_created_concurrently_are_used(self, sql_url: str) -> None:
        created: list[str] = []

        def create_elsewhere(table: Table, connection: Connection, **_: object) -> None:
            if table.name not in created:
                created.append(table.name)
                statement = str(CreateTable(table).compile(connection))
                with ThreadPoolExecutor(1) as other_thread:
                    other_thread.submit(asyncio.run, execute(sql_url, statement)).result()

        event.listen(Table, "before_create", create_elsewhere)  # after the look for the table
        try:
            async with SQLAlchemyUserStore(sql_url, create=True, timeout=PATIENCE) as store:
                assert list(await store.save([ALICE])) == [True]
        finally:
            event.remove(Table, "before_create", create_elsewhere)
        assert created == ["mpauthx_user", "mpauthx_link"]

    async def test_logins_that_link_the_same_user_at_once_lose_nothing(self, sql_url: str) -> None:
        stores = [SQLAlchemyUserStore(sql_url, create=True, timeout=PATIENCE) for _ in range(3)]
        await asyncio.gather(*(store.get([]) for store in stores))
        await link_the_same_persons_at_once(stores)
        for store in stores:
            await store.close()


class TestUrls:
    @pytest.mark.parametrize(
        ("url", "said"),
        [
            ("postgresql+asyncpg://u:geheim@127.0.0.1:geheim/shop", "The URL of a SQL database is"),
            ("postgresql+asnycpg://u:geheim@127.0.0.1/shop", "does not name an asyncio driver"),
            ("postgresql://u:geheim@127.0.0.1/shop", "postgresql+asyncpg://"),
            ("postgres://u:geheim@127.0.0.1/shop", "postgresql+asyncpg://"),
            ("mysql+asyncmy://u:geheim@127.0.0.1/shop?create=yes", "can only be true"),
            ("oracle://u:geheim@127.0.0.1/shop", "or mongodb://, not with oracle://"),
        ],
    )
    def test_rejects_an_invalid_url(self, url: str, said: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            open_user_store(url)
        assert said in str(caught.value)
        assert "geheim" not in all_that_it_says(caught.value)
        assert "geheim" not in local_variables(caught.value)

    @of_each_driver
    async def test_a_misspelt_option_is_named(self, sql_url: str) -> None:
        async with open_user_store(f"{sql_url}?conect_timeout=5") as store:
            with pytest.raises(ConfigurationError, match="'conect_timeout'") as caught:
                await store.get(["o-alice"])
            assert "geheim" not in local_variables(caught.value)

    @of_each_driver
    async def test_the_error_of_a_wrong_password_hides_it(self, sql_url: str) -> None:
        async with open_user_store(sql_url.replace("geheim", "GEHEIM")) as store:
            error = await fails(store.save([ALICE]), "Check user, password and name")
            assert not error.retryable
            assert "GEHEIM" not in all_that_it_says(error)
            assert "GEHEIM" not in local_variables(error)

    async def test_missing_rights_are_named(self, store: SQLAlchemyUserStore, sql_url: str) -> None:
        if "postgresql" in sql_url:
            granting = ["DROP ROLE IF EXISTS guest", "CREATE ROLE guest LOGIN PASSWORD 'geheim'"]
            granting += ["GRANT USAGE ON SCHEMA public TO guest"]
            granting += ["GRANT SELECT ON ALL TABLES IN SCHEMA public TO guest"]
            guest = sql_url.replace("postgres:geheim", "guest:geheim")
            revoking = ["DROP OWNED BY guest", "DROP ROLE guest"]
        else:
            granting = ["CREATE OR REPLACE USER guest@'127.0.0.1' IDENTIFIED BY 'geheim'"]
            granting += ["GRANT SELECT ON shop.* TO guest@'127.0.0.1'"]
            guest = sql_url.replace("root:geheim", "guest:geheim")
            revoking = ["DROP USER guest@'127.0.0.1'"]
        await execute(sql_url, *granting)
        async with open_user_store(guest) as other:
            assert list(await other.get(["o-bob"])) == [None]
            error = await fails(other.save([User("o-bob")]))
        await execute(sql_url, *revoking)
        assert "what the user may do" in str(error)
        assert not error.retryable


class TestService:
    @pytest.mark.parametrize(
        "sql_driver",
        ["postgresql+asyncpg", "postgresql+psycopg", "mariadb+asyncmy", "mariadb+aiomysql"],
    )
    async def test_a_service_logs_in_with_its_users_in_a_sql_database(
        self, make: Callable[..., MPAuthX], sql_url: str, wx: WeChatSimulator
    ) -> None:
        async with make(users=f"{sql_url}?create=true") as auth:
            await log_in_and_be_forgotten(auth, wx)

    async def test_check_tells_that_the_tables_are_missing(
        self, make: Callable[..., MPAuthX], sql_url: str
    ) -> None:
        async with make(users=sql_url) as auth:
            with pytest.raises(ConfigurationError, match="no table mpauthx_user"):
                await auth.check()

    async def test_a_closed_store_takes_no_calls(self, store: SQLAlchemyUserStore) -> None:
        await store.close()
        await store.close()
        for ask in ASKED_OF_USERS.values():
            with pytest.raises(ClosedError):
                await ask(store)
