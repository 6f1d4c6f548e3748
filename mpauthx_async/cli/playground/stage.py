"""Stage: the real service of one tab, on stores whose trips are watched."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from ...connections import Connections
from ...models import LoginPolicy
from ...service import MPAuthX
from ...simulator import WeChatSimulator
from ...stores import TokenStore, UserStore
from ...stores.urls import open_token_store, open_user_store
from .round_trips import RoundTripTracer, Trip

__all__ = ["Stage", "World", "open_stage"]

_SKU = "playground"


@dataclass(frozen=True, slots=True)
class World:
    """What all tabs share."""

    wx: WeChatSimulator
    users: str
    tokens: str


@dataclass(frozen=True, slots=True)
class Stage:
    """What the service of one tab is made of."""

    wx: WeChatSimulator
    watch: RoundTripTracer
    connections: Connections
    users: UserStore
    tokens: TokenStore

    def service(self, policy: LoginPolicy, token_ttl: float) -> MPAuthX:
        """Create a service with these options."""
        return MPAuthX(
            app_id=self.wx.app_id,
            app_secret=self.wx.app_secret,
            api_base=self.wx.url,
            sku=_SKU,
            users=self.users,
            tokens=self.tokens,
            connections=self.connections,
            policy=policy,
            token_ttl=token_ttl,
            rotation_grace=0,  # so that theft shows at once
        )


@asynccontextmanager
async def open_stage(world: World, report: Callable[[Trip], None]) -> AsyncIterator[Stage]:
    """Open the stores of a tab."""
    watch = RoundTripTracer(report)
    async with (
        watch.http() as http,
        Connections(http=http) as connections,
        open_user_store(world.users) as users,
        open_token_store(world.tokens, connections) as tokens,
    ):
        watch.store("users", users)
        watch.store("tokens", tokens)
        yield Stage(world.wx, watch, connections, users, tokens)
