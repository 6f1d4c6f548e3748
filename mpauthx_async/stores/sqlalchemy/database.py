"""SQLDatabase: an engine of SQLAlchemy, with one deadline for all that a call waits for."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, TypeVar

from sqlalchemy import Connection, StaticPool, event
from sqlalchemy.engine import ExceptionContext, make_url
from sqlalchemy.exc import ArgumentError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from ..._compat import timeout
from ...concurrency.deadlines import trip
from ...concurrency.in_flight import InFlight
from ...concurrency.once import Once
from ...errors import ConfigurationError, MPAuthXError, StoreError
from ...failure_log import failures
from .failures import database_name, invalid_option, is_conflict, is_lost, is_read_only, store_error
from .lock_waits import lock_wait

__all__ = ["SQLDatabase"]

Result = TypeVar("Result")

_MAX_ATTEMPTS = 8
_BACKOFF = 0.01  # seconds, times the number of the attempt, times a random number up to 1
_LOCK_WAIT = 0.2  # of the timeout
_WRITES = "mpauthx_writes"  # an execution option, which tells the store's statements from others


class SQLDatabase:
    """Runs work in a database within a deadline.

    Work is a function that gets SQLAlchemy's own `Connection`; what it awaits inside suspends the
    task and not the event loop. It runs in a task of its own to its end, even if the caller is
    cancelled. At the deadline the task is cancelled, and the caller does not wait for that: the
    driver may wait for the server. `prepare` is done before the first call. An engine stays open.
    A ConfigurationError is raised if a URL does not name a database with an asyncio driver.
    """

    def __init__(
        self, engine: AsyncEngine | str, timeout: float, prepare: Callable[[], Awaitable[None]]
    ) -> None:
        self._engine = _create_engine(engine) if isinstance(engine, str) else engine
        self._owns_engine = isinstance(engine, str)
        self._reads, self._writes = _options(self._engine, is_ours=self._owns_engine)
        event.listen(self._engine.sync_engine, "handle_error", _drop_read_only_connections)
        self._turn: AbstractAsyncContextManager[object] = nullcontext()
        if isinstance(self._engine.pool, StaticPool):  # one connection, for a database in memory
            self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._calls = InFlight(self, "This SQLAlchemy store")
        self._preparation = Once(prepare)
        self.name: str = database_name(self._engine.url)
        self.dialect_name: str = self._engine.dialect.name
        self.longest_wait: float = timeout

    async def run(self, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Run an async function that calls `read` and `write`, within the deadline.

        Raises as `InFlight.one`, and StoreError if the database fails or does not answer in time.
        """
        with self._calls.one(), trip("SQL", self.longest_wait) as seconds:

            async def within_deadline() -> Result:
                async with timeout(seconds):
                    await self._preparation.done()
                    return await work()

            task = asyncio.create_task(within_deadline())
            self._tasks.add(task)
            task.add_done_callback(self._end)
            await asyncio.wait([task], timeout=seconds)
            is_answered = task.done() and not task.cancelled()
            if not is_answered or isinstance(task.exception(), TimeoutError):
                raise StoreError(
                    f"{self.name} did not answer in time. It is slow or cannot be reached, or all "
                    "connections of the pool are in use."
                )
            try:
                return task.result()
            except MPAuthXError:
                raise
            except Exception as error:
                raise invalid_option(error) or store_error(self.name, error) from error

    async def read(self, work: Callable[[Connection], Result]) -> Result:
        """Run work that only reads; repeat it if the connection was lost."""

        def read(connection: Connection) -> Result:
            _set_options(connection, self._reads)
            return work(connection)

        return await self._repeat(read)

    async def write(
        self, work: Callable[[Connection], Result], *, waits_for_locks: bool = True
    ) -> Result:
        """Run work in one transaction; repeat it after a conflict or a lost connection.

        Args:
            work: a statement of it fails after a fifth of the timeout if it waits for a lock.
            waits_for_locks: whether it may wait at all.
        """
        longest = self.longest_wait * _LOCK_WAIT if waits_for_locks else 0.0

        def write(connection: Connection) -> Result:
            _set_options(connection, self._writes)
            with connection.begin(), lock_wait(connection, longest, restores=not self._owns_engine):
                return work(connection)

        return await self._repeat(write)

    async def close(self) -> None:
        """Close the connections that were opened here, after the calls in progress."""
        await self._calls.close()
        tasks = set(self._tasks)  # of callers who have left; each returns its connection
        for task in tasks:
            task.cancel()
        try:
            async with timeout(self.longest_wait):
                if tasks:
                    await asyncio.wait(tasks)
                if self._owns_engine:
                    await self._engine.dispose()
        except TimeoutError:
            failures.warning("%s did not close its connections in time.", self.name)

    async def _repeat(self, work: Callable[[Connection], Result]) -> Result:
        for number in range(1, _MAX_ATTEMPTS):
            try:
                return await self._connected(work)
            except Exception as error:
                if not is_conflict(error) and not is_lost(error):
                    raise
            await asyncio.sleep(number * _BACKOFF * random.random())  # noqa: S311
        return await self._connected(work)

    async def _connected(self, work: Callable[[Connection], Result]) -> Result:
        async with self._turn, self._engine.connect() as connection:
            return await connection.run_sync(work)

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # or asyncio logs one that comes too late


