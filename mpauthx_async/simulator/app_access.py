"""Access tokens of apps: issue and check them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .error_answers import Refused, api_error
from .expiring import Expiring, random_text
from .routes import Answer, Call, Route
from .state import State

__all__ = ["AppAccess"]

_TTL = 7200
_OVERLAP = 300  # seconds in which an earlier token and its successor are both valid
_FORCED_A_DAY = 20
_FORCED_INTERVAL = 30
_DAY = 86_400
_BEIJING = 8 * 3600
_TOKEN = re.compile(r"\d+_[A-Za-z0-9_-]+", re.ASCII)


@dataclass(slots=True)
class _Token:
    app_id: str
    replaced_at: float = float("inf")


@dataclass(slots=True)
class _Forced:
    """An app's forced refreshes: the time of the last one, and their number on its day."""

    at: float = float("-inf")
    day: float = float("-inf")
    count: int = 0


class AppAccess:
    """Issues access tokens to apps, of three independent kinds."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._tokens: Expiring[_Token] = Expiring(state.clock, _TTL, remembered=_TTL)
        self._stable: dict[str, str] = {}  # an app's current token
        self._classic: dict[str, str] = {}
        self._authorizer: dict[str, str] = {}  # the one that the third-party platform has
        self._forced: dict[str, _Forced] = {}

    def routes(self) -> tuple[Route, ...]:
        """The routes of this part of the API."""
        return (
            Route(
                "POST",
                "/cgi-bin/stable_token",
                self._issue_stable,
                ' {"grant_type": "client_credential", "appid": "…", "secret": "…", '
                '"force_refresh": false}',
                api_error,
            ),
            Route(
                "GET",
                "/cgi-bin/token",
                self._issue_classic,
                "?grant_type=client_credential&appid=…&secret=…",
                api_error,
            ),
            Route(
                "GET",
                "/cgi-bin/getcallbackip",
                self._list_callback_ips,
                "?access_token=…",
                api_error,
            ),
        )

    def check(self, call: Call) -> str:
        """Return the app of a call's access token.

        Raises Refused: 41001 missing, 40014 not of a token's form, 42001 expired, 40001 unknown,
        replaced or ended.
        """
        text = call.query.get("access_token")
        if not text:
            raise Refused(41001)
        if not _TOKEN.fullmatch(text):
            raise Refused(40014)
        token = self._tokens.get(text, unknown=40001, expired=42001)
        if self._state.clock() >= token.replaced_at:
            raise Refused(40001)
        return token.app_id

    def expire(self, app_id: str) -> None:
        """End all tokens of an app."""
        now = self._state.clock()
        for token in self._tokens:
            if token.app_id == app_id:
                token.replaced_at = min(token.replaced_at, now)
        self._stable.pop(app_id, None)
        self._classic.pop(app_id, None)
        self._authorizer.pop(app_id, None)

    def authorizer_token(self, app_id: str) -> str:
        """The platform's current token of an app: the same one for two hours."""
        if not self._tokens.remaining(self._authorizer.get(app_id, "")):
            self._authorizer[app_id] = self._new(app_id)
        return self._authorizer[app_id]

    def _issue_stable(self, call: Call) -> Answer:
        # https://developers.weixin.qq.com/miniprogram/dev/OpenApiDoc/mp-access-token/getStableAccessToken.html
        fields = call.fields()
        app_id = self._authenticate(fields)
        current = self._stable.get(app_id, "")
        if fields.get("force_refresh") is True:
            if self._count_forced(app_id):
                self._replace(current, in_seconds=0)
                current = ""
        elif self._tokens.remaining(current) <= _OVERLAP:
            current = ""
        if not self._tokens.remaining(current):
            current = self._stable[app_id] = self._new(app_id)
        return self._answer(current)

    def _issue_classic(self, call: Call) -> Answer:
        # https://developers.weixin.qq.com/miniprogram/dev/OpenApiDoc/mp-access-token/getAccessToken.html
        app_id = self._authenticate(call.query)
        self._replace(self._classic.get(app_id, ""), in_seconds=_OVERLAP)
        self._classic[app_id] = self._new(app_id)
        return self._answer(self._classic[app_id])

    def _list_callback_ips(self, call: Call) -> Answer:
        # https://developers.weixin.qq.com/doc/offiaccount/Basic_Information/Get_the_WeChat_server_IP_address.html
        self.check(call)
        return {"ip_list": ["127.0.0.1"]}

    def _authenticate(self, parameters: Mapping[str, Any]) -> str:
        if parameters.get("grant_type") != "client_credential":
            raise Refused(40002)
        return self._state.authenticate(parameters)

    def _count_forced(self, app_id: str) -> bool:
        """Whether a forced refresh takes effect: not within 30 seconds of the last."""
        now = self._state.clock()
        forced = self._forced.setdefault(app_id, _Forced())
        if 0 <= now - forced.at < _FORCED_INTERVAL:
            return False
        day = (now + _BEIJING) // _DAY
        if day != forced.day:
            forced.day, forced.count = day, 0
        if forced.count == _FORCED_A_DAY:
            raise Refused(45009)
        forced.at, forced.count = now, forced.count + 1
        return True

    def _new(self, app_id: str) -> str:
        text = f"97_{random_text(133)}"
        self._tokens.put(text, _Token(app_id))
        return text

    def _replace(self, text: str, *, in_seconds: float) -> None:
        if self._tokens.remaining(text):
            token = self._tokens.get(text, unknown=40001, expired=42001)
            token.replaced_at = min(token.replaced_at, self._state.clock() + in_seconds)

    def _answer(self, text: str) -> Answer:
        return {"access_token": text, "expires_in": self._tokens.seconds_left(text)}
