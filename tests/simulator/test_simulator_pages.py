"""The pages at which WeChatSimulator asks a browser's user for consent, over real HTTP."""

import re
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from yarl import URL

from mpauthx_async.simulator import Fault, WeChatSimulator
from tests.helpers.simulator_client import ACCOUNT, SECRET, Client, exchange

PAGE = "/connect/oauth2/authorize"
QR_PAGE = "/connect/qrconnect"
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def page_query(wx: WeChatSimulator, **changes: str | None) -> dict[str, str]:
    query = {
        "appid": wx.app_id,
        "redirect_uri": "https://shop.example/back",
        "response_type": "code",
        "scope": "snsapi_userinfo",
        "state": "s-1",
        **changes,
    }
    return {name: text for name, text in query.items() if text is not None}


async def visit(client: Client, query: dict[str, str], page: str = PAGE) -> tuple[int, str, str]:
    """Open a page: its status, where it leads to, its text."""
    url = f"{client.wx.url}{page}?{urlencode(query)}#wechat_redirect"
    async with client.http.get(url, allow_redirects=False) as response:
        assert response.content_type == "text/html"
        return response.status, response.headers.get("Location", ""), await response.text()


async def parameters_back(client: Client, query: dict[str, str], page: str = PAGE) -> dict:
    """Open a page: the parameters with which it sends its visitor back."""
    status, location, _ = await visit(client, query, page)
    assert status == 302
    return dict(parse_qsl(urlsplit(location).query, strict_parsing=True))


async def test_a_page_sends_its_visitor_back_with_a_code_and_the_state(wx, client):
    wx.visit_as("bob", "union-bob")
    status, location, _ = await visit(client, page_query(wx))
    address, _, query = location.partition("?")
    assert (status, address) == (302, "https://shop.example/back")
    parameters = dict(parse_qsl(query))
    assert parameters["state"] == "s-1"
    tokens = await exchange(client, parameters["code"])
    assert (tokens["openid"], tokens["unionid"]) == ("bob", "union-bob")
    assert tokens["scope"] == "snsapi_userinfo"


async def test_the_website_page_gives_the_website_scope(wx, client):
    wx.visit_as("bob")
    query = page_query(wx, appid=ACCOUNT, scope="snsapi_login")
    code = (await parameters_back(client, query, QR_PAGE))["code"]
    tokens = await exchange(client, code, appid=ACCOUNT, secret=SECRET)
    assert (tokens["openid"], tokens["scope"]) == ("bob", "snsapi_login")


@pytest.mark.parametrize(
    ("redirect_uri", "pattern"),
    [
        ("https://a.example", r"https://a\.example\?code=\w+&state=s-1"),
        ("http://a:81/b?c=1&d=%26", r"http://a:81/b\?c=1&d=%26&code=\w+&state=s-1"),
        ("https://a/b?c=1#/route?x", r"https://a/b\?c=1&code=\w+&state=s-1#/route\?x"),
        ("https://a/#/", r"https://a/\?code=\w+&state=s-1#/"),
        ("https://a/é\r\nX: y", r"https://a/%C3%A9%0D%0AX:%20y\?code=\w+&state=s-1"),
    ],
)
async def test_code_and_state_are_added_to_the_query_of_the_redirect_uri(
    wx, client, redirect_uri, pattern
):
    wx.visit_as("bob")
    _, location, _ = await visit(client, page_query(wx, redirect_uri=redirect_uri))
    assert re.fullmatch(pattern, location)


async def test_a_state_comes_back_as_it_was(wx, client):
    wx.visit_as("bob")
    state = "a b&c=d#é%20"
    assert (await parameters_back(client, page_query(wx, state=state)))["state"] == state


async def test_without_a_state_no_state_comes_back(wx, client):
    wx.visit_as("bob")
    assert (await parameters_back(client, page_query(wx, state=None))).keys() == {"code"}


async def test_without_a_visitor_the_page_says_what_to_do(wx, client):
    status, location, text = await visit(client, page_query(wx))
    assert (status, location) == (400, "")
    assert "visit_as" in text


@pytest.mark.parametrize("page", [PAGE, QR_PAGE])
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"appid": None}, "AppID 参数错误"),
        ({"appid": "wx0"}, "AppID 参数错误"),
        ({"redirect_uri": None}, "redirect_uri 参数错误"),
        ({"redirect_uri": "shop.example/back"}, "redirect_uri 参数错误"),
        ({"redirect_uri": "javascript:alert(1)"}, "redirect_uri 参数错误"),
        ({"redirect_uri": "https://[::1/"}, "redirect_uri 参数错误"),
        ({"redirect_uri": "ht\ntps://a.example/"}, "redirect_uri 参数错误"),
        ({"redirect_uri": "https://a.example:port/"}, "redirect_uri 参数错误"),
        ({"response_type": "token"}, "response_type 参数错误"),
        ({"scope": None}, "Scope 参数错误"),
        ({"scope": "snsapi_privateinfo"}, "Scope 参数错误"),
    ],
)
async def test_a_page_says_what_is_wrong(wx, client, page, changes, says):
    wx.visit_as("bob")
    right = "snsapi_login" if page == QR_PAGE else "snsapi_base"
    query = page_query(wx, **{"scope": right, **changes})
    status, location, text = await visit(client, query, page)
    assert (status, location) == (200, "")
    assert says in text


