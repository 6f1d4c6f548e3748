"""Login for WeChat mini-programs on asyncio."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .apps import AppOptions, Apps
from .connections import Connections
from .constants import StatusCode, TokenStatus
from .errors import (
    BannedError,
    ClosedError,
    ConfigurationError,
    ConnectionFailedError,
    DecryptionError,
    EmptyResponseError,
    HTTPStatusError,
    IdentityMismatchError,
    IncompleteResponseError,
    InvalidPushEventError,
    InvalidResponseError,
    InvalidStateError,
    InvalidTokenError,
    MPAuthXError,
    NoOAuthTokenError,
    OperatorError,
    OverloadedError,
    ParameterError,
    PartialStoreError,
    RefusedError,
    SessionKeyLostError,
    SnapshotUserError,
    StoreError,
    UnavailableError,
    UnknownAppError,
    UserNotFoundError,
    WeChatAPIError,
    WeChatOperatorError,
    WeChatRefusedError,
    WeChatUnavailableError,
)
from .events import PushEvent
from .gauges import Gauges
from .models import (
    AuthResult,
    Ban,
    CodeSession,
    Identity,
    LoginPolicy,
    NewSession,
    OAuthToken,
    OAuthUser,
    OnlinePage,
    PhoneNumber,
    Session,
    SessionRef,
    Subject,
    User,
    UserEncryptKey,
    WeChatProfile,
)
from .oauth.client import WeChatOAuth
from .service import MPAuthX
from .settings import Settings
from .stores import (
    KeyValueOAuthTokenStore,
    KeyValueStore,
    OAuthTokenStore,
    RedisKeyValueStore,
    RedisTokenStore,
    SessionKeyStore,
    SqliteKeyValueStore,
    SqliteTokenStore,
    SqliteUserStore,
    TokenStore,
    UserStore,
)
from .wechat.access_token import AppAccessToken
from .wechat.api import WeChatAPI
from .wechat.exchanges import (
    CodeExchange,
    ComponentExchange,
    MiniProgramExchange,
    WebExchange,
    WeComExchange,
)
from .wechat.push_events import parse_push_event, verify_push_url
from .wechat.userdata import decrypt_user_data, sign_user_state, verify_raw_data

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .simulator import SealedUserInfo, WeChatSimulator

__all__ = [
    "AppAccessToken",
    "AppOptions",
    "Apps",
    "AuthResult",
    "Ban",
    "BannedError",
    "ClosedError",
    "CodeExchange",
    "CodeSession",
    "ComponentExchange",
    "ConfigurationError",
    "ConnectionFailedError",
    "Connections",
    "DecryptionError",
    "EmptyResponseError",
    "Gauges",
    "HTTPStatusError",
    "Identity",
    "IdentityMismatchError",
    "IncompleteResponseError",
    "InvalidPushEventError",
    "InvalidResponseError",
    "InvalidStateError",
    "InvalidTokenError",
    "KeyValueOAuthTokenStore",
    "KeyValueStore",
    "LoginPolicy",
    "MPAuthX",
    "MPAuthXError",
    "MiniProgramExchange",
    "NewSession",
    "NoOAuthTokenError",
    "OAuthToken",
    "OAuthTokenStore",
    "OAuthUser",
    "OnlinePage",
    "OperatorError",
    "OverloadedError",
    "ParameterError",
    "PartialStoreError",
    "PhoneNumber",
    "PushEvent",
    "RedisKeyValueStore",
    "RedisTokenStore",
    "RefusedError",
    "SealedUserInfo",
    "Session",
    "SessionKeyLostError",
    "SessionKeyStore",
    "SessionRef",
    "Settings",
    "SnapshotUserError",
    "SqliteKeyValueStore",
    "SqliteTokenStore",
    "SqliteUserStore",
    "StatusCode",
    "StoreError",
    "Subject",
    "TokenStatus",
    "TokenStore",
    "UnavailableError",
    "UnknownAppError",
    "User",
    "UserEncryptKey",
    "UserNotFoundError",
    "UserStore",
    "WeChatAPI",
    "WeChatAPIError",
    "WeChatOAuth",
    "WeChatOperatorError",
    "WeChatProfile",
    "WeChatRefusedError",
    "WeChatSimulator",
    "WeChatUnavailableError",
    "WeComExchange",
    "WebExchange",
    "__version__",
    "decrypt_user_data",
    "parse_push_event",
    "sign_user_state",
    "verify_push_url",
    "verify_raw_data",
]


def __getattr__(name: str) -> Any:
    """Import the simulator when it is first used, so that servers in production do not load it."""
    if name not in _SIMULATOR_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(".simulator", __name__), name)


_SIMULATOR_NAMES = ("SealedUserInfo", "WeChatSimulator")
