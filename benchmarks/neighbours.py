"""What one full user costs: 500 concurrent calls, against 500 users' with one session each.

The full user has 1,000 sessions, as many as a policy allows, with device names of 64 characters and
200 bytes. Both parties take turns; for each operation of a round they get users of their own, and
what is timed is 500 calls that begin at once:

- `session`, `rotate` and `revoke` of a service, with tokens;
- `authorize`, with codes exchanged in this process, for WeChat allows a user 100 logins a minute;
- `renew` and `sealed_keys` of the store, in the batches of 500 in which a service asks them for
  sliding lives and for `decrypt`.

The longest script in Redis's SLOWLOG is reported too: every other client waits that long.
"""

import asyncio
import base64
import secrets
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, ClassVar

from redis.asyncio import Redis

from mpauthx_async import (
    CodeSession,
    LoginPolicy,
    MPAuthX,
    NewSession,
    RedisTokenStore,
    SessionRef,
    SqliteUserStore,
    User,
)
from mpauthx_async.tokens.format import TokenSigner, new_nonce
from mpauthx_async.wechat.transport import WeChatHTTP
from tests.helpers.redis_server import RedisServer

from .measurement import (
    Benchmark,
    Figure,
    Outcome,
    Party,
    Settings,
    Spread,
    WrongAnswer,
    ratio,
    turns,
)
from .progress import Progress
from .sessions import APP_ID, APP_SECRET, SKU, TTL, signer

__all__ = ["NEIGHBOURS"]

_CALLS = 500
_SESSIONS = 1000  # of the full user
_POLICY = LoginPolicy(max_sessions=_SESSIONS)
_TTL = TTL - 3_600_000  # milliseconds: as of sessions that began an hour ago
_DEVICE = "华" * 56 + "📱" * 8  # 64 characters, 200 bytes
_SLOW = 50  # microseconds, from which on SLOWLOG keeps a command
_AT_MOST = 2.0
_ROUNDS, _QUICK_ROUNDS = 9, 1

_FULL = "one full user"
_MANY = f"{_CALLS} users"
_OPERATIONS = ("session", "rotate", "renew", "sealed_keys", "revoke", "authorize")


@dataclass(frozen=True, slots=True)
class _Took:
    """How long an operation and its longest script took, in milliseconds."""

    calls: float
    longest_script: float


async def _run(settings: Settings, progress: Progress) -> Outcome:
    rounds = _QUICK_ROUNDS if settings.quick else _ROUNDS
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mpauthx-benchmark-"))
        server = stack.enter_context(RedisServer(slowlog_log_slower_than=str(_SLOW)))
        redis = await stack.enter_async_context(Redis.from_url(server.url))
        users = await stack.enter_async_context(SqliteUserStore(f"{folder}/users.db"))
        tokens = await stack.enter_async_context(RedisTokenStore(server.url))
        auth = await stack.enter_async_context(
            MPAuthX(
                app_id=APP_ID,
                app_secret=APP_SECRET,
                sku=SKU,
                users=users,
                tokens=tokens,
                policy=_POLICY,
                exchange=_InProcess(),
            )
        )
        calls = _Calls(auth, users, tokens, redis)
        given = await turns(
            [
                Party(_FULL, lambda: calls.run([f"full-{next(calls.numbers)}"], _SESSIONS)),
                Party(_MANY, lambda: calls.run(calls.new_users(), 1)),
            ],
            rounds,
            progress,
        )
    return _outcome(given, rounds)


