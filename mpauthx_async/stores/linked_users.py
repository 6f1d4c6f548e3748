"""LinkedUsers: the rows and ids of a user database that belong to one user.

Rows of the user table are never merged, because the application's foreign keys refer to them. The
table mpauthx_link keeps what the rows do not hold, in one row for each id:

    id, is_union_id  an openId or a unionId; one of each with the same text are two ids
    app_id           the app of the openId; NULL if it is not known, and for a unionId
    union_id         the person's current unionId; NULL if the user table holds it
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, TypeAlias

from ..models import User
from .profiles import complete_profile, merge_profile

__all__ = ["Changes", "Id", "Link", "LinkedUsers", "LinkedUsersTable", "Query", "ids_of"]

Id: TypeAlias = tuple[str, int]
"""An id's text, and 1 for a unionId, 0 for an openId."""


class Link(NamedTuple):
    """A row of mpauthx_link."""

    id: str
    is_union_id: int
    app_id: str | None
    union_id: str | None


Query: TypeAlias = Callable[[Collection[Id]], tuple[Sequence[User], Sequence[Link]]]
"""Reads the rows and links that have any of some ids, the links also by their union_id."""


class LinkedUsersTable(Protocol):
    """What a plan needs to know of a user table."""

    @property
    def has_union_id(self) -> bool:
        """Whether there is a unionId column. If not, the openId column holds the user id."""

    @property
    def links_all_ids(self) -> bool:
        """Whether all ids of a saved user get a link, even those that are in the rows.

        Then, if two processes add one user at once, one of them violates the links' primary key.
        """

    def is_changed(self, stored: User, user: User) -> bool:
        """Whether an update of the row of `stored` would write anything."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What to write. Rows are named by the user as read from them."""

    inserted: Sequence[User] = ()
    updated: Sequence[tuple[User, User]] = ()  # rows, each with the user to write to it
    cleared: Collection[str] = ()  # attributes to erase in these, even if no value was readable
    deleted: Sequence[User] = ()
    new_links: Sequence[Link] = ()  # of ids that have no link
    changed_links: Sequence[Link] = ()  # in place of those of the same ids
    deleted_links: Sequence[Id] = ()
    # Whether all changes are about users who were unknown. Then no lock is needed if all their ids
    # get links: those of a faster process violate the primary key.
    only_adds: bool = False

    def __bool__(self) -> bool:
        """Whether there is anything to write."""
        return bool(self.updated) or not self.only_updates

    @property
    def only_updates(self) -> bool:
        """Whether rows are updated at most: none is added or deleted, and no link written."""
        links = self.new_links or self.changed_links or self.deleted_links
        return not (self.inserted or self.deleted or links)


_NO_LINK = Link("", 0, None, None)


@dataclass(slots=True, eq=False)
class _Row:
    user: User  # as the row is to be
    stored: User | None  # as the row was read; None for a new row


@dataclass(slots=True, eq=False)
class _Person:
    ids: dict[Id, str | None] = field(default_factory=dict)  # with their apps, if known
    rows: list[_Row] = field(default_factory=list)
    union_id: str | None = None  # the current one
    is_saved: bool = False  # whether `save` has changed the person since they were read

    def is_current(self, row: _Row) -> bool:
        """Whether a row holds the id that the person's next token carries."""
        return self.union_id is None or row.user.id == self.union_id

    def sorted_rows(self) -> list[_Row]:
        """The rows, the one that represents the person first."""
        return sorted(self.rows, key=lambda row: (not self.is_current(row), *_age(row.user)))


