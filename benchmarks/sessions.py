"""The app whose logins are measured, and filling a Redis with living sessions of it."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from redis.asyncio import Redis

from mpauthx_async import MPAuthX, NewSession, RedisTokenStore, SessionRef
from mpauthx_async.tokens.format import TokenSigner, new_nonce

from .measurement import WrongAnswer
from .progress import Progress

__all__ = [
    "APP_ID",
    "APP_SECRET",
    "SKU",
    "TTL",
    "begin_sessions",
    "living_tokens",
    "mget_calls",
    "near",
    "new_session",
    "service",
    "session_refs",
    "signer",
    "warm_up",
]

APP_ID = "wx4f4bc4dec97d474b"
APP_SECRET = "5e4c2e7d00c0ffee5e4c2e7d00c0ffee"
SKU = "shop"

_BATCH = 500
_SAID_EVERY = 50_000
TTL = 259_200_000  # milliseconds: three days, as by default
_NEAR_CACHE = 100_000  # tokens
_WARM_UP = 15  # seconds


def signer(secret: str = APP_SECRET) -> TokenSigner:
    """What mints the app's tokens; with another secret, tokens that only look like them."""
    return TokenSigner(app_id=APP_ID, sku=SKU, keys=[secret])


def session_refs(count: int) -> Iterator[SessionRef]:
    """Sessions to be, each of another user; the ids are as long as WeChat's openIds."""
    return (SessionRef(SKU, f"t{number:027}", new_nonce()) for number in range(count))


def new_session(ref: SessionRef) -> NewSession:
    """What a login without a session key begins."""
    return NewSession(ref, TTL)


async def begin_sessions(
    redis_url: str,
    refs: Iterable[SessionRef],
    count: int,
    progress: Progress,
    kind: Callable[[SessionRef], NewSession] = new_session,
) -> None:
    """Begin sessions of a kind as a login does: through the store's own `issue`."""
    progress.say(f"putting {count:,} tokens into Redis")
    remaining = iter(refs)
    done = 0
    async with RedisTokenStore(redis_url) as store:
        while batch := list(islice(remaining, _BATCH)):
            await store.issue([kind(ref) for ref in batch])
            done += len(batch)
            if done % _SAID_EVERY == 0:
                progress.say(f"putting {count:,} tokens into Redis: {done:,}")


async def living_tokens(redis_url: str, count: int, progress: Progress) -> list[str]:
    """Begin sessions of as many users, and mint their tokens."""
    refs = list(session_refs(count))
    await begin_sessions(redis_url, refs, count, progress)
    mint = signer().mint
    return [mint(ref.user_id, ref.nonce) for ref in refs]


def near(redis_url: str) -> str:
    """The URL of the same Redis, with a near cache for all tokens that a benchmark checks."""
    return f"{redis_url}?near_cache={_NEAR_CACHE}"


def service(folder: str, tokens: str, *, api_base: str | None = None) -> MPAuthX:
    """A service of the app, with users in a file of this folder.

    Args:
        tokens: the URL of the token store.
        api_base: the simulator's address, where users log in.
    """
    return MPAuthX(
        app_id=APP_ID,
        app_secret=APP_SECRET,
        sku=SKU,
        users=f"sqlite:///{folder}/users.db",
        tokens=tokens,
        api_base=api_base,
    )


async def warm_up(auth: MPAuthX, tokens: Sequence[str], redis: Redis) -> None:
    """Check all tokens until the near cache of a service knows them: Redis is asked no more.

    Args:
        redis: the same Redis, that nobody else asks meanwhile.
    """
    give_up = time.monotonic() + _WARM_UP
    while time.monotonic() < give_up:
        before = await mget_calls(redis)
        if not all(await asyncio.gather(*map(auth.is_token_valid, tokens))):
            raise WrongAnswer("A living token was refused.")
        if await mget_calls(redis) == before:
            return
        await asyncio.sleep(0.05)  # until the connection is up on which Redis pushes changes
    raise WrongAnswer("The near cache does not keep the tokens that were checked.")


async def mget_calls(redis: Redis) -> int:
    """How many MGETs a Redis has answered: what is_token_valid asks it with."""
    statistics = await redis.info("commandstats")
    return int(statistics.get("cmdstat_mget", {}).get("calls", 0))
