"""The types of the public API, for mypy --strict and pyright; nothing here is run."""

# pyright: strict

from collections.abc import Callable, Mapping, Sequence
from typing import Any, assert_type

from mpauthx_async import (
    AuthResult,
    Ban,
    CodeSession,
    ComponentExchange,
    ConnectionFailedError,
    Connections,
    Gauges,
    Identity,
    InvalidTokenError,
    LoginPolicy,
    MPAuthX,
    MPAuthXError,
    OAuthToken,
    OAuthUser,
    OnlinePage,
    PartialStoreError,
    PhoneNumber,
    PushEvent,
    RedisTokenStore,
    SealedUserInfo,
    Session,
    SqliteTokenStore,
    SqliteUserStore,
    StatusCode,
    TokenStatus,
    User,
    UserEncryptKey,
    WeChatAPIError,
    WeChatOAuth,
    WeChatProfile,
    WeChatSimulator,
    WeComExchange,
    decrypt_user_data,
    parse_push_event,
    sign_user_state,
    verify_push_url,
    verify_raw_data,
)
from mpauthx_async.events import Event, LoggedIn, LoginFailed, Revoked
from mpauthx_async.metrics import Metrics
from mpauthx_async.stores import (
    OAuthTokenStore,
    SessionKeyStore,
    TokenStore,
    UserStore,
    merge_profile,
    open_token_store,
    open_user_store,
)


async def service(token: object) -> None:
    async with MPAuthX(
        app_id="wx0",
        app_secret="secret",
        sku="shop",
        users="sqlite:///users.db",
        tokens="redis://localhost:6379/0",
        policy=LoginPolicy(one_per_kind=True),
        exchange=WeComExchange(access_token),
    ) as auth:
        assert_type(auth, MPAuthX)
        assert_type(await auth.authorize("code", device="phone"), AuthResult)
        assert_type(await auth.authorize_web("code"), AuthResult)
        assert_type(await auth.issue_session(open_id="o-bob"), AuthResult)
        assert_type(await auth.is_token_valid(token), bool)
        assert_type(await auth.authenticate(token), Identity)
        assert_type(await auth.refresh_token("o-bob"), AuthResult)
        assert_type(await auth.rotate(token), AuthResult)
        assert_type(await auth.token_status(token), TokenStatus)
        assert_type(await auth.session(token), Session | None)
        assert_type(await auth.sessions("o-bob"), list[Session])
        assert_type(await auth.revoke(token), bool)
        assert_type(await auth.revoke_session("o-bob", "id"), bool)
        assert_type(await auth.revoke_user("o-bob", except_token=token), int)
        assert_type(await auth.ban("o-bob", 60, reason="spam"), int)
        assert_type(await auth.unban("o-bob"), bool)
        assert_type(await auth.ban_of("o-bob"), Ban | None)
        assert_type(await auth.forget_user("o-bob"), bool)
        assert_type(await auth.clear_profile("o-bob", ["nick_name"]), bool)
        assert_type(await auth.online(), OnlinePage)
        assert_type(await auth.online_count(), int)
        assert_type(await auth.get_phone_number("code"), PhoneNumber)
        assert_type(await auth.decrypt_phone_number(token, "data", "iv"), PhoneNumber)
        assert_type(await auth.decrypt(token, "data", "iv"), dict[str, Any])
        assert_type(await auth.check_session_key(token), bool)
        assert_type(await auth.user_encrypt_keys(token), Sequence[UserEncryptKey])
        assert_type(await auth.access_token(), str)
        assert_type(auth.extract_open_id(token), str | None)
        assert_type(auth.subscribe(Metrics()), Callable[[], None])
        assert_type(Metrics().watch(auth), Callable[[], None])
        assert_type(auth.gauges(), Gauges)
        assert_type(auth.subscribe(listener), Callable[[], None])
        await auth.authorize(5)  # type: ignore[arg-type]
        await auth.authorize("code", device=5)  # type: ignore[arg-type]
        auth.subscribe(access_token)  # type: ignore[arg-type]


async def access_token() -> str:
    return "token"


def listener(event: Event) -> None:
    match event:
        case LoggedIn():
            assert_type(event.session, Session)
            assert_type(event.user, User)
        case LoginFailed():
            assert_type(event.error, Exception)
        case Revoked():
            assert_type(event.session_id, str | None)
        case _:
            pass


