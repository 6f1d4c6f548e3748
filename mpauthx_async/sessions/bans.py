"""Bans: refuses the logins of banned users, under all their ids."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import compress, islice

from ..concurrency.coalescer import answers_of
from ..errors import BannedError, MPAuthXError, ParameterError, StoreError
from ..events import Banned, Unbanned
from ..models import Ban, Subject, User
from ..shared_parts import Parts
from ..untrusted_text import is_number, is_one_line
from .linked_ids import LinkedIds

__all__ = ["MAX_BAN_SECONDS", "MAX_REASON", "Bans"]

MAX_REASON = 1000  # characters
MAX_BAN_SECONDS = 3_153_600_000  # a hundred years
_MIN_COPY_MS = 60_000  # so that a copy can be read back
_LOGIN_COPY_MS = 60_000  # longer than a login takes from saving its user to the token
_CLOCK_TOLERANCE_MS = 100
_SAME_END_MS = 60_000  # by which the ends of a user's bans may differ


class Bans:
    """Bans users, and refuses the logins of banned users.

    The token store bans single ids and begins no session under a banned one. A user may have
    several ids, so a login reads the bans of all of them, and a ban of one id is copied to the
    others: until the ban ends, before the user store forgets that the ids are linked; and for one
    minute, by each refused login, because another login may have begun before the ids were
    linked. The latter is short because a concurrent login may copy it again after the ban is
    lifted.
    """

    def __init__(self, parts: Parts, linked_ids: LinkedIds) -> None:
        self._parts = parts
        self._sku = parts.settings.sku
        self._linked_ids = linked_ids

    async def ban(self, user_id: str, seconds: float | None, reason: str) -> int:
        """Refuse the logins of a user and end their sessions; returns how many were alive."""
        ttl = _ban_ttl_ms(seconds)
        if not is_one_line(reason, MAX_REASON):
            raise ParameterError(
                f"reason must be a text of one line, of at most {MAX_REASON} characters."
            )

        async def ban_one(subject: Subject) -> int:
            with self._parts.events.store_failures("ban"):
                return await self._parts.tokens.ban(subject, reason=reason, ttl=ttl)

        # A concurrent login first saves its user, which may link another id, and then reads the
        # bans of all ids. `for_each` reads the ids again after it has written the bans. So either
        # the login finds a ban, or its new id is found and banned here.
        ended = sum(await self._linked_ids.for_each(user_id, ban_one))
        now = self._parts.settings.now_ms()
        until = None if ttl is None else now + ttl
        self._parts.events.emit(Banned(Ban(user_id, reason, now, until), self._sku, ended))
        return ended

    async def unban(self, user_id: str) -> bool:
        """Let a user log in again; False if they were not banned."""

        async def unban_one(subject: Subject) -> bool:
            with self._parts.events.store_failures("unban"):
                return await self._parts.tokens.unban(subject)

        was_banned = any(await self._linked_ids.for_each(user_id, unban_one))
        if was_banned:
            self._parts.events.emit(Unbanned(self._sku, user_id))
        return was_banned

    async def find(self, user_id: str) -> Ban | None:
        """Read the ban of a user; None if there is no ban."""
        return _strictest(await self._of(await self._linked_ids.find(user_id)))

    async def spread(self, subjects: Sequence[Subject]) -> None:
        """Copy the ban of a user, if there is one, to all their ids, for as long as it lasts."""
        bans = await self._of(subjects)
        ban = _strictest(bans)
        if ban is not None:
            shorter = [own is None or _ends_before(own, ban) for own in bans]
            await self._copy(ban, list(compress(subjects, shorter)))

    def subjects_of(self, user: User) -> list[Subject]:
        """The subjects whose bans are read, and copied, when this user logs in."""
        return self._linked_ids.of(user)

    async def refusals(self, users: Sequence[User]) -> list[Exception | None]:
        """Tell which users may not get a token, because one of their other ids is banned.

        Returns:
            For each user a BannedError, or the error for which their bans were not read or copied
            to all their ids; None for the others. Users of one id are left to `TokenStore.issue`.
        """
        subjects = [self._linked_ids.of(user) for user in users]
        asked = [subject for own in subjects if len(own) > 1 for subject in own]
        found = await answers_of(self._parts.tokens.bans(asked)) if asked else ()
        if not any(found):  # by far the most frequent case
            return [None] * len(users)
        left = iter(found)
        bans = [list(islice(left, len(own))) if len(own) > 1 else [] for own in subjects]
        return list(await asyncio.gather(*map(self._refusal, subjects, bans)))

    async def _refusal(
        self, subjects: Sequence[Subject], bans: Sequence[Ban | StoreError | None]
    ) -> Exception | None:
        try:
            ban = _strictest([_known(ban) for ban in bans])
            if ban is None:
                return None
            lacking = [own is None for own in bans]
            await self._copy(ban, list(compress(subjects, lacking)), longest=_LOGIN_COPY_MS)
        except MPAuthXError as error:  # it fails this login alone
            return error
        return BannedError(subjects[0].user_id, ban.reason, ban.until)

    async def _copy(
        self, ban: Ban, subjects: Sequence[Subject], *, longest: int | None = None
    ) -> None:
        """Copy a ban to other ids of its user, for `longest` ms or as long as it lasts."""
        for subject in subjects:
            await self._copy_to(subject, ban, longest)
        # If it was lifted meanwhile, the copies must not outlive it.
        if subjects and await self._of([Subject(self._sku, ban.user_id)]) == [None]:
            for subject in subjects:
                await self._parts.tokens.unban(subject)

    async def _copy_to(self, subject: Subject, ban: Ban, longest: int | None) -> None:
        """Ban another id of a user; this may end sessions."""
        ttl = longest
        if longest is None and ban.until is not None:
            ttl = max(ban.until - self._parts.settings.now_ms(), _MIN_COPY_MS)
        ended = await self._parts.tokens.ban(subject, reason=ban.reason, ttl=ttl)
        if ended:
            self._parts.events.emit(Banned(replace(ban, user_id=subject.user_id), self._sku, ended))
        # The copy shows the store's own clock, by which it ends.
        (copy,) = await self._of([subject])
        if copy is None or copy.until is None or ban.until is None:
            return
        late = copy.until - ban.until
        if late > _CLOCK_TOLERANCE_MS or (longest is None and late < -_CLOCK_TOLERANCE_MS):
            ttl = max(ban.until - copy.banned_at, 1)
            await self._parts.tokens.ban(subject, reason=ban.reason, ttl=ttl)

    async def _of(self, subjects: Sequence[Subject]) -> Sequence[Ban | None]:
        with self._parts.events.store_failures("bans"):
            return await self._parts.tokens.bans(subjects)


def _known(ban: Ban | StoreError | None) -> Ban | None:
    if isinstance(ban, StoreError):
        raise ban
    return ban


def _strictest(bans: Sequence[Ban | None]) -> Ban | None:
    """The ban that ends last, the first of those that end at about the same time."""
    strictest = None
    for ban in bans:
        if ban is not None and (strictest is None or _ends_before(strictest, ban)):
            strictest = ban
    return strictest


def _ends_before(ban: Ban, other: Ban) -> bool:
    """Whether a ban ends noticeably before another."""
    if ban.until is None or other.until is None:
        return ban.until is not None and other.until is None
    return ban.until + _SAME_END_MS < other.until


def _ban_ttl_ms(seconds: object) -> int | None:
    if seconds is None:
        return None
    if not is_number(seconds, 0.001, MAX_BAN_SECONDS):
        raise ParameterError(
            "seconds must be a number above zero, up to a hundred years, or None for ever."
        )
    return int(seconds * 1000)
