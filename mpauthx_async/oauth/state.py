"""StateSigner: signs and verifies the state of a web login.

A state is base32 without padding, because WeChat documents letters and digits only. Its bytes are
the end of its life (6 bytes, Unix milliseconds), a random nonce (8 bytes), the payload (UTF-8) and
a 16-byte keyed BLAKE2b MAC. The MAC covers these and the session, which the state does not contain.
"""

import hashlib
import re
import secrets
from base64 import b32decode, b32encode
from collections.abc import Sequence
from hmac import compare_digest
from typing import NamedTuple

from ..errors import InvalidStateError, ParameterError
from ..tokens.keys import digest, keyed_macs

__all__ = ["MAX_STATE_BYTES", "State", "StateSigner", "encoded"]

MAX_STATE_BYTES = 128
"""WeChat's limit for a state."""

_END_BYTES = 6
_NONCE_BYTES = 8
_MAC_BYTES = 16
_MAX_PAYLOAD_BYTES = MAX_STATE_BYTES * 5 // 8 - _END_BYTES - _NONCE_BYTES - _MAC_BYTES  # 50
_BASE32 = re.compile(f"[A-Z2-7]{{1,{MAX_STATE_BYTES}}}")


class State(NamedTuple):
    """The content of a verified state."""

    nonce: str
    payload: str
    ends_at: int  # Unix milliseconds


class StateSigner:
    """Signs and verifies the states of one app; the newest key signs, all verify."""

    def __init__(self, *, app_id: str, keys: Sequence[str | bytes]) -> None:
        self._macs = keyed_macs(b"mpauthx state", app_id, keys)

    def sign(self, payload: str, ends_at: int, session: str) -> str:
        """Create a state, bound to `session` and valid until `ends_at` (Unix milliseconds)."""
        raw_payload, raw_session = encoded(payload), encoded(session)
        if raw_payload is None or len(raw_payload) > _MAX_PAYLOAD_BYTES:
            raise ParameterError(
                f"A state's payload is a text of at most {_MAX_PAYLOAD_BYTES} bytes in UTF-8, "
                f"because WeChat takes {MAX_STATE_BYTES} for the whole state. Keep more in your "
                "own session."
            )
        if not raw_session:
            raise _no_session()
        body = ends_at.to_bytes(_END_BYTES, "big") + secrets.token_bytes(_NONCE_BYTES) + raw_payload
        return _base32(body + digest(self._macs[0], _bound(body, raw_session)))

    def verify(self, state: object, now: int, session: object) -> State:
        """Verify a state; it and the session are untrusted, and `now` is Unix milliseconds."""
        if not isinstance(session, str) or not session:
            raise _no_session()
        raw, raw_session = _decode(state), encoded(session)
        body, mac = raw[:-_MAC_BYTES], raw[-_MAC_BYTES:]
        if (
            len(body) < _END_BYTES + _NONCE_BYTES
            or raw_session is None
            or not any(
                compare_digest(digest(key, _bound(body, raw_session)), mac) for key in self._macs
            )
        ):
            raise InvalidStateError(
                "This state is forged or belongs to another browser. Let the user log in again, "
                "and check that the browser sends the session cookie."
            )
        ends_at = int.from_bytes(body[:_END_BYTES], "big")
        if ends_at <= now:
            raise InvalidStateError("This state has expired: let the user log in again.")
        nonce, payload = body[_END_BYTES:][:_NONCE_BYTES], body[_END_BYTES + _NONCE_BYTES :]
        return State(nonce.hex(), payload.decode(), ends_at)


def encoded(text: object) -> bytes | None:
    """A text in UTF-8; None if it is not a text, or has lone surrogates."""
    try:
        return text.encode() if isinstance(text, str) else None
    except UnicodeEncodeError:
        return None


def _no_session() -> ParameterError:
    return ParameterError(
        "session is required: a text that only this browser sends, such as a random cookie. "
        "Without it a state would be valid in every browser."
    )


def _decode(state: object) -> bytes:
    """The bytes of a state; empty if it is not spelled as `sign` does."""
    if not isinstance(state, str) or not _BASE32.fullmatch(state):
        return b""
    try:
        raw = b32decode(state + "=" * (-len(state) % 8))
    except ValueError:
        return b""
    return raw if _base32(raw) == state else b""  # several texts decode to the same bytes


def _base32(raw: bytes) -> str:
    return b32encode(raw).decode().rstrip("=")


def _bound(body: bytes, session: bytes) -> bytes:
    return hashlib.blake2b(session, digest_size=32).digest() + body
