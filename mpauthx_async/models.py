"""The values that services, stores and applications exchange."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from .errors import ConfigurationError
from .untrusted_text import is_clean, is_credential, is_user_id, profile_text

__all__ = [
    "PROFILE_FIELDS",
    "AuthResult",
    "Ban",
    "CodeSession",
    "Identity",
    "LoginPolicy",
    "NewSession",
    "OAuthToken",
    "OAuthUser",
    "OnlinePage",
    "PhoneNumber",
    "Session",
    "SessionRef",
    "Subject",
    "User",
    "UserEncryptKey",
    "WeChatProfile",
    "is_user_id",
]

_ANONYMOUS_NICK_NAME = "微信用户"
_MAX_SESSIONS = 1000  # per user, because a login reads all of them
PROFILE_FIELDS = ("nick_name", "gender", "city", "province", "country", "language", "avatar_url")
"""The attributes of `WeChatProfile` that are not ids."""


class Subject(NamedTuple):
    """A user of one sku. Policies, revocations and bans apply to its sessions together."""

    sku: str
    user_id: str


class SessionRef(NamedTuple):
    """Identifies a session and one of its tokens, as read from a verified token.

    `generation` is how often the session's token had been rotated when this one was issued.
    """

    sku: str
    user_id: str
    nonce: str
    generation: int = 0

    @property
    def subject(self) -> Subject:
        return Subject(self.sku, self.user_id)


@dataclass(frozen=True, slots=True)
class Identity:
    """The user and session of a verified token.

    Attributes:
        user_id: the id under which the token was issued: the unionId if the user had one, else the
            openId.
        session_id: the session's id, as in `Session.id` and `revoke_session`.
        sku: the project or build.
        token: the token itself. The repr leaves it out.
    """

    user_id: str
    session_id: str
    sku: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class LoginPolicy:
    """Which sessions of a user may be active at the same time; by default the 100 newest.

    Attributes:
        max_sessions: how many sessions, from 1 to 1,000. Beyond that the oldest are replaced. It
            has no effect with shared_token.
        one_per_kind: whether a new session replaces those of the same kind of device. Logins with
            neither device nor device_kind count as one kind.
        shared_token: whether a login renews the user's active session and returns its token, if
            there is one. It excludes one_per_kind.

    Raises:
        ConfigurationError: an option is out of range, or the options conflict.
    """

    max_sessions: int = 100
    one_per_kind: bool = False
    shared_token: bool = False

    def __post_init__(self) -> None:
        if type(self.max_sessions) is not int or not 1 <= self.max_sessions <= _MAX_SESSIONS:
            raise ConfigurationError(
                f"max_sessions must be an int from 1 to {_MAX_SESSIONS:,}; omit it for the default "
                "of 100."
            )
        if type(self.one_per_kind) is not bool or type(self.shared_token) is not bool:
            raise ConfigurationError("one_per_kind and shared_token must be True or False.")
        if self.shared_token and self.one_per_kind:
            raise ConfigurationError(
                "one_per_kind has no effect with shared_token, which keeps one session: choose one."
            )


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session for `TokenStore.issue` to begin.

    Attributes:
        ref: identifies the session; its generation is 0.
        ttl: its lifetime in milliseconds.
        policy: which other sessions of the subject end in the same step.
        sealed_key: WeChat's session key, encrypted, kept as long as the session lives; None if
            there is no key to keep. Only a SessionKeyStore keeps it.
        device: the device's name for the user, on one line without tabs.
        device_kind: such as phone or desktop, on one line without tabs; None if `device` serves as
            the kind.
        absolute_ttl: its maximum lifetime in milliseconds, despite renewals and rotations; None
            leaves that to the arguments of `rotate` and `renew`.
    """

    ref: SessionRef
    ttl: int
    policy: LoginPolicy = LoginPolicy()
    sealed_key: str | None = field(default=None, repr=False)
    device: str | None = None
    device_kind: str | None = None
    absolute_ttl: int | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """A stored session. Times are Unix milliseconds by the store's clock.

    Attributes:
        ref: identifies the session and its current token.
        issued_at: when it began.
        expires_at: when it ends unless it is renewed.
        device: the device's name for the user; None if the login gave no name.
        device_kind: such as phone or desktop; None if the login gave no kind.
        last_seen: when use, rotation or a login with shared_token last renewed it; None if it was
            never renewed.
        replaced: the sessions that its login ended; only `TokenStore.issue` fills it.
    """

    ref: SessionRef
    issued_at: int
    expires_at: int
    device: str | None = None
    device_kind: str | None = None
    last_seen: int | None = None
    replaced: tuple[SessionRef, ...] = field(default=(), compare=False, repr=False)

    @property
    def id(self) -> str:
        """The session's id, unique among the user's sessions. It is not a secret."""
        return self.ref.nonce

    @property
    def user_id(self) -> str:
        return self.ref.user_id

    @property
    def sku(self) -> str:
        return self.ref.sku


