"""SessionKeys: WeChat's session keys, sealed where the sessions are stored, and what needs them."""

import asyncio
import base64
import binascii
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from Crypto.Cipher import AES

from .access_token import AppAccessToken
from .coalescer import Coalescer, answers_of
from .connections import Connections
from .constants import TokenStatus
from .errors import (
    ConfigurationError,
    InvalidResponseError,
    MPAuthXError,
    SessionKeyLostError,
    StoreError,
)
from .events import Events
from .flights import Flights
from .models import CodeSession, SessionRef
from .sessions import Sessions, invalid_token
from .stores import SessionKeyStore, TokenStore
from .tokens import derived_keys
from .userdata import decrypt_user_data
from .wechat import WeChatAPI

__all__ = ["SessionKeySealer", "SessionKeys", "with_open_id"]


class SessionKeys:
    """Finds the session key that stands behind a token, and opens with it what a client sends.

    Args:
        app_id: the app that the clients' data must be sealed for.
        api: asks WeChat about session keys.
        sessions: tells whose token is good.
        sealer: opens what the store keeps.
        tokens: the store; it has to be a SessionKeyStore once a key is asked for.
        connections: whose executor decrypts.
        events: is told of stores that fail.
    """

    def __init__(
        self,
        *,
        app_id: str,
        api: WeChatAPI,
        sessions: Sessions,
        sealer: "SessionKeySealer",
        tokens: TokenStore,
        connections: Connections,
        events: Events,
    ) -> None:
        self._app_id = app_id
        self._api = api
        self._sessions = sessions
        self._sealer = sealer
        self._tokens = tokens
        self._connections = connections
        self._finds = Coalescer(events.watched("session_key", self._find), max_in_flight=2)
        self._decryptions = Coalescer(self._decrypt, max_in_flight=1)
        self._resets: Flights[SessionRef, None] = Flights()

    async def of(self, token: object) -> CodeSession:
        """Find what WeChat gave for the session that a token stands for.

        Raises:
            InvalidTokenError: the token is none, or no longer alive.
            SessionKeyLostError: no key is kept for it, or it does not open.
            ConfigurationError: the token store keeps no session keys.
            StoreError: the store could not answer.
        """
        return await self._finds.submit(await self._sessions.current(token))

    async def decrypt(self, token: object, encrypted_data: str, iv: str) -> dict[str, Any]:
        """Decrypt what a client got sealed in the session of its token."""
        session = await self.of(token)
        sealed = _Sealed(session.session_key, encrypted_data, iv)
        payload: dict[str, Any] = await self._decryptions.submit(sealed)
        return payload

    async def check(self, token: object, access_token: AppAccessToken) -> bool:
        """Ask WeChat whether the session key of a token is still the user's."""
        session = await self.of(token)
        return await access_token.call(
            partial(self._api.is_session_key_valid, session.open_id, session.session_key)
        )

    async def reset(self, token: object, access_token: AppAccessToken) -> None:
        """Have WeChat replace the session key of a token, once for all who ask meanwhile."""
        ref = await self._sessions.current(token)
        await self._resets.join(ref, partial(self._reset, ref, access_token))

    async def _reset(self, ref: SessionRef, access_token: AppAccessToken) -> None:
        session = await self._finds.submit(ref)
        session_key = await access_token.call(
            partial(self._api.reset_session_key, session.open_id, session.session_key)
        )
        if session_key is None:
            raise SessionKeyLostError(
                "WeChat has replaced the session key: the client has to log in again, with "
                "wx.login."
            )
        if not await self._sealer.replace(self._store, ref, session_key, session.open_id):
            raise invalid_token(TokenStatus.unknown)

    async def close(self) -> None:
        """Take no more calls, and return when all that were taken are answered."""
        await self._resets.close()
        await self._finds.close()
        await self._decryptions.close()

    @property
    def _store(self) -> SessionKeyStore:
        if not isinstance(self._tokens, SessionKeyStore):
            raise ConfigurationError(
                "This token store keeps no session keys: give it the methods of SessionKeyStore."
            )
        return self._tokens

    async def _find(self, refs: Sequence[SessionRef]) -> list[CodeSession | Exception]:
        sealed_keys = await answers_of(self._store.sealed_keys(refs))
        opened = await asyncio.get_running_loop().run_in_executor(
            self._connections.executor, self._open_all, refs, sealed_keys
        )
        return [session or _lost() for session in opened]

    def _open_all(
        self, refs: Sequence[SessionRef], sealed_keys: Sequence[str | StoreError | None]
    ) -> list[CodeSession | StoreError | None]:
        sessions: list[CodeSession | StoreError | None] = []
        for ref, stored in zip(refs, sealed_keys, strict=True):
            if isinstance(stored, StoreError):
                sessions.append(stored)
                continue
            sealed_key, _, open_id = (stored or "").partition("|")
            session_key = self._sealer.open(ref.nonce, sealed_key)
            sessions.append(
                None if session_key is None else CodeSession(open_id or ref.user_id, session_key)
            )
        return sessions

    async def _decrypt(self, sealed: "Sequence[_Sealed]") -> list[Any]:
        return await asyncio.get_running_loop().run_in_executor(
            self._connections.executor, _decrypt_all, sealed, self._app_id
        )


