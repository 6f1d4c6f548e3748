"""The state of a web login: sign and verify.

A state is base32 without padding, because WeChat documents only letters and digits for it. It holds
when it ends (6 bytes, Unix milliseconds), a random nonce (8 bytes), the payload (UTF-8), and a
16-byte keyed BLAKE2b MAC over all of that and over what the state is bound to, which is not sent.
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

__all__ = ["MAX_STATE", "State", "StateSigner"]

MAX_STATE = 128
"""The most bytes that WeChat takes for a state."""

_END = 6  # bytes
_NONCE = 8  # bytes
_MAC = 16  # bytes
_MAX_PAYLOAD = MAX_STATE * 5 // 8 - _END - _NONCE - _MAC  # bytes: 50
_BASE32 = re.compile(f"[A-Z2-7]{{1,{MAX_STATE}}}")


class State(NamedTuple):
    """What a state says, which is proven."""

    nonce: str
    payload: str
    ends_at: int  # Unix milliseconds


class StateSigner:
    """Signs and verifies the states of one app.

    Args:
        app_id: the app; another app's states do not verify even under the same keys.
        keys: texts or bytes of at least 16 bytes each, oldest to newest. The newest signs, all
            verify. No token verifies as a state, nor a state as a token.

    Raises:
        ConfigurationError: for keys that are too few or too short.
    """

    def __init__(self, *, app_id: str, keys: Sequence[str | bytes]) -> None:
        self._macs = keyed_macs(b"mpauthx state", app_id, keys)

    def sign(self, payload: str, ends_at: int, session: str) -> str:
        """Make a state.

        Args:
            payload: what comes back with it, up to 50 bytes in UTF-8.
            ends_at: when it ends, in Unix milliseconds.
            session: what it is bound to, not empty.

        Raises:
            ParameterError: for a payload that it cannot hold, or without a session.
        """
        raw_payload = payload.encode() if _is_text(payload) else None
        if raw_payload is None or len(raw_payload) > _MAX_PAYLOAD:
            raise ParameterError(
                f"A state's payload is a text of at most {_MAX_PAYLOAD} bytes in UTF-8, because "
                f"WeChat takes {MAX_STATE} for the whole state. Keep more in your own session."
            )
        if not session or not _is_text(session):
            raise _no_session()
        body = ends_at.to_bytes(_END, "big") + secrets.token_bytes(_NONCE) + raw_payload
        mac = digest(self._macs[0], _bound(body, session))
        return b32encode(body + mac).decode().rstrip("=")

    def verify(self, state: object, now: int, session: object) -> State:
        """Read a state, if this app ever made it and for this session.

        Args:
            state: what came back, whatever it is.
            now: the time in Unix milliseconds.
            session: what it has to be bound to.

        Raises:
            ParameterError: session is empty or no text.
            InvalidStateError: for any other state, whatever its type or form.
        """
        if not isinstance(session, str) or not session:
            raise _no_session()
        raw = _decode(state)
        body, mac = raw[:-_MAC], raw[-_MAC:]
        if (
            len(body) < _END + _NONCE
            or not _is_text(session)
            or not any(
                compare_digest(digest(key, _bound(body, session)), mac) for key in self._macs
            )
        ):
            raise InvalidStateError(
                "This state was not made here, or for another browser: the login may be forged "
                "upon the user. Let them begin anew; check that the session cookie comes along."
            )
        ends_at = int.from_bytes(body[:_END], "big")
        if ends_at <= now:
            raise InvalidStateError("This state has expired: let the user begin anew.")
        nonce, payload = body[_END : _END + _NONCE], body[_END + _NONCE :]
        return State(nonce.hex(), payload.decode(), ends_at)


def _no_session() -> ParameterError:
    return ParameterError(
        "session is required, as a text that is not empty: a random value that only this browser "
        "sends, such as that of a cookie. Otherwise anybody's state would serve in any browser."
    )


def _decode(state: object) -> bytes:
    """The bytes of a state; none for what is not spelled as `sign` does."""
    if not isinstance(state, str) or not _BASE32.fullmatch(state):
        return b""
    try:
        raw = b32decode(state + "=" * (-len(state) % 8))
    except ValueError:
        return b""
    # Base32 has several spellings for the same bytes.
    return raw if b32encode(raw).decode().rstrip("=") == state else b""


def _bound(body: bytes, session: str) -> bytes:
    return hashlib.blake2b(session.encode(), digest_size=32).digest() + body


def _is_text(value: object) -> bool:
    """Whether this is a text that can be encoded."""
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)
