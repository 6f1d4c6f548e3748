"""UserFields: the fields of a document that hold a user, and how values are converted."""

from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any, TypeAlias

from ...errors import ConfigurationError
from ...models import User
from ..user_fields import ATTRIBUTES, EPOCH, NUMBERS, TIMES, whole_number

__all__ = ["Document", "UserFields"]

Document: TypeAlias = dict[str, Any]

_NAMES = {attribute: name for name, attribute in ATTRIBUTES.items()} | {
    "open_id": "openid",
    "union_id": "unionid",
    "created_at": "createAt",
    "updated_at": "updateAt",
}
"""The field of each attribute of `User`, as in the koa scaffold."""


class UserFields:
    """Converts between users and documents.

    `names` are those of the fields of attributes of `User`, where they differ from the koa
    scaffold's; a ConfigurationError is raised if they cannot work.
    """

    def __init__(self, names: Mapping[str, str] | None) -> None:
        for attribute, name in (names or {}).items():
            if attribute not in _NAMES:
                raise ConfigurationError(
                    f"fields names {attribute!r}, which is no attribute of a user. The attributes "
                    f"are {', '.join(_NAMES)}."
                )
            if not name or name == "_id" or "." in name or name.startswith("$") or "\0" in name:
                raise ConfigurationError(
                    f"fields names {name!r} for {attribute}. It must be a field of the document "
                    "itself, other than _id."
                )
        self._names: dict[str, str] = {**_NAMES, **(names or {})}
        if len(set(self._names.values())) < len(self._names):
            raise ConfigurationError(
                "fields gives two attributes of a user the same field: "
                f"{', '.join(self._names.values())}."
            )
        self.open_id: str = self._names["open_id"]
        self.union_id: str = self._names["union_id"]
        self.projection: list[str] = list(self._names.values())

    def user(self, document: Document) -> User:
        """Convert a document to a user, whose open_id is empty if the document has no openId."""
        values = {
            attribute: _value(attribute, document.get(name))
            for attribute, name in self._names.items()
        }
        values["open_id"] = values["open_id"] or ""
        values["union_id"] = values["union_id"] or None
        return User(**values)

    def has_union_id(self, union_id: str | None) -> Document:
        """The filter for documents with a unionId, as `user` reads it."""
        name = self.union_id
        if union_id:
            return {name: union_id}
        # An array also matches if one of its elements does.
        no_text = {"$nor": [{name: {"$type": "string"}}]}
        return {"$or": [no_text, {name: ""}, {name: {"$type": "array"}}]}

    def document(self, user: User) -> Document:
        """The fields of a new document; there is no field for an attribute without a value."""
        values = {
            name: _to_store(attribute, getattr(user, attribute))
            for attribute, name in self._names.items()
        }
        return {name: value for name, value in values.items() if value is not None}

    def update(self, stored: User, user: User, cleared: Collection[str] = ()) -> Document:
        """The update of a document that makes it hold a user; empty if nothing differs."""
        old, new = self.document(stored), self.document(user)
        erased = old.keys() | {self._names[attribute] for attribute in cleared}
        update = {
            "$set": {name: value for name, value in new.items() if value != old.get(name)},
            "$unset": dict.fromkeys(erased - new.keys(), ""),
        }
        return {operator: fields for operator, fields in update.items() if fields}


def _value(attribute: str, stored: object) -> Any:
    """Convert a field's value to that of `User`; None if it is something else."""
    if attribute in ("open_id", "union_id"):  # a query for the text finds nothing else
        return stored if isinstance(stored, str) else None
    if attribute in NUMBERS:
        return whole_number(attribute, stored)
    return str(stored) if isinstance(stored, (str, int, float)) else None


def _to_store(attribute: str, value: Any) -> object:
    if attribute in TIMES and value is not None:
        return EPOCH + timedelta(milliseconds=value)
    return value
