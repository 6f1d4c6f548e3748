"""Who somebody is: what the exchanged code gave, and all ids that a person was ever seen with."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from mpauthx_async import (
    AuthResult,
    Ban,
    BannedError,
    IdentityMismatchError,
    MPAuthX,
    OAuthUser,
    RedisTokenStore,
    SqliteTokenStore,
    SqliteUserStore,
    StoreError,
    Subject,
    TokenStatus,
    User,
    WeChatSimulator,
)
from mpauthx_async.events import Banned, UserLinked
from tests.helpers.clock import Clock
from tests.helpers.logins import Gated
from tests.helpers.memory_stores import MemoryTokens, MemoryUsers
from tests.helpers.redis_server import RedisServer
from tests.helpers.service_calls import hear, of_kind
from tests.helpers.web_logins import service as web_service

Make = Callable[..., MPAuthX]
GAME, SECRET = "wxgame", "secret-secret-secret-secret"


@pytest.fixture
async def wx() -> AsyncIterator[WeChatSimulator]:
    async with WeChatSimulator(other_apps={GAME: SECRET}) as simulator:
        yield simulator


@pytest.fixture
async def game(make: Make, tokens: str) -> AsyncIterator[MPAuthX]:
    """Another mini-program on the same stores."""
    async with make(tokens=tokens, app_id=GAME, app_secret=SECRET) as service:
        yield service


def sealed(wx: WeChatSimulator, open_id: str, **payload: object) -> tuple[str, str]:
    """What a client can seal that knows its own session key: whatever it likes."""
    data = wx.seal(open_id, {"openId": open_id, **payload})
    return data.encrypted_data, data.iv


async def play(game: MPAuthX, wx: WeChatSimulator, union_id: str | None = None) -> AuthResult:
    """Bob's login in the other app."""
    return await game.authorize(wx.login("bob-game", union_id, app_id=GAME))


# Sealed data is not authenticated


async def test_a_sealed_union_id_does_not_change_the_user(
    auth: MPAuthX, wx: WeChatSimulator, tmp_path: Path
) -> None:
    victim = await auth.authorize(wx.login("victim", "union-victim"))
    code = wx.login("eve")
    result = await auth.authorize(code, *sealed(wx, "eve", unionId="union-victim", city="Wuhan"))
    assert result.is_new_user
    assert (result.user.ids, result.user.city) == (("eve",), "Wuhan")
    assert auth.extract_open_id(result.response) == "eve"
    for user_id in ("victim", "union-victim"):
        assert [session.id for session in await auth.sessions(user_id)] == [victim.session.id]
    assert await auth.revoke_user("eve") == 1
    assert await auth.is_token_valid(victim.response)


async def test_a_sealed_union_id_other_than_that_of_the_code_is_refused(
    auth: MPAuthX, wx: WeChatSimulator
) -> None:
    code = wx.login("eve", "union-eve")
    with pytest.raises(IdentityMismatchError):
        await auth.authorize(code, *sealed(wx, "eve", unionId="union-victim"))


async def test_a_sealed_union_id_is_not_that_of_an_oauth_user(
    wx: WeChatSimulator, tokens: str, redis: Redis
) -> None:
    async def get(union_id: str | None, **payload: object) -> OAuthUser:
        code = wx.login("eve", union_id)
        data, iv = sealed(wx, "eve", **payload)
        return await oauth.get_user_by_code(code, encrypted_data=data, iv=iv)

    async with web_service(wx, tokens) as oauth:
        assert (await get(None, unionId="union-victim")).union_id is None
        assert (await get(None, unionid="union-victim")).union_id is None
        assert (await get("union-eve", unionid="union-victim")).union_id == "union-eve"
        with pytest.raises(IdentityMismatchError):
            await get("union-eve", unionId="union-victim")


async def test_an_open_id_that_reads_like_a_union_id_is_another_user(
    auth: MPAuthX, wx: WeChatSimulator
) -> None:
    bob = await auth.authorize(wx.login("bob", "same-text"))
    eve = await auth.authorize(wx.login("same-text"))
    assert [bob.is_new_user, eve.is_new_user] == [True, True]
    again = await auth.authorize(wx.login("same-text"))
    assert not again.is_new_user
    assert (again.user.open_id, again.user.union_id) == ("same-text", None)


