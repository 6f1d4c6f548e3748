"""What sessions take of Redis's memory, and near-cache entries and waiting logins of Python's.

100,000 sessions of as many users begin through the store's own `issue`, as logins do, with ids as
long as WeChat's and with session keys that were really sealed. What Redis uses more afterwards, as
it counts that itself, is divided by their number. Each kind of session has a Redis of its own.

Python's bytes are tracemalloc's: of a near cache that has come to know 100,000 tokens, the tokens
themselves included; and of 5,000 authorize calls that wait for a WeChat that does not answer, each
with its caller's task and with sealed data, of which as many as by default exchange their codes and
the others wait for their turn.
"""

import asyncio
import base64
import gc
import secrets
import socket
import tempfile
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial

from redis.asyncio import Redis

from mpauthx_async import Identity, NewSession, RedisTokenStore, SessionRef
from mpauthx_async.stores.near_cache import SharedNearCache
from mpauthx_async.tokens.format import nonce_of
from mpauthx_async.tokens.sealing import SessionKeySealer, with_open_id
from tests.helpers.redis_server import RedisServer

from .measurement import Benchmark, Figure, Outcome, Settings, Spread, WrongAnswer
from .progress import Progress
from .sessions import APP_ID, APP_SECRET, begin_sessions, new_session, service, session_refs, signer

__all__ = ["MEMORY"]

_MAX_BYTES = 700  # of a session with its session key
_MAX_BYTES_WITH_UNION_ID = 870
_SETTLE = 1  # seconds, until all of them wait

_WITH_KEY = "a login with its session key"
_WITHOUT_KEY = "without"
_WITH_UNION_ID = "with unionId and openId, no device"
_ROTATED = "with its token rotated once"
_ENTRY = "a near-cache entry, in Python"
_LOGIN = "a waiting login, in Python"


@dataclass(frozen=True, slots=True)
class _Size:
    rounds: int
    sessions: int
    entries: int
    logins: int


_FULL = _Size(rounds=3, sessions=100_000, entries=100_000, logins=5_000)
# Half of the sessions fill Redis's tables to the same part. With fewer it packs its sorted sets.
_QUICK = _Size(rounds=1, sessions=50_000, entries=25_000, logins=1_000)

_SEALER = SessionKeySealer(app_id=APP_ID, keys=[APP_SECRET])


def _with_key(ref: SessionRef, open_id: str | None = None) -> NewSession:
    session_key = base64.b64encode(secrets.token_bytes(16)).decode()
    open_id = ref.user_id if open_id is None else open_id
    (sealed_key,) = _SEALER.seal([(ref.nonce, open_id, session_key)])
    sealed_key = sealed_key and with_open_id(sealed_key, open_id, ref.user_id)
    return replace(new_session(ref), sealed_key=sealed_key)


def _with_device(ref: SessionRef) -> NewSession:
    return replace(_with_key(ref), device="iPhone 15 Pro")


def _with_union_id(ref: SessionRef) -> NewSession:
    return _with_key(ref, secrets.token_urlsafe(21))


async def _run(settings: Settings, progress: Progress) -> Outcome:
    size = _QUICK if settings.quick else _FULL

    async def measured(measure: Callable[[], Awaitable[float]]) -> Spread:
        return Spread(tuple([await measure() for _ in range(size.rounds)]))

    kinds: dict[str, Callable[[SessionRef], NewSession]] = {
        _WITH_KEY: _with_key,
        _WITH_UNION_ID: _with_union_id,
    }
    if not settings.quick:
        kinds[_WITHOUT_KEY] = new_session
        kinds["with a device of 13 letters, too"] = _with_device
    found = {}
    for name, kind in kinds.items():
        found[name] = await measured(partial(_bytes_a_session, kind, size.sessions, progress))
    if not settings.quick:
        rotated = partial(_bytes_a_session, _with_key, size.sessions, progress, is_rotated=True)
        found[_ROTATED] = await measured(rotated)
    progress.say(f"putting {size.entries:,} tokens into a near cache")
    found[_ENTRY] = await measured(partial(_bytes_an_entry, size.entries))
    progress.say(f"letting {size.logins:,} logins wait")
    found[_LOGIN] = await measured(partial(_bytes_a_login, size.logins))
    return Outcome(
        "memory",
        f"{size.sessions:,} sessions of as many users in Redis, {size.entries:,} tokens in a near "
        f"cache, {size.logins:,} waiting logins, {size.rounds} rounds",
        found,
        [
            Figure(_WITH_KEY, found[_WITH_KEY], at_most=_MAX_BYTES),
            Figure(_WITH_UNION_ID, found[_WITH_UNION_ID], at_most=_MAX_BYTES_WITH_UNION_ID),
        ],
        unit="bytes each",
    )


