"""Saver: saves the users of logins, and reads what is stored of those who are known."""

from collections.abc import Sequence

from ..concurrency.coalescer import answers_of
from ..errors import StoreError
from ..events import UserLinked
from ..models import User
from ..shared_parts import Parts
from .pending_logins import Grant, completed, for_successful

__all__ = ["Saver"]


class Saver:
    """Saves the users of logins."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def save(self, grants: Sequence[Grant | Exception]) -> list[Grant | Exception]:
        """Save the users and mark the new ones; those who are known get their stored profiles."""
        return await for_successful(await for_successful(grants, self._save), self._complete)

    async def _save(self, grants: Sequence[Grant]) -> list[Grant | Exception]:
        earlier_ids = await self._earlier_ids(grants) if self._parts.events.has_listeners else {}
        answers = await answers_of(self._parts.users.save([grant.user for grant in grants]))
        saved: list[Grant | Exception] = []
        for grant, is_new in zip(grants, answers, strict=True):
            if isinstance(is_new, StoreError):
                saved.append(is_new)
                continue
            grant.is_new = is_new
            saved.append(grant)
            for old_id in earlier_ids.pop(grant.user.id, ()):
                self._parts.events.emit(UserLinked(self._parts.settings.sku, old_id, grant.user.id))
        return saved

    async def _complete(self, grants: Sequence[Grant]) -> list[Grant | Exception]:
        """Give known users their stored profiles, under this app's openIds."""
        known = [grant.user.id for grant in grants if not grant.is_new]
        found = iter(await answers_of(self._parts.users.get(known)) if known else ())
        return [grant if grant.is_new else completed(grant, next(found)) for grant in grants]

    async def _earlier_ids(self, grants: Sequence[Grant]) -> dict[str, list[str]]:
        """The ids that users had before WeChat gave them a unionId, by that unionId."""
        new_ids = {a.user.open_id: a.user.union_id for a in grants if a.user.union_id}
        known = await answers_of(self._parts.users.get(list(new_ids))) if new_ids else []
        earlier_ids: dict[str, list[str]] = {}
        for user, new_id in zip(known, new_ids.values(), strict=True):
            if isinstance(user, User) and user.id != new_id:
                earlier_ids.setdefault(new_id, []).append(user.id)
        return earlier_ids
