"""What the suites of several stores try out: user ids, sessions, and how they end."""

import asyncio
import time

from ...models import NewSession, SessionRef
from ...tokens import new_nonce
from .. import TokenStore

__all__ = ["HOUR", "UNUSUAL_IDS", "end_of", "is_alive", "mixed_batch", "new_session"]

HOUR = 3_600_000  # milliseconds
_PATIENCE = 10  # seconds in which a session of a millisecond has to end

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
"""User ids with a meaning in SQL, in Redis's globs or hash tags, in JSON or in a format string.

No two of them are one user, whatever a collation says.
"""


def new_session(
    user_id: str = "alice",
    *,
    sku: str = "shop",
    issued_at: int | None = None,
    ttl: int = HOUR,
    sole: bool = False,
    sealed_key: str | None = None,
) -> NewSession:
    """A session that is to begin, by default now, under a nonce of its own.

    Args:
        user_id: whose it is.
        sku: of which sku.
        issued_at: when it begins, in Unix milliseconds.
        ttl: how long it lives, in milliseconds.
        sole: whether every earlier session of the subject ends in the same step.
        sealed_key: WeChat's session key, encrypted.
    """
    if issued_at is None:
        issued_at = time.time_ns() // 1_000_000
    return NewSession(SessionRef(sku, user_id, new_nonce()), issued_at, ttl, sole, sealed_key)


def mixed_batch() -> list[NewSession]:
    """Sessions of several skus and users, the first subject's in between the others'."""
    return [
        new_session("alice", sku="shop"),
        new_session("bob", sku="shop", ttl=2 * HOUR),
        new_session("alice", sku="game"),
        new_session("alice", sku="shop", ttl=3 * HOUR),
        new_session("carol", sku="game", ttl=24 * HOUR),
        new_session("bob", sku="game"),
        new_session("alice", sku="shop"),
    ]


async def is_alive(store: TokenStore, *sessions: NewSession) -> list[bool]:
    return [end is not None for end in await store.lookup([new.ref for new in sessions])]


async def end_of(store: TokenStore, brief: NewSession) -> None:
    """Wait until the store says itself that a session ended; what tells the time is its own."""
    deadline = time.monotonic() + _PATIENCE
    while await is_alive(store, brief) != [False]:
        assert time.monotonic() < deadline, "The session does not end."
        await asyncio.sleep(0.001)