class SessionKeySealer:
    """Encrypts session keys for the store: AES-256-GCM, under a key derived from the app's secret.

    A sealed key is the base64url of the 16 encrypted bytes and a 16-byte tag. Its IV is the
    session's nonce, 12 random bytes that name one session ever; moved to another session it does
    not open. What replaces it in the same session has a random IV of its own in front, for under
    one IV two keys would give each other away.

    pycryptodome's GCM takes longer for one such record than all else in a login that is done for
    it here: it makes ten trips into C. So a batch is sealed by GCM's definition over a single call
    of AES; it is opened, one by one, by pycryptodome.

    Args:
        app_id: the app.
        keys: what the keys are derived from, oldest to newest: the newest seals, all open.

    Source: NIST SP 800-38D.
    """

    def __init__(self, *, app_id: str, keys: Sequence[str | bytes]) -> None:
        derived = derived_keys(b"mpauthx sealing", app_id, keys)
        self._keys = tuple(key[:_AES_KEY] for key in derived)

    def seal(self, items: Sequence[tuple[str, str]]) -> list[str | None]:
        """Seal the session keys of new sessions, each of which is sealed here once.

        Args:
            items: of each the session's nonce and WeChat's session key, base64 of 16 bytes.

        Returns:
            What to store for each; None for what is no session key.
        """
        sessions = [_nonce_bytes(nonce) for nonce, _ in items]
        records = self._records(sessions, sessions, [session_key for _, session_key in items])
        return [None if record is None else _encode(record) for record in records]

    async def replace(
        self, store: SessionKeyStore, ref: SessionRef, session_key: str, open_id: str
    ) -> bool:
        """Keep another session key of a session.

        Returns:
            False when the session is no longer alive.

        Raises:
            InvalidResponseError: this is no session key.
            StoreError: the store could not answer.
        """
        sealed_key = self._seal_again(ref.nonce, session_key)
        if sealed_key is None:
            raise InvalidResponseError("WeChat's answer has a session_key that is none.")
        return await store.replace_sealed_key(ref, with_open_id(sealed_key, open_id, ref.user_id))

    def open(self, nonce: str, sealed_key: str) -> str | None:
        """Open a sealed key; None for what was not sealed here, or for another session."""
        try:
            raw = base64.urlsafe_b64decode(sealed_key + "=")
        except ValueError:
            return None
        # base64 has several spellings for the same bytes; only the one that seal writes is good.
        if len(raw) not in (2 * _BLOCK, _IV + 2 * _BLOCK) or _encode(raw) != sealed_key:
            return None
        session = _nonce_bytes(nonce)
        iv, encrypted, tag = raw[: -2 * _BLOCK], raw[-2 * _BLOCK : -_BLOCK], raw[-_BLOCK:]
        for key in self._keys:
            cipher = AES.new(key, AES.MODE_GCM, nonce=iv or session)
            cipher.update(session)
            try:
                return base64.b64encode(cipher.decrypt_and_verify(encrypted, tag)).decode()
            except ValueError:
                continue
        return None

    def _seal_again(self, nonce: str, session_key: str) -> str | None:
        """Seal another session key of a session; None for what is none."""
        iv = secrets.token_bytes(_IV)
        (record,) = self._records([iv], [_nonce_bytes(nonce)], [session_key])
        return None if record is None else _encode(iv + record)

    def _records(
        self, ivs: Sequence[bytes], sessions: Sequence[bytes], session_keys: Sequence[str]
    ) -> list[bytes | None]:
        # Of each record the two blocks that GCM encrypts: for the tag and for the 16 bytes.
        counters = b"".join(iv + counter for iv in ivs for counter in _COUNTERS)
        stream = AES.new(self._keys[0], AES.MODE_ECB).encrypt(counters) if ivs else b""
        keys, pieces = map(_session_key_bytes, session_keys), _pieces(stream, 2 * _BLOCK)
        return [
            None if key is None else self._record(session, key, piece)
            for session, key, piece in zip(sessions, keys, pieces, strict=True)
        ]

    def _record(self, session: bytes, session_key: bytes, stream: bytes) -> bytes:
        encrypted = (int.from_bytes(session_key) ^ int.from_bytes(stream[_BLOCK:])).to_bytes(_BLOCK)
        # GCM fills the authenticated block up with zeros.
        tag = int.from_bytes(stream[:_BLOCK]) ^ self._hash(session + _FILLING + encrypted)
        return encrypted + tag.to_bytes(_BLOCK)

    def _hash(self, blocks: bytes) -> int:
        """GHASH of the authenticated block, the encrypted block, and their lengths in bits."""
        tables, product = self._hashing
        for table, byte in zip(tables, blocks, strict=True):
            product ^= table[byte]
        return product

    @cached_property
    def _hashing(self) -> tuple[list[list[int]], int]:
        """What GHASH of three blocks comes to: A·H³ + C·H² + L·H, where L never changes.

        For each byte of A and C, and each of its values, the product; and the last one.
        """
        key = int.from_bytes(AES.new(self._keys[0], AES.MODE_ECB).encrypt(bytes(_BLOCK)))
        once = _multiples(key)
        square = _product(once, key)
        return _multiples(_product(once, square)) + _multiples(square), _product(once, _LENGTHS)


