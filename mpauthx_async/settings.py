"""Settings: the options of a service that are plain values, with defaults, units and checks."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .errors import ConfigurationError
from .models import LoginPolicy
from .untrusted_text import is_number

__all__ = ["Settings"]

_MAX_SECONDS = 315_360_000  # ten years
_MIN_TTL_SECONDS = 0.001


@dataclass(frozen=True, kw_only=True)  # without slots, so that defaults are readable attributes
class Settings:
    """The options of one service. `MPAuthX` says what each is for.

    Attributes:
        app_id: the app's AppID.
        app_secret: its secret.
        sku: the project or build that issues the tokens.
        policy: which sessions of a user may be active at once.
        signing_keys: the keys for tokens and for encryption, oldest to newest; None for the
            app_secret alone.
        token_ttl: how long a token lives, in seconds.
        absolute_ttl: how long a session lives at most, in seconds, when `token_ttl` counts from its
            last use; None when it counts from the login.
        rotation_grace: for how long a repeated rotation gets the same token, in seconds.
        login_timeout: how long a login may wait to begin, in seconds.
        max_waiting_logins: how many logins may wait to begin.
        clock: returns the time in Unix seconds.

    Raises:
        ConfigurationError: if an option cannot work.
    """

    app_id: str
    app_secret: str = field(repr=False)
    sku: str
    policy: LoginPolicy
    signing_keys: Sequence[str | bytes] | None = field(default=None, repr=False)
    token_ttl: float = 259_200
    absolute_ttl: float | None = None
    rotation_grace: float = 10.0
    login_timeout: float = 30.0
    max_waiting_logins: int = 10_000
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        """Check the options. The parts that use app_id, app_secret, sku and keys check these."""
        _check_seconds("token_ttl", self.token_ttl, _MIN_TTL_SECONDS)
        if self.absolute_ttl is not None:
            _check_seconds("absolute_ttl", self.absolute_ttl, self.token_ttl)
        _check_seconds("rotation_grace", self.rotation_grace, 0)
        if not isinstance(self.policy, LoginPolicy):
            raise ConfigurationError("policy must be a LoginPolicy.")
        _check_seconds("login_timeout", self.login_timeout, _MIN_TTL_SECONDS)
        if type(self.max_waiting_logins) is not int or self.max_waiting_logins < 1:
            raise ConfigurationError("max_waiting_logins must be a whole number above zero.")
        if not callable(self.clock):
            raise ConfigurationError("clock must be a function that returns Unix seconds.")

    @property
    def keys(self) -> Sequence[str | bytes]:
        """The keys for tokens and for encryption, oldest to newest."""
        return [self.app_secret] if self.signing_keys is None else self.signing_keys

    @property
    def token_ttl_ms(self) -> int:
        """`token_ttl` in milliseconds."""
        return int(self.token_ttl * 1000)

    @property
    def absolute_ttl_ms(self) -> int | None:
        """`absolute_ttl` in milliseconds."""
        return None if self.absolute_ttl is None else int(self.absolute_ttl * 1000)

    @property
    def rotation_grace_ms(self) -> int:
        """`rotation_grace` in milliseconds."""
        return int(self.rotation_grace * 1000)

    def now_ms(self) -> int:
        """The time in Unix milliseconds."""
        return int(self.clock() * 1000)


def _check_seconds(name: str, seconds: object, minimum: float) -> None:
    if not is_number(seconds, minimum, _MAX_SECONDS):
        raise ConfigurationError(
            f"{name} must be a number of seconds, at least {minimum} and up to ten years."
        )
