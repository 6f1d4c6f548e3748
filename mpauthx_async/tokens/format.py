"""The format of tokens: mint, parse, verify.

A token is `openId|sku|session`. Its session is the unpadded base64url of a 12-byte random nonce, a
4-byte generation and a 16-byte keyed BLAKE2b MAC over everything before it. The nonce names the
session. The generation counts how often its token was rotated, so an earlier token that is used
again is recognised without remembering each. The stores keep the nonce and the generation but not
the MAC: they hold no usable tokens, and a forged token is refused without asking them.
"""

import re
import secrets
from collections.abc import Sequence
from hmac import compare_digest
from typing import NamedTuple

from ..errors import ConfigurationError, ParameterError
from ..models import SessionRef, is_user_id
from .base64url import decode, encode
from .keys import MAC_BYTES, digest, keyed_macs

__all__ = [
    "TokenParts",
    "TokenSigner",
    "is_nonce",
    "is_sku",
    "new_nonce",
    "nonce_of",
    "parse_token",
]

_NONCE_FORMAT = re.compile(r"[A-Za-z0-9_-]{16}")
_SKU_FORMAT = re.compile(r"[A-Za-z0-9._-]{1,64}")
_NONCE_BYTES = 12
_GENERATION_BYTES = 4
_SIGNED_BYTES = _NONCE_BYTES + _GENERATION_BYTES
_NONCE_CHARS = 16
_SESSION_CHARS = -(-(_SIGNED_BYTES + MAC_BYTES) * 4 // 3)
_MAX_TOKEN = 128 + 1 + 64 + 1 + _SESSION_CHARS  # characters
_MAX_VERIFIED = 32_768  # tokens that a signer remembers, about 450 bytes each


class TokenParts(NamedTuple):
    """The unverified parts of a token."""

    open_id: str
    sku: str
    session: str


def parse_token(token: object) -> TokenParts | None:
    """Split a token, unverified; None if it is not a text of three parts."""
    if not isinstance(token, str):
        return None
    parts = token.split("|", 3)
    return TokenParts(*parts) if len(parts) == 3 else None


def is_sku(value: object) -> bool:
    """Whether value is a well-formed sku: 1 to 64 characters of `[A-Za-z0-9._-]`."""
    return isinstance(value, str) and _SKU_FORMAT.fullmatch(value) is not None


def is_nonce(value: object) -> bool:
    """Whether value is a well-formed nonce of a session: 16 characters of base64url."""
    return isinstance(value, str) and _NONCE_FORMAT.fullmatch(value) is not None


def new_nonce() -> str:
    """Make the nonce of a new session: 96 random bits as 16 characters of base64url."""
    return secrets.token_urlsafe(_NONCE_BYTES)


class TokenSigner:
    """Mints and verifies the tokens of one app and one sku.

    The newest of the keys signs, all verify; another app's tokens do not, even under the same keys.
    """

    def __init__(self, *, app_id: str, sku: str, keys: Sequence[str | bytes]) -> None:
        if not is_sku(sku):
            raise ConfigurationError(
                f"sku must be 1 to 64 characters of A-Z a-z 0-9 . _ -; it is {sku!r}."
            )
        self._sku = sku
        self._macs = keyed_macs(b"mpauthx token", app_id, keys)
        self._verified: dict[str, SessionRef] = {}  # clients send a good token many times

    def mint(self, user_id: str, nonce: str, generation: int = 0) -> str:
        """Make the token of a session; raises ParameterError if user_id or nonce is malformed."""
        if not is_user_id(user_id):
            raise ParameterError(
                "user_id must be 1 to 128 characters without '|', white space or control "
                "characters."
            )
        raw_nonce = decode(nonce)
        if raw_nonce is None or len(raw_nonce) != _NONCE_BYTES:
            raise ParameterError("nonce must be 16 characters of base64url.")
        raw = raw_nonce + generation.to_bytes(_GENERATION_BYTES)
        head = f"{user_id}|{self._sku}|"
        return head + encode(raw + digest(self._macs[0], head.encode() + raw))

    def verify(self, token: object) -> SessionRef | None:
        """The session of a token; None if this app and sku did not issue it, whatever it is.

        Up to 32,768 verified tokens are remembered, so their MACs are not computed again.
        """
        if not isinstance(token, str) or len(token) > _MAX_TOKEN:
            return None
        known = self._verified.get(token)
        if known is not None:
            return known
        parts = token.split("|", 3)
        if len(parts) != 3:
            return None
        user_id, sku, session = parts
        if sku != self._sku or len(session) != _SESSION_CHARS:
            return None
        try:
            raw, head = decode(session), token[:-_SESSION_CHARS].encode()
        except UnicodeEncodeError:
            return None
        if raw is None:
            return None
        signed, given = head + raw[:_SIGNED_BYTES], raw[_SIGNED_BYTES:]
        for keyed in self._macs:
            mac = keyed.copy()  # `digest`, inlined for speed
            mac.update(signed)
            if compare_digest(mac.digest(), given):
                generation = int.from_bytes(raw[_NONCE_BYTES:_SIGNED_BYTES])
                ref = SessionRef(self._sku, user_id, session[:_NONCE_CHARS], generation)
                if len(self._verified) >= _MAX_VERIFIED:
                    self._verified.clear()
                self._verified[token] = ref
                return ref
        return None


def nonce_of(token: str) -> str:
    """Read the nonce of a verified token's session."""
    return token[-_SESSION_CHARS : _NONCE_CHARS - _SESSION_CHARS]
