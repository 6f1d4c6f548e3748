"""WeChat's errcodes: WeChat's text, the error class, its HTTP status, and a hint at what to do.

An errcode may mean different things in different calls: 40029 is an invalid code of wx.login in
one, and of the phone number button in another. So calls may have entries of their own.

Sources: https://developers.weixin.qq.com/doc/oplatform/developers/errCode/errCode.html and, for
WeCom, https://developer.work.weixin.qq.com/document/path/90313
"""

from collections.abc import Mapping
from typing import NamedTuple

from ..errors import WeChatAPIError, WeChatOperatorError, WeChatRefusedError, WeChatUnavailableError

__all__ = [
    "ERRCODES",
    "INVALID_SIGNATURE",
    "STALE_TOKEN",
    "SYSTEM_BUSY",
    "WECOM_ERRMSGS",
    "Errcode",
    "consumes_code",
    "wechat_error",
]

SYSTEM_BUSY = -1
STALE_TOKEN = frozenset({40001, 40014, 42001})
"""The errcodes of an access token that has to be replaced by a new one."""
INVALID_SIGNATURE = 87009
"""The errcode of a signature with a session key that is not the user's current one."""

_WECOM_LOGIN = "/cgi-bin/miniprogram/jscode2session"
_PLATFORM_LOGIN = "/sns/component/jscode2session"
_PLATFORM_WEB_LOGIN = "/sns/oauth2/component/access_token"
_PHONE_NUMBER = "/wxa/business/getuserphonenumber"
_EXCHANGES = (
    "/sns/jscode2session",
    "/sns/oauth2/access_token",
    _PLATFORM_LOGIN,
    _PLATFORM_WEB_LOGIN,
    _WECOM_LOGIN,
)


class Errcode(NamedTuple):
    """What an errcode means; `errmsg` is WeChat's text, empty if it is not recorded."""

    kind: type[WeChatAPIError]
    hint: str
    errmsg: str
    http_status: int
    retryable: bool = False


def _refused(hint: str, errmsg: str = "", *, http_status: int = 400) -> Errcode:
    return Errcode(WeChatRefusedError, hint, errmsg, http_status)


def _unavailable(hint: str, errmsg: str = "", *, http_status: int = 503) -> Errcode:
    return Errcode(WeChatUnavailableError, hint, errmsg, http_status, retryable=True)


def _operator(hint: str, errmsg: str = "") -> Errcode:
    return Errcode(WeChatOperatorError, hint, errmsg, http_status=502)


_IP_LIST = "add this server's public IP address to the list in WeChat's admin console"
_AUTHORIZE_AGAIN = "the user has to authorize again"
_STALE_APP = (
    "The app's access token is not valid. If another program fetches tokens for this app, it "
    "invalidates this one: let all programs use access_token() or stable_token."
)
_STALE_USER = f"The user's web access token is not valid: refresh it, or {_AUTHORIZE_AGAIN}."
_STALE_COMPONENT = (
    "The component_access_token of the third-party platform is not valid: the function that "
    "returns it has to renew it."
)
_STALE_WECOM = (
    "The access token of the company's application is not valid: the function that returns it "
    "has to renew it."
)
_WRONG_METHOD = (
    "WeChat received another HTTP method than this server sent. Check for a proxy, a gateway, or "
    "a redirect at api_base."
)
_IP_UNCONFIRMED = (
    "An administrator has to confirm that this server's IP address may call: WeChat has sent them "
    "a message."
)
_IP_REFUSED = (
    "An administrator has refused calls from this server's IP address: ask them to allow it, and "
    "wait an hour (89507) or a day (89506)."
)

