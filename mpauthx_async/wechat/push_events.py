"""Events that WeChat pushes to an app's own URL: verify, decrypt, parse and handle them.

Sources:
    https://developers.weixin.qq.com/miniprogram/dev/framework/server-ability/message-push.html
    https://developers.weixin.qq.com/miniprogram/dev/server/event_push/platform/authorized_user_information_changes
    https://developers.weixin.qq.com/doc/service/guide/h5/authorization_change.html
    https://developers.weixin.qq.com/doc/oplatform/Mobile_App/WeChat_Login/authorization_change.html
"""

import binascii
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol
from xml.etree import ElementTree

from Crypto.Cipher import AES
from Crypto.Util.Padding import unpad

from ..concurrency.traceback_frames import clears_frames
from ..errors import ConfigurationError, InvalidPushEventError, ParameterError
from ..events import PushEvent, PushEventReceived
from ..shared_parts import Parts
from ..untrusted_text import JSON, is_clean, is_user_id
from .exchanges import CodeExchange, ComponentExchange

__all__ = [
    "PushEventHandler",
    "UserEraser",
    "check_push_settings",
    "parse_push_event",
    "verify_push_url",
]

_MAX_AGE_SECONDS = 300  # of a timestamp, which may be as much ahead
# A timestamp that is ahead is valid until it is behind by as much, and clocks differ.
_NONCE_TTL_SECONDS = 2 * _MAX_AGE_SECONDS + 60
_MAX_NONCES = 10_000  # in this process
_MAX_BODY_BYTES = 65_536
_PADDING_BYTES = 32  # WeChat pads to the size of AES-256's key, not to its block
_RANDOM_BYTES = 16  # before the message
_LENGTH_BYTES = 4
_TIMESTAMP = re.compile(r"[0-9]{10}")
# What is signed is sorted and joined without separators. A nonce that is shorter than the 64
# characters of three blocks of `Encrypt` allows only one way to split the joined text.
_NONCE = re.compile(r"[0-9A-Za-z_-]{1,48}")
_ECHO = re.compile(r"[0-9A-Za-z_+/=-]{1,256}")
_AES_KEY = re.compile(r"[0-9A-Za-z+/]{43}")
# A DTD, which declares entities, can only stand before the root element.
_ROOT_COMES_FIRST = re.compile(r"\s*(?:<\?xml[^<>]*\?>)?\s*<\w")
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")  # not even as escapes
_LAYOUT = " \t\r\n"
_BLANK_IN_TAG = re.compile(r"<\s+(\w+>)")
_MODIFIED = "user_info_modified"
_REVOKE = "user_authorization_revoke"
_CANCELLATION = "user_authorization_cancellation"
_NAME_AND_AVATAR = ("nick_name", "avatar_url")
# The withdrawn fields that are stored here; phone numbers (8), addresses and others are not.
_WITHDRAWN: Mapping[int, Sequence[str]] = {
    6: _NAME_AND_AVATAR,
    19: ("nick_name",),
    20: ("avatar_url",),
    205: _NAME_AND_AVATAR,  # of a page inside WeChat
    # All that was granted to a website or mobile app.
    301: (*_NAME_AND_AVATAR, "gender", "city", "province", "country", "language"),
}
_FORGED = (
    "This push event is not from WeChat, or was changed: refuse it. If WeChat did send it, "
    "compare token, aes_key and the encryption mode with the app's message push settings."
)
_STALE = (
    "This push event is more than five minutes old, or ahead of this server's clock: refuse it. "
    "If WeChat has just sent it, set the clock."
)
_MALFORMED = (
    "This push event is not a JSON object or XML document as WeChat documents it: refuse it."
)