# All ids of a person


async def test_an_app_that_gives_union_ids_later_leads_to_the_same_person(
    auth: MPAuthX, game: MPAuthX, wx: WeChatSimulator
) -> None:
    early = await play(game, wx)
    mine = await auth.authorize(wx.login("bob", "union-bob"))
    late = await play(game, wx, "union-bob")
    assert [early.is_new_user, mine.is_new_user, late.is_new_user] == [True, True, False]
    assert late.user.open_id == "bob-game"
    assert late.user.ids == ("union-bob", "bob-game", "bob")
    for user_id in ("union-bob", "bob-game", "bob"):
        sessions = {session.id for session in await auth.sessions(user_id)}
        assert sessions == {one.session.id for one in (early, mine, late)}
    assert early.session.user_id == "bob-game"
    rotated = await game.rotate(early.response)
    assert game.extract_open_id(rotated.response) == "bob-game"
    assert await auth.revoke_user("union-bob") == 3
    for token in (early.response, rotated.response):
        assert not await game.is_token_valid(token)


async def test_a_refresh_ends_the_tokens_under_all_ids(
    auth: MPAuthX, game: MPAuthX, wx: WeChatSimulator
) -> None:
    early = await play(game, wx)
    mine = await auth.authorize(wx.login("bob", "union-bob"))
    await play(game, wx, "union-bob")
    fresh = await auth.refresh_token("bob-game")
    assert auth.extract_open_id(fresh.response) == "union-bob"
    assert not await game.is_token_valid(early.response)
    assert not await auth.is_token_valid(mine.response)
    assert [session.id for session in await game.sessions("bob")] == [fresh.session.id]


async def test_a_replaced_union_id_leads_to_the_new_one(auth: MPAuthX, wx: WeChatSimulator) -> None:
    old = await auth.authorize(wx.login("bob", "union-old"))
    new = await auth.authorize(wx.login("bob", "union-new"))
    assert not new.is_new_user
    assert new.user.ids == ("union-new", "bob", "union-old")
    assert await auth.is_token_valid(old.response)
    assert len(await auth.sessions("union-old")) == 2
    assert await auth.revoke_user("union-new") == 2


async def test_linking_an_id_emits_an_event(make: Make, tokens: str, wx: WeChatSimulator) -> None:
    async with make(tokens=tokens) as auth:
        heard = hear(auth)
        for union_id in (None, "union-old", "union-old", "union-new"):
            await auth.authorize(wx.login("bob", union_id))
        for open_id in ("eve", "eve-web"):
            await auth.authorize(wx.login(open_id, "union-eve"))
    assert of_kind(heard, UserLinked) == [
        UserLinked("shop", "bob", "union-old"),
        UserLinked("shop", "union-old", "union-new"),
    ]


# A ban goes along with a link


def store_of(tokens: str) -> SqliteTokenStore | RedisTokenStore:
    if tokens.startswith("sqlite"):
        return SqliteTokenStore(tokens.removeprefix("sqlite:///"))
    return RedisTokenStore(tokens)


async def bans_in_store(tokens: str, *user_ids: str) -> Sequence[Ban | None]:
    async with store_of(tokens) as store:
        return await store.bans([Subject("shop", user_id) for user_id in user_ids])


@pytest.mark.parametrize("seconds", [None, 3600])
async def test_a_ban_is_copied_before_a_linked_id_gets_a_token(
    auth: MPAuthX, wx: WeChatSimulator, tokens: str, seconds: float | None
) -> None:
    await auth.ban("bob", seconds, "spam")
    with pytest.raises(BannedError, match="spam") as caught:
        await auth.authorize(wx.login("bob", "union-bob"))
    assert caught.value.user_id == "union-bob"
    own, copy = await bans_in_store(tokens, "bob", "union-bob")
    assert own is not None
    assert copy.reason == "spam"
    # It is there for the logins of this minute.
    assert copy.until <= copy.banned_at + 60_000
    assert await auth.sessions("union-bob") == []


