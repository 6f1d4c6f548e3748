"""What GET / shows: the routes, and what some of them ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .control import CONTROLS
from .faults import Fault
from .push import PUSH_AES_KEY, PUSH_TOKEN
from .routes import Route
from .web_oauth import SCOPES

if TYPE_CHECKING:
    from .server import WeChatSimulator

__all__ = ["CORP_SECRET", "front_page"]

CORP_SECRET = "7e577e57-for-tests-7e577e57-of-a-company-7e"  # noqa: S105
"""The default of a secret that may be shown."""


def front_page(wx: WeChatSimulator, routes: Sequence[Route]) -> str:
    """List the routes of a simulator."""
    page = "?appid=…&redirect_uri=…&response_type=code&scope=…&state=…"
    lines = [
        f"WeChatSimulator of the app {wx.app_id}. Its routes:\n",
        *map(str, routes),
        *(f"GET {path}{page} ({' or '.join(scopes)})" for path, scopes in SCOPES.items()),
        *(f"POST {path} {example}" for path, (_, example) in CONTROLS.items()),
        *(f"  {fault.name}: {fault.value}" for fault in Fault),
        "\nWhat the routes of the platform and of WeCom ask for, and what pushed events need:\n",
        f"component_appid {wx.component_app_id}",
        f"component_access_token {wx.component_access_token}",
        f"corpid {wx.corp_id}",
        f"corpsecret {_shown(wx.corp_secret, CORP_SECRET)}",
        f"push token {_shown(wx.push.token, PUSH_TOKEN)}",
        f"push EncodingAESKey {_shown(wx.push.aes_key, PUSH_AES_KEY)}",
    ]
    return "\n".join(lines) + "\n"


def _shown(secret: str, default: str) -> str:
    return secret if secret == default else "(your own)"
