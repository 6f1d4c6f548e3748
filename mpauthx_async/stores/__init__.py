"""What a store has to do, and opening one by URL.

Stores speak in sequences, because the services ask for many callers at once; what is asked for
rarely, OAuth tokens and other records, goes one by one. A store that cannot answer raises
StoreError; it never guesses. A batch is answered item by item: when a row is refused or cannot be
read, its item has a StoreError among the `answers` of a PartialStoreError, and all other items are
written and answered as ever. What else a token or user store raises, MPAuthX turns into a
StoreError with that cause. A store may have `async def check() -> None` beside, which raises
StoreError or ConfigurationError when it cannot serve; by default `MPAuthX.check` reads from it.
`conformance` has the tests that every store passes.
"""

import re
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from ..concurrency.frames import clears_frames
from ..constants import TokenStatus
from ..errors import ConfigurationError
from ..models import (
    Ban,
    NewSession,
    OAuthToken,
    OnlinePage,
    Session,
    SessionRef,
    Subject,
    User,
)
from .key_value import KeyValueStore
from .oauth_tokens import FunctionOAuthTokenStore, KeyValueOAuthTokenStore, OAuthTokenFunctions
from .redis.key_value import RedisKeyValueStore
from .redis.token_store import RedisTokenStore
from .sqlite.key_value import SqliteKeyValueStore
from .sqlite.token_store import SqliteTokenStore
from .sqlite.user_store import SqliteUserStore

if TYPE_CHECKING:
    from ..connections import Connections

__all__ = [
    "FunctionOAuthTokenStore",
    "KeyValueOAuthTokenStore",
    "OAuthTokenFunctions",
    "OAuthTokenStore",
    "Records",
    "RedisKeyValueStore",
    "RedisTokenStore",
    "SessionKeyStore",
    "SqliteKeyValueStore",
    "SqliteTokenStore",
    "SqliteUserStore",
    "TokenStore",
    "UserStore",
    "longest_wait",
    "open_key_value_store",
    "open_token_store",
    "open_user_store",
    "system_of",
]


