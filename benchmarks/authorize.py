"""authorize with everything: code, sealed data, SQLite file, Redis; against the bare GET.

Every login is of a user whom nobody has seen before, with an openId and a unionId: the hardest
case, for each writes a row. The limit is an aiohttp GET of the simulator's /sns/jscode2session
with a fresh code, its body read and nothing else done, through an aiohttp session with the settings
that ours has; the simulator has a process of its own. 1,000 callers take part in each.

Two Redis servers take turns, one emptied before each round and one that holds many other tokens.
"""

import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass

from redis.asyncio import Redis

from mpauthx_async import Connections, MPAuthX
from tests.redis_server import RedisServer

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
from .sessions import APP_ID, APP_SECRET, begin_sessions, service, session_refs
from .wechat_process import Login, WeChatProcess

__all__ = ["AUTHORIZE"]

_CALLERS = 1000

_EMPTY = "authorize, no other tokens in Redis"
_LIMIT = "limit: the bare aiohttp GET"


@dataclass(frozen=True, slots=True)
class _Size:
    rounds: int
    logins: int
    other_tokens: int


_FULL = _Size(rounds=9, logins=10_000, other_tokens=1_000_000)
_QUICK = _Size(rounds=3, logins=2_000, other_tokens=20_000)


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
            url = f"{wechat.url}/sns/jscode2session?appid={APP_ID}&secret={APP_SECRET}"

            async def get(login: Login) -> bool:
                query = f"js_code={login.code}&grant_type=authorization_code"
                async with http.get(f"{url}&{query}") as response:
                    return b"openid" in await response.read()

            return await rate(get, shares(await wechat.logins(size.logins), _CALLERS))

        async def authorize(auth: MPAuthX) -> float:
            async def log_in(login: Login) -> bool:
                return (await auth.authorize(*login)).is_new_user

            return await rate(log_in, shares(await wechat.logins(size.logins), _CALLERS))

        async def authorize_empty() -> float:
            await emptied.flushall()
            return await authorize(services[0])

        filled = f"authorize, {size.other_tokens:,} other tokens in Redis"
        rates = await in_turn(
            [
                Party(_EMPTY, authorize_empty),
                Party(filled, lambda: authorize(services[1])),
                Party(_LIMIT, limit),
            ],
            size.rounds,
            progress,
        )

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
        ],
    )


AUTHORIZE = Benchmark("authorize", "a whole login, against the bare GET of WeChat's answer", _run)
