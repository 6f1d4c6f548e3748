"""Reads and changes SQLite files as another process does."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

__all__ = ["data_version", "query", "run"]


def run(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)


def query(path: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


def data_version(observer: sqlite3.Connection) -> int:
    """A number that changes when another connection writes."""
    (version,) = observer.execute("PRAGMA data_version").fetchone()
    return int(version)
