"""What a living session takes of Redis's memory, with all its entries, as Redis itself counts it.

100,000 sessions of as many users begin through the store's own `issue`, as logins do, with ids as
long as WeChat's and with session keys that were really sealed. What Redis uses more afterwards is
divided by their number. Each kind of session has a Redis of its own.
"""

import base64
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace

from redis.asyncio import Redis

from mpauthx_async import NewSession, RedisTokenStore, SessionRef
from mpauthx_async.session_keys import SessionKeySealer, with_open_id
from tests.redis_server import RedisServer

from .measurement import Benchmark, Figure, Outcome, Settings, Spread
from .progress import Progress
from .sessions import APP_ID, APP_SECRET, begin_sessions, new_session, session_refs

__all__ = ["MEMORY"]

_SESSIONS = 100_000  # in a quick run too: with fewer Redis packs its sorted sets more tightly
_AT_MOST = 450  # bytes
_ROUNDS = 3

_SEALER = SessionKeySealer(app_id=APP_ID, keys=[APP_SECRET])


def _with_key(ref: SessionRef) -> NewSession:
    session_key = base64.b64encode(secrets.token_bytes(16)).decode()
    (sealed_key,) = _SEALER.seal([(ref.nonce, session_key)])
    return replace(new_session(ref), sealed_key=sealed_key)


def _with_device(ref: SessionRef) -> NewSession:
    return replace(_with_key(ref), device="iPhone 15 Pro")


def _with_union_id(ref: SessionRef) -> NewSession:
    session = _with_key(ref)
    open_id = secrets.token_urlsafe(21)
    sealed_key = session.sealed_key and with_open_id(session.sealed_key, open_id, ref.user_id)
    return replace(session, sealed_key=sealed_key)


async def _run(settings: Settings, progress: Progress) -> Outcome:
    async def bytes_a_session(
        kind: Callable[[SessionRef], NewSession], is_rotated: bool = False
    ) -> float:
        refs = list(session_refs(_SESSIONS))
        with RedisServer() as server:
            async with Redis.from_url(server.url) as client:
                before = await _used(client)
                await begin_sessions(server.url, refs, _SESSIONS, progress, kind)
                if is_rotated:
                    await _rotate(server.url, refs, progress)
                return (await _used(client) - before) / _SESSIONS

    rounds = 1 if settings.quick else _ROUNDS

    async def measured(
        kind: Callable[[SessionRef], NewSession], is_rotated: bool = False
    ) -> Spread:
        return Spread(tuple([await bytes_a_session(kind, is_rotated) for _ in range(rounds)]))

    return Outcome(
        "memory",
        f"{_SESSIONS:,} sessions of as many users, bytes a session, {rounds} rounds",
        {},
        [
            Figure("a login with its session key", await measured(_with_key), at_most=_AT_MOST),
            Figure("without", await measured(new_session), at_most=_AT_MOST),
            Figure("with a device of 13 letters, too", await measured(_with_device)),
            Figure("with unionId and openId, no device", await measured(_with_union_id)),
            Figure("a login whose token was rotated", await measured(_with_key, is_rotated=True)),
        ],
    )


async def _rotate(redis_url: str, refs: Sequence[SessionRef], progress: Progress) -> None:
    progress.say(f"rotating {len(refs):,} tokens")
    async with RedisTokenStore(redis_url) as store:
        for first in range(0, len(refs), 500):
            await store.rotate(refs[first : first + 500], ttl=259_200_000, grace=0)


async def _used(client: Redis) -> int:
    return int((await client.info("memory"))["used_memory"])


MEMORY = Benchmark("memory", "what a living session takes of Redis's memory", _run)