ERRCODES: Mapping[int, Errcode] = {
    SYSTEM_BUSY: _unavailable("WeChat is busy: wait a moment.", "system error"),
    40001: _operator(
        "Check app_secret: it is wrong, or was reset in WeChat's admin console.",
        "invalid credential, access_token is invalid or not latest",
    ),
    40002: _operator("grant_type must be authorization_code.", "invalid grant_type"),
    40003: _refused(
        "This openid does not belong to the app, or to the user of the access token. "
        "Use the open_id and the app_id that came with the token.",
        "invalid openid",
    ),
    40013: _operator("Check app_id; the client must run under the same AppID.", "invalid appid"),
    40014: _operator(_STALE_APP, "invalid access_token"),
    40029: _refused(
        "The code is unknown, older than 5 minutes or another app's. Get a new one (wx.login or "
        "the authorize page) and check that client and server use the same AppID.",
        "invalid code",
    ),
    40030: _refused(
        f"The refresh token was not issued to this app, or was withdrawn: {_AUTHORIZE_AGAIN}.",
        "invalid refresh_token",
        http_status=401,
    ),
    40066: _operator("WeChat does not know this path: check api_base.", "invalid url"),
    40094: _operator(
        "The component_access_token is not one of this third-party platform: check that "
        "component_app_id and the function that returns the token belong together.",
        "invalid component credential",
    ),
    40125: _operator(
        "Check app_secret; it may have been reset in WeChat's admin console.", "invalid appsecret"
    ),
    40163: _refused(
        "A code works once: the client or a proxy sent it twice. Get a new one (wx.login or the "
        "authorize page).",
        "code been used",
    ),
    40164: _operator(f"This server's IP address is not allowed: {_IP_LIST} for the app."),
    40226: _refused(
        "WeChat considers this user high-risk and blocks the login.",
        "code blocked",
        http_status=403,
    ),
    40243: _operator(
        "The app_secret is frozen. Unfreeze it in WeChat's admin console, or reset it there and "
        "configure the new one."
    ),
    41001: _operator("The access token is missing.", "access_token missing"),
    41002: _operator("app_id is missing.", "appid missing"),
    41003: _refused(
        "The refresh token is missing: pass the refresh_token that came with the access token.",
        "refresh_token missing",
    ),
    41004: _operator("app_secret is missing.", "appsecret missing"),
    41008: _refused("The code is missing.", "missing code"),
    41009: _operator(
        "The openid is missing. Check for a proxy or gateway that drops parameters.",
        "missing openid",
    ),
    41018: _operator(
        "component_app_id is missing: pass ComponentExchange the AppID of the third-party "
        "platform.",
        "missing component_appid",
    ),
    42001: _operator(_STALE_APP, "access_token expired"),
    42002: _refused(
        f"The refresh token has expired, 30 days after the user authorized: {_AUTHORIZE_AGAIN}.",
        "refresh_token expired",
        http_status=401,
    ),
    42007: _refused(
        f"The user changed their password, which ended their tokens: {_AUTHORIZE_AGAIN}.",
        http_status=401,
    ),
    43001: _operator(_WRONG_METHOD, "require GET method"),
    43002: _operator(_WRONG_METHOD, "require POST method"),
    44002: _operator("", "empty post data"),
    45009: _unavailable(
        "The day's quota of calls is used up. It starts again at midnight in China.",
        "reach max api daily quota limit",
    ),
    45011: _unavailable(
        "Too many calls in this minute; a user may log in 100 times. Keep the token instead of "
        "logging in for each request.",
        "api minute-quota reach limit, must slower, retry next minute",
        http_status=429,
    ),
    47001: _operator("", "data format error"),
    48001: _operator(
        "The app may not make this call. Check its permissions in WeChat's admin console; some "
        "need a verified account.",
        "api unauthorized",
    ),
    50001: _operator(
        "The account is not authorized to make this call. Check its permissions in WeChat's admin "
        "console."
    ),
    50002: _operator(
        "The account is restricted: frozen, moved or cancelled. Check it in WeChat's admin console."
    ),
    50004: _operator(
        "The account may not fetch access tokens. Check it in WeChat's admin console, or ask "
        "WeChat's support with the rid."
    ),
    50007: _operator("The account is frozen. Check it in WeChat's admin console."),
    60020: _operator(
        "This server's IP address is not allowed: add it to the trusted IP addresses of the "
        "application in WeCom's admin console."
    ),
    61003: _operator(
        "The account has not authorized this third-party platform, or has withdrawn it: its "
        "administrator has to authorize the platform again.",
        "component is not authorized by this account",
    ),
    61004: _operator(
        f"This server's IP address is not registered: {_IP_LIST} for the third-party platform."
    ),
    61023: _operator(
        "The authorizer_refresh_token of the third-party platform is not valid: the account's "
        "administrator has to authorize the platform again."
    ),
    87008: _operator("", "invalid sig_method"),
    INVALID_SIGNATURE: _refused(
        "The signature is invalid: WeChat has replaced the session key, so the client has to log "
        "in again.",
        "invalid signature",
        http_status=401,
    ),
    89501: _operator(_IP_UNCONFIRMED),
    89503: _operator(_IP_UNCONFIRMED),
    89506: _operator(_IP_REFUSED),
    89507: _operator(_IP_REFUSED),
}
"""The meaning of each errcode, in calls that have no entry of their own for it."""

