"""Gauges: what waits in a service at one moment, and whether its near cache is on."""

from collections.abc import Iterable
from dataclasses import astuple, dataclass

__all__ = ["Gauges"]


@dataclass(frozen=True, slots=True)
class Gauges:
    """What waits in one or several services, and the state of their near caches.

    Attributes:
        logins_waiting: logins that wait to begin.
        logins_at_wechat: logins whose codes are being exchanged.
        near_cache_tokens: tokens that can be validated without a trip.
        near_caches_on: services with a near cache that is in use.
        near_caches_off: services with a near cache that is not in use, because the connection on
            which Redis pushes changes is down or was not needed yet.
        events_dropped: events that did not reach a listener.
    """

    logins_waiting: int = 0
    logins_at_wechat: int = 0
    near_cache_tokens: int = 0
    near_caches_on: int = 0
    near_caches_off: int = 0
    events_dropped: int = 0

    @classmethod
    def sum_of(cls, several: "Iterable[Gauges]") -> "Gauges":
        """Add up several gauges, field by field."""
        return cls(*map(sum, zip(*map(astuple, [cls(), *several]), strict=True)))
