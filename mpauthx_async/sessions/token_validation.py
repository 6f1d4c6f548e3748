"""TokenValidator: decides whether a token is valid, by its MAC, the near cache and the store."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple

from ..concurrency.coalescer import answers_of
from ..concurrency.deadlines import one_call
from ..constants import TokenStatus
from ..errors import InvalidTokenError, StoreError
from ..events import Listener, TokensValidated
from ..models import Identity, SessionRef
from ..shared_parts import Parts
from ..store_errors import only_store_errors
from ..stores.near_cache import NearCache, NearCaching

__all__ = ["TokenValidator", "invalid_token"]

logger: logging.Logger = logging.getLogger(__name__)

_MAX_RENEWALS = 32_768  # sessions whose next renewal is remembered, some 300 bytes each
_RENEWAL_INTERVAL = 0.1  # of token_ttl


class TokenValidator:
    """Decides whether tokens are valid.

    A caller tries `known`, then `verify`, then `look_up`, and stops at the first that decides. The
    first two are the hot path: without listeners they are methods of the near cache and the signer.

    Args:
        end_reused: ends a session whose rotated token is used; returns whether that is reuse.

    Attributes:
        known: returns the Identity of a token in the near cache, and None for any other token,
            which may still be valid. It is itself None if there is no near cache.
        verify: reads the session of a token; None if the token is malformed or forged.
    """

    def __init__(self, parts: Parts, end_reused: Callable[[SessionRef], Awaitable[bool]]) -> None:
        settings, tokens = parts.settings, parts.tokens
        self._signer = parts.signer
        self._tokens = tokens
        self._events = parts.events
        self._clock = settings.clock
        self._ttl_ms = settings.token_ttl_ms
        self._absolute_ttl_ms = settings.absolute_ttl_ms
        self._slides = settings.absolute_ttl is not None
        self._end_reused = end_reused
        # A use does not wait for the renewal that it causes.
        self._renewals = parts.batched(
            parts.events.watched("renew", self._renew), max_in_flight=1, waits_for=()
        )
        self._lookups = parts.batched(self._look_up_all, max_in_flight=2)
        self._status_reads = parts.batched(self._read_all, max_in_flight=2)
        self._near_lookups = parts.batched(
            self._look_up_and_keep, subjects_of=lambda asked: (asked.ref.subject,), max_in_flight=2
        )
        self._near = tokens.open_near_cache() if isinstance(tokens, NearCaching) else None
        self._renew_at: dict[SessionRef, float] = {}  # Unix milliseconds
        self._without_trip = [0, 0]  # invalid and valid tokens of this tick that needed no trip
        self.known: Callable[[object], Identity | None] | None = None
        self.verify: Callable[[object], SessionRef | None] = self._signer.verify
        self._choose_fastest()

    def look_up(self, ref: SessionRef, token: object) -> Awaitable[TokenStatus]:
        """Ask the store for the status of a token that has verified; this renews a sliding life.

        The caller passes any status but active to `end_if_reused`.
        """
        if self._near is None:
            return self._lookups.submit(ref)
        return self._near_lookups.submit(_Asked(ref, str(token)))

    async def end_if_reused(
        self, ref: SessionRef, status: TokenStatus, begun_at: float
    ) -> TokenStatus:
        """End a session whose rotated token is reused; returns the final status.

        The call began at `begun_at`, by `time.monotonic()`.
        """
        if status is TokenStatus.rotated:
            with one_call(begun_at):
                if await self._end_reused(ref):
                    return TokenStatus.reused
        return status

    async def status_without_use(self, token: object) -> TokenStatus:
        """Ask the store for the status of a token, without counting this as a use."""
        ref = self._signer.verify(token)
        return TokenStatus.unknown if ref is None else await self._status_reads.submit(ref)

    async def session_of(self, token: object) -> SessionRef:
        """Read the session of a valid token; raises InvalidTokenError for any other."""
        ref = self._signer.verify(token)
        if ref is None:
            raise invalid_token(TokenStatus.unknown)
        if self.known is None or self.known(token) is None:
            begun_at = time.monotonic()
            status = await self.look_up(ref, token)
            if status is not TokenStatus.active:
                raise invalid_token(await self.end_if_reused(ref, status, begun_at))
        return ref

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Register a listener for events; returns a function that ends the subscription."""
        unsubscribe = self._events.subscribe(listener)
        self._choose_fastest()

        def end() -> None:
            unsubscribe()
            self._choose_fastest()

        return end

    @property
    def near_cache(self) -> NearCache | None:
        """The near cache, if there is one."""
        return self._near

    def refuse_more(self) -> None:
        """Answer nothing from memory, because the service is closed."""
        if self._near is not None:
            self._near.close()
        self._near = None
        self._choose_fastest()

    def _choose_fastest(self) -> None:
        """Bind `known` and `verify` directly, unless uses are counted or renew sessions."""
        has_listeners = self._events.has_listeners
        self.verify = self._verify_and_count if has_listeners else self._signer.verify
        if self._near is None:
            self.known = None
        elif self._slides or has_listeners:
            self.known = partial(self._use_if_known, self._near)
        else:
            self.known = self._near.known

    def _verify_and_count(self, token: object) -> SessionRef | None:
        ref = self._signer.verify(token)
        if ref is None:
            self._count_without_trip(is_valid=False)
        return ref

    def _use_if_known(self, near: NearCache, token: object) -> Identity | None:
        identity = near.known(token)
        if identity is None:
            return None
        if self._events.has_listeners:
            self._count_without_trip(is_valid=True)
        ref = self._signer.verify(token) if self._slides else None
        if ref is not None:
            self._renew_if_due(ref)
        return identity

    async def _look_up_all(self, refs: Sequence[SessionRef]) -> list[TokenStatus | Exception]:
        statuses = await self._read_all(refs)
        self._renew_active(refs, statuses)
        return statuses

    async def _read_all(self, refs: Sequence[SessionRef]) -> list[TokenStatus | Exception]:
        return _statuses(await self._ends(refs))

    async def _look_up_and_keep(self, asked: "Sequence[_Asked]") -> list[TokenStatus | Exception]:
        """Look sessions up, and have the near cache keep their tokens."""
        near = self._near
        refs = [one.ref for one in asked]
        expected = [None if near is None else near.expect(ref.nonce) for ref in refs]
        ends: Sequence[int | StoreError | None] = [None] * len(refs)
        try:
            ends = await self._ends(refs)
        finally:
            if near is not None:
                for (ref, token), expectation, end in zip(asked, expected, ends, strict=True):
                    identity = Identity(ref.user_id, ref.nonce, ref.sku, token)
                    near.keep(expectation, identity, end if isinstance(end, int) else None)
        statuses = _statuses(ends)
        self._renew_active(refs, statuses)
        return statuses

    async def _ends(self, refs: Sequence[SessionRef]) -> Sequence[int | StoreError | None]:
        """Ask the store when sessions end, or why they ended."""
        events = self._events
        if not events.has_listeners:
            with only_store_errors():
                return await answers_of(self._tokens.lookup(refs))
        started = time.perf_counter()
        ends = await answers_of(events.watched("lookup", self._tokens.lookup)(refs))
        valid = sum(isinstance(end, int) and end > 0 for end in ends)
        seconds = time.perf_counter() - started
        events.emit(TokensValidated(valid, len(ends) - valid, seconds))
        return ends

    def _renew_active(
        self, refs: Sequence[SessionRef], statuses: Sequence[TokenStatus | Exception]
    ) -> None:
        if self._slides:
            for ref, status in zip(refs, statuses, strict=True):
                if status is TokenStatus.active:
                    self._renew_if_due(ref)

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


