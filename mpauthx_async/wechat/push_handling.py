"""PushEventHandler: erases what the events that WeChat pushes tell an app to erase."""

import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Protocol

from ..concurrency.event_bus import EventBus
from ..errors import InvalidPushEventError, ParameterError
from ..events import PushEvent, PushEventReceived
from ..stores import KeyValueStore
from .push_events import MAX_PUSH_AGE

__all__ = ["PushEventHandler", "UserEraser"]

# A timestamp may be ahead by MAX_PUSH_AGE and is valid until it is behind by as much, and clocks
# differ.
_REMEMBERED = 2 * MAX_PUSH_AGE + 60  # seconds
_MAX_REMEMBERED = 10_000  # nonces in this process

_CANCELLATION = "user_authorization_cancellation"
_REVOKE = "user_authorization_revoke"
_NAME_AND_AVATAR = ("nick_name", "avatar_url")
_PROFILE = (*_NAME_AND_AVATAR, "gender", "city", "province", "country", "language")
# What users withdraw, as far as it is kept here: neither phone numbers (8) nor addresses, invoices,
# locations, files and so on (all others).
# https://developers.weixin.qq.com/miniprogram/dev/server/event_push/platform/authorized_user_information_changes
# https://developers.weixin.qq.com/doc/service/guide/h5/authorization_change.html
# https://developers.weixin.qq.com/doc/oplatform/Mobile_App/WeChat_Login/authorization_change.html
_WITHDRAWN: Mapping[int, Sequence[str]] = {
    6: _NAME_AND_AVATAR,
    19: ("nick_name",),
    20: ("avatar_url",),
    205: _NAME_AND_AVATAR,  # of a page inside WeChat
    301: _PROFILE,  # all that was granted to a website or mobile app
}


class UserEraser(Protocol):
    """Erases users, or parts of their profiles."""

    def forget_user(self, user_id: str) -> Awaitable[object]:
        """Erase a user; a ban stays."""

    def clear_profile(self, user_id: str, fields: Sequence[str]) -> Awaitable[object]:
        """Erase these fields of a user's profile."""


class PushEventHandler:
    """Handles the events that WeChat pushes about the users of one service.

    Args:
        app_ids: the apps whose users the service knows.
        recipients: for whom their events may be encrypted: these apps, and the third-party platform
            that acts for them.
        purpose: sets the nonces of this service apart from those of others.
        users: erases users.
        records: remembers nonces for all processes; None to remember up to 10,000 in this one.
        events: is told what was pushed.
        clock: tells the time in Unix seconds.
    """

    def __init__(
        self,
        *,
        app_ids: Collection[str],
        recipients: Collection[str],
        purpose: str,
        users: UserEraser,
        records: KeyValueStore | None,
        events: EventBus,
        clock: Callable[[], float],
    ) -> None:
        self._app_ids = app_ids
        self._recipients = recipients
        self._purpose = purpose
        self._users = users
        self._records: _Memory = _OwnMemory(clock) if records is None else records
        self._events = events

    async def handle(self, event: PushEvent) -> None:
        """Handle an event once, and tell listeners.

        Its nonce is remembered at the end: WeChat repeats an event whose handling failed, and
        erasing something twice is harmless.
        """
        self._check(event)
        key = f"push_nonce|{self._purpose}|{event.nonce}"
        if await self._records.get(key) is not None:
            raise _repeated()
        if event.event == _CANCELLATION:
            await self._users.forget_user(_user_id(event))
        elif event.event == _REVOKE:
            fields = {name for number in event.revoke_info for name in _WITHDRAWN.get(number, ())}
            if fields:
                await self._users.clear_profile(_user_id(event), sorted(fields))
        if not await self._records.add(key, secrets.token_hex(8), _REMEMBERED):
            raise _repeated()
        self._events.emit(PushEventReceived(event))

    def _check(self, event: PushEvent) -> None:
        if not isinstance(event, PushEvent):
            raise ParameterError("event must be a PushEvent, as parse_push_event returns it.")
        if (event.app_id is not None and event.app_id not in self._app_ids) or (
            event.encrypted_for is not None and event.encrypted_for not in self._recipients
        ):
            raise InvalidPushEventError(
                "This push event is about another app: pass it to that app's service."
            )
        if event.event in (_CANCELLATION, _REVOKE) and not event.is_encrypted:
            raise InvalidPushEventError(
                "This push event came in plain mode, whose signature does not cover the body, so "
                "nothing is erased because of it. Set the app's message push to safe mode, and "
                "pass its EncodingAESKey to parse_push_event as aes_key."
            )


class _Memory(Protocol):
    """The part of `Records` that remembers nonces."""

    async def get(self, key: str) -> str | None: ...

    async def add(self, key: str, text: str, ttl: float) -> bool: ...


class _OwnMemory:
    """Remembers in this process, all for the same time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ends: dict[str, float] = {}  # oldest first

    async def get(self, key: str) -> str | None:
        return "" if self._ends.get(key, 0) > self._clock() else None

    async def add(self, key: str, text: str, ttl: float) -> bool:
        now = self._clock()
        while self._ends:
            oldest = next(iter(self._ends))
            if self._ends[oldest] > now and len(self._ends) < _MAX_REMEMBERED:
                break
            del self._ends[oldest]
        if key in self._ends:
            return False
        self._ends[key] = now + ttl
        return True


def _user_id(event: PushEvent) -> str:
    if event.open_id is None:
        raise InvalidPushEventError("This push event names no user: refuse it.")
    return event.open_id


def _repeated() -> InvalidPushEventError:
    return InvalidPushEventError("This push event was handled before: answer WeChat `success`.")
