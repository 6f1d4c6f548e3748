"""The lifespan of an ASGI app, with something to close at its end."""

from collections.abc import Awaitable, Callable
from typing import Any

__all__ = ["serve_lifespan"]


async def serve_lifespan(
    app: Callable[..., Awaitable[None]],
    close: Callable[[], Awaitable[None]],
    scope: Any,
    receive: Callable[[], Awaitable[Any]],
    send: Callable[[Any], Awaitable[None]],
) -> None:
    """Serve the lifespan of an app, and close when it has ended; also of an app that has none.

    Args:
        app: the app. Django's, for one, raises at once: it has no lifespan.
        close: closes what belongs to the app.
        scope: the lifespan's.
        receive: likewise.
        send: likewise.
    """
    has_received = has_sent = False

    async def watched_receive() -> Any:
        nonlocal has_received
        message = await receive()
        has_received = True
        return message

    async def watched_send(message: Any) -> None:
        nonlocal has_sent
        has_sent = True
        if message["type"].startswith("lifespan.shutdown"):
            await close()
        await send(message)

    try:
        await app(scope, watched_receive, watched_send)
    except Exception:
        if has_sent:
            raise
    if has_sent:
        return
    if not has_received:
        await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await close()
    await send({"type": "lifespan.shutdown.complete"})
