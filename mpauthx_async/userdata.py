"""Decrypting and verifying what WeChat seals for a user: pure functions, base64 texts in.

Source: WeChat's "Signature verification and encryption/decryption of open data",
https://developers.weixin.qq.com/miniprogram/en/dev/framework/open-ability/signature.html
"""

import binascii
import hashlib
import hmac
import json
from typing import Any

from Crypto.Cipher import AES
from Crypto.Util.Padding import unpad

from .errors import DecryptionError

__all__ = ["decrypt_user_data", "sign_user_state", "verify_raw_data"]

_MAX_ENCRYPTED_DATA = 65_536  # characters; WeChat's largest payloads are a few thousand
_KEY = 16  # bytes: AES-128
_REPAIR = bytes.maketrans(b" -_", b"++/")


def decrypt_user_data(
    session_key: str, encrypted_data: str, iv: str, app_id: str
) -> dict[str, Any]:
    """Decrypt what `wx.getUserInfo` and its kin hand to the client (AES-128-CBC, PKCS#7).

    Base64 that was damaged on its way is repaired: a form decoder's space for a plus, the
    URL-safe alphabet, missing padding.

    Args:
        session_key: the session key of the login that the data was sealed in, base64 of 16 bytes.
        encrypted_data: the client's `encryptedData`, base64, up to 65,536 characters.
        iv: the client's `iv`, base64 of 16 bytes.
        app_id: the app whose data this must be, as the watermark says.

    Returns:
        The payload with WeChat's own field names, such as openId and nickName.

    Raises:
        DecryptionError: whatever is wrong with the data; it never tells which check failed.
    """
    payload = _open(session_key, encrypted_data, iv)
    watermark = None if payload is None else payload.get("watermark")
    if payload is None or not isinstance(watermark, dict) or watermark.get("appid") != app_id:
        # Raised out here: an exception from below, kept as its context, could tell what failed.
        raise DecryptionError(
            "The user data does not decrypt for this login and this app. Usually the client "
            "called wx.getUserInfo before wx.login, or wx.login again in between, and so sealed "
            "it with another session key: the client has to log in again, wx.login first, then "
            "get the data, then send the code and the data together."
        )
    return payload


def verify_raw_data(session_key: str, raw_data: str, signature: str) -> bool:
    """Tell whether `rawData` is what WeChat signed: sha1(rawData + session_key) in hex.

    Args:
        session_key: the session key, as the base64 text that WeChat gave.
        raw_data: the client's `rawData`, exactly as it came.
        signature: the client's `signature`, 40 hex digits.

    Returns:
        True when the signature is right; False for anything else, whatever its type or form.
    """
    if not all(isinstance(text, str) for text in (session_key, raw_data, signature)):
        return False
    digest = hashlib.sha1(_encode(raw_data + session_key), usedforsecurity=False).hexdigest()
    return hmac.compare_digest(digest.encode(), _encode(signature))


def sign_user_state(session_key: str, body: str | bytes = b"") -> str:
    """Make the user-state signature of a server call: hmac_sha256(session_key, body) in hex.

    Args:
        session_key: the session key, as the base64 text that WeChat gave.
        body: the request's body, exactly as it is sent; empty for a GET.

    Returns:
        64 hex digits.

    Source: https://developers.weixin.qq.com/miniprogram/en/dev/framework/server-ability/signature.html
    """
    message = body.encode() if isinstance(body, str) else body
    return hmac.new(session_key.encode(), message, hashlib.sha256).hexdigest()


def _open(session_key: str, encrypted_data: str, iv: str) -> dict[str, Any] | None:
    """The sealed JSON object, or None when there is none to be had."""
    try:
        if len(encrypted_data) > _MAX_ENCRYPTED_DATA:
            return None
        key = _decode_base64(session_key)
        if len(key) != _KEY:
            return None
        cipher = AES.new(key, AES.MODE_CBC, _decode_base64(iv))
        sealed = cipher.decrypt(_decode_base64(encrypted_data))
        payload = json.loads(unpad(sealed, AES.block_size).decode())
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    return payload if isinstance(payload, dict) else None


def _decode_base64(text: str) -> bytes:
    encoded = text.encode("ascii")
    try:
        return binascii.a2b_base64(encoded, strict_mode=True)  # nearly always it came undamaged
    except binascii.Error:
        pass
    repaired = encoded.translate(_REPAIR, b"\r\n\t").rstrip(b"=")
    return binascii.a2b_base64(repaired + b"=" * (-len(repaired) % 4), strict_mode=True)


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
