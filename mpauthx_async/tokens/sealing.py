"""SessionKeySealer: authenticated encryption of WeChat's session keys for the store.

This is the one cryptographic construction of our own. Everything else that is sealed at rest uses
AES-GCM from pycryptodome (`record_sealer.py`).

**Construction.** Encrypt-then-MAC from two primitives, AES-256 and keyed BLAKE2b, each under a key
of its own. Both are derived from a signing key of the app, for this purpose and app alone
(`derived_keys`).

    block      = IV (12 bytes) ‖ kind (4 bytes)
    ciphertext = session key (16 bytes) XOR AES-256(encryption key, block)
    tag        = BLAKE2b(MAC key, 16 bytes; version (1 byte) ‖ block ‖ nonce (12 bytes) ‖
                         ciphertext ‖ openId in UTF-8)
    stored     = base64url(ciphertext ‖ tag)          43 characters, for the session's first key
                 base64url(IV ‖ ciphertext ‖ tag)     59 characters, for one that replaces it

The encryption is counter mode: a session key is one AES block, so the keystream of a record is one
block, too. Every field of the MAC's input has a fixed length, except for the openId, which comes
last: two different records never have the same input.

**IVs.** The IV of a session's first key is the session's nonce, 12 random bytes that name one
session; it is not stored again. WeChat may replace the key of a session. Under the same IV the XOR
of both ciphertexts would be the XOR of both keys, so a replacement has a random IV of its own, in
front. `kind` is 1 for a nonce and 2 for a random IV, both big-endian: even if the same 12 bytes
occur as both, the AES blocks differ, and so does the keystream. It is authenticated as part of the
block, so a record of one kind is not accepted as the other.

**Opening** verifies the tag first, in constant time. A record opens for the session, the openId and
the app that it was sealed for, and for no other: an attacker who can write to the store can neither
move it nor change the openId that stands beside it.

**Why not AES-GCM.** pycryptodome's GCM takes 40 to 60 µs for one record of 16 bytes, longer than
everything else that a login computes: each record needs a cipher object of its own and about ten
calls into C. Here a batch is one call of AES and each record one BLAKE2b, so a key is sealed or
opened in one to two microseconds (`python -m benchmarks sealing`). Also, a repeated IV does not
reveal the MAC key, as it does in GCM.

**Limits.**
- IVs are random: among 2^32 keys of one kind sealed under one signing key, two have the same IV
  with a probability of about 2^-33, within the bound that NIST sets for GCM's random IVs. Then an
  attacker who reads the store learns the XOR of these two session keys, and nothing else.
- A forged record opens with a probability of 2^-128 for each attempt.
- An attacker who can write to the store can put back an earlier record of the same session, and
  then the session key of that record is used again.
- The openId, and whether a session's key was replaced, are not hidden.

Sources: NIST SP 800-38A (counter mode) and SP 800-38D, section 8.3 (random IVs); RFC 7693 (BLAKE2);
Bellare and Namprempre, "Authenticated Encryption" (2000), for encrypt-then-MAC. Test vectors stand
in `tests/test_sealing.py`.
"""

import hashlib
import secrets
from binascii import a2b_base64, b2a_base64
from collections.abc import Sequence
from hmac import compare_digest
from typing import NamedTuple

from Crypto.Cipher import AES
from Crypto.Util.strxor import strxor

from . import base64url
from .keys import derived_keys, digest, keyed_macs

__all__ = ["SessionKeySealer", "split_open_id", "with_open_id"]

_AES_KEY = 32  # bytes
_BLOCK = 16  # bytes: of AES, of a session key, of a tag
_IV = 12  # bytes: also of a session's nonce
_VERSION = b"\x01"
_FIRST_KEY = (1).to_bytes(4)  # its IV is the session's nonce
_REPLACEMENT = (2).to_bytes(4)  # its IV is random
_NO_KEY = bytes(_BLOCK)  # in place of a malformed one, whose record is dropped
_STANDARD = bytes.maketrans(b"-_", b"+/")


