"""The clients: they call all services at once, and note each call and its outcome."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

from mpauthx_async import AuthResult, MPAuthX, WeChatSimulator
from mpauthx_async.errors import (
    BannedError,
    InvalidTokenError,
    OverloadedError,
    RefusedError,
    UnavailableError,
    UserNotFoundError,
)
from tests.chaos.oracle import Call, Issued, Kind, Outcome, Token

__all__ = ["Person", "Service", "Workload"]

_CLIENTS = 12
_MAX_LOGINS = 80  # of a person, because a hundred-and-first session would replace the first
_WEIGHTS = {
    Kind.USE: 50,
    Kind.LOGIN: 14,
    Kind.ROTATE: 8,
    Kind.REVOKE: 4,
    Kind.REVOKE_USER: 1,
    Kind.REFRESH: 1,
    Kind.BAN: 1,
    Kind.UNBAN: 4,
    Kind.FORGET: 1,
    Kind.SESSIONS: 4,
    Kind.ONLINE: 1,
}


@dataclass
class Service:
    """A service of an app, in which the same persons have other openIds than in the other app."""

    name: str
    auth: MPAuthX
    app: str


@dataclass
class Person:
    """A person.

    Attributes:
        union_id: in all apps; None if they have none, and then use the first app alone.
        has_union: whether WeChat tells it yet.
        is_linked: whether a login has told it, so that the other app may be used.
        logging_in: how many logins are under way without the unionId.
        tokens: all that they were given, each with its app, the newest last.
    """

    number: int
    union_id: str | None
    has_union: bool
    is_linked: bool = False
    logging_in: int = 0
    logins: int = 0
    version: int = 0
    is_known: bool = False
    is_banned: bool = False
    tokens: list[tuple[str, Token, str]] = field(default_factory=list)

    def open_id(self, app: str) -> str:
        return f"{app[-4:]}-open-{self.number}"

    def user_id(self, app: str) -> str:
        return self.union_id if self.union_id and self.is_linked else self.open_id(app)


class Workload:
    """Clients of some services, of which the first is of the first app.

    Attributes:
        calls: the history.
        errors: what no public call may raise.
        answered: how many calls had a known outcome.
    """

    def __init__(self, services: Sequence[Service], wx: WeChatSimulator, random: Random) -> None:
        self._services, self._wx, self._random = services, wx, random
        self._first_app = services[0].app
        self.persons: list[Person] = []
        self.calls: list[Call] = []
        self.errors: list[str] = []
        self.answered = 0
        self._is_over = False

    async def run(self) -> None:
        """Call until `stop`."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_CLIENTS):
                group.create_task(self._client())

    def stop(self) -> None:
        self._is_over = True

    async def until_calls(self, number: int) -> None:
        """Wait for so many more calls that were answered."""
        target = self.answered + number
        while self.answered < target:  # noqa: ASYNC110 (calls end in many places)
            await asyncio.sleep(0.01)

    async def finish(self, patience: float) -> None:
        """After the faults: everything works again, and each living token is accepted."""
        for service in self._services:
            deadline = time.monotonic() + patience
            while not await self._works(service):
                if time.monotonic() > deadline:
                    self.errors.append(f"{service.name} does not work again in {patience} s.")
                    return
        for person in self.persons:
            for text, token, app in person.tokens[-4:]:
                for service in self._of(app):
                    await self._with_token(Kind.USE, person, service, text, token)
            await self._simple(person, self._random.choice(self._services), Kind.SESSIONS)
        await self._online(self._services[0])

    async def _works(self, service: Service) -> bool:
        person = self._new_person(union=True)
        person.has_union = True
        login = await self._login(person, service)
        if login.outcome is not Outcome.DONE:
            return False
        text, token, _ = person.tokens[-1]
        used = await self._with_token(Kind.USE, person, service, text, token)
        return used.outcome is not Outcome.UNKNOWN

    async def _client(self) -> None:
        kinds, weights = list(_WEIGHTS), list(_WEIGHTS.values())
        while not self._is_over:
            (kind,) = self._random.choices(kinds, weights)
            service = self._random.choice(self._services)
            await self._act(kind, service)
            await asyncio.sleep(self._random.uniform(0, 0.02))

    async def _act(self, kind: Kind, service: Service) -> None:
        if kind is Kind.ONLINE:
            await self._online(service)
            return
        if kind is Kind.LOGIN and (not self.persons or self._random.random() < 0.3):
            person = self._new_person(union=self._random.random() < 0.7)
        elif self.persons:
            person = self._random.choice(self.persons[-40:])
        else:
            return
        if kind is Kind.LOGIN:
            has_id = person.is_linked or service.app == self._first_app
            if has_id and person.logins < _MAX_LOGINS:
                await self._login(person, service)
        elif kind in (Kind.USE, Kind.ROTATE, Kind.REVOKE):
            if person.tokens:
                # Mostly the newest: an older one of a session is a sign of theft.
                newest = self._random.random() < 0.7
                chosen = person.tokens[-1] if newest else self._random.choice(person.tokens)
                text, token, app = chosen
                service = self._random.choice(self._of(app))
                await self._with_token(kind, person, service, text, token)
        elif person.is_known:
            await self._simple(person, service, kind)

    def _of(self, app: str) -> list[Service]:
        return [service for service in self._services if service.app == app]

    def _new_person(self, *, union: bool) -> Person:
        number = len(self.persons)
        # A third of those with a unionId get it after they have logged in without.
        has_union = union and self._random.random() < 0.67
        self.persons.append(Person(number, f"union-{number}" if union else None, has_union))
        return self.persons[-1]

    async def _login(self, person: Person, service: Service) -> Call:
        if person.union_id and not person.has_union and person.is_known and not person.logging_in:
            person.has_union = True
        union_id = person.union_id if person.has_union else None
        app, wx = service.app, self._wx
        open_id = person.open_id(app)
        person.logins += 1
        code = wx.login(open_id, union_id, app_id=app)
        sealed: tuple[str | None, str | None] = (None, None)
        version = None
        if self._random.random() < 0.4:
            person.version += 1
            version = person.version
            wx.set_profile(open_id, app_id=app, nickName=f"v{version}")
            info = wx.get_user_info(open_id, app_id=app)
            sealed = (info.encrypted_data, info.iv)
        person.logging_in += union_id is None
        try:
            work = partial(service.auth.authorize, code, *sealed)
            call = await self._note(Kind.LOGIN, person, service, work, version=version)
        finally:
            person.logging_in -= union_id is None
        if call.outcome is Outcome.DONE:
            person.is_known = True
            person.is_linked = person.is_linked or union_id is not None
        return call

    async def _with_token(
        self, kind: Kind, person: Person, service: Service, text: str, token: Token
    ) -> Call:
        auth = service.auth
        use = auth.is_token_valid if self._random.random() < 0.5 else auth.authenticate
        calls: dict[Kind, Callable[[str], Awaitable[Any]]] = {
            Kind.USE: use,
            Kind.ROTATE: auth.rotate,
            Kind.REVOKE: auth.revoke,
        }
        return await self._note(kind, person, service, partial(calls[kind], text), token=token)

    async def _simple(self, person: Person, service: Service, kind: Kind) -> None:
        auth, user_id = service.auth, person.user_id(self._first_app)
        calls: dict[Kind, Callable[[str], Awaitable[Any]]] = {
            Kind.SESSIONS: auth.sessions,
            Kind.REVOKE_USER: auth.revoke_user,
            Kind.REFRESH: auth.refresh_token,
            Kind.BAN: auth.ban,
            Kind.UNBAN: auth.unban,
            Kind.FORGET: auth.forget_user,
        }
        if kind is Kind.UNBAN and not person.is_banned:
            return
        if kind is Kind.BAN:
            person.is_banned = True
        call = await self._note(kind, person, service, partial(calls[kind], user_id))
        if kind is Kind.UNBAN and call.outcome is Outcome.DONE:
            person.is_banned = False

    async def _online(self, service: Service) -> None:
        async def all_pages() -> list[str]:
            page = await service.auth.online(limit=1000)
            found = list(page.user_ids)
            while page.cursor is not None:
                page = await service.auth.online(page.cursor, limit=1000)
                found += page.user_ids
            return found

        await self._note(Kind.ONLINE, None, service, all_pages)

    async def _note(
        self,
        kind: Kind,
        person: Person | None,
        service: Service,
        work: Callable[[], Awaitable[Any]],
        *,
        token: Token | None = None,
        version: int | None = None,
    ) -> Call:
        begin = time.monotonic()
        answer: Any = None
        try:
            answer = await work()
            outcome = Outcome.INVALID if answer is False and kind is Kind.USE else Outcome.DONE
        except Exception as error:  # noqa: BLE001 (what no call may raise is to be reported)
            outcome = self._outcome_of(error, kind, service)
        call = Call(
            kind,
            -1 if person is None else person.number,
            begin,
            time.monotonic(),
            outcome,
            token,
            version=version,
            service=service.name,
        )
        if isinstance(answer, AuthResult) and person is not None:
            ref = answer.session.ref
            call.issued = Issued(Token(ref.nonce, ref.generation), answer.is_new_user)
            person.tokens.append((answer.response, call.issued.token, service.app))
        elif kind is Kind.SESSIONS and answer is not None:
            call.seen = frozenset(session.ref.nonce for session in answer)
        elif kind is Kind.ONLINE and answer is not None:
            call.seen = frozenset(int(user_id.rpartition("-")[2]) for user_id in answer)
        self.calls.append(call)
        self.answered += outcome is not Outcome.UNKNOWN
        return call

    def _outcome_of(self, error: Exception, kind: Kind, service: Service) -> Outcome:
        if isinstance(error, InvalidTokenError):
            return Outcome.INVALID
        if isinstance(error, BannedError):
            return Outcome.BANNED
        if isinstance(error, UserNotFoundError):
            return Outcome.NOT_FOUND
        if isinstance(error, (RefusedError, OverloadedError)):
            return Outcome.REFUSED
        if not isinstance(error, UnavailableError):
            self.errors.append(f"{service.name}.{kind.value} raised {error!r}")
        return Outcome.UNKNOWN
