"""ShardedCoalescer: a Coalescer for each shard of a store."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from typing import Generic, Protocol, TypeAlias, TypeVar, runtime_checkable

from ..models import SessionRef, Subject
from .coalescer import Coalescer
from .in_flight import InFlight

__all__ = [
    "AnyCoalescer",
    "Sharded",
    "ShardedCoalescer",
    "coalescer_for",
    "sharding_of",
    "subject_of",
]

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST_SHARDS = 1000


@runtime_checkable
class Sharded(Protocol):
    """What a TokenStore does beside, if parts of it can fail by themselves."""

    def sharding(self) -> Callable[[Iterable[Subject]], Hashable] | None:
        """What names the parts that subjects are kept on; None when the store has one part."""


class ShardedCoalescer(Generic[Item, Result]):
    """A Coalescer for each shard of a store, so that one that hangs holds up none of the others.

    Args:
        shard_of: names the shard of an item.
        make: makes the Coalescer of a shard.
        calls: as for a Coalescer.
    """

    def __init__(
        self,
        shard_of: Callable[[Item], Hashable],
        make: Callable[[], Coalescer[Item, Result]],
        calls: InFlight | None = None,
    ) -> None:
        self._shard_of = shard_of
        self._make = make
        self._shards: dict[Hashable, Coalescer[Item, Result]] = {}
        self._service_calls = calls
        self._calls = InFlight(self, "This service")

    def submit(self, item: Item) -> "asyncio.Future[Result]":
        """Put an item into the next batch of its shard: see `Coalescer.submit`."""
        if self._service_calls is not None:
            self._service_calls.check_loop()
        self._calls.check_here()
        shard = self._shard_of(item)
        coalescer = self._shards.get(shard)
        if coalescer is None:
            if len(self._shards) >= _MOST_SHARDS:  # most are of nodes that are gone
                self._shards = {name: one for name, one in self._shards.items() if one.is_busy}
            coalescer = self._shards[shard] = self._make()
        return coalescer.submit(item)

    async def close(self) -> None:
        """Take no more calls, and return when all that were taken are answered."""
        self._calls.refuse_more()
        await asyncio.gather(*(coalescer.close() for coalescer in self._shards.values()))

    def cut_off(self) -> None:
        """Take no more calls, and give those that wait for an answer a ClosedError."""
        for coalescer in self._shards.values():
            coalescer.cut_off()


AnyCoalescer: TypeAlias = Coalescer[Item, Result] | ShardedCoalescer[Item, Result]


def coalescer_for(
    store: object,
    run: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]],
    *,
    subjects_of: Callable[[Item], Iterable[Subject]],
    max_batch: int = 500,
    max_in_flight: int = 4,
    longest_wait: float | None = None,
    system: str | None = None,
    calls: InFlight | None = None,
) -> AnyCoalescer[Item, Result]:
    """Make a Coalescer of calls to a store: one for each shard, if it has any.

    Args:
        store: a TokenStore, which may be Sharded.
        run: as for a Coalescer.
        subjects_of: tells whom a call is about.
        max_batch: as for a Coalescer.
        max_in_flight: likewise, for each shard.
        longest_wait: likewise.
        system: likewise.
        calls: likewise.
    """

    def make() -> Coalescer[Item, Result]:
        return Coalescer(
            run,
            max_batch=max_batch,
            max_in_flight=max_in_flight,
            longest_wait=longest_wait,
            system=system,
            calls=calls,
        )

    shard_of = sharding_of(store)
    if shard_of is None:
        return make()
    return ShardedCoalescer(lambda item: shard_of(subjects_of(item)), make, calls)


def sharding_of(store: object) -> Callable[[Iterable[Subject]], Hashable] | None:
    """What names the parts of a store that subjects are kept on; None when it has one part."""
    return store.sharding() if isinstance(store, Sharded) else None


def subject_of(ref: SessionRef) -> Iterable[Subject]:
    """Whom a call about one session is about."""
    return (ref.subject,)
