"""The token of a request: in its Authorization header, or in a cookie.

Sources: RFC 6750, section 2.1; RFC 9110, section 11.6.2.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from urllib.parse import quote, unquote

from .errors import CredentialsError, CrossSiteError, NoTokenError

__all__ = [
    "WEBSOCKET",
    "Headers",
    "bearer_token",
    "browser_cookie",
    "cleared_cookie",
    "cookie_of",
    "is_same_origin",
    "session_cookie",
    "token_of",
]

Headers = Callable[[str], Sequence[str]]
"""Returns all values of a header, by its name in lower case."""

WEBSOCKET = "WEBSOCKET"
"""Stands for the method of a websocket's handshake, which is a GET that may act."""

COOKIE = "__Host-mpauthx"
_COOKIE_ATTRIBUTES = "Path=/; Secure; HttpOnly; SameSite=Lax"
# The maximum that browsers accept: the session ends earlier, and the answer then says why.
_COOKIE_SECONDS = 34_560_000
_COOKIE_CHARACTERS = "!#$&'()*+-./:<=>?@[]^_`{|}~"  # RFC 6265, section 4.1.1
_BLANKS = " \t"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})  # RFC 9110, section 9.2.1
_BEARER = "bearer"
_LOOPBACK = re.compile(r"(?:(?:[\w-]+\.)*localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d+)?")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def token_of(method: str, headers: Headers, *, cookies: bool = False) -> str:
    """The token that a request shows. An Authorization header takes precedence over a cookie.

    Raises:
        NoTokenError: there is no token.
        CredentialsError: there are two.
        CrossSiteError: a cookie holds it, the method may change something, and the request does not
            prove that it comes from a page of this site.
    """
    token = bearer_token(headers)
    if token is not None:
        return token
    if cookies and (token := cookie_of(headers, COOKIE)):
        if method not in _SAFE_METHODS and not is_same_origin(headers):
            raise CrossSiteError(
                "A request with a cookie has to come from a page of this site: it needs "
                "Sec-Fetch-Site: same-origin, or an Origin that is the Host."
            )
        return token
    if any(not value.lower().startswith(_BEARER) for value in headers("authorization")):
        raise NoTokenError("The token has to be in the header `Authorization: Bearer TOKEN`.")
    raise NoTokenError("This request needs a token: log in.")


def bearer_token(headers: Headers) -> str | None:
    """The token in the Authorization header, whose scheme is in any case; None without a token."""
    authorizations = headers("authorization")
    if not authorizations:
        return None
    if len(authorizations) > 1:
        raise CredentialsError("The request has more than one Authorization header.")
    scheme, _, token = authorizations[0].partition(" ")
    return token.strip(" ") or None if scheme.lower() == _BEARER else None


def is_same_origin(headers: Headers) -> bool:
    """Whether a browser says that a request comes from a page of this site.

    Source: https://www.w3.org/TR/fetch-metadata/
    """
    sites = headers("sec-fetch-site")
    if sites:
        return list(sites) == ["same-origin"]
    origins, hosts = headers("origin"), headers("host")
    if len(origins) != 1 or len(hosts) != 1:
        return False
    scheme, _, authority = origins[0].lower().partition("://")
    default_port = _DEFAULT_PORTS.get(scheme)
    if default_port is None or not authority:
        return False
    # Our cookies are Secure, so browsers send them only over TLS or to localhost. An http Origin of
    # any other host may come from an attacker on the network.
    if scheme == "http" and not _LOOPBACK.fullmatch(authority):
        return False
    host = hosts[0].lower()
    return authority.removesuffix(default_port) == host.removesuffix(default_port)


def cookie_of(headers: Headers, name: str) -> str | None:
    """The value of a cookie; None if there is no such cookie."""
    values = list(_cookies(headers("cookie"), name))
    if len(values) > 1:
        raise CredentialsError("The request has more than one cookie of the same name.")
    return unquote(values[0]) if values else None


def session_cookie(token: str) -> str:
    """The Set-Cookie that has a browser keep a token."""
    value = quote(token, safe=_COOKIE_CHARACTERS)
    return f"{COOKIE}={value}; Max-Age={_COOKIE_SECONDS}; {_COOKIE_ATTRIBUTES}"


def cleared_cookie() -> str:
    """The Set-Cookie that has a browser forget the token."""
    return f"{COOKIE}=; Max-Age=0; {_COOKIE_ATTRIBUTES}"


def browser_cookie(name: str, value: str, seconds: int) -> str:
    """The Set-Cookie that has a browser keep a value for a while."""
    return f"{name}={value}; Max-Age={seconds}; {_COOKIE_ATTRIBUTES}"


def _cookies(headers: Iterable[str], name: str) -> Iterable[str]:
    for header in headers:
        for cookie in header.split(";"):
            key, separator, value = cookie.partition("=")
            # Strip only spaces and tabs: browsers do not protect the `__Host-` prefix after another
            # blank, such as U+0085, so a sibling domain could set a cookie that we take for ours.
            if separator and key.strip(_BLANKS) == name:
                yield value.strip(_BLANKS)