@clears_frames
def parse_push_event(
    query: Mapping[str, str],
    body: bytes | str,
    *,
    token: str,
    aes_key: str | None = None,
    now: float | None = None,
) -> PushEvent:
    """Verify, decrypt and parse what WeChat has posted to the app's own URL.

    Args:
        query: the parameters in the URL.
        body: the request's body, JSON or XML, up to 65,536 bytes.
        token: the Token of the app's message push settings.
        aes_key: the EncodingAESKey there, 43 characters. With it the event has to be encrypted
            (safe mode, or compatible mode); without it, it has to be plain.
        now: the time in Unix seconds; by default the system's.

    Returns:
        The event. `MPAuthX.handle_push_event` detects repeated ones.

    Raises:
        InvalidPushEventError: the event is not from WeChat, was changed, is malformed, or is more
            than five minutes old or ahead. The message does not tell which cryptographic check
            failed.
        ConfigurationError: token or aes_key is malformed.
    """
    try:
        return _parse_event(query, body, token, aes_key, time.time() if now is None else now)
    except (InvalidPushEventError, ConfigurationError) as error:
        refusal = type(error)(*error.args)
    # A new one: the traceback and context of the first tell which check failed.
    raise refusal


@clears_frames
def verify_push_url(query: Mapping[str, str], *, token: str, now: float | None = None) -> str:
    """Verify the GET request with which WeChat tests the app's own URL.

    Args:
        query: the parameters in the URL.
        token: the Token of the app's message push settings.
        now: the time in Unix seconds; by default the system's.

    Returns:
        `echostr`: what to answer, as text/plain.

    Raises:
        InvalidPushEventError: the request is not from WeChat, or is more than five minutes old or
            ahead.
        ConfigurationError: token is malformed.
    """
    try:
        _verify(query, "signature", token, time.time() if now is None else now)
        return _matching(_ECHO, query.get("echostr"))
    except (InvalidPushEventError, ConfigurationError) as error:
        refusal = type(error)(*error.args)
    raise refusal


@clears_frames
def check_push_settings(token: object, aes_key: object) -> None:
    """Check the Token and the EncodingAESKey of an app's message push settings.

    Raises:
        ConfigurationError: one of them is malformed. `aes_key` may be None.
    """
    _check_token(token)
    if aes_key is not None:
        _decode_key(aes_key)


class UserEraser(Protocol):
    """Erases users and fields of their profiles."""

    def forget_user(self, user_id: str) -> Awaitable[object]:
        """Erase a user, but not a ban."""

    def clear_profile(self, user_id: str, fields: Sequence[str]) -> Awaitable[object]:
        """Erase fields of a user's profile."""


class PushEventHandler:
    """Erases what the events about the users of one service tell an app to erase."""

    def __init__(
        self, parts: Parts, users: UserEraser, web_app_id: str | None, exchange: CodeExchange | None
    ) -> None:
        app_id = parts.settings.app_id
        platform = {exchange.component_app_id} if isinstance(exchange, ComponentExchange) else set()
        self._app_ids = {app_id, web_app_id or app_id}
        self._recipients = self._app_ids | platform  # that events may be encrypted for
        self._purpose = f"{app_id}|{parts.settings.sku}"  # of the nonces
        self._users = users
        records = parts.records
        self._records = _ProcessNonces(parts.settings.clock) if records is None else records
        self._events = parts.events

    async def handle(self, event: PushEvent) -> None:
        """Handle an event once, and emit it to listeners.

        Its nonce is remembered last: WeChat repeats an event whose handling failed, and erasing
        twice is harmless.
        """
        self._check(event)
        key = f"push_nonce|{self._purpose}|{event.nonce}"
        if await self._records.get(key) is not None:
            raise _repeated()
        if event.event == _CANCELLATION:
            await self._users.forget_user(_user_id(event))
        elif event.event == _REVOKE:
            fields = {name for number in event.revoke_info for name in _WITHDRAWN.get(number, ())}
            if fields:
                await self._users.clear_profile(_user_id(event), sorted(fields))
        if not await self._records.add(key, secrets.token_hex(8), _NONCE_TTL_SECONDS):
            raise _repeated()
        self._events.emit(PushEventReceived(event))

    def _check(self, event: PushEvent) -> None:
        if not isinstance(event, PushEvent):
            raise ParameterError("event must be a PushEvent, as parse_push_event returns it.")
        if (event.app_id is not None and event.app_id not in self._app_ids) or (
            event.encrypted_for is not None and event.encrypted_for not in self._recipients
        ):
            raise InvalidPushEventError(
                "This push event is about another app: pass it to that app's service."
            )
        if event.event in (_CANCELLATION, _REVOKE) and not event.is_encrypted:
            raise InvalidPushEventError(
                "This push event came in plain mode, whose signature does not cover the body, so "
                "nothing is erased because of it. Set the app's message push to safe mode, and "
                "pass its EncodingAESKey to parse_push_event as aes_key."
            )


