"""OnlineCursor: where a page of the users online ends."""

import base64
import re
from contextlib import suppress
from typing import NamedTuple, Self

from ..errors import ParameterError

__all__ = ["OnlineCursor"]

_FORM = re.compile(r"(\d{1,16})\|(.*)", re.DOTALL)


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
        form = None
        if isinstance(text, str):
            padded = text + "=" * (-len(text) % 4)
            with suppress(ValueError):
                raw = base64.b64decode(padded, altchars=b"-_", validate=True)
                form = _FORM.fullmatch(raw.decode())
        if form is None:
            raise ParameterError(
                "This is no cursor of `online`: give the one of the page before, or None."
            )
        return cls(int(form[1]), form[2])
