"""ShardedCoalescer: a Coalescer for each shard of a store."""

import asyncio
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, Protocol, TypeAlias, TypeVar, runtime_checkable

from ..models import Subject
from .coalescer import Coalescer
from .in_flight import closed

__all__ = ["AnyCoalescer", "Sharded", "ShardedCoalescer", "sharding_of"]

Item = TypeVar("Item")
Result = TypeVar("Result")


@runtime_checkable
class Sharded(Protocol):
    """Optional for a TokenStore whose shards can fail independently."""

    def sharding(self) -> Callable[[Iterable[Subject]], Hashable] | None:
        """What names the parts that subjects are kept on; None when the store has one part."""


class ShardedCoalescer(Generic[Item, Result]):
    """A Coalescer for each shard of a store, so that one that hangs does not delay the others."""

    def __init__(
        self, shard_of: Callable[[Item], Hashable], make: Callable[[], Coalescer[Item, Result]]
    ) -> None:
        self._shard_of = shard_of
        self._make = make
        self._shards: dict[Hashable, Coalescer[Item, Result]] = {}
        self._closed = False

    def submit(self, item: Item) -> "asyncio.Future[Result]":
        """Put an item into the next batch of its shard: see `Coalescer.submit`."""
        if self._closed:
            raise closed()
        shard = self._shard_of(item)
        coalescer = self._shards.get(shard)
        if coalescer is None:
            coalescer = self._shards[shard] = self._make()
        return coalescer.submit(item)

    async def wait_in_flight(self) -> None:
        """Wait for the batches that are in flight now; later ones do not count."""
        await asyncio.gather(*(shard.wait_in_flight() for shard in self._shards.values()))

    async def close(self) -> None:
        """Take no more calls, and return when all that were taken are answered."""
        self._closed = True
        await asyncio.gather(*(coalescer.close() for coalescer in self._shards.values()))

    def cut_off(self) -> None:
        """Take no more calls, and give those that wait for an answer a ClosedError."""
        self._closed = True
        for coalescer in self._shards.values():
            coalescer.cut_off()


AnyCoalescer: TypeAlias = Coalescer[Item, Result] | ShardedCoalescer[Item, Result]


def sharding_of(store: object) -> Callable[[Iterable[Subject]], Hashable] | None:
    """What names the parts of a store that subjects are kept on; None when it has one part."""
    return store.sharding() if isinstance(store, Sharded) else None
