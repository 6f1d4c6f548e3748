"""RedisTokenStore: sessions in Redis, at a cost that does not depend on how many there are.

Everything of a user lies in one of 256 buckets by the user id, and each bucket in one slot of a
Redis Cluster. `scripts/prelude.lua` tells what stands in the keys; a login also removes the
remains of the user's own sessions and of a few others of its bucket. Every write is one script, all
times are those of Redis's own clock, and neither KEYS nor SCAN is ever sent. A Redis that evicts
keys (maxmemory-policy) forgets sessions, and the lists of users: give it `noeviction`.
"""

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from functools import cache
from importlib.resources import files
from operator import itemgetter
from typing import Any, Self, TypeVar

from ...concurrency.frames import methods_clear_frames
from ...constants import TokenStatus
from ...errors import ConfigurationError, PartialStoreError, StoreError
from ...models import Ban, NewSession, OnlinePage, Session, SessionRef, Subject
from ...store_boundary import raises_store_errors
from ..near_cache import ChangeListener, NearCache
from ..online_cursor import OnlineCursor
from .answers import (
    order_of,
    parse_issued,
    parse_read,
    parse_read_ban,
    parse_read_key,
    parse_rotated,
)
from .cluster import Command
from .database import LONGEST_WAIT, AnyRedis, RedisDatabase, is_replica, store_error
from .keys import (
    SESSION_PREFIX,
    SessionTerms,
    absent_keys,
    bucket_keys,
    bucket_of,
    parse_end,
    parse_session,
    parse_users,
    session_head,
    session_keys,
    text_of,
    user_keys,
)
from .tracking import RedisTracking

__all__ = ["SCRIPTS", "RedisTokenStore", "load_script"]

Answer = TypeVar("Answer")

SCRIPTS = (
    "issue",
    "read",
    "revoke",
    "sessions",
    "revoke_subject",
    "rotate",
    "end_reused",
    "renew",
    "ban",
    "online",
    "online_count",
    "replace_sealed_key",
)

_GENERATION = itemgetter(3)  # of a SessionRef


