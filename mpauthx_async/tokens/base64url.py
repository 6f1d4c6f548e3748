"""base64url without padding (RFC 4648, section 5), in its one canonical spelling."""

from binascii import a2b_base64, b2a_base64

__all__ = ["decode", "encode"]

_TO_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_FROM_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def encode(raw: bytes) -> str:
    """Encode bytes."""
    return b2a_base64(raw, newline=False).translate(_TO_URL_SAFE, b"=").decode()


def decode(text: str) -> bytes | None:
    """Decode text.

    Returns:
        The bytes, or None unless `encode` gives exactly this text for them: base64 has several
        spellings for the same bytes.
    """
    try:
        raw = a2b_base64(text.encode().translate(_FROM_URL_SAFE) + b"==")
    except ValueError:
        return None
    return raw if encode(raw) == text else None
