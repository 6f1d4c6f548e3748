"""Keys derived from an app's signing keys: different keys for each purpose and app."""

from collections.abc import Sequence
from hashlib import blake2b

from ..errors import ConfigurationError

__all__ = ["MAC_BYTES", "derived_keys", "digest", "keyed_macs"]

MAC_BYTES = 16
_MIN_KEY_BYTES = 16


def keyed_macs(purpose: bytes, app_id: str, keys: Sequence[str | bytes]) -> tuple[blake2b, ...]:
    """The MACs of `derived_keys`, for `digest`."""
    return tuple(
        blake2b(key=key, digest_size=MAC_BYTES) for key in derived_keys(purpose, app_id, keys)
    )


def digest(mac: blake2b, signed: bytes) -> bytes:
    """Sign bytes under one of the `keyed_macs`; returns 16 bytes."""
    mac = mac.copy()
    mac.update(signed)
    return mac.digest()


def derived_keys(purpose: bytes, app_id: str, keys: Sequence[str | bytes]) -> tuple[bytes, ...]:
    """Derive a key of 64 bytes from each of an app's keys, for one purpose; the newest is first.

    Args:
        purpose: up to 16 bytes.
        keys: texts or bytes of at least 16 bytes each, oldest to newest.

    Raises:
        ConfigurationError: keys is empty, or a key is too short.
    """
    if not isinstance(keys, Sequence) or isinstance(keys, (str, bytes)) or not keys:
        raise ConfigurationError("signing_keys must be a list of at least one key.")
    return tuple(_derived_key(purpose, app_id, key) for key in reversed(keys))


def _derived_key(purpose: bytes, app_id: str, key: str | bytes) -> bytes:
    # os.environ returns lone surrogates for bytes that are not UTF-8.
    secret = key.encode(errors="surrogatepass") if isinstance(key, str) else key
    if not isinstance(secret, bytes) or len(secret) < _MIN_KEY_BYTES:
        raise ConfigurationError(
            f"Each signing key must be a text or bytes of at least {_MIN_KEY_BYTES} bytes. Without "
            "signing_keys, the app_secret is the key."
        )
    secret = blake2b(secret).digest()
    return blake2b(app_id.encode(), key=secret, person=purpose).digest()
