"""LinkedIds: the ids that belong to one user, under which their sessions and bans are kept."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from ..errors import ParameterError
from ..models import Subject, User, is_user_id
from ..shared_parts import Parts

__all__ = ["LinkedIds", "check_user_id"]

Answer = TypeVar("Answer")


class LinkedIds:
    """Finds the subjects of a user: one for each id that the user store links to them."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def find(self, user_id: str) -> list[Subject]:
        """Find the subjects of a user by any of their ids, that of the current id first."""
        check_user_id(user_id)
        with self._parts.events.store_failures("get"):
            (user,) = await self._parts.users.get([user_id])
        return [Subject(self._parts.settings.sku, user_id)] if user is None else self.of(user)

    def of(self, user: User) -> list[Subject]:
        """The subjects of a user as the store returned them."""
        return [Subject(self._parts.settings.sku, user_id) for user_id in user.ids]

    def joined(self, subjects: Sequence[Subject], users: Iterable[User]) -> list[Subject]:
        """The subjects of a user, and those of all users who share an id with them."""
        found, others = set(subjects), [self.of(user) for user in users]
        count = 0
        while count < len(found):
            count = len(found)
            for own in others:
                if not found.isdisjoint(own):
                    found.update(own)
        return [*subjects, *found.difference(subjects)]

    async def for_each(
        self, user_id: str, work: Callable[[Subject], Awaitable[Answer]]
    ) -> list[Answer]:
        """Do something with each subject of a user, including those that are linked meanwhile."""
        answers: dict[Subject, Answer] = {}
        while new := [one for one in await self.find(user_id) if one not in answers]:
            for subject in new:
                answers[subject] = await work(subject)
        return list(answers.values())


def check_user_id(user_id: object) -> None:
    """Raise ParameterError if user_id is malformed."""
    if not is_user_id(user_id):
        raise ParameterError("user_id is required, as a text: a unionId, or an openId.")
