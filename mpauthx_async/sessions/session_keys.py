"""SessionKeys: the encrypted session keys behind tokens, and the calls that need them."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

from ..concurrency.coalescer import Coalescer, answers_of
from ..concurrency.single_flight import SingleFlight
from ..constants import TokenStatus
from ..errors import (
    ConfigurationError,
    DecryptionError,
    MPAuthXError,
    SessionKeyLostError,
    StoreError,
)
from ..failure_log import invalid_answer
from ..models import CodeSession, PhoneNumber, SessionRef, UserEncryptKey
from ..shared_parts import Parts
from ..stores import SessionKeyStore
from ..tokens.sealing import SessionKeySealer, split_open_id, with_open_id
from ..wechat.access_token import AccessToken
from ..wechat.api import WeChatAPI
from ..wechat.userdata import check_max_age, check_sealed, decrypt_user_data, verify_raw_data
from .token_validation import TokenValidator, invalid_token

__all__ = ["SessionKeys", "replace_session_key"]

_Decryption: TypeAlias = Callable[[], dict[str, Any]]


class SessionKeys:
    """Finds the session key of a token's session, and decrypts with it what a client sends."""

    def __init__(
        self, parts: Parts, api: WeChatAPI, access_token: AccessToken, validator: TokenValidator
    ) -> None:
        self._parts = parts
        self._api = api
        self._access_token = access_token
        self._validator = validator
        self._finds = parts.batched(
            parts.events.watched("session_key", self._find), max_in_flight=2
        )
        self._decryptions = Coalescer(self._decrypt, max_in_flight=1)
        self._resets: SingleFlight[SessionRef, None] = SingleFlight()
        for part in (self._decryptions, self._resets):
            parts.calls.on_close(part.close, part.cut_off)

    async def of(self, token: object) -> CodeSession:
        """Find what WeChat returned for the session of a token."""
        return await self._finds.submit(await self._validator.session_of(token))

    async def decrypt(
        self, token: object, encrypted_data: str, iv: str, max_age: float | None
    ) -> dict[str, Any]:
        """Decrypt what a client got encrypted in the session of its token."""
        check_sealed(encrypted_data, iv)
        check_max_age(max_age)
        now, app_id = self._parts.settings.clock(), self._parts.settings.app_id
        key = (await self.of(token)).session_key
        # A function is equal to no other: each caller gets a payload of its own to change.
        return await self._decryptions.submit(
            lambda: decrypt_user_data(key, encrypted_data, iv, app_id, max_age=max_age, now=now)
        )

    async def decrypt_phone_number(
        self, token: object, encrypted_data: str, iv: str, max_age: float | None
    ) -> PhoneNumber:
        """Decrypt a phone number that a client got encrypted in the session of its token."""
        payload = await self.decrypt(token, encrypted_data, iv, max_age)
        number = PhoneNumber.from_wechat(payload)
        if number is None:
            raise DecryptionError("The data holds no phone number.")
        return number

    async def verify_raw_data(self, token: object, raw_data: str, signature: str) -> bool:
        """Tell whether `rawData` is what WeChat signed in the session of a token."""
        session = await self.of(token)
        return verify_raw_data(session.session_key, raw_data, signature)

    async def check(self, token: object) -> bool:
        """Ask WeChat whether the session key of a token is still the user's."""
        session = await self.of(token)
        return await self._access_token.call(
            partial(self._api.is_session_key_valid, session.open_id, session.session_key)
        )

    async def encrypt_keys(self, token: object) -> tuple[UserEncryptKey, ...]:
        """Ask WeChat for the newest encryption keys of the user of a token."""
        session = await self.of(token)
        keys = await self._access_token.call(
            partial(self._api.get_user_encrypt_keys, session.open_id, session.session_key)
        )
        if keys is None:
            raise _replaced()
        return keys

    async def reset(self, token: object) -> None:
        """Have WeChat replace the session key of a token; concurrent calls are one."""
        ref = await self._validator.session_of(token)
        await self._resets.join(ref, partial(self._reset, ref))

    async def _reset(self, ref: SessionRef) -> None:
        session = await self._finds.submit(ref)
        session_key = await self._access_token.call(
            partial(self._api.reset_session_key, session.open_id, session.session_key)
        )
        if session_key is None:
            raise _replaced()
        replacement = CodeSession(session.open_id, session_key)
        if not await replace_session_key(self._parts.sealer, self._store, ref, replacement):
            raise invalid_token(TokenStatus.unknown)

    @property
    def _store(self) -> SessionKeyStore:
        tokens = self._parts.tokens
        if not isinstance(tokens, SessionKeyStore):
            raise ConfigurationError(
                "This token store keeps no session keys: give it the methods of SessionKeyStore."
            )
        return tokens

    async def _find(self, refs: Sequence[SessionRef]) -> list[CodeSession | Exception]:
        sealed_keys = await answers_of(self._store.sealed_keys(refs))
        items = [
            (ref.nonce, *split_open_id(stored if isinstance(stored, str) else "", ref.user_id))
            for ref, stored in zip(refs, sealed_keys, strict=True)
        ]
        session_keys = await asyncio.get_running_loop().run_in_executor(
            self._parts.connections.executor, self._parts.sealer.open, items
        )
        found: list[CodeSession | Exception] = []
        for stored, item, session_key in zip(sealed_keys, items, session_keys, strict=True):
            if isinstance(stored, StoreError):
                found.append(stored)
            else:
                found.append(CodeSession(item[1], session_key) if session_key else _lost())
        return found

    async def _decrypt(self, works: Sequence[_Decryption]) -> list[dict[str, Any] | Exception]:
        return await asyncio.get_running_loop().run_in_executor(
            self._parts.connections.executor, _decrypt_all, works
        )


async def replace_session_key(
    sealer: SessionKeySealer, store: SessionKeyStore, ref: SessionRef, session: CodeSession
) -> bool:
    """Keep another session key of a session; False if the session is no longer alive."""
    sealed_key = sealer.reseal(ref.nonce, session.open_id, session.session_key)
    if sealed_key is None:
        raise invalid_answer("The session_key in WeChat's answer is malformed.")
    stored = with_open_id(sealed_key, session.open_id, ref.user_id)
    return await store.replace_sealed_key(ref, stored)


def _decrypt_all(works: Sequence[_Decryption]) -> list[dict[str, Any] | Exception]:
    payloads: list[dict[str, Any] | Exception] = []
    for decrypt in works:
        try:
            payloads.append(decrypt())
        except MPAuthXError as error:
            payloads.append(error)
    return payloads


def _replaced() -> SessionKeyLostError:
    return SessionKeyLostError(
        "WeChat has replaced the session key: the client has to log in again, with wx.login."
    )


def _lost() -> SessionKeyLostError:
    return SessionKeyLostError(
        "No session key is kept for this token: the client has to log in again, with wx.login. "
        "(Tokens of web logins, issue_session and refresh_token have none.)"
    )
