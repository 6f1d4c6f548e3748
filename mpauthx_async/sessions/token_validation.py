"""TokenValidator: decides whether a token is valid, by its MAC, the near cache and the store."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from ..concurrency.deadlines import one_call
from ..concurrency.shards import AnyCoalescer, subject_of
from ..constants import TokenStatus
from ..errors import InvalidTokenError
from ..events import Listener, TokensValidated
from ..models import SessionRef
from ..parts import Parts
from ..store_boundary import only_store_errors
from ..stores.near_cache import NearCache, NearCaching

__all__ = ["TokenValidator", "invalid_token"]

logger = logging.getLogger(__name__)

_MAX_RENEWALS = 32_768  # sessions whose next renewal is remembered, some 300 bytes each
_RENEWAL_INTERVAL = 0.1  # of token_ttl


class TokenValidator:
    """Decides whether tokens are valid.

    A caller asks `knows`, then `verify`, then `status`, and stops at the first that decides.

    Args:
        parts: what the service shares.
        end_reused: ends a session whose rotated token is used; returns whether that is reuse.

    Attributes:
        knows: tells from memory, in any event loop, that a token is valid. False decides nothing.
    """

    def __init__(self, parts: Parts, end_reused: Callable[[SessionRef], Awaitable[bool]]) -> None:
        settings, tokens = parts.settings, parts.tokens
        self._signer = parts.signer
        self._tokens = tokens
        self._calls = parts.calls
        self._events = parts.events
        self._clock = settings.clock
        self._ttl_ms = settings.token_ttl_ms
        self._absolute_ttl_ms = settings.absolute_ttl_ms
        self._slides = settings.absolute_ttl is not None
        self._end_reused = end_reused
        # A use does not wait for the renewal that it causes.
        self._renewals: AnyCoalescer[SessionRef, int | None] = parts.batched(
            parts.events.watched("renew", self._renew), subject_of, max_in_flight=1, waits_for=()
        )
        self._lookups = parts.batched(self._lookup, subject_of, max_in_flight=2)
        self._near = tokens.open_near_cache() if isinstance(tokens, NearCaching) else None
        self._renew_at: dict[SessionRef, float] = {}  # Unix milliseconds
        self._without_trip = [0, 0]  # invalid and valid tokens of this tick that needed no trip
        self.knows: Callable[[object], bool] = _knows_nothing
        self._choose_knows()

    def verify(self, token: object) -> SessionRef | None:
        """Read the session of a token; None if the token is malformed or forged.

        Raises:
            ClosedError: the service is closed.
        """
        if not self._calls.is_open:  # asked here, because calling check_here() takes longer
            self._calls.check_here()
        ref = self._signer.verify(token)
        if ref is None and self._events.has_listeners:
            self._count_without_trip(is_valid=False)
        return ref

    async def status(self, ref: SessionRef, token: object) -> TokenStatus:
        """Ask the store for the status of a token that has verified, and count this as a use.

        A use renews a sliding life. The use of a token that was rotated away ends its session.

        Args:
            ref: the session.
            token: its token.

        Raises:
            StoreError: the store could not answer.
        """
        begun_at = time.monotonic()
        if self._near is None:
            end = await self._lookups.submit(ref)
        else:
            end = await self._look_up_and_keep(ref, str(token), self._near)
        status = _status_of(end)
        if status is TokenStatus.active:
            if self._slides:
                self._renew_if_due(ref)
        elif status is TokenStatus.rotated:
            with one_call(begun_at):
                if await self._end_reused(ref):
                    return TokenStatus.reused
        return status

    async def status_without_use(self, token: object) -> TokenStatus:
        """Ask the store for the status of a token, without counting this as a use."""
        ref = self._signer.verify(token)
        return TokenStatus.unknown if ref is None else _status_of(await self._lookups.submit(ref))

    async def session_of(self, token: object) -> SessionRef:
        """Read the session of a valid token; raises InvalidTokenError for any other."""
        ref = self._signer.verify(token)
        if ref is None:
            raise invalid_token(TokenStatus.unknown)
        if not self.knows(token):
            status = await self.status(ref, token)
            if status is not TokenStatus.active:
                raise invalid_token(status)
        return ref

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Register a listener for events; returns a function that ends the subscription."""
        unsubscribe = self._events.subscribe(listener)
        self._choose_knows()

        def end() -> None:
            unsubscribe()
            self._choose_knows()

        return end

    def refuse_more(self) -> None:
        """Answer nothing from memory, because the service is closed."""
        self._near = None
        self._choose_knows()

    def _choose_knows(self) -> None:
        """Ask the near cache alone, unless its answers have to be counted or renew a session."""
        if self._near is None:
            self.knows = _knows_nothing
        elif self._slides or self._events.has_listeners:
            self.knows = partial(self._use_if_known, self._near)
        else:
            self.knows = self._near.knows

    def _use_if_known(self, near: NearCache, token: object) -> bool:
        if not near.knows(token):
            return False
        if self._events.has_listeners:
            self._count_without_trip(is_valid=True)
        ref = self._signer.verify(token) if self._slides else None
        if ref is not None:
            self._renew_if_due(ref)
        return True

    async def _look_up_and_keep(self, ref: SessionRef, token: str, near: NearCache) -> int | None:
        expected, end = near.expect(ref.nonce), None
        try:
            end = await self._lookups.submit(ref)
        finally:
            near.keep(expected, ref.nonce, token, end)
        return end

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

    def _count_without_trip(self, *, is_valid: bool) -> None:
        if not any(self._without_trip):
            asyncio.get_running_loop().call_soon(self._report_without_trip)
        self._without_trip[is_valid] += 1

    def _report_without_trip(self) -> None:
        refused, valid = self._without_trip
        self._without_trip = [0, 0]
        self._events.emit(TokensValidated(valid, refused, 0))

    def _renew_if_due(self, ref: SessionRef) -> None:
        """Renew the life of a session, unless that was done a short while ago.

        The store decides whether it is written, because its clock may differ from ours.
        """
        now, interval = self._clock() * 1000, _RENEWAL_INTERVAL * self._ttl_ms
        if 0 < self._renew_at.get(ref, 0) - now <= interval:  # more if our clock was set back
            return
        if len(self._renew_at) >= _MAX_RENEWALS:
            self._renew_at.clear()
        self._renew_at[ref] = now + interval
        self._renewals.submit(ref).add_done_callback(partial(self._renewed, ref))

    async def _renew(self, refs: Sequence[SessionRef]) -> Sequence[int | None]:
        return await self._tokens.renew(refs, ttl=self._ttl_ms, absolute_ttl=self._absolute_ttl_ms)

    def _renewed(self, ref: SessionRef, renewal: "asyncio.Future[int | None]") -> None:
        error = None if renewal.cancelled() else renewal.exception()
        if error is not None:
            self._renew_at.pop(ref, None)
            logger.warning("A session was not renewed; its next use tries again: %s", error)


def invalid_token(status: TokenStatus) -> InvalidTokenError:
    """The error of a token that is not valid, for this reason."""
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


def _status_of(end: int | None) -> TokenStatus:
    """The status of a token, by what the store answers for its session."""
    if end is None:
        return TokenStatus.unknown
    return TokenStatus.active if end > 0 else TokenStatus(end)


def _knows_nothing(_: object) -> bool:
    return False
