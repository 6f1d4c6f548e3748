"""The app whose logins are measured, and filling a Redis with living sessions of it."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from mpauthx_async import NewSession, RedisTokenStore, SessionRef
from mpauthx_async.tokens import TokenSigner, new_nonce

from .progress import Progress

__all__ = ["APP_ID", "APP_SECRET", "SKU", "begin_sessions", "new_session", "session_refs", "signer"]

APP_ID = "wx4f4bc4dec97d474b"
APP_SECRET = "5e4c2e7d00c0ffee5e4c2e7d00c0ffee"
SKU = "shop"

_BATCH = 500
_SAID_EVERY = 50_000
_TTL = 259_200_000  # milliseconds: three days, as by default


def signer(secret: str = APP_SECRET) -> TokenSigner:
    """What mints the app's tokens; with another secret, tokens that only look like them."""
    return TokenSigner(app_id=APP_ID, sku=SKU, keys=[secret])


def session_refs(count: int) -> Iterator[SessionRef]:
    """Sessions to be, each of another user; the ids are as long as WeChat's openIds."""
    return (SessionRef(SKU, f"t{number:027}", new_nonce()) for number in range(count))


def new_session(ref: SessionRef) -> NewSession:
    """What a login without a session key begins."""
    return NewSession(ref, _TTL)


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
