"""Web OAuth 2.0: the pages for browsers, and the API that exchanges their codes."""

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode, urlsplit

from aiohttp import web

from .error_answers import Refused
from .expiring import Expiring, OneTimeCodes, random_text
from .routes import OK, Answer, Call, Route
from .state import State, User

__all__ = ["SCOPES", "Visitor", "WebOAuth"]

_OFFICIAL_ACCOUNT = "/connect/oauth2/authorize"
SCOPES: dict[str, tuple[str, ...]] = {  # of each page
    _OFFICIAL_ACCOUNT: ("snsapi_base", "snsapi_userinfo"),
    "/connect/qrconnect": ("snsapi_login",),
}
_ORDER = ("appid", "redirect_uri", "response_type", "scope", "state", "component_appid")
_ACCESS_TTL = 7200
_REFRESH_TTL = 30 * 86_400


@dataclass(frozen=True, slots=True)
class Visitor:
    """The browser's user, and whether they decline what a page asks for."""

    open_id: str
    union_id: str | None
    declines: bool


@dataclass(slots=True)
class _Grant:
    user: User
    scope: str
    is_snapshot: bool
    access_token: str = field(default="", repr=False)
    refresh_token: str = field(default="", repr=False)


class WebOAuth:
    """Logs users of web pages in, and answers with their profiles."""

    def __init__(self, state: State, component_app_id: str) -> None:
        self.visitor: Visitor | None = None
        self._component_app_id = component_app_id
        self._state = state
        self._codes: OneTimeCodes[_Grant] = OneTimeCodes(state.clock)
        self._access: Expiring[_Grant] = Expiring(state.clock, _ACCESS_TTL, remembered=_ACCESS_TTL)
        self._refresh: Expiring[_Grant] = Expiring(
            state.clock, _REFRESH_TTL, remembered=_REFRESH_TTL
        )

    def routes(self) -> tuple[Route, ...]:
        """The routes of this part of the API."""
        return (
            Route(
                "GET",
                "/sns/oauth2/access_token",
                lambda call: self.exchange(call, self._state.authenticate(call.query)),
                "?appid=…&secret=…&code=…&grant_type=authorization_code",
            ),
            Route(
                "GET",
                "/sns/oauth2/refresh_token",
                lambda call: self.refresh(call, self._state.check_app_id(call.query)),
                "?appid=…&grant_type=refresh_token&refresh_token=…",
            ),
            Route(
                "GET",
                "/sns/userinfo",
                self._user_info,
                "?access_token=…&openid=…&lang=zh_CN|zh_TW|en",
            ),
            Route("GET", "/sns/auth", self._check, "?access_token=…&openid=…"),
        )

    def issue_code(self, user: User, scope: str, *, snapshot: bool = False) -> str:
        """Create the code with which a page redirects its user."""
        return self._codes.issue(user.app_id, _Grant(user, scope, snapshot))

    def visit(self, path: str, query: Mapping[str, str]) -> web.Response:
        """Open the page that asks its visitor for consent."""
        # https://developers.weixin.qq.com/doc/offiaccount/OA_Web_Apps/Wechat_webpage_authorization.html
        # https://developers.weixin.qq.com/doc/oplatform/en/Website_App/WeChat_Login/Wechat_Login.html
        if wrong := self._what_is_wrong(path, query):
            return _error_page(wrong)
        if self.visitor is None:
            return _error_page("The simulator does not know who is visiting: visit_as()", 400)
        back = {"state": query["state"]} if "state" in query else {}
        if not self.visitor.declines or query["scope"] == "snsapi_base":  # which asks for nothing
            user = self._state.user(self.visitor.open_id, query["appid"], self.visitor.union_id)
            back = {"code": self.issue_code(user, query["scope"]), **back}
        elif path == _OFFICIAL_ACCOUNT:
            return _error_page("The user declined, and stays on this page.")
        location = _with_query(query["redirect_uri"], back)
        return web.Response(
            status=302, text="", content_type="text/html", headers={"Location": location}
        )

    def exchange(self, call: Call, app_id: str) -> Answer:
        """Exchange `code` for the user's openid and tokens."""
        if not call.query.get("code"):
            raise Refused(41008)
        if call.query.get("grant_type") != "authorization_code":
            raise Refused(40002)
        grant = self._codes.take(call.query["code"], app_id)
        grant.refresh_token = random_text(64)
        self._refresh.put(grant.refresh_token, grant)
        snapshot = {"is_snapshotuser": 1} if grant.is_snapshot else {}
        return {**self._tokens(grant), **snapshot, **_union(grant)}

    def refresh(self, call: Call, app_id: str) -> Answer:
        """Exchange `refresh_token` for a valid access token."""
        if call.query.get("grant_type") != "refresh_token":
            raise Refused(40002)
        if not call.query.get("refresh_token"):
            raise Refused(41003)
        grant = self._refresh.get(call.query["refresh_token"], unknown=40030, expired=42002)
        if grant.user.app_id != app_id:
            raise Refused(40030)
        return self._tokens(grant)

    def _what_is_wrong(self, path: str, query: Mapping[str, str]) -> str | None:
        if query.get("appid") not in self._state.apps:
            return "AppID 参数错误: appid is missing, or not an app of the simulator."
        if not _is_http_url(query.get("redirect_uri", "")):
            return "redirect_uri 参数错误 (10003): it must be an absolute http or https URL."
        if query.get("response_type") != "code":
            return "response_type 参数错误: it must be 'code'."
        if query.get("scope") not in SCOPES[path]:
            return (
                f"Scope 参数错误或没有 Scope 权限 (10005): it must be {' or '.join(SCOPES[path])}."
            )
        if path != _OFFICIAL_ACCOUNT:  # only this page documents an order and a longest state
            return None
        if query.get("component_appid", self._component_app_id) != self._component_app_id:
            return "component_appid 参数错误: it is not the AppID of the simulator's platform."
        if len(query.get("state", "").encode(errors="replace")) > 128:
            return "state 参数错误: it has more than 128 bytes."
        order = [name for name in query if name in _ORDER]
        if order != [name for name in _ORDER if name in query]:
            return f"请求参数格式错误 (10008): each once and in this order: {', '.join(_ORDER)}."
        return None

    def _tokens(self, grant: _Grant) -> Answer:
        """Extend the access token to two hours from now; create a new one if it has expired."""
        if not self._access.remaining(grant.access_token):
            grant.access_token = random_text(64)
        self._access.put(grant.access_token, grant)
        return {
            "access_token": grant.access_token,
            "expires_in": _ACCESS_TTL,
            "refresh_token": grant.refresh_token,
            "openid": grant.user.open_id,
            "scope": grant.scope,
        }

    def _user_info(self, call: Call) -> Answer:
        grant = self._grant(call.query)
        if grant.scope == "snsapi_base":
            raise Refused(48001)
        profile = grant.user.profile
        return {
            "openid": grant.user.open_id,
            "nickname": profile["nickName"],
            "sex": profile["gender"],
            "province": profile["province"],
            "city": profile["city"],
            "country": profile["country"],
            "headimgurl": profile["avatarUrl"],
            "privilege": [],
            **_union(grant),
        }

    def _check(self, call: Call) -> Answer:
        self._grant(call.query)
        return {**OK}

    def _grant(self, query: Mapping[str, str]) -> _Grant:
        if not query.get("access_token"):
            raise Refused(41001)
        if not query.get("openid"):
            raise Refused(41009)
        grant = self._access.get(query["access_token"], unknown=40001, expired=42001)
        if grant.user.open_id != query["openid"]:
            raise Refused(40003)
        return grant


def _union(grant: _Grant) -> Answer:
    if grant.user.union_id is None or grant.scope == "snsapi_base":
        return {}
    return {"unionid": grant.user.union_id}


def _is_http_url(text: str) -> bool:
    try:
        url = urlsplit(_quoted(text))
        return url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:  # a port or a malformed IPv6 address
        return False


def _with_query(url: str, more: Mapping[str, str]) -> str:
    parts = urlsplit(_quoted(url))
    query = "&".join(filter(None, (parts.query, urlencode(more, errors="replace"))))
    return parts._replace(query=query).geturl()


def _quoted(url: str) -> str:
    """Percent-encode what a header must not contain, such as line breaks."""
    return quote(url, safe="%/:?#[]@!$&'()*+,;=~", errors="replace")


def _error_page(text: str, status: int = 200) -> web.Response:  # 200, as at WeChat
    title = "<!DOCTYPE html><html><head><meta charset='utf-8'><title>WeChat</title></head>"
    page = f"{title}<body><h4>{html.escape(text)}</h4></body></html>"
    return web.Response(status=status, text=page, content_type="text/html")