def _create_engine(url: str) -> AsyncEngine:
    """Create the engine of a URL. Errors repeat no passwords of URLs."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        parsed = None
    if parsed is None:
        raise ConfigurationError(
            "The URL of a SQL database is postgresql+asyncpg://user:password@host/database, with "
            "special characters of the password percent-encoded."
        )
    options: dict[str, Any] = {}
    if parsed.get_backend_name() in ("mysql", "mariadb"):
        options["isolation_level"] = "READ COMMITTED"  # once, instead of at each call
    try:
        if "+" in parsed.drivername:  # without a name SQLAlchemy 2.0 takes a blocking driver
            return create_async_engine(parsed, hide_parameters=True, **options)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{parsed.drivername}:// needs a driver that is not installed: pip install {error.name}"
        ) from None
    except (ArgumentError, InvalidRequestError):
        pass
    raise ConfigurationError(
        f"{parsed.drivername}:// does not name an asyncio driver of SQLAlchemy. Use "
        "postgresql+asyncpg://, postgresql+psycopg://, mysql+asyncmy://, mysql+aiomysql:// or "
        "sqlite+aiosqlite://."
    )


def _options(engine: AsyncEngine, *, is_ours: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of connections that read, and of those that write: their isolation levels."""
    name = engine.dialect.name
    if name == "sqlite" or (is_ours and name != "postgresql"):
        return {}, {_WRITES: True}
    # Each statement sees all earlier commits, also of a transaction whose lock it waited for.
    committed = {"isolation_level": "READ COMMITTED"}
    # In PostgreSQL, whose drivers need no trip to set it, AUTOCOMMIT saves BEGIN and ROLLBACK.
    reads = {"isolation_level": "AUTOCOMMIT"} if name == "postgresql" else committed
    return reads, {_WRITES: True, **committed}


def _set_options(connection: Connection, options: dict[str, Any]) -> None:
    """Set options of a connection.

    An engine with options of its own would do the same, but on a lost connection it raises errors
    of the driver, and it leaves a cancelled one to the garbage collector.
    """
    try:
        connection.execution_options(**options)
    except Exception:
        # Only when a statement fails does SQLAlchemy notice that the connection is lost, and drop
        # the pool's other stale ones; it then raises an error of its own.
        connection.exec_driver_sql("SELECT 1")
        raise
    except BaseException:  # cancelled amid an answer
        connection.invalidate()
        raise


def _drop_read_only_connections(failure: ExceptionContext) -> None:
    """Let SQLAlchemy replace the pool's connections to a server that has become read-only.

    It is called for all errors of the engine, also in statements of the application.
    """
    connection = failure.connection
    if connection is not None and connection.get_execution_options().get(_WRITES):
        failure.is_disconnect |= is_read_only(failure.original_exception)
