"""Lock waits: how long a transaction waits for rows that other transactions hold."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection

__all__ = ["lock_wait"]

_NO_WAIT = 50  # milliseconds, for PostgreSQL, where 0 is for ever


@contextmanager
def lock_wait(connection: Connection, seconds: float, *, restores: bool) -> Iterator[None]:
    """Let the statements of a transaction fail that wait longer for a lock.

    For 0 they wait as short as the database can: MySQL at least a second. Its limit outlives the
    transaction, unless it `restores` the one before.
    """
    name = connection.dialect.name
    if name == "postgresql":
        limit = max(_NO_WAIT, round(seconds * 1000))
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {limit}")
    if name not in ("mysql", "mariadb"):
        yield
        return
    least = 0 if getattr(connection.dialect, "is_mariadb", False) else 1
    limit = max(least, math.ceil(seconds))
    keep = "@mpauthx_lock_wait = @@SESSION.innodb_lock_wait_timeout, " if restores else ""
    connection.exec_driver_sql(f"SET {keep}SESSION innodb_lock_wait_timeout = {limit}")
    try:
        yield
    except Exception:
        _restore(connection, restores=restores)
        raise
    _restore(connection, restores=restores)


def _restore(connection: Connection, *, restores: bool) -> None:
    if restores and not connection.invalidated:
        connection.exec_driver_sql("SET SESSION innodb_lock_wait_timeout = @mpauthx_lock_wait")
