"""The page at /, which tells what the simulator offers."""

from .control import CONTROLS
from .faults import Fault
from .web_oauth import SCOPES
from .wechat import WeChat
from .wecom import CORP_SECRET

__all__ = ["front_page"]

_PAGE_QUERY = "?appid=…&redirect_uri=…&response_type=code&scope=…&state=…"


def front_page(wechat: WeChat) -> str:
    """List the routes and faults, and the ids and secrets for tests that some routes ask for."""
    wecom = wechat.wecom
    lines = [
        f"WeChatSimulator of the app {wechat.state.app_id(None)}. Its routes:\n",
        *map(str, wechat.routes.values()),
        *(f"GET {path}{_PAGE_QUERY} ({' or '.join(scopes)})" for path, scopes in SCOPES.items()),
        *(f"POST {path} {example}" for path, (_, example) in CONTROLS.items()),
        *(f"  {fault.name}: {fault.value}" for fault in Fault),
        "\nWhat the routes of the platform and of WeCom ask for:\n",
        f"component_appid {wechat.component.app_id}",
        f"component_access_token {wechat.component.access_token()}",
        f"corpid {wecom.corp_id}",
        f"corpsecret {CORP_SECRET if wecom.corp_secret == CORP_SECRET else '(your own)'}",
    ]
    return "\n".join(lines) + "\n"
