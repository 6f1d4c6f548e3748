"""WeChat's errcodes: how WeChat words each, whose fault it is, and what can be done about it.

The same errcode means different things in different calls: 40029 is a wrong code of wx.login in one
call, and of the phone number button in another. So calls may have meanings of their own.

Sources: https://developers.weixin.qq.com/doc/oplatform/developers/errCode/errCode.html and, for
WeCom, https://developer.work.weixin.qq.com/document/path/90313
"""

from collections.abc import Mapping
from typing import NamedTuple

from ..errors import (
    WeChatAPIError,
    WeChatOperatorError,
    WeChatRefusedError,
    WeChatUnavailableError,
)

__all__ = [
    "ERRMSGS",
    "INVALID_SIGNATURE",
    "STALE_TOKEN",
    "SYSTEM_BUSY",
    "WECOM_ERRMSGS",
    "consumes_code",
    "refusal",
]

SYSTEM_BUSY = -1
STALE_TOKEN = frozenset({40001, 40014, 42001})
"""The errcodes of an access token that a new one may cure."""
INVALID_SIGNATURE = 87009
"""The errcode of a signature by another session key than the user's."""

_WECOM = "/cgi-bin/miniprogram/jscode2session"
_EXCHANGES = (
    _WECOM,
    "/sns/component/jscode2session",
    "/sns/jscode2session",
    "/sns/oauth2/access_token",
    "/sns/oauth2/component/access_token",
)
_PHONE_NUMBER = "/wxa/business/getuserphonenumber"


class _Meaning(NamedTuple):
    kind: type[WeChatAPIError]
    http_status: int
    hint: str
    retryable: bool


def _refused(hint: str, http_status: int = 400) -> _Meaning:
    return _Meaning(WeChatRefusedError, http_status, hint, retryable=False)


def _unavailable(hint: str, http_status: int = 503, *, retryable: bool = True) -> _Meaning:
    return _Meaning(WeChatUnavailableError, http_status, hint, retryable)


def _operator(hint: str) -> _Meaning:
    return _Meaning(WeChatOperatorError, 502, hint, retryable=False)


ERRMSGS: Mapping[int, str] = {
    -1: "system error",
    40001: "invalid credential, access_token is invalid or not latest",
    40002: "invalid grant_type",
    40003: "invalid openid",
    40013: "invalid appid",
    40014: "invalid access_token",
    40029: "invalid code",
    40030: "invalid refresh_token",
    40066: "invalid url",
    40094: "invalid component credential",
    40125: "invalid appsecret",
    40163: "code been used",
    40226: "code blocked",
    41001: "access_token missing",
    41002: "appid missing",
    41003: "refresh_token missing",
    41004: "appsecret missing",
    41008: "missing code",
    41009: "missing openid",
    41018: "missing component_appid",
    42001: "access_token expired",
    42002: "refresh_token expired",
    43001: "require GET method",
    43002: "require POST method",
    44002: "empty post data",
    45009: "reach max api daily quota limit",
    45011: "api minute-quota reach limit, must slower, retry next minute",
    47001: "data format error",
    48001: "api unauthorized",
    61003: "component is not authorized by this account",
    87008: "invalid sig_method",
    87009: "invalid signature",
}
"""How WeChat words its errcodes."""

WECOM_ERRMSGS: Mapping[int, str] = {
    40001: "invalid credential",
    40013: "invalid corpid",
    41002: "corpid missing",
    41004: "corpsecret missing",
}
"""How WeCom words those for which it has words of its own."""

_IP_LIST = "add this server's public IP address to the list that WeChat's admin console keeps"
_AUTHORIZE_AGAIN = "the user has to authorize again"
_STALE_APP = (
    "The app's access token is not valid. Something else may fetch the app's token, which ends "
    "this one: let all use access_token() or stable_token."
)
_STALE_USER = f"The user's web access token is not valid: refresh it, or {_AUTHORIZE_AGAIN}."

_WRONG_METHOD = _operator(
    "WeChat got the call with another HTTP method than it was sent with. Check what stands between "
    "this server and WeChat: a proxy, a gateway, or a redirect at api_base."
)

