"""base64url without padding (RFC 4648, section 5), in its canonical form."""

from binascii import a2b_base64, b2a_base64

__all__ = ["decode", "encode"]

_TO_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_TO_STANDARD = bytes.maketrans(b"-_+/", b"+/!!")  # a2b_base64 skips "!", so the bytes are too few
# The last character of a canonical text has zeros in the bits that no byte uses, by length % 4.
_LAST_CHARACTERS = {2: frozenset("AQgw"), 3: frozenset("AEIMQUYcgkosw048")}


def encode(raw: bytes) -> str:
    """Encode bytes as base64url without padding."""
    return b2a_base64(raw, newline=False).translate(_TO_URL_SAFE, b"=").decode()


def decode(text: str) -> bytes | None:
    """Decode text; None if it is not exactly what `encode` returns."""
    size = len(text)
    remainder = size & 3
    if remainder and text[-1] not in _LAST_CHARACTERS.get(remainder, ()):
        return None
    try:
        raw = a2b_base64(text.encode().translate(_TO_STANDARD) + b"==")
    except ValueError:
        return None
    return raw if len(raw) == size * 3 // 4 else None
