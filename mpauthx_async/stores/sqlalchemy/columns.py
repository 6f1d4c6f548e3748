"""The columns of a user table: which attribute of a user each holds, and how it is converted."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from sqlalchemy import Column as SQLColumn
from sqlalchemy import Date, DateTime, String, Table
from sqlalchemy.inspection import inspect
from sqlalchemy.orm import Mapper

from ...errors import ConfigurationError
from ..user_fields import ATTRIBUTES, EPOCH, NUMBERS, TIMES, whole_number

__all__ = ["Column", "Model", "columns_of"]

Model: TypeAlias = type[Any] | Table
"""A mapped class, or a Table."""

_IN_CAMEL_CASE = {attribute: name for name, attribute in ATTRIBUTES.items()}


@dataclass(frozen=True, slots=True)
class Column:
    """A column that holds an attribute of `User`."""

    attribute: str
    sql: SQLColumn[Any]

    @property
    def is_number(self) -> bool:
        return self.attribute in NUMBERS

    def value(self, stored: object) -> object:
        """Convert a stored value to that of `User`."""
        if self.is_number:
            return whole_number(self.attribute, stored)
        return stored if stored is None or isinstance(stored, str) else str(stored)

    def to_store(self, value: Any) -> object:
        """Convert a value of `User` to one that the column takes."""
        if value is None:
            if self.sql.nullable:
                return None
            value = 0 if self.is_number else ""
        if not self.is_number:
            return value.replace("\0", "")  # which PostgreSQL does not take
        if self.attribute in TIMES and isinstance(self.sql.type, (DateTime, Date, String)):
            return self._time(EPOCH + timedelta(milliseconds=value))
        return str(value) if isinstance(self.sql.type, String) else value

    def _time(self, time: datetime) -> object:
        if isinstance(self.sql.type, Date):
            return time.date()
        if isinstance(self.sql.type, String):
            return time.isoformat(" ", "milliseconds")
        return time if getattr(self.sql.type, "timezone", False) else time.replace(tzinfo=None)


def columns_of(model: Model, names: Mapping[str, str] | None) -> tuple[Table, list[Column]]:
    """Find the columns of a user in a model; `names` are the `columns` of SQLAlchemyUserStore."""
    table, known = _table_of(model)
    if names is None:
        names = {
            attribute: attribute if attribute in known else camel_case
            for attribute, camel_case in _IN_CAMEL_CASE.items()
            if attribute in known or camel_case in known
        }
    for attribute, name in names.items():
        if attribute not in _IN_CAMEL_CASE:
            raise ConfigurationError(
                f"columns names {attribute!r}, which is no field of a user. The fields are "
                f"{', '.join(_IN_CAMEL_CASE)}."
            )
        if name not in known:
            raise ConfigurationError(
                f"{_name_of(model)} has no column {name!r} for {attribute}. It has "
                f"{', '.join(known)}."
            )
    if "open_id" not in names:
        raise ConfigurationError(
            f"{_name_of(model)} has no column for the openId. Add one named open_id, or name it: "
            "columns={'open_id': …}."
        )
    columns = [Column(name, known[names[name]]) for name in _IN_CAMEL_CASE if name in names]
    if len({column.sql.name for column in columns}) < len(columns):
        raise ConfigurationError("columns names one column for several fields of a user.")
    return table, columns


def _table_of(model: Model) -> tuple[Table, dict[str, SQLColumn[Any]]]:
    """The table, and its columns by name."""
    if isinstance(model, Table):
        return model, {column.key: column for column in model.columns}
    mapper = inspect(model, raiseerr=False)
    table = mapper.local_table if isinstance(mapper, Mapper) else None
    if not isinstance(mapper, Mapper) or not isinstance(table, Table):
        raise ConfigurationError(
            "The model of users must be a mapped class with a table, or a Table: this is "
            f"{model!r:.80}."
        )
    return table, {
        attribute.key: column
        for attribute in mapper.column_attrs
        for column in attribute.columns
        if isinstance(column, SQLColumn) and column.table is table
    }


def _name_of(model: Model) -> str:
    return f"The table {model.name}" if isinstance(model, Table) else f"The model {model.__name__}"
