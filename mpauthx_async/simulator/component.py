"""The third-party platform ("component"), which logs users in for the apps that authorized it."""

from .error_answers import Refused
from .expiring import Expiring, random_text
from .mini_program import MiniProgram
from .routes import Answer, Call, Route
from .state import State
from .web_oauth import WebOAuth

__all__ = ["Component"]

_TTL = 7200
_CREDENTIALS = "&component_appid=…&component_access_token=…"


class Component:
    """A platform that all apps of the simulator have authorized."""

    def __init__(
        self, state: State, mini_program: MiniProgram, web_oauth: WebOAuth, app_id: str
    ) -> None:
        self.app_id = app_id
        self._state = state
        self._mini_program = mini_program
        self._web_oauth = web_oauth
        self._tokens: Expiring[str] = Expiring(state.clock, _TTL, remembered=_TTL)
        self._current = ""

    def routes(self) -> tuple[Route, ...]:
        """The routes of this part of the API."""
        return (
            Route(
                "GET",
                "/sns/component/jscode2session",
                self._code_to_session,
                f"?appid=…&js_code=…&grant_type=authorization_code{_CREDENTIALS}",
            ),
            Route(
                "GET",
                "/sns/oauth2/component/access_token",
                self._web_token,
                f"?appid=…&code=…&grant_type=authorization_code{_CREDENTIALS}",
            ),
            Route(
                "GET",
                "/sns/oauth2/component/refresh_token",
                self._refresh_web_token,
                f"?appid=…&grant_type=refresh_token{_CREDENTIALS}&refresh_token=…",
            ),
        )

    def access_token(self) -> str:
        """The current token: the same one for two hours."""
        if not self._tokens.remaining(self._current):
            self._current = f"97_{random_text(133)}"
            self._tokens.put(self._current, self.app_id)
        return self._current

    def _code_to_session(self, call: Call) -> Answer:
        # https://developers.weixin.qq.com/doc/oplatform/openApi/miniprogram-management/login/api_thirdpartycode2session.html
        return self._mini_program.exchange(call, self._authorizer(call))

    def _web_token(self, call: Call) -> Answer:
        # https://developers.weixin.qq.com/doc/oplatform/Third-party_Platforms/2.0/api/Before_Develop/Official_Accounts/official_account_website_authorization.html
        return self._web_oauth.exchange(call, self._authorizer(call))

    def _refresh_web_token(self, call: Call) -> Answer:
        return self._web_oauth.refresh(call, self._authorizer(call))

    def _authorizer(self, call: Call) -> str:
        """Return the app that a call is for."""
        if not call.query.get("component_appid"):
            raise Refused(41018)
        if not call.query.get("component_access_token"):
            raise Refused(41001)
        token = call.query["component_access_token"]
        if self._tokens.get(token, unknown=40001, expired=42001) != call.query["component_appid"]:
            raise Refused(40094)
        app_id = call.query.get("appid")
        if not app_id:
            raise Refused(41002)
        if app_id not in self._state.apps:
            raise Refused(61003)
        return app_id
