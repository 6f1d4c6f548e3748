"""Users who withdraw their account, or parts of their profile."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from mpauthx_async import (
    BannedError,
    ConfigurationError,
    MPAuthX,
    NoOAuthTokenError,
    ParameterError,
    SqliteTokenStore,
    SqliteUserStore,
    StoreError,
    Subject,
    TokenStatus,
    User,
    UserNotFoundError,
    WeChatOAuth,
    WeChatSimulator,
)
from mpauthx_async.events import ProfileCleared, Unbanned, UserForgotten
from mpauthx_async.stores.conformance.examples import until
from tests.helpers.logins import Gated, login
from tests.helpers.memory_stores import DictOAuthTokenStore, MemoryTokens, MemoryUsers
from tests.helpers.service_calls import hear, log_in, of_kind
from tests.helpers.sqlite_files import query

Make = Callable[..., MPAuthX]
GAME, WEB, SECRET = "wxgame", "wxweb", "secret-secret-secret-secret"


@pytest.fixture
async def wx() -> AsyncIterator[WeChatSimulator]:
    async with WeChatSimulator(other_apps={GAME: SECRET, WEB: SECRET}) as simulator:
        yield simulator


def web_of(wx: WeChatSimulator, tokens: Any) -> WeChatOAuth:
    return WeChatOAuth(app_id=WEB, app_secret=SECRET, tokens=tokens, api_base=wx.url)


@pytest.fixture
async def web(wx: WeChatSimulator, tokens: str, redis: Redis) -> AsyncIterator[WeChatOAuth]:
    async with web_of(wx, tokens) as oauth:
        yield oauth


@pytest.fixture
async def auth(make: Make, tokens: str, web: WeChatOAuth) -> AsyncIterator[MPAuthX]:
    async with make(tokens=tokens, web=web) as service:
        yield service


def rows(folder: Path, table: str = "user") -> list[Any]:
    return query(folder / "users.db", f"SELECT * FROM {table}")


# Forgetting


@pytest.mark.parametrize("user_id", ["bob", "bob-web", "union-bob", "union-old"])
async def test_a_user_is_forgotten_by_any_id(
    auth: MPAuthX, web: WeChatOAuth, wx: WeChatSimulator, tmp_path: Path, user_id: str
) -> None:
    given = [
        await log_in(auth, wx),
        await log_in(auth, wx, union_id="union-old"),
        await auth.authorize_web(wx.web_login("bob-web", "union-old", app_id=WEB)),
        await log_in(auth, wx, union_id="union-bob"),
    ]
    eve = await log_in(auth, wx, "eve", union_id="union-eve")
    assert await auth.forget_user(user_id) is True
    for result in given:
        assert not await auth.is_token_valid(result.response)
    for one in ("bob", "bob-web", "union-bob", "union-old"):
        assert await auth.sessions(one) == []
        with pytest.raises(UserNotFoundError):
            await auth.refresh_token(one)
    with pytest.raises(NoOAuthTokenError):
        await web.get_user("bob-web")
    assert list((await auth.online()).user_ids) == ["union-eve"]
    assert await auth.is_token_valid(eve.response)
    assert [row[0] for row in rows(tmp_path)] == ["eve"]
    assert {row[0] for row in rows(tmp_path, "mpauthx_link")} == {"eve"}
    assert await auth.forget_user(user_id) is False


async def test_session_keys_are_forgotten(auth: MPAuthX, wx: WeChatSimulator) -> None:
    result = await log_in(auth, wx)
    assert await auth._parts.tokens.sealed_keys([result.session.ref]) != [None]  # type: ignore[attr-defined]
    await auth.forget_user("bob")
    assert await auth._parts.tokens.sealed_keys([result.session.ref]) == [None]  # type: ignore[attr-defined]


async def test_sessions_of_a_user_without_a_row_are_forgotten(
    auth: MPAuthX, wx: WeChatSimulator, tmp_path: Path
) -> None:
    result = await log_in(auth, wx)
    async with SqliteUserStore(tmp_path / "users.db") as users:
        assert await users.forget("bob", app_ids={wx.app_id})
    assert await auth.forget_user("bob") is True
    assert not await auth.is_token_valid(result.response)


async def test_other_skus_keep_their_sessions(
    make: Make, auth: MPAuthX, tokens: str, wx: WeChatSimulator
) -> None:
    async with make(tokens=tokens, sku="debug") as debug:
        elsewhere = await log_in(debug, wx)
        assert await auth.forget_user("bob")
        assert await debug.is_token_valid(elsewhere.response)


async def test_what_another_app_needs_stays(
    make: Make, auth: MPAuthX, tokens: str, wx: WeChatSimulator, tmp_path: Path
) -> None:
    wx.set_profile("bob", nickName="Bob")
    async with make(tokens=tokens, sku="game", app_id=GAME, app_secret=SECRET) as game:
        mine = await auth.authorize(*login(wx, union_id="union-bob"))
        played = await game.authorize(wx.login("bob-game", "union-bob", app_id=GAME))
        assert await auth.forget_user("bob")
        assert not await auth.is_token_valid(mine.response)
        assert await game.is_token_valid(played.response)
        again = await game.authorize(wx.login("bob-game", "union-bob", app_id=GAME))
        assert not again.is_new_user
        assert again.user.nick_name == "Bob"
        assert await game.forget_user("bob-game")
    assert rows(tmp_path) == rows(tmp_path, "mpauthx_link") == []


async def test_forgetting_emits_an_event(make: Make, tokens: str, wx: WeChatSimulator) -> None:
    async with make(tokens=tokens) as auth:
        heard = hear(auth)
        await log_in(auth, wx)
        await log_in(auth, wx, union_id="union-bob")
        await auth.forget_user("bob")
        await auth.forget_user("bob")
    assert of_kind(heard, UserForgotten) == [UserForgotten("shop", "bob", 2)]


# Bans


@pytest.mark.parametrize("again_as", [("bob", None), ("bob-web", None), ("eve", "union-bob")])
async def test_a_ban_outlives_a_forgotten_user_under_every_id(
    auth: MPAuthX, wx: WeChatSimulator, again_as: tuple[str, str | None]
) -> None:
    await log_in(auth, wx, union_id="union-bob")
    await auth.authorize_web(wx.web_login("bob-web", "union-bob", app_id=WEB))
    await auth.ban("bob", reason="spam")
    assert await auth.forget_user("union-bob")
    for user_id in ("bob", "bob-web", "union-bob"):
        assert await auth.ban_of(user_id) is not None
    wx._state.user("bob", wx.app_id).union_id = None
    with pytest.raises(BannedError, match="spam"):
        await log_in(auth, wx, again_as[0], union_id=again_as[1])


async def test_a_ban_of_one_id_is_copied_to_the_others_before_they_are_forgotten(
    auth: MPAuthX, wx: WeChatSimulator, tmp_path: Path
) -> None:
    await auth.ban("bob", reason="spam")
    async with SqliteUserStore(tmp_path / "users.db") as users:
        await users.save([User("bob", "union-bob", app_id=wx.app_id)])
    assert await auth.forget_user("bob")
    with pytest.raises(BannedError, match="spam"):
        await log_in(auth, wx, "eve", union_id="union-bob")


async def test_a_ban_is_lifted_only_if_that_is_asked_for(
    make: Make, tokens: str, wx: WeChatSimulator
) -> None:
    async with make(tokens=tokens) as auth:
        heard = hear(auth)
        await log_in(auth, wx, union_id="union-bob")
        await auth.ban("bob")
        assert await auth.forget_user("bob", lift_ban=True)
        assert await auth.ban_of("bob") is await auth.ban_of("union-bob") is None
        assert (await log_in(auth, wx)).is_new_user
    assert of_kind(heard, Unbanned) == [Unbanned("shop", "bob")]


# What goes wrong


async def test_web_tokens_that_cannot_be_deleted_are_said_before_anything_is_erased(
    make: Make, tokens: str, wx: WeChatSimulator, tmp_path: Path
) -> None:
    kept = DictOAuthTokenStore()
    pair = (kept.get, kept.save)
    async with web_of(wx, pair) as web, make(tokens=tokens, web=web) as auth:
        result = await auth.authorize_web(wx.web_login("bob-web", app_id=WEB))
        with pytest.raises(ConfigurationError, match="delete_token"):
            await auth.forget_user("bob-web")
        assert await auth.is_token_valid(result.response)
        assert await kept.get("bob-web") is not None
        assert len(rows(tmp_path)) == 1


async def test_the_third_function_deletes(make: Make, tokens: str, wx: WeChatSimulator) -> None:
    kept = DictOAuthTokenStore()
    functions = (kept.get, kept.save, kept.delete)
    async with web_of(wx, functions) as web, make(tokens=tokens, web=web) as auth:
        await auth.authorize_web(wx.web_login("bob-web", app_id=WEB))
        assert await auth.forget_user("bob-web")
        assert await kept.get("bob-web") is None


class FailingOnce(MemoryUsers):
    """A store that is out of order when a user is to be forgotten for the first time."""

    is_in_order = False

    async def forget(self, user_id: str, **options: Any) -> bool:
        if not self.is_in_order:
            self.is_in_order = True
            raise StoreError("The store is out of order.")
        return await super().forget(user_id, **options)


async def test_a_second_call_finishes_after_a_failure(make: Make, wx: WeChatSimulator) -> None:
    async with make(users=FailingOnce(), tokens=MemoryTokens()) as auth:
        result = await log_in(auth, wx, union_id="union-bob")
        with pytest.raises(StoreError):
            await auth.forget_user("bob")
        assert await auth.token_status(result.response) is TokenStatus.unknown
        assert await auth.forget_user("bob") is True
        assert (await log_in(auth, wx)).is_new_user


async def test_an_id_linked_meanwhile_is_forgotten_too(make: Make, wx: WeChatSimulator) -> None:
    users, kept = MemoryUsers(), MemoryTokens()
    gated: Any = Gated(kept, "forget_subject")
    async with make(users=users, tokens=kept) as auth, make(users=users, tokens=gated) as admin:
        await log_in(auth, wx)
        forgetting = asyncio.create_task(admin.forget_user("bob"))
        await gated.reached.wait()
        late = await log_in(auth, wx, union_id="union-bob")
        gated.gate.set()
        assert await forgetting
        assert not await auth.is_token_valid(late.response)


async def test_a_login_in_progress_leaves_no_session_of_a_forgotten_user(
    make: Make, wx: WeChatSimulator, tmp_path: Path
) -> None:
    async with (
        SqliteTokenStore(tmp_path / "tokens.db") as kept,
        SqliteUserStore(tmp_path / "users.db") as users,
    ):
        gated: Any = Gated(kept, "issue")
        async with make(users=users, tokens=gated) as auth:
            login = asyncio.create_task(log_in(auth, wx))
            await gated.reached.wait()
            forgetting = asyncio.create_task(auth.forget_user("bob"))
            while await users.get(["bob"]) != [None]:
                pass
            gated.gate.set()
            late = await login
            assert await forgetting
            assert not await auth.is_token_valid(late.response)
            assert await auth.online_count() == 0


async def test_a_login_that_is_saved_after_its_user_is_forgotten_leaves_no_row(
    make: Callable[..., MPAuthX], wx: WeChatSimulator
) -> None:
    kept = MemoryUsers()
    users = Gated(kept, "save")
    users.gate.set()
    async with make(users=users, tokens=MemoryTokens()) as auth:
        await log_in(auth, wx)
        users.gate.clear()
        users.reached.clear()
        login = asyncio.create_task(log_in(auth, wx))
        await users.reached.wait()
        forgetting = asyncio.create_task(auth.forget_user("bob"))

        async def is_forgotten() -> bool:
            return await kept.get(["bob"]) == [None]

        await until(is_forgotten)
        users.gate.set()
        late = await login
        assert await forgetting
        assert await kept.get(["bob"]) == [None]
        assert not await auth.is_token_valid(late.response)


@pytest.mark.parametrize("ends", ["before", "after"])
async def test_a_login_that_links_an_id_to_a_forgotten_user_leaves_no_session(
    make: Make, wx: WeChatSimulator, ends: str
) -> None:
    kept, tokens = MemoryUsers(), MemoryTokens()
    users, gated = Gated(kept, "forget"), Gated(tokens, "issue")
    gated.gate.set()
    async with make(users=users, tokens=gated) as auth:
        await log_in(auth, wx)
        forgetting = asyncio.create_task(auth.forget_user("bob"))
        await users.reached.wait()
        gated.reached.clear()
        if ends == "after":
            gated.gate.clear()
        login = asyncio.create_task(log_in(auth, wx, union_id="union-bob"))
        await (login if ends == "before" else gated.reached.wait())
        users.gate.set()

        async def is_forgotten() -> bool:
            return await kept.get(["union-bob"]) == [None]

        await until(is_forgotten)
        gated.gate.set()
        late = await login
        assert await forgetting
        assert not await auth.is_token_valid(late.response)


async def test_a_ban_of_a_forgotten_user_holds_under_an_id_that_a_login_links(
    make: Make, wx: WeChatSimulator
) -> None:
    users = Gated(MemoryUsers(), "forget")
    async with make(users=users, tokens=MemoryTokens()) as auth:
        await log_in(auth, wx)
        await auth.ban("bob")
        forgetting = asyncio.create_task(auth.forget_user("bob"))
        await users.reached.wait()
        with pytest.raises(BannedError):
            await log_in(auth, wx, union_id="union-bob")
        users.gate.set()
        await forgetting
        assert (await auth.ban_of("union-bob")).until is None


async def test_a_web_login_in_progress_leaves_no_token_of_a_forgotten_user(
    make: Make, web: WeChatOAuth, wx: WeChatSimulator
) -> None:
    users = Gated(MemoryUsers(), "forget")
    async with make(users=users, tokens=MemoryTokens(), web=web) as auth:
        await auth.authorize_web(wx.web_login("bob-web", app_id=WEB))
        forgetting = asyncio.create_task(auth.forget_user("bob-web"))
        await users.reached.wait()
        late = await auth.authorize_web(wx.web_login("bob-web", app_id=WEB))
        users.gate.set()
        assert await forgetting
        assert not await auth.is_token_valid(late.response)
        with pytest.raises(NoOAuthTokenError):
            await web.get_user("bob-web")


class FirstBanWaits(SqliteTokenStore):
    """A store whose first ban, or copy of one, waits at a gate."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.reached = asyncio.Event()
        self.gate = asyncio.Event()

    async def ban(self, subject: Subject, *, reason: str, ttl: int | None) -> int:
        if not self.reached.is_set():
            self.reached.set()
            await self.gate.wait()
        return await super().ban(subject, reason=reason, ttl=ttl)


