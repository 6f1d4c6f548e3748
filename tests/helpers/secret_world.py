"""Every public method that is awaited, with arguments full of secrets, and a search for these."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import pytest
from redis import Redis as SyncRedis

from mpauthx_async import (
    AppAccessToken,
    Connections,
    MPAuthX,
    WeChatAPI,
    WeChatOAuth,
    WeChatSimulator,
)
from tests.helpers.clock import Clock
from tests.helpers.redis_server import RedisServer
from tests.helpers.secret_search import everything_logged, everything_told, local_variables
from tests.helpers.service_calls import EVENT

SESSION_KEY = "c2Vzc2lvbi1rZXktMTIzNA=="
SIGNING_KEY = "a-signing-key-of-this-test"
PASSWORD = "password-of-redis"
PHONE = "13700000000"


class World:
    """Services under way, and the secrets that are in play."""

    def __init__(self, wx: WeChatSimulator, clock: Clock, names: Mapping[str, Any]) -> None:
        self.wx = wx
        self.clock = clock
        self.begun_at = clock.now
        self.connections: Connections = names["connections"]
        own = {name: names[name] for name in ("app_id", "app_secret", "api_base", "connections")}
        web = {**own, "tokens": names["tokens"], "clock": clock, "signing_keys": [SIGNING_KEY]}
        self.api = WeChatAPI(**own)
        self.oauth = WeChatOAuth(**web)
        self.auth = MPAuthX(**web, users=names["users"], sku="shop")
        self.secrets = {wx.app_secret, SIGNING_KEY, PASSWORD, SESSION_KEY, PHONE}

    async def begin(self) -> None:
        """Log bob in, in each way."""
        result = await self.auth.authorize(self.code())
        self.session_id = result.session.id
        self.token = self.secret(result.response)
        self.access_token = self.secret(await self.auth.access_token())
        self.web = await self.oauth.get_access_token(self.web_code())
        self.secrets |= {self.web.access_token, self.web.refresh_token}

    def go_on_with(self, world: "World") -> None:
        """Take over what another world has begun, in the same stores."""
        self.session_id, self.token, self.web = world.session_id, world.token, world.web
        self.access_token = world.access_token
        self.secrets |= world.secrets

    @property
    def access(self) -> AppAccessToken:
        access = self.auth._access_token
        assert access is not None
        return access

    def secret(self, text: str) -> str:
        self.secrets.add(text)
        return text

    def code(self, user: str = "bob") -> str:
        return self.secret(self.wx.login(user, session_key=SESSION_KEY))

    def web_code(self) -> str:
        return self.secret(self.wx.web_login("bob"))

    def phone_code(self) -> str:
        return self.secret(self.wx.get_phone_number("bob").code)

    def sealed(self) -> tuple[str, str]:
        data = self.wx.seal("bob", {"openId": "bob", "phoneNumber": PHONE})
        return self.secret(data.encrypted_data), self.secret(data.iv)

    def sealed_by_name(self) -> dict[str, str]:
        return dict(zip(("encrypted_data", "iv"), self.sealed(), strict=True))

    def bob_and_keys(self) -> tuple[str, str, str]:
        return "bob", SESSION_KEY, self.access_token

    def later(self) -> "World":
        """Let the access tokens expire, once."""
        self.clock.now = max(self.clock.now, self.begun_at + 7201)
        return self

    async def close(self) -> None:
        await self.auth.close()
        await self.oauth.close()
        await self.connections.close()


Call: TypeAlias = Callable[[World], Awaitable[object]]


@dataclass(frozen=True)
class Row:
    """A public method.

    Attributes:
        call: calls it with arguments that are right.
        asks: what has to answer: wechat, tokens or users; and token where it takes one, and raises
            if that is not valid.
    """

    call: Call
    asks: str = ""


AUTH = {
    "authorize": Row(lambda w: w.auth.authorize(w.code(), *w.sealed()), "wechat users tokens"),
    "authorize_web": Row(lambda w: w.auth.authorize_web(w.web_code()), "wechat users tokens"),
    "issue_session": Row(
        lambda w: w.auth.issue_session(open_id="bob", union_id="union-bob"), "users tokens"
    ),
    "is_token_valid": Row(lambda w: w.auth.is_token_valid(w.token), "tokens"),
    "authenticate": Row(lambda w: w.auth.authenticate(w.token), "tokens token"),
    "check": Row(lambda w: w.auth.check(), "users tokens"),
    "refresh_token": Row(lambda w: w.auth.refresh_token("bob"), "users tokens"),
    "rotate": Row(lambda w: w.auth.rotate(w.token), "users tokens token"),
    "token_status": Row(lambda w: w.auth.token_status(w.token), "tokens"),
    "session": Row(lambda w: w.auth.session(w.token), "tokens"),
    "sessions": Row(lambda w: w.auth.sessions("bob"), "users tokens"),
    "revoke": Row(lambda w: w.auth.revoke(w.token), "tokens"),
    "revoke_session": Row(lambda w: w.auth.revoke_session("bob", w.session_id), "users tokens"),
    "revoke_user": Row(lambda w: w.auth.revoke_user("bob", w.token), "users tokens"),
    "ban": Row(lambda w: w.auth.ban("eve"), "users tokens"),
    "unban": Row(lambda w: w.auth.unban("eve"), "users tokens"),
    "ban_of": Row(lambda w: w.auth.ban_of("eve"), "users tokens"),
    "online": Row(lambda w: w.auth.online(), "tokens"),
    "online_count": Row(lambda w: w.auth.online_count(), "tokens"),
    "decrypt": Row(lambda w: w.auth.decrypt(w.token, *w.sealed()), "tokens token"),
    "decrypt_phone_number": Row(
        lambda w: w.auth.decrypt_phone_number(w.token, *w.sealed()), "tokens token"
    ),
    "verify_raw_data": Row(
        lambda w: w.auth.verify_raw_data(w.token, "{}", "0" * 40), "tokens token"
    ),
    "get_phone_number": Row(lambda w: w.auth.get_phone_number(w.phone_code()), "wechat"),
    "check_session_key": Row(lambda w: w.auth.check_session_key(w.token), "wechat tokens token"),
    "reset_session_key": Row(lambda w: w.auth.reset_session_key(w.token), "wechat tokens token"),
    "user_encrypt_keys": Row(lambda w: w.auth.user_encrypt_keys(w.token), "wechat tokens token"),
    "access_token": Row(lambda w: w.later().auth.access_token(), "wechat tokens"),
    "forget_user": Row(lambda w: w.auth.forget_user("eve"), "users tokens"),
    "clear_profile": Row(lambda w: w.auth.clear_profile("bob", ["city"]), "users"),
    "handle_push_event": Row(lambda w: w.auth.handle_push_event(EVENT), "tokens"),
}
OAUTH = {
    "verify_state": Row(
        lambda w: w.oauth.verify_state(w.oauth.create_state(session="b"), session="b"), "tokens"
    ),
    "get_access_token": Row(lambda w: w.oauth.get_access_token(w.web_code()), "wechat tokens"),
    "refresh_access_token": Row(
        lambda w: w.oauth.refresh_access_token(w.web.refresh_token), "wechat tokens"
    ),
    "get_user": Row(lambda w: w.later().oauth.get_user("bob"), "wechat tokens"),
    "get_user_by_code": Row(
        lambda w: w.oauth.get_user_by_code(w.code(), **w.sealed_by_name()), "wechat"
    ),
    "identify": Row(lambda w: w.oauth.identify(w.web_code()), "wechat tokens"),
    "verify_token": Row(lambda w: w.oauth.verify_token("bob", w.web.access_token), "wechat"),
    "forget": Row(lambda w: w.oauth.forget("eve"), "tokens"),
    "get_session_key": Row(lambda w: w.oauth.get_session_key(w.code()), "wechat"),
}
_API: dict[str, Call] = {
    "code_to_session": lambda w: w.api.code_to_session(w.code()),
    "code_to_oauth_token": lambda w: w.api.code_to_oauth_token(w.web_code(), 0),
    "refresh_oauth_token": lambda w: w.api.refresh_oauth_token(w.web.refresh_token, 0),
    "get_oauth_user": lambda w: w.api.get_oauth_user(w.web),
    "is_oauth_token_valid": lambda w: w.api.is_oauth_token_valid("bob", w.web.access_token),
    "get_stable_token": lambda w: w.api.get_stable_token(force_refresh=True),
    "get_phone_number": lambda w: w.api.get_phone_number(w.phone_code(), w.access_token),
    "is_session_key_valid": lambda w: w.api.is_session_key_valid(*w.bob_and_keys()),
    "reset_session_key": lambda w: w.api.reset_session_key(*w.bob_and_keys()),
    "get_user_encrypt_keys": lambda w: w.api.get_user_encrypt_keys(*w.bob_and_keys()),
}
API = {name: Row(call, "wechat") for name, call in _API.items()}
ACCESS = {
    "get": Row(lambda w: w.access.get(refused=w.access_token), "wechat tokens"),
    "call": Row(lambda w: w.access.call(partial(w.api.get_phone_number, w.phone_code())), "wechat"),
}
TABLE = {MPAuthX: AUTH, WeChatOAuth: OAUTH, WeChatAPI: API, AppAccessToken: ACCESS}
ROWS = {f"{kind.__name__}.{name}": row for kind in TABLE for name, row in TABLE[kind].items()}


def add_user(server: RedisServer) -> None:
    with SyncRedis(port=server.port, protocol=2) as client:
        client.execute_command("ACL", "SETUSER", "shop", "on", f">{PASSWORD}", "~*", "&*", "+@all")


def redis_url(server: RedisServer) -> str:
    return f"redis://shop:{PASSWORD}@127.0.0.1:{server.port}/0"


async def failure_of(call: Awaitable[object]) -> BaseException:
    """What a call raises; logged as an application would."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 (each has its own)
        await call
    logging.getLogger("application").error("It failed.", exc_info=caught.value)
    return caught.value


def check(world: World, *errors: BaseException, logged: Sequence[logging.LogRecord] = ()) -> None:
    """No secret is in the errors, or in what was logged."""
    assert errors
    for told in (
        *(f"{local_variables(error)}\n{everything_told(error)}" for error in errors),
        everything_logged(logged),
    ):
        assert not [secret for secret in world.secrets if secret in told]
