"""Which failures say that the same call may succeed later: not those of a code that is used up."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from mpauthx_async import (
    Ban,
    EmptyResponseError,
    HTTPStatusError,
    IncompleteResponseError,
    MPAuthX,
    MPAuthXError,
    NewSession,
    PartialStoreError,
    Session,
    SessionRef,
    StoreError,
    User,
    WeChatAPIError,
    WeChatOAuth,
    WeChatSimulator,
)
from mpauthx_async.simulator import Fault
from tests.helpers.memory_stores import DictOAuthTokenStore, MemoryTokens, MemoryUsers
from tests.helpers.redis_server import RedisServer
from tests.helpers.service_calls import log_in
from tests.helpers.web_logins import service as web_service

Make = Callable[..., MPAuthX]

NEW_CODE = "The code is used up, or may be: the client has to get a new one, as with wx.login."


class Users(MemoryUsers):
    """A store that saves nobody."""

    async def save(self, users: Sequence[User]) -> Sequence[bool]:
        raise StoreError("The disk is full.")


class Tokens(MemoryTokens):
    """A store that keeps no new session, and cannot look one up."""

    async def issue(self, sessions: Sequence[NewSession]) -> Sequence[Session | Ban]:
        raise StoreError("The disk is full.")

    async def lookup(self, refs: Sequence[SessionRef]) -> Sequence[int | None]:
        raise StoreError("The disk is full.")


@pytest.fixture(params=["users", "tokens"])
async def broken(request: pytest.FixtureRequest, make: Make) -> AsyncIterator[MPAuthX]:
    """A service that logs nobody in, for the fault of either store."""
    stores = {"users": (Users(), MemoryTokens()), "tokens": (MemoryUsers(), Tokens())}
    users, tokens = stores[request.param]
    async with make(users=users, tokens=tokens) as auth:
        yield auth


async def test_the_error_of_a_lost_login_does_not_advise_to_repeat_it(
    make: Make, wx: WeChatSimulator, server: RedisServer
) -> None:
    async with make(tokens=server.url) as auth:
        server.stop()
        with pytest.raises(StoreError) as login:
            await log_in(auth, wx)
        with pytest.raises(StoreError) as session:
            await auth.issue_session(open_id="bob")
    assert (login.value.retryable, session.value.retryable) == (False, True)
    assert str(login.value).endswith(f"its URL begins with rediss. {NEW_CODE}")
    assert str(session.value).endswith("its URL begins with rediss.")


async def test_callers_of_a_login_that_is_not_stored_are_told_that_its_code_is_used_up(
    broken: MPAuthX, wx: WeChatSimulator
) -> None:
    code = wx.login("bob")
    calls = [broken.authorize(code) for _ in range(3)]
    for error in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(error, StoreError)
        assert (error.http_status, error.retryable) == (503, False)
        assert str(error) == f"The disk is full. {NEW_CODE}"


async def test_a_session_that_is_not_stored_can_be_issued_again(broken: MPAuthX) -> None:
    with pytest.raises(StoreError) as caught:
        await broken.issue_session(open_id="bob")
    assert (caught.value.http_status, caught.value.retryable) == (503, True)
    assert str(caught.value) == "The disk is full."


async def test_a_token_can_be_checked_again(make: Make, wx: WeChatSimulator) -> None:
    async with make(users=MemoryUsers(), tokens=MemoryTokens()) as auth:
        token = (await log_in(auth, wx)).token
    async with make(users=MemoryUsers(), tokens=Tokens()) as auth:
        with pytest.raises(StoreError) as caught:
            await auth.is_token_valid(token)
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.HTTP_500, HTTPStatusError),
        (Fault.EMPTY, EmptyResponseError),
        (Fault.TRUNCATED, IncompleteResponseError),
    ],
)
async def test_a_request_with_a_code_is_not_repeated(
    make: Make, wx: WeChatSimulator, fault: Fault, kind: type[MPAuthXError]
) -> None:
    async with make(users=MemoryUsers(), tokens=MemoryTokens()) as auth:
        wx.fail_next(fault)
        with pytest.raises(kind) as caught:
            await log_in(auth, wx)
    assert (caught.value.http_status, caught.value.retryable) == (502, False)
    assert str(caught.value).endswith(NEW_CODE)


async def test_a_busy_wechat_has_not_used_the_code_up(make: Make, wx: WeChatSimulator) -> None:
    async with make(users=MemoryUsers(), tokens=MemoryTokens()) as auth:
        code = wx.login("bob")
        wx.fail_next(Fault.SYSTEM_BUSY, 3)
        with pytest.raises(WeChatAPIError) as caught:
            await auth.authorize(code)
        assert (caught.value.http_status, caught.value.retryable) == (503, True)
        assert str(caught.value).endswith("WeChat is busy: wait a moment.")
        assert await auth.authorize(code)


class Saving(DictOAuthTokenStore):
    """A store of web logins after whose first save WeChat is busy."""

    def __init__(self, wx: WeChatSimulator) -> None:
        super().__init__()
        self._wx = wx
        self.failure: Exception | None = None

    async def save(self, open_id: str, token: object) -> None:
        if self.failure is not None:
            raise self.failure
        await super().save(open_id, token)  # type: ignore[arg-type]
        self._wx.fail_next(Fault.SYSTEM_BUSY, 3)


@pytest.fixture
def kept(wx: WeChatSimulator) -> Saving:
    return Saving(wx)


@pytest.fixture
async def oauth(wx: WeChatSimulator, kept: Saving) -> AsyncIterator[WeChatOAuth]:
    async with web_service(wx, (kept.get, kept.save), lambda: 1_800_000_000.0) as oauth:
        yield oauth


@pytest.mark.parametrize("method", ["get_user_by_code", "identify"])
async def test_a_web_login_without_its_profile_has_used_its_code_up(
    oauth: WeChatOAuth, wx: WeChatSimulator, method: str
) -> None:
    with pytest.raises(WeChatAPIError) as caught:
        await getattr(oauth, method)(wx.web_login("bob"))
    assert (caught.value.errcode, caught.value.retryable) == (-1, False)
    assert str(caught.value).endswith(f"WeChat is busy: wait a moment. {NEW_CODE}")
    assert (await oauth.get_user("bob")).open_id == "bob"


async def test_a_profile_can_be_asked_for_again(oauth: WeChatOAuth, wx: WeChatSimulator) -> None:
    await oauth.get_access_token(wx.web_login("bob"))
    with pytest.raises(WeChatAPIError) as caught:
        await oauth.get_user("bob")
    assert (caught.value.errcode, caught.value.retryable) == (-1, True)


async def test_a_web_token_that_is_not_saved_has_used_its_code_up(
    oauth: WeChatOAuth, wx: WeChatSimulator, kept: Saving
) -> None:
    kept.failure = StoreError("The disk is full.")
    with pytest.raises(StoreError) as caught:
        await oauth.get_access_token(wx.web_login("bob"))
    assert not caught.value.retryable
    assert str(caught.value) == f"The disk is full. {NEW_CODE}"


@pytest.mark.parametrize(
    ("retryable", "expected"), [((False, False), False), ((False, True), True)]
)
def test_a_batch_is_retryable_if_a_failure_is(retryable: Sequence[bool], expected: bool) -> None:
    failures = [StoreError("Damaged."), StoreError("No answer.")]
    for failure, may_succeed in zip(failures, retryable, strict=True):
        failure.retryable = may_succeed
    assert PartialStoreError([*failures, "an answer"]).retryable is expected
