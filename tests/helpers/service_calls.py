"""What the tests of managed sessions share: logging in, listening, and every call there is."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import aiohttp

from mpauthx_async import (
    AuthResult,
    Connections,
    MPAuthX,
    PushEvent,
    Session,
    WeChatOAuth,
    WeChatSimulator,
)
from mpauthx_async.events import Event

Kind = TypeVar("Kind")

FORGERIES: Sequence[Any] = (None, "", 5, b"bob|shop|x", "bob|shop|" + "A" * 43, "x" * 100_000)


async def log_in(
    auth: MPAuthX, wx: WeChatSimulator, user: str = "bob", device: str | None = None, **more: Any
) -> AuthResult:
    return await auth.authorize(wx.login(user, **more), device=device)


@asynccontextmanager
async def narrow_connections(
    limit: int, redis_url: str | None = None
) -> AsyncIterator[Connections]:
    """Connections with so few HTTP connections."""
    connector = aiohttp.TCPConnector(limit=limit)
    async with (
        aiohttp.ClientSession(connector=connector) as http,
        Connections(redis_url, http=http) as connections,
    ):
        yield connections


def forged(token: str) -> str:
    """A token with another MAC."""
    return token[:-2] + ("BA" if token[-2] == "A" else "AA")


def devices(sessions: Sequence[Session]) -> list[str | None]:
    return [session.device for session in sessions]


def hear(auth: MPAuthX) -> list[Event]:
    """What happens in a service from now on; complete once it is closed."""
    heard: list[Event] = []

    async def listen(event: Event) -> None:
        heard.append(event)

    auth.subscribe(listen)
    return heard


def of_kind(events: Sequence[Event], kind: type[Kind]) -> list[Kind]:
    return [event for event in events if isinstance(event, kind)]


ServiceCall = Callable[[MPAuthX, str, str], Awaitable[object]]
# By name, with a token and the id of its session.
STORE_CALLS: dict[str, ServiceCall] = {
    "is_token_valid": lambda auth, token, _: auth.is_token_valid(token),
    "token_status": lambda auth, token, _: auth.token_status(token),
    "session": lambda auth, token, _: auth.session(token),
    "sessions": lambda auth, *_: auth.sessions("bob"),
    "rotate": lambda auth, token, _: auth.rotate(token),
    "refresh_token": lambda auth, *_: auth.refresh_token("bob"),
    "revoke": lambda auth, token, _: auth.revoke(token),
    "revoke_session": lambda auth, _, session_id: auth.revoke_session("bob", session_id),
    "revoke_user": lambda auth, *_: auth.revoke_user("bob"),
    "ban": lambda auth, *_: auth.ban("bob"),
    "unban": lambda auth, *_: auth.unban("bob"),
    "ban_of": lambda auth, *_: auth.ban_of("bob"),
    "online": lambda auth, *_: auth.online(),
    "online_count": lambda auth, *_: auth.online_count(),
}
EVENT = PushEvent("user_info_modified", "bob", None, None, None, True, "nonce", 1_700_000_000)


def store_calls(
    auth: MPAuthX, token: str, session_id: str
) -> dict[str, Callable[[], Awaitable[object]]]:
    """Each call about sessions that has to ask a store."""
    return {name: partial(call, auth, token, session_id) for name, call in STORE_CALLS.items()}


def every_call(auth: MPAuthX, token: str) -> dict[str, Callable[[], Awaitable[object]]]:
    """Each method of a service that is awaited, but for `close`."""
    return {
        **store_calls(auth, token, "x"),
        "authorize": lambda: auth.authorize("code"),
        "authorize_web": lambda: auth.authorize_web("code"),
        "authenticate": lambda: auth.authenticate(token),
        "check": auth.check,
        "issue_session": lambda: auth.issue_session(open_id="bob"),
        "forget_user": lambda: auth.forget_user("bob"),
        "clear_profile": lambda: auth.clear_profile("bob", ["city"]),
        "decrypt": lambda: auth.decrypt(token, "data", "iv"),
        "decrypt_phone_number": lambda: auth.decrypt_phone_number(token, "data", "iv"),
        "verify_raw_data": lambda: auth.verify_raw_data(token, "{}", "0" * 40),
        "get_phone_number": lambda: auth.get_phone_number("code"),
        "check_session_key": lambda: auth.check_session_key(token),
        "reset_session_key": lambda: auth.reset_session_key(token),
        "user_encrypt_keys": lambda: auth.user_encrypt_keys(token),
        "access_token": auth.access_token,
        "handle_push_event": lambda: auth.handle_push_event(EVENT),
    }


def every_web_call(oauth: WeChatOAuth) -> dict[str, Callable[[], Awaitable[object]]]:
    """Each method of web logins that is awaited, but for `close`."""
    state = oauth.create_state(session="browser")
    return {
        "verify_state": lambda: oauth.verify_state(state, session="browser"),
        "get_access_token": lambda: oauth.get_access_token("code"),
        "refresh_access_token": lambda: oauth.refresh_access_token("token"),
        "get_user": lambda: oauth.get_user("bob"),
        "get_user_by_code": lambda: oauth.get_user_by_code("code"),
        "identify": lambda: oauth.identify("code"),
        "verify_token": lambda: oauth.verify_token("bob", "token"),
        "forget": lambda: oauth.forget("bob"),
        "get_session_key": lambda: oauth.get_session_key("code"),
    }


def key_calls(auth: MPAuthX, token: Any) -> list[Awaitable[object]]:
    """One call of each kind that needs the session key behind a token."""
    return [
        auth.decrypt(token, "data", "iv"),
        auth.decrypt_phone_number(token, "data", "iv"),
        auth.verify_raw_data(token, "{}", "0" * 40),
        auth.check_session_key(token),
        auth.reset_session_key(token),
    ]


async def outcomes(calls: list[Awaitable[object]]) -> list[type]:
    return [type(each) for each in await asyncio.gather(*calls, return_exceptions=True)]
