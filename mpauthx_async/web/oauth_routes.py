"""The routes of web logins: to WeChat's page, and back."""

import re
import secrets
from dataclasses import dataclass
from typing import Literal

from ..errors import ConfigurationError, ParameterError
from ..oauth.client import WeChatOAuth
from ..service import MPAuthX
from .answers import Answer, ok, redirect
from .authenticator import Authenticator
from .credentials import browser_cookie, cookie_of, session_cookie
from .requests import WebRequest

__all__ = ["OAuthRoutes", "finish_login", "start_login"]

_STATE_COOKIE = "__Host-mpauthx-oauth"
_STATE_SECONDS = 600
_BROWSER_BYTES = 32
_BROWSER = re.compile(r"[A-Za-z0-9_-]{43}")  # their base64url
_WEBSITE = "snsapi_login"
_LOCAL_PATH = re.compile(r"/(?![/\\])[\x21-\x5b\x5d-\x7e]*")


@dataclass(frozen=True, slots=True)
class OAuthRoutes:
    """Includes `GET /oauth/start?next=/path` and `GET /oauth/callback`, for web logins.

    The service needs the same `oauth` as its `web`.

    Attributes:
        oauth: the web logins.
        redirect_uri: the public URL of `/oauth/callback`.
        scope: `snsapi_login` for a website's QR code; the others are for pages inside WeChat.

    Raises:
        ConfigurationError: one of them cannot work.
    """

    oauth: WeChatOAuth
    redirect_uri: str
    scope: Literal["snsapi_login", "snsapi_base", "snsapi_userinfo"] = "snsapi_login"

    def __post_init__(self) -> None:
        if not isinstance(self.oauth, WeChatOAuth):
            raise ConfigurationError("oauth must be a WeChatOAuth.")
        try:
            self.authorize_url(state="")
        except ParameterError as error:  # here it is the operator's fault, and no client's
            raise ConfigurationError(str(error)) from None

    def authorize_url(self, state: str) -> str:
        """The URL of WeChat's page."""
        if self.scope == _WEBSITE:
            return self.oauth.get_authorize_url_for_website(self.redirect_uri, state)
        return self.oauth.get_authorize_url(self.redirect_uri, state, self.scope)


async def start_login(routes: OAuthRoutes, request: WebRequest, _: MPAuthX) -> Answer:
    """Send a browser to WeChat's page, with a state that is bound to it by a cookie.

    Raises:
        ParameterError: `next` is not a path of this site, or is too long for a state.
    """
    path = request.query().get("next", "/")
    if not _LOCAL_PATH.fullmatch(path):
        raise ParameterError("next must be a path of this site.")
    browser = cookie_of(request.headers, _STATE_COOKIE) or ""
    if not _BROWSER.fullmatch(browser):  # else this login would end one that waits in another tab
        browser = secrets.token_urlsafe(_BROWSER_BYTES)
    state = routes.oauth.create_state(path, _STATE_SECONDS, session=browser)
    return redirect(routes.authorize_url(state)).with_headers(
        ("Set-Cookie", browser_cookie(_STATE_COOKIE, browser, _STATE_SECONDS))
    )


async def finish_login(
    routes: OAuthRoutes, authenticator: Authenticator, request: WebRequest, auth: MPAuthX
) -> Answer:
    """Log in the user that WeChat sent back: with a cookie, or with the token in the body.

    Raises:
        InvalidStateError: the login did not begin in this browser, or too long ago.
        And as `MPAuthX.authorize_web`.
    """
    query = request.query()
    path = await routes.oauth.verify_state(
        query.get("state"), session=cookie_of(request.headers, _STATE_COOKIE)
    )
    result = await auth.authorize_web(query.get("code", ""))
    if authenticator.cookies:
        return redirect(path).with_headers(("Set-Cookie", session_cookie(result.token)))
    return ok(authenticator.render, result.response)