async def test_a_login_in_progress_does_not_shorten_the_ban_of_a_forgotten_user(
    make: Make, wx: WeChatSimulator, tmp_path: Path
) -> None:
    path = tmp_path / "tokens.db"
    async with (
        SqliteTokenStore(path) as kept,
        FirstBanWaits(path) as tokens,
        SqliteUserStore(tmp_path / "users.db") as users,
        make(users=users, tokens=tokens) as auth,
    ):
        await kept.ban(Subject("shop", "bob"), reason="spam", ttl=None)
        login = asyncio.create_task(auth.authorize(wx.login("bob", "union-bob")))
        await tokens.reached.wait()  # it is about to copy the ban
        forgetting = asyncio.create_task(auth.forget_user("bob"))

        async def is_forgotten() -> bool:
            return await users.get(["union-bob"]) == [None]

        await until(is_forgotten)
        tokens.gate.set()
        with pytest.raises(BannedError):
            await login
        assert await forgetting
        assert (await auth.ban_of("union-bob")).until is None


# Web logins by themselves


async def test_a_refresh_in_progress_does_not_save_a_forgotten_token(wx: WeChatSimulator) -> None:
    kept = DictOAuthTokenStore()
    gated: Any = Gated(kept, "save")
    async with web_of(wx, kept) as earlier, web_of(wx, gated) as oauth:
        token = await earlier.get_access_token(wx.web_login("bob", app_id=WEB))
        refresh = asyncio.create_task(oauth.refresh_access_token(token.refresh_token))
        await gated.reached.wait()
        forgetting = asyncio.create_task(oauth.forget("bob"))
        gated.gate.set()
        await asyncio.gather(refresh, forgetting)
        with pytest.raises(NoOAuthTokenError):
            await oauth.get_user("bob")
        await oauth.forget("bob")