class _Calls:
    """The calls of a round, and who makes them."""

    def __init__(
        self, auth: MPAuthX, users: SqliteUserStore, tokens: RedisTokenStore, redis: Redis
    ) -> None:
        self._auth = auth
        self._users = users
        self._tokens = tokens
        self._redis = redis
        self._signer: TokenSigner = signer()
        self.numbers = count()

    def new_users(self) -> list[str]:
        """As many users as there are calls."""
        return [f"many-{next(self.numbers)}" for _ in range(_CALLS)]

    async def run(self, user_ids: Sequence[str], sessions_each: int) -> dict[str, _Took]:
        """Time each operation for users who have that many sessions each."""
        took = {}
        for operation in _OPERATIONS:
            # Each operation has users of its own, because some end or begin sessions.
            own = [f"{user_id}-{operation}" for user_id in user_ids]
            refs = await self._begin(own, sessions_each)
            took[operation] = await self._time(partial(self._answers, operation, refs))
        return took

    async def _begin(self, user_ids: Sequence[str], sessions_each: int) -> list[SessionRef]:
        """Begin the sessions of users; returns the last 500."""
        await self._users.save([User(user_id) for user_id in user_ids])
        refs = [
            SessionRef(SKU, name, new_nonce()) for name in user_ids for _ in range(sessions_each)
        ]
        new = [NewSession(ref, _TTL, _POLICY, "A" * 43, _DEVICE) for ref in refs]
        for first in range(0, len(new), _CALLS):
            await self._tokens.issue(new[first : first + _CALLS])
        return refs[-_CALLS:]

    def _answers(self, operation: str, refs: Sequence[SessionRef]) -> Awaitable[Sequence[Any]]:
        auth, tokens = self._auth, [self._signer.mint(ref.user_id, ref.nonce) for ref in refs]
        match operation:
            case "session":
                return asyncio.gather(*map(auth.session, tokens))
            case "rotate":
                return asyncio.gather(*map(auth.rotate, tokens))
            case "renew":
                return self._tokens.renew(refs, ttl=2 * TTL)
            case "sealed_keys":
                return self._tokens.sealed_keys(refs)
            case "revoke":
                return asyncio.gather(*map(auth.revoke, tokens))
        return self._log_in([ref.user_id for ref in refs])

    def _log_in(self, user_ids: Sequence[str]) -> Awaitable[Sequence[Any]]:
        codes = [f"{user_id}:{number}" for number, user_id in enumerate(user_ids)]
        return asyncio.gather(*(self._auth.authorize(code, device=_DEVICE) for code in codes))

    async def _time(self, work: Callable[[], Awaitable[Sequence[Any]]]) -> _Took:
        await self._redis.slowlog_reset()
        started = time.perf_counter()
        answers = await work()
        seconds = time.perf_counter() - started
        if not all(answers) or len(answers) != _CALLS:
            raise WrongAnswer("Not all calls were answered as they should.")
        commands = await self._redis.slowlog_get(_CALLS)
        longest = max((command["duration"] for command in commands), default=_SLOW)
        return _Took(1000 * seconds, longest / 1000)


class _InProcess:
    """A code exchange that asks nobody: a code is the user's openId and a number."""

    hosts: ClassVar[Sequence[str]] = ("https://wechat.invalid",)

    async def code_to_session(self, http: WeChatHTTP, app_id: str, code: str) -> CodeSession:
        session_key = base64.b64encode(secrets.token_bytes(16)).decode()
        return CodeSession(code.rpartition(":")[0], session_key)

    def names_same_user(self, session: CodeSession, payload: Mapping[str, Any]) -> bool:
        return False


def _outcome(given: Mapping[str, Sequence[Mapping[str, _Took]]], rounds: int) -> Outcome:
    def spread(party: str, operation: str) -> Spread:
        return Spread(tuple(one[operation].calls for one in given[party]))

    measured = {}
    for operation in _OPERATIONS:
        for party, took in given.items():
            measured[f"{operation}, {party}"] = spread(party, operation)
            longest = tuple(one[operation].longest_script for one in took)
            measured[f"{operation}, longest script, {party}"] = Spread(longest)
    return Outcome(
        "neighbours",
        f"{_CALLS} concurrent calls, {_SESSIONS:,} sessions of the full user, {rounds} rounds",
        measured,
        [
            Figure(
                f"{operation}, one full user to {_MANY}",
                ratio(spread(_FULL, operation), spread(_MANY, operation)),
                at_most=_AT_MOST,
            )
            for operation in _OPERATIONS
        ],
        unit="ms",
    )


NEIGHBOURS = Benchmark("neighbours", "one user of 1,000 sessions, against 500 of one each", _run)