async def _bytes_a_session(
    kind: Callable[[SessionRef], NewSession],
    count: int,
    progress: Progress,
    *,
    is_rotated: bool = False,
) -> float:
    refs = list(session_refs(count))
    with RedisServer() as server:
        async with Redis.from_url(server.url) as client:
            before = await _used(client)
            await begin_sessions(server.url, refs, count, progress, kind)
            if is_rotated:
                await _rotate(server.url, refs)
            return (await _used(client) - before) / count


async def _rotate(redis_url: str, refs: Sequence[SessionRef]) -> None:
    async with RedisTokenStore(redis_url) as store:
        for first in range(0, len(refs), 500):
            await store.rotate(refs[first : first + 500], ttl=259_200_000, grace=0)


async def _bytes_an_entry(count: int) -> float:
    refs = session_refs(count)
    mint = signer().mint
    with _traced() as traced:
        cache = SharedNearCache(count).for_service()
        cache.shared.open(time.time(), time.monotonic())
        end = int((time.time() + 3600) * 1000)
        for ref in refs:
            token = mint(ref.user_id, ref.nonce)
            nonce, user_id = nonce_of(token), token.partition("|")[0]
            cache.keep(cache.expect(nonce), Identity(user_id, nonce, ref.sku, token), end)
        taken = traced()
    if len(cache) != count:
        raise WrongAnswer("The near cache did not keep all tokens.")
    return taken / count


async def _bytes_a_login(count: int) -> float:
    """Of logins that wait for a server whose kernel takes their connections, and no more."""
    silent = socket.create_server(("127.0.0.1", 0), backlog=1024)
    with tempfile.TemporaryDirectory(prefix="mpauthx-benchmark-") as folder, RedisServer() as redis:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        async with service(folder, redis.url, api_base=url) as auth:
            await asyncio.to_thread(gc.collect)  # and there is a thread
            with _traced() as traced:
                logins = [
                    asyncio.create_task(
                        auth.authorize(f"{number:032}", secrets.token_urlsafe(300), f"{number:024}")
                    )
                    for number in range(count)
                ]
                await asyncio.sleep(_SETTLE)
                taken = traced()
            over = sum(login.done() for login in logins)
            closing = asyncio.create_task(auth.close())
            # Those that wait for their turn are refused, so no further connection is opened.
            await asyncio.wait(logins, return_when=asyncio.FIRST_COMPLETED)
            # In a thread: the event loop may still have to send some of the requests.
            await asyncio.to_thread(_fail_all, silent)
            await closing
        await asyncio.gather(*logins, return_exceptions=True)
    if over:
        raise WrongAnswer(f"{over} logins did not wait.")
    return taken / count


def _fail_all(listening: socket.socket) -> None:
    """Answer each request that has come with an error, and close."""
    with listening:
        listening.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                connection, _ = listening.accept()
                with connection:
                    connection.recv(65_536)
                    connection.sendall(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")


@contextmanager
def _traced() -> Iterator[Callable[[], int]]:
    """Trace what Python allocates; gives how many bytes of that are still in use."""
    gc.collect()
    tracemalloc.start()

    def in_use() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    try:
        yield in_use
    finally:
        tracemalloc.stop()


async def _used(client: Redis) -> int:
    return int((await client.info("memory"))["used_memory"])


MEMORY = Benchmark("memory", "bytes of a session, a near-cache entry and a waiting login", _run)