@pytest.mark.parametrize("open_id", [None, 5, "", "a|b", "x" * 129])
async def test_rejects_an_invalid_open_id(web: WeChatOAuth, open_id: Any) -> None:
    with pytest.raises(ParameterError, match="open_id"):
        await web.forget(open_id)


# Clearing a profile


async def test_fields_of_profiles_are_cleared(make: Make, tokens: str, wx: WeChatSimulator) -> None:
    wx.set_profile("bob", nickName="Bob", avatarUrl="https://img/132", city="Wuhan", gender=1)
    async with make(tokens=tokens) as auth:
        heard = hear(auth)
        await auth.authorize(*login(wx, union_id="union-bob"))
        fields = ["nick_name", "avatar_url", "gender", "nick_name"]
        assert await auth.clear_profile("union-bob", fields) is True
        user = (await auth.authorize(wx.login("bob"))).user
        assert user.nick_name is user.avatar_url is user.gender is None
        assert user.city == "Wuhan"
        assert await auth.clear_profile("stranger", ["city"]) is False
        filled = (await auth.authorize(*login(wx))).user
        assert filled.nick_name == "Bob"
    cleared = ProfileCleared("union-bob", ("nick_name", "avatar_url", "gender"))
    assert of_kind(heard, ProfileCleared) == [cleared]


async def test_rejects_unknown_profile_fields(auth: MPAuthX, wx: WeChatSimulator) -> None:
    wx.set_profile("bob", city="Wuhan")
    await auth.authorize(*login(wx))
    bad_lists = ([], (), ["phone"], ["city", "open_id"], [None], [["city"]], ["city", 5])
    for fields in (None, 5, "city", b"city", *bad_lists):
        with pytest.raises(ParameterError, match="nick_name, gender"):
            await auth.clear_profile("bob", fields)
    assert (await auth.authorize(wx.login("bob"))).user.city == "Wuhan"