@methods_clear_frames()
@raises_store_errors
class RedisTokenStore:
    """Keeps sessions in a Redis of version 6.2 or later, or in a Redis Cluster.

    `read`, `rotate`, `renew`, `end_reused`, `sealed_keys` and `replace_sealed_key` cost the same
    however many sessions a user has; when they end or shorten the user's longest session, they read
    the user's other sessions once. `issue`, `revoke`, `revoke_subject`, `sessions` and `ban` read
    them at most once for each user of a batch.

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
            if self._database.nodes is not None:
                raise ConfigurationError(
                    "A near cache needs a single Redis: with a Redis Cluster set near_cache to 0."
                )
            self._tracking = RedisTracking(self._database.connections, SESSION_PREFIX)
        register = self._database.client.register_script
        self._scripts = {name: register(load_script(name)) for name in SCRIPTS}

    async def issue(self, sessions: Sequence[NewSession]) -> Sequence[Session | Ban]:
        """Begin sessions, each in one atomic step."""
        refs, terms = [session.ref for session in sessions], SessionTerms()
        answers = await self._each("issue", refs, [terms.of(session) for session in sessions])
        issued = _parsed(parse_issued, zip(sessions, answers, strict=True))
        for begun in issued:
            if isinstance(begun, Session) and begun.replaced:
                self._forget(begun.replaced)
        return _all_or_partial(issued)

    async def lookup(self, refs: Sequence[SessionRef]) -> Sequence[int | None]:
        """Tell when sessions end, with one MGET."""
        if not refs:
            return []
        if self._tracking is not None:
            self._database.check_here()
            self._tracking.start()
        keys = [session_head(sku, user_id) + nonce for sku, user_id, nonce, _ in refs]
        values = await self._mget(keys)
        if not any(map(_GENERATION, refs)):
            try:
                return list(map(int, values))
            except (TypeError, ValueError):  # some are gone, or were renewed or rotated
                pass
        return _all_or_partial(_parsed(parse_end, zip(refs, values, strict=True)))

    async def read(self, refs: Sequence[SessionRef]) -> Sequence[Session | None]:
        """Read sessions in full, with one script."""
        answers = await self._each("read", refs, map(_GENERATION, refs))
        return _all_or_partial(_parsed(parse_read, zip(refs, answers, strict=True)))

    async def revoke(self, refs: Sequence[SessionRef]) -> Sequence[bool]:
        """End sessions, each in one atomic step."""
        answers = await self._each("revoke", refs, map(_GENERATION, refs))
        self._forget(refs)
        return _all_or_partial(_parsed(bool, zip(answers)))

    async def sessions(self, subject: Subject) -> Sequence[Session]:
        """List the sessions of a subject that are alive, newest first."""
        answers = await self._for_user("sessions", subject)
        try:
            sessions = [parse_session(subject, text_of(nonce), *rest) for nonce, *rest in answers]
        except ValueError as error:
            raise _damaged() from error
        return sorted(sessions, key=lambda session: session.issued_at, reverse=True)

    async def revoke_subject(self, subject: Subject, *, spared: str | None = None) -> int:
        """End all sessions of a subject but one, in one atomic step."""
        return await self._end_all("revoke_subject", subject, spared or "")

    async def forget_subject(self, subject: Subject) -> int:
        """End and erase all sessions of a subject, in one atomic step; a ban stays.

        Each session's status stays under its nonce until the session would have ended.

        Returns:
            How many were alive.
        """
        return await self.revoke_subject(subject)

    async def rotate(
        self, refs: Sequence[SessionRef], *, ttl: int, grace: int, absolute_ttl: int | None = None
    ) -> Sequence[Session | TokenStatus]:
        """Put the next generation in the place of each, each in one atomic step."""
        once = list(dict.fromkeys(refs))  # without a grace a repetition would be refused
        asked = map(_GENERATION, once)
        answers = await self._each("rotate", once, asked, ttl, grace, _or_empty(absolute_ttl))
        self._forget(once)
        rotated = dict(
            zip(once, _parsed(parse_rotated, zip(once, answers, strict=True)), strict=True)
        )
        return _all_or_partial([rotated[ref] for ref in refs])

    async def end_reused(self, refs: Sequence[SessionRef]) -> Sequence[bool]:
        """End the sessions whose tokens of an earlier generation were used."""
        answers = await self._each("end_reused", refs, map(_GENERATION, refs))
        self._forget(refs)
        return _all_or_partial(_parsed(bool, zip(answers)))

    async def renew(
        self, refs: Sequence[SessionRef], *, ttl: int, absolute_ttl: int | None = None
    ) -> Sequence[int | None]:
        """Let the lives of sessions count from now."""
        generations = map(_GENERATION, refs)
        answers = await self._each("renew", refs, generations, ttl, _or_empty(absolute_ttl))
        return _all_or_partial(_parsed(lambda end: end or None, zip(answers)))

    async def ban(self, subject: Subject, *, reason: str, ttl: int | None) -> int:
        """Refuse the logins of a subject and end all its sessions, in one atomic step."""
        return await self._end_all("ban", subject, reason, "" if ttl is None else ttl)

    async def unban(self, subject: Subject) -> bool:
        """Let a subject log in again; False when it was not banned."""
        key = user_keys(*subject)[-1]
        return bool(await self._database.command(key, "DEL", key))

    async def bans(self, subjects: Sequence[Subject]) -> Sequence[Ban | None]:
        """Read the bans of subjects, with one MGET."""
        if not subjects:
            return []
        texts = await self._mget([user_keys(*subject)[-1] for subject in subjects])
        return _all_or_partial(_parsed(parse_read_ban, zip(subjects, texts, strict=True)))

    async def online(self, sku: str, *, cursor: str | None, limit: int) -> OnlinePage:
        """Page through the users with a living session, those who came online last first."""
        after = None if cursor is None else OnlineCursor.parse(cursor)
        highest = "+inf" if after is None else after.position
        # Of a page a bucket has a few users only. If one has more, the page is a shorter one. One
        # more is asked for, because the last of the page before is among them.
        count = min(limit, limit // 64 + 8) + 1
        keys = list(bucket_keys(sku))
        found: list[OnlineCursor] = []
        complete_down_to: OnlineCursor | None = None
        for flat in await self._all_buckets("online", keys, highest, count):
            users = parse_users(flat)
            found += [user for user in users if user.user_id]
            if len(users) == count:
                complete_down_to = max(complete_down_to or users[-1], users[-1], key=order_of)
        found.sort(key=order_of, reverse=True)
        if after is not None:
            found = [user for user in found if order_of(user) < order_of(after)]
        if complete_down_to is not None:
            lowest = order_of(complete_down_to)
            found = [user for user in found if order_of(user) >= lowest]
        page = found[:limit]
        end = page[-1] if len(page) < len(found) else complete_down_to
        return OnlinePage([user.user_id for user in page], None if end is None else end.text())

    async def online_count(self, sku: str) -> int:
        """Count the users with a living session."""
        keys = [(ends,) for _, ends in bucket_keys(sku)]
        return sum(await self._all_buckets("online_count", keys))

    async def sealed_keys(self, refs: Sequence[SessionRef]) -> Sequence[str | None]:
        """Read the sealed session keys of sessions that are alive."""
        answers = await self._each("read", refs, map(_GENERATION, refs))
        return _all_or_partial(_parsed(parse_read_key, zip(answers)))

    async def replace_sealed_key(self, ref: SessionRef, sealed_key: str) -> bool:
        """Keep another sealed session key; False when the session is no longer alive."""
        answers = await self._each("replace_sealed_key", [ref], [sealed_key])
        (replaced,) = _all_or_partial(_parsed(bool, zip(answers)))
        return replaced

    async def check(self) -> None:
        """Check that Redis answers, is a primary, and is of a version that serves.

        Raises:
            StoreError, ConfigurationError: if it does not.
        """
        await self._database.check()

    def open_near_cache(self) -> NearCache | None:
        """A near cache for one service, kept current; None when this store is to have none."""
        if self._tracking is None:
            return None
        cache = NearCache(self._near_cache)
        self._tracking.subscribe(cache)
        return cache

    def push_changes_to(self, listener: ChangeListener) -> bool:
        """Tell a listener of each change from now on; False on a Redis Cluster, which pushes none.

        It takes the push connection that near caches take.
        """
        if self._database.nodes is not None:
            return False
        if self._tracking is None:
            self._tracking = RedisTracking(self._database.connections, SESSION_PREFIX)
        self._tracking.subscribe(listener)
        self._tracking.start()
        return True

    def sharding(self) -> Callable[[Iterable[Subject]], Hashable] | None:
        """What tells the nodes of a Redis Cluster that subjects are kept on; None for one Redis."""
        nodes = self._database.nodes
        if nodes is None:
            return None
        return lambda subjects: frozenset(
            nodes.name_of(bucket_of(*subject)) for subject in subjects
        )

    system = "Redis"

    @property
    def longest_wait(self) -> float:
        """How long a call waits for it at most, in seconds."""
        return LONGEST_WAIT

    async def close(self) -> None:
        """Close the pool if it was opened here, after what is in progress; may be called again."""
        self._database.refuse_more()
        if self._tracking is not None:
            await self._tracking.close()
        await self._database.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _end_all(self, name: str, subject: Subject, *args: str | int) -> int:
        """Run a script that ends sessions of a user; returns how many."""
        nonces = await self._for_user(name, subject, *args)
        if self._tracking is not None:
            self._tracking.forget(map(text_of, nonces))
        return len(nonces)

    def _forget(self, refs: Iterable[SessionRef]) -> None:
        """What was changed here is not answered from memory here, not even until Redis pushes."""
        if self._tracking is not None:
            self._tracking.forget(ref.nonce for ref in refs)

    async def _each(
        self, name: str, refs: Sequence[SessionRef], asked: Iterable[str | int], *common: int | str
    ) -> list[Any]:
        """Run a script for sessions; returns its answer or a StoreError for each, in their order.

        Args:
            name: of the script.
            refs: of the sessions.
            asked: what the script is given for each session beside its user id and nonce.
            common: what it is given for all of them.
        """
        asked, slots = list(asked), self._slots(refs)
        calls = [
            (
                self._declared([key for i in slot for key in session_keys(refs[i])]),
                [*common, *(a for i in slot for a in (refs[i].user_id, refs[i].nonce, asked[i]))],
            )
            for slot in slots
        ]
        answers: list[Any] = [None] * len(refs)
        for slot, answered in zip(slots, await self._call_each(name, calls), strict=True):
            each = [answered] * len(slot) if isinstance(answered, Exception) else answered
            for i, answer in zip(slot, each, strict=True):
                answers[i] = _failure(answer) if isinstance(answer, Exception) else answer
        return answers

    def _slots(self, refs: Sequence[SessionRef]) -> Collection[Sequence[int]]:
        """What one script may touch, by its place: all of a batch, or what a cluster's slot has."""
        if self._database.nodes is None:
            return [range(len(refs))] if refs else []
        slots: dict[str, list[int]] = {}
        for i, ref in enumerate(refs):
            slots.setdefault(bucket_of(ref.sku, ref.user_id), []).append(i)
        return slots.values()

    async def _for_user(self, name: str, subject: Subject, *args: str | int) -> Any:
        head = session_head(*subject)
        keys = self._declared(user_keys(*subject))
        return await self._call(name, keys, [subject.user_id, head, *args])

    def _declared(self, keys: list[str]) -> list[str]:
        """The KEYS of a script that also uses keys which it cannot declare."""
        return keys if self._database.nodes is None else keys + absent_keys(keys[0])

    async def _all_buckets(
        self, name: str, buckets: Sequence[Sequence[str]], *args: str | int
    ) -> list[Any]:
        """Run a script for the keys of all buckets; returns its answers, one after another."""
        if self._database.nodes is None:
            return list(await self._call(name, [key for keys in buckets for key in keys], args))
        answers = await self._call_each(name, [(keys, args) for keys in buckets])
        return [answer for part in answers for answer in _answered(part)]

    async def _mget(self, keys: Sequence[str]) -> list[Any]:
        """Read keys; on a cluster there may be a StoreError in place of a value."""
        nodes = self._database.nodes
        if nodes is None:
            return _values(keys, await self._database.run(lambda redis: redis.mget(keys)))
        tags: dict[str, list[str]] = {}
        for key in keys:
            tags.setdefault(key.partition("}")[0], []).append(key)
        commands = [Command(same[0], ("MGET", *same)) for same in tags.values()]
        found: dict[str, Any] = {}
        for same, values in zip(
            tags.values(), await self._database.ask(nodes, commands), strict=True
        ):
            each = map(_failure, [values] * len(same)) if isinstance(values, Exception) else values
            found.update(zip(same, each, strict=True))
        return [found[key] for key in keys]

    async def _call(self, name: str, keys: Sequence[str], args: Sequence[str | int]) -> Any:
        (answer,) = await self._call_each(name, [(keys, args)])
        return _answered(answer)

    async def _call_each(
        self, name: str, calls: Sequence[tuple[Sequence[str], Sequence[str | int]]]
    ) -> list[Any]:
        """Run a script with each of these KEYS and ARGV, on a cluster with those of a slot each.

        Returns:
            What each run answered; on a cluster it may be an exception that stands for that.
        """
        script, nodes = self._scripts[name], self._database.nodes
        if nodes is not None:
            commands = [
                Command(
                    keys[0], ("EVALSHA", script.sha, len(keys), *keys, *args), load_script(name)
                )
                for keys, args in calls
            ]
            return await self._database.ask(nodes, commands)

        async def call(redis: Any) -> list[Any]:
            answers = [await script(keys, args, client=redis) for keys, args in calls]
            for items in answers:
                for item in filter(is_replica, items if isinstance(items, list) else ()):
                    raise item  # it refused all items, and another server may take them
            return answers

        return await self._database.run(call)


