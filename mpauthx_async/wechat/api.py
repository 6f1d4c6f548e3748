"""WeChatAPI: typed methods for WeChat's HTTP API."""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeGuard

from ..concurrency.traceback_frames import methods_clear_frames
from ..connections import Connections
from ..errors import ConfigurationError, ParameterError, WeChatAPIError
from ..failure_log import invalid_answer
from ..models import CodeSession, OAuthToken, OAuthUser, PhoneNumber, UserEncryptKey
from ..untrusted_text import is_credential, is_user_id, profile_text, union_id_of
from .errcodes import INVALID_SIGNATURE, STALE_TOKEN
from .exchanges import CodeExchange, MiniProgramExchange, WebExchange
from .transport import API_HOSTS, WeChatHTTP
from .userdata import sign_user_state

__all__ = ["WeChatAPI", "check_code", "check_lang"]

_CODE = re.compile(r"[\x21-\x7e]{1,512}")
_INVALID_TOKEN = STALE_TOKEN | {40003, 42007}  # or another user's, or ended by a new password
_MAX_LIFETIME = 31_536_000  # seconds: WeChat's is 7,200
_LANGUAGES = ("zh_CN", "zh_TW", "en")
_CREDENTIAL = re.compile(r"[\x20-\x7e]+")


@methods_clear_frames()
class WeChatAPI:
    """WeChat's HTTP API for one app.

    Args:
        app_id: the app's AppID.
        app_secret: the app's secret. It appears in no log line, repr or exception.
        connections: the owner of the aiohttp session.
        api_base: the server's address without a trailing slash, or several in the order in which
            to try them; by default WeChat's own, and for codes those of the exchange.
        exchange: how to exchange codes; by default with the app's secret.
        on_refused: called with WeChat's errcode whenever it refuses a call.

    Raises:
        ConfigurationError: app_id, app_secret or api_base is malformed.
    """

    def __init__(
        self,
        *,
        app_id: str,
        app_secret: str,
        connections: Connections,
        api_base: str | Sequence[str] | None = None,
        exchange: CodeExchange | None = None,
        on_refused: Callable[[int], None] | None = None,
    ) -> None:
        for name, value in (("app_id", app_id), ("app_secret", app_secret)):
            if value is None or value == "":
                raise ConfigurationError(
                    f"{name} is empty or None: pass it as WeChat's admin console shows it. If it "
                    "comes from an environment variable, check that the variable is set."
                )
            if not isinstance(value, str) or not _CREDENTIAL.fullmatch(value):
                raise ConfigurationError(
                    f"{name} must be a text of ASCII characters: check for a line break at its end."
                )
        self._app_id = app_id
        self._app_secret = app_secret
        self._exchange = MiniProgramExchange(app_secret) if exchange is None else exchange
        self._http = WeChatHTTP(
            connections, API_HOSTS if api_base is None else api_base, on_refused
        )
        self._exchange_http = WeChatHTTP(
            connections, self._exchange.hosts if api_base is None else api_base, on_refused
        )

    def __repr__(self) -> str:
        return f"<WeChatAPI of {self._app_id}>"

    async def code_to_session(self, code: str) -> CodeSession:
        """Exchange the one-time code of `wx.login` for the user's identity and session key.

        Args:
            code: what `wx.login` gave the client; it works once within 5 minutes.

        Raises:
            ParameterError: code is malformed.
            WeChatAPIError: WeChat refused; errcode and hint tell why.
            UnavailableError: WeChat did not answer in time, or not as documented.
        """
        return await self.exchange_code(code)

    def exchange_code(self, code: str) -> Awaitable[CodeSession]:
        """As `code_to_session`, for a caller that clears the frames of exceptions itself."""
        check_code(code)
        return self._exchange.code_to_session(self._exchange_http, self._app_id, code)

    def names_same_user(self, session: CodeSession, payload: Mapping[str, Any]) -> bool:
        """Whether decrypted user data names the user of a session."""
        return self._exchange.names_same_user(session, payload)

    async def code_to_oauth_token(self, code: str, now: int) -> OAuthToken:
        """Exchange the one-time code of a web login for the user's identity and tokens.

        Args:
            code: what WeChat appended to the redirect_uri; it works once within 5 minutes.
            now: the time in Unix milliseconds.

        Raises:
            ParameterError: code is malformed.
            ConfigurationError: the exchange has no web logins.
            WeChatAPIError: WeChat refused; errcode and hint tell why.
            UnavailableError: WeChat did not answer in time, or not as documented.

        Source: https://developers.weixin.qq.com/doc/offiaccount/en/OA_Web_Apps/Wechat_webpage_authorization.html
        """
        check_code(code)
        return _oauth_token(await self._web.web_token(self._http, self._app_id, code), now)

    async def refresh_oauth_token(self, refresh_token: str, now: int) -> OAuthToken:
        """Exchange a refresh token for a new access token.

        Args:
            refresh_token: that of the user's last token.
            now: the time in Unix milliseconds.

        Raises:
            ParameterError: refresh_token is malformed.
            ConfigurationError: the exchange has no web logins.
            WeChatAPIError: WeChat refused; errcode and hint tell why.
            UnavailableError: WeChat did not answer in time, or not as documented.
        """
        _check_token("refresh_token", refresh_token)
        answer = await self._web.refreshed_web_token(self._http, self._app_id, refresh_token)
        return _oauth_token(answer, now)

    @property
    def _web(self) -> WebExchange:
        if not isinstance(self._exchange, WebExchange):
            raise ConfigurationError(
                "This exchange has no web logins: use one that is a WebExchange, too."
            )
        return self._exchange

    async def get_oauth_user(self, token: OAuthToken, lang: str = "zh_CN") -> OAuthUser:
        """Get the profile of a token's user, in zh_CN, zh_TW or en.

        Raises:
            ParameterError: lang or the token is malformed.
            WeChatAPIError: WeChat refused; the errcode is 48001 if the user granted only
                snsapi_base.
            UnavailableError: WeChat did not answer in time, or not as documented.
        """
        check_lang(lang)
        query = {**_of_user(token.open_id, token.access_token), "lang": lang}
        answer = await self._http.get("/sns/userinfo", query)
        if answer.get("openid") != token.open_id:
            raise invalid_answer("WeChat's answer does not have the openid asked for.")
        union_id = union_id_of(answer) or token.union_id
        return OAuthUser.from_wechat(token.open_id, union_id, answer)

    async def is_oauth_token_valid(self, open_id: str, access_token: str) -> bool:
        """Check whether a web access token is valid and belongs to a user.

        Raises:
            ParameterError: open_id or access_token is malformed.
            WeChatAPIError: WeChat refused for another reason than the token.
            UnavailableError: WeChat did not answer in time, or not as documented.
        """
        try:
            await self._http.get("/sns/auth", _of_user(open_id, access_token))
        except WeChatAPIError as error:
            if error.errcode not in _INVALID_TOKEN:
                raise
            return False
        return True

    async def get_stable_token(self, *, force_refresh: bool = False) -> tuple[str, int]:
        """Get the app's own access token.

        Args:
            force_refresh: whether to get a new one, which ends the one before: up to 20 times a
                day, 30 seconds apart.

        Returns:
            The token, and its lifetime in seconds.

        Raises:
            WeChatAPIError: WeChat refused; errcode and hint tell why.
            UnavailableError: WeChat did not answer in time, or not as documented.

        Source: https://developers.weixin.qq.com/doc/service/api/base/api_getstableaccesstoken.html
        """
        app = {"appid": self._app_id, "secret": self._app_secret}
        body = {"grant_type": "client_credential", **app, "force_refresh": force_refresh}
        answer = await self._http.post("/cgi-bin/stable_token", {}, body)
        token, expires_in = answer.get("access_token"), answer.get("expires_in")
        if not is_credential(token) or not _is_lifetime(expires_in):
            raise invalid_answer("WeChat's answer has no access_token and expires_in.")
        return token, expires_in

    async def get_phone_number(self, code: str, access_token: str) -> PhoneNumber:
        """Exchange the code of the phone number button for the number.

        Raises:
            ParameterError: code or access_token is malformed.
            WeChatAPIError: WeChat refused; errcode and hint tell why.
            UnavailableError: WeChat did not answer in time, or not as documented.

        Source: https://developers.weixin.qq.com/miniprogram/en/dev/OpenApiDoc/user-info/phone-number/getPhoneNumber.html
        """
        check_code(code)
        _check_token("access_token", access_token)
        answer = await self._http.post(
            "/wxa/business/getuserphonenumber", {"access_token": access_token}, {"code": code}
        )
        info = answer.get("phone_info")
        number = PhoneNumber.from_wechat(info) if isinstance(info, dict) else None
        if number is None:
            raise invalid_answer("WeChat's answer has no phone_info.")
        return number

    async def is_session_key_valid(self, open_id: str, session_key: str, access_token: str) -> bool:
        """Check whether a session key is still the user's.

        Raises:
            ParameterError: an argument is malformed.
            WeChatAPIError: WeChat refused for another reason than the session key.
            UnavailableError: WeChat did not answer in time, or not as documented.

        Source: https://developers.weixin.qq.com/miniprogram/en/dev/OpenApiDoc/user-login/checkSessionKey.html
        """
        query = _signed(open_id, session_key, access_token)
        return await _if_signature_is_valid(self._http.get("/wxa/checksession", query)) is not None

    async def reset_session_key(
        self, open_id: str, session_key: str, access_token: str
    ) -> str | None:
        """Replace a user's session key; returns None if it is no longer the user's.

        Raises:
            ParameterError: an argument is malformed.
            WeChatAPIError: WeChat refused; errcode and hint tell why.
            UnavailableError: WeChat did not answer in time, or not as documented.

        Source: https://developers.weixin.qq.com/miniprogram/en/dev/OpenApiDoc/user-login/ResetUserSessionKey.html
        """
        query = _signed(open_id, session_key, access_token)
        answer = await _if_signature_is_valid(self._http.get("/wxa/resetusersessionkey", query))
        if answer is None:
            return None
        new_key = answer.get("session_key")
        if not is_credential(new_key) or answer.get("openid") != open_id:
            raise invalid_answer("WeChat's answer has no session_key of this openid.")
        return new_key

    async def get_user_encrypt_keys(
        self, open_id: str, session_key: str, access_token: str
    ) -> tuple[UserEncryptKey, ...] | None:
        """Get a user's three newest encryption keys; None if session_key is not the user's.

        Raises:
            ParameterError: an argument is malformed.
            WeChatAPIError: WeChat refused; errcode and hint tell why.
            UnavailableError: WeChat did not answer in time, or not as documented.

        Source: https://developers.weixin.qq.com/miniprogram/dev/server/API/user-info/internet/api_getuserencryptkey
        """
        # The documented table lists a body, but the example has all parameters in the query, and
        # the signature is that of an empty body.
        query = _signed(open_id, session_key, access_token)
        answer = await _if_signature_is_valid(
            self._http.get("/wxa/business/getuserencryptkey", query)
        )
        if answer is None:
            return None
        listed = answer.get("key_info_list")
        keys = tuple(map(UserEncryptKey.from_wechat, listed)) if isinstance(listed, list) else None
        if keys is None or None in keys:
            raise invalid_answer("WeChat's answer has no well-formed key_info_list.")
        return tuple(filter(None, keys))


