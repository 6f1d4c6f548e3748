"""What is kept as named texts with a lifetime: OAuth tokens, used states, an app's own token."""

from contextlib import AbstractAsyncContextManager
from typing import Protocol

__all__ = ["Records"]


class Records(Protocol):
    """Keeps named texts for all processes. Every method raises StoreError when it cannot answer.

    A key is any text of a few hundred characters, with its purpose in front.
    """

    async def get(self, key: str) -> str | None:
        """Read a record; None when there is none, or its time is over."""

    async def save(self, key: str, text: str, ttl: float) -> None:
        """Write a record, in place of an earlier one, for `ttl` seconds."""

    async def add(self, key: str, text: str, ttl: float) -> bool:
        """Write a record for `ttl` seconds if there is none; of all who try one gets True."""

    def lock(self, key: str) -> AbstractAsyncContextManager[None]:
        """Keep all others out, in any process, while `async with` lasts.

        Who holds it has to be quick: after some seconds it ends by itself, so that a process which
        died keeps nobody waiting. Entering raises StoreError when the wait gets too long.
        """

    async def close(self) -> None:
        """Close what was opened here, after what is in progress; may be called again."""
