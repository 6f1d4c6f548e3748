"""OnlineCursor: where a page of online users ends."""

import re
from typing import NamedTuple, Self

from ..errors import ParameterError
from ..tokens import base64url

__all__ = ["OnlineCursor"]

_FORMAT = re.compile(rb"(\d{1,16})\|(.*)", re.DOTALL)


class OnlineCursor(NamedTuple):
    """The last user of a page. The next page begins below it, by position and then by user_id.

    Attributes:
        position: higher for users who came online later; constant while they are online.
        user_id: the user.
    """

    position: int
    user_id: str

    def text(self) -> str:
        """Encode the cursor in letters, digits, `-` and `_`."""
        return base64url.encode(f"{self.position}|{self.user_id}".encode())

    @classmethod
    def parse(cls, text: object) -> Self:
        """Decode a cursor; ParameterError if text is malformed."""
        try:
            raw = base64url.decode(text) if isinstance(text, str) else None
            if raw is not None and (match := _FORMAT.fullmatch(raw)):
                return cls(int(match[1]), match[2].decode())
        except UnicodeError:
            pass
        raise ParameterError("cursor must be the cursor of the previous page, or None.")
