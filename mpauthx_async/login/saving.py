"""Saver: saves the users of logins, and reads what is stored of those who are known."""

from collections.abc import Sequence

from ..concurrency.coalescer import answers_of
from ..errors import StoreError
from ..events import UserLinked
from ..models import User
from ..shared_parts import Parts
from .pending_logins import Arrival, completed, for_good

__all__ = ["Saver"]


class Saver:
    """Saves the users of logins."""

    def __init__(self, parts: Parts) -> None:
        self._sku = parts.settings.sku
        self._users = parts.users
        self._events = parts.events

    async def save(self, arrivals: Sequence[Arrival | Exception]) -> list[Arrival | Exception]:
        """Save the users and mark the new ones; those who are known get their stored profiles."""
        return await for_good(await for_good(arrivals, self._save), self._complete)

    async def _save(self, arrivals: Sequence[Arrival]) -> list[Arrival | Exception]:
        earlier_ids = await self._earlier_ids(arrivals) if self._events.has_listeners else {}
        answers = await answers_of(self._users.save([arrival.user for arrival in arrivals]))
        saved: list[Arrival | Exception] = []
        for arrival, is_new in zip(arrivals, answers, strict=True):
            if isinstance(is_new, StoreError):
                saved.append(is_new)
                continue
            arrival.is_new = is_new
            saved.append(arrival)
            for old_id in earlier_ids.pop(arrival.user.id, ()):
                self._events.emit(UserLinked(self._sku, old_id, arrival.user.id))
        return saved

    async def _complete(self, arrivals: Sequence[Arrival]) -> list[Arrival | Exception]:
        """Give known users their stored profiles, under this app's openIds."""
        known = [arrival.user.id for arrival in arrivals if not arrival.is_new]
        found = iter(await answers_of(self._users.get(known)) if known else ())
        return [
            arrival if arrival.is_new else completed(arrival, next(found)) for arrival in arrivals
        ]

    async def _earlier_ids(self, arrivals: Sequence[Arrival]) -> dict[str, list[str]]:
        """The ids that users had before WeChat gave them a unionId, by that unionId."""
        new_ids = {a.user.open_id: a.user.union_id for a in arrivals if a.user.union_id}
        known = await answers_of(self._users.get(list(new_ids))) if new_ids else []
        earlier_ids: dict[str, list[str]] = {}
        for user, new_id in zip(known, new_ids.values(), strict=True):
            if isinstance(user, User) and user.id != new_id:
                earlier_ids.setdefault(new_id, []).append(user.id)
        return earlier_ids
