"""States of a web login: what they carry, and that nothing else passes for one."""

import asyncio
import re
from base64 import b32encode
from collections.abc import AsyncIterator
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpauthx_async import (
    ConfigurationError,
    InvalidStateError,
    ParameterError,
    StatusCode,
    WeChatOAuth,
)
from mpauthx_async.oauth.state import StateSigner
from tests.helpers.clock import Clock
from tests.helpers.memory_stores import DictOAuthTokenStore

APP_ID = "wx4f4bc4dec97d474b"
APP_SECRET = "5e4c2e7d00c0ffee5e4c2e7d00c0ffee"
SIGNER = StateSigner(app_id=APP_ID, keys=[APP_SECRET])
BROWSER = "cookie-of-bob"
TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)


def service(clock: Clock, tokens: object = None, **options: object) -> WeChatOAuth:
    names = {"app_id": APP_ID, "app_secret": APP_SECRET, **options}
    return WeChatOAuth(tokens=tokens or DictOAuthTokenStore(), clock=clock, **names)


@pytest.fixture
async def oauth(clock: Clock) -> AsyncIterator[WeChatOAuth]:
    async with service(clock) as oauth:
        yield oauth


async def is_refused(oauth: WeChatOAuth, state: object, session: object = BROWSER) -> str:
    with pytest.raises(InvalidStateError) as caught:
        await oauth.verify_state(state, session=session)
    assert caught.value.code == StatusCode.invalid_state == 6102
    return str(caught.value)


@pytest.mark.parametrize("payload", ["", "/cart?item=3", "购物车", "😀" * 12, "x" * 50, "\x00"])
async def test_the_payload_comes_back(oauth: WeChatOAuth, payload: str) -> None:
    state = oauth.create_state(payload, session=BROWSER)
    assert re.fullmatch("[A-Za-z0-9]{1,128}", state)
    assert await oauth.verify_state(state, session=BROWSER) == payload


def test_a_state_is_made_without_an_event_loop_and_no_two_are_equal(clock: Clock) -> None:
    oauth = service(clock)
    assert len({oauth.create_state("/cart", session=BROWSER) for _ in range(100)}) == 100


@pytest.mark.parametrize("payload", ["x" * 51, "购" * 17, "\ud800", b"x", None])
def test_rejects_a_payload_that_is_too_long(clock: Clock, payload: str) -> None:
    with pytest.raises(ParameterError, match="at most 50 bytes"):
        service(clock).create_state(payload, session=BROWSER)


@pytest.mark.parametrize("ttl", [0, -1, 86_401, float("nan"), float("inf"), "600", None])
def test_rejects_an_invalid_ttl(clock: Clock, ttl: float) -> None:
    with pytest.raises(ParameterError, match="ttl"):
        service(clock).create_state(ttl=ttl, session=BROWSER)


@pytest.mark.parametrize("session", ["", None, b"cookie", 0, "\ud800"])
def test_no_state_is_made_without_a_session(clock: Clock, session: str) -> None:
    with pytest.raises(ParameterError, match="session is required"):
        service(clock).create_state(session=session)


@pytest.mark.parametrize("session", ["", None, b"cookie-of-bob", 0])
async def test_no_state_is_verified_without_a_session(oauth: WeChatOAuth, session: object) -> None:
    state = oauth.create_state("/cart", session=BROWSER)
    with pytest.raises(ParameterError, match="session is required"):
        await oauth.verify_state(state, session=session)
    assert await oauth.verify_state(state, session=BROWSER) == "/cart"


@pytest.mark.parametrize("name", ["create_state", "verify_state"])
def test_the_session_has_no_default(name: str) -> None:
    session = signature(getattr(WeChatOAuth, name)).parameters["session"]
    assert (session.kind, session.default) == (Parameter.KEYWORD_ONLY, Parameter.empty)


async def test_a_state_lives_for_its_ttl_and_no_longer(oauth: WeChatOAuth, clock: Clock) -> None:
    early, late = [oauth.create_state(name, ttl=600, session=BROWSER) for name in ("early", "late")]
    clock.now += 599.9
    assert await oauth.verify_state(early, session=BROWSER) == "early"
    clock.now += 0.2
    assert "expired" in await is_refused(oauth, late)


async def test_a_state_is_good_once(oauth: WeChatOAuth) -> None:
    state = oauth.create_state("/cart", session=BROWSER)
    answers = await asyncio.gather(
        *(oauth.verify_state(state, session=BROWSER) for _ in range(10)), return_exceptions=True
    )
    assert answers.count("/cart") == 1
    refused = [answer for answer in answers if answer != "/cart"]
    assert [type(answer) for answer in refused] == [InvalidStateError] * 9
    assert "used before" in await is_refused(oauth, state)


