"""Parts: what the parts of one service share."""

from dataclasses import dataclass

from .concurrency.event_bus import EventBus
from .concurrency.in_flight import InFlight
from .connections import Connections
from .settings import Settings
from .stores import TokenStore, UserStore
from .tokens.format import TokenSigner
from .tokens.sealing import SessionKeySealer

__all__ = ["Parts"]


@dataclass(frozen=True, slots=True)
class Parts:
    """What the parts of one service share.

    Attributes:
        settings: its options.
        signer: signs and verifies its tokens.
        sealer: encrypts the session keys that are stored with them.
        users: the user store.
        tokens: the token store.
        connections: its ways out of the process.
        events: is told what happens.
        calls: those in progress on the service.
    """

    settings: Settings
    signer: TokenSigner
    sealer: SessionKeySealer
    users: UserStore
    tokens: TokenStore
    connections: Connections
    events: EventBus
    calls: InFlight
