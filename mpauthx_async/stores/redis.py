"""RedisTokenStore: sessions in Redis, at a cost that does not depend on how many there are.

Keys, where the bucket is one of 256 chosen by the user id, so that everything of a user lies in
one slot of a Redis Cluster:

    mpauthx:t:{sku:bucket}:<nonce>    when the session ends, as an integer, with the TTL that
                                      deletes it, or below zero why it died; behind it, once its
                                      token was rotated, how often
    mpauthx:g:{sku:bucket}:<nonce>    that a repeated rotation still gets its answer
    mpauthx:b:{sku:bucket}:<user id>  the user's ban
    mpauthx:u:{sku:bucket}            hash, user id to the user's sessions
    mpauthx:o:{sku:bucket}, :l:, :e:  sorted sets of who is online

What is one for a bucket costs less than a key for each user, and lives as long as the longest
session in it; each login clears the remains of a few others of its bucket away. What stands in the
keys is told in `redis_scripts`. Every write is one script, all times are those of Redis's own
clock, and neither KEYS nor SCAN is ever sent. A Redis that evicts keys (maxmemory-policy) forgets
sessions, and the lists of users: give it `noeviction`.
"""

import asyncio
from collections.abc import Iterable, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, Self
from zlib import crc32

from redis.asyncio import RedisCluster

from ..constants import TokenStatus
from ..errors import ConfigurationError, StoreError
from ..models import Ban, LoginPolicy, NewSession, OnlinePage, Session, SessionRef, Subject
from ..near_cache import NearCache
from . import redis_scripts as scripts
from .online_cursor import OnlineCursor
from .redis_database import AnyRedis, RedisDatabase
from .redis_tracking import RedisTracking

__all__ = ["RedisTokenStore"]

_BUCKETS = 256
_AT_ONCE = 16  # buckets of a cluster that are asked at the same time
_GENERATION = itemgetter(3)  # of a SessionRef


