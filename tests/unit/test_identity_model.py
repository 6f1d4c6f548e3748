"""Seeded walks over logins through three apps, beside a model of which ids are one person."""

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from redis.asyncio import Redis

from mpauthx_async import (
    AuthResult,
    BannedError,
    MPAuthX,
    UserNotFoundError,
    WeChatOAuth,
    WeChatSimulator,
)
from tests.helpers.redis_server import RedisServer

GAME, WEB = "wxgame", "wxweb"
SECRET = "secret-secret-secret-secret"
PEOPLE = 3
STEPS = 60
Services = dict[str, MPAuthX]  # by the app whose codes they take


@dataclass(eq=False)
class Person:
    """What the model knows of a person: ids, each openId with the service that owns its app."""

    ids: set[str] = field(default_factory=set)
    id: str = ""
    owners: dict[str, MPAuthX] = field(default_factory=dict)


@dataclass(frozen=True)
class Token:
    text: str
    session_id: str
    user_id: str
    auth: MPAuthX

    @classmethod
    def of(cls, result: AuthResult, auth: MPAuthX) -> "Token":
        return cls(result.response, result.session.id, result.session.user_id, auth)


class Model:
    """Which ids are one person, who is banned, and whose tokens are good."""

    def __init__(self) -> None:
        self.people: dict[str, Person] = {}
        self.banned: set[str] = set()
        self.good: set[Token] = set()
        self.ended: set[Token] = set()

    def ids_of(self, user_id: str) -> set[str]:
        return self.people[user_id].ids if user_id in self.people else {user_id}

    def log_in(self, open_id: str, union_id: str | None, owner: MPAuthX) -> bool:
        """Link what a login shows; returns whether the user is new."""
        known = [self.people[one] for one in (open_id, union_id) if one and one in self.people]
        person = known[-1] if known else Person(id=open_id)
        for other in known:
            person.ids |= other.ids
            person.owners |= other.owners
        person.ids |= {open_id} | ({union_id} if union_id else set())
        person.id = union_id or person.id
        person.owners.setdefault(open_id, owner)
        self.people |= dict.fromkeys(person.ids, person)
        if person.ids & self.banned:  # then so are those who turned out to be the same person
            self.end(open_id)
            self.banned |= person.ids
        return not known

    def end(self, user_id: str) -> int:
        """End all sessions of a user; returns how many there were."""
        ended = self.tokens_of(user_id)
        self.good -= ended
        self.ended |= ended
        return len(ended)

    def tokens_of(self, user_id: str) -> set[Token]:
        ids = self.ids_of(user_id)
        return {token for token in self.good if token.user_id in ids}

    def forget(self, user_id: str, by: MPAuthX, kept: set[str]) -> bool:
        """Forget a user; `kept` are the ids that the store still links, if another app is."""
        person = self.people.get(user_id)
        ended = self.end(user_id)
        if person is None:
            return ended > 0
        others = {open_id for open_id, owner in person.owners.items() if owner is not by}
        assert others <= kept
        assert bool(kept) == bool(others)
        for gone in person.ids - kept:
            del self.people[gone]
        person.ids = kept
        person.owners = {one: owner for one, owner in person.owners.items() if one in others}
        return True


