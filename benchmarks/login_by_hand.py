"""A login as one writes it by hand: one command a call, for each of its steps.

The code is exchanged with aiohttp, the data decrypted on the loop, the user written to a SQLite
file with aiosqlite, in a transaction of their own, and the token to Redis with redis-py.
"""

import json
import secrets
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import aiohttp
import aiosqlite
from redis.asyncio import Redis

from mpauthx_async.wechat.userdata import decrypt_user_data

from .sessions import APP_ID, APP_SECRET, TTL
from .wechat_process import Login

__all__ = ["LoginByHand", "code_url", "token_by_hand"]

_CREATE = "CREATE TABLE IF NOT EXISTS user (openId TEXT PRIMARY KEY, unionId TEXT, profile TEXT)"
_Tokens: TypeAlias = Callable[[str], Awaitable[str]]


class LoginByHand:
    """Logs users in, one after another as far as SQLite and Redis see them.

    Args:
        http: asks the simulator.
        api_base: the simulator's address.
        users: an open database in WAL mode.
        give_token: stores a token of a user, by their id, and returns it.
    """

    def __init__(
        self,
        http: aiohttp.ClientSession,
        api_base: str,
        users: aiosqlite.Connection,
        give_token: _Tokens,
    ) -> None:
        self._http = http
        self._api_base = api_base
        self._users = users
        self._give_token = give_token

    async def prepare(self) -> None:
        """Create the table."""
        await self._users.execute("PRAGMA journal_mode = WAL")
        await self._users.execute(_CREATE)

    async def log_in(self, login: Login) -> str:
        """The token that a user gets."""
        async with self._http.get(code_url(self._api_base, login.code)) as response:
            session = json.loads(await response.read())
        payload = decrypt_user_data(session["session_key"], login.encrypted_data, login.iv, APP_ID)
        row = (session["openid"], session["unionid"], json.dumps(payload))
        await self._users.execute("INSERT OR REPLACE INTO user VALUES (?, ?, ?)", row)
        await self._users.commit()
        return await self._give_token(session["unionid"])


def code_url(api_base: str, code: str) -> str:
    """Where WeChat exchanges a code."""
    return (
        f"{api_base}/sns/jscode2session?appid={APP_ID}&secret={APP_SECRET}"
        f"&js_code={code}&grant_type=authorization_code"
    )


def token_by_hand(redis: Redis) -> _Tokens:
    """One SET for each token."""

    async def give(user_id: str) -> str:
        token = secrets.token_urlsafe()
        await redis.set(f"session:{token}", user_id, px=TTL)
        return token

    return give