class TokenStore(Protocol):
    """Keeps which sessions are alive, and for a time why others died.

    Every method raises StoreError when it cannot answer, or PartialStoreError when it can for some
    items of a batch. Time is the store's own, one clock for all who use it. What a method does to
    one session or subject is one atomic step. A store may repeat a call whose answer was lost: then
    an answer may say False, or count too few, for what the first call did.
    """

    async def issue(self, sessions: Sequence[NewSession]) -> Sequence[Session | Ban]:
        """Begin sessions; each is wholly there or not at all.

        They begin in the order given, each under its policy: what it replaces ends in the same
        step, and the new one never does. Repeating it changes nothing, nor does it end what began
        since.

        Returns:
            The session begun for each, in the same order, with what it `replaced`; under a policy
            of shared_token the one that lives already, if one does: the newest, its life begun
            anew. The ban where the subject is banned; then nothing began.
        """

    async def lookup(self, refs: Sequence[SessionRef]) -> Sequence[int | None]:
        """Tell when sessions end, in Unix milliseconds: above zero is alive. The hot path.

        Returns:
            Below zero the TokenStatus of a session that died, for as long as it would have lived,
            30 days at most; TokenStatus.rotated for a ref of an earlier generation than the
            session's; None for one that is not known, or expired.
        """

    async def read(self, refs: Sequence[SessionRef]) -> Sequence[Session | None]:
        """Read sessions in full; None for each that `lookup` would not call alive."""

    async def revoke(self, refs: Sequence[SessionRef]) -> Sequence[bool]:
        """End sessions, of whatever generation; True for each that was alive, once when named
        twice.
        """

    async def sessions(self, subject: Subject) -> Sequence[Session]:
        """List the sessions of a subject that are alive, newest first."""

    async def revoke_subject(self, subject: Subject, *, spared: str | None = None) -> int:
        """End all sessions of a subject but the one of a nonce; returns how many were alive."""

    async def forget_subject(self, subject: Subject) -> int:
        """End and erase all sessions of a subject; a ban stays. Returns how many were alive.

        Erases devices, session keys and the position among who is online. Until a session would
        have ended, its nonce and status may be remembered.
        """

    async def rotate(
        self, refs: Sequence[SessionRef], *, ttl: int, grace: int, absolute_ttl: int | None = None
    ) -> Sequence[Session | TokenStatus]:
        """Put the next generation in the place of each, its life begun anew.

        Args:
            refs: each names the generation that is good now.
            ttl: how long the session lives from now on, in milliseconds, up to its absolute end.
            grace: for how long a repetition gets the same answer, in milliseconds.
            absolute_ttl: how long sessions that began without an absolute end live at most, counted
                from their beginning, in milliseconds; None for no limit. A session that ends later
                than that keeps its end.

        Returns:
            The session, of the next generation; also for a ref of the generation before, within
            its grace. Else why not: what `lookup` says, and TokenStatus.unknown.
        """

    async def end_reused(self, refs: Sequence[SessionRef]) -> Sequence[bool]:
        """End the sessions whose tokens of an earlier generation were used.

        Left alone are the generation that is good now, and the one before within its grace.

        Returns:
            True for each session that this ended; its status is TokenStatus.reused from then on.
        """

    async def renew(
        self, refs: Sequence[SessionRef], *, ttl: int, absolute_ttl: int | None = None
    ) -> Sequence[int | None]:
        """Let the lives of sessions count from now, up to their absolute ends.

        Written only where a tenth of the life has passed since the last time.

        Args:
            refs: of the generation that is good now.
            ttl: how long they live, in milliseconds.
            absolute_ttl: how long those live at most that began without an absolute end, in
                milliseconds; None for no such end.

        Returns:
            As `lookup`.
        """

    async def ban(self, subject: Subject, *, reason: str, ttl: int | None) -> int:
        """Refuse the logins of a subject, and end all its sessions; returns how many were alive.

        Args:
            subject: whom; a ban that there is already is replaced.
            reason: why: a text, which may be empty.
            ttl: for how many milliseconds; None for ever.
        """

    async def unban(self, subject: Subject) -> bool:
        """Let a subject log in again; False when it was not banned."""

    async def bans(self, subjects: Sequence[Subject]) -> Sequence[Ban | None]:
        """Read the bans of subjects; None where there is none, or it is over."""

    async def online(self, sku: str, *, cursor: str | None, limit: int) -> OnlinePage:
        """Page through the users with a living session, those who came online last first.

        Where lives differ in length, who has the longer one may count as later. Whoever stays
        online while all pages are read is on one of them, and on one only.

        Args:
            sku: whose users.
            cursor: of the page before; None for the first.
            limit: how many users at most, at least 1. A page may have fewer before the last, even
                none.

        Raises:
            ParameterError: for a cursor that is none.
        """

    async def online_count(self, sku: str) -> int:
        """Count the users with a living session."""


@runtime_checkable
class SessionKeyStore(Protocol):
    """What a TokenStore does beside, if it keeps the session keys of WeChat, encrypted.

    `issue` takes them along (`NewSession.sealed_key`): texts of a few hundred characters without
    white space or controls. One leaves together with its session.
    """

    async def sealed_keys(self, refs: Sequence[SessionRef]) -> Sequence[str | None]:
        """Read the sealed session keys; None for each that `lookup` would not call alive."""

    async def replace_sealed_key(self, ref: SessionRef, sealed_key: str) -> bool:
        """Keep another sealed session key; False when the session is no longer alive."""


