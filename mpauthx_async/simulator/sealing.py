"""Encrypted user data: AES-128-CBC with the user's session key."""

import base64
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from Crypto.Cipher import AES
from Crypto.Util.Padding import pad

from .routes import to_bytes, to_json
from .state import User

__all__ = [
    "PhoneNumber",
    "SealedData",
    "SealedUserInfo",
    "new_session_key",
    "seal",
    "seal_user_info",
]


@dataclass(frozen=True, slots=True)
class SealedUserInfo:
    """The result of `wx.getUserInfo()`: two base64 texts, a JSON text, 40 hex digits."""

    encrypted_data: str
    iv: str
    raw_data: str
    signature: str


class SealedData(NamedTuple):
    """An encrypted payload: two base64 texts."""

    encrypted_data: str
    iv: str


@dataclass(frozen=True, slots=True)
class PhoneNumber:
    """The result of the phone number button: a code, and the old form's two base64 texts.

    The code works in /wxa/business/getuserphonenumber, once within 300 seconds.
    """

    code: str
    encrypted_data: str
    iv: str


def new_session_key() -> str:
    """Create the base64 of 16 random bytes."""
    return base64.b64encode(os.urandom(16)).decode()


def seal(user: User, payload: Mapping[str, object], *, app_id: str, now: float) -> SealedData:
    """Encrypt a payload, with a watermark; raises LookupError if there is no session key."""
    key = base64.b64decode(_session_key(user))
    watermark = {"timestamp": int(now), "appid": app_id}
    plaintext = to_json({**payload, "watermark": payload.get("watermark", watermark)})
    iv = os.urandom(16)
    sealed = AES.new(key, AES.MODE_CBC, iv).encrypt(pad(to_bytes(plaintext), 16))
    return SealedData(base64.b64encode(sealed).decode(), base64.b64encode(iv).decode())


def seal_user_info(
    user: User, ids: Mapping[str, str], raw: Mapping[str, object], *, app_id: str, now: float
) -> SealedUserInfo:
    """Encrypt `ids` and `raw` together, and sign `raw`."""
    encrypted_data, iv = seal(user, {**ids, **raw}, app_id=app_id, now=now)
    raw_data = to_bytes(to_json(raw)).decode(errors="replace")
    signature = hashlib.sha1((raw_data + _session_key(user)).encode(), usedforsecurity=False)
    return SealedUserInfo(encrypted_data, iv, raw_data, signature.hexdigest())


def _session_key(user: User) -> str:
    if user.session_key is None:
        raise LookupError(
            f"{user.open_id!r} has no session key: call login({user.open_id!r}) first."
        )
    return user.session_key
