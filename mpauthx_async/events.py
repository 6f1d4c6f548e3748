"""Events: what happens in a service, and what WeChat pushes."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from .models import Ban, Session, SessionRef, User

__all__ = [
    "Banned",
    "BatchFinished",
    "Event",
    "Listener",
    "LoggedIn",
    "LoginFailed",
    "ProfileCleared",
    "PushEvent",
    "PushEventReceived",
    "Refreshed",
    "Replaced",
    "Revoked",
    "Rotated",
    "StoreFailed",
    "TokenReuseDetected",
    "TokensValidated",
    "Unbanned",
    "UserForgotten",
    "UserLinked",
    "WeChatFailed",
]


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """A login gave a session.

    Attributes:
        session: the one that the client's token stands for.
        user: as stored.
        is_new_user: whether this was their first login ever.
        seconds: how long the login took.
    """

    session: Session
    user: User
    is_new_user: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class LoginFailed:
    """A login failed.

    Attributes:
        error: what its caller was raised.
        seconds: how long it took to fail.
    """

    error: Exception
    seconds: float


@dataclass(frozen=True, slots=True)
class Refreshed:
    """A session's life was begun anew; it is as it is now."""

    session: Session


@dataclass(frozen=True, slots=True)
class Rotated:
    """A session was given another token, or the client had it repeated; it is as it is now."""

    session: Session


@dataclass(frozen=True, slots=True)
class Replaced:
    """A login ended an older session.

    Attributes:
        ref: the session that ended.
        by: the one that took its place.
    """

    ref: SessionRef
    by: Session


@dataclass(frozen=True, slots=True)
class Revoked:
    """A user was logged out, or thrown out.

    Attributes:
        session_id: the session that was ended; None for all of the user's, but for a spared one.
        ended: how many sessions it ended.
    """

    sku: str
    user_id: str
    session_id: str | None
    ended: int


@dataclass(frozen=True, slots=True)
class Banned:
    """A user was banned.

    Attributes:
        ended: how many sessions it ended.
    """

    ban: Ban
    sku: str
    ended: int


@dataclass(frozen=True, slots=True)
class Unbanned:
    """A user may log in again."""

    sku: str
    user_id: str


@dataclass(frozen=True, slots=True)
class UserLinked:
    """WeChat gave a known user another unionId, or their first; further logins are under it.

    Tokens given before keep the earlier id.

    Attributes:
        old_id: under which the user was known.
        new_id: the unionId.
    """

    sku: str
    old_id: str
    new_id: str


@dataclass(frozen=True, slots=True)
class UserForgotten:
    """A user was erased.

    Attributes:
        user_id: the id that the caller named.
        ended: how many sessions it ended.
    """

    sku: str
    user_id: str
    ended: int


@dataclass(frozen=True, slots=True)
class ProfileCleared:
    """Fields of a user's profile were erased.

    Attributes:
        user_id: the id that the caller named.
        fields: which, by their names in `User`.
    """

    user_id: str
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TokenReuseDetected:
    """A token that had been rotated away was used again, a sign of theft: its session ended."""

    ref: SessionRef


@dataclass(frozen=True, slots=True)
class PushEvent:
    """An event that WeChat pushed, or another message.

    Attributes:
        event: its name, such as user_authorization_revoke; empty for a message that is no event.
        open_id: the user in the app that it is about; None if it names none.
        union_id: the user's unionId, likewise.
        app_id: the app that it is about: the AppID that it names, else the one it was encrypted
            for; None in plain mode without either.
        encrypted_for: the AppID that it was encrypted for: the app's, or that of the third-party
            platform that acts for it; None in plain mode.
        is_encrypted: whether it came in safe mode. Only then is it proven that WeChat said so: the
            signature of plain mode does not cover the body.
        nonce: occurs once; `MPAuthX.handle_push_event` refuses a repeated one.
        timestamp: when it was sent, in Unix seconds, as signed.
        created_at: when it happened, in Unix milliseconds; None without CreateTime.
        revoke_info: WeChat's numbers of what the user withdrew, such as 6 for name and avatar.
        plugin_id: the AppID of the plugin in which the user withdrew it; None outside of plugins.
        open_pid: the user in the plugin, likewise.
        fields: all that WeChat sent, under its own names. XML gives texts only.
    """

    event: str
    open_id: str | None
    union_id: str | None
    app_id: str | None
    encrypted_for: str | None
    is_encrypted: bool
    nonce: str
    timestamp: int
    created_at: int | None = None
    revoke_info: tuple[int, ...] = ()
    plugin_id: str | None = None
    open_pid: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class PushEventReceived:
    """WeChat pushed an event, and what it asks for was done.

    Attributes:
        event: as parsed. One with `is_encrypted` False may be forged by whoever has seen the URL of
            another: erase nothing because of it.
    """

    event: PushEvent


@dataclass(frozen=True, slots=True)
class TokensValidated:
    """Tokens were looked at: those of one trip to the store, or of one tick without a trip.

    Attributes:
        valid: how many were good.
        refused: how many were not.
        seconds: how long the trip took; 0 without one.
    """

    valid: int
    refused: int
    seconds: float


@dataclass(frozen=True, slots=True)
class BatchFinished:
    """Calls that were merged into one trip are answered.

    Attributes:
        name: which kind of call.
        size: how many calls.
        seconds: how long the trip took.
    """

    name: str
    size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class WeChatFailed:
    """WeChat refused a call, with this errcode of its own."""

    errcode: int


@dataclass(frozen=True, slots=True)
class StoreFailed:
    """A store could not do this operation."""

    operation: str


Event: TypeAlias = (
    LoggedIn
    | LoginFailed
    | Refreshed
    | Rotated
    | Replaced
    | Revoked
    | Banned
    | Unbanned
    | UserLinked
    | UserForgotten
    | ProfileCleared
    | TokenReuseDetected
    | PushEventReceived
    | TokensValidated
    | BatchFinished
    | WeChatFailed
    | StoreFailed
)
Listener: TypeAlias = Callable[[Event], Awaitable[object]] | Callable[[Event], object]
