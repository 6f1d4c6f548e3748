"""Tab: one visitor's user with their devices."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, replace
from typing import Any

from ...constants import TokenStatus
from ...errors import MPAuthXError
from ...events import Event, Replaced
from ...models import LoginPolicy
from ...service import MPAuthX
from ...tokens.format import nonce_of
from .snapshot import describe_ban, describe_sessions, describe_token, describe_user
from .stage import Stage, World, open_stage
from .steps import Step, of_error, of_event, of_trip

__all__ = ["Tab", "open_tab"]

_POLICIES = {
    "one": LoginPolicy(max_sessions=1),
    "kind": LoginPolicy(one_per_kind=True),
    "many": LoginPolicy(),
}
_LIVES = {"300": 300, "5": 5}  # seconds
_KINDS = {"phone": "phone", "laptop": "desktop"}
_BAN_SECONDS = 300
_BAN_REASON = "spam"
_SHORTEST_WAIT = 0.5  # seconds

Message = dict[str, Any]
_Call = Callable[[MPAuthX], Awaitable[Step]]


class Tab:
    """One visitor's user with their devices: no tab sees what another one does.

    Its messages are `begin`, the `step`s of what happened, and `end` with the new state.
    """

    def __init__(self, stage: Stage, send: Callable[[Message], None]) -> None:
        self._stage = stage
        self._send = send
        self._user_id = f"o{secrets.token_urlsafe(20)}"
        self._held: dict[str, str] = {}  # the tokens, by their holders
        self._statuses: dict[str, TokenStatus] = {}
        self._policy, self._life = "one", "300"
        self._turn = asyncio.Lock()
        self._expiry: asyncio.Task[None] | None = None
        self._actions: Mapping[str, Callable[[str], Awaitable[None]]] = {
            "login": self._log_in,
            "call": self._call,
            "rotate": self._rotate,
            "logout": self._log_out,
            "copy": self._copy,
            "forge": self._forge,
            "ban": self._ban,
            "unban": self._unban,
            "forget": self._forget,
        }

    async def begin(self) -> None:
        """Send the first state; StoreError if a store cannot serve."""
        async with self._service() as auth:
            await auth.check()
        self._send({"type": "state", "state": await self._state()})

    async def act(self, action: object, device: object, policy: object, life: object) -> None:
        """Do what a button says.

        Raises:
            StoreError: a store could not answer when the state was read.
            ValueError: the page has no such button, or it is disabled.
        """
        async with self._turn:
            if not (
                isinstance(action, str)
                and isinstance(device, str)
                and self._is_enabled(action, device)
                and isinstance(policy, str)
                and policy in _POLICIES
                and isinstance(life, str)
                and life in _LIVES
            ):
                raise ValueError("The page has no such button, or it is disabled.")
            self._policy, self._life = policy, life
            await self._actions[action](device)

    def _is_enabled(self, action: str, device: str) -> bool:
        if device == "operator":
            return action in ("ban", "unban", "forget")
        if action == "login":
            return device in _KINDS
        if action == "copy":
            return device == "thief" and any(owner in self._held for owner in _KINDS)
        return action in ("call", "rotate", "logout", "forge") and device in self._held

    async def end(self) -> None:
        """Erase the user."""
        if self._expiry is not None:
            self._expiry.cancel()
        with self._stage.watch.paused(), suppress(MPAuthXError):  # the page is gone already
            async with self._service() as auth:
                await auth.forget_user(self._user_id, lift_ban=True)

    async def _log_in(self, device: str) -> None:
        self._begin(device, f"The {device} logs in")
        code = self._stage.wx.login(self._user_id)
        detail = "It works once, within five minutes. It says nothing to anybody but WeChat."
        self._step(Step(device, "wechat", "wx.login gets a code", detail, code))
        self._step(Step(device, "server", f"The {device} sends the code", "", "authorize(code)"))

        async def call(auth: MPAuthX) -> Step:
            result = await auth.authorize(code, device=device, device_kind=_KINDS[device])
            self._held[device] = result.token
            detail = "The device sends it with each request from now on."
            return Step("server", device, "Logged in: a token", detail, result.token)

        await self._perform(device, call)

    async def _call(self, device: str) -> None:
        token = self._held[device]
        self._begin(device, f"The {device} calls the server")
        await self._authenticate(device, token)

    async def _forge(self, device: str) -> None:
        token = self._held[device]
        letter = "B" if token[1] == "A" else "A"
        forged = token[0] + letter + token[2:]
        self._begin(device, f"The {device} pretends to be another user")
        detail = "One letter of the openId is changed, so the MAC no longer fits."
        self._step(Step(device, device, "The token is changed", detail, forged))
        await self._authenticate(device, forged)

    async def _authenticate(self, device: str, token: str) -> None:
        title = "A request with a token"
        self._step(Step(device, "server", title, "", "authenticate(token)"))

        async def call(auth: MPAuthX) -> Step:
            identity = await auth.authenticate(token)
            return Step(
                "server", device, "Welcome", "The token is good: it is this user.", identity.user_id
            )

        await self._perform(device, call)

    async def _rotate(self, device: str) -> None:
        token = self._held[device]
        self._begin(device, f"The {device} rotates its token")
        self._step(Step(device, "server", "A new token, please", "", "rotate(token)"))

        async def call(auth: MPAuthX) -> Step:
            result = await auth.rotate(token)
            self._held[device] = result.token
            detail = "The same session, the next generation."
            return Step("server", device, "Rotated: a new token", detail, result.token)

        await self._perform(device, call)

    async def _log_out(self, device: str) -> None:
        token = self._held[device]
        self._begin(device, f"The {device} logs out")
        self._step(Step(device, "server", "Log me out", "", "revoke(token)"))

        async def call(auth: MPAuthX) -> Step:
            ended = await auth.revoke(token)
            return Step("server", device, "Logged out" if ended else "It was logged out already")

        await self._perform(device, call)

    async def _copy(self, device: str) -> None:
        held = [owner for owner in _KINDS if owner in self._held]
        owner = next(
            (one for one in held if self._statuses.get(one) is TokenStatus.active), held[0]
        )
        self._begin(device, f"A thief copies the token of the {owner}")
        self._held[device] = self._held[owner]
        detail = "From a log, a backup or a proxy. The server cannot know yet."
        self._step(Step(device, owner, "The token is copied", detail, self._held[owner]))
        await self._end("The token is copied. The server cannot know yet.")

    async def _ban(self, device: str) -> None:
        self._begin(device, "The operator bans the user")
        self._step(Step(device, "server", "No more logins", "", f"ban(user_id, {_BAN_SECONDS})"))

        async def call(auth: MPAuthX) -> Step:
            await auth.ban(self._user_id, _BAN_SECONDS, _BAN_REASON)
            return Step("server", device, "Banned for five minutes", "Logins are refused with 403.")

        await self._perform(device, call)

    async def _unban(self, device: str) -> None:
        self._begin(device, "The operator lifts the ban")
        self._step(Step(device, "server", "Logins are welcome again", "", "unban(user_id)"))

        async def call(auth: MPAuthX) -> Step:
            await auth.unban(self._user_id)
            return Step("server", device, "The ban is lifted", "The user may log in again.")

        await self._perform(device, call)

    async def _forget(self, device: str) -> None:
        self._begin(device, "The operator forgets the user")
        self._step(Step(device, "server", "Erase this user", "", "forget_user(user_id)"))

        async def call(auth: MPAuthX) -> Step:
            was_known = await auth.forget_user(self._user_id)
            if not was_known:
                return Step("server", device, "There was nobody to forget")
            return Step("server", device, "Forgotten", "Row and sessions are gone; a ban stays.")

        await self._perform(device, call)

    async def _perform(self, device: str, call: _Call) -> None:
        """Make a call to the service, tell all that happens, and end with the new state."""
        try:
            # One for each call, because closing it waits until the listener has heard all.
            async with self._service() as auth:
                auth.subscribe(self._hear)
                try:
                    answer = await call(auth)
                finally:
                    await asyncio.sleep(0)  # tokens that need no trip are counted after the tick
        except MPAuthXError as error:
            answer = of_error(device, error)
        self._step(answer)
        summary = f"{answer.title}. {answer.detail}".strip()
        await self._end(summary, is_bad=answer.is_bad)

    async def _hear(self, event: Event) -> None:
        step = of_event(event)
        if step is None:
            return
        if isinstance(event, Replaced):
            own = self._held.get(str(event.by.device))
            if own is not None and nonce_of(own) == event.ref.nonce:
                step = replace(step, story=None)  # no second device
        self._step(step)

    def _begin(self, device: str, title: str) -> None:
        self._send({"type": "begin", "device": device, "title": title})

    def _step(self, step: Step) -> None:
        self._send({"type": "step", **asdict(step)})

    async def _end(self, summary: str, *, is_bad: bool = False) -> None:
        state = await self._state()
        self._send({"type": "end", "summary": summary, "is_bad": is_bad, "state": state})

    def _service(self) -> MPAuthX:
        return self._stage.service(_POLICIES[self._policy], _LIVES[self._life])

    async def _state(self) -> Message:
        """Read the state without using a token, and wait for the next expiry."""
        with self._stage.watch.paused():
            async with self._service() as auth:
                statuses = {
                    holder: await auth.token_status(token) for holder, token in self._held.items()
                }
                sessions = await auth.sessions(self._user_id)
                ban = await auth.ban_of(self._user_id)
            (user,) = await self._stage.users.get([self._user_id])
        self._statuses = statuses
        by_id = {session.id: session for session in sessions}
        tokens = {
            holder: describe_token(
                token,
                statuses[holder],
                by_id.get(nonce_of(token)) if statuses[holder] is TokenStatus.active else None,
            )
            for holder, token in self._held.items()
        }
        described = describe_sessions(sessions)
        self._await_expiry([session["expires_in"] / 1000 for session in described])
        return {
            "user": describe_user(user),
            "sessions": described,
            "ban": describe_ban(ban),
            "tokens": tokens,
        }

    def _await_expiry(self, lives: list[float]) -> None:
        """Look again when the first session expires; lives are in seconds."""
        if self._expiry is not None and self._expiry is not asyncio.current_task():
            self._expiry.cancel()
        self._expiry = None
        if lives:
            self._expiry = asyncio.create_task(self._look_later(max(min(lives), _SHORTEST_WAIT)))

    async def _look_later(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        async with self._turn:
            before = self._statuses
            with suppress(MPAuthXError):  # the next action tells that a store does not answer
                state = await self._state()
                expired = [
                    holder
                    for holder, status in self._statuses.items()
                    if status is TokenStatus.unknown and before.get(holder) is TokenStatus.active
                ]
                self._tell_expiry(expired, state)

    def _tell_expiry(self, expired: list[str], state: Message) -> None:
        if not expired:
            self._send({"type": "state", "state": state})
            return
        title = f"The token of the {' and the '.join(expired)} expires"
        self._begin(expired[0], title)
        detail = "Nobody did anything: its life is over, and the store has dropped the session."
        for holder in expired:
            self._step(Step("tokens", holder, "The token has expired", detail, story="expiry"))
        self._send({"type": "end", "summary": f"{title}.", "is_bad": True, "state": state})


@asynccontextmanager
async def open_tab(world: World, send: Callable[[Message], None]) -> AsyncIterator[Tab]:
    """Open a tab; at the end its user is erased."""
    tab: Tab
    async with open_stage(world, lambda trip: tab._step(of_trip(trip))) as stage:
        tab = Tab(stage, send)
        with stage.watch.paused():
            await tab.begin()
        try:
            yield tab
        finally:
            await tab.end()