WECOM_ERRMSGS: Mapping[int, str] = {
    40001: "invalid credential",
    40013: "invalid corpid",
    41002: "corpid missing",
    41004: "corpsecret missing",
}
"""WeCom's texts where they differ from WeChat's."""

_UNKNOWN = _operator("")

# The code that the client sent is invalid, so it has to log in again.
_EXCHANGE = {
    **{errcode: ERRCODES[errcode]._replace(http_status=401) for errcode in (40029, 40163, 41008)},
    45009: ERRCODES[45009]._replace(retryable=False),  # a code does not live until midnight
}
_INVALID_WECOM_CODE = _refused(
    "The code is unknown, used, older than 5 minutes or another mini-program's. Get a new one with "
    "wx.qy.login.",
    http_status=401,
)
_NOT_VISIBLE = _operator(
    "The application is not visible to this member. Extend its range in WeCom's admin console."
)
_WECOM_EXCHANGE = {
    **_EXCHANGE,
    **dict.fromkeys((*STALE_TOKEN, 41001), _operator(_STALE_WECOM)),
    40029: _INVALID_WECOM_CODE,
    42022: _INVALID_WECOM_CODE,
    45009: _unavailable(
        "The company or its application makes too many calls. WeCom accepts them again after the "
        "minute, hour or day of the limit that was reached."
    ),
    50001: _operator(
        "The code was issued in another application of the company than the access token. Use the "
        "token of the application that the mini-program is linked to."
    ),
    50002: _NOT_VISIBLE,
    50003: _operator("The application is disabled. Enable it in WeCom's admin console."),
    60021: _NOT_VISIBLE,
}
_USER_TOKEN = {
    **dict.fromkeys((*STALE_TOKEN, 41001), _refused(_STALE_USER, http_status=401)),
    48001: _refused(
        "The user has not granted this. Authorize with the scope snsapi_userinfo (snsapi_login on "
        "a website); an Official Account must be a verified one.",
        http_status=403,
    ),
    50001: _refused(
        f"The user has not authorized this, or has withdrawn it: {_AUTHORIZE_AGAIN}.",
        http_status=403,
    ),
}
_COMPONENT_TOKEN = dict.fromkeys(STALE_TOKEN, _operator(_STALE_COMPONENT))
_APP_TOKEN = {40001: _operator(_STALE_APP)}
_PHONE_CODE = _refused(
    "This is not an unused code of the phone number button: send the code of its getPhoneNumber "
    "event (bindgetphonenumber), which works once within 5 minutes, and not that of wx.login."
)

_CALLS: Mapping[str, Mapping[int, Errcode]] = {
    **dict.fromkeys(_EXCHANGES, _EXCHANGE),
    _WECOM_LOGIN: _WECOM_EXCHANGE,
    _PLATFORM_LOGIN: {**_EXCHANGE, **_COMPONENT_TOKEN},
    _PLATFORM_WEB_LOGIN: {**_EXCHANGE, **_COMPONENT_TOKEN},
    "/sns/oauth2/component/refresh_token": _COMPONENT_TOKEN,
    "/sns/userinfo": _USER_TOKEN,
    "/sns/auth": _USER_TOKEN,
    _PHONE_NUMBER: {**_APP_TOKEN, 40029: _PHONE_CODE, 45009: _EXCHANGE[45009]},
    "/wxa/checksession": _APP_TOKEN,
    "/wxa/resetusersessionkey": _APP_TOKEN,
    "/wxa/business/getuserencryptkey": _APP_TOKEN,
}


def consumes_code(path: str) -> bool:
    """Whether a call uses up a code of the client, so that it cannot simply be repeated."""
    return path in _EXCHANGES or path == _PHONE_NUMBER


def wechat_error(
    errcode: int, errmsg: str, *, rid: str | None, path: str, ip: str | None = None
) -> WeChatAPIError:
    """The error for an answer with an errcode, whose meaning may depend on the path of the call.

    An unknown errcode becomes a WeChatOperatorError: a client that logs in again would not help.
    `ip` is the address from which WeChat says that the call came.
    """
    meaning = _CALLS.get(path, {}).get(errcode) or ERRCODES.get(errcode, _UNKNOWN)
    hint = meaning.hint
    if ip is not None and "IP address" in hint:
        hint = f"{hint} WeChat saw {ip}."
    error = meaning.kind(errcode, errmsg, rid=rid, hint=hint)
    error.http_status, error.retryable = meaning.http_status, meaning.retryable
    return error
