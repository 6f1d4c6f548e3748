"""WeChat's errcodes: whose fault each is in which call, and what is told of it."""

import pytest

from mpauthx_async import (
    MPAuthX,
    OperatorError,
    RefusedError,
    UnavailableError,
    WeChatAPIError,
    WeChatOperatorError,
    WeChatRefusedError,
    WeChatSimulator,
    WeChatUnavailableError,
)
from mpauthx_async.simulator import Fault
from mpauthx_async.wechat.errcodes import wechat_error
from tests.helpers.service_calls import log_in

LOGIN = "/sns/jscode2session"
WEB_LOGIN = "/sns/oauth2/access_token"
PROFILE = "/sns/userinfo"
PHONE = "/wxa/business/getuserphonenumber"
TOKEN = "/cgi-bin/stable_token"
WECOM = "/cgi-bin/miniprogram/jscode2session"
PLATFORM = "/sns/component/jscode2session"


@pytest.mark.parametrize(
    ("path", "errcode", "kind", "http_status", "retryable"),
    [
        (LOGIN, -1, WeChatUnavailableError, 503, True),
        (LOGIN, 40029, WeChatRefusedError, 401, False),
        (LOGIN, 40163, WeChatRefusedError, 401, False),
        (LOGIN, 40226, WeChatRefusedError, 403, False),
        (LOGIN, 45011, WeChatUnavailableError, 429, True),
        (LOGIN, 45009, WeChatUnavailableError, 503, False),
        (PROFILE, 45009, WeChatUnavailableError, 503, True),
        (WEB_LOGIN, 40029, WeChatRefusedError, 401, False),
        (WECOM, 40029, WeChatRefusedError, 401, False),
        (WECOM, 42022, WeChatRefusedError, 401, False),
        (WECOM, 42001, WeChatOperatorError, 502, False),
        (WECOM, 45009, WeChatUnavailableError, 503, True),
        (WECOM, 60021, WeChatOperatorError, 502, False),
        (PHONE, 40029, WeChatRefusedError, 400, False),
        (PHONE, 45009, WeChatUnavailableError, 503, False),
        (PROFILE, 40001, WeChatRefusedError, 401, False),
        (PROFILE, 48001, WeChatRefusedError, 403, False),
        (PHONE, 48001, WeChatOperatorError, 502, False),
        (PHONE, 40001, WeChatOperatorError, 502, False),
        (TOKEN, 40001, WeChatOperatorError, 502, False),
        *(
            (LOGIN, errcode, WeChatOperatorError, 502, False)
            for errcode in (40013, 40125, 40164, 40243, 50002, 61004, 99999)
        ),
    ],
)
def test_the_class_of_an_error_depends_on_the_call(
    path: str, errcode: int, kind: type[WeChatAPIError], http_status: int, retryable: bool
) -> None:
    error = wechat_error(errcode, "some error", rid=None, path=path)
    assert type(error) is kind
    assert (error.http_status, error.retryable) == (http_status, retryable)


@pytest.mark.parametrize(
    ("path", "errcode", "advice"),
    [
        (LOGIN, 40243, "app_secret is frozen"),
        (LOGIN, 50001, "not authorized to make this call"),
        (LOGIN, 50002, "frozen, moved or cancelled"),
        (TOKEN, 50004, "may not fetch access tokens"),
        (TOKEN, 50007, "account is frozen"),
        (WECOM, 60020, "trusted IP addresses"),
        (LOGIN, 61003, "authorize the platform again"),
        (LOGIN, 61004, "for the third-party platform"),
        (LOGIN, 61023, "authorizer_refresh_token"),
        (LOGIN, 43001, "another HTTP method"),
        (PHONE, 43002, "another HTTP method"),
        (PROFILE, 41009, "openid is missing"),
        (PLATFORM, 41018, "pass ComponentExchange"),
        (PLATFORM, 40094, "belong together"),
        (TOKEN, 89503, "administrator has to confirm"),
        (TOKEN, 89506, "administrator has refused"),
        (WECOM, 50001, "another application"),
        (WECOM, 50002, "not visible to this member"),
    ],
)
def test_an_operator_error_has_a_hint_for_operators(path: str, errcode: int, advice: str) -> None:
    error = wechat_error(errcode, "some error", rid=None, path=path)
    assert isinstance(error, OperatorError)
    assert advice in error.hint


@pytest.mark.parametrize(
    ("path", "errcode", "advice"),
    [
        (LOGIN, 40001, "app_secret"),
        (PROFILE, 40001, "authorize again"),
        (PHONE, 40001, "stable_token"),
        (WECOM, 40001, "the function that returns it"),
        (LOGIN, 40029, "wx.login"),
        (PHONE, 40029, "getPhoneNumber"),
        (WECOM, 40029, "wx.qy.login"),
        (PROFILE, 42001, "authorize again"),
        (PHONE, 42001, "stable_token"),
        (PROFILE, 48001, "snsapi_userinfo"),
        (PHONE, 48001, "permissions"),
        (LOGIN, 45009, "midnight"),
        (WECOM, 45009, "minute, hour or day"),
    ],
)
def test_the_hint_depends_on_the_call(path: str, errcode: int, advice: str) -> None:
    assert advice in wechat_error(errcode, "some error", rid=None, path=path).hint


async def test_the_hint_recognizes_a_wx_login_code_in_place_of_a_phone_code(
    auth: MPAuthX, wx: WeChatSimulator
) -> None:
    with pytest.raises(WeChatRefusedError) as caught:
        await auth.get_phone_number(wx.login("bob"))
    assert caught.value.http_status == 400
    assert "not that of wx.login" in caught.value.hint


async def test_a_wechat_error_is_caught_by_its_branch(auth: MPAuthX, wx: WeChatSimulator) -> None:
    with pytest.raises(RefusedError):
        await auth.authorize("unknown")
    wx.fail_next(Fault.TOO_FREQUENT)
    with pytest.raises(UnavailableError):
        await log_in(auth, wx)
