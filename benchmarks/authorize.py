"""authorize with everything: code, sealed data, SQLite file, Redis; against the bare GET.

Every login is of a user whom nobody has seen before, with an openId and a unionId: the hardest
case, for each writes a row. The limit is an aiohttp GET of the simulator's /sns/jscode2session
with a fresh code, its body read and nothing else done, through an aiohttp session with the settings
that ours has; the simulator has a process of its own. 1,000 callers take part in each.

Beside it stands a login as one writes it by hand, one command a call for each of its steps
(`login_by_hand.py`), and the same with the token given by fastapi-users where that is installed;
both with a fifth of the users, for each of these logins waits for the disk.

Two Redis servers take turns, one emptied before each round and one that holds many other tokens.
"""

import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import aiosqlite
from redis.asyncio import BlockingConnectionPool, Redis

from mpauthx_async import Connections, MPAuthX
from tests.helpers.redis_server import RedisServer

from . import fastapi_users_party
from .login_by_hand import LoginByHand, code_url, token_by_hand
from .measurement import (
    Benchmark,
    Figure,
    Outcome,
    Party,
    Settings,
    Spread,
    in_turn,
    rate,
    ratio,
    shares,
)
from .progress import Progress
from .sessions import begin_sessions, service, session_refs
from .wechat_process import Login, WeChatProcess

__all__ = ["AUTHORIZE"]

_CALLERS = 1000

_EMPTY = "authorize, no other tokens in Redis"
_LIMIT = "limit: the bare aiohttp GET"
_BY_HAND = "a login by hand, one command a call"
_FASTAPI_USERS = "the same, token by fastapi-users"
_POOL = 64  # connections
_FEWER_BY_HAND = 5  # times: each waits for the disk


@dataclass(frozen=True, slots=True)
class _Size:
    rounds: int
    logins: int
    other_tokens: int


_FULL = _Size(rounds=9, logins=10_000, other_tokens=1_000_000)
_QUICK = _Size(rounds=1, logins=1_000, other_tokens=5_000)


async def _run(settings: Settings, progress: Progress) -> Outcome:
    size = _QUICK if settings.quick else _FULL
    async with AsyncExitStack() as stack:
        wechat = stack.enter_context(WeChatProcess(uvloop=settings.uvloop))
        empty = stack.enter_context(RedisServer())
        full = stack.enter_context(RedisServer())
        await begin_sessions(full.url, session_refs(size.other_tokens), size.other_tokens, progress)
        emptied = await stack.enter_async_context(Redis.from_url(empty.url))
        http = (await stack.enter_async_context(Connections())).http
        services = [await _service(stack, server.url, wechat.url) for server in (empty, full)]

        async def limit() -> float:
            async def get(login: Login) -> bool:
                async with http.get(code_url(wechat.url, login.code)) as response:
                    return b"openid" in await response.read()

            return await rate(get, shares(await wechat.logins(size.logins), _CALLERS))

        async def authorize(auth: MPAuthX) -> float:
            async def log_in(login: Login) -> bool:
                return (await auth.authorize(*login)).is_new_user

            return await rate(log_in, shares(await wechat.logins(size.logins), _CALLERS))

        async def authorize_empty() -> float:
            await emptied.flushall()
            return await authorize(services[0])

        async def by_hand(give_token: Callable[[str], Awaitable[str]]) -> float:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mpauthx-benchmark-"))
            async with aiosqlite.connect(f"{folder}/users.db") as users:
                hand = LoginByHand(http, wechat.url, users, give_token)
                await hand.prepare()
                logins = await wechat.logins(size.logins // _FEWER_BY_HAND)
                return await rate(hand.log_in, shares(logins, _CALLERS))

        filled = f"authorize, {size.other_tokens:,} other tokens in Redis"
        pool = BlockingConnectionPool.from_url(empty.url, max_connections=_POOL, timeout=None)
        client = await stack.enter_async_context(Redis.from_pool(pool))
        parties = [
            Party(_EMPTY, authorize_empty),
            Party(filled, lambda: authorize(services[1])),
            Party(_LIMIT, limit),
            Party(_BY_HAND, lambda: by_hand(token_by_hand(client))),
        ]
        if fastapi_users_party.is_installed():
            writer = fastapi_users_party.token_writer(client)
            parties.append(Party(_FASTAPI_USERS, lambda: by_hand(writer)))
        rates = await in_turn(parties, size.rounds, progress)

    return _outcome(rates, filled, size)


async def _service(stack: AsyncExitStack, redis_url: str, api_base: str) -> MPAuthX:
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mpauthx-benchmark-"))
    return await stack.enter_async_context(service(folder, redis_url, api_base=api_base))


def _outcome(rates: dict[str, Spread], filled: str, size: _Size) -> Outcome:
    others = f"{size.other_tokens:,} other tokens"
    to_none = ratio(rates[filled], rates[_EMPTY])
    return Outcome(
        "authorize",
        f"{_CALLERS:,} concurrent callers, {size.logins:,} new users a round, {size.rounds} rounds",
        rates,
        [
            Figure("authorize to the bare GET", ratio(rates[_EMPTY], rates[_LIMIT]), at_least=0.6),
            Figure(f"with {others} to the bare GET", ratio(rates[filled], rates[_LIMIT])),
            Figure(f"with {others} to none", to_none, at_least=0.9, at_most=1.1),
            *(
                Figure(f"authorize to {name}", ratio(rates[_EMPTY], rates[party]))
                for name, party in (
                    ("a login by hand", _BY_HAND),
                    ("fastapi-users", _FASTAPI_USERS),
                )
                if party in rates
            ),
        ],
        [] if _FASTAPI_USERS in rates else [fastapi_users_party.LEFT_OUT],
    )


AUTHORIZE = Benchmark("authorize", "a whole login, against the bare GET of WeChat's answer", _run)
