"""Parts: the settings, keys, stores and connections that a service's components share."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

from .concurrency.coalescer import Coalescer
from .concurrency.event_bus import EventBus
from .concurrency.in_flight import InFlight
from .concurrency.sharded_coalescer import AnyCoalescer, ShardedCoalescer, sharding_of
from .connections import Connections
from .errors import ConfigurationError
from .models import SessionRef, Subject
from .settings import Settings
from .stores import (
    KeyValueStore,
    RedisKeyValueStore,
    TokenStore,
    UserStore,
    longest_wait,
    open_token_store,
    open_user_store,
    system_of,
)
from .tokens.format import TokenSigner
from .tokens.sealing import SessionKeySealer

__all__ = ["Parts", "check_part"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def _subject_of(ref: SessionRef) -> Iterable[Subject]:
    return (ref.subject,)


class Parts:
    """What the components of a service share. What is created here is closed with the service.

    `records` is the key-value store of all processes; None if the token store and the connections
    have none.
    """

    def __init__(
        self,
        settings: Settings,
        calls: InFlight,
        users: str | UserStore,
        tokens: str | TokenStore,
        connections: Connections,
    ) -> None:
        app_id, keys, clock = settings.app_id, settings.keys, settings.clock
        self.settings = settings
        self.calls = calls
        self.connections = connections
        self.signer: TokenSigner = TokenSigner(app_id=app_id, sku=settings.sku, keys=keys)
        self.events: EventBus = EventBus()
        calls.on_close(self.events.close)
        if isinstance(users, str):
            users = open_user_store(users, clock)
            calls.on_close(users.close)
        _check_store("users", users, "save")
        if isinstance(tokens, str):
            tokens = open_token_store(tokens, connections, clock)
            calls.on_close(tokens.close)
        self.records: KeyValueStore | None = getattr(tokens, "records", None)
        if self.records is None and connections.knows_redis:
            self.records = RedisKeyValueStore(connections)
        _check_store("tokens", tokens, "lookup")
        self.sealer: SessionKeySealer = SessionKeySealer(app_id=app_id, keys=keys)
        self.users: UserStore = users
        self.tokens: TokenStore = tokens

    def batched(
        self,
        run: Callable[[Sequence[Item]], Awaitable[Sequence[Result | Exception]]],
        *,
        subjects_of: Callable[[Any], Iterable[Subject]] = _subject_of,
        max_in_flight: int = 4,
        waits_for: Sequence[object] | None = None,
    ) -> AnyCoalescer[Item, Result]:
        """Batch calls to the token store. The batches are closed with the service.

        Args:
            run, max_in_flight: as for a Coalescer.
            subjects_of: returns the subjects that an item is about, by default a SessionRef.
            waits_for: the stores whose `longest_wait` limits how long a caller waits: by default
                the token store; () for no limit.
        """
        stores = (self.tokens,) if waits_for is None else waits_for

        def make() -> Coalescer[Item, Result]:
            return Coalescer(
                run,
                max_in_flight=max_in_flight,
                longest_wait=longest_wait(*stores) if stores else None,
                system=system_of(self.tokens) if waits_for is None else None,
                calls=self.calls,
            )

        shard_of = sharding_of(self.tokens)
        coalescer: AnyCoalescer[Item, Result] = (
            make()
            if shard_of is None
            else ShardedCoalescer(lambda item: shard_of(subjects_of(item)), make)
        )
        self.calls.on_close(coalescer.close, coalescer.cut_off)
        return coalescer


def check_part(name: str, wanted: str, part: object, fits: bool) -> None:
    """Raise ConfigurationError for a ready-made part of another type than wanted."""
    if part is not None and not fits:
        raise ConfigurationError(
            f"{name} must be a {wanted}, or None: this is a {type(part).__name__}."
        )


def _check_store(name: str, store: Any, method: str) -> None:
    if not hasattr(store, method):
        raise ConfigurationError(
            f"{name} must be a URL, such as sqlite:///{name}.db, or a store: this is a "
            f"{type(store).__name__}. Is the environment variable that names it set?"
        )
