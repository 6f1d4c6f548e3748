"""What stores have to do, and what they may do beside."""

from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

from ..constants import TokenStatus
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
    """Keeps which sessions are alive, and for a time why others died.

    Every method raises StoreError when it cannot answer, or PartialStoreError when it can for some
    items of a batch. Time is the store's own, one clock for all who use it. What a method does to
    one session or subject is one atomic step. A store may repeat a call whose answer was lost: then
    an answer may say False, or count too few, for what the first call did.
    """

    async def issue(self, sessions: Sequence[NewSession]) -> Sequence[Session | Ban]:
        """Begin sessions; each is wholly there or not at all.

        They begin in the order given, each under its policy: what it replaces ends in the same
        step; the new one does not. A repetition changes nothing, and does not end what began since.

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
        """Read the bans of subjects; None for one that is not banned, or no longer."""

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
            ParameterError: for a malformed cursor.
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

        What is empty or anonymous never replaces what is known (`merge_profile`). The app_id of
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
        """Read the token of a user; None when no token is kept.

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


class KeyValueStore(Protocol):
    """Keeps named texts for all processes. Every method raises StoreError when it cannot answer.

    A key is any text of a few hundred characters, with its purpose in front.
    """

    async def get(self, key: str) -> str | None:
        """Read a record; None when it does not exist, or its time is over."""

    async def save(self, key: str, text: str, ttl: float) -> None:
        """Write a record, in place of an earlier one, for `ttl` seconds."""

    async def delete(self, key: str) -> None:
        """Delete a record, if there is one."""

    async def add(self, key: str, text: str, ttl: float) -> bool:
        """Write a record for `ttl` seconds if it does not exist; one of all who try gets True.

        The text has to be nobody else's: a store may repeat the write when its answer was lost.
        """

    def lock(self, key: str) -> AbstractAsyncContextManager[None]:
        """Keep all others out, in any process, while `async with` lasts.

        Who holds it has to be quick: after some seconds it ends by itself, so that a process which
        died keeps nobody waiting. Entering raises StoreError when the wait gets too long.
        """

    async def close(self) -> None:
        """Close what was opened here, after what is in progress; may be called again."""


@runtime_checkable
class Checkable(Protocol):
    """What a store does beside, if it knows better than a read whether it can serve."""

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
