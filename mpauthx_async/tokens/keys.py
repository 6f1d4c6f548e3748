"""Keys that are derived from an app's signing keys: one for each purpose."""

import hashlib
from collections.abc import Sequence

from ..errors import ConfigurationError

__all__ = ["MAC", "derived_keys", "digest", "keyed_macs"]

MAC = 16  # bytes of a MAC
_MIN_KEY = 16  # bytes


def keyed_macs(
    purpose: bytes, app_id: str, keys: Sequence[str | bytes]
) -> "tuple[hashlib.blake2b, ...]":
    """Derive the MACs of one purpose and one app from its keys; no other purpose's verify.

    Args:
        purpose: up to 16 bytes.
        app_id: the app.
        keys: texts or bytes of at least 16 bytes each, oldest to newest.

    Returns:
        A MAC of each key, newest first: nearly everything was signed with that. See `digest`.

    Raises:
        ConfigurationError: for keys that are too few or too short.
    """
    return tuple(
        hashlib.blake2b(key=key, digest_size=MAC) for key in derived_keys(purpose, app_id, keys)
    )


def digest(mac: "hashlib.blake2b", signed: bytes) -> bytes:
    """The 16 bytes that sign this under one of the `keyed_macs`."""
    mac = mac.copy()
    mac.update(signed)
    return mac.digest()


def derived_keys(purpose: bytes, app_id: str, keys: Sequence[str | bytes]) -> tuple[bytes, ...]:
    """As `keyed_macs`, for another use than signing: a key of 64 bytes from each, newest first."""
    if isinstance(keys, (str, bytes)) or not keys:
        raise ConfigurationError("signing_keys must be a list of one key or more.")
    if any(key is None or key in ("", b"") for key in keys):
        raise ConfigurationError("One of the signing_keys is empty or None.")
    return tuple(_derived_key(purpose, app_id, key) for key in reversed(keys))


def _derived_key(purpose: bytes, app_id: str, key: str | bytes) -> bytes:
    # Any text may be a key: os.environ gives lone surrogates for what is not UTF-8.
    secret = key.encode(errors="surrogatepass") if isinstance(key, str) else key
    if not isinstance(secret, bytes) or len(secret) < _MIN_KEY:
        raise ConfigurationError(
            f"A signing key must have at least {_MIN_KEY} bytes; app_secret is one unless "
            "signing_keys are given."
        )
    secret = hashlib.blake2b(secret).digest()
    return hashlib.blake2b(app_id.encode(), key=secret, person=purpose).digest()
