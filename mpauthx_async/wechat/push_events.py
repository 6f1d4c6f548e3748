"""Events that WeChat pushes to an app's own URL: verified, decrypted and parsed.

Sources:
    https://developers.weixin.qq.com/miniprogram/dev/framework/server-ability/message-push.html
    https://developers.weixin.qq.com/miniprogram/dev/server/event_push/platform/authorized_user_information_changes
"""

import binascii
import hashlib
import hmac
import re
import time
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from Crypto.Cipher import AES
from Crypto.Util.Padding import unpad

from ..concurrency.frames import clears_frames
from ..errors import ConfigurationError, InvalidPushEventError
from ..events import PushEvent
from ..untrusted_text import JSON, is_clean, is_user_id

__all__ = ["MAX_PUSH_AGE", "PushEvent", "parse_push_event", "verify_push_url"]

MAX_PUSH_AGE = 300
"""Seconds that a pushed event's timestamp may be behind the time, or ahead of it."""

_MAX_BODY = 65_536  # bytes
_PADDED_TO = 32  # bytes: WeChat pads to AES-256's key, not to its block
_RANDOM = 16  # bytes in front of what is encrypted
_LENGTH = 4  # bytes
_TIMESTAMP = re.compile(r"[0-9]{10}")
# What is signed is sorted and joined without separators. As long as a nonce is too short to hold
# the 64 characters of three blocks of `Encrypt`, no other nonce and `Encrypt` join to the same.
_NONCE = re.compile(r"[0-9A-Za-z_-]{1,48}")
_ECHO = re.compile(r"[0-9A-Za-z_+/=-]{1,256}")
_AES_KEY = re.compile(r"[0-9A-Za-z+/]{43}")
# A DTD, which declares entities, can only stand before the root element.
_ROOT_COMES_FIRST = re.compile(r"\s*(?:<\?xml[^<>]*\?>)?\s*<\w")
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")  # XML allows no escapes of them
_LAYOUT = " \t\r\n"
_BLANK_IN_TAG = re.compile(r"<\s+(\w+>)")
_USER_EVENTS = (
    "user_info_modified",
    "user_authorization_revoke",
    "user_authorization_cancellation",
)
_FORGED = (
    "This push event is not WeChat's, or was changed on its way: refuse it. If WeChat did send it, "
    "compare token, aes_key and the encryption mode with the app's message push settings."
)
_STALE = (
    "This push event is more than five minutes old, or ahead of time: refuse it. If WeChat has "
    "just sent it, set this server's clock."
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
        The event. A repeated one is not detected here, but by `MPAuthX.handle_push_event`.

    Raises:
        InvalidPushEventError: it is not from WeChat, was changed, is malformed or is more than five
            minutes old or ahead. It does not tell which check of the cryptography failed.
        ConfigurationError: token or aes_key cannot be one.
    """
    try:
        return _parse_event(query, body, token, aes_key, time.time() if now is None else now)
    except (InvalidPushEventError, ConfigurationError) as error:
        refusal = type(error)(*error.args)
    # A new one, because the traceback and context of the first tell which check failed.
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
        InvalidPushEventError: as `parse_push_event`.
        ConfigurationError: token cannot be one.
    """
    try:
        _plain_signature(query, token, time.time() if now is None else now)
        return _matching(_ECHO, query.get("echostr"))
    except (InvalidPushEventError, ConfigurationError) as error:
        refusal = type(error)(*error.args)
    raise refusal


def _parse_event(
    query: Mapping[str, str], body: bytes | str, token: str, aes_key: str | None, now: float
) -> PushEvent:
    if aes_key is None:
        timestamp, nonce = _plain_signature(query, token, now)
        fields, encrypted_for = _parse(body), None
        if "Encrypt" in fields and "MsgType" not in fields:
            raise InvalidPushEventError(
                "This push event is encrypted: give aes_key, the EncodingAESKey of the app's "
                "message push settings."
            )
    else:
        key = _decode_key(aes_key)
        encrypted = _parse(body).get("Encrypt")
        if not isinstance(encrypted, str):
            raise InvalidPushEventError(_FORGED)
        timestamp, nonce = _signed(query, "msg_signature", token, now, encrypted)
        message, encrypted_for = _decrypt(encrypted, key)
        fields = _parse(message)
    return _event(fields, encrypted_for, nonce, timestamp)


def _plain_signature(query: Mapping[str, str], token: str, now: float) -> tuple[int, str]:
    return _signed(query, "signature", token, now)


def _signed(
    query: Mapping[str, str], name: str, token: str, now: float, *more: str
) -> tuple[int, str]:
    """Verify a signature and its timestamp; returns the timestamp and the nonce."""
    if not isinstance(token, str) or not token:
        raise ConfigurationError("token must be the Token of the app's message push settings.")
    timestamp = _matching(_TIMESTAMP, query.get("timestamp"))
    nonce = _matching(_NONCE, query.get("nonce"))
    signed = "".join(sorted((token, timestamp, nonce, *more)))
    signature = hashlib.sha1(signed.encode("utf-8", "replace"), usedforsecurity=False).hexdigest()
    given = str(query.get(name)).encode("utf-8", "replace")
    if not hmac.compare_digest(signature.encode(), given):
        raise InvalidPushEventError(_FORGED)
    if not abs(int(timestamp) - now) <= MAX_PUSH_AGE:
        raise InvalidPushEventError(_STALE)
    return int(timestamp), nonce


def _matching(form: re.Pattern[str], text: object) -> str:
    if not isinstance(text, str) or not form.fullmatch(text):
        raise InvalidPushEventError(_FORGED)
    return text


def _decode_key(aes_key: object) -> bytes:
    if not isinstance(aes_key, str) or not _AES_KEY.fullmatch(aes_key):
        raise ConfigurationError(
            "aes_key must be the EncodingAESKey of the app's message push settings: 43 letters and "
            "digits."
        )
    return binascii.a2b_base64(aes_key + "=")  # of its last character only four bits count


def _decrypt(encrypted: str, key: bytes) -> tuple[bytes, str]:
    """Open what was signed; returns the message and the AppID that it was encrypted for."""
    try:
        cipher = AES.new(key, AES.MODE_CBC, key[: AES.block_size])
        raw = binascii.a2b_base64(encrypted.encode("ascii"), strict_mode=True)
        plaintext = unpad(cipher.decrypt(raw), _PADDED_TO)
        begin = _RANDOM + _LENGTH
        end = begin + int.from_bytes(plaintext[_RANDOM:begin], "big")
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
    if len(body) > _MAX_BODY:
        raise InvalidPushEventError(
            f"This push event is longer than {_MAX_BODY:,} bytes: refuse it."
        )
    text = body if isinstance(body, str) else body.decode(errors="replace")
    try:
        fields = _parse_xml(text) if text.lstrip().startswith("<") else JSON.decode(text)
    except (ValueError, RecursionError, ElementTree.ParseError):
        raise InvalidPushEventError(_MALFORMED) from None
    if not isinstance(fields, dict):
        raise InvalidPushEventError(_MALFORMED)
    # WeChat's documents show names with a blank in front.
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
    if event in _USER_EVENTS and open_id is None:
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