def _parse_event(
    query: Mapping[str, str], body: bytes | str, token: str, aes_key: str | None, now: float
) -> PushEvent:
    if aes_key is None:
        timestamp, nonce = _verify(query, "signature", token, now)
        fields, encrypted_for = _parse(body), None
        if "Encrypt" in fields and "MsgType" not in fields:
            raise InvalidPushEventError(
                "This push event is encrypted: pass aes_key, the EncodingAESKey of the app's "
                "message push settings."
            )
    else:
        key = _decode_key(aes_key)
        encrypted = _parse(body).get("Encrypt")
        if not isinstance(encrypted, str):
            raise InvalidPushEventError(_FORGED)
        timestamp, nonce = _verify(query, "msg_signature", token, now, encrypted)
        message, encrypted_for = _decrypt(encrypted, key)
        fields = _parse(message)
    return _event(fields, encrypted_for, nonce, timestamp)


def _verify(
    query: Mapping[str, str], name: str, token: str, now: float, *more: str
) -> tuple[int, str]:
    """Verify a signature and its timestamp; returns the timestamp and the nonce."""
    _check_token(token)
    timestamp = _matching(_TIMESTAMP, query.get("timestamp"))
    nonce = _matching(_NONCE, query.get("nonce"))
    signed = "".join(sorted((token, timestamp, nonce, *more)))
    signature = hashlib.sha1(signed.encode("utf-8", "replace"), usedforsecurity=False).hexdigest()
    given = str(query.get(name)).encode("utf-8", "replace")
    if not hmac.compare_digest(signature.encode(), given):
        raise InvalidPushEventError(_FORGED)
    if not abs(int(timestamp) - now) <= _MAX_AGE_SECONDS:
        raise InvalidPushEventError(_STALE)
    return int(timestamp), nonce


def _matching(form: re.Pattern[str], text: object) -> str:
    if not isinstance(text, str) or not form.fullmatch(text):
        raise InvalidPushEventError(_FORGED)
    return text


def _check_token(token: object) -> None:
    if not isinstance(token, str) or not token:
        raise ConfigurationError("token must be the Token of the app's message push settings.")


def _decode_key(aes_key: object) -> bytes:
    if not isinstance(aes_key, str) or not _AES_KEY.fullmatch(aes_key):
        raise ConfigurationError(
            "aes_key must be the EncodingAESKey of the app's message push settings: 43 letters and "
            "digits."
        )
    return binascii.a2b_base64(aes_key + "=")  # only four bits of its last character count


def _decrypt(encrypted: str, key: bytes) -> tuple[bytes, str]:
    """Decrypt a message; returns it and the AppID that it was encrypted for."""
    try:
        cipher = AES.new(key, AES.MODE_CBC, key[: AES.block_size])
        raw = binascii.a2b_base64(encrypted.encode("ascii"), strict_mode=True)
        plaintext = unpad(cipher.decrypt(raw), _PADDING_BYTES)
        begin = _RANDOM_BYTES + _LENGTH_BYTES
        end = begin + int.from_bytes(plaintext[_RANDOM_BYTES:begin], "big")
        app_id = plaintext[end:].decode("ascii")
    except ValueError:
        raise InvalidPushEventError(_FORGED) from None
    if not app_id:
        raise InvalidPushEventError(_FORGED)
    return plaintext[begin:end], app_id


