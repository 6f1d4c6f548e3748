"""What the tests of the simulator's API share: a clock to move, and plain requests."""

import base64
import json

import aiohttp
from Crypto.Cipher import AES
from Crypto.Util.Padding import unpad

from mpauthx_async.simulator import WeChatSimulator

ACCOUNT = "wxaaaaaaaaaaaaaaaa"  # an Official Account
SECRET = "f0e1d2c3" * 4
RID = r"rid: [0-9a-f]{8}-[0-9a-f]{8}-[0-9a-f]{8}"
HINT = r"hint: \[[\w-]{16}\]"


class Client:
    """Calls the simulator's API as any HTTP client does; None leaves a parameter out."""

    def __init__(self, wx: WeChatSimulator, http: aiohttp.ClientSession) -> None:
        self.wx = wx
        self.http = http

    async def get(self, path: str, **query: str | None) -> dict:
        return await self._answer("GET", path, query)

    async def post_form(self, path: str, form: dict[str, str], **query: str) -> dict:
        return await self._answer("POST", path, dict(query), form)

    async def post(self, path: str, body: object, **query: str | None) -> dict:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self._answer("POST", path, query, data)

    async def control(self, command: str, **body: object) -> dict:
        async with self.http.post(f"{self.wx.url}/simulator/{command}", json=body) as response:
            return await response.json()

    async def _answer(self, method: str, path: str, query: dict, data: object = None) -> dict:
        params = {name: text for name, text in query.items() if text is not None}
        url = self.wx.url + path
        async with self.http.request(method, url, params=params, data=data) as response:
            assert response.status == 200
            sns = path.startswith("/sns/")
            expected = "text/plain" if sns else "application/json; encoding=utf-8"
            assert response.headers.getall("Content-Type") == [expected]
            return json.loads(await response.read())


async def exchange(client: Client, code: str | None, **changes: str | None) -> dict:
    """Exchange a code of a web page for tokens."""
    query = {**_credentials(client.wx), "code": code, **changes}
    return await client.get("/sns/oauth2/access_token", **query)


async def session(client: Client, code: str | None, **changes: str | None) -> dict:
    """Exchange a code of a mini-program."""
    return await client.get("/sns/jscode2session", **{**session_form(client.wx, code), **changes})


def session_form(wx: WeChatSimulator, code: str | None) -> dict:
    return {**_credentials(wx), "js_code": code}


def component_credentials(wx: WeChatSimulator) -> dict[str, str | None]:
    token = wx.component_access_token
    return {"component_appid": wx.component_app_id, "component_access_token": token}


def _credentials(wx: WeChatSimulator) -> dict[str, str | None]:
    return {"appid": wx.app_id, "secret": wx.app_secret, "grant_type": "authorization_code"}


def decrypt(session_key: str, encrypted_data: str, iv: str) -> dict:
    key, raw_iv = base64.b64decode(session_key), base64.b64decode(iv)
    sealed = base64.b64decode(encrypted_data)
    return json.loads(unpad(AES.new(key, AES.MODE_CBC, raw_iv).decrypt(sealed), 16))
