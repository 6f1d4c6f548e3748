"""Settings: the options of one service, checked where they are declared."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from .errors import ConfigurationError
from .models import LoginPolicy

__all__ = ["Settings"]

_MAX_SECONDS = 315_360_000  # ten years
_MIN_TTL = 0.001  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The options of one service. `MPAuthX` says what each is for.

    Attributes:
        app_id: the app's AppID.
        sku: the project or build whose tokens these are.
        token_ttl: how long a token lives, in seconds.
        absolute_ttl: how long a session lives at most, in seconds, when its life counts from its
            last use; None when it counts from the login.
        rotation_grace: for how long a repeated rotation gets the same token, in seconds.
        policy: which sessions of a user live side by side.
        login_timeout: how long a login may wait to begin, in seconds.
        max_waiting_logins: how many logins may wait to begin.
        clock: tells the time in Unix seconds.

    Raises:
        ConfigurationError: for options that cannot work.
    """

    app_id: str
    sku: str
    token_ttl: float = 259_200
    absolute_ttl: float | None = None
    rotation_grace: float = 10.0
    policy: LoginPolicy
    login_timeout: float = 30.0
    max_waiting_logins: int = 10_000
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        """Check the options; app_id and sku are checked by those who use them."""
        _check_seconds("token_ttl", self.token_ttl, _MIN_TTL)
        if self.absolute_ttl is not None:
            _check_seconds("absolute_ttl", self.absolute_ttl, self.token_ttl)
        _check_seconds("rotation_grace", self.rotation_grace, 0)
        if not isinstance(self.policy, LoginPolicy):
            raise ConfigurationError("policy must be a LoginPolicy.")
        _check_seconds("login_timeout", self.login_timeout, _MIN_TTL)
        if type(self.max_waiting_logins) is not int or self.max_waiting_logins < 1:
            raise ConfigurationError("max_waiting_logins must be a whole number above zero.")
        if not callable(self.clock):
            raise ConfigurationError("clock must be a function that returns Unix seconds.")

    @property
    def token_ttl_ms(self) -> int:
        """How long a token lives, in milliseconds."""
        return int(self.token_ttl * 1000)

    @property
    def absolute_ttl_ms(self) -> int | None:
        """How long a session lives at most, in milliseconds; None for no such end."""
        return None if self.absolute_ttl is None else int(self.absolute_ttl * 1000)

    @property
    def rotation_grace_ms(self) -> int:
        """For how long a repeated rotation gets the same token, in milliseconds."""
        return int(self.rotation_grace * 1000)


def _check_seconds(name: str, seconds: object, least: float) -> None:
    if (
        isinstance(seconds, bool)
        or not isinstance(seconds, (int, float))
        or not least <= seconds <= _MAX_SECONDS
    ):
        raise ConfigurationError(
            f"{name} must be a number of seconds, at least {least} and up to ten years."
        )