class SessionKeySealer:
    """Seals session keys, and opens what it has sealed. The module describes how.

    Items are tuples of `(nonce, open_id, …)`: the session's nonce, 16 characters of base64url, and
    the openId of the user whose session key it is.

    Promises:
        A record opens for the nonce, openId and app that it was sealed for, and for no other.
        `open` raises nothing for whatever stands in the store.
        No repr contains a secret.

    Args:
        app_id: the app.
        keys: what the keys are derived from, oldest to newest, at least 16 bytes each: the newest
            seals, all open.

    Raises:
        ConfigurationError: for keys that are too few or too short.
    """

    def __init__(self, *, app_id: str, keys: Sequence[str | bytes]) -> None:
        encryption_keys = derived_keys(b"mpauthx key enc", app_id, keys)
        macs = keyed_macs(b"mpauthx key mac", app_id, keys)
        self._keys = tuple(map(_Key, encryption_keys, macs))  # newest first

    def seal(self, items: Sequence[tuple[str, str, str]]) -> list[str | None]:
        """Seal the first session key of each new session.

        A nonce must be passed once only: another key of the same session is sealed by `reseal`.

        Args:
            items: `(nonce, open_id, session_key)` of each session; session_key is WeChat's text,
                base64 of 16 bytes.

        Returns:
            For each the sealed key, 43 characters of base64url; None if its session_key is
            malformed.
        """
        nonces = [_nonce_bytes(nonce) for nonce, _, _ in items]
        records = self._records([nonce + _FIRST_KEY for nonce in nonces], nonces, items)
        return [None if record is None else base64url.encode(record) for record in records]

    def reseal(self, nonce: str, open_id: str, session_key: str) -> str | None:
        """Seal a session key that replaces an earlier one of the same session.

        Returns:
            The sealed key, 59 characters of base64url; None if session_key is malformed.
        """
        iv = secrets.token_bytes(_IV)
        items = [(nonce, open_id, session_key)]
        (record,) = self._records([iv + _REPLACEMENT], [_nonce_bytes(nonce)], items)
        return None if record is None else base64url.encode(iv + record)

    def open(self, items: Sequence[tuple[str, str, str]]) -> list[str | None]:
        """Open sealed keys.

        Args:
            items: `(nonce, open_id, sealed_key)` of each session.

        Returns:
            For each WeChat's session key, base64 of 16 bytes; None if it was not sealed for this
            nonce and openId under one of the keys.
        """
        opened: list[str | None] = [None] * len(items)
        records = {place: _parsed(*item) for place, item in enumerate(items)}
        pending = {place: record for place, record in records.items() if record is not None}
        for key in self._keys:
            verified = {
                place: record
                for place, record in pending.items()
                if compare_digest(record.tag, key.tag(*record[:-1]))
            }
            session_keys = key.xor(
                [record.block for record in verified.values()],
                [record.ciphertext for record in verified.values()],
            )
            for place, session_key in zip(verified, session_keys, strict=True):
                opened[place] = _session_key_text(session_key)
                del pending[place]
        return opened

    def _records(
        self,
        blocks: Sequence[bytes],
        nonces: Sequence[bytes],
        items: Sequence[tuple[str, str, str]],
    ) -> list[bytes | None]:
        """The ciphertext and tag of each item; None for a malformed session key."""
        newest = self._keys[0]
        session_keys = [_session_key_bytes(session_key) for _, _, session_key in items]
        ciphertexts = newest.xor(blocks, [session_key or _NO_KEY for session_key in session_keys])
        fields = zip(blocks, nonces, ciphertexts, items, strict=True)
        return [
            None
            if session_key is None
            else ciphertext + newest.tag(block, nonce, ciphertext, open_id)
            for session_key, (block, nonce, ciphertext, (_, open_id, _)) in zip(
                session_keys, fields, strict=True
            )
        ]


def with_open_id(sealed_key: str, open_id: str, user_id: str) -> str:
    """A sealed key as it is stored: followed by the user's openId unless that is the user's id."""
    return sealed_key if open_id == user_id else f"{sealed_key}|{open_id}"


def split_open_id(stored: str, user_id: str) -> tuple[str, str]:
    """The openId and the sealed key of what `with_open_id` made, in the order of an item."""
    sealed_key, _, open_id = stored.partition("|")
    return open_id or user_id, sealed_key


class _Key:
    """What is derived from one signing key: a key for AES and one for the MAC."""

    __slots__ = ("_encryption_key", "_mac")

    def __init__(self, encryption_key: bytes, mac: "hashlib.blake2b") -> None:
        self._encryption_key = encryption_key[:_AES_KEY]
        self._mac = mac

    def xor(self, blocks: Sequence[bytes], texts: Sequence[bytes]) -> list[bytes]:
        """Encrypt or decrypt texts of 16 bytes, each with the keystream of its block."""
        keystream = AES.new(self._encryption_key, AES.MODE_ECB).encrypt(b"".join(blocks))
        result = strxor(keystream, b"".join(texts))
        return [result[start : start + _BLOCK] for start in range(0, len(result), _BLOCK)]

    def tag(self, block: bytes, nonce: bytes, ciphertext: bytes, open_id: str) -> bytes:
        # What a store gives back may hold lone surrogates.
        user = open_id.encode("utf-8", "surrogatepass")
        return digest(self._mac, _VERSION + block + nonce + ciphertext + user)


class _Record(NamedTuple):
    block: bytes
    nonce: bytes
    ciphertext: bytes
    open_id: str
    tag: bytes


def _parsed(nonce: str, open_id: str, sealed_key: str) -> _Record | None:
    raw = base64url.decode(sealed_key)
    if raw is None or len(raw) not in (2 * _BLOCK, _IV + 2 * _BLOCK):
        return None
    iv, ciphertext, tag = raw[: -2 * _BLOCK], raw[-2 * _BLOCK : -_BLOCK], raw[-_BLOCK:]
    session = _nonce_bytes(nonce)
    block = iv + _REPLACEMENT if iv else session + _FIRST_KEY
    return _Record(block, session, ciphertext, open_id, tag)


def _session_key_bytes(session_key: str) -> bytes | None:
    """The 16 bytes of a session key; None unless these give the very same text again."""
    try:
        raw = a2b_base64(session_key)
    except ValueError:
        return None
    return raw if len(raw) == _BLOCK and _session_key_text(raw) == session_key else None


def _session_key_text(raw: bytes) -> str:
    return b2a_base64(raw, newline=False).decode()


def _nonce_bytes(nonce: str) -> bytes:
    return a2b_base64(nonce.encode().translate(_STANDARD))