@pytest.fixture(params=["with", "without"])
def user_table(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """A user table with a unionId column, as ours has it, or without, as mpauthx had it."""
    if request.param == "without":
        with closing(sqlite3.connect(tmp_path / "users.db")) as connection:
            connection.execute("CREATE TABLE user (openId TEXT PRIMARY KEY, nickName TEXT)")


@pytest.fixture(params=["sqlite", "redis"])
async def services(
    request: pytest.FixtureRequest,
    user_table: None,
    wx: WeChatSimulator,
    tmp_path: Path,
    redis: Redis,
    redis_server: RedisServer,
) -> AsyncIterator[Services]:
    """Two services on one store: one of a mini-program and a website, one of a mini-program."""
    sqlite = f"sqlite:///{tmp_path}/tokens.db"
    tokens = sqlite if request.param == "sqlite" else redis_server.url
    async with AsyncExitStack() as stack:
        web = WeChatOAuth(app_id=WEB, app_secret=SECRET, tokens=tokens, api_base=wx.url)

        def service(app_id: str, app_secret: str, web: WeChatOAuth | None) -> MPAuthX:
            return MPAuthX(
                app_id=app_id,
                app_secret=app_secret,
                sku="shop",
                users=f"sqlite:///{tmp_path}/users.db",
                tokens=tokens,
                api_base=wx.url,
                signing_keys=[SECRET],
                web=web,
            )

        await stack.enter_async_context(web)
        shop = await stack.enter_async_context(service(wx.app_id, wx.app_secret, web))
        game = await stack.enter_async_context(service(GAME, SECRET, None))
        yield {wx.app_id: shop, WEB: shop, GAME: game}


@pytest.fixture
async def wx() -> AsyncIterator[WeChatSimulator]:
    async with WeChatSimulator(
        app_id="wxshop", other_apps={GAME: SECRET, WEB: SECRET}, calls_a_minute=None
    ) as simulator:
        yield simulator


class Walk:
    def __init__(self, seed: int, wx: WeChatSimulator, services: Services) -> None:
        self.random = random.Random(seed)
        self.wx = wx
        self.services = services
        self.model = Model()

    async def step(self) -> None:
        steps = [self.log_in] * 8 + [self.ban, self.unban, self.revoke, self.forget, self.refresh]
        await self.random.choice(steps)()
        await self.check()

    async def log_in(self) -> None:
        app_id, number = self.random.choice([*self.services]), self.random.randrange(PEOPLE)
        open_id = f"{app_id}-{number}"
        union_id = self.random.choice([None, None, f"union-{number}", f"union-{number}-new"])
        web = app_id == WEB
        known = self.wx._state.known_user(open_id, app_id)
        if web and union_id is None and known:
            union_id = known.union_id  # the saved OAuth token knows it
        elif known:
            known.union_id = None  # as in an app that is not bound to an Open Platform account
        log_in = self.wx.web_login if web else self.wx.login
        code = log_in(open_id, union_id, app_id=app_id)
        auth = self.services[app_id]
        is_new = self.model.log_in(open_id, union_id, auth)
        person = self.model.people[open_id]
        login = auth.authorize_web(code) if web else auth.authorize(code)
        if person.ids & self.model.banned:
            with pytest.raises(BannedError) as caught:
                await login
            assert caught.value.user_id == person.id
        else:
            result = await login
            assert result.is_new_user == is_new
            assert (result.user.id, set(result.user.ids)) == (person.id, person.ids)
            assert (result.user.open_id, result.user.app_id) == (open_id, app_id)
            assert auth.extract_open_id(result.response) == person.id
            self.model.good.add(Token.of(result, auth))

    async def ban(self) -> None:
        user_id = self.any_id()
        assert await self.any_service().ban(user_id, reason="spam") == self.model.end(user_id)
        self.model.banned |= self.model.ids_of(user_id)

    async def unban(self) -> None:
        user_id = self.random.choice(sorted(self.model.banned) or [self.any_id()])
        ids = self.model.ids_of(user_id)
        assert await self.any_service().unban(user_id) == bool(ids & self.model.banned)
        self.model.banned -= ids

    async def revoke(self) -> None:
        user_id = self.any_id()
        assert await self.any_service().revoke_user(user_id) == self.model.end(user_id)

    async def refresh(self) -> None:
        user_id, auth = self.any_id(), self.any_service()
        person = self.model.people.get(user_id)
        if person is None:
            with pytest.raises(UserNotFoundError):
                await auth.refresh_token(user_id)
        elif person.ids & self.model.banned:
            with pytest.raises(BannedError):
                await auth.refresh_token(user_id)
        else:
            result = await auth.refresh_token(user_id)
            self.model.end(user_id)
            assert auth.extract_open_id(result.response) == person.id
            self.model.good.add(Token.of(result, auth))

    async def forget(self) -> None:
        user_id, auth = self.any_id(), self.any_service()
        lift_ban = self.random.random() < 0.3
        ids = self.model.ids_of(user_id)
        was_known = await auth.forget_user(user_id, lift_ban)
        if lift_ban:
            self.model.banned -= ids
        kept = {one for one in ids if one in self.model.people and await self.ids_in_store(one)}
        assert was_known == self.model.forget(user_id, auth, kept)

    async def check(self) -> None:
        """What holds for every id that was ever seen."""
        auth, model = self.any_service(), self.model

        async def check_user(user_id: str) -> None:
            ids = model.ids_of(user_id)
            expected = ids if user_id in model.people else set()
            assert await self.ids_in_store(user_id) == expected
            found = {session.id for session in await auth.sessions(user_id)}
            assert found == {token.session_id for token in model.tokens_of(user_id)}
            assert bool(ids & model.banned) == (ids <= model.banned)
            assert (await auth.ban_of(user_id) is not None) == (user_id in model.banned)

        async def check_token(token: Token) -> None:
            assert await token.auth.is_token_valid(token.text) == (token in model.good)

        await asyncio.gather(
            *map(check_user, sorted({*model.people, *model.banned})),
            *map(check_token, model.good | model.ended),
        )

    async def ids_in_store(self, user_id: str) -> set[str]:
        (user,) = await self.any_service()._parts.users.get([user_id])
        return set() if user is None else set(user.ids)

    def any_id(self) -> str:
        app_ids = [*self.services, "union"]
        unseen = f"{self.random.choice(app_ids)}-{self.random.randrange(PEOPLE)}"
        return self.random.choice([*sorted(self.model.people), unseen])

    def any_service(self) -> MPAuthX:
        return self.random.choice([*self.services.values()])


@pytest.mark.parametrize("seed", range(4))
async def test_every_id_ever_seen_finds_all_of_a_person(
    seed: int, wx: WeChatSimulator, services: Services
) -> None:
    walk = Walk(seed, wx, services)
    for _ in range(STEPS):
        await walk.step()