_MEANINGS: Mapping[int, _Meaning] = {
    SYSTEM_BUSY: _unavailable(
        "WeChat is busy. No code was consumed, so the same call can be made again."
    ),
    40001: _operator("Check app_secret: it is wrong, or was reset in WeChat's admin console."),
    40002: _operator("grant_type must be authorization_code."),
    40003: _refused(
        "This openid does not belong to the app, or to the user of the access token. "
        "Use the open_id and the app_id that came with the token."
    ),
    40013: _operator("Check app_id; the client must run under the same AppID."),
    40014: _operator(_STALE_APP),
    40029: _refused(
        "The code is unknown, older than 5 minutes or another app's. Get a new one (wx.login or "
        "the authorize page) and check that client and server use the same AppID."
    ),
    40030: _refused(
        f"The refresh token was not issued to this app, or was withdrawn: {_AUTHORIZE_AGAIN}.",
        401,
    ),
    40066: _operator("WeChat does not know this path: check api_base."),
    40094: _operator(
        "The component_access_token is not one of this third-party platform: check that "
        "component_app_id and the function that returns the token belong together."
    ),
    40125: _operator("Check app_secret; it may have been reset in WeChat's admin console."),
    40163: _refused(
        "A code works once: the client or a proxy sent it twice. Get a new one (wx.login or the "
        "authorize page)."
    ),
    40164: _operator(f"This server's IP address is not allowed: {_IP_LIST} for the app."),
    40226: _refused("WeChat holds this user for high-risk and blocks the login.", 403),
    40243: _operator(
        "The app_secret is frozen. Unfreeze it in WeChat's admin console, or reset it there and "
        "configure the new one."
    ),
    41001: _operator("The access token is missing."),
    41002: _operator("app_id is missing."),
    41003: _refused(
        "The refresh token is missing: pass the refresh_token that came with the access token."
    ),
    41004: _operator("app_secret is missing."),
    41008: _refused("The code is missing."),
    41009: _operator(
        "The openid is missing. Check what stands between this server and WeChat: a proxy or "
        "gateway that drops parameters."
    ),
    41018: _operator(
        "component_app_id is missing: pass ComponentExchange the AppID of the third-party platform."
    ),
    42001: _operator(_STALE_APP),
    42002: _refused(
        f"The refresh token has expired, 30 days after the user authorized: {_AUTHORIZE_AGAIN}.",
        401,
    ),
    42007: _refused(
        f"The user changed their password, which ended their tokens: {_AUTHORIZE_AGAIN}.", 401
    ),
    **dict.fromkeys((43001, 43002), _WRONG_METHOD),
    45009: _unavailable(
        "The day's number of calls is used up. It begins anew at midnight in China."
    ),
    45011: _unavailable(
        "Too many calls in this minute; a user may log in 100 times. Keep the token instead of "
        "logging in for each request.",
        429,
    ),
    48001: _operator(
        "The app may not make this call. Check its permissions in WeChat's admin console; some "
        "need a verified account."
    ),
    50001: _operator(
        "The account is not authorized to make this call. Check its permissions in WeChat's admin "
        "console."
    ),
    50002: _operator(
        "The account is restricted: frozen, moved or cancelled. Look in WeChat's admin console."
    ),
    50004: _operator(
        "The account may not fetch access tokens. Look in WeChat's admin console, or ask WeChat's "
        "support with the rid."
    ),
    50007: _operator("The account is frozen. Look in WeChat's admin console."),
    60020: _operator(
        "This server's IP address is not allowed: add it to the trusted IP addresses of the "
        "application in WeCom's admin console."
    ),
    61003: _operator(
        "The account has not authorized this third-party platform, or has withdrawn it: its "
        "administrator has to authorize the platform again."
    ),
    61004: _operator(
        f"This server's IP address is not registered: {_IP_LIST} for the third-party platform."
    ),
    61023: _operator(
        "The authorizer_refresh_token of the third-party platform is not valid: the account's "
        "administrator has to authorize the platform again."
    ),
    87009: _refused(
        "The signature does not fit: WeChat has replaced the session key, so the client has to "
        "log in again.",
        401,
    ),
    **dict.fromkeys(
        (89501, 89503),
        _operator(
            "An administrator has to confirm that this server's IP address may call: WeChat has "
            "sent them a message."
        ),
    ),
    **dict.fromkeys(
        (89506, 89507),
        _operator(
            "An administrator has refused calls from this server's IP address: ask them to allow "
            "it, and wait an hour (89507) or a day (89506)."
        ),
    ),
}
_UNKNOWN = _operator("")

