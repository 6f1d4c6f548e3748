"""What the tests of managed sessions share: logging in, listening, and every call there is."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import aiohttp

from mpauthx_async import AuthResult, Connections, MPAuthX, Session, WeChatSimulator
from mpauthx_async.events import Event

__all__ = [
    "FORGERIES",
    "Kind",
    "devices",
    "forged",
    "hear",
    "key_calls",
    "log_in",
    "narrow_connections",
    "of_kind",
    "outcomes",
    "store_calls",
]

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


def store_calls(
    auth: MPAuthX, token: str, session_id: str
) -> dict[str, Callable[[], Awaitable[object]]]:
    """Each call about sessions that has to ask a store."""
    return {
        "is_token_valid": lambda: auth.is_token_valid(token),
        "token_status": lambda: auth.token_status(token),
        "session": lambda: auth.session(token),
        "sessions": lambda: auth.sessions("bob"),
        "rotate": lambda: auth.rotate(token),
        "refresh_token": lambda: auth.refresh_token("bob"),
        "revoke": lambda: auth.revoke(token),
        "revoke_session": lambda: auth.revoke_session("bob", session_id),
        "revoke_user": lambda: auth.revoke_user("bob"),
        "ban": lambda: auth.ban("bob"),
        "unban": lambda: auth.unban("bob"),
        "ban_of": lambda: auth.ban_of("bob"),
        "online": lambda: auth.online(),
        "online_count": lambda: auth.online_count(),
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