def check_code(code: object) -> None:
    """Raise ParameterError if this is not a code of `wx.login` or of a web login."""
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        raise ParameterError(
            "code is required: the text that wx.login gives the client, or that WeChat appends to "
            "the redirect_uri, at most 512 characters."
        )


def check_lang(lang: object) -> None:
    """Raise ParameterError if this is not a language of `/sns/userinfo`."""
    if lang not in _LANGUAGES:
        raise ParameterError(f"lang must be one of {', '.join(_LANGUAGES)}.")


def _is_lifetime(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 < value <= _MAX_LIFETIME


def _check_token(name: str, value: object) -> None:
    if not is_credential(value):
        raise ParameterError(f"{name} is required, as WeChat gave it.")


def _of_user(open_id: str, access_token: str) -> dict[str, str]:
    if not is_user_id(open_id):
        raise ParameterError("open_id is required, as WeChat gave it.")
    _check_token("access_token", access_token)
    return {"access_token": access_token, "openid": open_id}


def _signed(open_id: str, session_key: str, access_token: str) -> dict[str, str]:
    """The parameters of a call that a user's session key signs."""
    _check_token("session_key", session_key)
    return {
        **_of_user(open_id, access_token),
        "signature": sign_user_state(session_key),
        "sig_method": "hmac_sha256",
    }


async def _if_signature_is_valid(answer: Awaitable[dict[str, Any]]) -> dict[str, Any] | None:
    """Await the answer to a signed call; None if the session key is not the user's."""
    try:
        return await answer
    except WeChatAPIError as error:
        if error.errcode != INVALID_SIGNATURE:
            raise
        return None


def _oauth_token(answer: Mapping[str, Any], now: int) -> OAuthToken:
    get = answer.get
    open_id, expires_in = get("openid"), get("expires_in")
    access_token, refresh_token = get("access_token"), get("refresh_token")
    if (
        not is_user_id(open_id)
        or not is_credential(access_token)
        or not is_credential(refresh_token)
        or not _is_lifetime(expires_in)
    ):
        raise invalid_answer(
            "WeChat's answer has no openid, access_token, refresh_token and expires_in."
        )
    return OAuthToken(
        open_id=str(open_id),
        access_token=access_token,
        refresh_token=refresh_token,
        expires_in=expires_in,
        scope=profile_text(get("scope")) or "",
        created_at=now,
        union_id=union_id_of(answer),
        is_snapshot_user=get("is_snapshotuser") in (1, "1"),
    )
