"""RecordSealer: authenticated encryption of the texts that are kept as records."""

import secrets
from collections.abc import Sequence

from Crypto.Cipher import AES

from . import base64url
from .keys import derived_keys

__all__ = ["RecordSealer"]

_KEY = 32  # bytes
_NONCE = 12  # bytes
_TAG = 16  # bytes


class RecordSealer:
    """Seals texts by AES-256-GCM, under keys of one purpose and one app.

    A sealed text is the base64url of a random nonce of 12 bytes, the ciphertext and the tag. The
    record's key is the associated data, so a record moved to another key does not open; purpose and
    app are part of how the encryption key is derived, so another purpose's or app's record does not
    open either. Random nonces suffice for 2^32 texts under one signing key.

    Args:
        purpose: up to 16 bytes.
        app_id: the app.
        keys: what the keys are derived from, oldest to newest, at least 16 bytes each: the newest
            seals, all open.

    Raises:
        ConfigurationError: for keys that are too few or too short.

    Source: NIST SP 800-38D.
    """

    __slots__ = ("_keys",)  # without a __dict__, whose repr would show the keys

    def __init__(self, purpose: bytes, *, app_id: str, keys: Sequence[str | bytes]) -> None:
        self._keys = tuple(key[:_KEY] for key in derived_keys(purpose, app_id, keys))

    def seal(self, record_key: str, text: str) -> str:
        """Seal the text of the record that is kept under this key."""
        nonce = secrets.token_bytes(_NONCE)
        cipher = AES.new(self._keys[0], AES.MODE_GCM, nonce=nonce)
        cipher.update(record_key.encode(errors="surrogatepass"))
        ciphertext, tag = cipher.encrypt_and_digest(text.encode())
        return base64url.encode(nonce + ciphertext + tag)

    def open(self, record_key: str, sealed: str) -> str | None:
        """Open a sealed text.

        Returns:
            The text; None if it was not sealed for this record, purpose and app under one of the
            keys.
        """
        raw = base64url.decode(sealed)
        if raw is None or len(raw) < _NONCE + _TAG:
            return None
        nonce, ciphertext, tag = raw[:_NONCE], raw[_NONCE:-_TAG], raw[-_TAG:]
        for key in self._keys:
            cipher = AES.new(key, AES.MODE_GCM, nonce=nonce)
            cipher.update(record_key.encode(errors="surrogatepass"))
            try:
                return cipher.decrypt_and_verify(ciphertext, tag).decode()
            except ValueError:
                continue
        return None
