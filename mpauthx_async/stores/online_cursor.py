"""OnlineCursor: where a page of the users online ends."""

import base64
import re
from typing import NamedTuple, Self

from ..errors import ParameterError

__all__ = ["OnlineCursor"]

_FORM = re.compile(r"(\d{1,15})\|(.+)", re.DOTALL)


class OnlineCursor(NamedTuple):
    """The last user of a page: those after it are below, by position and then by id.

    Attributes:
        position: higher for those who came online later; it stays while they are online.
        user_id: who.
    """

    position: int
    user_id: str

    def text(self) -> str:
        """The cursor as its users get it: letters, digits, `-` and `_`."""
        raw = f"{self.position}|{self.user_id}".encode()
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    @classmethod
    def parse(cls, text: object) -> Self:
        """Read a cursor; ParameterError for what is none."""
        try:
            if not isinstance(text, str):
                raise ValueError
            padded = text.encode() + b"=" * (-len(text) % 4)
            form = _FORM.fullmatch(base64.b64decode(padded, altchars=b"-_", validate=True).decode())
            if form is None:
                raise ValueError
        except ValueError:
            raise ParameterError(
                "This is no cursor of `online`: give the one of the page before, or None."
            ) from None
        return cls(int(form[1]), form[2])
