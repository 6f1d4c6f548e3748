"""The protocols of stores: required and optional."""

from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

from ..constants import TokenStatus
from ..models import Ban, NewSession, OAuthToken, OnlinePage, Session, SessionRef, Subject, User

__all__ = [
    "Checkable",
    "KeyValueStore",
    "OAuthTokenStore",
    "SessionKeyStore",
    "TokenStore",
    "UserStore",
    "longest_wait",
    "system_of",
]


class TokenStore(Protocol):
    """Keeps the active sessions, and for a time why others ended.

    Every method raises StoreError when it cannot answer, or PartialStoreError when it can answer
    for some items of a batch. Time is the store's own, one clock for all processes. A change of one
    session or subject is atomic. A store may repeat a call whose answer was lost; then the answer
    may be False, or count too few, for what the first call did.
    """

    async def issue(self, sessions: Sequence[NewSession]) -> Sequence[Session | Ban]:
        """Begin sessions, in the order given.

        Each session is stored completely or not at all. The sessions that its policy replaces end
        in the same step. Issuing a stored session again changes nothing.

        Args:
            sessions: the sessions; each ref is new.

        Returns:
            For each item the session, with the sessions that it `replaced`; with shared_token, the
            subject's newest active session, renewed, if there is one. The ban if the subject is
            banned; then no session begins.
        """

    async def lookup(self, refs: Sequence[SessionRef]) -> Sequence[int | None]:
        """Tell when sessions end. The hot path.

        Args:
            refs: the sessions and the generations of their tokens.

        Returns:
            For each ref the end in Unix milliseconds, above zero, if the token is valid. Below zero
            the TokenStatus of a session that ended, kept until it would have expired, 30 days at
            most; TokenStatus.rotated for an earlier generation than the session's. None for a
            session that is unknown or expired.
        """

    async def read(self, refs: Sequence[SessionRef]) -> Sequence[Session | None]:
        """Read sessions; None for each whose token is not valid."""

    async def revoke(self, refs: Sequence[SessionRef]) -> Sequence[bool]:
        """End sessions, whatever the generation.

        Returns:
            True for each session that was active; once if it is named twice.
        """

    async def sessions(self, subject: Subject) -> Sequence[Session]:
        """List the active sessions of a subject, newest first."""

    async def revoke_subject(self, subject: Subject, *, spared: str | None = None) -> int:
        """End all sessions of a subject.

        Args:
            subject: the subject.
            spared: the nonce of a session that stays; None to end all.

        Returns:
            How many sessions ended.
        """

    async def forget_subject(self, subject: Subject) -> int:
        """End and erase all sessions of a subject; a ban stays.

        Erases devices, session keys and the entry in `online`. The nonce and status of a session
        may stay until it would have expired.

        Returns:
            How many sessions ended.
        """

    async def rotate(
        self, refs: Sequence[SessionRef], *, ttl: int, grace: int, absolute_ttl: int | None = None
    ) -> Sequence[Session | TokenStatus]:
        """Replace each session's token by one of the next generation, and renew the session.

        Args:
            refs: the sessions with their current generations.
            ttl: the new lifetime from now on, in milliseconds, up to the absolute end.
            grace: for how many milliseconds a repetition returns the same result.
            absolute_ttl: the maximum lifetime of sessions that began without an absolute end,
                counted from their beginning, in milliseconds; None for no limit. It never shortens
                a session.

        Returns:
            The session with its new generation; also for a ref of the generation before, within the
            grace. Otherwise the TokenStatus; TokenStatus.unknown if the session is unknown or
            expired.
        """

    async def end_reused(self, refs: Sequence[SessionRef]) -> Sequence[bool]:
        """End the sessions whose tokens of an earlier generation were used again.

        Args:
            refs: the sessions and the generations that were used. A ref of the current generation,
                or of the one before within its grace, ends nothing.

        Returns:
            True for each session that this ended; its status is then TokenStatus.reused.
        """

    async def renew(
        self, refs: Sequence[SessionRef], *, ttl: int, absolute_ttl: int | None = None
    ) -> Sequence[int | None]:
        """Renew sessions, up to their absolute ends.

        A store writes only if a tenth of the lifetime has passed since the last renewal.

        Args:
            refs: the sessions with their current generations.
            ttl: the lifetime from now on, in milliseconds.
            absolute_ttl: the maximum lifetime of sessions that began without an absolute end, in
                milliseconds; None for no limit.

        Returns:
            For each ref the same as `lookup`, after the renewal.
        """

    async def ban(self, subject: Subject, *, reason: str, ttl: int | None) -> int:
        """Refuse the logins of a subject, and end all its sessions.

        Args:
            subject: the subject; an earlier ban is replaced.
            reason: the reason, which may be empty.
            ttl: for how many milliseconds; None for a permanent ban.

        Returns:
            How many sessions ended.
        """

    async def unban(self, subject: Subject) -> bool:
        """Lift the ban of a subject; False if it was not banned."""

    async def bans(self, subjects: Sequence[Subject]) -> Sequence[Ban | None]:
        """Read the bans of subjects; None for each that is not banned."""

    async def online(self, sku: str, *, cursor: str | None, limit: int) -> OnlinePage:
        """List the users with an active session in pages, the latest to come online first.

        If lifetimes differ, a user with a longer one may count as later. A user who stays online
        while all pages are read is on exactly one of them.

        Args:
            sku: the project or build.
            cursor: that of the page before; None for the first.
            limit: the maximum number of users, at least 1. Any page may have fewer or be empty;
                only the cursor tells the last.

        Raises:
            ParameterError: cursor is malformed.
            StoreError: the store cannot answer.
        """

    async def online_count(self, sku: str) -> int:
        """Count the users with an active session."""