async def web_login(store: OAuthTokenStore) -> None:
    async with WeChatOAuth(app_id="wx0", app_secret="secret", tokens=store) as oauth:
        assert_type(oauth.get_authorize_url("https://example.com"), str)
        assert_type(oauth.create_state("/cart", session="cookie"), str)
        assert_type(await oauth.verify_state(None, session=None), str)
        assert_type(await oauth.get_access_token("code"), OAuthToken)
        assert_type(await oauth.get_user("o-bob"), OAuthUser)
        assert_type(await oauth.get_session_key("code"), CodeSession)
        assert_type(await oauth.verify_token("o-bob", "token"), bool)


async def get_token(open_id: str) -> OAuthToken | None:
    return None


async def save_token(open_id: str, token: OAuthToken) -> None: ...


def tokens_of_web_users(exchange: ComponentExchange) -> None:
    WeChatOAuth(app_id="wx0", app_secret="s", tokens=(get_token, save_token), exchange=exchange)
    WeChatOAuth(app_id="wx0", app_secret="s", tokens="redis://localhost")
    WeChatOAuth(app_id="wx0", app_secret="s", tokens=(save_token, get_token))  # type: ignore[arg-type]


def values(result: AuthResult, user: User, oauth_user: OAuthUser, session: Session) -> None:
    assert_type(result.status_code, int)
    assert_type(result.token, str)
    assert_type(result.user, User)
    assert_type(result.to_dict(), dict[str, Any])
    for profile in (user, oauth_user):
        takes_profile(profile)
    assert_type(user.nick_name, str | None)
    assert_type(user.linked_ids, tuple[str, ...])
    assert_type(User.from_wechat(CodeSession("o-bob", "key"), {}), User)
    assert_type(OAuthUser.from_wechat("o-bob", None, {}), OAuthUser)
    assert_type(merge_profile(user, user), User)
    assert_type(session.id, str)
    user.nick_name = "Bob"  # type: ignore[misc]


def takes_profile(profile: WeChatProfile) -> None:
    assert_type(profile.id, str)
    assert_type(profile.gender, int | None)


def errors(error: MPAuthXError) -> None:
    assert_type(error.code, StatusCode)
    assert_type(error.http_status, int)
    assert_type(error.retryable, bool)
    if isinstance(error, WeChatAPIError):
        assert_type(error.errcode, int)
        assert_type(error.rid, str | None)
    if isinstance(error, ConnectionFailedError):
        assert_type(error.sent, bool)
    if isinstance(error, InvalidTokenError):
        assert_type(error.status, TokenStatus)
    if isinstance(error, PartialStoreError):
        assert_type(error.answers, Sequence[Any])


def stores(connections: Connections) -> None:
    token_stores: list[TokenStore] = [
        RedisTokenStore("redis://localhost"),
        SqliteTokenStore("tokens.db"),
        open_token_store("sqlite:///tokens.db", connections),
    ]
    session_key_stores: list[SessionKeyStore] = [
        RedisTokenStore(connections),
        SqliteTokenStore("tokens.db"),
    ]
    user_stores: list[UserStore] = [
        SqliteUserStore("users.db"),
        open_user_store("sqlite:///users.db"),
    ]
    user_stores.append(SqliteTokenStore("tokens.db"))  # type: ignore[arg-type]
    assert token_stores
    assert session_key_stores


def functions(query: Mapping[str, str]) -> None:
    assert_type(decrypt_user_data("key", "data", "iv", "wx0"), dict[str, Any])
    assert_type(verify_raw_data("key", "{}", "signature"), bool)
    assert_type(sign_user_state("key"), str)
    assert_type(parse_push_event(query, b"", token="token"), PushEvent)
    assert_type(verify_push_url(query, token="token"), str)


async def simulator() -> None:
    async with WeChatSimulator(app_id="wx0", app_secret="secret") as wx:
        assert_type(wx, WeChatSimulator)
        assert_type(wx.url, str)
        assert_type(wx.login("o-bob", "u-bob"), str)
        assert_type(wx.get_user_info("o-bob"), SealedUserInfo)
