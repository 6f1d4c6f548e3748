"""RedisTokenStore: sessions in Redis, at a cost that does not depend on how many there are.

Keys, where the bucket is one of 256 chosen by the user id, so that everything of a user lies in
one slot of a Redis Cluster:

    mpauthx:t:{sku:bucket}:<nonce>    when the session ends, with the TTL that deletes it
    mpauthx:u:{sku:bucket}:<user id>  hash, nonce to "issued_at expires_at", and a third word where
                                      WeChat's session key is kept, encrypted; lives as long as
                                      its longest session

Times are the application's Unix milliseconds; lives run by Redis's own clock. Every write is one
script. Neither KEYS nor SCAN is ever sent.
"""

from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar
from zlib import crc32

from ..models import NewSession, Session, SessionRef, Subject
from .redis_database import AnyRedis, RedisDatabase

__all__ = ["RedisTokenStore"]

Item = TypeVar("Item")

# KEYS: for each session its subject's index and its own key.
# ARGV: for each session: nonce, issued_at, ttl, sole, and its sealed key or nothing.
# A session that is there already is being repeated: others may have begun since, so it is left.
# A subject's dead fields are looked for among a few random ones at each login: all of them in a
# hash of the usual size, and in a large one enough that the dead stay few, at constant cost. What
# is dead Redis says, not the clock of whoever logs in: no living session drops out of the index.
_ISSUE = """
for i = 1, #KEYS, 2 do
  local index, key, arg = KEYS[i], KEYS[i + 1], (i - 1) / 2 * 5 + 1
  local nonce, issued_at, ttl = ARGV[arg], ARGV[arg + 1], tonumber(ARGV[arg + 2])
  local prefix = string.sub(key, 1, #key - #nonce)
  local expires_at = string.format('%d', issued_at + ttl)
  if redis.call('SET', key, expires_at, 'NX', 'PX', ttl) then
    if ARGV[arg + 3] == '1' then
      for _, old in ipairs(redis.call('HKEYS', index)) do
        if old ~= nonce then redis.call('DEL', prefix .. old) end
      end
      redis.call('DEL', index)
    end
    for _, old in ipairs(redis.call('HRANDFIELD', index, 8)) do
      if redis.call('EXISTS', prefix .. old) == 0 then redis.call('HDEL', index, old) end
    end
    local details, sealed_key = issued_at .. ' ' .. expires_at, ARGV[arg + 4]
    if sealed_key ~= '' then details = details .. ' ' .. sealed_key end
    redis.call('HSET', index, nonce, details)
    if redis.call('PTTL', index) < ttl then redis.call('PEXPIRE', index, ttl) end
  end
end
"""

# KEYS: for each session its subject's index and its own key. ARGV: their nonces.
_REVOKE = """
local ended = {}
for i = 1, #ARGV do
  redis.call('HDEL', KEYS[2 * i - 1], ARGV[i])
  ended[i] = redis.call('DEL', KEYS[2 * i])
end
return ended
"""

# KEYS: the subject's index. ARGV: the prefix of its sessions' keys.
_REVOKE_SUBJECT = """
local ended = 0
for _, nonce in ipairs(redis.call('HKEYS', KEYS[1])) do
  ended = ended + redis.call('DEL', ARGV[1] .. nonce)
end
redis.call('DEL', KEYS[1])
return ended
"""

# KEYS: the subject's index. ARGV: the prefix of its sessions' keys.
_SESSIONS = """
local alive = {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  if redis.call('EXISTS', ARGV[1] .. all[i]) == 1 then
    alive[#alive + 1] = all[i]
    alive[#alive + 1] = all[i + 1]
  end
end
return alive
"""

# KEYS: for each session its subject's index and its own key. ARGV: their nonces.
_SEALED_KEYS = """
local found = {}
for i = 1, #ARGV do
  local details = redis.call('EXISTS', KEYS[2 * i]) == 1
    and redis.call('HGET', KEYS[2 * i - 1], ARGV[i])
  found[i] = details and string.match(details, '^%S+ %S+ (%S+)$') or ''
end
return found
"""

# KEYS: the subject's index and the session's own key. ARGV: its nonce, its new sealed key.
_REPLACE_SEALED_KEY = """
local details = redis.call('EXISTS', KEYS[2]) == 1 and redis.call('HGET', KEYS[1], ARGV[1])
if not details then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], string.match(details, '^%S+ %S+') .. ' ' .. ARGV[2])
return 1
"""