# Where the code that the client sent is wrong, it has to log in again with another one.
_OF_EXCHANGES = {
    errcode: _MEANINGS[errcode]._replace(http_status=401) for errcode in (40029, 40163, 41008)
} | {45009: _MEANINGS[45009]._replace(retryable=False)}  # no code lives until midnight
_OF_WECOM = {
    **_OF_EXCHANGES,
    **dict.fromkeys(
        (40001, 40014, 41001, 42001),
        _operator(
            "The access token of the company's application is not valid: the function that returns "
            "it has to renew it."
        ),
    ),
    **dict.fromkeys(
        (40029, 42022),
        _refused(
            "The code is unknown, used, older than 5 minutes or another mini-program's. Get a new "
            "one with wx.qy.login.",
            401,
        ),
    ),
    45009: _unavailable(
        "The company or its application makes too many calls. WeCom takes them again after the "
        "minute, hour or day of the limit that was reached."
    ),
    50001: _operator(
        "The code was issued in another application of the company than the access token. Use the "
        "token of the application that the mini-program is linked to."
    ),
    50003: _operator("The application is disabled. Enable it in WeCom's admin console."),
    **dict.fromkeys(
        (50002, 60021),
        _operator(
            "The application is not visible to this member. Extend its range in WeCom's admin "
            "console."
        ),
    ),
}
_OF_USER_TOKENS = {
    **{errcode: _refused(_STALE_USER, 401) for errcode in (40001, 40014, 41001, 42001)},
    48001: _refused(
        "The user has not granted this. Authorize with the scope snsapi_userinfo (snsapi_login on "
        "a website); an Official Account must be a verified one.",
        403,
    ),
    50001: _refused(f"The user has not authorized this, or no longer: {_AUTHORIZE_AGAIN}.", 403),
}
_OF_COMPONENT_TOKENS = dict.fromkeys(
    (40001, 40014, 42001),
    _operator(
        "The component_access_token of the third-party platform is not valid: the function that "
        "returns it has to renew it."
    ),
)
_OF_CALLS: Mapping[str, Mapping[int, _Meaning]] = {
    **dict.fromkeys(_EXCHANGES, _OF_EXCHANGES),
    _WECOM: _OF_WECOM,
    "/sns/component/jscode2session": {**_OF_EXCHANGES, **_OF_COMPONENT_TOKENS},
    "/sns/oauth2/component/access_token": {**_OF_EXCHANGES, **_OF_COMPONENT_TOKENS},
    "/sns/oauth2/component/refresh_token": _OF_COMPONENT_TOKENS,
    "/sns/userinfo": _OF_USER_TOKENS,
    "/sns/auth": _OF_USER_TOKENS,
    _PHONE_NUMBER: {
        40001: _operator(_STALE_APP),
        40029: _refused(
            "This is not an unused code of the phone number button: send the code of its "
            "getPhoneNumber event (bindgetphonenumber), which works once within 5 minutes, and "
            "not that of wx.login."
        ),
        45009: _OF_EXCHANGES[45009],
    },
    "/wxa/checksession": {40001: _operator(_STALE_APP)},
    "/wxa/resetusersessionkey": {40001: _operator(_STALE_APP)},
    "/wxa/business/getuserencryptkey": {40001: _operator(_STALE_APP)},
}


def consumes_code(path: str) -> bool:
    """Whether a call uses up a code of the client's, so that it cannot simply be repeated."""
    return path in _EXCHANGES or path == _PHONE_NUMBER


def refusal(
    errcode: int, errmsg: str, *, rid: str | None, path: str, ip: str | None = None
) -> WeChatAPIError:
    """The error of a call that WeChat refused.

    An errcode that is not known here counts as the operator's fault: a client that logged in again
    would not mend it.

    Args:
        errcode: WeChat's number.
        errmsg: its text, without rid.
        rid: the request's id.
        path: the path of the call, which decides what some errcodes mean.
        ip: the address from which WeChat says that the call came.
    """
    meaning = _OF_CALLS.get(path, {}).get(errcode) or _MEANINGS.get(errcode, _UNKNOWN)
    hint = meaning.hint
    if ip is not None and "IP address" in hint:
        hint = f"{hint} WeChat saw {ip}."
    error = meaning.kind(errcode, errmsg, rid=rid, hint=hint)
    error.http_status, error.retryable = meaning.http_status, meaning.retryable
    return error
