"""Decrypt and verify the user data that WeChat hands to clients.

Source: WeChat's "Signature verification and encryption/decryption of open data",
https://developers.weixin.qq.com/miniprogram/en/dev/framework/open-ability/signature.html
"""

import binascii
import hashlib
import hmac
import time
from typing import Any

from Crypto.Cipher import AES

from ..errors import DecryptionError, ParameterError
from ..untrusted_text import JSON, is_clean, is_number

__all__ = [
    "check_max_age",
    "check_sealed",
    "decrypt_user_data",
    "sign_user_state",
    "verify_raw_data",
]

_MAX_ENCRYPTED_DATA_CHARS = 16_384  # WeChat's largest payloads have a few thousand
_MAX_IV_CHARS = 64  # 24 as WeChat gives it, more with line breaks
_MAX_AHEAD_SECONDS = 300  # WeChat's clock, of ours
_MAX_MAX_AGE_SECONDS = 3_153_600_000  # a hundred years
_KEY_BYTES = 16  # AES-128
_REPAIR = bytes.maketrans(b" -_", b"++/")
_WIDEST = "\U0010ffff"
_IDS = ("openId", "unionId", "openGId", "userid", "corpid")


def decrypt_user_data(
    session_key: str,
    encrypted_data: str,
    iv: str,
    app_id: str,
    *,
    max_age: float | None = None,
    now: float | None = None,
) -> dict[str, Any]:
    """Decrypt the `encryptedData` of `wx.getUserInfo` and similar calls (AES-128-CBC, PKCS#7).

    Damaged base64 is repaired: spaces for plus signs, the URL-safe alphabet, missing padding. Bytes
    that are not UTF-8 become U+FFFD.

    AES-CBC does not authenticate the data: a user who knows a session key can encrypt any payload.

    Args:
        session_key: the session key of the login that the data belongs to, base64 of 16 bytes.
        encrypted_data: the client's `encryptedData`, base64, up to 16,384 characters.
        iv: the client's `iv`, base64 of 16 bytes.
        app_id: the AppID that the watermark must have.
        max_age: the maximum age in seconds, by the watermark's timestamp; None for any age.
        now: the time in Unix seconds; by default the system's.

    Returns:
        The payload with WeChat's own field names, such as openId and nickName.

    Raises:
        DecryptionError: the data is malformed, too long, encrypted with another key or for another
            app, or contains an id with a control character or U+FFFD: the message does not tell
            which. With `max_age`, also if it is older or has no valid timestamp.
        ParameterError: max_age is not a positive number.
    """
    check_max_age(max_age)
    payload = _open(session_key, encrypted_data, iv, app_id)
    del session_key, encrypted_data, iv  # the frame of a raised exception contains them
    if payload is None:
        # Raised here: an exception in `_open` as its context would tell what failed.
        raise DecryptionError(
            "The user data does not decrypt for this login and this app. Usually the client "
            "called wx.getUserInfo before wx.login, or wx.login again in between, so the data has "
            "another session key: the client has to log in again, wx.login first, then get the "
            "data, then send the code and the data together."
        )
    if max_age is not None:
        timestamp = payload["watermark"].get("timestamp")
        now = time.time() if now is None else now
        if not is_number(timestamp, now - max_age, now + _MAX_AHEAD_SECONDS):
            del payload
            raise DecryptionError(
                f"The user data was not encrypted within the last {max_age:g} seconds, or has no "
                "timestamp: the client has to get the data again and send it at once. If this "
                "happens often, check this server's clock."
            )
    return payload


def check_sealed(encrypted_data: object, iv: object) -> tuple[str, str]:
    """Validate a client's encrypted data and iv before they are used; returns both."""
    if (
        isinstance(encrypted_data, str)
        and isinstance(iv, str)
        and 0 < len(encrypted_data) <= _MAX_ENCRYPTED_DATA_CHARS
        and 0 < len(iv) <= _MAX_IV_CHARS
    ):
        return encrypted_data, iv
    del encrypted_data, iv
    raise ParameterError(
        "encrypted_data and iv are required together, as the client got them from WeChat: texts of "
        f"at most {_MAX_ENCRYPTED_DATA_CHARS} and {_MAX_IV_CHARS} characters."
    )