@runtime_checkable
class SessionKeyStore(Protocol):
    """Optional for a TokenStore: it keeps the session keys of WeChat, encrypted.

    `issue` receives them as `NewSession.sealed_key`: texts of a few hundred characters without
    white space or controls. A key is erased together with its session.
    """

    async def sealed_keys(self, refs: Sequence[SessionRef]) -> Sequence[str | None]:
        """Read the encrypted session keys; None for each ref whose token is not valid."""

    async def replace_sealed_key(self, ref: SessionRef, sealed_key: str) -> bool:
        """Replace an encrypted session key; False if the session is not active."""


class UserStore(Protocol):
    """Keeps users, their profiles, and which ids belong to the same user.

    Every method raises StoreError when it cannot answer. `save` and `get` raise PartialStoreError
    when they can answer for some items of a batch: a user who cannot be saved or read fails alone.
    What is written of one user is written as a whole or not at all.

    An id is an openId or a unionId; an openId and a unionId with the same text are two ids. All ids
    that a user was ever seen with lead to that user. Users passed to `save` link ids: their
    `open_id` and `union_id` belong to the same user.
    """

    async def save(self, users: Sequence[User]) -> Sequence[bool]:
        """Add new users, update the profiles of others, and link ids.

        An open_id is compared with open_ids, and a union_id with union_ids. The union_id saved last
        is the user's current one; earlier ids stay linked. Two known users become one if a user is
        saved with the open_id of one and the union_id of the other. Stored openIds never change,
        and no row is deleted.

        Profiles are merged by `merge_profile`. The app_id of a user is kept with their open_id, for
        `forget`.

        Returns:
            True for each user that is new; once if the batch has a user twice.
        """

    async def get(self, user_ids: Sequence[str]) -> Sequence[User | None]:
        """Find users by any of their ids; None for an unknown id.

        An id that is both a union_id and an open_id is taken for the union_id. Each user has the
        union_id that was saved last, and all other ids in `linked_ids`.
        """

    async def forget(self, user_id: str, *, app_ids: Collection[str]) -> bool:
        """Erase a user as far as these apps know them.

        If an openId of another app is linked, the user, their profile and that app's links stay.
        Otherwise all rows and links of the user are erased.

        Args:
            user_id: any id of the user, as for `get`.
            app_ids: the apps. An openId of an unknown app counts as one of theirs.

        Returns:
            False if the user is unknown.
        """

    async def clear(self, user_id: str, fields: Collection[str]) -> bool:
        """Erase fields of a user's profile, wherever they are stored.

        Args:
            user_id: any id of the user, as for `get`.
            fields: attributes of `WeChatProfile` but ids, such as nick_name.

        Returns:
            False if the user is unknown.
        """


class OAuthTokenStore(Protocol):
    """Keeps the web OAuth tokens of one app's users, for all processes.

    Every method raises StoreError when it cannot answer.
    """

    async def get(self, open_id: str) -> OAuthToken | None:
        """Read the token of a user; None if there is no token.

        Raises:
            NoOAuthTokenError: the token does not decrypt; the user has to authorize again.
            StoreError: the store cannot answer.
        """

    async def save(self, open_id: str, token: OAuthToken) -> None:
        """Write the token of a user, in place of an earlier one."""

    async def delete(self, open_id: str) -> None:
        """Delete the token of a user, if there is one."""

    def lock(self, open_id: str) -> AbstractAsyncContextManager[None]:
        """Lock the token of a user in all processes, for `async with`.

        It ends by itself some seconds after its holder died. Other users are not affected.
        """

    async def spend_state(self, nonce: str, ttl: float) -> bool:
        """Consume the state of a login.

        Args:
            nonce: the state's nonce, 16 letters and digits.
            ttl: how many seconds to remember it.

        Returns:
            True for the first call, False for all others.
        """


class KeyValueStore(Protocol):
    """Keeps texts under keys, for all processes.

    Every method raises StoreError when it cannot answer. A key is a text of up to a few hundred
    characters, with its purpose in front.
    """

    async def get(self, key: str) -> str | None:
        """Read a record; None if it does not exist or has expired."""

    async def save(self, key: str, text: str, ttl: float) -> None:
        """Write a record, in place of an earlier one, for `ttl` seconds."""

    async def delete(self, key: str) -> None:
        """Delete a record, if there is one."""

    async def add(self, key: str, text: str, ttl: float) -> bool:
        """Write a record for `ttl` seconds if it does not exist; True for one of all who try.

        The text must be unique to the caller: a store may repeat a write whose answer was lost.
        """

    def lock(self, key: str) -> AbstractAsyncContextManager[None]:
        """Lock a key in all processes, for `async with`.

        It ends by itself after some seconds, in case its holder died, so work inside must be
        quick. Entering raises StoreError after too long a wait.
        """

    async def close(self) -> None:
        """Wait for calls in progress, and close; closing again does nothing."""


@runtime_checkable
class Checkable(Protocol):
    """Optional: a store's own check of whether it can serve, in place of a trial read."""

    async def check(self) -> None:
        """Check that the store can serve.

        Raises:
            StoreError: if it cannot.
            ConfigurationError: if the version of its server does not serve.
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
