"""Events that WeChat pushes to an app's own URL: signed, and encrypted in safe mode."""

import base64
import hashlib
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias
from xml.sax.saxutils import escape

import aiohttp
from Crypto.Cipher import AES
from Crypto.Util.Padding import pad

from .routes import to_bytes, to_json
from .state import State

__all__ = ["PUSH_AES_KEY", "PUSH_TOKEN", "PushFormat", "PushMode", "PushedEvent", "Pusher"]

PushMode: TypeAlias = Literal["safe", "compatible", "plain"]
PushFormat: TypeAlias = Literal["json", "xml"]
_Fields: TypeAlias = Mapping[str, str | int]

PUSH_TOKEN = "7e577e57"  # noqa: S105
PUSH_AES_KEY = "7e577e57" * 5 + "7e4"

_TO = "gh_7e577e577e57"
_FROM = "o7e57-of-wechats-push-service"
_CONTENT_TYPES: Mapping[PushFormat, str] = {"json": "application/json", "xml": "text/xml"}


@dataclass(frozen=True, slots=True)
class PushedEvent:
    """WeChat's POST request: the parameters in the URL, and the body."""

    query: Mapping[str, str]
    body: bytes
    content_type: str

    async def post(self, url: str) -> tuple[int, str]:
        """Send the request to the app's own URL; returns the answer's status and text."""
        async with (
            aiohttp.ClientSession() as http,
            http.post(
                url,
                params=self.query,
                data=self.body,
                headers={"Content-Type": self.content_type},
                timeout=aiohttp.ClientTimeout(total=5),  # as WeChat waits
            ) as response,
        ):
            return response.status, await response.text()


class Pusher:
    """Creates WeChat's requests to an app's own URL.

    Attributes:
        token: the Token of the message push settings.
        aes_key: their EncodingAESKey, 43 characters.
    """

    def __init__(self, state: State) -> None:
        self.token = PUSH_TOKEN
        self.aes_key = PUSH_AES_KEY
        self._state = state

    def challenge(self) -> dict[str, str]:
        """The parameters of the GET request that tests the URL."""
        return {**self._signed(), "echostr": str(secrets.randbelow(10**19))}

    def event(
        self,
        kind: str,
        open_id: str,
        *,
        revoke_info: Sequence[int] = (),
        mode: PushMode = "safe",
        form: PushFormat = "json",
        app_id: str | None = None,
    ) -> PushedEvent:
        """Create the POST request for an event; its `post` sends it.

        Args:
            kind: user_info_modified, user_authorization_revoke, user_authorization_cancellation, or
                the name of another event.
            open_id: the user, who need not be known.
            revoke_info: WeChat's numbers for what the user withdrew.
            mode: safe (encrypted), plain, or compatible (both).
            form: json or xml.
            app_id: the app; None: the simulator's own. LookupError for an unknown one.

        Source: https://developers.weixin.qq.com/miniprogram/dev/server/event_push/platform/authorized_user_information_changes
        """
        app_id = self._state.app_id(app_id)
        user = self._state.known_user(open_id, app_id)
        union_id = None if user is None else user.union_id
        fields: dict[str, str | int] = {
            "ToUserName": _TO,
            "FromUserName": _FROM,
            "CreateTime": int(self._state.clock()),
            "MsgType": "event",
            "Event": kind,
            "OpenID": open_id,
            **({} if union_id is None else {"UnionID": union_id}),
            "AppID": app_id,
            **({"RevokeInfo": ",".join(map(str, revoke_info))} if revoke_info else {}),
        }
        write = _to_xml if form == "xml" else to_json
        query, message = self._signed(), write(fields)
        if mode != "plain":
            encrypted = self._encrypt(message, app_id)
            signature = _sign(self.token, query["timestamp"], query["nonce"], encrypted)
            query |= {"openid": open_id, "encrypt_type": "aes", "msg_signature": signature}
            shown = fields if mode == "compatible" else {"ToUserName": _TO}
            message = write({**shown, "Encrypt": encrypted})
        return PushedEvent(query, to_bytes(message), _CONTENT_TYPES[form])

    def _signed(self) -> dict[str, str]:
        timestamp, nonce = str(int(self._state.clock())), str(secrets.randbelow(10**10))
        signature = _sign(self.token, timestamp, nonce)
        return {"signature": signature, "timestamp": timestamp, "nonce": nonce}

    def _encrypt(self, message: str, app_id: str) -> str:
        # https://developers.weixin.qq.com/miniprogram/dev/framework/server-ability/message-push.html
        key, text = base64.b64decode(f"{self.aes_key}="), to_bytes(message)
        full = os.urandom(16) + len(text).to_bytes(4, "big") + text + app_id.encode()
        encrypted = AES.new(key, AES.MODE_CBC, key[:16]).encrypt(pad(full, 32))
        return base64.b64encode(encrypted).decode()


def _sign(*texts: str) -> str:
    return hashlib.sha1("".join(sorted(texts)).encode(), usedforsecurity=False).hexdigest()


def _to_xml(fields: _Fields) -> str:
    children = "".join(f"<{name}>{_xml_text(value)}</{name}>\n" for name, value in fields.items())
    return f"<xml>{children}</xml>"


def _xml_text(value: str | int) -> str:
    if isinstance(value, int):
        return str(value)
    return escape(value) if "]]>" in value else f"<![CDATA[{value}]]>"