class _Asked(NamedTuple):
    """A session that is looked up, and its token, which the near cache may keep."""

    ref: SessionRef
    token: str


def _statuses(ends: Sequence[int | StoreError | None]) -> list[TokenStatus | Exception]:
    """Decide by the ends of their sessions which tokens are valid."""
    active = TokenStatus.active
    return [active if isinstance(end, int) and end > 0 else _refusal(end) for end in ends]


def _refusal(end: int | StoreError | None) -> TokenStatus | StoreError:
    return end if isinstance(end, StoreError) else TokenStatus(end or 0)


def invalid_token(status: TokenStatus) -> InvalidTokenError:
    """The error of a token that is not valid, for this reason."""
    return InvalidTokenError(_ADVICE.get(status, _ADVICE[TokenStatus.unknown]), status)


_ADVICE = {
    TokenStatus.unknown: "This token is not valid, or no longer valid: log in again.",
    TokenStatus.replaced: "This token was replaced by a newer login: log in again to go on here.",
    TokenStatus.revoked: "This token was revoked: log in again.",
    TokenStatus.banned: "This user was banned: they can log in again when the ban has ended.",
    TokenStatus.rotated: "This token was rotated: use the one that took its place.",
    TokenStatus.reused: "A token of this session was used after it had been rotated, which is a "
    "sign of theft: the session was ended. Log in again.",
}