class RedisTokenStore:
    """Keeps sessions in a Redis of version 6.2 or later, or in a Redis Cluster.

    Args:
        redis: Connections or a redis-py asyncio client, which stay open, or a URL for a pool of
            its own.
        near_cache: how many good tokens each service on this store remembers, to answer for them
            without a trip; 0 for none. It takes one more connection, on which Redis pushes what
            changes, and a single Redis.

    Raises:
        ConfigurationError: for a near cache on a Redis Cluster, or of a size that is none.
    """

    def __init__(self, redis: AnyRedis, *, near_cache: int = 0) -> None:
        if type(near_cache) is not int or near_cache < 0:
            raise ConfigurationError("near_cache must be a whole number of tokens.")
        self._database = RedisDatabase(redis)
        self._near_cache = near_cache
        self._tracking: RedisTracking | None = None
        if near_cache:
            client = self._database.client
            if isinstance(client, RedisCluster):
                raise ConfigurationError(
                    "A near cache needs a single Redis: with a Redis Cluster set near_cache to 0."
                )
            self._tracking = RedisTracking(client, "mpauthx:t:")
        register = self._database.client.register_script
        self._issue = register(scripts.ISSUE)
        self._read = register(scripts.READ)
        self._revoke = register(scripts.REVOKE)
        self._sessions = register(scripts.SESSIONS)
        self._revoke_subject = register(scripts.REVOKE_SUBJECT)
        self._rotate = register(scripts.ROTATE)
        self._end_reused = register(scripts.END_REUSED)
        self._renew = register(scripts.RENEW)
        self._ban = register(scripts.BAN)
        self._online = register(scripts.ONLINE)
        self._count_online = register(scripts.COUNT_ONLINE)
        self._replace_sealed_key = register(scripts.REPLACE_SEALED_KEY)

    async def issue(self, sessions: Sequence[NewSession]) -> Sequence[Session | Ban]:
        """Begin sessions: token, list and expiry of each in one atomic step.

        In a cluster the ban of an `open_id` lies elsewhere, and is looked for in a step before.
        """
        if self._database.is_cluster:
            return await self._issue_in_cluster(sessions)
        return await self._begin(sessions, [_other_ban(session) for session in sessions])

    async def lookup(self, refs: Sequence[SessionRef]) -> Sequence[int | None]:
        """Tell when sessions end, with one MGET."""
        if not refs:
            return []
        if self._tracking is not None:
            self._tracking.start()
        # The hot path: _key, written out.
        keys = [
            _key_heads(sku)[crc32(user_id.encode()) & 255] + nonce
            for sku, user_id, nonce, _ in refs
        ]
        with self._database.trip() as redis:
            values = await self._mget(redis, keys)
            if not any(map(_GENERATION, refs)):
                try:
                    return list(map(int, values))
                except (TypeError, ValueError):  # some are gone, or their tokens were rotated
                    pass
            return [_end(value, ref) for value, ref in zip(values, refs, strict=True)]

    async def read(self, refs: Sequence[SessionRef]) -> Sequence[Session | None]:
        """Read sessions in full, with one script."""
        lines = zip(refs, await self._lines(refs), strict=True)
        return [answer and _session(ref.subject, *answer) for ref, answer in lines]

    async def revoke(self, refs: Sequence[SessionRef]) -> Sequence[bool]:
        """End sessions: token and list entry of each in one atomic step."""
        args = [(ref.user_id, ref.nonce) for ref in refs]
        answers = await self._each(self._revoke, refs, args)
        self._forget(refs)
        return [bool(ended) for ended in answers]

    async def sessions(self, subject: Subject) -> Sequence[Session]:
        """List the sessions of a subject that are alive, newest first."""
        answers = await self._for_user(self._sessions, subject)
        return [_session(subject, *answer) for answer in reversed(answers)]

    async def revoke_subject(self, subject: Subject, *, spared: str | None = None) -> int:
        """End all sessions of a subject but one, in one atomic step."""
        return await self._end_all(self._revoke_subject, subject, spared or "")

    async def rotate(
        self, refs: Sequence[SessionRef], *, ttl: int, grace: int, absolute_ttl: int | None = None
    ) -> Sequence[Session | TokenStatus]:
        """Put the next generation in the place of each, each in one atomic step."""
        # One that is named twice is rotated once, were there no grace.
        once = list(dict.fromkeys(refs))
        args = [(ref.user_id, ref.nonce, ref.generation) for ref in once]
        most = "" if absolute_ttl is None else absolute_ttl
        answers = await self._each(self._rotate, once, args, ttl, grace, most)
        self._forget(once)
        rotated = {
            ref: _session(ref.subject, *answer) if isinstance(answer, list) else TokenStatus(answer)
            for ref, answer in zip(once, answers, strict=True)
        }
        return [rotated[ref] for ref in refs]

    async def end_reused(self, refs: Sequence[SessionRef]) -> Sequence[bool]:
        """End the sessions whose tokens of an earlier generation were used."""
        args = [(ref.user_id, ref.nonce, ref.generation) for ref in refs]
        answers = await self._each(self._end_reused, refs, args)
        self._forget(refs)
        return [bool(ended) for ended in answers]

    async def renew(
        self, refs: Sequence[SessionRef], *, ttl: int, absolute_ttl: int | None = None
    ) -> Sequence[int | None]:
        """Let the lives of sessions count from now."""
        args = [(ref.user_id, ref.nonce, ref.generation) for ref in refs]
        most = "" if absolute_ttl is None else absolute_ttl
        return [answer or None for answer in await self._each(self._renew, refs, args, ttl, most)]

    async def ban(self, subject: Subject, *, reason: str, ttl: int | None) -> int:
        """Refuse the logins of a subject and end all its sessions, in one atomic step."""
        return await self._end_all(self._ban, subject, reason, "" if ttl is None else ttl)

    async def unban(self, subject: Subject) -> bool:
        """Let a subject log in again; False when it was not banned."""
        with self._database.trip() as redis:
            return bool(await redis.delete(_ban_key(subject)))

    async def bans(self, subjects: Sequence[Subject]) -> Sequence[Ban | None]:
        """Read the bans of subjects, with one MGET."""
        if not subjects:
            return []
        with self._database.trip() as redis:
            texts = await self._mget(redis, [_ban_key(subject) for subject in subjects])
            return [
                None if text is None else _parsed_ban(subject.user_id, text)
                for subject, text in zip(subjects, texts, strict=True)
            ]

    async def online(self, sku: str, *, cursor: str | None, limit: int) -> OnlinePage:
        """Page through the users with a living session, those who came online last first."""
        after = None if cursor is None else OnlineCursor.parse(cursor)
        # Of a page a bucket has a few users only. If one has more, the page is a shorter one.
        count = min(limit, limit // 64 + 8)
        above = ("+inf", "") if after is None else (after.position, after.user_id)
        found: list[OnlineCursor] = []
        complete_down_to: OnlineCursor | None = None
        for flat, *last in await self._all_buckets(self._online, sku, *above, count):
            found += _users(flat)
            for user in _users(last):
                complete_down_to = max(complete_down_to or user, user, key=_order)
        found.sort(key=_order, reverse=True)
        if complete_down_to is not None:
            lowest = _order(complete_down_to)
            found = [user for user in found if _order(user) >= lowest]
        page = found[:limit]
        end = page[-1] if len(page) < len(found) else complete_down_to
        return OnlinePage([user.user_id for user in page], None if end is None else end.text())

    async def online_count(self, sku: str) -> int:
        """Count the users with a living session."""
        return sum(await self._all_buckets(self._count_online, sku))

    async def sealed_keys(self, refs: Sequence[SessionRef]) -> Sequence[str | None]:
        """Read the sealed session keys of sessions that are alive."""
        return [
            _parts(answer[1])[2] or None if answer else None for answer in await self._lines(refs)
        ]

    async def replace_sealed_key(self, ref: SessionRef, sealed_key: str) -> bool:
        """Keep another sealed session key; False when the session is no longer alive."""
        args = [(ref.user_id, ref.nonce, sealed_key)]
        (replaced,) = await self._each(self._replace_sealed_key, [ref], args)
        return bool(replaced)

    def open_near_cache(self) -> NearCache | None:
        """A near cache for one service, kept current; None when this store is to have none."""
        if self._tracking is None:
            return None
        cache = NearCache(self._near_cache)
        self._tracking.subscribe(cache)
        return cache

    async def close(self) -> None:
        """Close the pool if it was opened here, after what is in progress; may be called again."""
        if self._tracking is not None:
            await self._tracking.close()
        await self._database.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _begin(
        self, sessions: Sequence[NewSession], other_bans: Sequence[str]
    ) -> list[Session | Ban]:
        """Begin sessions, unless one of the bans holds: the user's own, or that of another key."""
        args = []
        rules, terms = None, ""
        for session, other_ban in zip(sessions, other_bans, strict=True):
            its_rules = session.policy, session.ttl, session.absolute_ttl
            if its_rules != rules:  # most often all have the same
                rules, terms = its_rules, _terms(session)
            _, user_id, nonce, _ = session.ref
            args.append((user_id, nonce, terms, _words(session), other_ban))
        answers = await self._each(self._issue, [session.ref for session in sessions], args)
        issued = [_issued(new, answer) for new, answer in zip(sessions, answers, strict=True)]
        for begun in issued:
            if isinstance(begun, Session) and begun.replaced:
                self._forget(begun.replaced)
        return issued

    async def _issue_in_cluster(self, sessions: Sequence[NewSession]) -> list[Session | Ban]:
        found = await self.bans(
            [
                Subject(new.ref.sku, user_id)
                for new in sessions
                if new.open_id is not None
                for user_id in (new.ref.user_id, new.open_id)
            ]
        )
        of_two_ids = iter(zip(found[::2], found[1::2], strict=True))
        banned: list[Ban | None] = []
        for new in sessions:
            own, other = (None, None) if new.open_id is None else next(of_two_ids)
            banned.append(own or other)
        admitted = [new for new, ban in zip(sessions, banned, strict=True) if ban is None]
        begun = iter(await self._begin(admitted, [""] * len(admitted)))
        return [next(begun) if ban is None else ban for ban in banned]

    async def _end_all(self, script: Any, subject: Subject, *args: str | int) -> int:
        """Run a script that ends sessions of a user; returns how many."""
        nonces = await self._for_user(script, subject, *args)
        if self._tracking is not None:
            self._tracking.forget(map(_text, nonces))
        return len(nonces)

    def _forget(self, refs: Iterable[SessionRef]) -> None:
        """What was changed here is not answered from memory here, not even until Redis pushes."""
        if self._tracking is not None:
            self._tracking.forget(ref.nonce for ref in refs)

    async def _lines(self, refs: Sequence[SessionRef]) -> list[Any]:
        """Value and line of each that is alive and of the generation that is good now, or None."""
        args = [(ref.user_id, ref.nonce, ref.generation) for ref in refs]
        return [answer or None for answer in await self._each(self._read, refs, args)]

    async def _each(
        self,
        script: Any,
        refs: Sequence[SessionRef],
        args: Sequence[Iterable[str | int]],
        *common: int | str,
    ) -> list[Any]:
        """Run a script for sessions; returns its answer for each, in their order."""
        answers: list[Any] = [None] * len(refs)
        for part in self._slots(refs):
            keys = [_key(refs[i]) for i in part]
            argv = [*common, *(arg for i in part for arg in args[i])]
            for i, answer in zip(part, await self._call(script, keys, argv), strict=True):
                answers[i] = answer
        return answers

    def _slots(self, refs: Sequence[SessionRef]) -> Iterable[Sequence[int]]:
        """What one script may touch, by its place: all of a batch, or what a cluster's slot has."""
        if not self._database.is_cluster:
            return [range(len(refs))] if refs else []
        slots: dict[str, list[int]] = {}
        for i, ref in enumerate(refs):
            slots.setdefault(_tag(ref.sku, ref.user_id), []).append(i)
        return slots.values()

    async def _for_user(self, script: Any, subject: Subject, *args: str | int) -> Any:
        key = f"mpauthx:u:{{{_tag(*subject)}}}"
        return await self._call(script, [key], [subject.user_id, *args])

    async def _all_buckets(self, script: Any, sku: str, *args: str | int) -> list[Any]:
        """Run a script for all buckets of a sku; returns its answers, one after another."""
        keys = [f"mpauthx:u:{{{sku}:{bucket}}}" for bucket in range(_BUCKETS)]
        if not self._database.is_cluster:
            return list(await self._call(script, keys, args))
        places = asyncio.Semaphore(_AT_ONCE)

        async def one(key: str) -> list[Any]:
            async with places:
                return list(await self._call(script, [key], args))

        answers = await asyncio.gather(*map(one, keys))
        return [answer for part in answers for answer in part]

    async def _mget(self, redis: Any, keys: Sequence[str]) -> list[Any]:
        mget = redis.mget_nonatomic if self._database.is_cluster else redis.mget
        return list(await mget(keys))

    async def _call(self, script: Any, keys: Sequence[str], args: Sequence[str | int]) -> Any:
        with self._database.trip() as redis:
            return await script(keys, args, client=redis)


def _terms(session: NewSession) -> str:
    """How long a session lives and what it replaces, as the script takes it."""
    policy, longest = session.policy, session.absolute_ttl
    rule = ""  # by which all sessions stay
    if policy != LoginPolicy():
        rule = f"{policy.max_sessions or 0},{policy.one_per_kind:d},{policy.shared_token:d}"
    return f"{session.ttl},{'' if longest is None else longest},{rule}"


def _other_ban(session: NewSession) -> str:
    """The key of a ban of the openId, where that is not the user's id."""
    if session.open_id is None:
        return ""
    return _ban_key(Subject(session.ref.sku, session.open_id))


def _words(session: NewSession) -> str:
    """What a session's line says behind its times, as the script takes it."""
    sealed_key = session.sealed_key or ""
    if session.device is None and session.device_kind is None and session.absolute_ttl is None:
        return sealed_key
    return f"{sealed_key}\t{session.device_kind or ''}\t{session.device or ''}"


def _tag(sku: str, user_id: str) -> str:
    return f"{sku}:{crc32(user_id.encode()) & 255}"


@lru_cache
def _key_heads(sku: str) -> tuple[str, ...]:
    """What the keys of a sku's sessions begin with, by bucket."""
    return tuple(f"mpauthx:t:{{{sku}:{bucket}}}:" for bucket in range(_BUCKETS))


def _key(ref: SessionRef) -> str:
    sku, user_id, nonce, _ = ref
    return _key_heads(sku)[crc32(user_id.encode()) & 255] + nonce


def _ban_key(subject: Subject) -> str:
    return f"mpauthx:b:{{{_tag(*subject)}}}:{subject.user_id}"


def _end(value: bytes | str | None, ref: SessionRef) -> int | None:
    """What a session's value says of a ref; ValueError for what is no value."""
    if value is None:
        return None
    end, generation = _parsed_value(value)
    if ref.generation > generation:
        return None
    return end if end < 0 or ref.generation == generation else TokenStatus.rotated


def _parsed_value(value: bytes | str) -> tuple[int, int]:
    end, _, generation = _text(value).partition(" ")
    return int(end), int(generation or 0)


def _parts(line: bytes | str) -> list[str]:
    """Nonce, issued_at, sealed key, kind of device, device, absolute end and last seen."""
    parts = _text(line).split("\t")
    return parts + [""] * (7 - len(parts))


def _session(subject: Subject, value: bytes | str, line: bytes | str) -> Session:
    try:
        end, generation = _parsed_value(value)
        nonce, issued_at, _, device_kind, device, _, last_seen = _parts(line)
        return Session(
            SessionRef(*subject, nonce, generation),
            int(issued_at),
            end,
            device or None,
            device_kind or None,
            int(last_seen) if last_seen else None,
        )
    except ValueError as error:
        raise StoreError("What stands in Redis of a session was not written here.") from error


def _issued(new: NewSession, answer: Any) -> Session | Ban:
    """What the script made of a new session."""
    ref = new.ref
    replaced: tuple[SessionRef, ...] = ()
    if isinstance(answer, list):
        kind, *rest = answer
        if kind in (2, 3):
            user_id = ref.user_id if kind == 2 else new.open_id or ""
            return _parsed_ban(user_id, rest[0])
        if kind == 0:
            return _session(ref.subject, *rest)
        answer, flat = rest
        replaced = tuple(
            SessionRef(ref.sku, ref.user_id, _text(nonce), generation)
            for nonce, generation in zip(flat[::2], flat[1::2], strict=True)
        )
    life = new.ttl if new.absolute_ttl is None else min(new.ttl, new.absolute_ttl)
    return Session(ref, answer, answer + life, new.device, new.device_kind, None, replaced)


def _parsed_ban(user_id: str, text: bytes | str) -> Ban:
    banned_at, until, reason = _text(text).split("\t", 2)
    return Ban(user_id, reason, int(banned_at), int(until) if until else None)


def _users(flat: Sequence[bytes | str]) -> list[OnlineCursor]:
    """Users and their positions, in turn."""
    return [
        OnlineCursor(int(position), _text(user_id))
        for user_id, position in zip(flat[::2], flat[1::2], strict=True)
    ]


def _order(user: OnlineCursor) -> tuple[int, bytes]:
    return user.position, user.user_id.encode()


def _text(value: bytes | str) -> str:
    # Bytes that are no UTF-8 are damaged; as U+FFFD they spoil no other answer of the batch.
    return value if isinstance(value, str) else value.decode(errors="replace")
