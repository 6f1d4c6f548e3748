from collections.abc import AsyncIterator, Callable

import pytest

from mpauthx_async import MPAuthX, WeChatSimulator
from tests.web.apps import FRAMEWORKS, World, serving


@pytest.fixture
async def auth(make: Callable[..., MPAuthX]) -> AsyncIterator[MPAuthX]:
    async with make() as service:
        yield service


@pytest.fixture
async def token(auth: MPAuthX, wx: WeChatSimulator) -> str:
    """A token of bob's."""
    return (await auth.authorize(wx.login("bob"))).token


@pytest.fixture
async def game(make: Callable[..., MPAuthX]) -> AsyncIterator[MPAuthX]:
    """A service for another sku."""
    async with make(sku="game") as service:
        yield service


@pytest.fixture
async def of_game(game: MPAuthX, wx: WeChatSimulator) -> str:
    """A token of bob's for `game`."""
    return (await game.authorize(wx.login("bob"))).token


@pytest.fixture
def world(auth: MPAuthX) -> World:
    return World(auth)


@pytest.fixture(params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def port(framework: str, world: World) -> AsyncIterator[int]:
    """Where the app of each framework is served."""
    async with serving(framework, world) as port:
        yield port