async def test_a_ban_of_another_id_refuses_a_refresh(
    auth: MPAuthX, wx: WeChatSimulator, tokens: str, tmp_path: Path
) -> None:
    await auth.ban("bob", reason="spam")
    async with SqliteUserStore(tmp_path / "users.db") as users:
        await users.save([User("bob", "union-bob")])
    with pytest.raises(BannedError, match="spam"):
        await auth.refresh_token("union-bob")
    assert None not in await bans_in_store(tokens, "bob", "union-bob")


@pytest.mark.parametrize("offset", [-86_400, 86_400])
async def test_a_copy_for_a_forgotten_user_lasts_as_long_by_the_clock_of_the_store(
    make: Make, redis: Redis, redis_server: RedisServer, tmp_path: Path, offset: float
) -> None:
    async with make(clock=lambda: time.time() + offset) as auth:
        await auth.ban("bob", 600, "spam")
        async with SqliteUserStore(tmp_path / "users.db") as users:
            await users.save([User("bob", "union-bob")])
        assert await auth.forget_user("bob")
    own, copy = await bans_in_store(redis_server.url, "bob", "union-bob")
    assert abs(copy.until - own.until) < 5_000


async def test_a_ban_ends_for_all_ids_at_the_same_time(
    make: Make, tmp_path: Path, wx: WeChatSimulator
) -> None:
    clock = Clock()
    async with make(tokens=f"sqlite:///{tmp_path}/t.db", clock=clock) as auth:
        await auth.ban("bob", 60, "spam")
        clock.now += 30
        with pytest.raises(BannedError):
            await auth.authorize(wx.login("bob", "union-bob"))
        clock.now += 30
        assert await auth.ban_of("union-bob") is None
        assert await auth.is_token_valid((await auth.authorize(wx.login("bob"))).response)


async def test_the_stricter_ban_of_two_persons_who_are_one_holds(
    auth: MPAuthX, game: MPAuthX, wx: WeChatSimulator, tokens: str
) -> None:
    await play(game, wx)
    await auth.authorize(wx.login("bob", "union-bob"))
    await auth.ban("bob", 60, "rude")
    await auth.ban("bob-game", None, "spam")
    with pytest.raises(BannedError, match="permanently: spam"):
        await play(game, wx, "union-bob")
    ids = ("bob", "bob-game", "union-bob")
    bans = await bans_in_store(tokens, *ids)
    assert [ban and ban.reason for ban in bans] == ["rude", "spam", "rude"]
    found = [await auth.ban_of(user_id) for user_id in ids]
    assert [ban and ban.reason for ban in found] == ["spam"] * 3
    await auth.forget_user("bob")
    bans = await bans_in_store(tokens, *ids)
    assert [ban and (ban.reason, ban.until) for ban in bans] == [("spam", None)] * 3


async def test_a_copied_ban_emits_an_event_for_the_sessions_it_ends(
    auth: MPAuthX, game: MPAuthX, wx: WeChatSimulator
) -> None:
    heard = hear(game)
    early = await play(game, wx)
    await auth.authorize(wx.login("bob", "union-bob"))
    await auth.ban("union-bob", reason="spam")
    with pytest.raises(BannedError):
        await play(game, wx, "union-bob")
    assert await game.token_status(early.response) is TokenStatus.banned
    await game.close()
    (event,) = of_kind(heard, Banned)
    assert (event.ban.user_id, event.ban.reason, event.ended) == ("bob-game", "spam", 1)


class FailingBan(MemoryTokens):
    """A store that cannot ban one user."""

    async def ban(self, subject: Subject, *, reason: str, ttl: int | None) -> int:
        if subject.user_id == "union-bob":
            raise StoreError("The store is out of order.")
        return await super().ban(subject, reason=reason, ttl=ttl)


async def test_a_failing_ban_copy_fails_its_login_alone(make: Make, wx: WeChatSimulator) -> None:
    async with make(users=MemoryUsers(), tokens=FailingBan()) as auth:
        await auth.ban("bob", reason="spam")
        await auth.ban("eve", reason="theft")
        codes = [wx.login(name, f"union-{name}") for name in ("bob", "eve", "amy")]
        bob, eve, amy = await asyncio.gather(*map(auth.authorize, codes), return_exceptions=True)
        assert isinstance(bob, StoreError)
        assert isinstance(eve, BannedError)
        assert isinstance(amy, AuthResult)
        assert await auth.sessions("union-bob") == []


