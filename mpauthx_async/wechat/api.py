"""WeChatAPI: typed calls of WeChat's HTTP API."""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeGuard

from ..concurrency.frames import methods_clear_frames
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
_NOT_GOOD = STALE_TOKEN | {40003, 42007}  # or one of another user, or of a new password
_LONGEST_LIFE = 31_536_000  # seconds: WeChat gives 7,200
_LANGUAGES = ("zh_CN", "zh_TW", "en")
_CREDENTIAL = re.compile(r"[\x20-\x7e]+")


@methods_clear_frames()
class WeChatAPI:
    """WeChat's HTTP API as one app sees it.

    Args:
        app_id: the app's AppID.
        app_secret: the app's secret. It appears in no log line, repr or exception.
        connections: whose aiohttp session to use.
        api_base: the server's address without a trailing slash, or several in the order in which
            to try them; by default WeChat's own, and for codes those of the exchange.
        exchange: another way to exchange codes than with the app's own secret.
        on_refused: is told WeChat's errcode whenever it refuses a call.
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
                    f"{name} must be a text of ASCII characters; is there a line break at its end?"
                )
        self._app_id = app_id
        self._app_secret = app_secret
        self._exchange = MiniProgramExchange(app_secret) if exchange is None else exchange
        hosts = self._exchange.hosts
        self._http = WeChatHTTP(
            connections, API_HOSTS if api_base is None else api_base, on_refused
        )
        self._transport = WeChatHTTP(
            connections, hosts if api_base is None else api_base, on_refused
        )

    def __repr__(self) -> str:
        return f"<WeChatAPI of {self._app_id}>"

    async def code_to_session(self, code: str) -> CodeSession:
        """Exchange the one-time code of `wx.login` for the user's identity and session key.

        Args:
            code: what `wx.login` gave the client; it works once within 5 minutes.

        Raises:
            ParameterError: this can be no code.
            WeChatAPIError: WeChat refused; errcode and hint tell why.
            HTTPStatusError, EmptyResponseError, InvalidResponseError, IncompleteResponseError:
                the answer is none, or none of WeChat's.
            ConnectionFailedError: no connection, or no answer in time.
        """
        return await self.exchange_code(code)

    def exchange_code(self, code: str) -> Awaitable[CodeSession]:
        """As `code_to_session`, for a caller who clears the frames of what is raised."""
        check_code(code)
        return self._exchange.code_to_session(self._transport, self._app_id, code)

    def names_same_user(self, session: CodeSession, payload: Mapping[str, Any]) -> bool:
        """Whether decrypted user data names the user of a session."""
        return self._exchange.names_same_user(session, payload)

    async def code_to_oauth_token(self, code: str, now: int) -> OAuthToken:
        """Exchange the one-time code of a web login for the user's identity and tokens.

        Args:
            code: what WeChat appended to the redirect_uri; it works once within 5 minutes.
            now: when this is, in Unix milliseconds.

        Raises:
            As `code_to_session`.

        Source: https://developers.weixin.qq.com/doc/offiaccount/en/OA_Web_Apps/Wechat_webpage_authorization.html
        """
        check_code(code)
        return _oauth_token(await self._web.web_token(self._http, self._app_id, code), now)

    async def refresh_oauth_token(self, refresh_token: str, now: int) -> OAuthToken:
        """Exchange a refresh token for an access token that lives; in all else as the above."""
        _check_token("refresh_token", refresh_token)
        answer = await self._web.refreshed_web_token(self._http, self._app_id, refresh_token)
        return _oauth_token(answer, now)

    @property
    def _web(self) -> WebExchange:
        if not isinstance(self._exchange, WebExchange):
            raise ConfigurationError("This exchange has no web logins.")
        return self._exchange

    async def get_oauth_user(self, token: OAuthToken, lang: str = "zh_CN") -> OAuthUser:
        """Ask for the profile of the user whose token this is, in zh_CN, zh_TW or en.

        Raises:
            As `code_to_session`; WeChatAPIError with 48001 when they granted no more than
            snsapi_base.
        """
        check_lang(lang)
        query = {**_of_user(token.open_id, token.access_token), "lang": lang}
        answer = await self._http.get("/sns/userinfo", query)
        if answer.get("openid") != token.open_id:
            raise invalid_answer("WeChat's answer does not have the openid asked for.")
        union_id = union_id_of(answer) or token.union_id
        return OAuthUser.from_wechat(token.open_id, union_id, answer)

    async def is_oauth_token_valid(self, open_id: str, access_token: str) -> bool:
        """Ask whether an access token is this user's and still good.

        Raises:
            As `code_to_session`, for anything but a token that is not good.
        """
        query = _of_user(open_id, access_token)
        try:
            await self._http.get("/sns/auth", query)
        except WeChatAPIError as error:
            if error.errcode not in _NOT_GOOD:
                raise
            return False
        return True

    async def get_stable_token(self, *, force_refresh: bool = False) -> tuple[str, int]:
        """Ask for the app's own access token.

        Args:
            force_refresh: whether to get another one than before, which then is good no longer:
                up to 20 times a day, 30 seconds apart.

        Returns:
            The token, and the seconds that it lives.

        Raises:
            As `code_to_session`.

        Source: https://developers.weixin.qq.com/doc/service/api/base/api_getstableaccesstoken.html
        """
        answer = await self._http.post(
            "/cgi-bin/stable_token",
            {},
            {
                "grant_type": "client_credential",
                "appid": self._app_id,
                "secret": self._app_secret,
                "force_refresh": force_refresh,
            },
        )
        token, expires_in = answer.get("access_token"), answer.get("expires_in")
        if not is_credential(token) or not _is_lifetime(expires_in):
            raise invalid_answer("WeChat's answer has no access_token and expires_in.")
        return token, expires_in

    async def get_phone_number(self, code: str, access_token: str) -> PhoneNumber:
        """Exchange the code of the phone number button for the number.

        Raises:
            As `code_to_session`.

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
        """Ask whether a session key is still the user's.

        Raises:
            As `code_to_session`, for anything but a key that is not.

        Source: https://developers.weixin.qq.com/miniprogram/en/dev/OpenApiDoc/user-login/checkSessionKey.html
        """
        query = _signed(open_id, session_key, access_token)
        return await _if_signature_is_valid(self._http.get("/wxa/checksession", query)) is not None

    async def reset_session_key(
        self, open_id: str, session_key: str, access_token: str
    ) -> str | None:
        """Have WeChat replace a session key; None when it is no longer the user's.

        Raises:
            As `code_to_session`.

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
        """Ask for a user's three newest encryption keys; None if session_key is not the user's.

        Raises:
            As `code_to_session`.

        Source: https://developers.weixin.qq.com/miniprogram/dev/server/API/user-info/internet/api_getuserencryptkey
            Its table lists a body, its example has all parameters in the query; and the signature
            is that of an empty body.
        """
        query = _signed(open_id, session_key, access_token)
        answer = await _if_signature_is_valid(
            self._http.get("/wxa/business/getuserencryptkey", query)
        )
        if answer is None:
            return None
        listed = answer.get("key_info_list")
        keys = tuple(map(UserEncryptKey.from_wechat, listed if isinstance(listed, list) else (0,)))
        if None in keys:
            raise invalid_answer("WeChat's answer has no well-formed key_info_list.")
        return tuple(filter(None, keys))


def check_code(code: object) -> None:
    """Raise ParameterError for what can be no code of `wx.login` or of a web login."""
    if not isinstance(code, str) or not _CODE.fullmatch(code):
        raise ParameterError(
            "code is required: the text that wx.login gives the client, or that WeChat appends to "
            "the redirect_uri, at most 512 characters."
        )


def check_lang(lang: object) -> None:
    """Raise ParameterError for what is no language of `/sns/userinfo`."""
    if lang not in _LANGUAGES:
        raise ParameterError(f"lang must be one of {', '.join(_LANGUAGES)}.")


def _is_lifetime(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 < value <= _LONGEST_LIFE


def _check_token(name: str, value: object) -> None:
    if not is_credential(value):
        raise ParameterError(f"{name} is required, as WeChat gave it.")


def _of_user(open_id: str, access_token: str) -> dict[str, str]:
    """The parameters that name a user and their token."""
    if not is_user_id(open_id):
        raise ParameterError("open_id is required, as WeChat gave it.")
    _check_token("access_token", access_token)
    return {"access_token": access_token, "openid": open_id}


def _signed(open_id: str, session_key: str, access_token: str) -> dict[str, str]:
    """The parameters of a call that a user's session key has to sign."""
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
