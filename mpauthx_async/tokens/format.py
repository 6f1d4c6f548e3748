"""The token's form: mint, parse, verify.

A token is `openId|sku|session`, where session is the unpadded base64url of a 16-byte nonce and a
16-byte keyed BLAKE2b MAC over all that stands before it. The stores keep the nonce and never the
MAC, so what they hold is no usable token, and a forged token is refused without asking them.

Of the nonce's 16 bytes 12 are random and name the session; the last 4 count how often its token was
rotated. So all tokens of a session name it, and a stolen one that comes after its successor is told
by this number alone: nothing has to be remembered of each.
"""

import re
import secrets
from binascii import a2b_base64
from collections.abc import Sequence
from hmac import compare_digest
from typing import NamedTuple

from ..errors import ConfigurationError, ParameterError
from ..models import SessionRef, is_user_id
from .base64url import encode
from .keys import digest, keyed_macs

__all__ = [
    "TokenParts",
    "TokenSigner",
    "is_nonce",
    "is_sku",
    "new_nonce",
    "new_nonces",
    "nonce_of",
    "parse_token",
]

_NONCE_FORM = re.compile(r"[A-Za-z0-9_-]{16}")
_SKU = re.compile(r"[A-Za-z0-9._-]{1,64}")
_NONCE = 12  # bytes
_GENERATION = 4  # bytes
_SIGNED = _NONCE + _GENERATION  # bytes, of a session
_SESSION = 43  # characters: the base64 of nonce, generation and MAC without padding
_NONCE_TEXT = 16  # characters: the base64 of a nonce
_MAX_TOKEN = 128 + 1 + 64 + 1 + _SESSION  # characters
_STANDARD = bytes.maketrans(b"-_+/", b"+/!!")
_LAST_CHARACTERS = frozenset("AEIMQUYcgkosw048")  # of a session: 4 bits, and 2 that must be 0
_REMEMBERED = 32_768  # verified tokens, some 450 bytes each


class TokenParts(NamedTuple):
    """What a token says of itself; nothing of it is proven."""

    open_id: str
    sku: str
    session: str


def parse_token(token: object) -> TokenParts | None:
    """Split a token into its three parts without verifying it.

    Returns:
        The parts, or None for anything that does not have three.
    """
    if not isinstance(token, str):
        return None
    parts = token.split("|", 3)
    return TokenParts(*parts) if len(parts) == 3 else None


def is_sku(value: object) -> bool:
    """Whether this can be a sku: 1 to 64 characters of `[A-Za-z0-9._-]`."""
    return isinstance(value, str) and _SKU.fullmatch(value) is not None


def is_nonce(value: object) -> bool:
    """Whether this can be a session's nonce: 16 characters of base64url."""
    return isinstance(value, str) and _NONCE_FORM.fullmatch(value) is not None


def new_nonce() -> str:
    """Make the random part of a new token: 96 random bits as 16 characters of base64url."""
    return new_nonces(1)[0]


def new_nonces(count: int) -> list[str]:
    """Make the random parts of several new tokens: see `new_nonce`."""
    raw = secrets.token_bytes(_NONCE * count)
    return [encode(raw[start : start + _NONCE]) for start in range(0, len(raw), _NONCE)]


class TokenSigner:
    """Mints and verifies the tokens of one app and one sku.

    Args:
        app_id: the app; another app's tokens do not verify even under the same keys.
        sku: the project or build, 1 to 64 characters of `[A-Za-z0-9._-]`.
        keys: texts or bytes of at least 16 bytes each, oldest to newest. The newest signs, all
            verify.

    Raises:
        ConfigurationError: for a bad sku, or keys that are too few or too short.
    """

    def __init__(self, *, app_id: str, sku: str, keys: Sequence[str | bytes]) -> None:
        if not is_sku(sku):
            raise ConfigurationError(
                f"sku must be 1 to 64 characters of A-Z a-z 0-9 . _ -; it is {sku!r}."
            )
        self._sku = sku
        self._macs = keyed_macs(b"mpauthx token", app_id, keys)
        # A client sends its token with each request; only good ones get in here.
        self._verified: dict[str, SessionRef] = {}

    def mint(self, user_id: str, nonce: str, generation: int = 0) -> str:
        """Make the token of a session.

        Args:
            user_id: whose it is, 1 to 128 characters without `|`, white space or controls.
            nonce: the session's nonce, from `new_nonce`.
            generation: how often the session's token has been rotated, below 2**32.

        Raises:
            ParameterError: for a user id that a token cannot hold.
        """
        if not is_user_id(user_id):
            raise ParameterError(
                "A user id is 1 to 128 characters without '|', white space or control characters."
            )
        raw = a2b_base64(nonce.encode().translate(_STANDARD)) + generation.to_bytes(_GENERATION)
        head = f"{user_id}|{self._sku}|"
        return head + encode(raw + digest(self._macs[0], head.encode() + raw))

    def verify(self, token: object) -> SessionRef | None:
        """Tell which session a token stands for, if this app and sku ever gave it out.

        The MAC is compared in constant time. It never raises. A token that was seen before, among
        the last 32,768 good ones at most, is known again without computing its MAC.

        Returns:
            The session to look up, or None for anything else, whatever its type or form.
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
        # base64 has several spellings for the same bytes; only the one that mint writes is good.
        # What is none gives fewer bytes, which no MAC is equal to.
        if sku != self._sku or len(session) != _SESSION or session[-1] not in _LAST_CHARACTERS:
            return None
        try:
            encoded = token.encode()
            raw = a2b_base64(encoded[-_SESSION:].translate(_STANDARD) + b"=")
        except ValueError:
            return None
        signed, given = encoded[:-_SESSION] + raw[:_SIGNED], raw[_SIGNED:]
        for keyed in self._macs:
            mac = keyed.copy()  # the hot path: `digest`, written out
            mac.update(signed)
            if compare_digest(mac.digest(), given):
                generation = int.from_bytes(raw[_NONCE:_SIGNED])
                ref = SessionRef(self._sku, user_id, session[:_NONCE_TEXT], generation)
                if len(self._verified) >= _REMEMBERED:
                    self._verified.clear()
                self._verified[token] = ref
                return ref
        return None


def nonce_of(token: str) -> str:
    """The nonce of the session that a token stands for, which has verified."""
    return token[-_SESSION : _NONCE_TEXT - _SESSION]
