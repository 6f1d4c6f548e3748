"""Sessions and user ids that the suites share, and questions to a token store."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from ...constants import TokenStatus
from ...models import Ban, LoginPolicy, NewSession, Session, SessionRef, Subject, User
from ...tokens.format import new_nonce
from .. import TokenStore, UserStore

__all__ = [
    "ALICE",
    "HOUR",
    "LARGEST",
    "SOLE",
    "UNUSUAL_IDS",
    "ban_of",
    "begin",
    "begin_apart",
    "end_of",
    "is_about",
    "is_alive",
    "listed",
    "mixed_batch",
    "new_session",
    "rotated",
    "statuses",
    "until",
    "user_of",
]

HOUR = 3_600_000  # milliseconds
_PATIENCE = 30  # seconds to wait for a session of a second to end
ALICE = Subject("shop", "alice")

UNUSUAL_IDS = [
    "*",
    "?",
    "[a-z]",
    "%",
    "_",
    "%s",
    "{}",
    "{shop:1}",
    "}{",
    "'",
    '"',
    "`",
    "' OR '1'='1",
    "\\",
    "\\u0041",
    "$1",
    ":1",
    "null",
    "0",
    "00",
    "0.0",
    "[]",
    "oabc",
    "OABC",
    "\u00fc",  # ü in one code point, then in two
    "u\u0308",
    "微信用户",
    "😀",
    "\u202eoid",
    "x" * 127,
    "x" * 128,
    "😀" * 128,
]
"""User ids with a meaning in SQL, Redis globs or hash tags, JSON or format strings.

All are different users, even if a collation treats some of them as equal.
"""


SOLE = LoginPolicy(max_sessions=1)
LARGEST = LoginPolicy(max_sessions=1000)
_ANY = LoginPolicy()


def new_session(
    user_id: str = "alice",
    *,
    sku: str = "shop",
    ttl: int = HOUR,
    policy: LoginPolicy = _ANY,
    sealed_key: str | None = None,
    device: str | None = None,
    device_kind: str | None = None,
    absolute_ttl: int | None = None,
) -> NewSession:
    """Make a session with a nonce of its own, to be issued.

    Args:
        user_id: its user.
        sku: its sku.
        ttl: how long it lives, in milliseconds.
        policy: its login policy.
        sealed_key: WeChat's session key, encrypted.
        device: a name by which the user knows the device.
        device_kind: the kind of device, such as phone.
        absolute_ttl: how long it lives at most, in milliseconds.
    """
    ref = SessionRef(sku, user_id, new_nonce())
    return NewSession(ref, ttl, policy, sealed_key, device, device_kind, absolute_ttl)


def mixed_batch() -> list[NewSession]:
    """Sessions of several skus and users, with those of the first subject among the others."""
    return [
        new_session("alice", sku="shop"),
        new_session("bob", sku="shop", ttl=2 * HOUR),
        new_session("alice", sku="game"),
        new_session("alice", sku="shop", ttl=3 * HOUR),
        new_session("carol", sku="game", ttl=24 * HOUR),
        new_session("bob", sku="game"),
        new_session("alice", sku="shop"),
    ]


async def begin(store: TokenStore, *sessions: NewSession) -> list[Session]:
    """Issue sessions in one batch, of users who are not banned."""
    answers = await store.issue(sessions)
    begun = [answer for answer in answers if isinstance(answer, Session)]
    assert len(begun) == len(answers) == len(sessions)
    return begun


async def ban_of(store: TokenStore, subject: Subject) -> Ban | None:
    """The ban of one subject."""
    (ban,) = await store.bans([subject])
    return ban


async def user_of(store: UserStore, user_id: str) -> User:
    """The user with an id, who is known."""
    (user,) = await store.get([user_id])
    assert user is not None
    return user


async def begin_apart(store: TokenStore, *sessions: NewSession) -> list[Session]:
    """Issue sessions one after the other."""
    return [begun for new in sessions for begun in await begin(store, new)]


async def is_alive(store: TokenStore, *sessions: NewSession | Session) -> list[bool]:
    ends = await store.lookup([session.ref for session in sessions])
    return [end is not None and end > 0 for end in ends]


async def statuses(store: TokenStore, *sessions: NewSession | Session) -> list[int | None]:
    """The answers of `lookup`, with TokenStatus.active for live sessions."""
    answers = await store.lookup([session.ref for session in sessions])
    return [TokenStatus.active if answer and answer > 0 else answer for answer in answers]


async def listed(store: TokenStore, subject: Subject = ALICE) -> list[SessionRef]:
    """The sessions of a subject that are listed, newest first."""
    return [session.ref for session in await store.sessions(subject)]


async def rotated(store: TokenStore, ref: SessionRef, *, grace: int = HOUR) -> SessionRef:
    """Rotate a live session; returns its ref of the next generation."""
    (answer,) = await store.rotate([ref], ttl=HOUR, grace=grace)
    assert isinstance(answer, Session)
    return answer.ref


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    """Wait until something is true by the clock of the store."""
    deadline = time.monotonic() + _PATIENCE
    while not await is_so():
        assert time.monotonic() < deadline, "The store did not reach the expected state in time."
        await asyncio.sleep(0.001)


async def end_of(store: TokenStore, brief: NewSession | Session) -> None:
    """Wait until a session has expired."""

    async def is_over() -> bool:
        return await is_alive(store, brief) == [False]

    await until(is_over)


def is_about(end: int, expected: int) -> bool:
    """Whether a time in Unix milliseconds is the expected one, or up to a minute later."""
    return expected <= end <= expected + 60_000
