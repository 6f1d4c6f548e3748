"""The mini-program's login: a code for an openid and a session key."""

from .errcodes import Refused
from .expiring import OneTimeCodes
from .routes import Answer, Call, Route
from .state import State, User

__all__ = ["MiniProgram"]


class MiniProgram:
    """Logs users of mini-programs in.

    Args:
        state: the apps and their users.
        calls_a_minute: code exchanges for one user before errcode 45011.
    """

    def __init__(self, state: State, calls_a_minute: float) -> None:
        self._state = state
        self._calls_a_minute = calls_a_minute
        self._codes: OneTimeCodes[User] = OneTimeCodes(state.clock)
        self.routes = (
            Route(
                "GET",
                "/sns/jscode2session",
                self._code_to_session,
                "?appid=…&secret=…&js_code=…&grant_type=authorization_code",
            ),
        )

    def issue_code(self, user: User) -> str:
        """Give the code that stands for a user and the key that is current at its exchange."""
        return self._codes.issue(user.app_id, user)

    def exchange(self, call: Call, app_id: str) -> Answer:
        """Trade `js_code` for the user's identity and session key."""
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
