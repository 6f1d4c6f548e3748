"""Checks at the start whether logins can be saved in the tables that the database has."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import BigInteger, Connection, Date, DateTime, Inspector, Integer, Table
from sqlalchemy import Column as SQLColumn
from sqlalchemy.inspection import inspect

from ...errors import ConfigurationError
from ..user_fields import TIMES
from .user_table import UserTable

__all__ = ["check_columns", "check_tables"]

_DATES = (DateTime, Date)
_IN_MILLISECONDS = (*TIMES, "create_at")
_CREATE = (
    ", or let the store create it: SQLAlchemyUserStore(…, create=True), or ?create=true in the URL"
)


def check_tables(connection: Connection, table: UserTable) -> Sequence[str]:
    """Check that logins can be saved; ConfigurationError if not, or a user could get two rows.

    Returns the columns that logins search but that have no index: table (column), quoted for SQL.
    """
    written = {column.attribute: column.sql for column in table.columns}
    check_columns(connection, table.table, written, "Logins", writes_dates=True, or_else=_CREATE)
    inspector = inspect(connection)
    _check_exists(inspector, table.links, _CREATE)
    quoting = connection.dialect.identifier_preparer
    return [
        f"{quoting.format_table(column.table)} ({quoting.format_column(column)})"
        for column in _without_index(inspector, table)
    ]


def check_columns(
    connection: Connection,
    table: Table,
    written: Mapping[str, SQLColumn[Any]],
    items: str,
    *,
    writes_dates: bool,
    or_else: str = "",
) -> None:
    """Check that a table takes what a store writes; ConfigurationError names column and remedy.

    Args:
        written: the columns that the store writes, by the names of what they hold.
        items, or_else: in messages, what the table keeps, and what helps if it is missing.
        writes_dates: whether the store writes a time as a date if the column is one.
    """
    inspector = inspect(connection)
    _check_exists(inspector, table, or_else)
    found = {column["name"]: column for column in inspector.get_columns(table.name, table.schema)}
    is_sqlite = inspector.dialect.name == "sqlite"

    def unusable(column: str, problem: str) -> ConfigurationError:
        return ConfigurationError(
            f"{items} cannot be saved: column {table.name}.{column} {problem}"
        )

    for name, column in written.items():
        in_database = found.get(column.name)
        if problem := _problem_of(name, column, in_database, is_sqlite, writes_dates):
            raise unusable(column.name, problem)
    names = {column.name for column in written.values()}
    names |= {column.name for column in table.columns if column.default is not None}
    for name in found.keys() - names:
        if _needs_a_value(found[name], is_sqlite):
            raise unusable(
                name,
                "is NOT NULL without a default, and this store does not write it. Give it a "
                "default in the database or in the model, or drop NOT NULL.",
            )


def _check_exists(inspector: Inspector, table: Table, or_else: str) -> None:
    if not inspector.has_table(table.name, schema=table.schema):
        raise ConfigurationError(
            f"The database has no table {table.name}. Add it by a migration{or_else}."
        )


def _without_index(inspector: Inspector, table: UserTable) -> list[SQLColumn[Any]]:
    """The columns without an index; ConfigurationError if mpauthx_link has two rows for an id."""
    links = table.links.c
    unique = [set(names) for names, is_unique in _indexes(inspector, table.links) if is_unique]
    if {"id", "is_union_id"} not in unique:
        raise ConfigurationError(
            "The primary key of the table mpauthx_link must be (id, is_union_id). Without it, two "
            "processes could make two rows of one user."
        )
    leading = {
        (indexed.name, names[0])
        for indexed in (table.table, table.links)
        for names, _ in _indexes(inspector, indexed)
    }
    ids = [column.sql for column in table.columns if column.attribute in ("open_id", "union_id")]
    if table.table.name in inspector.get_view_names(table.table.schema):
        ids = []  # a view has the indexes of its tables
    return [
        column
        for column in (*ids, links.union_id)
        if (column.table.name, column.name) not in leading
    ]


def _indexes(inspector: Inspector, table: Table) -> Iterator[tuple[Sequence[str | None], bool]]:
    """The columns of each index and key, None for an expression, and whether it is unique."""
    name, schema = table.name, table.schema
    if key := inspector.get_pk_constraint(name, schema)["constrained_columns"]:
        yield key, True
    for constraint in inspector.get_unique_constraints(name, schema):
        yield constraint["column_names"], True
    for index in inspector.get_indexes(name, schema):
        is_partial = any(option.endswith("_where") for option in index.get("dialect_options", {}))
        yield index["column_names"], index["unique"] and not is_partial


def _problem_of(
    name: str,
    column: SQLColumn[Any],
    found: Mapping[str, Any] | None,
    is_sqlite: bool,
    writes_dates: bool,
) -> str:
    """Why a column cannot be written; empty if it can."""
    if found is None:
        return f"for {name} is missing. Add it by a migration, or name another."
    if "computed" in found:
        return "is generated, so this store cannot write it. Name another column."
    if name not in _IN_MILLISECONDS:
        return ""
    kind = found["type"]
    is_small = isinstance(kind, Integer) and not isinstance(kind, BigInteger)
    if is_small and not is_sqlite:  # all integers of SQLite have 64 bits
        or_date = ", or a date and time" if writes_dates else ""
        return f"is too small for Unix milliseconds. Make it a BIGINT{or_date}."
    is_date = isinstance(column.type, _DATES) or (isinstance(kind, _DATES) and not is_sqlite)
    if is_date and not writes_dates:
        return "is a date and time, and this store writes Unix milliseconds. Make it a BIGINT."
    return ""


def _needs_a_value(found: Mapping[str, Any], is_sqlite: bool) -> bool:
    has_value = (
        found["nullable"]
        or found.get("default") is not None
        or found.get("autoincrement") is True
        or "identity" in found
        or "computed" in found
    )
    is_row_id = is_sqlite and found.get("primary_key") and isinstance(found["type"], Integer)
    return not has_value and not is_row_id
