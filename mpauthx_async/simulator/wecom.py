"""WeCom, the enterprise WeChat: logins of a company's members to a mini-program."""

from .error_answers import Refused, wecom_error
from .expiring import Expiring, OneTimeCodes, random_text
from .routes import OK, Answer, Call, Route
from .state import State, User, is_secret

__all__ = ["CORP_SECRET", "WeCom"]

CORP_SECRET = "7e577e57-for-tests-7e577e57-of-a-company-7e"  # noqa: S105
_TTL = 7200


class WeCom:
    """A company whose application is linked to the mini-program."""

    def __init__(self, state: State, corp_id: str, corp_secret: str) -> None:
        self.corp_id = corp_id
        self.corp_secret = corp_secret
        self._codes: OneTimeCodes[User] = OneTimeCodes(state.clock, used=40029)
        self._tokens: Expiring[str] = Expiring(state.clock, _TTL, remembered=_TTL)
        self._current = ""

    def routes(self) -> tuple[Route, ...]:
        """The routes of this part of the API."""
        return (
            Route(
                "GET",
                "/cgi-bin/gettoken",
                self._issue_token,
                "?corpid=…&corpsecret=…",
                wecom_error,
            ),
            Route(
                "GET",
                "/cgi-bin/miniprogram/jscode2session",
                self._code_to_session,
                "?access_token=…&js_code=…&grant_type=authorization_code",
                wecom_error,
            ),
        )

    def issue_code(self, member: User) -> str:
        """Create a code for a member of this or another company."""
        return self._codes.issue(self.corp_id, member)

    def _issue_token(self, call: Call) -> Answer:
        # https://developer.work.weixin.qq.com/document/path/91039
        if not call.query.get("corpid"):
            raise Refused(41002)
        if call.query["corpid"] != self.corp_id:
            raise Refused(40013)
        if not call.query.get("corpsecret"):
            raise Refused(41004)
        if not is_secret(call.query["corpsecret"], self.corp_secret):
            raise Refused(40001)
        if not self._tokens.remaining(self._current):
            self._current = random_text(150)
            self._tokens.put(self._current, self.corp_id)
        expires_in = self._tokens.seconds_left(self._current)
        return {**OK, "access_token": self._current, "expires_in": expires_in}

    def _code_to_session(self, call: Call) -> Answer:
        # https://developer.work.weixin.qq.com/document/path/96959
        token = call.query.get("access_token")
        if not token:
            raise Refused(41001)
        self._tokens.get(token, unknown=40014, expired=42001)
        if not call.query.get("js_code"):
            raise Refused(41008)
        if call.query.get("grant_type") != "authorization_code":
            raise Refused(40002)
        member = self._codes.take(call.query["js_code"], self.corp_id)
        return {
            **OK,
            "corpid": member.app_id,
            "userid": member.open_id,
            "session_key": member.session_key,
        }
