"""Encryption keys that a client and its server share: `UserCryptoManager`."""

import secrets
from dataclasses import dataclass, field

from .routes import Answer
from .sealing import new_session_key
from .state import State, User

__all__ = ["EncryptKey", "EncryptKeys"]

_TTL = 3600
_LISTED = 3


@dataclass(frozen=True, slots=True)
class EncryptKey:
    """The result of `UserCryptoManager.getLatestUserKey()`.

    Attributes:
        encrypt_key: base64 of 16 bytes.
        iv: 16 hex digits.
        version: 1 for a user's first key.
        expire_time: when it expires, in Unix seconds.
    """

    encrypt_key: str = field(repr=False)
    iv: str
    version: int
    expire_time: int


class EncryptKeys:
    """The encryption keys of all users, at most three of each."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._keys: dict[tuple[str, str], list[EncryptKey]] = {}  # the newest first

    def latest(self, user: User) -> EncryptKey:
        """The user's newest key; a new one if it has expired."""
        # https://developers.weixin.qq.com/miniprogram/dev/api/base/crypto/UserCryptoManager.getLatestUserKey.html
        keys = self._of(user)
        now = int(self._state.clock())
        if not keys or now >= keys[0].expire_time:
            version = keys[0].version + 1 if keys else 1
            keys.insert(0, EncryptKey(new_session_key(), secrets.token_hex(8), version, now + _TTL))
            del keys[_LISTED:]
        return keys[0]

    def key_info_list(self, user: User) -> list[Answer]:
        """List a user's keys as the API does."""
        now = int(self._state.clock())
        return [
            {
                "encrypt_key": key.encrypt_key,
                "version": key.version,
                "expire_in": max(0, key.expire_time - now),
                "iv": key.iv,
                "create_time": key.expire_time - _TTL,
            }
            for key in self._of(user)
        ]

    def _of(self, user: User) -> list[EncryptKey]:
        return self._keys.setdefault((user.app_id, user.open_id), [])
