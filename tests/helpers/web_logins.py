"""What tests of web logins share."""

import time
from collections.abc import Callable
from typing import Any

from mpauthx_async import WeChatOAuth, WeChatSimulator


def service(
    wx: WeChatSimulator, tokens: Any, clock: Callable[[], float] = time.time, **options: Any
) -> Any:
    names = {"app_id": wx.app_id, "app_secret": wx.app_secret, "api_base": wx.url}
    return WeChatOAuth(tokens=tokens, clock=clock, **{**names, "page_base": wx.url, **options})