class UserStore(Protocol):
    """Keeps the users, their profiles, and which ids are one person.

    Every method raises StoreError when it cannot answer. `save` and `get` raise PartialStoreError
    when they can answer for some items of a batch: a user who cannot be saved or read fails alone,
    and the others are saved. What is written of one user is written as a whole or not at all.

    An id is an openId or a unionId, and one of each with the same text are two ids. All ids that a
    person was ever seen with lead to that person. What links them are the users passed to `save`:
    a user's `open_id` and `union_id` are one person.
    """

    async def save(self, users: Sequence[User]) -> Sequence[bool]:
        """Add users that are new, keep the profiles of the others current, and link ids.

        An open_id is compared with open_ids and a union_id with union_ids. The union_id saved last
        is the person's: with a union_id that was unknown before, all ids of the person stay linked
        to them. Two known persons become one when a user is saved with the open_id of one and the
        union_id of the other. Stored openIds never change, and no row is deleted.

        What is empty or anonymous never replaces what is known (`User.updated_by`). The app_id of
        a user is kept with their open_id, for `forget`.

        Returns:
            True for each user that is new; when a person stands in the batch twice, once.
        """

    async def get(self, user_ids: Sequence[str]) -> Sequence[User | None]:
        """Find users by any of their ids; None for an unknown one.

        An id that is both a union_id and an open_id is taken for the union_id. Each user comes
        with the union_id that was saved last, and with all other ids in `linked_ids`.
        """

    async def forget(self, user_id: str, *, app_ids: Collection[str]) -> bool:
        """Erase a person as far as these apps know them.

        If an openId of another app is linked, what that app needs stays: the person, their profile
        and its links. Otherwise all rows and links of the person are erased.

        Args:
            user_id: any id of the person, as for `get`.
            app_ids: the apps. An openId whose app is not known counts as one of theirs.

        Returns:
            False if the person is not known.
        """

    async def clear(self, user_id: str, fields: Collection[str]) -> bool:
        """Erase fields of a person's profile, wherever they are stored.

        Args:
            user_id: any id of the person, as for `get`.
            fields: names of `models.PROFILE_FIELDS`, such as nick_name.

        Returns:
            False if the person is not known.
        """


class OAuthTokenStore(Protocol):
    """Keeps the web OAuth tokens of one app's users, for all processes.

    Every method raises StoreError when it cannot answer.
    """

    async def get(self, open_id: str) -> OAuthToken | None:
        """Read the token of a user; None when there is none.

        It may raise NoOAuthTokenError for a token that it keeps and cannot decrypt: the user has
        to authorize again.
        """

    async def save(self, open_id: str, token: OAuthToken) -> None:
        """Keep the token of a user, in place of an earlier one."""

    async def delete(self, open_id: str) -> None:
        """Delete the token of a user, if there is one."""

    def lock(self, open_id: str) -> AbstractAsyncContextManager[None]:
        """Keep all others who would refresh this user's token out while `async with` lasts.

        It is to end by itself some seconds after its holder died. Other users' are not touched.
        """

    async def spend_state(self, nonce: str, ttl: float) -> bool:
        """Use the state of a login up; True for the first who does.

        Args:
            nonce: the state's name, 16 letters and digits.
            ttl: for how many seconds to remember it.
        """


def longest_wait(*stores: object) -> float | None:
    """How long a call waits for stores at most, in seconds; None if one of them does not say.

    A store says it by an attribute of this name. For several it is the longest, not the sum: a
    call that waits behind others for one store that hangs waits for that store alone.
    """
    waits = [getattr(store, "longest_wait", None) for store in stores]
    known = [wait for wait in waits if isinstance(wait, (int, float))]
    return max(known) if len(known) == len(waits) else None


def system_of(store: object) -> str:
    """What a store waits for, as its own trips name it; a custom store is a system of its own.

    A store says it by an attribute of the name `system`.
    """
    return str(getattr(store, "system", "tokens"))