# A ban and a login at the same time


async def test_a_login_that_races_with_a_ban_gets_no_token(
    make: Make, tokens: str, wx: WeChatSimulator
) -> None:
    async with store_of(tokens) as store, make(tokens=tokens) as admin:
        gated: Any = Gated(store, "issue")
        async with make(tokens=gated) as auth:
            await admin.authorize(wx.login("bob"))
            login = asyncio.create_task(auth.authorize(wx.login("bob", "union-bob")))
            await gated.reached.wait()  # the ids are linked, and no ban was found
            await admin.ban("bob", reason="spam")
            gated.gate.set()
            with pytest.raises(BannedError, match="spam"):
                await login


async def test_a_ban_concurrent_with_a_link_bans_the_new_id(
    make: Make, tokens: str, tmp_path: Path, wx: WeChatSimulator
) -> None:
    async with store_of(tokens) as store, make(tokens=tokens) as auth:
        gated: Any = Gated(store, "ban")
        async with make(tokens=gated) as admin:
            await auth.authorize(wx.login("bob"))
            ban = asyncio.create_task(admin.ban("bob", reason="spam"))
            await gated.reached.wait()  # the ids are read: the openId alone
            late = await auth.authorize(wx.login("bob", "union-bob"))
            assert await auth.is_token_valid(late.response)
            gated.gate.set()
            assert await ban == 2
    assert not await is_alive(tokens, late)


async def is_alive(tokens: str, result: AuthResult) -> bool:
    async with store_of(tokens) as store:
        (end,) = await store.lookup([result.session.ref])
    return end is not None and end > 0


async def test_a_ban_lifted_while_it_is_copied_is_lifted_for_all_ids(
    make: Make, tokens: str, wx: WeChatSimulator
) -> None:
    async with store_of(tokens) as store, make(tokens=tokens) as admin:
        gated: Any = Gated(store, "ban")
        async with make(tokens=gated) as auth:
            await admin.ban("bob", reason="spam")
            login = asyncio.create_task(auth.authorize(wx.login("bob", "union-bob")))
            await gated.reached.wait()
            assert await admin.unban("bob")
            gated.gate.set()
            with pytest.raises(BannedError):
                await login
            assert await admin.ban_of("union-bob") is None
            await auth.authorize(wx.login("bob", "union-bob"))


async def test_a_ban_that_logins_copy_while_it_is_lifted_ends_within_a_minute(
    make: Make, wx: WeChatSimulator, tmp_path: Path
) -> None:
    clock, path = Clock(), tmp_path / "tokens.db"
    async with (
        SqliteTokenStore(path, clock=clock) as store,
        make(tokens=f"sqlite:///{path}", clock=clock) as auth,
    ):
        await auth.authorize(wx.login("bob", "union-bob"))
        await auth.ban("bob", reason="spam")
        for lifted in ("union-bob", "bob"):  # as `unban` does, one after the other
            assert await store.unban(Subject("shop", lifted))
            with pytest.raises(BannedError, match="spam"):
                await auth.authorize(wx.login("bob", "union-bob"))
            clock.now += 30
        assert await auth.ban_of("bob") is None
        await auth.authorize(wx.login("bob", "union-bob"))


async def test_an_app_without_union_ids_asks_for_no_bans_and_no_earlier_ids(
    make: Make, tmp_path: Path, wx: WeChatSimulator
) -> None:
    asked: list[str] = []

    class Asked(MemoryTokens):
        async def bans(self, subjects: Sequence[Subject]) -> Sequence[Ban | None]:
            asked.append("bans")
            return await super().bans(subjects)

    class AskedUsers(MemoryUsers):
        async def get(self, user_ids: Sequence[str]) -> Sequence[User | None]:
            asked.append("get")
            return await super().get(user_ids)

    async with make(users=AskedUsers(), tokens=Asked()) as auth:
        hear(auth)
        await auth.authorize(wx.login("bob"))
        assert asked == []
        await auth.authorize(wx.login("eve", "union-eve"))
        assert asked == ["get", "bans"]
