"""Looks past the store into its Redis: what stands there of sessions."""

from typing import Any
from zlib import crc32

from redis.asyncio import Redis

from mpauthx_async import SessionRef, Subject

__all__ = ["bucket_key", "dump", "is_kept", "lines", "session_key"]


def bucket_key(kind: str, subject: Subject) -> str:
    """A key of the bucket of a user: `u` with the sessions, `o`, `l` and `e` with who is online."""
    return f"mpauthx:{kind}:{{{subject.sku}:{crc32(subject.user_id.encode()) & 255}}}"


def session_key(ref: SessionRef) -> str:
    return f"{bucket_key('t', ref.subject)}:{ref.nonce}"


async def lines(redis: Redis, subject: Subject) -> list[list[str]]:
    """The words of each line in a user's text."""
    text = _text(await redis.hget(bucket_key("u", subject), subject.user_id) or "")
    return [line.split("\t") for line in text.splitlines()]


async def is_kept(redis: Redis, ref: SessionRef) -> bool:
    """Whether Redis holds a session that lives; all that tells of it has to agree."""
    async with redis.pipeline(transaction=True) as snapshot:
        snapshot.get(session_key(ref))
        snapshot.hget(bucket_key("u", ref.subject), ref.user_id)
        snapshot.zscore(bucket_key("o", ref.subject), ref.user_id)
        snapshot.zscore(bucket_key("e", ref.subject), ref.user_id)
        value, text, online, longer = await snapshot.execute()
    is_alive = value is not None and not _text(value).startswith("-")
    assert is_alive == (f"{ref.nonce}\t" in _text(text or ""))
    assert not is_alive or max(online or 0, longer or 0) >= int(_text(value).split()[0])
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
