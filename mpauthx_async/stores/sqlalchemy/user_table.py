"""UserTable: reads and writes the users' table and that of links, for a plan of `LinkedUsers`."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import (
    ARRAY,
    CHAR,
    Connection,
    MetaData,
    Select,
    Table,
    Text,
    and_,
    any_,
    bindparam,
    delete,
    false,
    insert,
    literal,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy import Column as SQLColumn
from sqlalchemy.sql import ColumnElement

from ...errors import StoreError
from ...models import User
from ..linked_users import Changes, Id, Link
from .columns import Column, Model, columns_of
from .models import link_table

__all__ = ["UserTable"]

Item = TypeVar("Item")

_MAX_IDS = 1024  # in one statement
_OLD = "mpauthx_old_"  # names the parameters that find a row


class UserTable:
    """Reads the rows and links of users, and writes changes, on a connection.

    Statements are SQLAlchemy's, and those that all databases have.
    """

    links_all_ids = True  # several processes write at a time

    def __init__(self, model: Model, names: Mapping[str, str] | None, dialect_name: str) -> None:
        self._is_sqlite = dialect_name == "sqlite"
        self._is_postgresql = dialect_name == "postgresql"
        table, columns = columns_of(model, names)
        self.table: Table = table
        self.columns: list[Column] = columns
        self.links: Table = link_table(MetaData(), schema=self.table.schema)
        by_attribute = {column.attribute: column.sql for column in self.columns}
        self._open_id: SQLColumn[str] = by_attribute["open_id"]
        self._union_id: SQLColumn[str] | None = by_attribute.get("union_id")
        self.has_union_id: bool = self._union_id is not None

    def is_changed(self, stored: User, user: User) -> bool:
        return bool(self._differences(stored, user))

    def check(self, user: User) -> None:
        """Raise StoreError if the table cannot hold the ids of a user."""
        ids = (user.open_id, user.union_id or "", user.app_id or "")
        if not user.open_id or any("\0" in text for text in ids):
            refused = StoreError("A user needs an openId, and ids cannot contain NUL.")
            refused.retryable = False
            raise refused

    def write_nothing(self, connection: Connection) -> None:
        """Execute an UPDATE of no rows, which fails if the database is read-only."""
        connection.execute(update(self.links).where(false()).values(app_id=None))

    def lock(self, connection: Connection, ids: Iterable[Id], *, waits: bool) -> None:
        """Let no other process write the persons with these ids until the transaction ends."""
        links = self.links.c
        if self._is_sqlite:
            # It locks the database for the first write. A read before that could go stale.
            self.write_nothing(connection)
            return
        for some in _parts(sorted(ids)):
            connection.execute(
                select(links.id)
                .where(self._is_one_of(some))
                .order_by(links.id, links.is_union_id)  # always in this order: no deadlocks
                .with_for_update(nowait=not waits)
            ).all()

    def lock_rows(self, connection: Connection, changes: Changes) -> None:
        """Fail at once if another transaction has locked a row that is to be written."""
        if self._is_sqlite:
            return
        users = [*(stored for stored, _ in changes.updated), *changes.deleted]
        for some in _parts(users):
            connection.execute(
                select(self._open_id)
                .where(or_(*(self._is_row_of(user) for user in some)))
                .with_for_update(nowait=True, key_share=True)  # as an UPDATE, which takes no key
            ).all()

    def query(
        self, connection: Connection, ids: Collection[Id]
    ) -> tuple[Sequence[User], Sequence[Link]]:
        """Read the rows and links that have any of these ids."""
        users: list[User] = []
        links: list[Link] = []
        for some in _parts(id_ for id_ in ids if "\0" not in id_[0]):
            links += [Link(*row) for row in connection.execute(self._links_of(some))]
            users += [self._user(row) for row in connection.execute(self._rows_of(some))]
        return users, links

    def write(self, connection: Connection, changes: Changes) -> None:
        """Write changes. The links come first: they show that another process was faster."""
        links = self.links
        if changes.new_links:
            rows = [link._asdict() for link in sorted(changes.new_links, key=lambda link: link[:2])]
            connection.execute(insert(links), rows)
        for link in changes.changed_links:
            values = {"app_id": link.app_id, "union_id": link.union_id}
            connection.execute(update(links).where(self._is_one_of([link[:2]])).values(values))
        for some in _parts(changes.deleted_links):
            connection.execute(delete(links).where(self._is_one_of(some)))
        for user in changes.deleted:
            connection.execute(delete(self.table).where(self._is_row_of(user)))
        if changes.inserted:
            connection.execute(insert(self.table), [self._row(user) for user in changes.inserted])
        self._update(connection, changes)

    def _update(self, connection: Connection, changes: Changes) -> None:
        """Write what differs, in one trip for all rows with the same columns to write."""
        grouped: dict[tuple[bool, frozenset[str]], list[dict[str, Any]]] = {}
        for stored, user in changes.updated:
            values = self._differences(stored, user, changes.cleared)
            if not values:  # the table has no column for what is cleared
                continue
            ids = {f"{_OLD}id": stored.open_id or stored.union_id}
            key = bool(stored.open_id), frozenset(values)
            grouped.setdefault(key, []).append({**values, **ids})
        for (has_open_id, _), rows in grouped.items():
            statement = update(self.table).where(self._is_row(has_open_id, bindparam(f"{_OLD}id")))
            connection.execute(statement, rows)

    def _is_row_of(self, user: User) -> ColumnElement[bool]:
        return self._is_row(bool(user.open_id), user.open_id or user.union_id)

    def _is_row(self, has_open_id: bool, id_: Any) -> ColumnElement[bool]:
        """The condition that a stored row meets. One without an openId belongs to its unionId."""
        if has_open_id or self._union_id is None:
            return and_(self._open_id == id_)
        return and_(self._union_id == id_, or_(self._open_id.is_(None), self._open_id == ""))

    def _rows_of(self, ids: Sequence[Id]) -> Any:
        open_ids, union_ids = _texts(ids, 0), _texts(ids, 1)
        if self._union_id is None:
            return self._select().where(self._is_in(self._open_id, open_ids + union_ids))
        by = (self._open_id, open_ids), (self._union_id, union_ids)
        # Not one WHERE with OR, for which MySQL may read the whole table.
        return _union([self._select().where(self._is_in(c, texts)) for c, texts in by if texts])

    def _links_of(self, ids: Sequence[Id]) -> Any:
        links, union_ids = self.links.c, _texts(ids, 1)
        columns = select(links.id, links.is_union_id, links.app_id, links.union_id)
        conditions = list(self._conditions(ids))
        if union_ids:
            conditions.append(self._is_in(links.union_id, union_ids))
        return _union([columns.where(condition) for condition in conditions])

    def _is_one_of(self, ids: Sequence[Id]) -> ColumnElement[bool]:
        return or_(*self._conditions(ids))

    def _conditions(self, ids: Sequence[Id]) -> Iterator[ColumnElement[bool]]:
        for kind in (0, 1):
            if texts := _texts(ids, kind):
                links = self.links.c
                yield and_(links.is_union_id == kind, self._is_in(links.id, texts))

    def _is_in(self, column: SQLColumn[Any], texts: list[str]) -> ColumnElement[bool]:
        if self._is_postgresql and not isinstance(column.type, CHAR):
            # One array: for a long IN, PostgreSQL may scan a table that has no statistics yet.
            return column == any_(literal(texts, ARRAY(Text)))
        return column.in_(texts)

    def _select(self) -> Select[Any]:
        return select(*(column.sql for column in self.columns))

    def _user(self, row: Sequence[Any]) -> User:
        """Convert a row to a user, whose open_id is empty if the row has no openId."""
        fields: dict[str, Any] = {
            column.attribute: column.value(value)
            for column, value in zip(self.columns, row, strict=True)
        }
        fields["open_id"] = fields["open_id"] or ""
        if self.has_union_id:
            fields["union_id"] = fields["union_id"] or None
        return User(**fields)

    def _row(self, user: User) -> dict[str, Any]:
        """The values to insert, by the key of the column."""
        return {
            column.sql.key: column.to_store(getattr(user, column.attribute))
            for column in self.columns
        }

    def _differences(
        self, stored: User, user: User, cleared: Collection[str] = ()
    ) -> dict[str, Any]:
        """The values to write, by the key of the column."""
        old, new = self._row(stored), self._row(user)
        erased = {column.sql.key for column in self.columns if column.attribute in cleared}
        return {key: value for key, value in new.items() if value != old[key] or key in erased}


def _texts(ids: Iterable[Id], kind: int) -> list[str]:
    return [text for text, is_union_id in ids if is_union_id == kind]


def _parts(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Split ids or users into parts for one statement each."""
    left = iter(items)
    while part := list(islice(left, _MAX_IDS)):
        yield part


def _union(selects: Sequence[Select[Any]]) -> Any:
    return selects[0] if len(selects) == 1 else union_all(*selects)
