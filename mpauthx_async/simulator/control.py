"""The routes under /simulator, with which another process acts as a phone or browser."""

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from .faults import Fault
from .routes import Answer

__all__ = ["CONTROLS", "as_handler"]

# The first argument is the WeChatSimulator, whose module imports this one.
_Control = Callable[[Any, Mapping[str, Any]], Answer]


def as_handler(wx: Any, path: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Create the handler of a route under /simulator."""
    control, example = CONTROLS[path]

    async def handle(request: web.Request) -> web.Response:
        try:
            body = json.loads(await request.read())
            return web.json_response(control(wx, body if isinstance(body, dict) else {}))
        except (ValueError, LookupError, RecursionError) as error:
            message = f"{error} Send JSON such as {example}"
            return web.json_response({"message": message}, status=400)

    return handle


def _login(wx: Any, body: Mapping[str, Any]) -> Answer:
    union_id, app_id = _optional(body, "union_id"), _optional(body, "app_id")
    return {"code": wx.login(_text(body, "open_id"), union_id, app_id=app_id)}


def _user_info(wx: Any, body: Mapping[str, Any]) -> Answer:
    info = wx.get_user_info(_text(body, "open_id"), app_id=_optional(body, "app_id"))
    sealed = {"encryptedData": info.encrypted_data, "iv": info.iv}
    return {**sealed, "rawData": info.raw_data, "signature": info.signature}


def _phone_number(wx: Any, body: Mapping[str, Any]) -> Answer:
    phone = wx.get_phone_number(
        _text(body, "open_id"),
        _optional(body, "phone_number") or "13800138000",
        country_code=_optional(body, "country_code") or "86",
        app_id=_optional(body, "app_id"),
    )
    return {"code": phone.code, "encryptedData": phone.encrypted_data, "iv": phone.iv}


def _user_key(wx: Any, body: Mapping[str, Any]) -> Answer:
    key = wx.get_latest_user_key(_text(body, "open_id"), app_id=_optional(body, "app_id"))
    fields = {"encryptKey": key.encrypt_key, "iv": key.iv, "version": key.version}
    return {**fields, "expireTime": key.expire_time}


def _web_login(wx: Any, body: Mapping[str, Any]) -> Answer:
    code = wx.web_login(
        _text(body, "open_id"),
        _optional(body, "union_id"),
        scope=_optional(body, "scope") or "snsapi_userinfo",
        app_id=_optional(body, "app_id"),
    )
    return {"code": code}


def _visit_as(wx: Any, body: Mapping[str, Any]) -> Answer:
    declines = body.get("declines", False)
    if type(declines) is not bool:
        raise ValueError("'declines' must be true or false.")
    wx.visit_as(_text(body, "open_id"), _optional(body, "union_id"), declines=declines)
    return {"open_id": body["open_id"]}


def _wecom_login(wx: Any, body: Mapping[str, Any]) -> Answer:
    return {"code": wx.wecom_login(_text(body, "user_id"), _optional(body, "corp_id"))}


def _push_event(wx: Any, body: Mapping[str, Any]) -> Answer:
    mode, form = body.get("mode", "safe"), body.get("form", "json")
    if mode not in ("safe", "compatible", "plain") or form not in ("json", "xml"):
        raise ValueError("'mode' must be safe, compatible or plain, and 'form' json or xml.")
    revoke_info = body.get("revoke_info", [])
    if not isinstance(revoke_info, list) or any(type(number) is not int for number in revoke_info):
        raise ValueError("'revoke_info' must be a list of whole numbers.")
    pushed = wx.push_event(
        _text(body, "event"),
        _text(body, "open_id"),
        revoke_info=revoke_info,
        mode=mode,
        form=form,
        app_id=_optional(body, "app_id"),
    )
    return {"query": dict(pushed.query), "body": pushed.body.decode()}


def _faults(wx: Any, body: Mapping[str, Any]) -> Answer:
    name, times = _text(body, "fault"), body.get("times", 1)
    if name not in Fault.__members__:
        raise ValueError(f"'fault' must be one of {', '.join(Fault.__members__)}.")
    if type(times) is not int:
        raise ValueError("'times' must be a whole number.")
    wx.fail_next(Fault[name], times)
    return {"fault": name, "times": times}


def _clear_faults(wx: Any, _: Mapping[str, Any]) -> Answer:
    wx.clear_faults()
    return {}


def _reset(wx: Any, _: Mapping[str, Any]) -> Answer:
    wx.reset()
    return {}


def _text(body: Mapping[str, Any], name: str) -> str:
    text = body.get(name)
    if not isinstance(text, str) or not text:
        raise ValueError(f"'{name}' must be a text that is not empty.")
    return text


def _optional(body: Mapping[str, Any], name: str) -> str | None:
    return None if body.get(name) is None else _text(body, name)


CONTROLS: Mapping[str, tuple[_Control, str]] = {
    "/simulator/login": (_login, '{"open_id": "…", "union_id": "… or left out"}'),
    "/simulator/user_info": (_user_info, '{"open_id": "of a user who has logged in"}'),
    "/simulator/phone_number": (_phone_number, '{"open_id": "of a user who has logged in"}'),
    "/simulator/user_key": (_user_key, '{"open_id": "of a user who has logged in"}'),
    "/simulator/web_login": (_web_login, '{"open_id": "…", "scope": "snsapi_userinfo"}'),
    "/simulator/visit_as": (_visit_as, '{"open_id": "of the browser\'s user from now on"}'),
    "/simulator/wecom_login": (_wecom_login, '{"user_id": "…"}'),
    "/simulator/push_event": (
        _push_event,
        '{"event": "user_authorization_revoke", "open_id": "…", "revoke_info": [6]}',
    ),
    "/simulator/faults": (_faults, '{"fault": "SYSTEM_BUSY", "times": 1}'),
    "/simulator/clear_faults": (_clear_faults, "{}"),
    "/simulator/reset": (_reset, "{}"),
}
