"""Issuer: issues tokens to users, unless they are banned."""

import asyncio
from collections.abc import Sequence
from functools import partial

from ..concurrency.coalescer import answers_of
from ..errors import BannedError, MPAuthXError, StoreError
from ..events import Refreshed, Replaced, Revoked
from ..models import (
    AuthResult,
    Ban,
    CodeSession,
    LoginPolicy,
    NewSession,
    Session,
    SessionRef,
    Subject,
)
from ..sessions.bans import Bans
from ..sessions.session_keys import replace_session_key
from ..shared_parts import Parts
from ..stores import SessionKeyStore
from ..tokens.sealing import with_open_id
from .device import NO_DEVICE
from .pending_logins import Grant, for_successful

__all__ = ["Issuer"]

_SOLE = LoginPolicy(max_sessions=1)


class Issuer:
    """Gives users their tokens."""

    def __init__(self, parts: Parts, bans: Bans) -> None:
        self._parts = parts
        self._settings = parts.settings
        self._tokens = parts.tokens
        self._bans = bans

    async def issue(self, grants: Sequence[Grant]) -> Sequence[AuthResult | Exception]:
        admitted = await self._admit(grants)
        alone = await for_successful(admitted, self._end_others)
        return await for_successful(alone, self._give_tokens)

    async def _admit(self, grants: Sequence[Grant]) -> "list[Grant | Exception]":
        """Refuse users who are banned under any of their ids."""
        refusals = await self._bans.refusals([grant.user for grant in grants])
        return [refused or a for a, refused in zip(grants, refusals, strict=True)]

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
