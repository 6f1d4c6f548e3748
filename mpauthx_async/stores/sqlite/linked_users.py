"""LinkedUsers: the rows and ids of a user database that belong to one person.

Rows of the user table are never merged, because the application's foreign keys refer to them. The
table mpauthx_link keeps what the rows do not hold, in one row for each id:

    id, is_union_id  an openId or a unionId; one of each with the same text are two ids
    app_id           the app of the openId; NULL if it is not known, and for a unionId
    union_id         the person's current unionId; NULL if the user table holds it
"""

import json
import math
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias

from ...models import User
from ..profiles import complete_profile, merge_profile
from .bad_rows import is_bad_row
from .user_table import Statement, UserTable, insert_rows

__all__ = ["LinkedUsers", "create_link_table"]

_CREATE = """
CREATE TABLE IF NOT EXISTS mpauthx_link (
    id TEXT NOT NULL,
    is_union_id INTEGER NOT NULL,
    app_id TEXT,
    union_id TEXT,
    PRIMARY KEY (id, is_union_id)
) WITHOUT ROWID
"""
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

_Id: TypeAlias = tuple[str, int]
"""An id's text, and 1 for a unionId, 0 for an openId."""


def create_link_table(cursor: sqlite3.Cursor) -> None:
    """Create the table mpauthx_link if it is missing."""
    cursor.execute(_CREATE)
    cursor.execute(_INDEX)


class _Link(NamedTuple):
    id: str
    is_union_id: int
    app_id: str | None
    union_id: str | None


_NO_LINK = _Link("", 0, None, None)


@dataclass(slots=True, eq=False)
class _Row:
    user: User  # as the row is to be
    stored: User | None  # as the row was read; None for a new row


@dataclass(slots=True, eq=False)
class _Person:
    ids: dict[_Id, str | None] = field(default_factory=dict)  # with their apps, if known
    rows: list[_Row] = field(default_factory=list)
    union_id: str | None = None  # the current one
    is_saved: bool = False  # whether `save` has changed the person since they were read

    def is_current(self, row: _Row) -> bool:
        """Whether a row holds the id that the person's next token carries."""
        return self.union_id is None or row.user.id == self.union_id

    def sorted_rows(self) -> list[_Row]:
        """The rows, the one that represents the person first."""
        if len(self.rows) < 2:  # at almost every login
            return self.rows
        return sorted(self.rows, key=lambda row: (not self.is_current(row), *_age(row.user)))


