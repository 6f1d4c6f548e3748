"""The values that services and stores pass to each other and to the application."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

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
    "is_user_id",
]

_ANONYMOUS_NICK_NAME = "微信用户"
_MAX_SESSIONS = 1000  # of a user, because a login reads all of them
PROFILE_FIELDS = (
    "nick_name",
    "gender",
    "city",
    "province",
    "country",
    "language",
    "avatar_url",
)
"""The attributes of `User` that are its profile."""


class Subject(NamedTuple):
    """A user of one sku: whose sessions belong together."""

    sku: str
    user_id: str


class SessionRef(NamedTuple):
    """Names one session, and one of its tokens; it comes out of a verified token.

    `generation` tells how often the session's token had been rotated when this one was given out.
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
    """Who makes a request, proven by their token.

    Attributes:
        user_id: the id under which the token was issued: the user's unionId, or openId if they had
            none.
        session_id: the id of the token's session, as `Session.id` and `revoke_session` have it.
        sku: the project or build.
        token: the token itself. It is left out of the repr.
    """

    user_id: str
    session_id: str
    sku: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class LoginPolicy:
    """Which sessions of a user live side by side; by default the 100 newest.

    Attributes:
        max_sessions: how many sessions, from 1 to 1,000; when there are more, the oldest are
            replaced. It does not apply with shared_token.
        one_per_kind: whether a new session replaces those of the same kind of device. Logins that
            say neither device nor kind are of one kind.
        shared_token: whether a login while a session lives gives its token again, with its life
            begun anew, in place of a session of its own. It excludes one_per_kind.

    Raises:
        ConfigurationError: if an option is out of range or the options conflict.
    """

    max_sessions: int = 100
    one_per_kind: bool = False
    shared_token: bool = False

    def __post_init__(self) -> None:
        most = self.max_sessions
        if type(most) is not int or not 1 <= most <= _MAX_SESSIONS:
            raise ConfigurationError(
                f"max_sessions must be a whole number from 1 to {_MAX_SESSIONS:,}; leave it out "
                "for the default of 100."
            )
        if type(self.one_per_kind) is not bool or type(self.shared_token) is not bool:
            raise ConfigurationError("one_per_kind and shared_token must be True or False.")
        if self.shared_token and self.one_per_kind:
            raise ConfigurationError(
                "one_per_kind has no effect with shared_token, which keeps one session: choose one "
                "of the two."
            )


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session that is to begin; when that is, the store says.

    Attributes:
        ref: its name; its generation is 0.
        ttl: how long it lives, in milliseconds.
        policy: which sessions of the subject it ends, in the same step.
        sealed_key: WeChat's session key, encrypted, to be kept for as long as the session lives;
            None when there is none. A store that keeps none leaves it.
        device: what the user would know the device by, on one line without tabs.
        device_kind: such as phone or desktop, likewise; None when the device's name is its kind.
        absolute_ttl: how long it lives at most, however often it is renewed or rotated, in
            milliseconds; None leaves that to the arguments of `rotate` and `renew`.
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
    """A session that a store keeps. Times are Unix milliseconds, by the store's own clock.

    Attributes:
        ref: its name, with the generation of the token that is good now.
        issued_at: when it began.
        expires_at: when it ends unless it is renewed.
        device: what the user would know the device by; None when the login did not say.
        device_kind: such as phone or desktop; None when the login did not say.
        last_seen: when its life was last begun anew, by use, rotation or a login that shares it;
            None for one whose life never was.
        replaced: what its login ended, for whoever began it.
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
        """Names the session among those of its user, for as long as it lives. It is no secret."""
        return self.ref.nonce

    @property
    def user_id(self) -> str:
        return self.ref.user_id

    @property
    def sku(self) -> str:
        return self.ref.sku


@dataclass(frozen=True, slots=True)
class Ban:
    """That a user may not log in.

    Attributes:
        user_id: whom it is about.
        reason: why, as whoever banned them put it.
        banned_at: since when, in Unix milliseconds.
        until: when it ends by itself, in Unix milliseconds; None for never.
    """

    user_id: str
    reason: str
    banned_at: int
    until: int | None = None


class OnlinePage(NamedTuple):
    """Some of the users who are online, and where the next page begins; None after the last."""

    user_ids: Sequence[str]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class CodeSession:
    """What WeChat gives for a code.

    Attributes:
        open_id: the user in this app.
        session_key: base64 of the 16-byte key that seals the user's data. Never send it to a
            client.
        union_id: the user in all apps of one Open Platform account; None when this app is in none.
    """

    open_id: str
    session_key: str = field(repr=False)
    union_id: str | None = None


@dataclass(frozen=True, slots=True)
class User:
    """A person and the profile that WeChat gave of them; None or empty where it gave nothing.

    Attributes:
        open_id: the user in one app: of a login that app, from a store the one where they were
            first seen.
        union_id: the user in all apps of one Open Platform account.
        gender: 0 unknown, 1 male, 2 female.
        created_at: first login, in Unix milliseconds; None from a table without that column.
        updated_at: last change of what is stored, in Unix milliseconds, or None likewise.
        app_id: the app whose openId `open_id` is; None if it is not known.
        linked_ids: the person's other ids: openIds of other apps, and earlier unionIds.
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
    created_at: int | None = None
    updated_at: int | None = None
    app_id: str | None = None
    linked_ids: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The user id that tokens carry: the unionId where there is one, else the openId."""
        return self.union_id or self.open_id

    @property
    def ids(self) -> tuple[str, ...]:
        """All ids of the person, each once, `id` first."""
        return tuple(dict.fromkeys((self.id, self.open_id, *self.linked_ids)))

    @property
    def is_anonymous(self) -> bool:
        """Whether the profile is the stand-in that WeChat gives instead of a real one."""
        return self.nick_name == _ANONYMOUS_NICK_NAME

    @classmethod
    def from_wechat(
        cls,
        session: CodeSession,
        payload: Mapping[str, Any],
        now: int | None = None,
        app_id: str | None = None,
    ) -> "User":
        """Make a user of what WeChat gave.

        The ids are those that came with the code. Sealed data is not authenticated: clients know
        their session key and can seal any id with it.

        Args:
            session: what WeChat gave for the code.
            payload: the decrypted user data, for the profile; empty when the client sent the code
                alone.
            now: when this is, in Unix milliseconds, for a user who may be new.
            app_id: the app that the code is of.
        """
        if not payload:
            return cls(
                session.open_id, session.union_id, created_at=now, updated_at=now, app_id=app_id
            )
        get = payload.get
        return cls(
            session.open_id,
            session.union_id,
            profile_text(get("nickName")),
            _gender(get("gender")),
            profile_text(get("city")),
            profile_text(get("province")),
            profile_text(get("country")),
            profile_text(get("language")),
            profile_text(get("avatarUrl")),
            now,
            now,
            app_id,
        )

    def updated_by(self, newer: "User") -> "User":
        """This stored user, kept current by a newer login of the same person.

        A new value replaces an old one; an empty one never does, nor one of an anonymous profile.
        """
        changes = {}
        for name in PROFILE_FIELDS:
            new, old = getattr(newer, name), getattr(self, name)
            if new and new != old and not (old and newer.is_anonymous):
                changes[name] = new
        if newer.union_id and newer.union_id != self.union_id:
            changes["union_id"] = newer.union_id
        return replace(self, **changes) if changes else self


@dataclass(frozen=True, slots=True)
class OAuthToken:
    """What WeChat gives for the code of a web login.

    To keep it in a table of your own: `dataclasses.asdict(token)`, and `OAuthToken(**row)`.

    Attributes:
        open_id: the user in this app.
        access_token: opens the user's profile. Never send it to a client.
        refresh_token: gives new access tokens for 30 days. Never send it to a client.
        expires_in: how long the access token lives, in seconds.
        scope: what the user has granted, such as snsapi_userinfo.
        created_at: when it was asked for, in Unix milliseconds.
        union_id: the user in all apps of one Open Platform account; None when this app is in none.
        is_snapshot_user: whether this is a virtual account, behind which no particular user
            stands. Such a token is never stored.
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
            now: when this is, in Unix milliseconds; by default the real time.
        """
        now = time.time() * 1000 if now is None else now
        return bool(self.access_token) and now < self.created_at + self.expires_in * 1000


@dataclass(frozen=True, slots=True)
class OAuthUser:
    """The profile of a user of a web login; None where WeChat gave nothing.

    Not a `User`: that is a person as a store keeps them, and has no privileges.

    Attributes:
        open_id: the user in this app.
        union_id: the user in all apps of one Open Platform account; None when this app is in none.
        gender: 0 unknown, 1 male, 2 female.
        privilege: WeChat's names of the user's privileges, such as chinaunicom.
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
    privilege: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The user id: the unionId where there is one, else the openId."""
        return self.union_id or self.open_id

    @classmethod
    def from_wechat(
        cls, open_id: str, union_id: str | None, payload: Mapping[str, Any]
    ) -> "OAuthUser":
        """Make a user of what WeChat gave.

        Args:
            open_id: whose profile it is.
            union_id: the user's unionId, if WeChat gave one.
            payload: the profile of `/sns/userinfo`, or the decrypted data of a mini-program. Ids
                in it are ignored.
        """

        def get(name: str, name_in_mini_program: str = "") -> object:
            return payload.get(name, payload.get(name_in_mini_program))

        privilege, sex = get("privilege"), get("sex", "gender")
        return cls(
            open_id,
            union_id,
            profile_text(get("nickname", "nickName")),
            _gender(int(sex) if sex in ("0", "1", "2") else sex),
            profile_text(get("city")),
            profile_text(get("province")),
            profile_text(get("country")),
            profile_text(get("language")),
            profile_text(get("headimgurl", "avatarUrl")),
            tuple(
                filter(None, map(profile_text, privilege if isinstance(privilege, list) else ()))
            ),
        )


@dataclass(frozen=True, slots=True)
class PhoneNumber:
    """A user's phone number.

    Attributes:
        phone_number: with the country code, for a foreign number.
        pure_phone_number: without it.
        country_code: such as 86.
    """

    phone_number: str
    pure_phone_number: str
    country_code: str

    @classmethod
    def from_wechat(cls, payload: Mapping[str, Any]) -> "PhoneNumber | None":
        """Make a phone number of what WeChat gave; None if it is missing or malformed."""
        get = payload.get
        number, pure, country = get("phoneNumber"), get("purePhoneNumber"), get("countryCode")
        if not isinstance(number, str) or not number:
            return None
        texts = number, str(pure or number), str(country or "")
        return cls(*texts) if all(map(is_clean, texts)) else None


@dataclass(frozen=True, slots=True)
class UserEncryptKey:
    """A key that a mini-program's client and its server share, from `UserCryptoManager`.

    Attributes:
        encrypt_key: base64 of the key. The user's own client has it; send it to no other.
        iv: the initialization vector, a text of 16 characters.
        version: the key's number, which the client sends with what it encrypted.
        expires_in: for how many seconds from now the key is valid; 0 if it has expired.
        created_at: when it was made, in Unix milliseconds.
    """

    encrypt_key: str = field(repr=False)
    iv: str
    version: int
    expires_in: int
    created_at: int

    @classmethod
    def from_wechat(cls, key_info: object) -> "UserEncryptKey | None":
        """Make a key of an item of WeChat's `key_info_list`; None if it is malformed."""
        if not isinstance(key_info, Mapping):
            return None
        encrypt_key, iv = key_info.get("encrypt_key"), key_info.get("iv")
        version, expires_in = key_info.get("version"), key_info.get("expire_in")
        created_at = key_info.get("create_time")
        if (
            not is_credential(encrypt_key)
            or not is_credential(iv)
            or type(version) is not int
            or type(expires_in) is not int
            or type(created_at) is not int
        ):
            return None
        return cls(encrypt_key, iv, version, expires_in, created_at * 1000)


def _gender(value: object) -> int | None:
    return value if type(value) is int and value in (0, 1, 2) else None


@dataclass(frozen=True, slots=True)
class AuthResult:
    """What a login gave; `to_dict()` is the answer that mpauthx's clients know.

    Attributes:
        response: the token; also as `token`.
        user: the user as stored, for `authorize`.
        is_new_user: whether this was their first login ever.
        session: the session that the token stands for.
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
