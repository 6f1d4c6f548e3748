"""State: the apps and their users, shared by all parts of WeChat's API."""

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .error_answers import Refused

__all__ = ["ANONYMOUS_PROFILE", "State", "User", "is_secret"]

ANONYMOUS_PROFILE: Mapping[str, str | int] = {
    "nickName": "微信用户",
    "gender": 0,
    **dict.fromkeys(("language", "city", "province", "country"), ""),
    "avatarUrl": "https://thirdwx.qlogo.cn/mmopen/vi_32/POgEwh4mIHO4nibH0KlMECNjjGxQUq24ZEaGT4po"
    "C6icRiccVGKSyXwibcPq4BWmiaIGuG1icwxaQX6grC9VemZoJ8rg/132",
}


@dataclass(slots=True)
class User:
    """A user of one app, or a member of a company in WeCom."""

    app_id: str
    open_id: str
    union_id: str | None = None
    session_key: str | None = field(default=None, repr=False)
    profile: Mapping[str, str | int] = field(default_factory=lambda: ANONYMOUS_PROFILE)
    blocked: bool = False
    minute_began: float = float("-inf")
    calls: int = 0

    def count_call(self, now: float) -> int:
        """Count a call; returns the number of calls in this minute."""
        if not 0 <= now - self.minute_began < 60:
            self.minute_began, self.calls = now, 0
        self.calls += 1
        return self.calls


class State:
    """The apps and their users."""

    def __init__(self, apps: Mapping[str, str], clock: Callable[[], float]) -> None:
        self.apps: dict[str, str] = dict(apps)
        self.clock = clock
        self._users: dict[tuple[str, str], User] = {}

    def app_id(self, app_id: str | None) -> str:
        """Return a known AppID, by default the first; raises LookupError if it is unknown."""
        if app_id is None:
            return next(iter(self.apps))
        if app_id not in self.apps:
            raise LookupError(
                f"The app {app_id!r} is unknown: pass it and its secret in other_apps."
            )
        return app_id

    def user(self, open_id: str, app_id: str, union_id: str | None = None) -> User:
        """Return a user, who may be new; a union_id replaces an earlier one."""
        if not open_id:
            raise ValueError("open_id must not be empty.")
        user = self._users.setdefault((app_id, open_id), User(app_id, open_id))
        user.union_id = union_id or user.union_id
        return user

    def known_user(self, open_id: str, app_id: str) -> User | None:
        """Return a user of this app; None if they are unknown."""
        return self._users.get((app_id, open_id))

    def authenticate(self, parameters: Mapping[str, Any]) -> str:
        """Return the app of `appid` and `secret`.

        Raises Refused: 41002 appid missing, 40013 invalid, 41004 secret missing, 40125 invalid.
        """
        app_id, secret = self.check_app_id(parameters), parameters.get("secret")
        if not secret:
            raise Refused(41004)
        if not is_secret(secret, self.apps[app_id]):
            raise Refused(40125)
        return app_id

    def check_app_id(self, parameters: Mapping[str, Any]) -> str:
        """Return the app of `appid`; raises Refused: 41002 appid missing, 40013 invalid."""
        app_id = parameters.get("appid")
        if not app_id:
            raise Refused(41002)
        if not isinstance(app_id, str) or app_id not in self.apps:
            raise Refused(40013)
        return app_id


def is_secret(given: object, secret: str) -> bool:
    """Whether a client sent this secret."""
    # aiohttp's pure Python parser gives bytes that are not UTF-8 as lone surrogates.
    return hmac.compare_digest(str(given).encode(errors="replace"), secret.encode())