async def test_a_used_state_is_refused_even_by_a_clock_behind(clock: Clock, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'oauth.db'}"
    behind = Clock()
    behind.now -= 50
    async with service(clock, url) as one, service(behind, url) as other:
        state = one.create_state(ttl=10, session=BROWSER)
        await one.verify_state(state, session=BROWSER)
        clock.now += 59
        later = one.create_state(session=BROWSER)
        await one.verify_state(later, session=BROWSER)  # clears away what is over
        assert "used before" in await is_refused(other, state)


async def test_a_state_belongs_to_the_browser_that_it_was_made_for(oauth: WeChatOAuth) -> None:
    state = oauth.create_state("b", session="a")
    for session in ("cookie-of-eve", "\ud800", "ab", "b"):  # the payload is no part of a session
        assert "another browser" in await is_refused(oauth, state, session)
    assert await oauth.verify_state(state, session="a") == "b"


@pytest.mark.parametrize(
    "other",
    [{"app_id": "wx0"}, {"app_secret": "another-secret-of-32-characters!"}],
    ids=["app", "secret"],
)
async def test_another_apps_state_is_refused(
    oauth: WeChatOAuth, clock: Clock, other: dict[str, str]
) -> None:
    await is_refused(oauth, service(clock, **other).create_state(session=BROWSER))


async def test_states_outlive_a_change_of_the_secret(clock: Clock) -> None:
    old, new = "old-secret-of-32-characters-00000", "new-secret-of-32-characters-00000"
    state = service(clock, app_secret=old).create_state("/cart", session=BROWSER)
    async with service(clock, app_secret=new, signing_keys=[old, new]) as oauth:
        assert await oauth.verify_state(state, session=BROWSER) == "/cart"
        newer = oauth.create_state("/cart", session=BROWSER)
    async with service(clock, app_secret=new) as oauth:
        assert await oauth.verify_state(newer, session=BROWSER) == "/cart"


@pytest.mark.parametrize(
    "keys", [[], ["short"], "a-text-and-not-a-list", [5], 5, {"x" * 16}, iter(["x" * 16])]
)
def test_rejects_invalid_signing_keys(clock: Clock, keys: Any) -> None:
    with pytest.raises(ConfigurationError):
        service(clock, signing_keys=keys)


@pytest.mark.parametrize("options", [{"connections": "redis://localhost"}, {"clock": 5}])
def test_rejects_invalid_parts(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="must be a"):
        WeChatOAuth(app_id="wx", app_secret="s" * 32, tokens="sqlite:///t.db", **options)


async def test_no_character_of_a_state_can_be_changed(oauth: WeChatOAuth) -> None:
    state = oauth.create_state("/cart", session=BROWSER)
    for i, character in enumerate(state):
        for other in {"A", "B", "7", "a", "-", character.lower()} - {character}:
            await is_refused(oauth, state[:i] + other + state[i + 1 :])
        await is_refused(oauth, state[:i])
    for changed in (state + "A", state + "=", " " + state, state + "\n", state.lower()):
        await is_refused(oauth, changed)
    assert await oauth.verify_state(state, session=BROWSER) == "/cart"


@given(st.text() | st.binary() | st.none() | st.integers() | st.floats() | st.lists(st.text()))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rejects_any_other_text_as_a_state(value: object) -> None:
    with pytest.raises(InvalidStateError):
        SIGNER.verify(value, 0, BROWSER)


@given(st.binary(max_size=80))
def test_rejects_a_well_formed_forgery(raw: bytes) -> None:
    with pytest.raises(InvalidStateError):
        SIGNER.verify(b32encode(raw).decode().rstrip("="), 0, BROWSER)


@given(st.from_regex("[A-Z2-7]{0,140}", fullmatch=True), st.text(min_size=1))
async def test_verify_state_raises_only_its_documented_error(state: str, session: str) -> None:
    async with service(Clock()) as oauth:
        with pytest.raises(InvalidStateError):
            await oauth.verify_state(state, session=session)


@given(TEXTS, TEXTS.filter(bool), st.integers(1, 2**47))
def test_every_payload_and_session_come_back(payload: str, session: str, ends_at: int) -> None:
    state = SIGNER.sign(payload, ends_at, session)
    verified = SIGNER.verify(state, ends_at - 1, session)
    assert (verified.payload, verified.ends_at) == (payload, ends_at)
    assert len(state) <= 128
    with pytest.raises(InvalidStateError):
        SIGNER.verify(state, ends_at, session)
    with pytest.raises(InvalidStateError):
        SIGNER.verify(state, ends_at - 1, session + "x")
