"""The names of all keys in Redis. `scripts/prelude.lua` describes what is stored under them."""

from collections.abc import Iterator
from functools import lru_cache
from hashlib import blake2b
from zlib import crc32

from ...models import SessionRef
from ...tokens.base64url import encode

__all__ = [
    "SESSION_PREFIX",
    "absent_keys",
    "ban_key",
    "bucket_keys",
    "bucket_of",
    "hash_tag",
    "lock_key",
    "record_key",
    "session_key_prefix",
    "session_keys",
    "user_keys",
]

SESSION_PREFIX = "mpauthx:t:"
_BUCKETS = 256
_BINDING_BYTES = 6  # 8 characters of base64url
_MAX_CACHED_USERS = 32_768  # about 400 bytes each


def bucket_of(sku: str, user_id: str) -> str:
    """The bucket of a user, as the hash tag of its keys: a Redis Cluster keeps it in one slot."""
    return f"{{{sku}:{crc32(user_id.encode()) & (_BUCKETS - 1)}}}"


@lru_cache(_MAX_CACHED_USERS)
def session_key_prefix(sku: str, user_id: str) -> str:
    """The prefix of a user's session keys; the nonce follows. The hot path.

    It ends in a keyed hash of the user_id, which binds each session to its user. Without it, an
    attacker with the signing key and a session of their own could mint `victim|sku|<own nonce>`,
    and the store would accept that session for every user of the bucket.
    """
    binding = blake2b(
        user_id.encode(), digest_size=_BINDING_BYTES, key=sku.encode(), person=b"mpauthx binding"
    )
    return f"{SESSION_PREFIX}{bucket_of(sku, user_id)}:{encode(binding.digest())}:"


def session_keys(ref: SessionRef) -> list[str]:
    """The KEYS of a session in a script: session, user, online, ends, ban."""
    sku, user_id, nonce, _ = ref
    return [session_key_prefix(sku, user_id) + nonce, *user_keys(sku, user_id)]


def user_keys(sku: str, user_id: str) -> list[str]:
    """The KEYS of a user in a script: user, online, ends, ban."""
    bucket = bucket_of(sku, user_id)
    return [f"mpauthx:u:{bucket}:{user_id}", *_bucket_keys(bucket), ban_key(sku, user_id)]


def ban_key(sku: str, user_id: str) -> str:
    """The key of a user's ban."""
    return f"mpauthx:b:{bucket_of(sku, user_id)}:{user_id}"


def bucket_keys(sku: str) -> Iterator[tuple[str, str]]:
    """The keys of each bucket of a sku: online, ends."""
    for bucket in range(_BUCKETS):
        yield _bucket_keys(f"{{{sku}:{bucket}}}")


def record_key(name: str) -> str:
    """The key of a key-value record: a string, the record's text."""
    return f"mpauthx:r:{{{name}}}"


def lock_key(name: str) -> str:
    """The key of a record's lock: a string, which identifies the holder."""
    return f"mpauthx:r:lock:{{{name}}}"


def absent_keys(key: str) -> list[str]:
    """Two KEYS that never exist, in the slot of a key.

    A script also uses keys that it cannot declare: those of a user's other sessions. While a Redis
    Cluster moves the slot, a node reads keys that it does not have as empty, or fails in the middle
    of the script. If some of several declared keys do not exist on the node, it refuses the script
    before it begins (ASK, TRYAGAIN). So no script with these keys runs until the slot has moved.
    """
    tag = hash_tag(key)
    return [f"mpauthx:n:{tag}:1", f"mpauthx:n:{tag}:2"]


def hash_tag(key: str) -> str:
    """The part of a key in braces: keys with the same one are in the same slot of a cluster."""
    return key[key.index("{") : key.index("}") + 1]


def _bucket_keys(bucket: str) -> tuple[str, str]:
    return f"mpauthx:o:{bucket}", f"mpauthx:e:{bucket}"
