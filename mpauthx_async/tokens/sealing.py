"""Encryption at rest: WeChat's session keys, and the texts of key-value records.

RecordSealer uses AES-GCM. SessionKeySealer is the one cryptographic construction of our own:

**Construction.** Encrypt-then-MAC from AES-256 and keyed BLAKE2b, each under a key of its own. Both
keys are derived from a signing key of the app, for this purpose and app alone (`derived_keys`).

    block      = IV (12 bytes) ‖ kind (4 bytes)
    ciphertext = session key (16 bytes) XOR AES-256(encryption key, block)
    tag        = BLAKE2b(MAC key, 16 bytes; version (1 byte) ‖ block ‖ nonce (12 bytes) ‖
                         ciphertext ‖ openId in UTF-8)
    stored     = base64url(ciphertext ‖ tag)          43 characters, for the session's first key
                 base64url(IV ‖ ciphertext ‖ tag)     59 characters, for one that replaces it

This is counter mode with a keystream of one block. In the MAC's input every field has a fixed
length except the openId, which comes last, so different records never have the same input.

**IVs.** The IV of a session's first key is the session's nonce: 12 random bytes, unique to the
session and not stored again. WeChat may replace the key of a session. Under the same IV, the XOR of
both ciphertexts would be the XOR of both keys, so a replacement has a random IV of its own. `kind`
is 1 for a nonce and 2 for a random IV, both big-endian: even if the same 12 bytes occur as both,
the keystreams differ. The tag covers it, so a record of one kind is not accepted as the other.

**Opening** verifies the tag first, in constant time. A record opens only for the session, openId
and app that it was sealed for: an attacker who can write to the store can neither move it nor
change the openId stored with it.

**Why not AES-GCM.** pycryptodome's GCM takes 40 to 60 µs for a record of 16 bytes, longer than
everything else that a login computes: each record needs a cipher object and about ten calls into C.
Here a batch is one call of AES and each record one BLAKE2b, so a key is sealed or opened in one to
three microseconds (`python -m benchmarks sealing`). A repeated IV does not reveal the MAC key, as
it does in GCM.

**Limits.**
- IVs are random: among 2^32 keys of one kind sealed under one signing key, two have the same IV
  with a probability of about 2^-33, within NIST's bound for GCM's random IVs. Then an attacker who
  reads the store learns the XOR of these two session keys, and nothing else.
- A forged record opens with a probability of 2^-128 for each attempt.
- An attacker who can write to the store can restore an earlier record of the same session, whose
  session key is then used again.
- The openId, and whether a session's key was replaced, are not hidden.

Sources: NIST SP 800-38A (counter mode), SP 800-38D (GCM; section 8.3 on random IVs); RFC 7693
(BLAKE2); Bellare and Namprempre, "Authenticated Encryption" (2000), on encrypt-then-MAC. Test
vectors are in `tests/unit/test_sealing.py`.
"""

import secrets
from binascii import a2b_base64, b2a_base64
from collections.abc import Sequence
from hashlib import blake2b
from hmac import compare_digest
from typing import NamedTuple

from Crypto.Cipher import AES
from Crypto.Util.strxor import strxor

from . import base64url
from .keys import derived_keys, digest, keyed_macs

__all__ = ["RecordSealer", "SessionKeySealer", "split_open_id", "with_open_id"]

_AES_KEY = 32  # bytes
_BLOCK = 16  # bytes: of AES, a session key and a tag
_IV = 12  # bytes: also of a session's nonce
_VERSION = b"\x01"
_FIRST_KEY = (1).to_bytes(4)  # its IV is the session's nonce
_REPLACEMENT = (2).to_bytes(4)  # its IV is random
_NO_KEY = bytes(_BLOCK)  # in place of a malformed one, whose record is dropped


