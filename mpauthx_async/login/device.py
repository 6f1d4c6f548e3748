"""Device: what a login says of the device it comes from."""

from typing import NamedTuple

from ..errors import ParameterError
from ..untrusted_text import is_one_line

__all__ = ["NO_DEVICE", "Device"]

_MAX_CHARACTERS = 64
_MAX_BYTES = 200  # of UTF-8


class Device(NamedTuple):
    """The name of a device, and of which kind it is."""

    name: str | None = None
    kind: str | None = None

    @classmethod
    def checked(cls, name: object, kind: object) -> "Device":
        """Validate untrusted input; raises ParameterError."""
        if name is None and kind is None:  # one object for most of the logins that wait
            return NO_DEVICE
        return cls(_checked_text("device", name), _checked_text("device_kind", kind))


NO_DEVICE = Device()
"""What a login says that tells nothing of the device."""


def _checked_text(parameter: str, text: object) -> str | None:
    if text is None or text == "":
        return None
    if not is_one_line(text, _MAX_CHARACTERS) or len(text.encode()) > _MAX_BYTES:
        raise ParameterError(
            f"{parameter} must be a text of one line without control characters, of at most "
            f"{_MAX_CHARACTERS} characters and {_MAX_BYTES} bytes of UTF-8."
        )
    return text
