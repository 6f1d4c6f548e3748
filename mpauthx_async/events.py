"""The events that a service emits, and the events that WeChat pushes.

In all of them `sku` is the project or build, `ended` is how many sessions ended, and `seconds` is
the duration.
"""

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
    """A login succeeded.

    Attributes:
        session: the session of the client's token.
        user: the user as stored.
        is_new_user: whether this was the user's first login.
    """

    session: Session
    user: User
    is_new_user: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class LoginFailed:
    """A login failed.

    Attributes:
        error: the exception that its caller received.
    """

    error: Exception
    seconds: float


@dataclass(frozen=True, slots=True)
class Refreshed:
    """`refresh_token` issued `session`, and ended the user's other sessions."""

    session: Session


@dataclass(frozen=True, slots=True)
class Rotated:
    """A token was rotated, or a client repeated that within its grace.

    `session` is its session's new state.
    """

    session: Session


@dataclass(frozen=True, slots=True)
class Replaced:
    """A login ended an older session.

    Attributes:
        ref: the session that ended.
        by: the session that replaced it.
    """

    ref: SessionRef
    by: Session


@dataclass(frozen=True, slots=True)
class Revoked:
    """Sessions of a user were revoked.

    Attributes:
        session_id: the revoked session; None if all sessions were revoked, or all but one.
    """

    sku: str
    user_id: str
    session_id: str | None
    ended: int


@dataclass(frozen=True, slots=True)
class Banned:
    """A user was banned."""

    ban: Ban
    sku: str
    ended: int


@dataclass(frozen=True, slots=True)
class Unbanned:
    """A ban was lifted."""

    sku: str
    user_id: str


@dataclass(frozen=True, slots=True)
class UserLinked:
    """WeChat gave a known user a first or another unionId, which is their user id from now on.

    Earlier tokens keep the earlier id.

    Attributes:
        old_id: the user's id before.
        new_id: the unionId.
    """

    sku: str
    old_id: str
    new_id: str


@dataclass(frozen=True, slots=True)
class UserForgotten:
    """A user was erased.

    Attributes:
        user_id: the id that the caller passed.
    """

    sku: str
    user_id: str
    ended: int


@dataclass(frozen=True, slots=True)
class ProfileCleared:
    """Fields of a user's profile were erased.

    Attributes:
        user_id: the id that the caller passed.
        fields: names of attributes of `User`.
    """

    user_id: str
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TokenReuseDetected:
    """A rotated token was used again, which is a sign of theft, so its session was ended.

    `ref` has the generation of the reused token.
    """

    ref: SessionRef


@dataclass(frozen=True, slots=True)
class PushEvent:
    """An event or message that WeChat pushed.

    Attributes:
        event: its name, such as user_authorization_revoke; empty for a message.
        open_id: the user's openId in the app; None if the event does not name a user.
        union_id: the user's unionId; None if the event does not have it.
        app_id: the app's AppID: the one that the event names, else `encrypted_for`; None in plain
            mode if the event does not name one.
        encrypted_for: the AppID that it was encrypted for, which is the app's or that of its
            third-party platform; None in plain mode.
        is_encrypted: whether it came in safe mode. Only then it is proven to come from WeChat: the
            signature of plain mode does not cover the body.
        nonce: unique to the event; `MPAuthX.handle_push_event` refuses a repeated one.
        timestamp: when it was sent, in Unix seconds; covered by the signature.
        created_at: when it happened, in Unix milliseconds; None without CreateTime.
        revoke_info: WeChat's numbers of the withdrawn permissions, such as 6 for name and avatar.
        plugin_id: the AppID of the plugin in which the user withdrew them; None outside of plugins.
        open_pid: the user's id in the plugin; None outside of plugins.
        fields: all fields under WeChat's names. Values from XML are strings.
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
    """A pushed event was handled.

    Attributes:
        event: the event. If `is_encrypted` is False, anyone who has seen the URL of another event
            can forge it: never erase data because of it.
    """

    event: PushEvent


@dataclass(frozen=True, slots=True)
class TokensValidated:
    """Tokens were validated in one batch, or in one tick of the loop without asking the store.

    Attributes:
        valid: how many were valid.
        refused: how many were not.
        seconds: 0 if the store was not asked.
    """

    valid: int
    refused: int
    seconds: float


@dataclass(frozen=True, slots=True)
class BatchFinished:
    """A batch of calls is answered.

    Attributes:
        name: the batch's name, such as lookup.
        size: how many calls it merged.
    """

    name: str
    size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class WeChatFailed:
    """WeChat refused a call with this errcode."""

    errcode: int


@dataclass(frozen=True, slots=True)
class StoreFailed:
    """An operation of a store, such as lookup, failed."""

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
