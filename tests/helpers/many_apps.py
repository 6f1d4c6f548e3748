"""What tests of many mini-programs share: the options of each."""

import asyncio
from collections.abc import Mapping
from typing import Any

from mpauthx_async import Settings, WeChatSimulator

NAMES = ("wxaaaa", "wxbbbb", "wxcccc")
SECRETS = {name: name[-1] * 32 for name in NAMES}


class Shop:
    """What loads the options of apps, as from an operator's table.

    Attributes:
        apps: the options by app_id.
        loaded: the app_ids that were asked for.
        gate: closed while a load is to wait.
        failure: what a load raises.
    """

    def __init__(self, wx: WeChatSimulator) -> None:
        self.apps: dict[str, Any] = {
            name: {"app_id": name, "app_secret": secret, "sku": "shop", "api_base": wx.url}
            for name, secret in SECRETS.items()
        }
        self.loaded: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None

    async def load(self, app_id: str) -> Mapping[str, Any] | Settings | None:
        self.loaded.append(app_id)
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return self.apps.get(app_id)
