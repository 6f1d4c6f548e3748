"""ActiveSessions: lists and ends the sessions of users, and tells who is online."""

import asyncio
from collections.abc import Sequence

from ..errors import InvalidTokenError, MPAuthXError, ParameterError
from ..events import Revoked
from ..models import OnlinePage, Session, SessionRef, Subject
from ..shared_parts import Parts
from ..tokens.format import is_nonce
from .linked_ids import LinkedIds
from .token_validation import TokenValidator

__all__ = ["ActiveSessions"]

_MAX_PAGE = 1000  # users


class ActiveSessions:
    """Lists and ends sessions."""

    def __init__(self, parts: Parts, linked_ids: LinkedIds, validator: TokenValidator) -> None:
        tokens, events = parts.tokens, parts.events
        self._parts = parts
        self._sku = parts.settings.sku
        self._linked_ids = linked_ids
        self._validator = validator
        self._reads = parts.batched(events.watched("read", tokens.read))
        self._lists = parts.batched(self._list_all, subjects_of=lambda subject: (subject,))
        self._revocations = parts.batched(events.watched("revoke", tokens.revoke))

    async def find(self, token: object) -> Session | None:
        """Read the session of a token; None if the token is not valid."""
        try:
            ref = await self._validator.session_of(token)
        except InvalidTokenError:
            return None
        return await self._reads.submit(ref)

    async def of_user(self, user_id: str) -> list[Session]:
        """List the living sessions of a user, newest first."""
        found: list[Session] = []
        for subject in await self._linked_ids.find(user_id):
            with self._parts.events.store_failures("sessions"):
                found += await self._lists.submit(subject)
        return sorted(found, key=lambda session: session.issued_at, reverse=True)

    async def revoke(self, token: object) -> bool:
        """End the session of a token; False if it was not alive."""
        ref = self._parts.signer.verify(token)
        return ref is not None and await self._end(ref)

    async def revoke_session(self, user_id: str, session_id: str) -> bool:
        """End one of a user's sessions; False if they have no living session of this id."""
        if not isinstance(session_id, str) or not session_id:
            raise ParameterError("session_id is required, as a Session has it.")
        for subject in await self._linked_ids.find(user_id):
            # The store ends a session for its own user only.
            if is_nonce(session_id) and await self._end(SessionRef(*subject, session_id)):
                return True
        return False

    async def revoke_user(self, user_id: str, except_token: object = None) -> int:
        """End the sessions of a user but for that of a token; returns how many were alive."""
        subjects = await self._linked_ids.find(user_id)
        spared = None
        if except_token is not None:
            spared = self._parts.signer.verify(except_token)
            if spared is None or spared.subject not in subjects:
                raise ParameterError("except_token must be a token of this user.")
        ended = 0
        try:
            for subject in subjects:
                nonce = spared.nonce if spared and spared.subject == subject else None
                with self._parts.events.store_failures("revoke_subject"):
                    ended += await self._parts.tokens.revoke_subject(subject, spared=nonce)
        finally:  # what was ended stays ended, if another of their ids fails
            if ended:
                self._parts.events.emit(Revoked(self._sku, user_id, None, ended))
        return ended

    async def online(self, cursor: str | None, limit: int) -> OnlinePage:
        """Page through the users with a living session."""
        if type(limit) is not int or not 1 <= limit <= _MAX_PAGE:
            raise ParameterError(f"limit must be a whole number from 1 to {_MAX_PAGE}.")
        with self._parts.events.store_failures("online"):
            return await self._parts.tokens.online(self._sku, cursor=cursor, limit=limit)

    async def online_count(self) -> int:
        """Count the users with a living session."""
        with self._parts.events.store_failures("online_count"):
            return await self._parts.tokens.online_count(self._sku)

    async def _end(self, ref: SessionRef) -> bool:
        ended = await self._revocations.submit(ref)
        if ended:
            self._parts.events.emit(Revoked(ref.sku, ref.user_id, ref.nonce, 1))
        return ended

    async def _list_all(self, subjects: Sequence[Subject]) -> list[Sequence[Session] | Exception]:
        async def list_one(subject: Subject) -> Sequence[Session] | Exception:
            try:
                return await self._parts.tokens.sessions(subject)
            except MPAuthXError as error:
                return error

        return await asyncio.gather(*map(list_one, subjects))
