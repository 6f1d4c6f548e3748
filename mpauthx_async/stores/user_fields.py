"""The fields of a user in a database: the names of their columns, and how times are kept."""

from datetime import UTC, datetime, timedelta

__all__ = ["ATTRIBUTES", "EPOCH", "NUMBERS", "TIMES", "whole_number"]

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
"""Each known column, and the attribute of `User` that it holds."""

TIMES = ("created_at", "updated_at")
NUMBERS = ("gender", *TIMES)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_MAX_TIME = 253_402_300_800_000  # the Unix milliseconds of the year 10000, which no date can have


def whole_number(attribute: str, stored: object) -> int | None:
    """The number or time that a stored value, or its text, holds; None if it holds neither.

    A time is in Unix milliseconds, or a date, also as ORMs write it; UTC if it has no zone.
    """
    if stored is None:
        return None
    text = str(stored).strip()
    try:
        number = int(float(text))  # exact up to 2**53
    except (ValueError, OverflowError):
        return _milliseconds(text) if attribute in TIMES else None
    return None if attribute in TIMES and not 0 <= number < _MAX_TIME else number


def _milliseconds(text: str) -> int | None:
    try:
        time = datetime.fromisoformat(text.replace(" +", "+").replace(" Z", "Z"))
        if time.tzinfo is None:
            time = time.replace(tzinfo=UTC)
        return (time - EPOCH) // timedelta(milliseconds=1)
    except (ValueError, OverflowError):
        return None