class RedisTokenStore:
    """Keeps sessions in a Redis of version 6.2 or later, or in a Redis Cluster.

    Args:
        redis: Connections or a redis-py asyncio client, which stay open, or a URL for a pool of
            its own.
    """

    def __init__(self, redis: AnyRedis) -> None:
        self._database = RedisDatabase(redis)
        client = self._database.client
        self._issue_script = client.register_script(_ISSUE)
        self._revoke_script = client.register_script(_REVOKE)
        self._revoke_subject_script = client.register_script(_REVOKE_SUBJECT)
        self._sessions_script = client.register_script(_SESSIONS)
        self._sealed_keys_script = client.register_script(_SEALED_KEYS)
        self._replace_sealed_key_script = client.register_script(_REPLACE_SEALED_KEY)

    async def issue(self, sessions: Sequence[NewSession]) -> Sequence[Session]:
        """Begin sessions: key, expiry and index of each in one atomic step."""
        for part in self._parts(sessions, lambda session: session.ref):
            keys: list[str] = []
            args: list[str | int] = []
            for session in part:
                ref = session.ref
                keys += _keys(ref)
                args += (ref.nonce, session.issued_at, session.ttl, int(session.sole))
                args.append(session.sealed_key or "")
            await self._call(self._issue_script, keys, args)
        return [session.begun() for session in sessions]

    async def lookup(self, refs: Sequence[SessionRef]) -> Sequence[int | None]:
        """Tell when sessions end, with one MGET."""
        if not refs:
            return []
        # The hot path: _keys, written out.
        keys = [
            f"mpauthx:t:{{{sku}:{crc32(user_id.encode()) & 255}}}:{nonce}"
            for sku, user_id, nonce in refs
        ]
        with self._database.trip() as redis:
            mget = redis.mget_nonatomic if self._database.is_cluster else redis.mget
            values = await mget(keys)
            return [None if value is None else int(value) for value in values]

    async def revoke(self, refs: Sequence[SessionRef]) -> Sequence[bool]:
        """End sessions: key and index entry of each in one atomic step."""
        ended: dict[SessionRef, bool] = {}
        for part in self._parts(dict.fromkeys(refs), lambda ref: ref):
            keys = [key for ref in part for key in _keys(ref)]
            answers = await self._call(self._revoke_script, keys, [ref.nonce for ref in part])
            ended.update((ref, bool(answer)) for ref, answer in zip(part, answers, strict=True))
        # A session that was named twice ended once.
        return [ended.pop(ref, False) for ref in refs]

    async def sessions(self, subject: Subject) -> Sequence[Session]:
        """List the sessions of a subject that are alive, newest first."""
        args = [_session_prefix(subject)]
        flat = await self._call(self._sessions_script, [_index_key(subject)], args)
        texts = [_text(value) for value in flat]
        listed = []
        for nonce, details in zip(texts[::2], texts[1::2], strict=True):
            issued_at, expires_at = details.split(" ")[:2]
            ref = SessionRef(*subject, nonce)
            listed.append(Session(ref, int(issued_at), int(expires_at)))
        return sorted(listed, key=lambda session: session.issued_at, reverse=True)

    async def revoke_subject(self, subject: Subject) -> int:
        """End all sessions of a subject in one atomic step; returns how many were alive."""
        args = [_session_prefix(subject)]
        return int(await self._call(self._revoke_subject_script, [_index_key(subject)], args))

    async def sealed_keys(self, refs: Sequence[SessionRef]) -> Sequence[str | None]:
        """Read the sealed session keys of sessions that are alive."""
        found: dict[SessionRef, str | None] = {}
        for part in self._parts(dict.fromkeys(refs), lambda ref: ref):
            keys = [key for ref in part for key in _keys(ref)]
            answers = await self._call(self._sealed_keys_script, keys, [ref.nonce for ref in part])
            found.update((ref, _text(key) or None) for ref, key in zip(part, answers, strict=True))
        return [found[ref] for ref in refs]

    async def replace_sealed_key(self, ref: SessionRef, sealed_key: str) -> bool:
        """Keep another sealed session key; False when the session is no longer alive."""
        keys = _keys(ref)
        return bool(
            await self._call(self._replace_sealed_key_script, keys, [ref.nonce, sealed_key])
        )

    async def close(self) -> None:
        """Close the pool if it was opened here, after what is in progress; may be called again."""
        await self._database.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _parts(
        self, items: Sequence[Item] | dict[Item, None], ref_of: Callable[[Item], SessionRef]
    ) -> list[list[Item]]:
        """Split a batch into what one script may touch: all of it, or a slot of a cluster."""
        if not self._database.is_cluster:
            return [list(items)] if items else []
        slots: dict[str, list[Item]] = {}
        for item in items:
            slots.setdefault(_tag(ref_of(item).subject), []).append(item)
        return list(slots.values())

    async def _call(self, script: Any, keys: Sequence[str], args: Sequence[str | int]) -> Any:
        with self._database.trip() as redis:
            return await script(keys, args, client=redis)


def _tag(subject: tuple[str, str]) -> str:
    return f"{subject[0]}:{crc32(subject[1].encode()) & 255}"


def _session_prefix(subject: Subject) -> str:
    return f"mpauthx:t:{{{_tag(subject)}}}:"


def _index_key(subject: Subject) -> str:
    return f"mpauthx:u:{{{_tag(subject)}}}:{subject[1]}"


def _keys(ref: SessionRef) -> tuple[str, str]:
    """A session's keys: its subject's index, and its own."""
    sku, user_id, nonce = ref
    tag = _tag((sku, user_id))
    return f"mpauthx:u:{{{tag}}}:{user_id}", f"mpauthx:t:{{{tag}}}:{nonce}"


def _text(value: bytes | str) -> str:
    # Bytes that are no UTF-8 are damaged; as U+FFFD they spoil no other answer of the batch.
    return value if isinstance(value, str) else value.decode(errors="replace")
