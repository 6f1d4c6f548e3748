"""Logins: exchanges codes and issues tokens, in batches.

A login waits for its turn, exchanges its code, and then joins the next batch: decrypt (in the
executor), save the users, refuse banned users, issue the tokens.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, TypeAlias, TypeVar

from ..concurrency.coalescer import Coalescer, answers_of, settle
from ..concurrency.deadlines import one_call, without_call
from ..concurrency.in_flight import closed
from ..concurrency.sharded_coalescer import ShardedCoalescer, sharding_of
from ..errors import (
    IdentityMismatchError,
    MPAuthXError,
    OverloadedError,
    UserNotFoundError,
    mark_code_used,
)
from ..events import LoggedIn, LoginFailed
from ..models import AuthResult, CodeSession, SessionRef, User
from ..sessions.bans import Bans
from ..shared_parts import Parts
from ..stores import longest_wait
from ..tokens.format import new_nonce
from ..wechat.userdata import decrypt_user_data
from .device import NO_DEVICE, Device
from .issuing import Issuer
from .pending_logins import Grant, Login, Refresh, for_successful, key_to_seal
from .queue import LoginQueue

__all__ = ["Logins"]

logger: logging.Logger = logging.getLogger(__name__)

_MAX_BATCH = 256  # logins that are finished together

Result = TypeVar("Result")


class Logins:
    """Logs users in and gives them tokens."""

    def __init__(
        self,
        parts: Parts,
        bans: Bans,
        *,
        names_same_user: Callable[[CodeSession, Mapping[str, Any]], bool],
    ) -> None:
        settings, users, tokens = parts.settings, parts.users, parts.tokens
        self._parts = parts
        self._settings = settings
        self._events = events = parts.events
        self._names_same_user = names_same_user
        self._issuer = Issuer(parts, bans)
        self._bans = bans
        self._under_way: dict[Hashable, Login] = {}
        self.at_wechat: int = 0  # codes that are being exchanged
        self._waiting = LoginQueue(
            parts.connections,
            max_waiting=settings.max_waiting_logins,
            timeout=settings.login_timeout,
            begin=self._begin,
            expire=partial(self._reject, reason="The login could not begin within login_timeout."),
        )
        self._issues = self._sharded_issues()
        wait = longest_wait(users) if self._issues else longest_wait(users, tokens)
        self._exchanged: Coalescer[Login, _Answer] = Coalescer(
            events.watched("login", self._finish_logins),
            max_batch=_MAX_BATCH,
            max_in_flight=1,
            longest_wait=wait,
        )
        self._refreshes: Coalescer[Refresh, _Answer] = Coalescer(
            events.watched("refresh", self._finish_refreshes), max_batch=64, longest_wait=wait
        )
        self._issuing: set[asyncio.Future[AuthResult]] = set()  # on a store that has shards
        self._withdrawals: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        """How many logins wait to begin."""
        return len(self._waiting)

    def log_in(
        self,
        exchange: Callable[[str], Awaitable[CodeSession | User]],
        code: str,
        encrypted_data: str | None = None,
        iv: str | None = None,
        device: Device = NO_DEVICE,
        *,
        max_age: float | None = None,
        on_web: bool = False,
        has_code: bool = True,
    ) -> "tuple[Login, asyncio.Future[AuthResult]]":
        """Log a user in. Concurrent calls with the same arguments are one login, with one token.

        The caller awaits the future, and calls `leave` if cancelled meanwhile.

        Args:
            exchange: exchanges the code for a mini-program's session, or for a user who is known.
            on_web: whether the code is one of a web login.
            has_code: whether the exchange uses up a code of WeChat's: then no failure after it is
                retryable.
        """
        # A tuple of texts: the garbage collector stops tracking those, and thousands may wait.
        key = (on_web, code, encrypted_data, iv, max_age, device.name, device.kind)
        caller: asyncio.Future[AuthResult] = asyncio.get_running_loop().create_future()
        login = self._under_way.get(key)
        if login is not None:
            login.callers.append(caller)
            return login, caller
        login = Login([caller], key, exchange, code, encrypted_data, iv, max_age, device, has_code)
        self._under_way[key] = login
        if not self._waiting.add(login):
            self._reject(login, "max_waiting_logins are waiting already.")
        return login, caller

    async def log_in_as(
        self,
        identify: Callable[[str], Awaitable[User]],
        code: str,
        device: Device,
        *,
        on_web: bool = False,
        has_code: bool = True,
    ) -> AuthResult:
        """Log in the user that `identify` returns; the arguments are those of `log_in`."""
        login, caller = self.log_in(identify, code, device=device, on_web=on_web, has_code=has_code)
        try:
            return await caller
        except asyncio.CancelledError:
            self.leave(login, caller)
            raise

    def leave(self, login: "Login", caller: "asyncio.Future[AuthResult]") -> None:
        """Let a caller who was cancelled leave a login, which goes on if it has begun."""
        login.callers.remove(caller)
        if not login.callers and self._waiting.discard(login):
            del self._under_way[login.key]
        if all(other.cancelled() for other in login.callers):
            self._give_up_unheard(caller)

    async def refresh(self, user_id: str) -> AuthResult:
        """Issue a token to a known user, and end all their others."""
        refresh = Refresh(user_id, asyncio.get_running_loop().create_future())
        self._refreshes.submit(refresh).add_done_callback(partial(self._answered, refresh))
        try:
            return await refresh.caller
        except asyncio.CancelledError:
            self._give_up_unheard(refresh.caller)
            raise

    def recorded(self) -> AbstractContextManager[list[User]]:
        """Record, until left, the users who get tokens, or would if they were not refused."""
        return self._issuer.recorded()

    async def settled(self) -> None:
        """Wait for the logins and refreshes in progress that may have stored their users."""
        await self._exchanged.wait_in_flight()
        await self._refreshes.wait_in_flight()
        if self._issuing:
            await asyncio.wait(set(self._issuing))
        if self._issues is not None:  # its callers may have been told that it takes too long
            await self._issues.wait_in_flight()

    def refuse_waiting(self) -> None:
        """Refuse the logins that wait for their turn."""
        for login in self._waiting.drain():
            del self._under_way[login.key]
            settle(login.callers, closed())

    def cut_off(self) -> None:
        """Cancel the logins and refreshes in flight; their callers get a ClosedError."""
        for login in self._under_way.values():
            if login.exchange_task is not None:
                settle(login.callers, closed())
                login.exchange_task.cancel()
        self._exchanged.cut_off()
        self._refreshes.cut_off()
        if self._issues is not None:
            self._issues.cut_off()
        for withdrawal in self._withdrawals:
            withdrawal.cancel()

    async def close(self) -> None:
        """Return when the logins that have begun are done."""
        self.refuse_waiting()
        if exchanges := [
            one.exchange_task for one in self._under_way.values() if one.exchange_task
        ]:
            await asyncio.wait(exchanges)
        await self._exchanged.close()
        await self._refreshes.close()
        if self._issues is not None:
            await self._issues.close()
        while self._withdrawals:
            await asyncio.wait(self._withdrawals)

    def _begin(self, login: "Login") -> None:
        self.at_wechat += 1
        login.exchange_task = asyncio.create_task(self._exchange_for(login), context=login.context)

    def _reject(self, login: "Login", reason: str) -> None:
        """Reject a login that cannot begin."""
        del self._under_way[login.key]
        error = OverloadedError(
            f"{reason} Nothing was done, and the code was not used: the client can send it again "
            "within five minutes of wx.login."
        )
        settle(login.callers, error)
        self._report(login, error)

    def _give_up_unheard(self, caller: "asyncio.Future[AuthResult]") -> None:
        """Give up the answer that came in the tick in which its last caller was cancelled."""
        if not caller.cancelled():
            outcome = _outcome_of(caller)
            self._give_up(outcome)

    async def _exchange_for(self, login: "Login") -> None:
        without_call()  # else it would be part of its first caller's call
        try:
            with one_call():
                login.exchanged = await login.exchange(login.code)
            answer = self._exchanged.submit(login)
        except BaseException as error:
            self._exchange_ended()
            self._end(login, error)
            if not isinstance(error, Exception):
                raise  # this task was cancelled, or the process is told to end
        else:
            login.exchange_task = None  # drop the reference now, because the login may take long
            answer.add_done_callback(partial(self._answered, login), context=login.context)
            self._exchange_ended()

    def _exchange_ended(self) -> None:
        self.at_wechat -= 1
        self._parts.connections.login_limit.exchanged()

    def _answered(self, asked: Login | Refresh, answer: "asyncio.Future[Any]") -> None:
        outcome = _outcome_of(answer)
        if isinstance(outcome, asyncio.Future):  # its shard of the store has not answered yet
            outcome.add_done_callback(partial(self._answered, asked))
        elif isinstance(asked, Refresh):
            asked.is_over = True
            self._tell((asked.caller,), outcome)
        else:
            if asked.has_code and isinstance(outcome, MPAuthXError):
                mark_code_used(outcome)
            self._end(asked, outcome)

    def _end(self, login: "Login", outcome: AuthResult | BaseException) -> None:
        """Tell the callers of a login, and let the next one begin."""
        self._waiting.release()
        del self._under_way[login.key]  # from here on nobody can join
        login.is_over = True
        was_heard = self._tell(login.callers, outcome)
        if was_heard or isinstance(outcome, Exception):
            self._report(login, outcome)

    def _report(self, login: "Login", outcome: AuthResult | BaseException) -> None:
        if not self._events.has_listeners:
            return
        seconds = time.perf_counter() - login.begun_at
        if isinstance(outcome, AuthResult):
            self._events.emit(LoggedIn(outcome.session, outcome.user, outcome.is_new_user, seconds))
        elif isinstance(outcome, Exception):
            self._events.emit(LoginFailed(outcome, seconds))

    def _tell(
        self, callers: "Sequence[asyncio.Future[AuthResult]]", outcome: AuthResult | BaseException
    ) -> bool:
        """Tell callers the outcome; returns whether anybody still waited."""
        was_heard = settle(callers, outcome)
        if not was_heard:
            self._give_up(outcome)
        return was_heard

    def _give_up(self, outcome: AuthResult | BaseException) -> None:
        """Revoke a token, or log a failure, that no caller is left to receive."""
        if isinstance(outcome, AuthResult):
            if self._settings.policy.shared_token:
                return  # it may be another login's too
            withdrawal = asyncio.create_task(self._withdraw(outcome.session.ref))
            self._withdrawals.add(withdrawal)
            withdrawal.add_done_callback(self._withdrawals.discard)
        elif not isinstance(outcome, asyncio.CancelledError):
            unknown = None if isinstance(outcome, MPAuthXError) else outcome
            logger.warning(
                "A login or refresh failed after its callers had left: %s",
                outcome,
                exc_info=unknown,
            )

    async def _withdraw(self, ref: SessionRef) -> None:
        try:
            with self._events.store_failures("revoke"):
                await self._parts.tokens.revoke([ref])
        except MPAuthXError as error:
            logger.warning("A token that no caller received could not be revoked: %s", error)

    async def _finish_logins(self, logins: "Sequence[Login]") -> "Sequence[_Answer | Exception]":
        """What follows the exchange of the code, for a batch: decrypt, save, give tokens."""
        with one_call():
            now = self._settings.now_ms()
            # Decrypting takes two milliseconds for a hundred logins while the event loop is idle,
            # and several times as long while it is busy: both contend for the GIL.
            with self._waiting.paused():
                await asyncio.sleep(0)  # what has begun in this tick can send its request first
                grants = await asyncio.get_running_loop().run_in_executor(
                    self._parts.connections.executor, self._decrypt_and_seal, logins, now
                )
            results = await self._issue_all(await self._issuer.save(grants))
        self._give_up_late(logins, results)
        return results

    def _give_up_late(
        self, asked: "Sequence[Login | Refresh]", results: "Sequence[_Answer | Exception]"
    ) -> None:
        """Give up the results of those whose callers have waited too long, and were told so."""
        for one, result in zip(asked, results, strict=True):
            if one.is_over and not isinstance(result, asyncio.Future):
                self._give_up(result)

    async def _finish_refreshes(
        self, refreshes: "Sequence[Refresh]"
    ) -> "Sequence[_Answer | Exception]":
        with one_call():
            found = await answers_of(
                self._parts.users.get([refresh.user_id for refresh in refreshes])
            )
            results = await self._issue_all(
                [
                    Grant(user, new_nonce(), None, refresh)
                    if isinstance(user, User)
                    else user
                    or UserNotFoundError("No user with this id has logged in: authorize first.")
                    for refresh, user in zip(refreshes, found, strict=True)
                ]
            )
        self._give_up_late(refreshes, results)
        return results

    async def _issue_all(
        self, grants: "Sequence[Grant | Exception]"
    ) -> "Sequence[_Answer | Exception]":
        """Give tokens; to the users on each shard of the store in batches of their own."""
        if self._issues is None:
            return await for_successful(grants, self._issuer.issue)
        answers: list[_Answer | Exception] = []
        for grant in grants:
            if isinstance(grant, Exception):
                answers.append(grant)
                continue
            answer = self._issues.submit(grant)
            self._issuing.add(answer)
            answer.add_done_callback(self._issuing.discard)
            answer.add_done_callback(_outcome_of)  # or asyncio logs one that comes too late
            answers.append(answer)
        return answers

    def _sharded_issues(self) -> "ShardedCoalescer[Grant, AuthResult] | None":
        shard_of = sharding_of(self._parts.tokens)
        if shard_of is None:
            return None
        return ShardedCoalescer(
            lambda grant: shard_of(self._bans.subjects_of(grant.user)),
            lambda: Coalescer(
                self._events.watched("login", self._issue_on_shard),
                max_batch=_MAX_BATCH,
                max_in_flight=1,
                longest_wait=longest_wait(self._parts.tokens),
            ),
        )

    async def _issue_on_shard(self, grants: "Sequence[Grant]") -> Sequence[AuthResult | Exception]:
        with one_call():
            results = await self._issuer.issue(grants)
        self._give_up_late([grant.asked for grant in grants], results)
        return results

    def _decrypt_and_seal(self, logins: "Sequence[Login]", now: int) -> "list[Grant | Exception]":
        """Decrypt what the clients sent, build their users, and seal the session keys."""
        nonces = [new_nonce() for _ in logins]
        sealed_keys = self._parts.sealer.seal(
            [(nonce, *key_to_seal(login)) for nonce, login in zip(nonces, logins, strict=True)]
        )
        grants: list[Grant | Exception] = []
        for login, nonce, sealed_key in zip(logins, nonces, sealed_keys, strict=True):
            try:
                user = self._user(login, now)
            except MPAuthXError as error:
                grants.append(error)
            else:
                grants.append(Grant(user, nonce, sealed_key, login))
        return grants

    def _user(self, login: "Login", now: int) -> User:
        session, data, iv = login.exchanged, login.encrypted_data, login.iv
        app_id, max_age = self._settings.app_id, login.max_age
        if isinstance(session, User):
            return session
        if data is None or iv is None:
            return User.from_wechat(session, {}, now, app_id)
        key = session.session_key
        payload = decrypt_user_data(key, data, iv, app_id, max_age=max_age, now=now / 1000)
        if not self._names_same_user(session, payload):
            raise IdentityMismatchError(
                "The user data does not name the user of this code. Send the code and the data of "
                "one wx.login together; data without an openId (wx.getUserProfile) proves nobody's "
                "identity, so send the code alone."
            )
        return User.from_wechat(session, payload, now, app_id)


_Answer: TypeAlias = "AuthResult | asyncio.Future[AuthResult]"


def _outcome_of(answer: "asyncio.Future[Result]") -> Result | BaseException:
    if answer.cancelled():
        return asyncio.CancelledError()
    return answer.exception() or answer.result()