class LinkedUsers:
    """The persons with any of some ids, as read from the database, and the changes to write.

    Args:
        query, table: the database.
        ids, untyped: ids of the persons; an untyped one may be an openId or a unionId.

    Attributes:
        ids: all ids that were asked for: those given, and all that they lead to.
    """

    def __init__(
        self,
        query: Query,
        table: LinkedUsersTable,
        ids: Collection[Id] = (),
        *,
        untyped: Collection[str] = (),
    ) -> None:
        either = [(text, is_union_id) for text in untyped for is_union_id in (0, 1)]
        asked, users, links = _read(query, table, {*ids, *either})
        self.ids: set[Id] = asked
        self._table = table
        self._persons: dict[Id, _Person] = {}
        self._links: dict[Id, Link] = {link[:2]: link for link in links}
        linked_to = {link.union_id for link in links if link.union_id}
        known_union_ids = {text for text, is_union_id in (*ids, *self._links) if is_union_id}
        known_union_ids |= linked_to
        for user in users:
            holds_union_id = not table.has_union_id and user.open_id in known_union_ids
            person = self._join([(user.open_id, 1)] if holds_union_id else ids_of(user))
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
        ids = ids_of(login)
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

    def changes(self) -> Changes:
        """What to write for the saved logins."""
        rows = [row for person in self._all() for row in person.rows]
        changed = [row for row in rows if row.user is not row.stored]
        to_write = [
            (person, link)
            for person in self._all()
            if person.is_saved
            for link in self._links_to_write(person)
        ]
        links = [link for _, link in to_write]
        updated = [(row.stored, row.user) for row in changed if row.stored is not None]
        return Changes(
            inserted=[row.user for row in changed if row.stored is None],
            updated=updated,
            new_links=[link for link in links if link[:2] not in self._links],
            changed_links=[link for link in links if link[:2] in self._links],
            only_adds=not updated and not any(self._is_known(person) for person, _ in to_write),
        )

    def forget(
        self, user_id: str, app_ids: Collection[str], erased: Collection[Id] = ()
    ) -> Changes | None:
        """What to write to erase a person for these apps; None if user_id is unknown.

        `erased` are ids of the user that are erased already; whatever has them now is erased, too.
        """
        person = self._find(user_id)
        if erased:
            person = self._join([*erased, *(person.ids if person is not None else ())])
        if person is None:
            return None
        others = {id_ for id_, app_id in person.ids.items() if app_id and app_id not in app_ids}
        erased, rows = person.ids.keys() - others, person.rows
        if others:
            erased = {id_ for id_ in erased if not id_[1]}
            rows = [row for row in person.rows if (row.user.open_id, 0) in erased]
            if all(row in rows for row in person.rows if person.is_current(row)):
                rows = [row for row in rows if row is not person.sorted_rows()[0]]  # others need it
        return Changes(
            deleted=[row.user for row in rows], deleted_links=sorted(erased & self._links.keys())
        )

    def clear(self, user_id: str, fields: Collection[str], now: int) -> Changes | None:
        """What to write to erase fields of a person's profile; None if user_id is unknown."""
        blank: dict[str, Any] = {**dict.fromkeys(fields), "updated_at": now}
        rows = self.rows_of(user_id)
        updated = [(row, replace(row, **blank)) for row in rows]
        return Changes(updated=updated, cleared=fields) if rows else None

    def rows_of(self, user_id: str) -> Sequence[User]:
        """The users as read from the rows of a person; empty if user_id is unknown."""
        person = self._find(user_id)
        return [row.user for row in person.rows] if person is not None else []

    def ids_with(self, id_: Id) -> Collection[Id]:
        """All ids of the person with an id; empty if it is unknown."""
        person = self._persons.get(id_)
        return person.ids.keys() if person is not None else ()

    def without_rows(self, ids: Iterable[Id]) -> list[Id]:
        """Those of some ids that have a link, and whose persons neither have nor get a row."""
        return [id_ for id_ in ids if id_ in self._links and not self._persons[id_].rows]

    def _is_known(self, person: _Person) -> bool:
        """Whether the database had a row or link of a person when it was read."""
        has_row = any(row.stored is not None for row in person.rows)
        return has_row or not self._links.keys().isdisjoint(person.ids)

    def _all(self) -> Iterable[_Person]:
        return dict.fromkeys(self._persons.values())

    def _find(self, user_id: str) -> _Person | None:
        return self._persons.get((user_id, 1)) or self._persons.get((user_id, 0))

    def _join(self, ids: Sequence[Id]) -> _Person:
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
        if not self._table.has_union_id:  # the column of the openId holds the user id
            user = replace(user, open_id=user.id, union_id=None)
        person.rows.append(_Row(user, stored=None))

    def _links_to_write(self, person: _Person) -> Iterator[Link]:
        """The rows of mpauthx_link that are missing or out of date for a person."""
        union_id = person.union_id
        in_table = {row.user.open_id for row in person.rows if row.user.union_id == union_id}
        for id_, app_id in person.ids.items():
            text, is_union_id = id_
            is_told = text == union_id if is_union_id else text in in_table
            link = Link(text, is_union_id, app_id, None if is_told else union_id)
            known = self._links.get(id_, None if self._table.links_all_ids else _NO_LINK)
            if known is None or link[2:] != known[2:]:
                yield link


def ids_of(user: User) -> list[Id]:
    """The ids of a login, row or document, the openId first."""
    ids = [(user.open_id, 0)] if user.open_id else []
    return [*ids, (user.union_id, 1)] if user.union_id else ids


def _read(
    query: Query, table: LinkedUsersTable, ids: Collection[Id]
) -> tuple[set[Id], Collection[User], Collection[Link]]:
    """Read the rows and links of these ids, and of all ids that those lead to."""
    asked: set[Id] = set()
    users: dict[User, None] = {}
    links: dict[Link, None] = {}
    while ids := {id_ for id_ in ids if id_[0]} - asked:  # '' is no id
        if not table.has_union_id:  # the column of the openId may hold either
            ids = {(text, kind) for text, _ in ids for kind in (0, 1)}
        asked |= ids
        found_users, found_links = query(ids)
        users |= dict.fromkeys(found_users)
        links |= dict.fromkeys(found_links)
        ids = {id_ for user in found_users for id_ in ids_of(user)}
        ids |= {link[:2] for link in found_links}
        ids |= {(link.union_id, 1) for link in found_links if link.union_id}
    return asked, users, links


def _age(user: User) -> tuple[float, str]:
    """A sort key, the oldest first; an application's column may hold other values than times."""
    created_at: object = user.created_at
    return (created_at if isinstance(created_at, int) else math.inf), str(user.open_id)
