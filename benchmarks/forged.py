"""Forged and malformed tokens through is_token_valid: they die without touching Redis.

That none of them does is shown by the server's own count of commands; and a good token, checked
before and after, shows that the count would have moved. The limit is the MAC alone, which any
check of a well-formed token has to compute.
"""

import hashlib
import secrets
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import cycle, islice
from time import perf_counter

from redis.asyncio import Redis

from mpauthx_async import MPAuthX
from tests.helpers.redis_server import RedisServer

from .measurement import (
    Benchmark,
    Figure,
    Outcome,
    Party,
    Settings,
    Spread,
    WrongAnswer,
    in_turn,
    rate,
    ratio,
    shares,
)
from .progress import Progress
from .sessions import APP_ID, APP_SECRET, SKU, begin_sessions, session_refs, signer

__all__ = ["FORGED"]

_CALLERS = 1000

_FORGED = "forged: signed with another secret"
_MALFORMED = "malformed in fourteen ways"
_LIMIT = "limit: the keyed BLAKE2b alone"


@dataclass(frozen=True, slots=True)
class _Size:
    rounds: int
    tokens: int


_FULL = _Size(rounds=9, tokens=500_000)
_QUICK = _Size(rounds=1, tokens=50_000)


async def _run(settings: Settings, progress: Progress) -> Outcome:
    size = _QUICK if settings.quick else _FULL
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="mpauthx-benchmark-"))
        server = stack.enter_context(RedisServer())
        redis = await stack.enter_async_context(Redis.from_url(server.url))
        auth = await stack.enter_async_context(
            MPAuthX(
                app_id=APP_ID,
                app_secret=APP_SECRET,
                sku=SKU,
                users=f"sqlite:///{folder}/users.db",
                tokens=server.url,
            )
        )
        progress.say(f"forging {size.tokens:,} tokens")
        mint = signer(secrets.token_hex(16)).mint
        forged = [mint(ref.user_id, ref.nonce) for ref in session_refs(size.tokens)]
        malformed = list(islice(cycle(_malformed(forged[0])), size.tokens))
        forgeries, malformations = shares(forged, _CALLERS), shares(malformed, _CALLERS)
        good = await _living_token(server.url, progress)

        before = await _commands_of_one_check(auth, redis, good)
        commands = await _commands(redis)
        rates = await in_turn(
            [
                Party(_FORGED, lambda: rate(auth.is_token_valid, forgeries, expected=False)),
                Party(_MALFORMED, lambda: rate(auth.is_token_valid, malformations, expected=False)),
                Party(_LIMIT, lambda: _macs(forged)),
            ],
            size.rounds,
            progress,
        )
        commands = await _commands(redis) - commands - 1  # the INFO that the first count was
        after = await _commands_of_one_check(auth, redis, good)

    if not before or not after:
        raise WrongAnswer("A good token was found valid without a Redis command.")
    return Outcome(
        "forged",
        f"{size.tokens:,} tokens a round, {size.rounds} rounds",
        rates,
        [
            Figure("forged, a second", rates[_FORGED], at_least=500_000),
            Figure("malformed, a second", rates[_MALFORMED], at_least=500_000),
            Figure("Redis commands for all of them", Spread((commands,)), at_most=0),
            Figure("Redis commands for one good token", Spread((after,))),
            Figure("forged to the BLAKE2b alone", ratio(rates[_FORGED], rates[_LIMIT])),
        ],
    )


def _malformed(forged: str) -> list[object]:
    user_id, sku, session = forged.split("|")
    return [
        None,
        7,
        b"",
        forged.encode(),
        "",
        "||",
        user_id,
        f"{user_id}|{sku}",
        f"{user_id}|{sku}-debug|{session}",
        f"{user_id}|{sku}|{session}|",
        forged[:-1],
        f"{user_id}|{sku}|{'微' * len(session)}",
        f"{user_id}|{sku}|{'?' * len(session)}",
        "x" * 1_000_000,
    ]


async def _living_token(redis_url: str, progress: Progress) -> str:
    (ref,) = session_refs(1)
    await begin_sessions(redis_url, [ref], 1, progress)
    return signer().mint(ref.user_id, ref.nonce)


async def _commands_of_one_check(auth: MPAuthX, redis: Redis, token: str) -> int:
    before = await _commands(redis)
    if not await auth.is_token_valid(token):
        raise WrongAnswer("A good token was refused.")
    return await _commands(redis) - before - 1


async def _commands(redis: Redis) -> int:
    """How many commands the server has carried out, this one not included."""
    stats = await redis.info("stats")
    return int(stats["total_commands_processed"])


async def _macs(tokens: list[str]) -> float:
    keyed = hashlib.blake2b(key=secrets.token_bytes(64), digest_size=16)
    started = perf_counter()
    for token in tokens:
        mac = keyed.copy()
        mac.update(token.encode())
        mac.digest()
    return len(tokens) / (perf_counter() - started)


FORGED = Benchmark("forged", "forged and malformed tokens, and no Redis command for them", _run)