@clears_frames
def open_token_store(
    url: str, connections: "Connections", clock: Callable[[], float] = time.time
) -> RedisTokenStore | SqliteTokenStore:
    """Open a token store by URL; Redis is reached through the connections' pool.

    Args:
        url: `redis://…`, `rediss://…`, `unix://…`, or `sqlite:///relative.db`,
            `sqlite:////absolute.db`. To that of a Redis `near_cache=100000` may be appended, in its
            query: see RedisTokenStore.
        connections: whose Redis pool to use.
        clock: tells a SQLite store the time, in Unix seconds.

    Raises:
        ConfigurationError: for a URL that names no token store.
    """
    scheme = _scheme(url)
    if scheme in _REDIS_SCHEMES:
        url, near_cache = _without_near_cache(url)
        connections.use_redis(url)
        return RedisTokenStore(connections, near_cache=near_cache)
    if scheme == "sqlite":
        return SqliteTokenStore(_sqlite_path(url), clock=clock)
    raise _no_store("token store", url, "redis://, rediss://, unix:// or sqlite:///")


@clears_frames
def open_key_value_store(
    url: str, connections: "Connections", clock: Callable[[], float] = time.time
) -> RedisKeyValueStore | SqliteKeyValueStore:
    """Open records by URL, in all as `open_token_store`."""
    scheme = _scheme(url)
    if scheme in _REDIS_SCHEMES:
        connections.use_redis(_without_near_cache(url)[0])
        return RedisKeyValueStore(connections)
    if scheme == "sqlite":
        return SqliteKeyValueStore(_sqlite_path(url), clock=clock)
    raise _no_store("store of OAuth tokens", url, "redis://, rediss://, unix:// or sqlite:///")


def open_user_store(url: str, clock: Callable[[], float] = time.time) -> SqliteUserStore:
    """Open a user store by URL.

    Args:
        url: `sqlite:///relative.db` or `sqlite:////absolute.db`.

    Raises:
        ConfigurationError: for a URL that names no user store.
    """
    scheme = _scheme(url)
    if scheme == "sqlite":
        return SqliteUserStore(_sqlite_path(url), clock=clock)
    raise _no_store("user store", url, "sqlite:///")


_REDIS_SCHEMES = ("redis", "rediss", "unix")
_FILE = re.compile(r"[\w./-]+\.(db|sqlite3?)", re.ASCII)
_OPTION = re.compile(r"\w{1,40}", re.ASCII)


def _no_store(kind: str, url: str, forms: str) -> ConfigurationError:
    if _FILE.fullmatch(url):  # nothing else is repeated, for it may hold a password
        return ConfigurationError(f"The URL of a {kind} in the file {url} is sqlite:///{url}.")
    scheme = _scheme(url)
    found = f"not with {scheme}://" if scheme else "and this one has no scheme"
    return ConfigurationError(f"The URL of a {kind} begins with {forms}, {found}.")


def _without_near_cache(url: str) -> tuple[str, int]:
    """A Redis URL as redis-py takes it, and how large a near cache it asks for."""
    base, mark, query = url.partition("?")
    options = query.split("&") if mark else []
    sizes = [option.partition("=")[2] for option in options if option.startswith("near_cache=")]
    if any(not re.fullmatch(r"\d{1,9}", size) for size in sizes):
        raise ConfigurationError("near_cache must be a whole number of tokens.")
    others = "&".join(option for option in options if not option.startswith("near_cache="))
    return base + (f"?{others}" if others else ""), int(sizes[-1]) if sizes else 0


def _scheme(url: str) -> str:
    scheme, separator, _ = url.partition("://")
    return scheme.lower() if separator else ""  # without one it may be a password


def _sqlite_path(url: str) -> str:
    path = url.partition("://")[2]
    if not path.startswith("/") or path == "/":
        raise ConfigurationError("A SQLite URL is sqlite:///relative.db or sqlite:////absolute.db.")
    path, _, query = path.partition("?")
    if query:
        name = query.partition("=")[0]
        option = f"the option {name!r}" if _OPTION.fullmatch(name) else "options"
        raise ConfigurationError(f"A SQLite URL takes no options, and this one has {option}.")
    return path[1:]
