"""The columns of a user table: which there are, what they hold, and whether logins can use them."""

import re
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import NamedTuple

from ...errors import ConfigurationError

__all__ = ["ATTRIBUTES", "Column", "is_numeric", "read_columns"]

ATTRIBUTES = {
    "openId": "open_id",
    "unionId": "union_id",
    "nickName": "nick_name",
    "gender": "gender",
    "city": "city",
    "province": "province",
    "country": "country",
    "language": "language",
    "avatarUrl": "avatar_url",
    "createdAt": "created_at",
    "updatedAt": "updated_at",
}
"""Each known column, and the attribute of User that it holds."""

_TIMES = ("createdAt", "updatedAt")
_NUMBERS = ("gender", *_TIMES)
_KNOWN = {name.lower(): name for name in ATTRIBUTES}  # SQLite's names have no case
_STRICT_TEXT = ("TEXT", "ANY")
_STRICT_NUMBER = ("INT", "INTEGER", "REAL", "TEXT", "ANY")
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INTEGERS = 2**63  # of SQLite's


@dataclass(frozen=True, slots=True)
class Column:
    """A column that is known here.

    Attributes:
        name: as in ATTRIBUTES, whatever its case in the table.
        required: whether it is NOT NULL.
        key: its place in the primary key, from 1; 0 if it is not in the key.
        numeric: whether it turns text that looks like a number into that number.
        type: what `User` has of its values, if not None.
    """

    name: str
    required: bool
    key: int
    numeric: bool
    type: type[str] | type[int]

    @property
    def blank(self) -> object:
        """What stands for None in the column."""
        if not self.required:
            return None
        return self.type()

    def value(self, stored: object) -> object:
        """What `User` has of a stored value: a number, a text or None."""
        if self.type is str:
            return stored if stored is None or isinstance(stored, str) else str(stored)
        if isinstance(stored, str):
            if not is_numeric(stored):
                return _milliseconds(stored) if self.name in _TIMES else None
            stored = _number(stored)
        return int(stored) if isinstance(stored, (int, float)) and isfinite(stored) else None

    def kept(self, value: object) -> object:
        """What will be read of a value once it is written."""
        if self.numeric and isinstance(value, str) and is_numeric(value):
            return self.value(_number(value))
        return value


def is_numeric(text: str) -> bool:
    """Whether a numeric column turns a text into a number."""
    return _NUMBER.fullmatch(text) is not None


def _number(text: str) -> float:
    """The number that SQLite makes of a numeric text."""
    number = float(text)
    if not isfinite(number) or abs(number) >= _INTEGERS or not number.is_integer():
        return number
    return int(text) if text.strip().lstrip("+-").isdecimal() else int(number)


def _milliseconds(text: str) -> int | None:
    """The Unix milliseconds of a date, as ORMs and SQLite write it; without a zone it is UTC."""
    try:
        time = datetime.fromisoformat(text.strip().replace(" +", "+").replace(" Z", "Z"))
        if time.tzinfo is None:
            time = time.replace(tzinfo=UTC)
        return (time - _EPOCH) // timedelta(milliseconds=1)
    except (ValueError, OverflowError):
        return None


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
    def is_known(self) -> bool:
        return self.name.lower() in _KNOWN

    @property
    def is_generated(self) -> bool:
        return self.hidden > 1

    @property
    def has_default(self) -> bool:
        return self.default is not None and self.default.upper() != "NULL"


def read_columns(cursor: sqlite3.Cursor) -> list[Column]:
    """Read the known columns of the user table, in the table's order; empty without a table.

    Raises:
        ConfigurationError: logins cannot work on this table; it names the column, and what to do.
    """
    infos = [_Info(*row) for row in cursor.execute("PRAGMA table_xinfo(user)").fetchall()]
    if not infos:
        return []
    if not any(info.name.lower() == "openid" for info in infos):
        raise ConfigurationError(
            "The database has a table named user without a column openId. Add the column, or "
            "choose another file."
        )
    indexes = cursor.execute("PRAGMA index_list(user)").fetchall()
    keys = [info for info in infos if info.key]
    has_row_id_key = bool(keys) and not any(origin == "pk" for *_, origin, _ in indexes)
    is_strict = any(row[5] for row in cursor.execute("PRAGMA table_list(user)").fetchall())
    unique = _unique_names(cursor, indexes)
    for info in infos:
        is_row_id = has_row_id_key and info.key > 0
        problem = (
            _problem_of_known(info, is_row_id, is_strict, unique)
            if info.is_known
            else _problem_of_foreign(info, is_row_id)
        )
        if problem:
            raise ConfigurationError(f"Logins cannot be saved: column user.{info.name} {problem}")
    return [
        Column(
            _KNOWN[info.name.lower()],
            bool(info.notnull),
            info.key,
            _is_numeric_type(info.type) and not (is_strict and info.type.upper() == "ANY"),
            int if _KNOWN[info.name.lower()] in _NUMBERS else str,
        )
        for info in infos
        if info.is_known
    ]


def _problem_of_foreign(info: _Info, is_row_id: bool) -> str:
    """Why a column that is not written here stops every login; empty if it does not."""
    if info.notnull and not info.has_default and not is_row_id and not info.is_generated:
        return (
            "is NOT NULL without a default, and this store does not write it. Give it a default, "
            "or drop NOT NULL."
        )
    return ""


def _problem_of_known(info: _Info, is_row_id: bool, is_strict: bool, unique: set[str]) -> str:
    """Why a column that is written here stops every login; empty if it does not."""
    name = _KNOWN[info.name.lower()]
    is_number = name in _NUMBERS
    if info.is_generated:
        return "is generated, so this store cannot write it. Make it an ordinary column."
    if is_row_id:
        return (
            "is an INTEGER PRIMARY KEY, which holds row numbers. Declare it TEXT, and give the "
            "table another key."
        )
    if is_strict and info.type.upper() not in (_STRICT_NUMBER if is_number else _STRICT_TEXT):
        wanted = "INTEGER" if is_number else "TEXT"
        return f"has the type {info.type} in a STRICT table. Declare it {wanted}."
    if name != "openId" and info.notnull and info.name.lower() in unique:
        return (
            "is NOT NULL and UNIQUE, and two users may lack a value for it. Drop one of the two "
            "constraints."
        )
    return ""


def _unique_names(cursor: sqlite3.Cursor, indexes: Iterable[Sequence[object]]) -> set[str]:
    """The columns, in lower case, whose values are each unique in the whole table."""
    names = set()
    for _, index, is_unique, _, is_partial in indexes:
        if is_unique and not is_partial:
            columns = cursor.execute("SELECT name FROM pragma_index_info(?)", (index,)).fetchall()
            if len(columns) == 1 and columns[0][0] is not None:
                names.add(columns[0][0].lower())
    return names


def _is_numeric_type(declared: str) -> bool:
    """Whether a declared type has numeric affinity, by SQLite's rules ("Datatypes In SQLite")."""
    declared = declared.upper()
    if "INT" in declared:
        return True
    return bool(declared) and not any(part in declared for part in ("CHAR", "CLOB", "TEXT", "BLOB"))