class SessionKeySealer:
    """Seals and opens session keys; of the signing keys the newest seals, all open.

    Items are tuples of `(nonce, open_id, …)`: the session's nonce and the openId of its user.
    """

    def __init__(self, *, app_id: str, keys: Sequence[str | bytes]) -> None:
        encryption_keys = derived_keys(b"mpauthx key enc", app_id, keys)
        macs = keyed_macs(b"mpauthx key mac", app_id, keys)
        self._keys = tuple(map(_Key, encryption_keys, macs))  # newest first

    def seal(self, items: Sequence[tuple[str, str, str]]) -> list[str | None]:
        """Seal the first session key, WeChat's text, of each new session; None if it is malformed.

        A nonce must be passed only once: `reseal` seals another key of the same session.
        """
        return self._seal(items, [b""] * len(items))

    def reseal(self, nonce: str, open_id: str, session_key: str) -> str | None:
        """Seal a session key that replaces an earlier one of its session; None if malformed."""
        (sealed,) = self._seal([(nonce, open_id, session_key)], [secrets.token_bytes(_IV)])
        return sealed

    def open(self, items: Sequence[tuple[str, str, str]]) -> list[str | None]:
        """Open sealed keys, whatever the store contains.

        None for one that was not sealed for this nonce and openId under one of the keys.
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

    def _seal(
        self, items: Sequence[tuple[str, str, str]], ivs: Sequence[bytes]
    ) -> list[str | None]:
        """Seal session keys, each under its IV; an empty IV stands for the nonce."""
        newest = self._keys[0]
        nonces = [_nonce_bytes(nonce) for nonce, _, _ in items]
        blocks = list(map(_block, ivs, nonces))
        session_keys = [_session_key_bytes(session_key) for _, _, session_key in items]
        ciphertexts = newest.xor(blocks, [session_key or _NO_KEY for session_key in session_keys])
        sealed: list[str | None] = []
        for i, (_, open_id, _) in enumerate(items):
            if session_keys[i] is None:
                sealed.append(None)
            else:
                tag = newest.tag(blocks[i], nonces[i], ciphertexts[i], open_id)
                sealed.append(base64url.encode(ivs[i] + ciphertexts[i] + tag))
        return sealed


class RecordSealer:
    """Seals texts by AES-256-GCM, under keys of one purpose and one app.

    A sealed text is the base64url of a random IV of 12 bytes, the ciphertext and the tag. The
    record's key is the associated data, and the encryption key is derived for the purpose and app:
    a record opens for no other of these. Random IVs suffice for 2^32 texts under one signing key
    (NIST SP 800-38D). The newest key seals, all open.
    """

    __slots__ = ("_keys",)  # without a __dict__, whose repr would show the keys

    def __init__(self, purpose: bytes, *, app_id: str, keys: Sequence[str | bytes]) -> None:
        self._keys = tuple(key[:_AES_KEY] for key in derived_keys(purpose, app_id, keys))

    def seal(self, record_key: str, text: str) -> str:
        """Seal the text of the record with this key."""
        iv = secrets.token_bytes(_IV)
        cipher = AES.new(self._keys[0], AES.MODE_GCM, nonce=iv)
        cipher.update(record_key.encode(errors="surrogatepass"))
        ciphertext, tag = cipher.encrypt_and_digest(text.encode())
        return base64url.encode(iv + ciphertext + tag)

    def open(self, record_key: str, sealed: str) -> str | None:
        """Open a text; None unless it was sealed for this record, purpose, app and a key."""
        raw = base64url.decode(sealed)
        if raw is None or len(raw) < _IV + _BLOCK:
            return None
        iv, ciphertext, tag = raw[:_IV], raw[_IV:-_BLOCK], raw[-_BLOCK:]
        for key in self._keys:
            cipher = AES.new(key, AES.MODE_GCM, nonce=iv)
            cipher.update(record_key.encode(errors="surrogatepass"))
            try:
                return cipher.decrypt_and_verify(ciphertext, tag).decode()
            except ValueError:
                continue
        return None


def with_open_id(sealed_key: str, open_id: str, user_id: str) -> str:
    """Format a sealed key as it is stored: with the user's openId, unless that is the user_id."""
    return sealed_key if open_id == user_id else f"{sealed_key}|{open_id}"


def split_open_id(stored: str, user_id: str) -> tuple[str, str]:
    """Split what `with_open_id` returned into the openId and the sealed key."""
    sealed_key, _, open_id = stored.partition("|")
    return open_id or user_id, sealed_key


class _Key:
    """The keys derived from one signing key: one for AES and one for the MAC."""

    __slots__ = ("_encryption_key", "_mac")

    def __init__(self, encryption_key: bytes, mac: blake2b) -> None:
        self._encryption_key = encryption_key[:_AES_KEY]
        self._mac = mac

    def xor(self, blocks: Sequence[bytes], texts: Sequence[bytes]) -> list[bytes]:
        """Encrypt or decrypt texts of 16 bytes, each with the keystream of its block."""
        keystream = AES.new(self._encryption_key, AES.MODE_ECB).encrypt(b"".join(blocks))
        result = strxor(keystream, b"".join(texts))
        return [result[start : start + _BLOCK] for start in range(0, len(result), _BLOCK)]

    def tag(self, block: bytes, nonce: bytes, ciphertext: bytes, open_id: str) -> bytes:
        # A damaged openId from a store may contain lone surrogates.
        user = open_id.encode(errors="surrogatepass")
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
    return _Record(_block(iv, session), session, ciphertext, open_id, tag)


def _block(iv: bytes, nonce: bytes) -> bytes:
    return iv + _REPLACEMENT if iv else nonce + _FIRST_KEY


def _session_key_bytes(session_key: str) -> bytes | None:
    """Decode a session key; None unless it is the canonical base64 of 16 bytes."""
    try:
        raw = a2b_base64(session_key)
    except ValueError:
        return None
    return raw if len(raw) == _BLOCK and _session_key_text(raw) == session_key else None


def _session_key_text(raw: bytes) -> str:
    return b2a_base64(raw, newline=False).decode()


def _nonce_bytes(nonce: str) -> bytes:
    return base64url.decode(nonce) or b""
