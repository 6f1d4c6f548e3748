"""The lifespan of an ASGI app, with something to close at its end."""

from collections.abc import Awaitable, Callable
from typing import Any

__all__ = ["serve_lifespan"]

_STARTED = "lifespan.startup.complete"
_FAILED = "lifespan.startup.failed"
_SHUTDOWN = "lifespan.shutdown"


async def serve_lifespan(
    app: Callable[..., Awaitable[None]],
    close: Callable[[], Awaitable[None]],
    scope: Any,
    receive: Callable[[], Awaitable[Any]],
    send: Callable[[Any], Awaitable[None]],
) -> None:
    """Serve the lifespan of an app, and close when it has ended; also of an app that has none."""
    received: list[str] = []
    sent: list[str] = []

    async def watched_receive() -> Any:
        message = await receive()
        received.append(message["type"])
        return message

    async def watched_send(message: Any) -> None:
        sent.append(message["type"])
        if message["type"].startswith((_FAILED, _SHUTDOWN)):
            await close()
        await send(message)

    try:
        await app(scope, watched_receive, watched_send)
    except Exception:  # Django's, for one, raises at once: it has no lifespan
        if _STARTED in sent:
            await close()
        if sent:
            raise
    if not sent:
        if not received:
            await watched_receive()
        await watched_send({"type": _STARTED})
    if sent[-1] == _STARTED:
        while _SHUTDOWN not in received:
            await watched_receive()
        await watched_send({"type": f"{_SHUTDOWN}.complete"})
