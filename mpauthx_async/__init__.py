"""Login for WeChat mini-programs on asyncio."""

from .connections import Connections
from .constants import StatusCode
from .errors import (
    ClosedError,
    ConfigurationError,
    ConnectionFailedError,
    DecryptionError,
    EmptyResponseError,
    HTTPStatusError,
    IdentityMismatchError,
    IncompleteResponseError,
    InvalidResponseError,
    MPAuthXError,
    ParameterError,
    StoreError,
    UserNotFoundError,
    WeChatAPIError,
)
from .models import AuthResult, CodeSession, NewSession, Session, SessionRef, Subject, User
from .service import MPAuthX
from .simulator import SealedUserInfo, WeChatSimulator
from .stores import (
    RedisTokenStore,
    SqliteTokenStore,
    SqliteUserStore,
    TokenStore,
    UserStore,
)
from .userdata import decrypt_user_data, sign_user_state, verify_raw_data
from .wechat import WeChatAPI

__all__ = [
    "AuthResult",
    "ClosedError",
    "CodeSession",
    "ConfigurationError",
    "ConnectionFailedError",
    "Connections",
    "DecryptionError",
    "EmptyResponseError",
    "HTTPStatusError",
    "IdentityMismatchError",
    "IncompleteResponseError",
    "InvalidResponseError",
    "MPAuthX",
    "MPAuthXError",
    "NewSession",
    "ParameterError",
    "RedisTokenStore",
    "SealedUserInfo",
    "Session",
    "SessionRef",
    "SqliteTokenStore",
    "SqliteUserStore",
    "StatusCode",
    "StoreError",
    "Subject",
    "TokenStore",
    "User",
    "UserNotFoundError",
    "UserStore",
    "WeChatAPI",
    "WeChatAPIError",
    "WeChatSimulator",
    "decrypt_user_data",
    "sign_user_state",
    "verify_raw_data",
]