class LinkedUsers:
    """The persons with any of some ids, as read from the database, and statements to change them.

    Args:
        cursor: of the database.
        table: the user table.
        open_ids: openIds of the persons.
        union_ids: unionIds of the persons.
        untyped: ids of the persons that may be either.
    """

    def __init__(
        self,
        cursor: sqlite3.Cursor,
        table: UserTable,
        *,
        open_ids: Collection[str] = (),
        union_ids: Collection[str] = (),
        untyped: Collection[str] = (),
    ) -> None:
        ids = {(text, 0) for text in (*open_ids, *untyped)}
        ids |= {(text, 1) for text in (*union_ids, *untyped)}
        users, links = _read(cursor, table, ids)
        self._table = table
        self._persons: dict[_Id, _Person] = {}
        self._links: dict[_Id, _Link] = {link[:2]: link for link in links}
        linked_to = {link.union_id for link in links if link.union_id}
        known_union_ids = {*union_ids, *linked_to, *(link.id for link in links if link.is_union_id)}
        for user in users:
            holds_union_id = not table.has_union_id and user.open_id in known_union_ids
            person = self._join([(user.open_id, 1)] if holds_union_id else _ids(user))
            person.rows.append(_Row(user, stored=user))
        for id_, link in self._links.items():
            person = self._join([id_, (link.union_id, 1)] if link.union_id else [id_])
            person.ids[id_] = link.app_id
        replaced = {link.id for link in links if link.is_union_id and link.union_id}
        for person in self._all():
            person.union_id = max(
                (text for text, is_union_id in person.ids if is_union_id),
                # Several are possible if the application has changed rows.
                key=lambda text: (text not in replaced, text in linked_to, text),
                default=None,
            )

    def user(self, user_id: str) -> User | None:
        """The user with an openId or unionId; None if it is unknown."""
        person = self._find(user_id)
        if person is None or not person.rows:
            return None
        user = person.sorted_rows()[0].user
        texts = {text for text, _ in person.ids}
        open_id = user.open_id
        if (open_id, 0) not in person.ids:  # its openId holds the unionId
            open_id = min(
                (text for text, is_union_id in person.ids if not is_union_id),
                default=open_id or user.id,
            )
        return replace(
            user,
            open_id=open_id,
            union_id=person.union_id or user.union_id,
            app_id=person.ids.get((open_id, 0)),
            linked_ids=tuple(sorted(texts - {open_id, person.union_id})),
        )

    def save(self, login: User, now: int) -> bool:
        """Add a login to its person; returns True if the user is new."""
        ids = _ids(login)
        if not self._table.has_union_id:  # openId may hold either
            ids += [twin for text, kind in ids if (twin := (text, 1 - kind)) in self._persons]
        found = [self._persons[id_] for id_ in ids if id_ in self._persons]
        person = self._join(ids)
        rows = person.sorted_rows()
        person.is_saved = True
        person.union_id = login.union_id or person.union_id
        if person.ids[ids[0]] is None:
            person.ids[ids[0]] = login.app_id
        if not rows:
            self._insert(person, login, now)
            return True
        known = rows[0].user  # has all that is known, unless logins have linked two persons
        is_merger = any(other is not person for other in found)
        others = [row.user for row in rows[1:]] if is_merger else []
        row = self._row_to_update(person, login)
        stored = known if row is None or row.user is known else merge_profile(row.user, known)
        user = merge_profile(complete_profile(stored, others), login)
        if row is None:
            self._insert(person, replace(user, open_id=login.open_id), now)
        else:
            self._update(person, row, user, now)
        return False

    def statements(self) -> Iterator[Statement]:
        """The statements that write the saved logins; empty if they change nothing."""
        rows = [row for person in self._all() for row in person.rows]
        changed = [row for row in rows if row.user is not row.stored]
        yield from self._table.insert([row.user for row in changed if row.stored is None])
        for row in changed:
            if row.stored is not None:
                yield self._table.update(row.stored, row.user)
        saved = [person for person in self._all() if person.is_saved]
        links = [link for person in saved for link in self._links_to_write(person)]
        yield from insert_rows(_WRITE, links)

    def forget(self, user_id: str, app_ids: Collection[str]) -> list[Statement] | None:
        """The statements that erase a person for these apps; None if user_id is unknown."""
        person = self._find(user_id)
        if person is None:
            return None
        others = {id_ for id_, app_id in person.ids.items() if app_id and app_id not in app_ids}
        erased, rows = person.ids.keys() - others, person.rows
        if others:
            erased = {id_ for id_ in erased if not id_[1]}
            rows = [row for row in person.rows if (row.user.open_id, 0) in erased]
            if all(row in rows for row in person.rows if person.is_current(row)):
                rows = [row for row in rows if row is not person.sorted_rows()[0]]  # others need it
        return [
            *self._table.delete([row.user for row in rows]),
            (_DELETE, [json.dumps(list(erased))]),
        ]

    def clear(self, user_id: str, fields: Collection[str], now: int) -> list[Statement] | None:
        """The statements that erase profile fields; None if user_id is unknown."""
        person = self._find(user_id)
        if person is None or not person.rows:
            return None
        return self._table.clear([row.user for row in person.rows], fields, now)

    def _all(self) -> Iterable[_Person]:
        return dict.fromkeys(self._persons.values())

    def _find(self, user_id: str) -> _Person | None:
        return self._persons.get((user_id, 1)) or self._persons.get((user_id, 0))

    def _join(self, ids: Sequence[_Id]) -> _Person:
        """Make all persons with these ids one, or create the person if the ids are unknown."""
        found = [self._persons[id_] for id_ in ids if id_ in self._persons]
        person = found[-1] if found else _Person()
        for other in found:
            if other is not person:
                person.rows += other.rows
                person.ids |= other.ids
                self._persons |= dict.fromkeys(other.ids, person)
                other.rows, other.ids = [], {}  # `found` may have it twice
        for id_ in ids:
            self._persons[id_] = person
            person.ids.setdefault(id_)
        return person

    def _row_to_update(self, person: _Person, login: User) -> _Row | None:
        """The row that a login of a known person updates; None if it needs a new row."""
        rows = person.sorted_rows()
        if person.is_current(rows[0]):
            return rows[0]
        if not self._table.has_union_id:
            return None
        return next((row for row in rows if row.user.open_id == login.open_id), rows[0])

    def _update(self, person: _Person, row: _Row, user: User, now: int) -> None:
        union_id = (person.union_id if self._table.has_union_id else None) or row.user.union_id
        if user.union_id != union_id:
            user = replace(user, union_id=union_id)
        if user is not row.user and self._table.is_changed(row.user, user):
            row.user = replace(user, updated_at=now)

    def _insert(self, person: _Person, user: User, now: int) -> None:
        if user.union_id != person.union_id or user.created_at is None:
            user = replace(
                user, union_id=person.union_id, created_at=user.created_at or now, updated_at=now
            )
        person.rows.append(_Row(self._table.as_stored(user), stored=None))

    def _links_to_write(self, person: _Person) -> Iterator[_Link]:
        """The rows of mpauthx_link that are missing or out of date for a person."""
        union_id = person.union_id
        in_table = {row.user.open_id for row in person.rows if row.user.union_id == union_id}
        for id_, app_id in person.ids.items():
            text, is_union_id = id_
            is_told = text == union_id if is_union_id else text in in_table
            link = _Link(text, is_union_id, app_id, None if is_told else union_id)
            if link[2:] != self._links.get(id_, _NO_LINK)[2:]:
                yield link


