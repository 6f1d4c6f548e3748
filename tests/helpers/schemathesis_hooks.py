"""Schemathesis's hooks: it logs in for each request, with codes and data that WeChat gave.

Environment: SIMULATOR and SERVER are the URLs of WeChat and of what is tested.
"""

import os
from itertools import count
from typing import Any

import requests
import schemathesis

_HTTP = requests.Session()
_NUMBERS = count()  # WeChat limits how often one user logs in


def _wechat(what: str, user: str) -> dict[str, str]:
    url = f"{os.environ['SIMULATOR']}/simulator/{what}"
    answer = _HTTP.post(url, json={"open_id": user}, timeout=60)
    answer.raise_for_status()
    given: dict[str, str] = answer.json()
    return given


@schemathesis.auth(refresh_interval=None)
class Login:
    """A token of its own for each request, for some of them end it."""

    def get(self, case: Any, context: Any) -> str:
        url, body = f"{os.environ['SERVER']}/login", _wechat("login", f"user-{next(_NUMBERS)}")
        answer = _HTTP.post(url, json=body, timeout=60)
        answer.raise_for_status()
        return str(answer.json()["response"])

    def set(self, case: Any, data: str, context: Any) -> None:
        case.headers["Authorization"] = f"Bearer {data}"


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Replace texts that only WeChat can give; what has another type stays."""
    body, user = case.body, f"user-{next(_NUMBERS)}"
    if not isinstance(body, dict):
        return
    given = _wechat("login", user)
    if case.operation.path == "/phone":
        given = _wechat("phone_number", user)
    if isinstance(body.get("code"), str) and body["code"]:
        body["code"] = given["code"]
    sealed = {name: body.get(name) or "" for name in ("encryptedData", "iv")}
    if any(sealed.values()) and all(isinstance(text, str) for text in sealed.values()):
        info = _wechat("user_info", user)
        body |= {name: info[name] for name in sealed}