def check_max_age(max_age: object) -> None:
    """Validate a `max_age`: None, or a positive number of seconds up to a hundred years."""
    if max_age is not None and not (is_number(max_age, 0, _MAX_MAX_AGE_SECONDS) and max_age):
        raise ParameterError("max_age must be a positive number of seconds, or None.")


def verify_raw_data(session_key: str, raw_data: str, signature: str) -> bool:
    """Verify the signature of `rawData`: sha1(rawData + session_key) in hex.

    Args:
        session_key: the session key, as the base64 text that WeChat gave.
        raw_data: the client's `rawData`, exactly as it came.
        signature: the client's `signature`, 40 hex digits.

    Returns:
        True if the signature is correct; False otherwise, also for values of another type.
    """
    if not all(isinstance(text, str) for text in (session_key, raw_data, signature)):
        return False
    digest = hashlib.sha1(_encode(raw_data + session_key), usedforsecurity=False).hexdigest()
    return hmac.compare_digest(digest.encode(), _encode(signature))


def sign_user_state(session_key: str, body: str | bytes = b"") -> str:
    """Sign a server call with a user's session key: hmac_sha256(session_key, body) in hex.

    Args:
        session_key: the session key, as the base64 text that WeChat gave.
        body: the request's body, exactly as it is sent; empty for a GET.

    Returns:
        64 hex digits.

    Source: https://developers.weixin.qq.com/miniprogram/en/dev/framework/server-ability/signature.html
    """
    # A UnicodeEncodeError would quote the session key.
    message = _encode(body) if isinstance(body, str) else body
    return hmac.new(_encode(session_key), message, hashlib.sha256).hexdigest()


def _open(session_key: str, encrypted_data: str, iv: str, app_id: str) -> dict[str, Any] | None:
    """Decrypt and parse; None if the data is not a JSON object of this app.

    The padding is unauthenticated, so the time must not depend on it (Vaudenay, "Security Flaws
    Induced by CBC Padding", EUROCRYPT 2002). Checking it first would skip the parsing of data with
    invalid padding. So everything is decoded and parsed, and the padding is compared last, in
    constant time, together with the watermark. How far a changed text parses as JSON makes a
    difference of a few microseconds, which is unavoidable for data without a MAC.
    """
    try:
        if len(encrypted_data) > _MAX_ENCRYPTED_DATA_CHARS or len(iv) > _MAX_IV_CHARS:
            return None
        key = _decode_base64(session_key)
        if len(key) != _KEY_BYTES:
            return None
        cipher = AES.new(key, AES.MODE_CBC, _decode_base64(iv))
        plaintext = cipher.decrypt(_decode_base64(encrypted_data))
        # After a character of four bytes CPython stores four bytes for each. Otherwise a byte of
        # the padding that is not ASCII makes it copy the decoded text, which takes microseconds.
        text = (_WIDEST.encode() + plaintext).decode(errors="replace")
        payload, end = JSON.raw_decode(text, len(_WIDEST))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    is_padded, is_ours = _is_padding(text[end:].encode()), _is_sealed_for(app_id, payload)
    return payload if is_padded & is_ours & _has_clean_ids(payload) else None


def _is_padding(rest: bytes) -> bool:
    """Whether this is PKCS#7 padding to AES's block."""
    size = len(rest)
    return 0 < size <= AES.block_size and hmac.compare_digest(rest, bytes([size]) * size)


def _is_sealed_for(app_id: str, payload: object) -> bool:
    watermark = payload.get("watermark") if isinstance(payload, dict) else None
    return isinstance(watermark, dict) and watermark.get("appid") == app_id


def _has_clean_ids(payload: object) -> bool:
    ids = [payload.get(name) for name in _IDS] if isinstance(payload, dict) else []
    return all(is_clean(one) for one in ids if isinstance(one, str))


def _decode_base64(text: str) -> bytes:
    repaired = text.encode("ascii").translate(_REPAIR, b"\r\n\t").rstrip(b"=")
    return binascii.a2b_base64(repaired + b"=" * (-len(repaired) % 4), strict_mode=True)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