@cache
def load_script(name: str) -> str:
    """The text of a Lua script, behind what all of them share."""
    folder = files(__package__) / "scripts"
    return "\n".join((folder / f"{part}.lua").read_text("utf-8") for part in ("prelude", name))


def _parsed(
    parse: Callable[..., Answer], items: Iterable[tuple[Any, ...]]
) -> list[Answer | StoreError]:
    """Parse what Redis answered to each item: the last of the arguments for `parse`."""
    answers: list[Answer | StoreError] = []
    for item in items:
        try:
            answers.append(item[-1] if isinstance(item[-1], StoreError) else parse(*item))
        except ValueError:
            answers.append(_damaged())
    return answers


def _all_or_partial(answers: Sequence[Answer | StoreError]) -> list[Answer]:
    """The answers of a batch.

    Raises:
        PartialStoreError: some items failed, and others did not.
        StoreError: all items failed.
    """
    answered = [answer for answer in answers if not isinstance(answer, StoreError)]
    if len(answered) == len(answers):
        return answered
    if answered:
        raise PartialStoreError(answers)
    raise next(answer for answer in answers if isinstance(answer, StoreError))


def _or_empty(absolute_ttl: int | None) -> int | str:
    return "" if absolute_ttl is None else absolute_ttl


def _answered(answer: Any) -> Any:
    """What was answered, unless an exception stands for it: that is raised as a StoreError."""
    if isinstance(answer, Exception):
        raise _failure(answer)
    return answer


def _values(keys: Sequence[str], values: Any) -> list[Any]:
    if not isinstance(values, list) or len(values) != len(keys):
        raise StoreError("Redis did not answer with a value for each key. Check what it is.")
    return values


def _failure(error: Exception) -> StoreError:
    failure = _damaged() if str(error).startswith("DAMAGED") else store_error(error)
    failure.__cause__ = error
    return failure


def _damaged() -> StoreError:
    return StoreError(
        "What Redis holds of this session or ban was not written here. Delete its key; the user "
        "then logs in again."
    )
