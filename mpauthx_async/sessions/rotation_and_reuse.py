"""Rotations: new tokens for living sessions, and the detection of reused tokens."""

import logging
from collections.abc import Sequence

from ..concurrency.coalescer import answers_of
from ..concurrency.sharded_coalescer import AnyCoalescer
from ..constants import TokenStatus
from ..errors import ConfigurationError, StoreError, UserNotFoundError
from ..events import Rotated, TokenReuseDetected
from ..models import AuthResult, Session, SessionRef, User
from ..shared_parts import Parts
from .token_validation import invalid_token

__all__ = ["Rotations"]

logger: logging.Logger = logging.getLogger(__name__)

_MAX_ROTATED_MS = 90 * 86_400_000  # from the login of a session that is rotated to its end


class Rotations:
    """Rotates tokens, and ends a session when one of its rotated tokens is reused."""

    def __init__(self, parts: Parts) -> None:
        events = parts.events
        self._parts = parts
        self._reuses: AnyCoalescer[SessionRef, bool] = parts.batched(
            events.watched("end_reused", self._end_all_reused)
        )
        self._rotations = parts.batched(
            events.watched("rotate", self._rotate_all), waits_for=(parts.users, parts.tokens)
        )

    async def rotate(self, token: object) -> AuthResult:
        """Give a client a new token in place of its own."""
        if self._parts.settings.policy.shared_token:
            raise ConfigurationError(
                "A token that all devices share is not rotated: the others would seem to have "
                "stolen it. Give each login a session of its own, with another policy."
            )
        ref = self._parts.signer.verify(token)
        if ref is None:
            raise invalid_token(TokenStatus.unknown)
        return await self._rotations.submit(ref)

    async def end_reused(self, ref: SessionRef) -> bool:
        """End the session of a reused token; False within `rotation_grace`."""
        return await self._reuses.submit(ref)

    async def _rotate_all(self, refs: Sequence[SessionRef]) -> list[AuthResult | Exception]:
        settings = self._parts.settings
        users = await answers_of(self._parts.users.get([ref.user_id for ref in refs]))
        known = [ref for ref, user in zip(refs, users, strict=True) if isinstance(user, User)]
        answers = await answers_of(
            self._parts.tokens.rotate(
                known,
                ttl=settings.token_ttl_ms,
                grace=settings.rotation_grace_ms,
                absolute_ttl=settings.absolute_ttl_ms or _MAX_ROTATED_MS,
            )
        )
        rotated = dict(zip(known, answers, strict=True))
        stale = [ref for ref in known if rotated[ref] == TokenStatus.rotated]
        if stale:
            for ref, is_over in zip(stale, await self._end_all_reused(stale), strict=True):
                if isinstance(is_over, StoreError):
                    rotated[ref] = is_over
                elif is_over:
                    rotated[ref] = TokenStatus.reused
        return [
            self._result(user, rotated[ref]) if isinstance(user, User) else user or _no_user()
            for ref, user in zip(refs, users, strict=True)
        ]

    def _result(
        self, user: User, answer: Session | TokenStatus | StoreError
    ) -> AuthResult | Exception:
        if isinstance(answer, StoreError):
            return answer
        if isinstance(answer, TokenStatus):
            return invalid_token(answer)
        self._parts.events.emit(Rotated(answer))
        ref = answer.ref
        token = self._parts.signer.mint(ref.user_id, ref.nonce, ref.generation)
        return AuthResult(1, "OK", token, user, answer)

    async def _end_all_reused(self, refs: Sequence[SessionRef]) -> Sequence[bool | StoreError]:
        ended = await answers_of(self._parts.tokens.end_reused(refs))
        for ref, is_over in zip(refs, ended, strict=True):
            if is_over and not isinstance(is_over, StoreError):
                logger.warning("A rotated token was used again: its session was ended.")
                self._parts.events.emit(TokenReuseDetected(ref))
        return ended


def _no_user() -> UserNotFoundError:
    return UserNotFoundError("The user of this token is not known any more: authorize again.")
