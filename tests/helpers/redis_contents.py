"""Looks past the store into its Redis: what stands there of sessions."""

import base64
import hashlib
import json
from typing import Any
from zlib import crc32

from redis.asyncio import Redis

from mpauthx_async import SessionRef, Subject


def bucket_key(kind: str, subject: Subject) -> str:
    """A key of the bucket of a user: `o` with since when they are online, `e` with until when."""
    return f"mpauthx:{kind}:{{{subject.sku}:{crc32(subject.user_id.encode()) & 255}}}"


def user_key(kind: str, subject: Subject) -> str:
    """A key of a user: `u` with the details of their sessions, `b` with their ban."""
    return f"{bucket_key(kind, subject)}:{subject.user_id}"


def session_key(ref: SessionRef) -> str:
    hashed = hashlib.blake2b(
        ref.user_id.encode(), digest_size=6, key=ref.sku.encode(), person=b"mpauthx binding"
    )
    binding = base64.urlsafe_b64encode(hashed.digest()).decode()
    return f"{bucket_key('t', ref.subject)}:{binding}:{ref.nonce}"


async def details(redis: Redis, subject: Subject) -> dict[str, list[Any]]:
    """The details of a user's sessions, by nonce."""
    fields = await redis.hgetall(user_key("u", subject))
    return {_text(nonce): json.loads(_text(text)) for nonce, text in fields.items()}


async def is_kept(redis: Redis, ref: SessionRef) -> bool:
    """Whether Redis holds a session that lives; all that tells of it has to agree."""
    async with redis.pipeline(transaction=True) as snapshot:
        snapshot.get(session_key(ref))
        snapshot.hget(user_key("u", ref.subject), ref.nonce)
        snapshot.zscore(bucket_key("o", ref.subject), ref.user_id)
        snapshot.zscore(bucket_key("e", ref.subject), ref.user_id)
        value, text, since, until = await snapshot.execute()
    is_alive = value is not None and not _text(value).startswith("-")
    assert is_alive == (text is not None)
    if is_alive:
        assert since is not None
        assert until >= int(_text(value).split(":")[0])
    return is_alive


async def dump(redis: Redis) -> dict[str, Any]:
    """All that Redis holds, but for what ends meanwhile."""
    contents: dict[str, Any] = {}
    for key in sorted(map(_text, await redis.keys("*"))):
        kind = _text(await redis.type(key))
        if kind == "hash":
            fields = await redis.hgetall(key)
            contents[key] = {_text(name): _text(text) for name, text in fields.items()}
        elif kind == "zset":
            members = await redis.zrange(key, 0, -1, withscores=True)
            contents[key] = {_text(member): int(score) for member, score in members}
        elif kind == "string":
            value = await redis.get(key)
            if value is not None:
                contents[key] = _text(value)
    return contents


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode(errors="replace")
