"""Issuer: saves the users of logins, and issues them tokens unless they are banned."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from ..concurrency.coalescer import answers_of
from ..errors import BannedError, MPAuthXError, StoreError
from ..events import Refreshed, Replaced, Revoked, UserLinked
from ..models import (
    AuthResult,
    Ban,
    CodeSession,
    LoginPolicy,
    NewSession,
    Session,
    SessionRef,
    Subject,
    User,
)
from ..sessions.bans import Bans
from ..sessions.session_keys import replace_session_key
from ..shared_parts import Parts
from ..stores import SessionKeyStore
from ..tokens.sealing import with_open_id
from .device import NO_DEVICE
from .pending_logins import Grant, completed, for_successful

__all__ = ["Issuer"]

_SOLE = LoginPolicy(max_sessions=1)


class Issuer:
    """Saves users, and issues their tokens."""

    def __init__(self, parts: Parts, bans: Bans) -> None:
        self._parts = parts
        self._settings = parts.settings
        self._users = parts.users
        self._tokens = parts.tokens
        self._bans = bans
        self._records: dict[object, list[User]] = {}  # of whoever records users now

    async def save(self, grants: Sequence[Grant | Exception]) -> list[Grant | Exception]:
        """Save the users and mark the new ones; those who are known get their stored profiles."""
        return await for_successful(await for_successful(grants, self._save), self._complete)

    async def _save(self, grants: Sequence[Grant]) -> list[Grant | Exception]:
        earlier_ids = await self._earlier_ids(grants) if self._parts.events.has_listeners else {}
        answers = await answers_of(self._users.save([grant.user for grant in grants]))
        saved: list[Grant | Exception] = []
        for grant, is_new in zip(grants, answers, strict=True):
            if isinstance(is_new, StoreError):
                saved.append(is_new)
                continue
            grant.is_new = is_new
            saved.append(grant)
            for old_id in earlier_ids.pop(grant.user.id, ()):
                self._parts.events.emit(UserLinked(self._settings.sku, old_id, grant.user.id))
        return saved

    async def _complete(self, grants: Sequence[Grant]) -> list[Grant | Exception]:
        """Give known users their stored profiles, under this app's openIds."""
        known = [grant.user.id for grant in grants if not grant.is_new]
        found = iter(await answers_of(self._users.get(known)) if known else ())
        return [grant if grant.is_new else completed(grant, next(found)) for grant in grants]

    async def _earlier_ids(self, grants: Sequence[Grant]) -> dict[str, list[str]]:
        """The ids that users had before WeChat gave them a unionId, by that unionId."""
        new_ids = {a.user.open_id: a.user.union_id for a in grants if a.user.union_id}
        known = await answers_of(self._users.get(list(new_ids))) if new_ids else []
        earlier_ids: dict[str, list[str]] = {}
        for user, new_id in zip(known, new_ids.values(), strict=True):
            if isinstance(user, User) and user.id != new_id:
                earlier_ids.setdefault(new_id, []).append(user.id)
        return earlier_ids

    @contextmanager
    def recorded(self) -> Iterator[list[User]]:
        """Record, until left, the users of grants that are issued or refused."""
        key, users = object(), list[User]()
        self._records[key] = users
        try:
            yield users
        finally:
            del self._records[key]

    async def issue(self, grants: Sequence[Grant]) -> Sequence[AuthResult | Exception]:
        """Issue tokens to users who are not banned under any of their ids."""
        for users in self._records.values():
            users += [grant.user for grant in grants]
        refusals = await self._bans.refusals([grant.user for grant in grants])
        admitted = [refused or a for a, refused in zip(grants, refusals, strict=True)]
        alone = await for_successful(admitted, self._end_others)
        return await for_successful(alone, self._give_tokens)

    async def _end_others(self, grants: Sequence[Grant]) -> "Sequence[Grant | Exception]":
        """End the sessions under the other ids of users who refresh: that leaves one token."""
        if all(grant.login for grant in grants):
            return grants
        return await asyncio.gather(*map(self._end_other, grants))

    async def _end_other(self, grant: "Grant") -> "Grant | Exception":
        if grant.login is not None:
            return grant
        try:
            for user_id in grant.user.ids[1:]:
                ended = await self._tokens.revoke_subject(Subject(self._settings.sku, user_id))
                if ended:
                    self._parts.events.emit(Revoked(self._settings.sku, user_id, None, ended))
        except MPAuthXError as error:
            return error
        return grant

    async def _give_tokens(self, grants: Sequence[Grant]) -> list[AuthResult | Exception]:
        sessions = await answers_of(self._tokens.issue([self._new_session(a) for a in grants]))
        results = [
            self._result(grant, session) for grant, session in zip(grants, sessions, strict=True)
        ]
        if self._settings.policy.shared_token and isinstance(self._tokens, SessionKeyStore):
            keep = partial(self._keep_session_key, self._tokens)
            return list(await asyncio.gather(*map(keep, grants, results)))
        return results

    def _new_session(self, grant: "Grant") -> NewSession:
        user_id, open_id = grant.user.id, grant.user.open_id
        sealed_key, login = grant.sealed_key, grant.login
        if sealed_key is not None:
            sealed_key = with_open_id(sealed_key, open_id, user_id)
        device, kind = NO_DEVICE if login is None else login.device
        return NewSession(
            SessionRef(self._settings.sku, user_id, grant.nonce),
            self._settings.token_ttl_ms,
            _SOLE if login is None else self._settings.policy,
            sealed_key,
            device,
            kind,
            self._settings.absolute_ttl_ms,
        )

    def _result(
        self, grant: "Grant", session: Session | Ban | StoreError
    ) -> AuthResult | Exception:
        if isinstance(session, StoreError):
            return session
        if isinstance(session, Ban):
            return BannedError(session.user_id, session.reason, session.until)
        for ref in session.replaced:
            self._parts.events.emit(Replaced(ref, session))
        if grant.login is None:
            self._parts.events.emit(Refreshed(session))
        token = self._parts.signer.mint(grant.user.id, session.ref.nonce, session.ref.generation)
        return AuthResult(1, "OK", token, grant.user, session, grant.is_new)

    async def _keep_session_key(
        self, store: SessionKeyStore, grant: "Grant", result: AuthResult | Exception
    ) -> AuthResult | Exception:
        """Give a session that lived already the session key of a login that shares it."""
        exchanged = grant.login and grant.login.exchanged
        if (
            isinstance(result, AuthResult)
            and result.session.ref.nonce != grant.nonce
            and isinstance(exchanged, CodeSession)
            and grant.sealed_key is not None
        ):
            try:
                await replace_session_key(self._parts.sealer, store, result.session.ref, exchanged)
            except MPAuthXError as error:
                return error
        return result
