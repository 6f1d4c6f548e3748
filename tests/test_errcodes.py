"""WeChat's errcodes: whose fault each is in which call, and what is told of it."""

from collections.abc import Callable

import pytest

from mpauthx_async import (
    ConnectionFailedError,
    EmptyResponseError,
    HTTPStatusError,
    MPAuthX,
    MPAuthXError,
    OperatorError,
    RefusedError,
    UnavailableError,
    WeChatAPIError,
    WeChatOperatorError,
    WeChatRefusedError,
    WeChatSimulator,
    WeChatUnavailableError,
)
from mpauthx_async.errcodes import refusal
from mpauthx_async.simulator import Fault

from .service_calls import log_in
from .test_service import auth, make, tokens

__all__ = ["auth", "make", "tokens"]

LOGIN = "/sns/jscode2session"
WEB_LOGIN = "/sns/oauth2/access_token"
PROFILE = "/sns/userinfo"
PHONE = "/wxa/business/getuserphonenumber"
TOKEN = "/cgi-bin/stable_token"
WECOM = "/cgi-bin/miniprogram/jscode2session"


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
        (PHONE, 40029, WeChatRefusedError, 400, False),
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
def test_who_is_at_fault_depends_on_the_call(
    path: str, errcode: int, kind: type[WeChatAPIError], http_status: int, retryable: bool
) -> None:
    error = refusal(errcode, "some error", rid=None, path=path)
    assert type(error) is kind
    assert (error.http_status, error.retryable) == (http_status, retryable)


@pytest.mark.parametrize(
    "errcode", [40243, 50001, 50002, 50004, 50007, 60020, 61003, 61004, 61023, 89503]
)
def test_the_operator_is_told_what_to_do(errcode: int) -> None:
    error = refusal(errcode, "some error", rid=None, path=LOGIN)
    assert isinstance(error, OperatorError)
    assert error.hint.endswith(".")


@pytest.mark.parametrize("errcode", [40001, 40029, 48001, 50001])
def test_the_hint_depends_on_the_call(errcode: int) -> None:
    paths = (PHONE, PROFILE) if errcode in (40001, 48001, 50001) else (PHONE, LOGIN)
    hints = {refusal(errcode, "some error", rid=None, path=path).hint for path in paths}
    assert len(hints) == 2


async def test_a_wx_login_code_in_place_of_a_phone_code_is_told(
    auth: MPAuthX, wx: WeChatSimulator
) -> None:
    with pytest.raises(WeChatRefusedError) as caught:
        await auth.get_phone_number(wx.login("bob"))
    assert caught.value.http_status == 400
    assert "not that of wx.login" in caught.value.hint


async def test_a_wrong_secret_is_the_operators_fault(
    make: Callable[..., MPAuthX], wx: WeChatSimulator
) -> None:
    async with make(app_secret="f" * 32) as auth:
        with pytest.raises(WeChatOperatorError) as caught:
            await auth.authorize(wx.login("bob"))
    assert (caught.value.errcode, caught.value.http_status) == (40125, 502)


async def test_an_error_of_wechat_is_caught_by_its_branch(
    auth: MPAuthX, wx: WeChatSimulator
) -> None:
    with pytest.raises(RefusedError):
        await auth.authorize("unknown")
    wx.fail_next(Fault.TOO_FREQUENT)
    with pytest.raises(UnavailableError):
        await log_in(auth, wx)


@pytest.mark.parametrize("kind", [HTTPStatusError, EmptyResponseError])
def test_an_answer_that_is_none_of_wechats_is_a_bad_gateway(kind: type[MPAuthXError]) -> None:
    assert kind.http_status == 502


def test_no_connection_is_unavailable() -> None:
    assert ConnectionFailedError("No connection.", sent=False).http_status == 503