def _ids(user: User) -> list[_Id]:
    """The ids of a login or row, the openId first."""
    ids = [(user.open_id, 0)] if user.open_id else []
    return [*ids, (user.union_id, 1)] if user.union_id else ids


def _read(
    cursor: sqlite3.Cursor, table: UserTable, ids: Collection[_Id]
) -> tuple[Collection[User], Collection[_Link]]:
    """Read the rows and links of these ids, and of all ids that those lead to."""
    asked: set[_Id] = set()
    users: dict[User, None] = {}
    links: dict[_Link, None] = {}
    while ids := {id_ for id_ in ids if id_[0]} - asked:  # '' is no id
        if not table.has_union_id:  # openId may hold either
            ids = {(text, kind) for text, _ in ids for kind in (0, 1)}
        asked |= ids
        found_users, found_links = _query(cursor, table, ids)
        users |= dict.fromkeys(found_users)
        links |= dict.fromkeys(found_links)
        ids = {id_ for user in found_users for id_ in _ids(user)}
        ids |= {link[:2] for link in found_links}
        ids |= {(link.union_id, 1) for link in found_links if link.union_id}
    return users, links


def _query(
    cursor: sqlite3.Cursor, table: UserTable, ids: Collection[_Id]
) -> tuple[list[User], list[_Link]]:
    """Read the rows and links that have any of these ids, in one statement.

    Raises:
        StoreError: if a row cannot be read; it names the column.
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
        return users, [_Link(*row) for row in json.loads(links.decode())]
    except (sqlite3.Error, ValueError) as error:
        unreadable = table.unreadable(cursor, values) if is_bad_row(error) else None
        raise unreadable or error from error.__cause__


def _age(user: User) -> tuple[float, str]:
    """A sort key, the oldest first; an application's column may hold other values than times."""
    created_at: object = user.created_at
    return (created_at if isinstance(created_at, int) else math.inf), str(user.open_id)
