"""The page at /, which lists what the simulator offers."""

from .control import CONTROLS
from .faults import Fault
from .push import PUSH_AES_KEY, PUSH_TOKEN
from .web_oauth import SCOPES
from .wechat import WeChat
from .wecom import CORP_SECRET

__all__ = ["front_page"]

_PAGE_QUERY = "?appid=…&redirect_uri=…&response_type=code&scope=…&state=…"


def front_page(wechat: WeChat) -> str:
    """List the routes and faults, and the ids and secrets that some routes need."""
    wecom = wechat.wecom
    lines = [
        f"WeChatSimulator of the app {wechat.state.app_id(None)}. Its routes:\n",
        *map(str, wechat.routes.values()),
        *(f"GET {path}{_PAGE_QUERY} ({' or '.join(scopes)})" for path, scopes in SCOPES.items()),
        *(f"POST {path} {example}" for path, (_, example) in CONTROLS.items()),
        *(f"  {fault.name}: {fault.value}" for fault in Fault),
        "\nWhat the routes of the platform and of WeCom ask for, and what pushed events need:\n",
        f"component_appid {wechat.component.app_id}",
        f"component_access_token {wechat.component.access_token()}",
        f"authorizer_access_token {wechat.access.authorizer_token(wechat.state.app_id(None))}",
        f"corpid {wecom.corp_id}",
        f"corpsecret {_shown(wecom.corp_secret, CORP_SECRET)}",
        f"push token {_shown(wechat.push.token, PUSH_TOKEN)}",
        f"push EncodingAESKey {_shown(wechat.push.aes_key, PUSH_AES_KEY)}",
    ]
    return "\n".join(lines) + "\n"


def _shown(secret: str, default: str) -> str:
    return secret if secret == default else "(your own)"
