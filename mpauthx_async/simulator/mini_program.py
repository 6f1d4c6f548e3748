"""The API for mini-programs: logins, session keys, encryption keys and phone numbers."""

import hashlib
import hmac
from collections.abc import Mapping

from .app_access import AppAccess
from .encrypt_keys import EncryptKeys
from .error_answers import Refused, api_error
from .expiring import OneTimeCodes
from .routes import OK, Answer, Call, Route
from .sealing import new_session_key
from .state import State, User, is_secret

__all__ = ["MiniProgram"]


class MiniProgram:
    """The part of WeChat's API for mini-programs."""

    def __init__(self, state: State, access: AppAccess, calls_a_minute: float) -> None:
        self.encrypt_keys: EncryptKeys = EncryptKeys(state)
        self._state = state
        self._access = access
        self._calls_a_minute = calls_a_minute
        self._codes: OneTimeCodes[User] = OneTimeCodes(state.clock)
        self._phone_codes: OneTimeCodes[Mapping[str, object]] = OneTimeCodes(
            state.clock, used=40029
        )

    def routes(self) -> tuple[Route, ...]:
        """The routes of this part of the API."""
        signed = "?access_token=…&openid=…&signature=…&sig_method=hmac_sha256"
        return (
            Route(
                "GET",
                "/sns/jscode2session",
                self._code_to_session,
                "?appid=…&secret=…&js_code=…&grant_type=authorization_code",
            ),
            Route("GET", "/wxa/checksession", self._check_session_key, signed, api_error),
            Route("GET", "/wxa/resetusersessionkey", self._reset_session_key, signed, api_error),
            Route(
                "GET",
                "/wxa/business/getuserencryptkey",
                self._list_keys,
                signed,
                api_error,
                also_takes_post=True,
            ),
            Route(
                "POST",
                "/wxa/business/getuserphonenumber",
                self._phone_number,
                '?access_token=… {"code": "…"}',
                api_error,
            ),
        )

    def issue_code(self, user: User) -> str:
        """Create a code for a user, whose session key is read at the exchange."""
        return self._codes.issue(user.app_id, user)

    def issue_phone_code(self, app_id: str, phone_info: Mapping[str, object]) -> str:
        """Create a code for a phone number."""
        return self._phone_codes.issue(app_id, phone_info)

    def exchange(self, call: Call, app_id: str) -> Answer:
        """Exchange `js_code` for the user's identity and session key."""
        # https://developers.weixin.qq.com/miniprogram/dev/OpenApiDoc/user-login/code2Session.html
        if not call.query.get("js_code"):
            raise Refused(41008)
        if call.query.get("grant_type") != "authorization_code":
            raise Refused(40002)
        code = self._codes.find(call.query["js_code"], app_id)
        user = code.grants
        if user.blocked:
            raise Refused(40226)
        if user.count_call(self._state.clock()) > self._calls_a_minute:
            raise Refused(45011)
        code.used = True
        union = {} if user.union_id is None else {"unionid": user.union_id}
        return {"session_key": user.session_key, "openid": user.open_id, **union}

    def _code_to_session(self, call: Call) -> Answer:
        return self.exchange(call, self._state.authenticate(call.query))

    def _check_session_key(self, call: Call) -> Answer:
        # https://developers.weixin.qq.com/miniprogram/dev/OpenApiDoc/user-login/checkSessionKey.html
        self._signing_user(call)
        return {**OK}

    def _reset_session_key(self, call: Call) -> Answer:
        # https://developers.weixin.qq.com/miniprogram/dev/OpenApiDoc/user-login/ResetUserSessionKey.html
        user = self._signing_user(call)
        user.session_key = new_session_key()
        return {**OK, "openid": user.open_id, "session_key": user.session_key}

    def _list_keys(self, call: Call) -> Answer:
        # https://developers.weixin.qq.com/miniprogram/dev/server/API/user-info/internet/api_getuserencryptkey
        # documents GET; what it documented before is POST without a body, which many clients send:
        # https://developers.weixin.qq.com/minigame/dev/api-backend/open-api/internet/internet.getUserEncryptKey.html
        keys = self.encrypt_keys.key_info_list(self._signing_user(call))
        return {**OK, "key_info_list": keys}

    def _signing_user(self, call: Call) -> User:
        """Return the user whose current session key signed a call."""
        app_id = self._access.check(call)
        open_id = call.query.get("openid")
        if not open_id:
            raise Refused(41009)
        user = self._state.known_user(open_id, app_id)
        if user is None:
            raise Refused(40003)
        if call.query.get("sig_method") != "hmac_sha256":
            raise Refused(87008)
        signature = call.query.get("signature", "")
        key = user.session_key
        if key is None or not is_secret(signature, _sign(key, call.body)):
            raise Refused(87009)
        return user

    def _phone_number(self, call: Call) -> Answer:
        # https://developers.weixin.qq.com/miniprogram/dev/OpenApiDoc/user-info/phone-number/getPhoneNumber.html
        app_id = self._access.check(call)
        code = call.fields().get("code")
        phone_info = self._phone_codes.take(str(code) if code else None, app_id)
        return {**OK, "phone_info": phone_info}


def _sign(session_key: str, body: bytes) -> str:
    return hmac.new(session_key.encode(), body, hashlib.sha256).hexdigest()