def _multiples(factor: int) -> list[list[int]]:
    """For each byte of a block, and each of its values, the product with a factor in GF(2^128)."""
    tables: list[list[int]] = []
    for _ in range(_BLOCK):
        table = [0] * 256
        for bit in range(8):  # GCM writes a polynomial's lowest term first
            weight = 0x80 >> bit
            for value in range(256):
                if value & weight:
                    table[value] ^= factor
            factor = factor >> 1 ^ (_POLYNOMIAL if factor & 1 else 0)
        tables.append(table)
    return tables


def _product(multiples: list[list[int]], block: int) -> int:
    product = 0
    for table, byte in zip(multiples, block.to_bytes(_BLOCK), strict=True):
        product ^= table[byte]
    return product


@dataclass(slots=True, eq=False)
class _Sealed:
    """Data to decrypt. No two are equal: each caller gets a payload of its own to change."""

    session_key: str = field(repr=False)
    encrypted_data: str
    iv: str


def with_open_id(sealed_key: str, open_id: str, user_id: str) -> str:
    """A sealed key as it is stored: with the user's openId, where that is not their id."""
    return sealed_key if open_id == user_id else f"{sealed_key}|{open_id}"


_AES_KEY = 32  # bytes
_BLOCK = 16  # bytes: of AES, of a session key, of a tag
_IV = 12  # bytes: also of a session's nonce
_FILLING = bytes(_BLOCK - _IV)
_COUNTERS = ((1).to_bytes(4), (2).to_bytes(4))
_LENGTHS = 8 * _IV << 64 | 8 * _BLOCK  # of what is authenticated and what is encrypted, in bits
_POLYNOMIAL = 0xE1 << 120
_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def _session_key_bytes(session_key: str) -> bytes | None:
    """The 16 bytes of a session key; None unless these give the very same text again."""
    try:
        raw = binascii.a2b_base64(session_key)
    except ValueError:
        return None
    if len(raw) != _BLOCK or binascii.b2a_base64(raw, newline=False) != session_key.encode():
        return None
    return raw


def _encode(raw: bytes) -> str:
    return binascii.b2a_base64(raw, newline=False).translate(_URL_SAFE, b"=").decode()


def _pieces(raw: bytes, size: int) -> list[bytes]:
    return [raw[start : start + size] for start in range(0, len(raw), size)]


def _nonce_bytes(nonce: str) -> bytes:
    return base64.urlsafe_b64decode(nonce)


def _decrypt_all(sealed: Sequence[_Sealed], app_id: str) -> list[dict[str, Any] | Exception]:
    payloads: list[dict[str, Any] | Exception] = []
    for data in sealed:
        try:
            payloads.append(
                decrypt_user_data(data.session_key, data.encrypted_data, data.iv, app_id)
            )
        except MPAuthXError as error:
            payloads.append(error)
    return payloads


def _lost() -> SessionKeyLostError:
    return SessionKeyLostError(
        "No session key is kept for this token: the client has to log in again, with wx.login. "
        "(Tokens of web logins and of refresh_token have none.)"
    )
