"""The columns of a user table: which are known, what they hold, and whether logins fit them."""

import re
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import NamedTuple

from ...errors import ConfigurationError
from ..user_fields import ATTRIBUTES, NUMBERS, whole_number

__all__ = ["Column", "is_numeric", "read_columns"]

_KNOWN = {name.lower(): name for name in ATTRIBUTES}  # SQLite ignores the case of names
_STRICT_TEXT = ("TEXT", "ANY")
_STRICT_NUMBER = ("INT", "INTEGER", "REAL", "TEXT", "ANY")
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_MAX_INTEGER = 2**63 - 1  # of SQLite


@dataclass(frozen=True, slots=True)
class Column:
    """A known column."""

    name: str  # as in ATTRIBUTES, whatever its case in the table
    required: bool  # NOT NULL
    key: int  # its place in the primary key, from 1; 0 if it is not in the key
    numeric: bool  # whether SQLite converts text that looks like a number to a number
    type: type[str] | type[int]  # of its values in `User`, except None

    @property
    def blank(self) -> object:
        """The value that stands for None."""
        return self.type() if self.required else None

    def value(self, stored: object) -> object:
        """Convert a stored value to that of `User`."""
        if stored is None or isinstance(stored, self.type):
            return stored
        return str(stored) if self.type is str else whole_number(ATTRIBUTES[self.name], stored)

    def as_read(self, value: object) -> object:
        """The value that `User` gets back after a value is written."""
        if self.numeric and isinstance(value, str) and is_numeric(value):
            return self.value(_number(value))
        return value


def is_numeric(text: str) -> bool:
    """Whether a numeric column converts a text to a number."""
    return _NUMBER.fullmatch(text) is not None


def _number(text: str) -> float:
    """The number to which SQLite converts a numeric text."""
    number = float(text)
    if not isfinite(number) or abs(number) > _MAX_INTEGER or not number.is_integer():
        return number
    return int(text) if text.strip().lstrip("+-").isdecimal() else int(number)


class _Info(NamedTuple):
    """A row of PRAGMA table_xinfo."""

    cid: int
    name: str
    type: str
    notnull: int
    default: str | None
    key: int
    hidden: int

    @property
    def known_name(self) -> str | None:
        """Its name in ATTRIBUTES; None if it is a column of the application."""
        return _KNOWN.get(self.name.lower())

    @property
    def is_generated(self) -> bool:
        return self.hidden > 1

    def column(self, name: str, is_strict: bool) -> Column:
        numeric = _has_numeric_affinity(self.type) and not (
            is_strict and self.type.upper() == "ANY"
        )
        kind = int if ATTRIBUTES[name] in NUMBERS else str
        return Column(name, bool(self.notnull), self.key, numeric, kind)


def read_columns(cursor: sqlite3.Cursor) -> list[Column]:
    """Read the known columns of the user table, in the table's order; empty without a table.

    If logins cannot be saved in it, a ConfigurationError names the column and the remedy.
    """
    infos = [_Info(*row) for row in cursor.execute("PRAGMA table_xinfo(user)").fetchall()]
    if not infos:
        return []
    if not any(info.known_name == "openId" for info in infos):
        raise ConfigurationError(
            "The database has a table named user without a column openId. Add the column, or "
            "choose another file."
        )
    indexes = cursor.execute("PRAGMA index_list(user)").fetchall()
    has_key_index = any(origin == "pk" for *_, origin, _ in indexes)
    is_strict = any(row[5] for row in cursor.execute("PRAGMA table_list(user)").fetchall())
    unique = _unique_names(cursor, indexes)
    for info in infos:
        is_row_id = info.key > 0 and not has_key_index
        problem = (
            _problem_of_foreign(info, is_row_id)
            if info.known_name is None
            else _problem_of_known(info, info.known_name, is_row_id, is_strict, unique)
        )
        if problem:
            raise ConfigurationError(f"Logins cannot be saved: column user.{info.name} {problem}")
    return [info.column(info.known_name, is_strict) for info in infos if info.known_name]


def _problem_of_foreign(info: _Info, is_row_id: bool) -> str:
    """Why a column of the application prevents logins; empty if it does not."""
    has_default = info.default is not None and info.default.upper() != "NULL"
    if info.notnull and not has_default and not is_row_id and not info.is_generated:
        return (
            "is NOT NULL without a default, and this store does not write it. Give it a default, "
            "or drop NOT NULL."
        )
    return ""


def _problem_of_known(
    info: _Info, name: str, is_row_id: bool, is_strict: bool, unique: set[str]
) -> str:
    """Why a known column prevents logins; empty if it does not."""
    if info.is_generated:
        return "is generated, so this store cannot write it. Make it an ordinary column."
    if is_row_id:
        return (
            "is an INTEGER PRIMARY KEY, which holds row numbers. Declare it TEXT, and give the "
            "table another key."
        )
    is_number = ATTRIBUTES[name] in NUMBERS
    wanted, allowed = ("INTEGER", _STRICT_NUMBER) if is_number else ("TEXT", _STRICT_TEXT)
    if is_strict and info.type.upper() not in allowed:
        return f"has the type {info.type} in a STRICT table. Declare it {wanted}."
    if name != "openId" and info.notnull and name.lower() in unique:
        return (
            "is NOT NULL and UNIQUE, and two users may lack a value for it. Drop one of the two "
            "constraints."
        )
    return ""


def _unique_names(cursor: sqlite3.Cursor, indexes: Iterable[Sequence[object]]) -> set[str]:
    """The columns, in lower case, whose values are unique in the table."""
    names = set()
    for _, index, is_unique, _, is_partial in indexes:
        if is_unique and not is_partial:
            columns = cursor.execute("SELECT name FROM pragma_index_info(?)", (index,)).fetchall()
            if len(columns) == 1 and columns[0][0] is not None:
                names.add(columns[0][0].lower())
    return names


def _has_numeric_affinity(declared: str) -> bool:
    """Whether a declared type has numeric affinity, by SQLite's rules ("Datatypes In SQLite")."""
    declared = declared.upper()
    if "INT" in declared:
        return True
    return bool(declared) and not any(part in declared for part in ("CHAR", "CLOB", "TEXT", "BLOB"))
