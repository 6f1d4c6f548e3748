from collections.abc import AsyncIterator

import pytest

from mpauthx_async import WeChatSimulator
from tests.helpers.clock import Clock
from tests.helpers.simulator_client import ACCOUNT, SECRET


@pytest.fixture
async def wx(clock: Clock) -> AsyncIterator[WeChatSimulator]:
    """WeChat, by the clock of the test, with a second app."""
    async with WeChatSimulator(clock=clock, other_apps={ACCOUNT: SECRET}) as simulator:
        yield simulator
