"""RedisTokenStore: sessions in Redis, at a cost that does not depend on how many there are.

Everything about a user is in one of 256 buckets, chosen by the user_id; each bucket is in one slot
of a Redis Cluster. `scripts/prelude.lua` describes the keys. A login also removes the remains of
the user's ended sessions and of a few other users of its bucket. Every write is one script, every
time is Redis's own, and neither KEYS nor SCAN is ever sent. A Redis that evicts keys
(maxmemory-policy) loses sessions and the lists of users: set it to `noeviction`.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Self, TypeVar

from ...concurrency.traceback_frames import methods_clear_frames
from ...constants import TokenStatus
from ...errors import ConfigurationError, StoreError
from ...models import Ban, LoginPolicy, NewSession, OnlinePage, Session, SessionRef, Subject
from ...store_errors import all_or_partial, raises_store_errors
from ...tokens.format import new_nonce
from ..change_feed import ChangeFeed
from ..near_cache import ChangeListener, NearCache, SharedNearCache
from ..online_cursor import OnlineCursor
from .commands import Command, script_command
from .database import MAX_WAIT_SECONDS, AnyRedis, RedisDatabase
from .encoding import (
    decode_ban,
    decode_end,
    decode_issued,
    decode_online,
    decode_read,
    decode_rotated,
    decode_sealed_key,
    decode_session,
    decode_text,
    encode_new_session,
)
from .failures import damaged_error, store_error
from .key_value import RedisKeyValueStore
from .keys import (
    SESSION_PREFIX,
    absent_keys,
    ban_key,
    bucket_keys,
    bucket_of,
    session_key_prefix,
    session_keys,
    user_keys,
)
from .tracking import RedisTracking

__all__ = ["RedisTokenStore"]

Result = TypeVar("Result")


_PROBE = "mpauthx-check"  # a sku and user id that nobody else has
_PROBE_MS = 1_000


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
        near_cache: how many good tokens all services on this store remember, to validate them
            without a trip; 0 for no cache. It needs a single Redis, perhaps behind Sentinels, and
            one more connection, on which Redis pushes changes.

    Attributes:
        records: keeps other records in the same Redis; it is closed with this store.

    Raises:
        ConfigurationError: near_cache is malformed, or redis is a Redis Cluster with a near cache.
    """

    system = "Redis"

    def __init__(self, redis: AnyRedis, *, near_cache: int = 0) -> None:
        if type(near_cache) is not int or near_cache < 0:
            raise ConfigurationError("near_cache must be a whole number of tokens.")
        self._database = RedisDatabase(redis)
        self.records: RedisKeyValueStore = RedisKeyValueStore(self._database.connections)
        self._database.calls.on_close(self.records.close)
        self._near_cache: SharedNearCache | None = None
        self._tracking: RedisTracking | None = None
        if self._database.nodes is None:
            self._tracking = RedisTracking(self._database.connections, SESSION_PREFIX)
            self._database.calls.on_close(self._tracking.close)
        if near_cache:
            if self._tracking is None:
                raise ConfigurationError(
                    "A near cache needs a single Redis, perhaps behind Sentinels. A Redis Cluster "
                    "does not push the changes of all nodes: leave near_cache out."
                )
            self._near_cache = SharedNearCache(near_cache)
            self._tracking.feed.subscribe_to_all(self._near_cache)

    async def issue(self, sessions: Sequence[NewSession]) -> Sequence[Session | Ban]:
        """Begin sessions, each in one atomic step."""
        refs = [session.ref for session in sessions]
        answers = await self._run_each("issue", refs, own=map(encode_new_session, sessions))
        issued = _decoded(decode_issued, sessions, answers)
        for session in issued:
            if isinstance(session, Session) and session.replaced:
                self._forget(session.replaced)
        return all_or_partial(issued)

    async def lookup(self, refs: Sequence[SessionRef]) -> Sequence[int | None]:
        """Look up when sessions end, with one MGET."""
        if not refs:
            return []
        if self._near_cache is not None and self._tracking is not None:
            self._database.calls.check_here()
            self._tracking.start()
        values = await self._get([session_key_prefix(ref[0], ref[1]) + ref[2] for ref in refs])
        if not any(ref.generation for ref in refs):
            try:
                return list(map(int, values))
            except (TypeError, ValueError):  # some do not exist, or were renewed or rotated
                pass
        return all_or_partial(_decoded(decode_end, refs, values))

    async def read(self, refs: Sequence[SessionRef]) -> Sequence[Session | None]:
        """Read sessions in full, with one script."""
        answers = await self._run_each("read", refs)
        return all_or_partial(_decoded(decode_read, refs, answers))

    async def revoke(self, refs: Sequence[SessionRef]) -> Sequence[bool]:
        """End sessions, each in one atomic step."""
        answers = await self._run_each("revoke", refs)
        self._forget(refs)
        return all_or_partial(_decoded(bool, answers))

    async def sessions(self, subject: Subject) -> Sequence[Session]:
        """List the living sessions of a subject, newest first."""
        answers = await self._run_for_user("sessions", subject)
        try:
            sessions = [decode_session(subject, *answer) for answer in answers]
        except ValueError as error:
            raise damaged_error() from error
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
        """Begin the next generation of sessions, each in one atomic step."""
        once = list(dict.fromkeys(refs))  # without a grace a repetition would be refused
        answers = await self._run_each("rotate", once, ttl, grace, _or_empty(absolute_ttl))
        self._forget(once)
        answer_of = dict(zip(once, answers, strict=True))
        return all_or_partial(_decoded(decode_rotated, refs, [answer_of[ref] for ref in refs]))

    async def end_reused(self, refs: Sequence[SessionRef]) -> Sequence[bool]:
        """End the sessions of which a token of an earlier generation was used."""
        answers = await self._run_each("end_reused", refs)
        self._forget(refs)
        return all_or_partial(_decoded(bool, answers))

    async def renew(
        self, refs: Sequence[SessionRef], *, ttl: int, absolute_ttl: int | None = None
    ) -> Sequence[int | None]:
        """Restart the lifetimes of sessions."""
        answers = await self._run_each("renew", refs, ttl, _or_empty(absolute_ttl))
        return all_or_partial(_decoded(lambda end: end or None, answers))

    async def ban(self, subject: Subject, *, reason: str, ttl: int | None) -> int:
        """Refuse the logins of a subject and end all its sessions, in one atomic step."""
        return await self._end_all("ban", subject, reason, _or_empty(ttl))

    async def unban(self, subject: Subject) -> bool:
        """Let a subject log in again; False if it was not banned."""
        key = ban_key(*subject)
        return bool(await self._database.command(Command(key, ("DEL", key))))

    async def bans(self, subjects: Sequence[Subject]) -> Sequence[Ban | None]:
        """Read the bans of subjects, with one MGET."""
        values = await self._get([ban_key(*subject) for subject in subjects])
        return all_or_partial(_decoded(decode_ban, subjects, values))

    async def online(self, sku: str, *, cursor: str | None, limit: int) -> OnlinePage:
        """Page through the users with a living session, the last to come online first."""
        after = None if cursor is None else OnlineCursor.parse(cursor)
        highest = "+inf" if after is None else after.position
        # Most buckets have only a few users of a page. If one has more, the page is shorter. One
        # more is read because the last user of the previous page is among them.
        count = min(limit, limit // 64 + 8) + 1
        answers = await self._run_for_buckets("online", list(bucket_keys(sku)), highest, count)
        buckets = [decode_online(flat) for flat in answers]
        lowest = max((users[-1] for users in buckets if len(users) == count), default=None)
        found = sorted(
            (
                user
                for users in buckets
                for user in users
                if user.user_id
                and (after is None or user < after)
                and (lowest is None or user >= lowest)
            ),
            reverse=True,
        )
        page = found[:limit]
        end = page[-1] if len(page) < len(found) else lowest
        return OnlinePage([user.user_id for user in page], None if end is None else end.text())

    async def online_count(self, sku: str) -> int:
        """Count the users with a living session."""
        keys = [(ends,) for _, ends in bucket_keys(sku)]
        return sum(await self._run_for_buckets("online_count", keys))

    async def sealed_keys(self, refs: Sequence[SessionRef]) -> Sequence[str | None]:
        """Read the sealed session keys of living sessions."""
        answers = await self._run_each("read", refs)
        return all_or_partial(_decoded(decode_sealed_key, answers))

    async def replace_sealed_key(self, ref: SessionRef, sealed_key: str) -> bool:
        """Replace the sealed session key of a session; False if it has ended."""
        answers = await self._run_each("replace_sealed_key", [ref], own=[sealed_key])
        (replaced,) = all_or_partial(_decoded(bool, answers))
        return replaced

    async def check(self) -> None:
        """Check that Redis is a primary, of a supported version, and can write a session.

        Raises:
            StoreError, ConfigurationError: if it does not.
        """
        await self._database.check()
        probe = SessionRef(_PROBE, _PROBE, new_nonce())
        await self.issue([NewSession(probe, _PROBE_MS, LoginPolicy())])
        await self.forget_subject(probe.subject)

    def open_near_cache(self) -> NearCache | None:
        """Open a near cache for one service, kept current; None if this store has none."""
        return None if self._near_cache is None else self._near_cache.for_service()

    def push_changes_to(self, listener: ChangeListener) -> ChangeFeed | None:
        """Push changes to a listener, which names the sessions to the feed that is returned.

        It takes the push connection that near caches take.

        Returns:
            None on a Redis Cluster, which pushes no changes.

        Raises:
            ClosedError: after `close()`.
            ConfigurationError: in another event loop or process than the first call's.
        """
        if self._tracking is None:
            return None
        self._database.calls.check_here()
        self._tracking.feed.subscribe(listener)
        self._tracking.start()
        return self._tracking.feed

    def sharding(self) -> Callable[[Iterable[Subject]], Hashable] | None:
        """The function that names the cluster nodes of subjects; None for a single Redis."""
        nodes = self._database.nodes
        if nodes is None:
            return None
        return lambda subjects: frozenset(
            nodes.name_of(bucket_of(*subject)) for subject in subjects
        )

    @property
    def longest_wait(self) -> float:
        """The deadline of a call, in seconds."""
        return MAX_WAIT_SECONDS

    async def close(self) -> None:
        """Wait for the calls in progress and close the pool if it was opened here; repeatable.

        If it is cancelled, closing goes on.
        """
        await self._database.calls.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _forget(self, refs: Iterable[SessionRef]) -> None:
        """Drop changed sessions from near caches at once, before Redis pushes the change."""
        if self._tracking is not None:
            self._tracking.forget([ref.nonce for ref in refs])

    async def _end_all(self, name: str, subject: Subject, *args: str | int) -> int:
        """Run a script that ends sessions of a user; returns how many."""
        nonces = await self._run_for_user(name, subject, *args)
        if self._tracking is not None:
            self._tracking.forget([decode_text(nonce) for nonce in nonces])
        return len(nonces)

    async def _run_for_user(self, name: str, subject: Subject, *args: str | int) -> Any:
        keys = self._declared(user_keys(*subject))
        args = (subject.user_id, session_key_prefix(*subject), *args)
        return await self._database.command(script_command(name, keys, args))

    async def _run_each(
        self,
        name: str,
        refs: Sequence[SessionRef],
        *common: int | str,
        own: Iterable[str] | None = None,
    ) -> list[Any]:
        """Run a script for sessions; returns the answer or StoreError of each.

        Its arguments are the `common` ones, and for each session user_id, nonce, and its `own` or
        the generation.
        """
        keys = [session_keys(ref) for ref in refs]
        args: list[tuple[str | int, ...]] = [ref[1:] for ref in refs]
        if own is not None:
            args = [(ref.user_id, ref.nonce, last) for ref, last in zip(refs, own, strict=True)]

        def run(group: Sequence[int]) -> Command:
            declared = self._declared([key for i in group for key in keys[i]])
            return script_command(
                name, declared, [*common, *(arg for i in group for arg in args[i])]
            )

        return await self._ask_grouped([each[0] for each in keys], run)

    async def _run_for_buckets(
        self, name: str, buckets: Sequence[Sequence[str]], *args: str | int
    ) -> list[Any]:
        """Run a script for the keys of all buckets; returns the answer of each."""

        def run(group: Sequence[int]) -> Command:
            return script_command(name, [key for i in group for key in buckets[i]], args)

        answers = await self._ask_grouped([keys[0] for keys in buckets], run)
        for error in (answer for answer in answers if isinstance(answer, StoreError)):
            raise error
        return answers

    async def _get(self, keys: Sequence[str]) -> list[Any]:
        """Read keys; returns the value or StoreError of each."""

        def get(group: Sequence[int]) -> Command:
            return Command(keys[group[0]], ("MGET", *(keys[i] for i in group)))

        return await self._ask_grouped(keys, get)

    async def _ask_grouped(
        self, keys: Sequence[str], command_for: Callable[[Sequence[int]], Command]
    ) -> list[Any]:
        """Ask Redis about a batch; returns the answer or StoreError of each item, if any succeeds.

        `keys` has one of each item; `command_for` makes the command for items by their indexes.
        """
        groups = self._database.groups(keys)
        answers = await self._database.ask([command_for(group) for group in groups])
        items: list[Any] = [None] * len(keys)
        for group, answer in zip(groups, answers, strict=True):
            for i, item in zip(group, _items_of(answer, len(group)), strict=True):
                items[i] = item
        if items and all(isinstance(item, StoreError) for item in items):
            raise items[0]
        return items

    def _declared(self, keys: list[str]) -> list[str]:
        """The KEYS of a script that also uses keys which it cannot declare."""
        return keys if self._database.nodes is None else keys + absent_keys(keys[0])


def _items_of(answer: Any, count: int) -> list[Any]:
    """Split the answer to a command for several items into the answer or StoreError of each."""
    if isinstance(answer, Exception):
        return [store_error(answer) for _ in range(count)]
    if not isinstance(answer, list) or len(answer) != count:
        return [
            StoreError("Redis did not answer with a value for each key. Check that it is a Redis.")
            for _ in range(count)
        ]
    return [store_error(item) if isinstance(item, Exception) else item for item in answer]


def _decoded(decode: Callable[..., Result], *columns: Sequence[Any]) -> list[Result | StoreError]:
    """Decode the answer to each item of a batch: the last column of the arguments for `decode`."""
    results: list[Result | StoreError] = []
    for row in zip(*columns, strict=True):
        try:
            results.append(row[-1] if isinstance(row[-1], StoreError) else decode(*row))
        except ValueError:
            results.append(damaged_error())
    return results


def _or_empty(ttl: int | None) -> int | str:
    return "" if ttl is None else ttl
