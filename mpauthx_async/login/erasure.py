"""Erasure: deletes users, or fields of their profiles."""

from collections.abc import Collection

from ..errors import ParameterError
from ..events import ProfileCleared, UserForgotten
from ..models import PROFILE_FIELDS, Subject, is_user_id
from ..oauth.client import WeChatOAuth
from ..sessions.bans import Bans
from ..sessions.linked_ids import LinkedIds, check_user_id
from ..shared_parts import Parts
from .pipeline import Logins

__all__ = ["Erasure"]


class Erasure:
    """Forgets users, and clears their profiles."""

    def __init__(
        self,
        parts: Parts,
        web: WeChatOAuth | None,
        linked_ids: LinkedIds,
        bans: Bans,
        logins: Logins,
    ) -> None:
        app_id = parts.settings.app_id
        self._parts = parts
        self._app_ids = {app_id} if web is None else {app_id, web.app_id}
        self._web = web
        self._linked_ids = linked_ids
        self._bans = bans
        self._logins = logins

    async def forget(self, user_id: str, lift_ban: bool) -> bool:
        """Erase a user; False if nothing was known of them.

        Their ids are erased last. So after a failure a second call finds all of them again.
        """
        if self._web is not None:  # first, for it raises if the web tokens cannot be deleted
            await self._linked_ids.for_each(user_id, self._forget_web)
        if lift_ban:
            await self._bans.unban(user_id)
        else:
            await self._bans.spread(await self._linked_ids.find(user_id))
        ended = sum(await self._linked_ids.for_each(user_id, self._forget_sessions))
        # A login in progress may link another id to the user before they are erased, save them
        # again afterwards, save a web token, copy a ban for less time than it lasts, and begin a
        # session.
        with self._logins.recorded() as logged_in:
            subjects = await self._linked_ids.find(user_id)
            was_known = await self._forget_row(user_id)
            await self._logins.settled()
        subjects = self._linked_ids.joined(subjects, logged_in)
        if not lift_ban:
            await self._bans.spread(subjects)
        for subject in subjects:
            await self._forget_web(subject)
            ended += await self._forget_sessions(subject)
            if logged_in:
                was_known |= await self._forget_row(subject.user_id)
        if was_known or ended:
            self._parts.events.emit(UserForgotten(self._parts.settings.sku, user_id, ended))
        return was_known or ended > 0

    async def clear(self, user_id: str, fields: Collection[str]) -> bool:
        """Erase fields of a user's profile; False if the user is not known."""
        check_user_id(user_id)
        given = (
            list(fields) if isinstance(fields, Collection) and not isinstance(fields, str) else []
        )
        if not given or any(name not in PROFILE_FIELDS for name in given):
            raise ParameterError(f"fields must be one or more of {', '.join(PROFILE_FIELDS)}.")
        names = tuple(dict.fromkeys(given))
        with self._parts.events.store_failures("clear"):
            was_known = await self._parts.users.clear(user_id, names)
        if was_known:
            self._parts.events.emit(ProfileCleared(user_id, names))
        return was_known

    async def _forget_row(self, user_id: str) -> bool:
        with self._parts.events.store_failures("forget"):
            return await self._parts.users.forget(user_id, app_ids=self._app_ids)

    async def _forget_web(self, subject: Subject) -> None:
        # An application's own row may hold an id that no login could have.
        if self._web is not None and is_user_id(subject.user_id):
            await self._web.forget(subject.user_id)

    async def _forget_sessions(self, subject: Subject) -> int:
        with self._parts.events.store_failures("forget_subject"):
            return await self._parts.tokens.forget_subject(subject)
