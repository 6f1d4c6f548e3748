"""The fields of a user in a database: the names of their columns, and how times are kept."""

from datetime import UTC, datetime, timedelta

__all__ = ["ATTRIBUTES", "EPOCH", "TIMES", "milliseconds", "whole_number"]

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
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


_MAX_TIME = 253_402_300_800_000  # the Unix milliseconds of the year 10000, which no date can have


def whole_number(attribute: str, text: str) -> int | None:
    """The gender or time that a text holds, as a whole number; None if it holds neither."""
    try:
        number = int(float(text))  # exact up to 2**53
    except (ValueError, OverflowError):
        return milliseconds(text) if attribute in TIMES else None
    return None if attribute in TIMES and not 0 <= number < _MAX_TIME else number


def milliseconds(time: str | datetime) -> int | None:
    """The Unix milliseconds of a date, or of its text as ORMs write it; UTC if it has no zone.

    None if the text is no date.
    """
    try:
        if isinstance(time, str):
            time = datetime.fromisoformat(time.strip().replace(" +", "+").replace(" Z", "Z"))
        if time.tzinfo is None:
            time = time.replace(tzinfo=UTC)
        return (time - EPOCH) // timedelta(milliseconds=1)
    except (ValueError, OverflowError):
        return None
