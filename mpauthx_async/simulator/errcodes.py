"""WeChat's error codes, and how each of its APIs words them.

They are not taken from the package's own table of errcodes: a simulator that shared it could not
show what is wrong in it.
"""

import secrets
from typing import Any

__all__ = ["Refused", "api_error", "sns_error", "wecom_error"]


class Refused(Exception):
    """WeChat answers this request with an errcode, and carries nothing out."""

    def __init__(self, errcode: int) -> None:
        super().__init__(f"errcode {errcode}")
        self.errcode = errcode


def sns_error(errcode: int, now: float) -> dict[str, Any]:
    """The answer of the APIs below /sns."""
    return {"errcode": errcode, "errmsg": f"{_ERRMSGS[errcode]}, rid: {_rid(now)}"}


def api_error(errcode: int, now: float) -> dict[str, Any]:
    """The answer of the APIs below /cgi-bin and /wxa."""
    nonce = secrets.token_hex(8)
    hint = f"{nonce[:9]}-{nonce[9:15]}"
    return {"errcode": errcode, "errmsg": f"{_ERRMSGS[errcode]} hint: [{hint}] rid: {_rid(now)}"}


def wecom_error(errcode: int, now: float) -> dict[str, Any]:
    """The answer of WeCom, which has hints where WeChat has rids."""
    text = _WECOM_ERRMSGS.get(errcode) or _ERRMSGS[errcode]
    hint = f"{int(now)}_1_{secrets.token_hex(16)}"
    more = f"more info at https://open.work.weixin.qq.com/devtool/query?e={errcode}"
    return {"errcode": errcode, "errmsg": f"{text}, hint: [{hint}], from ip: 127.0.0.1, {more}"}


def _rid(now: float) -> str:
    nonce = secrets.token_hex(8)
    return f"{int(now):08x}-{nonce[:8]}-{nonce[8:]}"  # WeChat's begin with the time


# https://developers.weixin.qq.com/doc/oplatform/developers/errCode/errCode.html
_ERRMSGS = {
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
# https://developer.work.weixin.qq.com/document/path/90313
_WECOM_ERRMSGS = {
    40001: "invalid credential",
    40013: "invalid corpid",
    41002: "corpid missing",
    41004: "corpsecret missing",
}