@pytest.mark.parametrize(("page", "scope"), [(PAGE, "snsapi_login"), (QR_PAGE, "snsapi_base")])
async def test_a_page_has_scopes_of_its_own(wx, client, page, scope):
    wx.visit_as("bob")
    assert "Scope 参数错误" in (await visit(client, page_query(wx, scope=scope), page))[2]


async def test_an_official_accounts_page_wants_its_parameters_in_wechats_order(wx, client):
    wx.visit_as("bob")
    query = page_query(wx)
    backwards = dict(reversed(query.items()))
    assert "in this order: appid, redirect_uri" in (await visit(client, backwards))[2]
    with_others = {"forcePopup": "true", **query, "lang": "en"}
    assert (await visit(client, with_others))[0] == 302


async def test_an_official_accounts_page_takes_a_state_of_at_most_128_bytes(wx, client):
    wx.visit_as("bob")
    assert (await visit(client, page_query(wx, state="a" * 128)))[0] == 302
    assert "128 bytes" in (await visit(client, page_query(wx, state="é" * 65)))[2]


async def test_the_website_page_takes_any_order_and_any_state(wx, client):
    wx.visit_as("bob")
    query = page_query(wx, scope="snsapi_login", state="é" * 65)
    back = await parameters_back(client, dict(reversed(query.items())), QR_PAGE)
    assert back["state"] == "é" * 65
    assert (await exchange(client, back["code"]))["scope"] == "snsapi_login"


@pytest.mark.parametrize(
    ("state", "location"),
    [("s-1", "https://shop.example/back?state=s-1"), (None, "https://shop.example/back")],
)
async def test_the_website_page_sends_a_user_who_declines_back_without_a_code(
    wx, client, state, location
):
    wx.visit_as("bob", declines=True)
    query = page_query(wx, scope="snsapi_login", state=state)
    assert (await visit(client, query, QR_PAGE))[:2] == (302, location)


async def test_an_official_accounts_page_keeps_a_user_who_declines(wx, client):
    wx.visit_as("bob", declines=True)
    status, location, text = await visit(client, page_query(wx))
    assert (status, location) == (200, "")
    assert "declined" in text


async def test_a_silent_login_cannot_be_declined(wx, client):
    wx.visit_as("bob", declines=True)
    back = await parameters_back(client, page_query(wx, scope="snsapi_base"))
    assert (await exchange(client, back["code"]))["openid"] == "bob"


@pytest.mark.parametrize("page", [PAGE, QR_PAGE])
async def test_a_page_shows_an_error_before_consent(wx, client, page):
    wx.visit_as("bob", declines=True)
    assert "AppID 参数错误" in (await visit(client, page_query(wx, appid=None), page))[2]


async def test_a_user_who_declined_can_consent_later(wx, client):
    wx.visit_as("bob", declines=True)
    query = page_query(wx, scope="snsapi_login")
    assert await parameters_back(client, query, QR_PAGE) == {"state": "s-1"}
    wx.visit_as("bob")
    assert (await parameters_back(client, query, QR_PAGE)).keys() == {"code", "state"}


@pytest.mark.parametrize("bad", ["%FF%FE", "%ED%A0%80", "%00", "%0D%0AX:%20y"])
async def test_bytes_that_are_no_text_break_no_page(wx, client, bad):
    wx.visit_as("bob")
    start = f"{wx.url}{PAGE}?appid={wx.app_id}&redirect_uri=https://a.example/{bad}"
    url = f"{start}&response_type=code&scope=snsapi_base&state={bad}"
    async with client.http.get(URL(url, encoded=True), allow_redirects=False) as response:
        assert response.status == 302
        assert response.headers["Location"].startswith("https://a.example/%")


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(redirect_uri=TEXTS.map("https://a.example/{}".format), state=TEXTS)
async def test_any_redirect_uri_and_state_lead_to_one_place(wx, client, redirect_uri, state):
    wx.visit_as("bob")
    query = page_query(wx, redirect_uri=redirect_uri, state=state)
    status, location, _ = await visit(client, query)
    assert status == 302
    assert urlsplit(location).hostname == "a.example"
    assert dict(parse_qsl(urlsplit(location).query, keep_blank_values=True))["state"] == state


def test_a_visitor_needs_an_open_id():
    with pytest.raises(ValueError, match="open_id must not be empty"):
        WeChatSimulator().visit_as("")


async def test_a_fault_meets_the_next_call_and_no_page(wx, client):
    wx.visit_as("bob")
    wx.fail_next(Fault.SYSTEM_BUSY)
    assert (await visit(client, page_query(wx)))[0] == 302
    code = wx.web_login("bob")
    assert (await exchange(client, code))["errcode"] == -1
    assert (await exchange(client, code))["openid"] == "bob"


async def test_another_process_can_visit(wx, client):
    await client.control("visit_as", open_id="alice", union_id="union-alice")
    code = (await parameters_back(client, page_query(wx)))["code"]
    assert (await exchange(client, code))["unionid"] == "union-alice"
    await client.control("visit_as", open_id="alice", declines=True)
    query = page_query(wx, scope="snsapi_login")
    assert await parameters_back(client, query, QR_PAGE) == {"state": "s-1"}
    assert "'open_id' must be" in (await client.control("visit_as"))["message"]
    bad = await client.control("visit_as", open_id="alice", declines=1)
    assert "'declines' must be true or false" in bad["message"]
