"""Logins and refreshes in progress, and the users to whom they will issue tokens."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field, replace
from typing import TypeVar

from ..errors import StoreError
from ..models import AuthResult, CodeSession, User, is_user_id
from .device import Device

__all__ = ["Grant", "Login", "Refresh", "completed", "for_successful", "key_to_seal"]

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(slots=True, eq=False, repr=False)
class Login:
    """A login under way, which others may have joined. No two are equal.

    It has no repr: asyncio logs reprs in debug mode, and this one would contain the client's data.
    """

    callers: "list[asyncio.Future[AuthResult]]"
    key: Hashable
    exchange: Callable[[str], Awaitable[CodeSession | User]]
    code: str
    encrypted_data: str | None
    iv: str | None
    max_age: float | None
    device: Device
    has_code: bool
    begun_at: float = field(default_factory=time.perf_counter)
    context: Context = field(default_factory=copy_context)  # of the caller who came first
    exchange_task: "asyncio.Task[None] | None" = field(init=False, default=None)
    exchanged: CodeSession | User = field(init=False)
    is_over: bool = field(init=False, default=False)  # whether its callers got an outcome


@dataclass(slots=True, eq=False, repr=False)
class Grant:
    """A user to issue a token to, for a login or a refresh."""

    user: User
    nonce: str
    sealed_key: str | None
    asked: "Login | Refresh"
    is_new: bool = False

    @property
    def login(self) -> Login | None:
        """None for a refresh."""
        return self.asked if isinstance(self.asked, Login) else None


@dataclass(slots=True, eq=False, repr=False)
class Refresh:
    """A requested refresh. No two are equal: each gets its own answer."""

    user_id: str
    caller: "asyncio.Future[AuthResult]"
    is_over: bool = False  # whether its caller got an outcome


async def for_successful(
    items: Sequence[Item | Exception], step: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]]
) -> list[Result | Exception]:
    """Run a step for the items that have not failed; failures keep their places."""
    good = [item for item in items if not isinstance(item, Exception)]
    results = iter(await step(good) if good else ())
    return [item if isinstance(item, Exception) else next(results) for item in items]


def key_to_seal(login: Login) -> tuple[str, str]:
    """The openId and session key that the exchange gave; a web login's key is empty."""
    exchanged = login.exchanged
    return exchanged.open_id, exchanged.session_key if isinstance(exchanged, CodeSession) else ""


def completed(grant: Grant, stored: User | StoreError | None) -> Grant | StoreError:
    """The grant of a known user, with their stored profile."""
    if isinstance(stored, StoreError):
        return stored
    grant.user = _as_stored(grant.user, stored)
    return grant


def _as_stored(user: User, stored: User | None) -> User:
    """The user as stored, under the ids of this login; `stored` is None if deleted meanwhile."""
    if stored is None or (
        user.id == stored.union_id != user.union_id and user.id != stored.open_id
    ):
        return user  # `get` found another user, whose unionId has the text of this openId
    union_id = user.union_id or (stored.union_id if is_user_id(stored.union_id) else None)
    linked_ids = tuple(one for one in stored.ids if one not in (user.open_id, union_id))
    return replace(
        stored, open_id=user.open_id, union_id=union_id, app_id=user.app_id, linked_ids=linked_ids
    )
