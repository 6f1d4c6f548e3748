"""Text from WeChat: nicknames may contain control characters, and bytes that are not UTF-8.

JSON is parsed leniently. In a profile control characters are dropped; an id or credential that
contains one is malformed.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, TypeGuard

from .failure_log import invalid_answer

__all__ = [
    "JSON",
    "is_clean",
    "is_credential",
    "is_number",
    "is_one_line",
    "is_user_id",
    "parse_json",
    "profile_text",
    "union_id_of",
]

JSON = json.JSONDecoder(strict=False)
"""Accepts raw control characters inside of strings."""

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SURROGATES = re.compile("[\ud800-\udfff]")
_NOT_CLEAN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffd]")
_NOT_ONE_LINE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_USER_ID = re.compile("[^|\x00-\x20\x7f-\x9f\ud800-\udfff\ufffd]{1,128}")
_CREDENTIAL = re.compile(r"[\x21-\x7e]{1,1024}")


def parse_json(text: bytes) -> Any:
    """Parse JSON that may contain control characters; what is not UTF-8 becomes U+FFFD."""
    return JSON.decode(text.decode("utf-8-sig", "replace"))


def profile_text(value: object) -> str | None:
    """A text of a profile as every store can keep it; None if the value is not a text.

    Control characters (C0, DEL, C1) are dropped. Lone surrogates, which JSON's escapes can contain,
    become U+FFFD.
    """
    if not isinstance(value, str):
        return None
    if value.isprintable():  # fast path: nearly all texts are, and neither kind of character is
        return value
    return _SURROGATES.sub("\ufffd", _CONTROLS.sub("", value))


def is_clean(text: str) -> bool:
    """Whether a text has no control characters, no lone surrogates and no U+FFFD."""
    return _NOT_CLEAN.search(text) is None


def is_number(value: object, lowest: float, highest: float) -> TypeGuard[float]:
    """Whether this is a number within these bounds; neither a bool nor NaN is."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return lowest <= value <= highest


def is_one_line(text: object, max_characters: int) -> TypeGuard[str]:
    """Whether this is a text without control characters, line separators or lone surrogates."""
    if not isinstance(text, str) or len(text) > max_characters:
        return False
    return _NOT_ONE_LINE.search(text) is None


def is_user_id(value: object) -> bool:
    """Whether this can be an openId or unionId: 1 to 128 characters that a token can hold."""
    return isinstance(value, str) and _USER_ID.fullmatch(value) is not None


def is_credential(value: object) -> TypeGuard[str]:
    """Whether this can be a session key or token of WeChat: up to 1,024 characters of ASCII."""
    return isinstance(value, str) and _CREDENTIAL.fullmatch(value) is not None


def union_id_of(answer: Mapping[str, Any]) -> str | None:
    """The unionid in an answer of WeChat; None if it is missing or empty."""
    union_id = answer.get("unionid") or None
    if union_id is not None and not is_user_id(union_id):
        raise invalid_answer("The unionid in WeChat's answer is malformed.")
    return union_id
