"""The test suite for token stores."""

from .bans import Bans
from .login_policies import LoginPolicies
from .online_users import OnlineUsers
from .renewal import Renewal
from .rotation import Rotation
from .session_deaths import SessionDeaths
from .session_lives import SessionLives

__all__ = ["TokenStoreConformance"]


class TokenStoreConformance(
    SessionLives, LoginPolicies, SessionDeaths, Rotation, Renewal, Bans, OnlineUsers
):
    """Tests of the contract of `TokenStore`."""