@dataclass(frozen=True, slots=True)
class Ban:
    """A ban, under which a user cannot log in.

    Attributes:
        user_id: the banned user.
        reason: the reason given to `ban`; may be empty.
        banned_at: when it began, in Unix milliseconds.
        until: when it ends, in Unix milliseconds; None if it is permanent.
    """

    user_id: str
    reason: str
    banned_at: int
    until: int | None = None


class OnlinePage(NamedTuple):
    """A page of the users who are online, and the cursor of the next; None after the last."""

    user_ids: Sequence[str]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class CodeSession:
    """WeChat's answer to a code of `wx.login`.

    Attributes:
        open_id: the user's id in this app.
        session_key: base64 of the 16-byte key that encrypts the user's data. Never send it to a
            client.
        union_id: the user's id in all apps of one Open Platform account; None if this app does not
            belong to such an account.
    """

    open_id: str
    session_key: str = field(repr=False)
    union_id: str | None = None


@dataclass(frozen=True, slots=True)
class WeChatProfile:
    """A user's ids and profile as WeChat gave them; None or empty where WeChat gave no value.

    Attributes:
        open_id: the user's id in one app.
        union_id: the user's id in all apps of one Open Platform account; None if it is unknown.
        gender: 0 unknown, 1 male, 2 female.
    """

    open_id: str
    union_id: str | None = None
    nick_name: str | None = None
    gender: int | None = None
    city: str | None = None
    province: str | None = None
    country: str | None = None
    language: str | None = None
    avatar_url: str | None = None

    @property
    def id(self) -> str:
        """The user id: the unionId if there is one, else the openId."""
        return self.union_id or self.open_id

    @property
    def is_anonymous(self) -> bool:
        """Whether the profile is the placeholder that WeChat gives instead of a real one."""
        return self.nick_name == _ANONYMOUS_NICK_NAME


