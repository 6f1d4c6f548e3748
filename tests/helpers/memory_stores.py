"""Stores of one's own, as an application may write them: all that they keep is in memory."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import count

from mpauthx_async import (
    Ban,
    LoginPolicy,
    NewSession,
    OAuthToken,
    OnlinePage,
    Session,
    SessionRef,
    Subject,
    TokenStatus,
    User,
)
from mpauthx_async.stores import merge_profile
from mpauthx_async.stores.online_cursor import OnlineCursor

_REMEMBERED = 30 * 24 * 3_600_000  # milliseconds
_CURSOR_ABOVE_ALL = OnlineCursor(2**62, "")


@dataclass
class _Kept:
    session: Session
    absolute_end: float
    kind: str | None
    status: TokenStatus = TokenStatus.active
    grace_until: int = 0


class MemoryTokens:
    """A TokenStore that keeps no session keys."""

    def __init__(self) -> None:
        self._kept: dict[SessionRef, _Kept] = {}  # by the ref of generation 0, oldest first
        self._bans: dict[Subject, Ban] = {}
        self._came_online: dict[Subject, int] = {}
        self._positions = count(1)

    async def issue(self, sessions: Sequence[NewSession]) -> Sequence[Session | Ban]:
        return [self._begin(new) for new in sessions]

    async def lookup(self, refs: Sequence[SessionRef]) -> Sequence[int | None]:
        return [self._answer(ref) for ref in refs]

    async def read(self, refs: Sequence[SessionRef]) -> Sequence[Session | None]:
        return [
            kept.session if (kept := self._living(ref)) and kept.session.ref == ref else None
            for ref in refs
        ]

    async def revoke(self, refs: Sequence[SessionRef]) -> Sequence[bool]:
        return [self._end(self._living(ref), TokenStatus.revoked) for ref in refs]

    async def sessions(self, subject: Subject) -> Sequence[Session]:
        return [kept.session for kept in reversed(self._of(subject))]

    async def revoke_subject(self, subject: Subject, *, spared: str | None = None) -> int:
        return self._end_all(
            (kept for kept in self._of(subject) if kept.session.id != spared), TokenStatus.revoked
        )

    async def forget_subject(self, subject: Subject) -> int:
        ended = await self.revoke_subject(subject)
        self._kept = {ref: kept for ref, kept in self._kept.items() if ref.subject != subject}
        self._came_online.pop(subject, None)
        return ended

    async def rotate(
        self, refs: Sequence[SessionRef], *, ttl: int, grace: int, absolute_ttl: int | None = None
    ) -> Sequence[Session | TokenStatus]:
        rotated = {ref: self._rotate(ref, ttl, grace, absolute_ttl) for ref in dict.fromkeys(refs)}
        return [rotated[ref] for ref in refs]

    async def end_reused(self, refs: Sequence[SessionRef]) -> Sequence[bool]:
        return [
            self._answer(ref) == TokenStatus.rotated
            and not self._is_in_grace(ref)
            and self._end(self._living(ref), TokenStatus.reused)
            for ref in refs
        ]

    async def renew(
        self, refs: Sequence[SessionRef], *, ttl: int, absolute_ttl: int | None = None
    ) -> Sequence[int | None]:
        for ref in refs:
            kept, end = self._living(ref), self._answer(ref)
            if kept and kept.absolute_end == math.inf and absolute_ttl is not None:
                kept.absolute_end = kept.session.issued_at + absolute_ttl
            if kept and end and 0 < end <= _now() + 0.9 * ttl and end < _end(kept, ttl):
                _live_on(kept, ttl)
        return [self._answer(ref) for ref in refs]

    async def ban(self, subject: Subject, *, reason: str, ttl: int | None) -> int:
        now = _now()
        self._bans[subject] = Ban(subject.user_id, reason, now, None if ttl is None else now + ttl)
        return self._end_all(self._of(subject), TokenStatus.banned)

    async def unban(self, subject: Subject) -> bool:
        was_banned = await self.bans([subject]) != [None]
        self._bans.pop(subject, None)
        return was_banned

    async def bans(self, subjects: Sequence[Subject]) -> Sequence[Ban | None]:
        bans = [self._bans.get(subject) for subject in subjects]
        return [ban if ban and (ban.until or math.inf) > _now() else None for ban in bans]

    async def online(self, sku: str, *, cursor: str | None, limit: int) -> OnlinePage:
        after = _CURSOR_ABOVE_ALL if cursor is None else OnlineCursor.parse(cursor)
        users = sorted((user for user in self._online(sku) if user < after), reverse=True)
        page = users[:limit]
        is_last = len(page) == len(users)
        return OnlinePage([user.user_id for user in page], None if is_last else page[-1].text())

    async def online_count(self, sku: str) -> int:
        return len(self._online(sku))

    def _begin(self, new: NewSession) -> Session | Ban:
        subject, now = new.ref.subject, _now()
        ban = self._bans.get(subject)
        if ban and (ban.until is None or ban.until > now):
            return ban
        known = self._find(new.ref)
        if known is not None:
            return known.session
        living = self._of(subject)
        if new.policy.shared_token and living:
            _live_on(living[-1], new.ttl)
            return living[-1].session
        kind = new.device_kind or new.device
        replaced = _replaced_by(new.policy, kind, living)
        self._end_all(replaced, TokenStatus.replaced)
        absolute_end = float("inf") if new.absolute_ttl is None else now + new.absolute_ttl
        end = int(min(now + new.ttl, absolute_end))
        session = Session(new.ref, now, end, new.device, new.device_kind)
        self._kept[new.ref] = _Kept(session, absolute_end, kind)
        if not living:
            self._came_online[subject] = next(self._positions)
        return replace(session, replaced=tuple(kept.session.ref for kept in replaced))

    def _find(self, ref: SessionRef) -> _Kept | None:
        kept = self._kept.get(ref._replace(generation=0))
        return kept if kept and kept.session.expires_at > _now() else None

    def _living(self, ref: SessionRef) -> _Kept | None:
        kept = self._find(ref)
        return kept if kept and kept.status == TokenStatus.active else None

    def _of(self, subject: Subject) -> list[_Kept]:
        refs = [ref for ref in self._kept if ref.subject == subject]
        return [kept for ref in refs if (kept := self._living(ref))]

    def _answer(self, ref: SessionRef) -> int | None:
        kept = self._find(ref)
        if kept is None or ref.generation > kept.session.ref.generation:
            return None
        if kept.status != TokenStatus.active:
            return kept.status
        is_current = ref.generation == kept.session.ref.generation
        return kept.session.expires_at if is_current else TokenStatus.rotated

    def _is_in_grace(self, ref: SessionRef) -> bool:
        kept = self._living(ref)
        return (
            kept is not None
            and ref.generation == kept.session.ref.generation - 1
            and _now() < kept.grace_until
        )

    def _rotate(
        self, ref: SessionRef, ttl: int, grace: int, absolute_ttl: int | None
    ) -> Session | TokenStatus:
        kept, answer = self._living(ref), self._answer(ref)
        if kept is None or answer is None:
            return TokenStatus(answer or 0)
        if answer < 0:
            return kept.session if self._is_in_grace(ref) else TokenStatus(answer)
        if kept.absolute_end == math.inf and absolute_ttl is not None:
            most = max(kept.session.issued_at + absolute_ttl, answer) - _now()
            ttl = min(ttl, most)
        _live_on(kept, ttl)
        kept.session = replace(kept.session, ref=ref._replace(generation=ref.generation + 1))
        kept.grace_until = _now() + grace
        return kept.session

    def _end(self, kept: _Kept | None, status: TokenStatus) -> bool:
        if kept is None:
            return False
        until = min(kept.session.expires_at, _now() + _REMEMBERED)
        kept.status, kept.session = status, replace(kept.session, expires_at=until)
        return True

    def _end_all(self, all_kept: Iterable[_Kept], status: TokenStatus) -> int:
        return sum(self._end(kept, status) for kept in list(all_kept))

    def _online(self, sku: str) -> list[OnlineCursor]:
        subjects = {ref.subject for ref in self._kept if ref.sku == sku and self._living(ref)}
        return [OnlineCursor(self._came_online[subject], subject.user_id) for subject in subjects]


@dataclass(eq=False)
class _Person:
    user: User
    apps: dict[tuple[str, bool], str | None]  # by id: its text, and whether it is a unionId


class MemoryUsers:
    """The least that a UserStore can be."""

    def __init__(self) -> None:
        self._people: dict[tuple[str, bool], _Person] = {}

    async def save(self, users: Sequence[User]) -> Sequence[bool]:
        return [self._save(user) for user in users]

    async def get(self, user_ids: Sequence[str]) -> Sequence[User | None]:
        return [person and self._user(person) for person in map(self._find, user_ids)]

    async def forget(self, user_id: str, *, app_ids: Collection[str]) -> bool:
        person = self._find(user_id)
        if person is None:
            return False
        others = {id_ for id_, app_id in person.apps.items() if app_id and app_id not in app_ids}
        for id_ in person.apps.keys() - others:
            if not (others and id_[1]):
                del self._people[id_], person.apps[id_]
        return True

    async def clear(self, user_id: str, fields: Collection[str]) -> bool:
        person = self._find(user_id)
        if person is None:
            return False
        person.user = replace(person.user, **dict.fromkeys(fields), updated_at=_now())
        return True

    def _save(self, user: User) -> bool:
        ids = [(user.open_id, False)] + ([(user.union_id, True)] if user.union_id else [])
        known = [person for id_ in ids if (person := self._people.get(id_))]
        is_new = not known
        if is_new:
            now = _now()
            known = [_Person(replace(user, created_at=now, updated_at=now), {})]
        person = known[-1]
        if known[0] is not person:
            person.apps |= known[0].apps
            person.user = replace(
                merge_profile(known[0].user, person.user), open_id=person.user.open_id
            )
        person.apps.setdefault(ids[0])
        person.apps[ids[0]] = person.apps[ids[0]] or user.app_id
        person.apps |= dict.fromkeys(ids[1:])
        self._people |= dict.fromkeys(person.apps, person)
        newer = merge_profile(person.user, user)
        if newer != person.user:
            person.user = replace(newer, updated_at=_now())
        return is_new

    def _find(self, user_id: str) -> _Person | None:
        return self._people.get((user_id, True)) or self._people.get((user_id, False))

    def _user(self, person: _Person) -> User:
        user, texts = person.user, {text for text, _ in person.apps}
        return replace(
            user,
            app_id=person.apps.get((user.open_id, False)),
            linked_ids=tuple(sorted(texts - {user.open_id, user.union_id})),
        )


def _now() -> int:
    return time.time_ns() // 1_000_000


def _live_on(kept: _Kept, ttl: int) -> None:
    now = _now()
    kept.session = replace(kept.session, expires_at=_end(kept, ttl), last_seen=now)


def _end(kept: _Kept, ttl: int) -> int:
    return int(min(_now() + ttl, kept.absolute_end))


def _replaced_by(policy: LoginPolicy, kind: str | None, living: list[_Kept]) -> list[_Kept]:
    same = [kept for kept in living if policy.one_per_kind and kept.kind == kind]
    others = [kept for kept in living if kept not in same]
    return same + others[: max(0, len(others) - policy.max_sessions + 1)]


class DictOAuthTokenStore:
    """The least that passes: what somebody who writes a store of their own begins with."""

    def __init__(self) -> None:
        self._tokens: dict[str, OAuthToken] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._spent: set[str] = set()

    async def get(self, open_id: str) -> OAuthToken | None:
        return self._tokens.get(open_id)

    async def save(self, open_id: str, token: OAuthToken) -> None:
        self._tokens[open_id] = token

    async def delete(self, open_id: str) -> None:
        self._tokens.pop(open_id, None)

    @asynccontextmanager
    async def lock(self, open_id: str) -> AsyncIterator[None]:
        async with self._locks.setdefault(open_id, asyncio.Lock()):
            yield

    async def spend_state(self, nonce: str, ttl: float) -> bool:
        is_new = nonce not in self._spent
        self._spent.add(nonce)
        return is_new
