"""Sessions: what becomes of tokens once they are given: validated, rotated, revoked, listed."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from ..concurrency.coalescer import answers_of
from ..concurrency.deadlines import one_call
from ..concurrency.shards import AnyCoalescer, coalescer_for, subject_of
from ..constants import TokenStatus
from ..errors import (
    ConfigurationError,
    InvalidTokenError,
    MPAuthXError,
    ParameterError,
    StoreError,
    UserNotFoundError,
)
from ..events import Revoked, Rotated, TokenReuseDetected, TokensValidated
from ..models import AuthResult, Identity, OnlinePage, Session, SessionRef, Subject, User
from ..parts import Parts
from ..store_boundary import only_store_errors
from ..stores import longest_wait, system_of
from ..stores.near_cache import NearCache, NearCaching
from ..tokens.format import is_nonce
from .subjects import Subjects
from .until_revoked import SessionWatch, UntilRevoked

__all__ = ["Sessions", "invalid_token"]

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")

_LARGEST_PAGE = 1000  # users
_ROTATED_TTL = 90 * 86_400_000  # milliseconds that a session lives at most by rotation
_RENEWED = 32_768  # sessions whose next renewal is remembered, some 300 bytes each


class Sessions:
    """Answers for tokens, and ends sessions.

    Args:
        parts: what the service shares.
        subjects: finds the ids under which a user's sessions are kept.
    """

    def __init__(self, parts: Parts, subjects: Subjects) -> None:
        settings, tokens, events = parts.settings, parts.tokens, parts.events
        absolute_ttl = settings.absolute_ttl_ms
        self._sku = settings.sku
        self._signer = parts.signer
        self._users = parts.users
        self._subjects = subjects
        self._tokens = tokens
        self._calls = parts.calls
        self._events = events
        self._ttl = settings.token_ttl_ms
        self._absolute_ttl = absolute_ttl
        self._rotated_ttl = _ROTATED_TTL if absolute_ttl is None else absolute_ttl
        self._shares = settings.policy.shared_token
        self._grace = settings.rotation_grace_ms
        self._clock = settings.clock
        wait = longest_wait(tokens)
        self._lookups = self._coalescer(self._lookup, wait, max_in_flight=2)
        self._reads = self._coalescer(events.watched("read", self._read), wait)
        self._lists: AnyCoalescer[Subject, Sequence[Session]] = coalescer_for(
            tokens,
            self._list,
            subjects_of=lambda subject: (subject,),
            longest_wait=wait,
            system=system_of(tokens),
        )
        self._revocations = self._coalescer(events.watched("revoke", tokens.revoke), wait)
        self._rotations: AnyCoalescer[SessionRef, AuthResult] = coalescer_for(
            tokens,
            events.watched("rotate", self._rotate),
            subjects_of=subject_of,
            longest_wait=longest_wait(parts.users, tokens),
        )
        self._reuses = self._coalescer(events.watched("end_reused", self._end_reused), wait)
        self._renewals = self._coalescer(
            events.watched("renew", self._renew), None, max_in_flight=1
        )
        self._watch = SessionWatch(self._coalescer(tokens.lookup, wait), tokens)
        self._near = tokens.open_near_cache() if isinstance(tokens, NearCaching) else None
        # What may be asked before `end_of`; not where lives slide, for a use has to be noted.
        self.near_cache = self._near if absolute_ttl is None else None
        self._due: dict[SessionRef, float] = {}  # when a session may be renewed again
        self._without_trip = [0, 0]  # refused and good tokens of this tick that needed no trip

    def count_refused(self) -> None:
        """A token was refused without asking anybody."""
        if self._events.has_listeners:
            self._count_without_trip(is_valid=False)

    def end_of(self, ref: SessionRef, token: object) -> Awaitable[int | None]:
        """Ask when the session of a token that has verified ends. The hot path."""
        if self._near is None:
            return self._lookups.submit(ref)
        return self._end_by_near_cache(ref, token, self._near)

    async def conclude(
        self, ref: SessionRef, end: int | None, begun_at: float | None = None
    ) -> TokenStatus:
        """Tell by its session's end what has become of a token, and do what follows from its use.

        Args:
            ref: the session.
            end: what `end_of` answered.
            begun_at: when the call began, by `time.monotonic()`, if it is not within `one_call`.
        """
        if end is None:
            return TokenStatus.unknown
        if end > 0:
            if self._absolute_ttl is not None:
                self._renew_if_due(ref)
            return TokenStatus.active
        status = TokenStatus(end)
        if status is not TokenStatus.rotated:
            return status
        with one_call(begun_at):
            is_theft = await self._reuses.submit(ref)
        return TokenStatus.reused if is_theft else status

    async def status(self, token: object) -> TokenStatus:
        """Tell what has become of a token."""
        ref = self._signer.verify(token)
        if ref is None:
            return TokenStatus.unknown
        end = await self._lookups.submit(ref)
        if end is None:
            return TokenStatus.unknown
        return TokenStatus.active if end > 0 else TokenStatus(end)

    async def find(self, token: object) -> Session | None:
        """Read the session of a token; None when the token is not good."""
        try:
            ref = await self.current(token)
        except InvalidTokenError:
            return None
        return await self._reads.submit(ref)

    async def current(self, token: object) -> SessionRef:
        """The session of a token; InvalidTokenError when the token is not good."""
        ref = self._signer.verify(token)
        if ref is None:
            raise invalid_token(TokenStatus.unknown)
        status = await self.conclude(ref, await self.end_of(ref, token))
        if status is not TokenStatus.active:
            raise invalid_token(status)
        return ref

    def until_revoked(self, token: object) -> UntilRevoked:
        """A block that is cancelled when the session of a token ends."""

        async def authenticate() -> tuple[Identity, SessionRef]:
            ref = await self.current(token)
            return Identity(ref.user_id, ref.nonce, ref.sku, str(token)), ref

        return UntilRevoked(self._watch, authenticate, invalid_token)

    async def of_user(self, user_id: str) -> list[Session]:
        """List the living sessions of a user, newest first."""
        found: list[Session] = []
        for subject in await self._subjects.find(user_id):
            found += await self._ask("sessions", self._lists.submit(subject))
        return sorted(found, key=lambda session: session.issued_at, reverse=True)

    async def revoke(self, token: object) -> bool:
        """End the session of a token; False when it was not alive."""
        ref = self._signer.verify(token)
        return ref is not None and await self._end(ref)

    async def revoke_session(self, user_id: str, session_id: str) -> bool:
        """End one of a user's sessions; False when they have none of this id."""
        if not isinstance(session_id, str) or not session_id:
            raise ParameterError("session_id is required, as a Session has it.")
        for subject in await self._subjects.find(user_id):
            # The store ends a session for its own user only.
            if is_nonce(session_id) and await self._end(SessionRef(*subject, session_id)):
                return True
        return False

    async def revoke_user(self, user_id: str, except_token: object = None) -> int:
        """End the sessions of a user but for that of a token; returns how many were alive."""
        subjects = await self._subjects.find(user_id)
        spared = None
        if except_token is not None:
            spared = self._signer.verify(except_token)
            if spared is None or spared.subject not in subjects:
                raise ParameterError("except_token is no token of this user.")
        ended = 0
        try:
            for subject in subjects:
                nonce = spared.nonce if spared and spared.subject == subject else None
                ended += await self._ask(
                    "revoke_subject", self._tokens.revoke_subject(subject, spared=nonce)
                )
        finally:  # what was ended stays ended, if another of their ids fails
            if ended:
                self._events.emit(Revoked(self._sku, user_id, None, ended))
        return ended

    async def rotate(self, token: object) -> AuthResult:
        """Give a client a new token in place of its own."""
        if self._shares:
            raise ConfigurationError(
                "A token that all devices share is not rotated: the others would seem to have "
                "stolen it. Give each login a session of its own, with another policy."
            )
        ref = self._signer.verify(token)
        if ref is None:
            raise invalid_token(TokenStatus.unknown)
        return await self._rotations.submit(ref)

    async def online(self, cursor: str | None, limit: int) -> OnlinePage:
        """Page through the users with a living session."""
        if type(limit) is not int or not 1 <= limit <= _LARGEST_PAGE:
            raise ParameterError(f"limit must be a whole number from 1 to {_LARGEST_PAGE}.")
        return await self._ask("online", self._tokens.online(self._sku, cursor=cursor, limit=limit))

    async def online_count(self) -> int:
        """Count the users with a living session."""
        return await self._ask("online_count", self._tokens.online_count(self._sku))

    async def close(self) -> None:
        """Take no more calls, and return when all that were taken are answered."""
        self._watch.close()
        await self._lookups.close()
        await self._reads.close()
        await self._lists.close()
        await self._rotations.close()
        await self._revocations.close()
        await self._reuses.close()
        await self._renewals.close()

    def _coalescer(
        self,
        run: Callable[[Sequence[SessionRef]], Awaitable[Sequence[Answer | Exception]]],
        wait: float | None,
        *,
        max_in_flight: int = 4,
    ) -> AnyCoalescer[SessionRef, Answer]:
        return coalescer_for(
            self._tokens,
            run,
            subjects_of=subject_of,
            max_in_flight=max_in_flight,
            longest_wait=wait,
            system=system_of(self._tokens),
            calls=self._calls,
        )

    async def _end_by_near_cache(
        self, ref: SessionRef, token: object, near: NearCache
    ) -> int | None:
        """Ask the near cache first; it remembers a good token that it did not know."""
        if near.knows(token):
            if self._events.has_listeners:
                self._count_without_trip(is_valid=True)
            return TokenStatus.active
        expected, end = near.expect(ref.nonce), None
        try:
            end = await self._lookups.submit(ref)
        finally:
            near.keep(expected, ref.nonce, str(token), end)
        return end

    async def _end(self, ref: SessionRef) -> bool:
        ended: bool = await self._revocations.submit(ref)
        if ended:
            self._events.emit(Revoked(ref.sku, ref.user_id, ref.nonce, 1))
        return ended

    async def _ask(self, operation: str, answer: Awaitable[Answer]) -> Answer:
        with self._events.store_failures(operation):
            return await answer

    async def _lookup(self, refs: Sequence[SessionRef]) -> Sequence[int | None]:
        events = self._events
        if not events.has_listeners:
            with only_store_errors():
                return await self._tokens.lookup(refs)
        started = time.perf_counter()
        ends = await events.watched("lookup", self._tokens.lookup)(refs)
        valid = sum(end is not None and end > 0 for end in ends)
        seconds = time.perf_counter() - started
        events.emit(TokensValidated(valid, len(ends) - valid, seconds))
        return ends

    async def _read(self, refs: Sequence[SessionRef]) -> Sequence[Session | None]:
        return await self._tokens.read(refs)

    async def _list(self, subjects: Sequence[Subject]) -> list[Sequence[Session] | Exception]:
        """List the sessions of each subject, once for all callers who ask for the same one."""

        async def list_one(subject: Subject) -> Sequence[Session] | Exception:
            try:
                return await self._tokens.sessions(subject)
            except MPAuthXError as error:
                return error

        return await asyncio.gather(*map(list_one, subjects))

    def _count_without_trip(self, *, is_valid: bool) -> None:
        if not any(self._without_trip):
            asyncio.get_running_loop().call_soon(self._tell_without_trip)
        self._without_trip[is_valid] += 1

    def _tell_without_trip(self) -> None:
        refused, valid = self._without_trip
        self._without_trip = [0, 0]
        self._events.emit(TokensValidated(valid, refused, 0))

    async def _rotate(self, refs: Sequence[SessionRef]) -> list[AuthResult | Exception]:
        users = await answers_of(self._users.get([ref.user_id for ref in refs]))
        known = [ref for ref, user in zip(refs, users, strict=True) if isinstance(user, User)]
        rotated = dict(
            zip(
                known,
                await answers_of(
                    self._tokens.rotate(
                        known, ttl=self._ttl, grace=self._grace, absolute_ttl=self._rotated_ttl
                    )
                ),
                strict=True,
            )
        )
        stale = [ref for ref in known if rotated[ref] == TokenStatus.rotated]
        if stale:
            ended = await self._end_reused(stale)
            rotated |= {
                ref: is_over if isinstance(is_over, StoreError) else TokenStatus.reused
                for ref, is_over in zip(stale, ended, strict=True)
                if is_over
            }
        return [
            self._rotation(user, rotated[ref]) if isinstance(user, User) else user or _no_user()
            for ref, user in zip(refs, users, strict=True)
        ]

    def _rotation(
        self, user: User, answer: Session | TokenStatus | StoreError
    ) -> AuthResult | Exception:
        if isinstance(answer, StoreError):
            return answer
        if isinstance(answer, TokenStatus):
            return invalid_token(answer)
        self._events.emit(Rotated(answer))
        ref = answer.ref
        token = self._signer.mint(ref.user_id, ref.nonce, ref.generation)
        return AuthResult(1, "OK", token, user, answer)

    async def _end_reused(self, refs: Sequence[SessionRef]) -> Sequence[bool | StoreError]:
        ended = await answers_of(self._tokens.end_reused(refs))
        for ref, is_over in zip(refs, ended, strict=True):
            if is_over and not isinstance(is_over, StoreError):
                logger.warning("A token that had been rotated away was used: its session is over.")
                self._events.emit(TokenReuseDetected(ref))
        return ended

    def _renew_if_due(self, ref: SessionRef) -> None:
        """Have the life of a session count from now, unless that was asked a short while ago.

        Whether it is written the store decides: its clock may be another than ours.
        """
        now = self._clock() * 1000
        if 0 < self._due.get(ref, 0) - now <= 0.1 * self._ttl:  # more if our clock was set back
            return
        if len(self._due) >= _RENEWED:
            self._due.clear()
        self._due[ref] = now + 0.1 * self._ttl
        self._renewals.submit(ref).add_done_callback(partial(self._renewed, ref))

    async def _renew(self, refs: Sequence[SessionRef]) -> Sequence[int | None]:
        return await self._tokens.renew(refs, ttl=self._ttl, absolute_ttl=self._absolute_ttl)

    def _renewed(self, ref: SessionRef, renewal: "asyncio.Future[int | None]") -> None:
        if renewal.cancelled():
            return
        error = renewal.exception()
        if error is not None:
            self._due.pop(ref, None)
            logger.warning("A session was not renewed; its next use tries again: %s", error)


def invalid_token(status: TokenStatus) -> InvalidTokenError:
    """The error of a token that is not good, for this reason."""
    return InvalidTokenError(_ADVICE.get(status, _ADVICE[TokenStatus.unknown]), status)


_ADVICE = {
    TokenStatus.unknown: "This token is not valid here, or no longer: log in again.",
    TokenStatus.replaced: "This token was replaced by a newer login: log in again to go on here.",
    TokenStatus.revoked: "This token was revoked: log in again.",
    TokenStatus.banned: "This token ended when its user was banned; they log in when that is over.",
    TokenStatus.rotated: "This token was rotated: use the one that took its place.",
    TokenStatus.reused: "A token of this session was used after it had been rotated, which is a "
    "sign of theft: the session is over. Log in again.",
}


def _no_user() -> UserNotFoundError:
    return UserNotFoundError("The user of this token is not known any more: authorize again.")
