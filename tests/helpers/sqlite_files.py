"""Reads and changes SQLite files as another process does."""

import sqlite3
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from mpauthx_async import SqliteUserStore
from mpauthx_async.stores.conformance import UserStoreConformance


class ConformanceOnATable(UserStoreConformance):
    """The conformance suite of user stores on a table that is there already."""

    script = ""

    @pytest.fixture
    async def store(self, path: Path) -> AsyncIterator[SqliteUserStore]:
        run(path, self.script)
        async with SqliteUserStore(path) as store:
            yield store


def run(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)


def query(path: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another connection is writing to the database."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield


def data_version(observer: sqlite3.Connection) -> int:
    """A number that changes when another connection writes."""
    (version,) = observer.execute("PRAGMA data_version").fetchone()
    return int(version)


def plan_of(path: Path, statements: Iterable[str]) -> list[str]:
    """The steps in which SQLite carries out those of the statements that read or write rows."""
    return [
        step
        for statement in statements
        if statement.startswith(("SELECT", "INSERT", "UPDATE", "DELETE"))
        for *_, step in query(path, f"EXPLAIN QUERY PLAN {statement}")
    ]
