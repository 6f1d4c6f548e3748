from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpauthx_async.web.credentials import (
    WEBSOCKET,
    is_same_origin,
    session_cookie,
    token_of,
)
from mpauthx_async.web.errors import CredentialsError, CrossSiteError, NoTokenError

COOKIE = ("cookie", "a=b; __Host-mpauthx=bob|shop|x; c=d")
SAME_SITE = ("sec-fetch-site", "same-origin")


class Sent:
    def __init__(self, *headers: tuple[str, str]) -> None:
        self._headers = headers

    def __call__(self, name: str) -> Sequence[str]:
        return [value for key, value in self._headers if key == name]


def test_a_header_takes_precedence_over_a_cookie() -> None:
    sent = Sent(COOKIE, ("authorization", "Bearer mine"))
    assert token_of("POST", sent, cookies=True) == "mine"


def test_a_cookie_is_not_asked_for_by_default() -> None:
    with pytest.raises(NoTokenError):
        token_of("GET", Sent(COOKIE))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_cookie_authenticates_a_safe_method(method: str) -> None:
    assert token_of(method, Sent(COOKIE), cookies=True) == "bob|shop|x"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "ANY", WEBSOCKET])
def test_an_unsafe_method_with_a_cookie_needs_the_same_origin(method: str) -> None:
    assert token_of(method, Sent(COOKIE, SAME_SITE), cookies=True) == "bob|shop|x"
    with pytest.raises(CrossSiteError):
        token_of(method, Sent(COOKIE), cookies=True)


def test_two_cookies_of_our_name_are_refused() -> None:
    with pytest.raises(CredentialsError):
        token_of("GET", Sent(COOKIE, COOKIE), cookies=True)


def test_another_cookie_is_not_ours() -> None:
    for other in ("mpauthx=x", "__host-mpauthx=x", "__Host-mpauthx", "x__Host-mpauthx=x", ""):
        with pytest.raises(NoTokenError):
            token_of("GET", Sent(("cookie", other)), cookies=True)


@pytest.mark.parametrize("blank", ["\x1f", "\x85", "\xa0", "\u2000", "\u3000"])
def test_a_cookie_that_any_page_of_the_domain_may_set_is_not_ours(blank: str) -> None:
    # Browsers reserve names that begin with __Host-, and no other blank makes a name begin so.
    for other in (f"{blank}__Host-mpauthx=x", f"__Host-mpauthx{blank}=x"):
        with pytest.raises(NoTokenError):
            token_of("GET", Sent(("cookie", other)), cookies=True)
    assert token_of("GET", Sent(COOKIE, ("cookie", f"{blank}__Host-mpauthx=x")), cookies=True)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_a_cookie_keeps_any_token(token: str) -> None:
    header = session_cookie(token).partition(";")[0]
    assert header.isascii()
    assert token_of("GET", Sent(("cookie", header)), cookies=True) == token


@pytest.mark.parametrize(
    "headers",
    [
        [SAME_SITE],
        [("origin", "https://shop.example"), ("host", "shop.example")],
        [("origin", "https://Shop.Example"), ("host", "shop.example:443")],
        [("origin", "http://localhost:8000"), ("host", "localhost:8000")],
        [("origin", "http://shop.localhost"), ("host", "shop.localhost:80")],
        [("origin", "http://127.0.0.1:8000"), ("host", "127.0.0.1:8000")],
        [("origin", "http://[::1]:8000"), ("host", "[::1]:8000")],
        [("origin", "https://[2001:db8::1]"), ("host", "[2001:DB8::1]:443")],
        [SAME_SITE, ("origin", "https://outside.example"), ("host", "inside")],  # behind a proxy
    ],
)
def test_accepts_a_same_origin_request(headers: list[tuple[str, str]]) -> None:
    assert is_same_origin(Sent(*headers))


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("host", "shop.example")],
        [("sec-fetch-site", "cross-site")],
        [("sec-fetch-site", "same-site")],
        [("sec-fetch-site", "none")],
        [SAME_SITE, SAME_SITE],
        [("sec-fetch-site", "cross-site"), ("origin", "https://a"), ("host", "a")],
        [("origin", "null"), ("host", "null")],
        [("origin", "https://"), ("host", "")],
        [("origin", "https://evil.example"), ("host", "shop.example")],
        [("origin", "https://shop.example.evil"), ("host", "shop.example")],
        [("origin", "https://shop.example:8443"), ("host", "shop.example")],
        [("origin", "http://shop.example:443"), ("host", "shop.example")],
        [("origin", "http://shop.example"), ("host", "shop.example")],  # where there is no TLS
        [("origin", "http://localhost.example"), ("host", "localhost.example")],
        [("origin", "http://127.0.0.1.example"), ("host", "127.0.0.1.example")],
        [("origin", "https://a"), ("host", "b"), ("x-forwarded-host", "a")],
        [("origin", "ftp://shop.example"), ("host", "shop.example")],
        [("origin", "https://a"), ("origin", "https://a"), ("host", "a")],
        [("origin", "https://a"), ("host", "a"), ("host", "a")],
    ],
)
def test_rejects_any_other_origin(headers: list[tuple[str, str]]) -> None:
    assert not is_same_origin(Sent(*headers))


def test_a_token_without_its_scheme_is_told_how_to_be_sent() -> None:
    with pytest.raises(NoTokenError, match="Authorization: Bearer TOKEN"):
        token_of("GET", lambda name: ["bob|shop|token"] if name == "authorization" else [])