@dataclass(frozen=True, slots=True)
class User(WeChatProfile):
    """A user of mini-programs or web pages, as stores keep them.

    In the result of a login, `open_id` belongs to the app of that login; from a store, to the app
    where the user first logged in.

    Attributes:
        created_at: first login, in Unix milliseconds; None if the table does not have that column.
        updated_at: last change of the stored user, in Unix milliseconds; None if the table does not
            have that column.
        app_id: the app that `open_id` belongs to; None if it is unknown.
        linked_ids: the user's other ids: openIds in other apps, and earlier unionIds.
    """

    created_at: int | None = None
    updated_at: int | None = None
    app_id: str | None = None
    linked_ids: tuple[str, ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        """All ids of the user without duplicates, `id` first."""
        return tuple(dict.fromkeys((self.id, self.open_id, *self.linked_ids)))

    @classmethod
    def from_wechat(
        cls,
        session: CodeSession,
        payload: Mapping[str, Any],
        now: int | None = None,
        app_id: str | None = None,
    ) -> Self:
        """Create a user from WeChat's answers.

        The ids are those of the code. Ids in the payload are ignored: a client knows its session
        key, so it can encrypt any id.

        Args:
            session: WeChat's answer to the code.
            payload: the decrypted user data, for the profile; empty for a login by code alone.
            now: the time in Unix milliseconds, for created_at and updated_at.
            app_id: the app of the code.
        """
        return cls(
            session.open_id,
            session.union_id,
            **(_profile(payload) if payload else {}),
            created_at=now,
            updated_at=now,
            app_id=app_id,
        )


@dataclass(frozen=True, slots=True)
class OAuthToken:
    """WeChat's answer to the code of a web login.

    To store it in your own table, use `dataclasses.asdict(token)` and `OAuthToken(**row)`.

    Attributes:
        open_id: the user's id in this app.
        access_token: gives access to the user's profile. Never send it to a client.
        refresh_token: gives new access tokens for 30 days. Never send it to a client.
        expires_in: the access token's lifetime in seconds.
        scope: the scopes that the user has granted, such as snsapi_userinfo.
        created_at: when it was requested, in Unix milliseconds.
        union_id: the user's id in all apps of one Open Platform account; None if it is unknown.
        is_snapshot_user: whether this is a snapshot (virtual) account that represents no real user.
            Such a token is never stored.
    """

    open_id: str
    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    expires_in: int
    scope: str
    created_at: int
    union_id: str | None = None
    is_snapshot_user: bool = False

    def is_valid(self, now: float | None = None) -> bool:
        """Whether the access token has not expired.

        Args:
            now: the time in Unix milliseconds; by default the system's.
        """
        now = time.time() * 1000 if now is None else now
        return bool(self.access_token) and now < self.created_at + self.expires_in * 1000


@dataclass(frozen=True, slots=True)
class OAuthUser(WeChatProfile):
    """The user of a web login.

    Attributes:
        privilege: WeChat's names of the user's privileges, such as chinaunicom.
    """

    privilege: tuple[str, ...] = ()

    @classmethod
    def from_wechat(cls, open_id: str, union_id: str | None, payload: Mapping[str, Any]) -> Self:
        """Create a user from WeChat's answers.

        Args:
            open_id: the user's openId.
            union_id: the user's unionId, if WeChat gave one.
            payload: the answer of `/sns/userinfo`, or the decrypted data of a mini-program. Ids in
                it are ignored.
        """
        listed = payload.get("privilege")
        privilege = map(profile_text, listed if isinstance(listed, list) else ())
        return cls(open_id, union_id, **_profile(payload), privilege=tuple(filter(None, privilege)))


@dataclass(frozen=True, slots=True)
class PhoneNumber:
    """A user's phone number.

    Attributes:
        phone_number: the number; if it is foreign, with its country code.
        pure_phone_number: the number without the country code.
        country_code: such as 86.
    """

    phone_number: str
    pure_phone_number: str
    country_code: str

    @classmethod
    def from_wechat(cls, payload: Mapping[str, Any]) -> "PhoneNumber | None":
        """Create a phone number from WeChat's answer; None if it is missing or malformed."""
        get = payload.get
        number, pure, country = get("phoneNumber"), get("purePhoneNumber"), get("countryCode")
        if not isinstance(number, str) or not number:
            return None
        texts = number, str(pure or number), str(country or "")
        return cls(*texts) if all(map(is_clean, texts)) else None


@dataclass(frozen=True, slots=True)
class UserEncryptKey:
    """A key of `UserCryptoManager`, which a mini-program's client and server share.

    Attributes:
        encrypt_key: base64 of the key. Never send it to another user's client.
        iv: the initialization vector, 16 characters.
        version: the key's number, which the client sends with encrypted data.
        expires_in: for how many seconds the key is still valid; 0 if it has expired.
        created_at: when it was created, in Unix milliseconds.
    """

    encrypt_key: str = field(repr=False)
    iv: str
    version: int
    expires_in: int
    created_at: int

    @classmethod
    def from_wechat(cls, key_info: object) -> "UserEncryptKey | None":
        """Create a key from an item of WeChat's `key_info_list`; None if it is malformed."""
        if not isinstance(key_info, Mapping):
            return None
        names = ("encrypt_key", "iv", "version", "expire_in", "create_time")
        found: list[Any] = [key_info.get(name) for name in names]
        if not all(map(is_credential, found[:2])) or {type(one) for one in found[2:]} != {int}:
            return None
        encrypt_key, iv, version, expires_in, created_at = found
        return cls(encrypt_key, iv, version, expires_in, created_at * 1000)


@dataclass(frozen=True, slots=True)
class AuthResult:
    """The result of a login; `to_dict()` is the answer that mpauthx's clients expect.

    Attributes:
        status_code: StatusCode.success.
        status_message: a text for logs.
        response: the token; also as `token`.
        user: the user as stored.
        session: the token's session.
        is_new_user: whether this was the user's first login.
    """

    status_code: int
    status_message: str
    response: str = field(repr=False)
    user: User
    session: Session
    is_new_user: bool = False

    @property
    def token(self) -> str:
        """The token: the same as `response`."""
        return self.response

    def to_dict(self) -> dict[str, Any]:
        """The status code, the status message and the token."""
        return {
            "status_code": self.status_code,
            "status_message": self.status_message,
            "response": self.response,
        }


def _profile(payload: Mapping[str, Any]) -> dict[str, Any]:
    """The profile in the data of a mini-program or of `/sns/userinfo`, whose names differ."""
    get = payload.get
    return {
        "nick_name": profile_text(get("nickName", get("nickname"))),
        "gender": _gender(payload),
        "city": profile_text(get("city")),
        "province": profile_text(get("province")),
        "country": profile_text(get("country")),
        "language": profile_text(get("language")),
        "avatar_url": profile_text(get("avatarUrl", get("headimgurl"))),
    }


def _gender(payload: Mapping[str, Any]) -> int | None:
    value = payload.get("gender", payload.get("sex"))
    if "sex" in payload and value in ("0", "1", "2"):  # `/sns/userinfo` gives a number or its text
        value = int(value)
    return value if type(value) is int and value in (0, 1, 2) else None
