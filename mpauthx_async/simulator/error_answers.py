"""The answers with an errcode, in the format of each of WeChat's APIs."""

import secrets
from typing import Any

from ..wechat.errcodes import ERRCODES, WECOM_ERRMSGS

__all__ = ["Refused", "api_error", "sns_error", "wecom_error"]


class Refused(Exception):
    """The request is answered with an errcode and has no effect."""

    def __init__(self, errcode: int) -> None:
        super().__init__(f"errcode {errcode}")
        self.errcode = errcode


def sns_error(errcode: int, now: float) -> dict[str, Any]:
    """The error answer of the APIs under /sns."""
    return {"errcode": errcode, "errmsg": f"{ERRCODES[errcode].errmsg}, rid: {_rid(now)}"}


def api_error(errcode: int, now: float) -> dict[str, Any]:
    """The error answer of the APIs under /cgi-bin and /wxa."""
    nonce = secrets.token_hex(8)
    hint = f"{nonce[:9]}-{nonce[9:15]}"
    return {
        "errcode": errcode,
        "errmsg": f"{ERRCODES[errcode].errmsg} hint: [{hint}] rid: {_rid(now)}",
    }


def wecom_error(errcode: int, now: float) -> dict[str, Any]:
    """The error answer of WeCom, which has a hint in place of a rid."""
    text = WECOM_ERRMSGS.get(errcode) or ERRCODES[errcode].errmsg
    hint = f"{int(now)}_1_{secrets.token_hex(16)}"
    more = f"more info at https://open.work.weixin.qq.com/devtool/query?e={errcode}"
    return {"errcode": errcode, "errmsg": f"{text}, hint: [{hint}], from ip: 127.0.0.1, {more}"}


def _rid(now: float) -> str:
    nonce = secrets.token_hex(8)
    return f"{int(now):08x}-{nonce[:8]}-{nonce[8:]}"  # WeChat's begin with the time