def _parse(body: bytes | str) -> dict[str, Any]:
    """Parse JSON or XML; raises InvalidPushEventError for anything else."""
    if not isinstance(body, (bytes, str)):
        raise InvalidPushEventError(_MALFORMED)
    if len(body) > _MAX_BODY_BYTES:
        raise InvalidPushEventError(
            f"This push event is longer than {_MAX_BODY_BYTES:,} bytes: refuse it."
        )
    text = body if isinstance(body, str) else body.decode(errors="replace")
    try:
        fields = _parse_xml(text) if text.lstrip().startswith("<") else JSON.decode(text)
    except (ValueError, RecursionError, ElementTree.ParseError):
        raise InvalidPushEventError(_MALFORMED) from None
    if not isinstance(fields, dict):
        raise InvalidPushEventError(_MALFORMED)
    # WeChat's documents show names with a leading blank.
    return {name.strip(" "): value for name, value in fields.items()}


def _parse_xml(text: str) -> dict[str, str]:
    if not _ROOT_COMES_FIRST.match(text):
        raise ValueError
    readable = _BLANK_IN_TAG.sub(r"<\1", _NOT_XML.sub("\ufffd", text))
    root = ElementTree.fromstring(readable)  # noqa: S314
    return {child.tag: "".join(child.itertext()).strip(_LAYOUT) for child in root}


def _event(
    fields: Mapping[str, Any], encrypted_for: str | None, nonce: str, timestamp: int
) -> PushEvent:
    def get(name: str) -> str | None:
        value = fields.get(name)
        return str(value).strip(" ") or None if type(value) in (str, int) else None

    def clean_id(name: str) -> str | None:
        value = get(name)
        if value is not None and not is_clean(value):
            raise InvalidPushEventError(_MALFORMED)
        return value

    def user_id(name: str) -> str | None:
        value = clean_id(name)
        return value if is_user_id(value) else None

    event, created_at, open_id = get("Event") or "", get("CreateTime"), user_id("OpenID")
    if event in (_MODIFIED, _REVOKE, _CANCELLATION) and open_id is None:
        raise InvalidPushEventError(_MALFORMED)
    return PushEvent(
        event,
        open_id,
        user_id("UnionID"),
        clean_id("AppID") or encrypted_for,
        encrypted_for,
        encrypted_for is not None,
        nonce,
        timestamp,
        int(created_at) * 1000 if created_at and _TIMESTAMP.fullmatch(created_at) else None,
        tuple(map(int, re.findall(r"[0-9]{1,9}", get("RevokeInfo") or ""))),
        clean_id("PluginID"),
        clean_id("OpenPID"),
        fields,
    )


class _ProcessNonces:
    """Remembers nonces in this process, all for the same time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ends: dict[str, float] = {}  # oldest first

    async def get(self, key: str) -> str | None:
        return "" if self._ends.get(key, 0) > self._clock() else None

    async def add(self, key: str, text: str, ttl: float) -> bool:
        now = self._clock()
        while self._ends:
            oldest = next(iter(self._ends))
            if self._ends[oldest] > now and len(self._ends) < _MAX_NONCES:
                break
            del self._ends[oldest]
        if key in self._ends:
            return False
        self._ends[key] = now + ttl
        return True


def _user_id(event: PushEvent) -> str:
    if event.open_id is None:
        raise InvalidPushEventError("This push event names no user: refuse it.")
    return event.open_id


def _repeated() -> InvalidPushEventError:
    return InvalidPushEventError("This push event was handled before: answer WeChat `success`.")
