"""The table mpauthx_link in SQLite: reads it together with the user table, and writes it."""

import json
import sqlite3
from collections.abc import Collection, Iterator

from ...models import User
from ..linked_users import Changes, Id, Link
from .bad_rows import is_bad_row
from .user_table import Statement, UserTable, insert_rows

__all__ = ["create_link_table", "query_linked", "statements"]

_CREATE = (
    "CREATE TABLE IF NOT EXISTS mpauthx_link (id TEXT NOT NULL, is_union_id INTEGER NOT NULL,"
    " app_id TEXT, union_id TEXT, PRIMARY KEY (id, is_union_id)) WITHOUT ROWID"
)
_INDEX = (
    "CREATE INDEX IF NOT EXISTS mpauthx_link_union_id ON mpauthx_link (union_id)"
    " WHERE union_id IS NOT NULL"
)
_SELECT = (
    "(SELECT json_group_array(json_array(id, is_union_id, app_id, union_id)) FROM mpauthx_link"
    " WHERE (is_union_id = 0 AND id IN (SELECT value FROM json_each(:open_ids)))"
    " OR (is_union_id = 1 AND id IN (SELECT value FROM json_each(:union_ids)))"
    " OR union_id IN (SELECT value FROM json_each(:union_ids)))"
)
_WRITE = "INSERT OR REPLACE INTO mpauthx_link (id, is_union_id, app_id, union_id) VALUES "
_DELETE = (
    "DELETE FROM mpauthx_link WHERE (id, is_union_id) IN"
    " (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?))"
)


def create_link_table(cursor: sqlite3.Cursor) -> None:
    """Create the table mpauthx_link if it is missing."""
    cursor.execute(_CREATE)
    cursor.execute(_INDEX)


def query_linked(
    cursor: sqlite3.Cursor, table: UserTable, ids: Collection[Id]
) -> tuple[list[User], list[Link]]:
    """Read the rows and links that have any of these ids, in one statement.

    If a row cannot be read, a StoreError names the column.
    """
    values = {
        "open_ids": json.dumps([text for text, is_union_id in ids if not is_union_id]),
        "union_ids": json.dumps([text for text, is_union_id in ids if is_union_id]),
    }
    try:
        # sqlite3's exception quotes text that is not UTF-8, so the rows are read as a blob.
        ((rows, links),) = cursor.execute(
            f"SELECT CAST({table.select} AS BLOB), CAST({_SELECT} AS BLOB)", values
        )
        users = [table.user(row) for row in json.loads(rows.decode())]
        return users, [Link(*row) for row in json.loads(links.decode())]
    except (sqlite3.Error, ValueError) as error:
        unreadable = table.unreadable(cursor, values) if is_bad_row(error) else None
        raise unreadable or error from error.__cause__


def statements(table: UserTable, changes: Changes) -> Iterator[Statement]:
    """The statements that write changes."""
    yield from table.insert(changes.inserted)
    for stored, user in changes.updated:
        yield table.update(stored, user)
    yield from table.delete(changes.deleted)
    yield from insert_rows(_WRITE, [*changes.new_links, *changes.changed_links])
    if changes.deleted_links:
        yield _DELETE, [json.dumps(changes.deleted_links)]
